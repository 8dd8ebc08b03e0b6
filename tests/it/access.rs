//! `allow` and `deny`: by the client address, and by no other spelling of anything.

use super::support::{Origin, Proxy, Response, app, raw};

/// Everything from loopback is believed to be a proxy; `/admin` is for one network.
fn guarded(origin: &Origin, trusted: &str) -> String {
    let address = origin.address();
    format!(
        r#"
        [[listener]]
        name = "web"
        address = "127.0.0.1:0"
        trusted-proxies = [{trusted}]
        [upstream.app]
        servers = ["{address}"]
        [[route]]
        prefix = "/"
        upstream = "app"
        [[route]]
        prefix = "/admin"
        upstream = "app"
        allow = ["192.0.2.0/24", "2001:db8::/32"]
        deny = ["192.0.2.66/32"]
        fallback = {{ status = 503 }}
        "#
    )
}

fn ask(proxy: &Proxy, target: &str, headers: &str) -> Response {
    proxy.client().request("GET", target, headers)
}

#[test]
fn the_client_address_decides() {
    let origin = Origin::good("secret");
    let proxy = Proxy::start(&guarded(&origin, "\"127.0.0.0/8\""));
    for (client, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.66", 403),
        ("198.51.100.1", 403),
        ("2001:db8::1", 200),
        ("2001:db9::1", 403),
        ("::ffff:192.0.2.1", 200),
        ("::ffff:192.0.2.66", 403),
        ("::ffff:c000:242", 403),
        ("10.0.0.1, 192.0.2.1", 200),
        ("192.0.2.1, 10.0.0.1", 403),
    ] {
        let answer = ask(
            &proxy,
            "/admin/x",
            &format!("X-Forwarded-For: {client}\r\n"),
        );
        assert_eq!(answer.status, status, "{client}");
        if status == 403 {
            assert_eq!(
                answer.evenkeel_reason(),
                Some("denied"),
                "no fallback stands for it"
            );
        }
    }
    assert_eq!(
        ask(&proxy, "/admin", "").status,
        403,
        "the proxy itself is a client too"
    );
    let rejected = r#"evenkeel_rejected_total{reason="denied"}"#;
    assert_eq!(proxy.metric(rejected), Some(7.0));
    assert_eq!(
        origin.request_count(),
        4,
        "what is denied reaches no server"
    );
}

#[test]
fn a_stranger_cannot_say_who_he_is() {
    let origin = Origin::good("secret");
    let proxy = Proxy::start(&guarded(&origin, ""));
    for headers in [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Real-IP: 192.0.2.1\r\n",
        "Forwarded: for=192.0.2.1\r\n",
        "X_Forwarded_For: 192.0.2.1\r\n",
        "Client-IP: 192.0.2.1\r\n",
        "True-Client-IP: 192.0.2.1\r\n",
    ] {
        assert_eq!(ask(&proxy, "/admin", headers).status, 403, "{headers}");
    }
    assert_eq!(origin.request_count(), 0);
}

/// What a chain of proxies says, read from its right end and no other way.
#[test]
fn no_chain_of_addresses_can_be_forged() {
    let origin = Origin::good("secret");
    let proxy = Proxy::start(&guarded(&origin, "\"127.0.0.0/8\", \"10.0.0.0/8\""));
    let xff = |values: &[&str]| -> String {
        let lines = values.iter();
        lines
            .map(|value| format!("X-Forwarded-For: {value}\r\n"))
            .collect()
    };
    let forwarded = |value: &str| format!("Forwarded: {value}\r\n");
    let cases = [
        (xff(&["192.0.2.1", "198.51.100.1"]), 403),
        (xff(&["198.51.100.1", "192.0.2.1"]), 200),
        (xff(&["192.0.2.1", "10.0.0.1", "10.0.0.2, 10.0.0.3"]), 200),
        (xff(&["192.0.2.1, 198.51.100.1", "10.0.0.1"]), 403),
        (xff(&["192.0.2.1,, 198.51.100.1,"]), 403),
        (xff(&["192.0.2.1:4711"]), 200),
        (xff(&["192.0.2.66:4711"]), 403),
        (xff(&["[2001:db8::1]:443"]), 200),
        (xff(&["2001:DB8:0:0::1"]), 200),
        (xff(&["2001:db8::1%eth0"]), 200),
        (xff(&["fe80::1%eth0"]), 403),
        (xff(&["0:0:0:0:0:ffff:c000:0242"]), 403),
        (xff(&["[::ffff:192.0.2.66]:1"]), 403),
        (xff(&["::ffff:192.0.2.66%1"]), 403),
        (xff(&["::192.0.2.1"]), 403),
        // What is no address says nothing, and nothing before it is believed.
        (xff(&["192.0.2.1, unknown"]), 403),
        (xff(&["192.0.2.1, 10.0.0.256"]), 403),
        (xff(&["192.0.2.1, [::1"]), 403),
        (xff(&["192.0.2.1:99999"]), 403),
        (xff(&["192.0.2.001"]), 403),
        (xff(&["3221225985"]), 403),
        (xff(&["0xc0.0.2.1"]), 403),
        (xff(&["192.0.2.1."]), 403),
        (xff(&["2001:db8::1%"]), 403),
        (xff(&["192.0.2.1/24"]), 403),
        (xff(&["\u{0661}92.0.2.1"]), 403),
        (xff(&["198.51.100.1"]) + &forwarded("for=192.0.2.1"), 403),
        (forwarded("for=192.0.2.1") + &xff(&[""]), 403),
        (
            xff(&["198.51.100.1"]) + "X_Forwarded_For: 192.0.2.1\r\n",
            403,
        ),
        (
            xff(&["198.51.100.1"]) + "Connection: X-Forwarded-For\r\n",
            403,
        ),
        (forwarded("for=192.0.2.1"), 200),
        (forwarded("For=\"192.0.2.1:4711\";proto=http"), 200),
        (forwarded("proto=http;FOR=\"[2001:db8::1]:_x\""), 200),
        (forwarded("for=192.0.2.1, for=10.0.0.1"), 200),
        (forwarded("for=192.0.2.1, for=198.51.100.1"), 403),
        (forwarded("for=192.0.2.1, for=unknown"), 403),
        (forwarded("for=192.0.2.1, for=_hidden"), 403),
        (forwarded("for=192.0.2.1;for=192.0.2.66"), 403),
        (forwarded("by=192.0.2.1"), 403),
        (forwarded("host=\"a, for=192.0.2.1\""), 403),
        (forwarded("for=\"192.0.2.1"), 403),
        (forwarded("for=192.0.2.1\""), 403),
        (forwarded("x-for=192.0.2.1"), 403),
        (forwarded("for=\"[::ffff:192.0.2.66]\""), 403),
    ];
    for (headers, status) in &cases {
        let answer = ask(&proxy, "/admin", headers);
        assert_eq!(answer.status, *status, "{headers}");
    }
}

#[test]
fn networks_of_mapped_addresses_are_networks_of_ipv4() {
    let origin = Origin::good("secret");
    let text = guarded(&origin, "\"::ffff:127.0.0.0/104\"")
        .replace("\"192.0.2.0/24\"", "\"::ffff:192.0.2.0/120\"")
        .replace("\"192.0.2.66/32\"", "\"::FFFF:192.0.2.66\"");
    let proxy = Proxy::start(&text);
    for (client, status) in [
        ("192.0.2.1", 200),
        ("::ffff:192.0.2.1", 200),
        ("192.0.2.66", 403),
        ("::ffff:192.0.2.66", 403),
        ("198.51.100.1", 403),
    ] {
        let headers = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(ask(&proxy, "/admin", &headers).status, status, "{client}");
    }
}

/// In HTTP/2 a host has two places to stand in, and a target three.
#[test]
fn over_http2_no_second_host_passes_a_rule() {
    let origin = Origin::good("secret");
    let address = origin.address();
    let proxy = Proxy::start(&format!(
        r#"
        [upstream.app]
        servers = ["{address}"]
        [[route]]
        prefix = "/"
        upstream = "app"
        [[route]]
        host = "admin.example"
        prefix = "/"
        upstream = "app"
        deny = ["127.0.0.1"]
        "#
    ));
    let refused = [
        ("admin.example", "/", &[][..]),
        ("ADMIN.example.:80", "/", &[]),
        ("open.example", "/", &[("host", "admin.example")]),
        ("admin.example", "/", &[("host", "open.example")]),
        (
            "open.example",
            "/",
            &[("host", "open.example"), ("host", "admin.example")],
        ),
        ("u@admin.example", "/", &[]),
        ("admin.example/", "/", &[]),
        ("open.example", "//admin.example/../../x", &[]),
        ("open.example", "http://admin.example/", &[]),
        ("open.example", "admin", &[]),
    ];
    for (authority, path, more) in refused {
        let mut client = raw::Raw::connect(proxy.address());
        let start = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
        ];
        client.send(raw::head(
            1,
            raw::END_STREAM | raw::END_HEADERS,
            &start,
            more,
        ));
        let frame = client.until(|frame| frame.stream == 1 || frame.kind == raw::GOAWAY);
        let status = frame.map_or(0, |frame| match frame.kind {
            raw::HEADERS => frame.status(),
            _ => 0,
        });
        assert!(
            matches!(status, 0 | 400 | 403),
            "{authority} {path}: {status}"
        );
    }
    assert_eq!(origin.request_count(), 0, "nothing of it went on");
}

/// By the contract these are other paths than `/admin`, and they go on as they came; a server that
/// decodes them or cuts parameters off sees `/admin`.
#[test]
fn what_a_server_may_read_as_a_denied_path_is_denied() {
    let origin = Origin::good("secret");
    let proxy = Proxy::start(&guarded(&origin, "\"127.0.0.0/8\""));
    for target in [
        "/admin%2F",
        "/admin%2fx",
        "/%2Fadmin",
        "/admin;v=1",
        "/admin;/x",
        "/;x/admin",
        "/admin%3Bx/y",
        "/%61dmin%2Fx?y",
        "/x%2F/admin/../..%2fadmin",
    ] {
        let answer = ask(&proxy, target, "X-Forwarded-For: 198.51.100.1\r\n");
        assert!(
            matches!(answer.status, 400 | 403),
            "{target}: {}",
            answer.status
        );
    }
    assert_eq!(origin.request_count(), 0);
    for target in ["/admin%2Fx", "/admin;v=1"] {
        let answer = ask(&proxy, target, "X-Forwarded-For: 192.0.2.1\r\n");
        assert_eq!(answer.status, 200, "{target}: an admitted client may");
    }
    for target in ["/a%2Fdmin", "/administer;x", "/b%2Fadmin", "/admin%252Fx"] {
        let answer = ask(&proxy, target, "X-Forwarded-For: 198.51.100.1\r\n");
        assert_eq!(answer.status, 200, "{target}: nobody's");
    }
}

#[test]
fn a_path_spelled_otherwise_is_the_same_path() {
    let origin = Origin::good("secret");
    let proxy = Proxy::start(&guarded(&origin, ""));
    for target in [
        "/admin",
        "/admin/",
        "/%61dmin",
        "//admin",
        "/x/../admin",
        "/./admin/./x",
        "/x/%2e%2e/admin",
        "/%2e/admin",
        "http://any/admin",
        "/admin?x=/public",
        "/admin/..;/admin",
        "/%41dmin/../admin",
    ] {
        let answer = ask(&proxy, target, "");
        assert!(
            matches!(answer.status, 400 | 403),
            "{target}: {}",
            answer.status
        );
    }
    assert_eq!(origin.request_count(), 0);
    assert_eq!(proxy.get("/administer").status, 200, "another segment");
}

#[test]
fn a_reload_changes_who_may_ask() {
    let origin = Origin::good("open");
    let config = app(&[&origin], "");
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.get("/").status, 200);
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").status, 200);
    proxy
        .reconfigure(&config.replace("prefix = \"/\"", "prefix = \"/\"\ndeny = [\"127.0.0.0/8\"]"));
    assert_eq!(kept.get("/").status, 403, "with the next request");
}
