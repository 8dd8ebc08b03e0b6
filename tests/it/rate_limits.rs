//! `limit` of a route: who is over it gets 429 and is told when to come again.

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
    assert!(admitted(&proxy, 3, "") <= 2);
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
