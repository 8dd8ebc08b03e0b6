//! What calls of gRPC get that other requests do not: errors in their own words, their own
//! deadline, patience, and breakers and retries that read their status. Over HTTP/1.1, which
//! carries all of it but a client; real stacks speak to us in `tests/peers`.

use std::time::{Duration, Instant};

use super::support::{Client, Origin, Proxy, Response, app, eventually};

const CALL: &str = "Content-Type: application/grpc+proto\r\nTE: trailers\r\n";
const KEEP: &str = "[upstream.app.breaker]\nmode = \"off\"\n";

/// One call with a message of five bytes.
fn call(client: &mut Client, headers: &str) -> Response {
    client.send(format!(
        "POST /shop.Calls/Buy HTTP/1.1\r\nHost: x\r\n{CALL}{headers}Content-Length: 5\r\n\r\n\0\0\0\0\0"
    ));
    client.response()
}

/// A whole answer that is a status alone.
fn only_status(code: u8) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: {code}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A message, then the status in trailers.
fn with_trailers(code: u8) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: {code}\r\n\r\n"
    )
}

#[test]
fn our_errors_are_errors_of_grpc() {
    let gone = Origin::good("never");
    gone.stop();
    let proxy = Proxy::start(&app(&[&gone], KEEP));
    let answer = call(&mut proxy.client(), "");
    assert_eq!(answer.status, 200, "gRPC says it in grpc-status");
    assert_eq!(answer.header("grpc-status"), Some("14"));
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.evenkeel_reason(), Some("connect_refused"));
    let message = answer.header("grpc-message").expect("a message");
    assert!(message.starts_with("connect_refused: "), "{message}");
    assert_eq!(answer.body, b"");
    let rejected = r#"evenkeel_rejected_total{reason="connect_refused"}"#;
    assert_eq!(proxy.metric(rejected), Some(1.0));
    // gRPC-Web looks for its errors elsewhere.
    let web = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc-web\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(proxy.client().send(web).response().status, 502);
}

#[test]
fn a_deadline_bounds_the_call() {
    let origin = Origin::stalling();
    let proxy = Proxy::start(&app(&[&origin], KEEP));
    let started = Instant::now();
    let answer = call(&mut proxy.client(), "grpc-timeout: 200m\r\n");
    let took = started.elapsed();
    assert_eq!(answer.header("grpc-status"), Some("4"), "DEADLINE_EXCEEDED");
    assert_eq!(answer.evenkeel_reason(), Some("total_timeout"));
    assert!(
        took >= Duration::from_millis(200) && took < Duration::from_secs(2),
        "{took:?}"
    );
    assert_eq!(
        origin.last().header("grpc-timeout").as_deref(),
        Some("200m")
    );
    // A longer one does not stretch ours.
    let proxy = Proxy::start(&app(
        &[&origin],
        "[upstream.app.timeout]\ntotal = \"200ms\"\n",
    ));
    let answer = call(&mut proxy.client(), "grpc-timeout: 1H\r\n");
    assert_eq!(answer.header("grpc-status"), Some("4"));
}

#[test]
fn a_call_may_take_longer_than_first_byte() {
    let slow = Origin::scripted(|connection| {
        while connection.request().is_some() {
            assert!(
                connection.is_silent_for(Duration::from_millis(900)),
                "still waited for"
            );
            connection.send(only_status(0));
        }
    });
    let timeout = "[upstream.app.timeout]\nfirst-byte = \"300ms\"\n";
    let proxy = Proxy::start(&app(&[&slow], &format!("{KEEP}{timeout}")));
    assert_eq!(
        call(&mut proxy.client(), "").header("grpc-status"),
        Some("0")
    );
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("response_timeout"));
    // What bounds it is silence.
    let timeout = "[upstream.app.timeout]\nidle = \"300ms\"\n";
    let proxy = Proxy::start(&app(&[&slow], &format!("{KEEP}{timeout}")));
    let answer = call(&mut proxy.client(), "");
    assert_eq!(answer.evenkeel_reason(), Some("response_timeout"));
    assert_eq!(answer.header("grpc-status"), Some("14"));
}

#[test]
fn a_server_that_says_unavailable_is_not_the_last_to_be_asked() {
    let (busy, good) = (
        Origin::answering(only_status(14)),
        Origin::answering(only_status(0)),
    );
    let proxy = Proxy::start(&app(&[&busy, &good], KEEP));
    assert_eq!(
        call(&mut proxy.client(), "").header("grpc-status"),
        Some("0")
    );
    assert_eq!((busy.request_count(), good.request_count()), (1, 1));
    assert_eq!(
        good.last().body,
        b"\0\0\0\0\0",
        "the message is sent again whole"
    );
    // The same answer to another request is no word of gRPC's.
    let (busy, good) = (
        Origin::answering(only_status(14)),
        Origin::answering(only_status(0)),
    );
    let proxy = Proxy::start(&app(&[&busy, &good], KEEP));
    assert_eq!(proxy.get("/").header("grpc-status"), Some("14"));
    assert_eq!(good.request_count(), 0);
}

#[test]
fn other_statuses_are_the_clients() {
    for code in [1, 2, 4, 8, 13] {
        let (bad, good) = (
            Origin::answering(only_status(code)),
            Origin::answering(only_status(0)),
        );
        let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
        let answer = call(&mut proxy.client(), "");
        assert_eq!(answer.header("grpc-status"), Some(&*code.to_string()));
        assert_eq!(good.request_count(), 0, "{code} may have been done");
    }
}

#[test]
fn breakers_read_the_status_from_heads_and_trailers() {
    for answer in [only_status(14), with_trailers(14)] {
        let origin = Origin::answering(answer);
        let breaker = "[upstream.app.breaker]\nconsecutive-failures = 3\nmax-ejected = \"100%\"\n";
        let proxy = Proxy::start(&app(
            &[&origin],
            &format!("{breaker}[upstream.app.retry]\non = []\n"),
        ));
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(proxy.breaker_state(&origin), "closed");
            assert_eq!(call(&mut client, "").status, 200);
        }
        eventually("the breaker opens", || {
            proxy.breaker_state(&origin) == "open"
        });
        let answer = call(&mut client, "");
        assert_eq!(answer.header("grpc-status"), Some("14"));
        assert_eq!(answer.evenkeel_reason(), Some("circuit_open"));
    }
}

#[test]
fn a_breaker_counts_the_statuses_that_it_names() {
    let origin = Origin::answering(with_trailers(13));
    let quiet = "[upstream.app.breaker]\nconsecutive-failures = 1\n";
    let proxy = Proxy::start(&app(&[&origin], quiet));
    call(&mut proxy.client(), "");
    assert_eq!(
        proxy.breaker_state(&origin),
        "closed",
        "INTERNAL is none by default"
    );
    let strict = format!("{quiet}failure-status = [\"grpc-internal\"]\n");
    let proxy = Proxy::start(&app(&[&origin], &strict));
    call(&mut proxy.client(), "");
    eventually("the breaker opens", || {
        proxy.breaker_state(&origin) == "open"
    });
}
