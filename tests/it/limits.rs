//! `[listener.limits]`: what a connection may ask, how long it may take, and how it is told.

use std::time::{Duration, Instant};

use super::support::raw::{GOAWAY, NO_ERROR, Raw, get};
use super::support::{Client, Origin, Proxy, eventually};

fn start(origin: &Origin, limits: &str) -> Proxy {
    Proxy::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nlimits = {{ {limits} }}\n\
         [upstream.app]\nservers = [\"{}\"]\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        origin.address()
    ))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// Timeouts of the listener are kept to within a second.
#[track_caller]
/// `start` is before whatever the time runs from: this thread may be late to hear of that.
fn closes_silently(client: &mut Client, start: Instant, after: Duration) {
    let rest = client.rest();
    assert!(rest.is_empty(), "not a word: {}", rest.escape_ascii());
    let took = start.elapsed();
    assert!(took >= after, "too early: {took:?}");
    assert!(took < after + Duration::from_secs(2), "too late: {took:?}");
}

#[test]
fn connection_that_sends_nothing_is_closed_without_a_word_and_counted() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "header-timeout = \"400ms\", idle-timeout = \"5s\"");
    let start = Instant::now();
    closes_silently(&mut proxy.client(), start, Duration::from_millis(400));
    let series = "evenkeel_rejected_total{reason=\"request_timeout\"}";
    eventually("it is counted", || proxy.metric(series) == Some(1.0));
}

#[test]
fn connection_between_two_requests_is_closed_without_a_word() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "header-timeout = \"5s\", idle-timeout = \"400ms\"");
    let mut client = proxy.client();
    let mut start = Instant::now();
    for _ in 0..3 {
        start = Instant::now();
        client.send(GET);
        assert_eq!(client.response().status, 200);
    }
    closes_silently(&mut client, start, Duration::from_millis(400));
    let series = "evenkeel_rejected_total{reason=\"request_timeout\"}";
    assert_eq!(proxy.metric(series), Some(0.0), "nobody was refused");
}

#[test]
fn empty_line_between_two_requests_is_not_a_byte_of_one() {
    let origin = Origin::good("ok");
    let proxy = start(
        &origin,
        "header-timeout = \"300ms\", idle-timeout = \"900ms\"",
    );
    for line in ["\r\n", "\r"] {
        let mut client = proxy.client();
        let start = Instant::now();
        client.send(GET);
        assert_eq!(client.response().status, 200);
        client.send(line);
        closes_silently(&mut client, start, Duration::from_millis(900));
    }
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(GET).send("\r\n");
        assert_eq!(client.response().status, 200);
    }
    client.finish();
    assert!(client.rest().is_empty());
}

#[test]
fn head_that_does_not_come_in_time_is_408_however_it_drips() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "header-timeout = \"600ms\", idle-timeout = \"5s\"");
    for before in [0, 1] {
        let mut client = proxy.client();
        for _ in 0..before {
            client.send(GET);
            assert_eq!(client.response().status, 200);
        }
        let start = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n");
        // A byte now and then must not move the deadline.
        while client.is_silent_for(Duration::from_millis(50)) {
            assert!(
                start.elapsed() < Duration::from_secs(3),
                "the deadline moves"
            );
            if client.try_send("X").is_err() {
                break;
            }
        }
        assert!(
            start.elapsed() >= Duration::from_millis(550),
            "not before its time"
        );
    }
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n");
    let answer = client.response();
    assert_eq!(answer.status, 408);
    assert_eq!(answer.evenkeel_reason(), Some("request_timeout"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.rest().is_empty());
    assert_eq!(origin.request_count(), 1);
}

#[test]
fn malformed_head_in_pieces_is_not_waited_for() {
    let origin = Origin::good("never");
    let proxy = start(&origin, "header-timeout = \"20s\"");
    for (first, second) in [
        (
            "GET / HTTP/1.1\r\nHost: h\r\nX-Filler: 0123456789\r\nX: ",
            "y\n\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nX-Filler: 0123456789\r\n",
            "X : y\r\n\r\n",
        ),
        ("GET / HTTP/1.1\nHost: h\nX-Filler: 0123456789\n", "\n"),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nX-Filler: 0123456789\r\n",
            "\n",
        ),
    ] {
        let mut client = proxy.client();
        client.send(first);
        // Most likely read by itself; either way the answer is the same.
        let _ = client.is_silent_for(Duration::from_millis(20));
        let _ = client.try_send(second);
        let start = Instant::now();
        assert!(client.rest().starts_with(b"HTTP/1.1 400"), "{first:?}");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{first:?}: at once"
        );
    }
}

#[test]
fn limits_of_the_head_are_the_listeners() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "max-header-bytes = \"1KiB\", max-headers = 5");
    let filled = |bytes: usize| {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX: \r\n\r\n";
        let filler = "a".repeat(bytes - head.len());
        format!("GET / HTTP/1.1\r\nHost: h\r\nX: {filler}\r\n\r\n")
    };
    let fields = |count: usize| {
        let more: String = (1..count)
            .map(|number| format!("X{number}: y\r\n"))
            .collect();
        format!("GET / HTTP/1.1\r\nHost: h\r\n{more}\r\n")
    };
    for (head, status) in [
        (filled(1024), 200),
        (filled(1025), 431),
        (filled(20_000), 431),
        (fields(5), 200),
        (fields(6), 431),
    ] {
        let mut client = proxy.client();
        client.send(&head);
        assert_eq!(client.response().status, status, "{} bytes", head.len());
        // The same in two pieces.
        let (first, second) = head.split_at(head.len() / 2);
        let mut client = proxy.client();
        client.send(first);
        let _ = client.try_send(second);
        assert_eq!(
            client.response().status,
            status,
            "{} bytes in two",
            head.len()
        );
    }
}

#[test]
fn last_request_of_a_connection_is_told_so() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "max-requests-per-connection = 3");
    let mut client = proxy.client();
    client.send(GET.repeat(5));
    for number in 1..=3 {
        let answer = client.response();
        assert_eq!(answer.status, 200);
        let last = answer.header("connection") == Some("close");
        assert_eq!(last, number == 3, "request {number}");
    }
    assert!(client.rest().is_empty(), "no fourth answer");
    assert_eq!(origin.request_count(), 3, "no fourth request");
}

#[test]
fn old_connections_end_with_their_next_answer() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "max-age = \"400ms\"");
    let start = Instant::now();
    let mut client = proxy.client();
    let mut answers = 0;
    loop {
        client.send(GET);
        let answer = client.response();
        assert_eq!(answer.status, 200);
        answers += 1;
        if answer.header("connection") == Some("close") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "it never ends");
    }
    assert!(client.is_closed());
    assert!(answers > 1, "not with its first answer");
    assert!(
        start.elapsed() > Duration::from_millis(340),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        proxy.get("/").header("connection"),
        Some("close"),
        "it asked for that"
    );
    let mut young = proxy.client();
    young.send(GET);
    assert_eq!(young.response().header("connection"), None);
}

#[test]
fn old_connections_of_http_2_go_away_after_their_next_request() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "max-age = \"400ms\"");
    let mut raw = Raw::connect(proxy.address());
    let began = Instant::now();
    raw.send(get(1));
    assert_eq!(raw.answer(1), 200);
    // Nothing wakes an idle connection for it.
    std::thread::sleep(Duration::from_millis(500).saturating_sub(began.elapsed()));
    raw.send(get(3));
    assert_eq!(raw.answer(3), 200, "no request is lost to it");
    let word = raw.until(|frame| frame.kind == GOAWAY).expect("a word");
    assert_eq!(word.code(), NO_ERROR);
    while raw.next().is_some() {}
    assert!(began.elapsed() < Duration::from_secs(5), "it ends then");
}
