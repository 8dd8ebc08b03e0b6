//! Panic: when failed checks are ignored, and what still holds then.

use super::support::{Origin, Proxy, app_with, count, eventually};

/// Fails every check, and serves nevertheless.
fn sick(name: &'static str) -> Origin {
    Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let check = request.target() == "/healthz";
            let status = if check { "500 No" } else { "200 OK" };
            let length = name.len();
            connection.send(format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}"
            ));
        }
    })
}

fn config(servers: &[(&Origin, &str)], threshold: &str) -> String {
    let checks = "[upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n";
    let more = format!("slow-start = \"off\"\npanic-threshold = \"{threshold}\"\n{checks}");
    app_with(servers, &more)
}

fn panics(proxy: &Proxy) -> bool {
    proxy.metric("evenkeel_upstream_panic{upstream=\"app\"}") == Some(1.0)
}

/// Waits until every server has a verdict.
fn judged(proxy: &Proxy, servers: &[&Origin]) {
    eventually("every server was checked", || {
        servers.iter().all(|origin| {
            let status = proxy.server_status(origin);
            status["health"]["seconds_since_check"].is_number()
        })
    });
}

#[test]
fn with_none_left_failed_checks_are_ignored() {
    let (a, b) = (sick("a"), sick("b"));
    let proxy = Proxy::start(&config(&[(&a, "1"), (&b, "1")], "0%"));
    judged(&proxy, &[&a, &b]);
    eventually("it panics", || panics(&proxy));
    let bodies = proxy.bodies(20);
    assert_eq!([count(&bodies, "a"), count(&bodies, "b")], [10, 10]);
    assert_eq!(proxy.app_status()["panic"], true);
}

#[test]
fn off_never_panics() {
    let (a, b) = (sick("a"), sick("b"));
    let proxy = Proxy::start(&config(&[(&a, "1"), (&b, "1")], "off"));
    judged(&proxy, &[&a, &b]);
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (503, Some("no_server"))
    );
    assert!(answer.header("retry-after").is_some());
    assert!(!panics(&proxy));
}

#[test]
fn zero_does_not_panic_while_one_is_healthy() {
    let (a, b) = (sick("a"), Origin::good("b"));
    let proxy = Proxy::start(&config(&[(&a, "1"), (&b, "1")], "0%"));
    judged(&proxy, &[&a, &b]);
    assert!(!panics(&proxy));
    assert_eq!(proxy.bodies(10), "b".repeat(10));
}

#[test]
fn a_share_at_the_threshold_panics_at_once() {
    let (a, b) = (sick("a"), Origin::good("b"));
    let proxy = Proxy::start(&config(&[(&a, "1"), (&b, "1")], "50%"));
    judged(&proxy, &[&a, &b]);
    eventually("it panics", || panics(&proxy));
    assert_eq!(count(&proxy.bodies(20), "a"), 10);
}

#[test]
fn a_healthy_backup_comes_first() {
    let (a, b) = (sick("a"), Origin::good("b"));
    let proxy = Proxy::start(&config(&[(&a, "1"), (&b, "{ backup = true }")], "0%"));
    judged(&proxy, &[&a, &b]);
    assert!(!panics(&proxy));
    assert_eq!(proxy.bodies(6), "b".repeat(6));
}

#[test]
fn draining_weight_0_and_open_breakers_still_hold() {
    let (a, b, c) = (sick("a"), sick("b"), sick("c"));
    let broken = Origin::answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let servers = [
        (&a, "1"),
        (&b, "0"),
        (&c, "{ drain = true }"),
        (&broken, "1"),
    ];
    let proxy = Proxy::start(&config(&servers, "0%"));
    judged(&proxy, &[&a, &broken]);
    eventually("it panics", || panics(&proxy));
    eventually("the breaker opens", || {
        proxy.get("/");
        proxy.breaker_state(&broken) == "open"
    });
    let before = broken.request_count();
    assert_eq!(proxy.bodies(10), "a".repeat(10));
    let checks = |request: &super::support::Received| request.target() == "/healthz";
    let asked = broken.requests().split_off(before);
    assert!(asked.iter().all(checks), "no traffic");
}
