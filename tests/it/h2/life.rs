//! How connections begin and end: protocols, deadlines, GOAWAY, drain and reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::support::h2::{H2, block_on, send_all, whole};
use crate::support::raw::*;
use crate::support::{Client, Origin, Proxy, app, eventually};

fn listening(origin: &Origin, keys: &str) -> Proxy {
    Proxy::start(&format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{keys}\n{}",
        app(&[origin], "")
    ))
}

/// Answers once released.
fn held() -> (Origin, Arc<AtomicBool>) {
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            eventually("the test goes on", || released.load(Ordering::SeqCst));
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nheld");
        }
    });
    (origin, release)
}

#[test]
fn each_protocol_is_spoken_where_it_is_listed() {
    let origin = Origin::good("ok");
    let both = listening(&origin, "");
    let old = listening(&origin, "protocols = [\"http/1.1\"]");
    let new = listening(&origin, "protocols = [\"h2\"]");
    assert_eq!(both.get("/").status, 200);
    assert_eq!(old.get("/").status, 200);
    block_on(async {
        for proxy in [&both, &new] {
            assert_eq!(
                H2::connect(proxy.address()).await.get("/").await.status,
                200
            );
        }
    });
    let mut refused = Client::connect(old.address());
    refused.send(PREFACE);
    assert_eq!(refused.response().status, 505);
    let mut refused = Client::connect(new.address());
    refused.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let rest = refused.rest();
    assert!(!rest.starts_with(b"HTTP/"), "{rest:?}");
    let cut = "evenkeel_downstream_connections_cut_total{listener=\"web\",cause=\"protocol\"}";
    assert_eq!(new.metric(cut), Some(1.0));
    assert_eq!(origin.request_count(), 4);
}

#[test]
fn a_preface_may_come_in_any_pieces() {
    let origin = Origin::good("ok");
    let proxy = listening(&origin, "");
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(1)].concat();
    for cut in 1..bytes.len() {
        let mut raw = Raw::open(proxy.address());
        raw.send(&bytes[..cut]);
        std::thread::yield_now();
        raw.send(&bytes[cut..]);
        assert_eq!(raw.answer(1), 200, "cut at {cut}");
    }
}

#[test]
fn a_preface_that_does_not_go_on_is_closed() {
    let origin = Origin::good("ok");
    let proxy = listening(&origin, "limits = { header-timeout = \"300ms\" }");
    let whole = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for length in [18, 24, 30] {
        let mut raw = Raw::open(proxy.address());
        raw.send(&whole[..length]);
        let started = Instant::now();
        while raw.next().is_some() {}
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(250), "{length}: {took:?}");
        assert!(took < Duration::from_secs(3), "{length}: {took:?}");
    }
    let cut =
        "evenkeel_downstream_connections_cut_total{listener=\"web\",cause=\"header_timeout\"}";
    assert_eq!(proxy.metric(cut), Some(3.0));
}

#[test]
fn a_head_that_does_not_end_in_time_is_cut() {
    let origin = Origin::good("ok");
    let proxy = listening(&origin, "limits = { header-timeout = \"300ms\" }");
    let beginnings = [
        get(1)[..20].to_vec(),
        frame(HEADERS, END_STREAM, 1, &block(&GET)),
    ];
    for beginning in beginnings {
        let mut raw = Raw::connect(proxy.address());
        raw.send(beginning);
        assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM));
        assert!(raw.next().is_none());
    }
    let cut =
        "evenkeel_downstream_connections_cut_total{listener=\"web\",cause=\"header_timeout\"}";
    assert_eq!(proxy.metric(cut), Some(2.0));
    assert_eq!(origin.request_count(), 0);
}

#[test]
fn an_idle_connection_is_told_and_closed() {
    let origin = Origin::good("ok");
    let proxy = listening(&origin, "limits = { idle-timeout = \"400ms\" }");
    let mut raw = Raw::connect(proxy.address());
    raw.send(get(1));
    assert_eq!(raw.answer(1), 200);
    let started = Instant::now();
    let first = raw.until(|frame| frame.kind == GOAWAY).expect("a word");
    assert!(started.elapsed() >= Duration::from_millis(350));
    assert_eq!(first.code(), NO_ERROR);
    assert_eq!(first.payload[..4], 0x7fff_ffffu32.to_be_bytes());
    // What was on its way still counts.
    raw.send(get(3));
    assert_eq!(raw.answer(3), 200);
    let last = raw
        .until(|frame| frame.kind == GOAWAY)
        .expect("the last word");
    assert_eq!(last.payload[..4], 3u32.to_be_bytes());
    assert!(raw.next().is_none());
}

#[test]
fn requests_of_a_connection_are_counted() {
    let origin = Origin::good("ok");
    let proxy = listening(&origin, "limits = { max-requests-per-connection = 3 }");
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status, 200);
        }
        client.ended().await.expect("it ends without an error");
    });
    assert_eq!(origin.request_count(), 3);
}

#[test]
fn a_drain_loses_no_request() {
    let (origin, release) = held();
    let proxy = listening(&origin, "");
    block_on(async {
        let mut busy = H2::connect(proxy.address()).await;
        let request = busy.request("POST", "/").body(()).expect("a request");
        let (answer, mut stream) = busy.send(request, false).await;
        stream.reserve_capacity(1);
        let mut idle = H2::connect(proxy.address()).await;
        let mut other = H2::connect(proxy.address()).await;
        release.store(true, Ordering::SeqCst);
        assert_eq!(other.get("/").await.status, 200);
        proxy.drain();
        idle.is_ended().await.expect("idle connections end");
        other.is_ended().await.expect("idle connections end");
        send_all(&mut stream, Bytes::from_static(b"late"), true).await;
        let answer = whole(answer.await.expect("an answer")).await;
        assert_eq!(answer.text(), "held");
        busy.ended().await.expect("it ends without an error");
    });
    assert!(proxy.wait() < Duration::from_secs(5));
}

#[test]
fn a_drain_ends_a_connection_in_two_steps() {
    let (origin, release) = held();
    let proxy = listening(&origin, "");
    let mut raw = Raw::connect(proxy.address());
    raw.send(get(1));
    eventually("a request is under way", || origin.connections() == 1);
    proxy.drain();
    // RFC 9113 section 6.8: that the end comes, and nothing yet about which stream is the last.
    let first = raw.until(|frame| frame.kind == GOAWAY).expect("a word");
    assert_eq!(first.code(), NO_ERROR);
    assert_eq!(first.payload[..4], 0x7fff_ffffu32.to_be_bytes());
    let ping = raw.until(|frame| frame.kind == PING).expect("a question");
    // A client that has not heard it asks for more: that is served.
    raw.send(get(3));
    release.store(true, Ordering::SeqCst);
    for stream in [1, 3] {
        let head = raw.until(|frame| frame.kind == HEADERS);
        let head = head.expect("an answer, and no last word before it");
        assert_eq!(head.status(), 200, "{stream}");
    }
    raw.send(frame(PING, ACK, 0, &ping.payload));
    let last = raw
        .until(|frame| frame.kind == GOAWAY)
        .expect("the last word");
    assert_eq!(last.payload[..4], 3u32.to_be_bytes());
    assert!(raw.next().is_none());
    assert!(proxy.wait() < Duration::from_secs(5));
}

#[test]
fn a_reload_closes_nothing_and_its_rules_are_for_the_next_request() {
    let origin = Origin::good("ok");
    let proxy = listening(&origin, "limits = { max-headers = 50 }");
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        assert_eq!(client.get("/").await.status, 200);
        proxy.edit("max-headers = 50", "max-headers = 1");
        assert_eq!(proxy.reload().status, 200);
        let request = client.request("GET", "/").header("a", "b").header("c", "d");
        let (answer, _) = client
            .send(request.body(()).expect("a request"), true)
            .await;
        assert_eq!(whole(answer.await.expect("an answer")).await.status, 431);
        assert_eq!(client.get("/").await.status, 200);
    });
}

#[test]
fn as_many_streams_as_allowed_and_no_more() {
    let (origin, release) = held();
    let proxy = listening(&origin, "limits = { max-concurrent-streams = 3 }");
    let mut raw = Raw::connect(proxy.address());
    for number in 0..4 {
        raw.send(get(2 * number + 1));
    }
    let refused = raw
        .until(|frame| frame.kind == RST_STREAM)
        .expect("a reset");
    assert_eq!((refused.stream, refused.code()), (7, REFUSED_STREAM));
    release.store(true, Ordering::SeqCst);
    assert_eq!(raw.answer(1), 200);
    raw.send(get(9));
    assert!(raw.pings());
    eventually("the fourth is let in", || origin.request_count() == 4);
}

#[test]
fn windows_are_given_back_only_as_the_server_takes_the_body() {
    let (origin, release) = {
        let release = Arc::new(AtomicBool::new(false));
        let released = release.clone();
        let origin = Origin::scripted(move |connection| {
            connection.request_head();
            eventually("the test goes on", || released.load(Ordering::SeqCst));
            connection.exactly(40_000_000);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        });
        (origin, release)
    };
    let proxy = listening(
        &origin,
        "limits = { h2-stream-window = \"64KiB\", h2-connection-window = \"64KiB\" }",
    );
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client
            .request("PUT", "/")
            .header("content-length", 40_000_000);
        let (answer, mut stream) = client
            .send(request.body(()).expect("a request"), false)
            .await;
        let body = Bytes::from(vec![b'x'; 40_000_000]);
        let mut sent = 0;
        // As long as the server's socket takes something; then not a byte more.
        loop {
            stream.reserve_capacity(65_536);
            let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            let Ok(capacity) = tokio::time::timeout(Duration::from_millis(500), capacity).await
            else {
                break;
            };
            let count = capacity.expect("open").expect("open");
            let piece = body.slice(sent..sent + count);
            stream.send_data(piece, false).expect("it is open");
            sent += count;
            assert!(sent < 30_000_000, "somebody takes it all");
        }
        release.store(true, Ordering::SeqCst);
        send_all(&mut stream, body.slice(sent..), true).await;
        assert_eq!(whole(answer.await.expect("an answer")).await.text(), "ok");
    });
}
