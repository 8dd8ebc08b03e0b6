//! `fallback`: instead of our own 502, 503 and 504, and of nothing else.

use super::support::{Origin, Proxy, app};

const KEEP: &str = "[upstream.app.breaker]\nmode = \"off\"\n\
                    [upstream.app.retry]\nattempts = 0\n";

/// `app` over one origin, with a route that falls back.
fn with_fallback(origin: &Origin, fallback: &str, more: &str) -> String {
    app(&[origin], KEEP) + "fallback = { " + fallback + " }\n" + more
}

fn spare(origin: &Origin) -> String {
    format!("[upstream.spare]\nservers = [\"{}\"]\n", origin.address())
}

#[test]
fn a_fixed_answer_stands_for_our_own_502_503_and_504() {
    let refusing = Origin::good("never");
    refusing.stop();
    let draining = Origin::good("never");
    let cases = [
        (&refusing, "connect_refused"),
        (&Origin::stalling(), "response_timeout"),
        (&Origin::resetting(), "upstream_reset"),
        (&Origin::answering("nonsense\r\n\r\n"), "bad_response"),
        (&draining, "no_server"),
    ];
    for (origin, reason) in cases {
        let fixed = with_fallback(origin, "status = 503, body = \"back soon\"", "");
        let impatient = match reason {
            "response_timeout" => "timeout = { first-byte = \"150ms\" }\n",
            _ => "",
        };
        let proxy = Proxy::start(&(fixed + impatient));
        if reason == "no_server" {
            proxy.put_server(origin, r#"{"drain": true}"#);
        }
        let answer = proxy.get("/");
        assert_eq!(
            (answer.status, &*answer.text()),
            (503, "back soon"),
            "{reason}"
        );
        assert_eq!(answer.evenkeel_reason(), Some(reason));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn its_status_may_be_any() {
    let origin = Origin::resetting();
    let fixed = with_fallback(&origin, "status = 200, body = \"[]\"", "");
    let answer = Proxy::start(&fixed).get("/");
    assert_eq!((answer.status, &*answer.text()), (200, "[]"));
}

#[test]
fn a_status_without_a_body_keeps_the_connection_and_counts_no_bytes() {
    let origin = Origin::resetting();
    for status in [204, 205, 304] {
        let fixed = with_fallback(&origin, &format!("status = {status}, body = \"never\""), "");
        let proxy = Proxy::start(&fixed);
        let mut client = proxy.client();
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!((answer.status, &*answer.text()), (status, ""));
        }
        let route = "evenkeel_response_bytes_total{route=\"/\"} 0";
        assert!(proxy.metrics().contains(route), "{status}");
    }
}

#[test]
fn an_answer_of_the_server_passes() {
    let bad = "HTTP/1.1 503 No\r\nContent-Length: 6\r\n\r\nserver";
    let origin = Origin::answering(bad);
    let fixed = with_fallback(&origin, "status = 200, body = \"back soon\"", "");
    let answer = Proxy::start(&fixed).get("/");
    assert_eq!((answer.status, &*answer.text()), (503, "server"));
}

#[test]
fn a_4xx_stays_so() {
    let origin = Origin::good("good");
    let fixed = with_fallback(
        &origin,
        "status = 503, body = \"back soon\"",
        "max-body = \"4B\"\n",
    );
    let proxy = Proxy::start(&fixed.replace("prefix = \"/\"", "prefix = \"/only\""));
    let answer = proxy.client().post("/only", b"too long");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (413, Some("body_too_large"))
    );
    let answer = proxy.get("/elsewhere");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (404, Some("no_route"))
    );
    let answer = proxy.get("/only/%00");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (400, Some("bad_request"))
    );
}

#[test]
fn an_upstream_answers_instead_once_with_the_whole_request() {
    let (bad, good) = (Origin::resetting(), Origin::good("spare"));
    let config = with_fallback(&bad, "upstream = \"spare\"", &spare(&good));
    let proxy = Proxy::start(&config);
    let answer = proxy.client().post("/order?x=1", b"two eggs");
    assert_eq!((answer.status, &*answer.text()), (200, "spare"));
    let request = good.last();
    assert_eq!(
        (request.target(), &*request.body),
        ("/order?x=1".into(), &b"two eggs"[..])
    );
    assert_eq!(good.request_count(), 1);
}

#[test]
fn a_request_that_cannot_be_replayed_gets_the_fixed_answer() {
    let (bad, good) = (Origin::resetting(), Origin::good("spare"));
    let fallback = "status = 503, body = \"back soon\", upstream = \"spare\"";
    let config = with_fallback(&bad, fallback, &spare(&good))
        .replace("attempts = 0", "attempts = 0\nmax-replay-body = \"4B\"");
    let proxy = Proxy::start(&config);
    let answer = proxy.client().post("/", b"too long");
    assert_eq!((answer.status, &*answer.text()), (503, "back soon"));
    assert_eq!(good.request_count(), 0);
}

#[test]
fn an_upstream_that_fails_too_is_asked_once_and_the_fixed_answer_given() {
    let (bad, worse) = (Origin::resetting(), Origin::resetting());
    let more = Origin::good("never asked");
    let fallback = "status = 503, body = \"back soon\", upstream = \"spare\"";
    let servers = format!(
        "[upstream.spare]\nservers = [\"{}\", \"{}\"]\n",
        worse.address(),
        more.address()
    );
    let proxy = Proxy::start(&with_fallback(&bad, fallback, &servers));
    let answer = proxy.get("/");
    assert_eq!((answer.status, &*answer.text()), (503, "back soon"));
    assert_eq!((worse.request_count(), more.request_count()), (1, 0));
}

#[test]
fn an_answer_of_the_fallbacks_server_passes_whatever_it_is() {
    let bad = Origin::resetting();
    let other = Origin::answering("HTTP/1.1 404 No\r\nContent-Length: 6\r\n\r\nserver");
    let config = with_fallback(&bad, "upstream = \"spare\"", &spare(&other));
    let answer = Proxy::start(&config).get("/");
    assert_eq!((answer.status, &*answer.text()), (404, "server"));
}

#[test]
fn head_gets_no_body_and_the_connection_goes_on() {
    let origin = Origin::resetting();
    let fixed = with_fallback(&origin, "status = 503, body = \"back soon\"", "");
    let proxy = Proxy::start(&fixed);
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.request("HEAD", "/", "");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("content-length"), Some("9"));
    }
}
