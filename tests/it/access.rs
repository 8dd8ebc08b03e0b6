//! `allow` and `deny`: by the client address, and by no other spelling of anything.

use super::support::{Origin, Proxy, Response, app};

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
