//! `limit` of a route: who is over it gets 429 and is told when to come again.

use std::time::Instant;

use super::support::h2::{H2, block_on};
use super::support::{Origin, Proxy, Response, eventually};

fn limited(origin: &Origin, limit: &str) -> String {
    let address = origin.address();
    format!(
        r#"
        [[listener]]
        name = "web"
        address = "127.0.0.1:0"
        trusted-proxies = ["127.0.0.0/8"]
        [upstream.app]
        servers = ["{address}"]
        [[route]]
        name = "limited"
        prefix = "/"
        upstream = "app"
        limit = {limit}
        fallback = {{ status = 503 }}
        [[route]]
        name = "free"
        prefix = "/free"
        upstream = "app"
        "#
    )
}

fn ask(proxy: &Proxy, target: &str, headers: &str) -> Response {
    proxy.client().request("GET", target, headers)
}

/// How many of so many in a row are admitted.
fn admitted(proxy: &Proxy, requests: usize, headers: &str) -> usize {
    let mut client = proxy.client();
    (0..requests)
        .filter(|_| client.request("GET", "/", headers).status == 200)
        .count()
}

#[test]
fn a_burst_passes_and_the_rest_is_told_when_to_come_again() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&limited(&origin, r#"{ rate = "1/h", burst = 5 }"#));
    assert_eq!(admitted(&proxy, 20, ""), 5);
    let refused = ask(&proxy, "/", "");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.evenkeel_reason(), Some("rate_limited"));
    let seconds = |name: &str| -> u64 {
        let value = refused.header(name).expect(name);
        value.parse().expect("seconds")
    };
    assert!((3590..=3600).contains(&seconds("retry-after")));
    assert_eq!(refused.header("ratelimit-limit"), Some("5"));
    assert_eq!(refused.header("ratelimit-remaining"), Some("0"));
    assert!((4 * 3600..=5 * 3600).contains(&seconds("ratelimit-reset")));
    assert_eq!(
        origin.request_count(),
        5,
        "what is refused reaches no server"
    );
    assert_eq!(ask(&proxy, "/free", "").status, 200, "of this route alone");
    let series = r#"evenkeel_rate_limited_total{route="limited"}"#;
    assert_eq!(proxy.metric(series), Some(16.0));
    let series = r#"evenkeel_rejected_total{reason="rate_limited"}"#;
    assert_eq!(proxy.metric(series), Some(16.0));
}

#[test]
fn the_rate_goes_on_after_the_burst() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&limited(&origin, r#"{ rate = "20/s", burst = 1 }"#));
    let start = Instant::now();
    let admitted_then = admitted(&proxy, 3, "") as u128;
    // One, and another for each 50 ms that asking took.
    let most = 2 + start.elapsed().as_millis() / 50;
    assert!(admitted_then <= most, "{admitted_then}, not {most}");
    eventually("a place is free again", || admitted(&proxy, 1, "") == 1);
}

#[test]
fn clients_are_told_apart_by_the_address_that_everything_uses() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&limited(&origin, r#"{ rate = "1/h", burst = 2 }"#));
    let by = |client: &str| admitted(&proxy, 3, &format!("X-Forwarded-For: {client}\r\n"));
    assert_eq!(by("192.0.2.1"), 2);
    assert_eq!(by("192.0.2.2"), 2);
    assert_eq!(by("192.0.2.1"), 0);
    assert_eq!(by("::ffff:192.0.2.1"), 0, "another spelling of the same");
    assert_eq!(
        by("198.51.100.9, 192.0.2.1"),
        0,
        "what stands before it is hearsay"
    );
    assert_eq!(by("2001:db8:0:1::1"), 2);
    assert_eq!(
        by("2001:db8:0:1:ffff::2"),
        0,
        "a customer's network is one client"
    );
    assert_eq!(by("2001:db8:0:2::1"), 2);
}

#[test]
fn other_keys() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&limited(
        &origin,
        r#"{ rate = "1/h", burst = 2, by = "header:x-key" }"#,
    ));
    assert_eq!(admitted(&proxy, 3, "X-Key: a\r\n"), 2);
    assert_eq!(admitted(&proxy, 3, "x-key: b\r\n"), 2);
    assert_eq!(
        admitted(&proxy, 3, ""),
        2,
        "without it by the client's address"
    );
    assert_eq!(admitted(&proxy, 3, "X-KEY: a\r\n"), 0);
    let proxy = Proxy::start(&limited(
        &origin,
        r#"{ rate = "1/h", burst = 2, by = "route" }"#,
    ));
    assert_eq!(admitted(&proxy, 3, "X-Forwarded-For: 192.0.2.1\r\n"), 2);
    assert_eq!(admitted(&proxy, 3, "X-Forwarded-For: 192.0.2.2\r\n"), 0);
}

#[test]
fn a_reload_forgets_nothing_and_changes_the_pace() {
    let origin = Origin::good("ok");
    let config = limited(&origin, r#"{ rate = "1/h", burst = 3 }"#);
    let proxy = Proxy::start(&config);
    assert_eq!(admitted(&proxy, 5, ""), 3);
    proxy.reconfigure(&format!("# a comment\n{config}"));
    assert_eq!(admitted(&proxy, 5, ""), 0);
    proxy.reconfigure(&config.replace("prefix = \"/free\"", "prefix = \"/freed\""));
    assert_eq!(admitted(&proxy, 5, ""), 0);
    proxy.reconfigure(&config.replace("burst = 3", "burst = 5"));
    assert_eq!(admitted(&proxy, 5, ""), 2, "what was used counts");
    proxy.reconfigure(&config.replace("1/h", "100/s"));
    eventually("the faster pace counts at once", || {
        admitted(&proxy, 1, "") == 1
    });
}

#[test]
fn a_call_of_grpc_is_refused_in_its_own_words() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&limited(&origin, r#"{ rate = "1/h", burst = 1 }"#));
    assert_eq!(admitted(&proxy, 1, ""), 1);
    let answer = ask(&proxy, "/", "Content-Type: application/grpc\r\n");
    assert_eq!(
        (answer.status, answer.header("grpc-status")),
        (200, Some("14"))
    );
    assert_eq!(answer.evenkeel_reason(), Some("rate_limited"));
}

#[test]
fn a_key_has_one_limit_however_its_header_is_written() {
    let origin = Origin::good("ok");
    let limit = r#"{ rate = "1/h", burst = 2, by = "header:x-key" }"#;
    let proxy = Proxy::start(&limited(&origin, limit));
    assert_eq!(admitted(&proxy, 3, "X-Key: k\r\n"), 2);
    for spelling in [
        "x-key: k\r\n",
        "X-KEY:k\r\n",
        "X-Key: \t k \t\r\n",
        "X-Key: other\r\nX-Key: k\r\n",
        "X-Key: k\r\nX-Key: another\r\n",
        "X-Key:\r\nX-Key: k\r\n",
        "X_Key: third\r\nX-Key: k\r\n",
        "Connection: x-key\r\nX-Key: k\r\n",
        "X-Forwarded-For: 192.0.2.9\r\nX-Key: k\r\n",
    ] {
        assert_eq!(admitted(&proxy, 1, spelling), 0, "{spelling}");
    }
    // As good as none: by the address, all of them together.
    assert_eq!(admitted(&proxy, 2, "X-Key:\r\n"), 2);
    for none in ["", "X-Key: \t\r\n", "X_Key: fourth\r\n", "X-Key-: k\r\n"] {
        assert_eq!(admitted(&proxy, 1, none), 0, "{none}");
    }
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("GET", "/").header("x-key", "fresh");
        let request = request.header("x-key", "k").body(()).expect("a request");
        let (answer, _) = client.send(request, true).await;
        assert_eq!(answer.await.expect("an answer").status(), 429);
    });
    assert_eq!(origin.request_count(), 4);
}

#[test]
fn credentials_are_the_same_in_every_spelling_of_their_scheme() {
    let origin = Origin::good("ok");
    let limit = r#"{ rate = "1/h", burst = 1, by = "header:authorization" }"#;
    let proxy = Proxy::start(&limited(&origin, limit));
    assert_eq!(admitted(&proxy, 2, "Authorization: Bearer Abc\r\n"), 1);
    for same in ["bearer Abc", "BEARER Abc", "Bearer   Abc", "bEARER \tAbc"] {
        let header = format!("Authorization: {same}\r\n");
        assert_eq!(admitted(&proxy, 1, &header), 0, "{same}");
    }
    for other in ["Bearer abc", "Basic Abc", "BearerAbc"] {
        let header = format!("Authorization: {other}\r\n");
        assert_eq!(admitted(&proxy, 1, &header), 1, "{other}");
    }
}

#[test]
fn a_client_has_one_limit_however_address_path_and_host_are_written() {
    let origin = Origin::good("ok");
    let text = limited(&origin, r#"{ rate = "1/h", burst = 1 }"#).replace(
        "prefix = \"/\"",
        "host = \"a.example\"\nprefix = \"/login\"",
    );
    let other = "[[route]]\nhost = \"a.example\"\nprefix = \"/\"\nupstream = \"app\"\n";
    let text = format!("{text}{other}");
    let proxy = Proxy::start(&text);
    let ask = |target: &str, host: &str, client: &str| {
        let mut connection = proxy.client();
        connection.send(format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}\r\n\r\n"
        ));
        connection.response().status
    };
    assert_eq!(ask("/login", "a.example", "192.0.2.1"), 200);
    assert_eq!(ask("/login", "a.example", "2001:db8:0:1::1"), 200);
    for client in [
        "192.0.2.1",
        "192.0.2.1:4711",
        "::ffff:192.0.2.1",
        "::FFFF:C000:201",
        "[::ffff:192.0.2.1]:80",
        "203.0.113.5, 192.0.2.1",
        "2001:db8:0:1:ffff::9",
        "2001:DB8:0000:0001:0::2",
        "[2001:db8:0:1::3]",
        "2001:db8:0:1::3%eth0",
    ] {
        assert_eq!(ask("/login", "a.example", client), 429, "{client}");
    }
    for target in [
        "/login/",
        "/%6cogin",
        "//login",
        "/x/../login",
        "/./login?x",
        "http://A.EXAMPLE./login",
    ] {
        assert_eq!(ask(target, "A.example.:80", "192.0.2.1"), 429, "{target}");
    }
    assert_eq!(ask("http://a.example/login", "b.example", "192.0.2.1"), 429);
    // Where they had a route of their own, these would not be counted otherwise.
    for target in ["/login%2F", "/login;x", "/login%3Bx"] {
        assert_eq!(ask(target, "a.example", "192.0.2.1"), 429, "{target}");
    }
}
