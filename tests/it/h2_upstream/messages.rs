//! What crosses from HTTP/1 to HTTP/2 and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

use super::{file, posted, proxy};
use crate::support::h2::{H2, block_on, send_all, whole};
use crate::support::h2_origin::send;
use crate::support::{Client, H2Origin, Process, eventually};

#[test]
fn a_request_arrives_in_the_words_of_http2_and_its_answer_in_those_of_http1() {
    let origin = H2Origin::good("hello");
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.request("GET", "/a/b?c=d", "X-Mixed: One\r\nTE: trailers\r\n");
        assert_eq!((answer.status, &*answer.text()), (200, "hello"));
        assert_eq!(answer.header("content-length"), Some("5"));
    }
    assert_eq!(origin.accepted(), 1, "one connection carries all of them");
    let calls = origin.calls();
    let call = &calls[0];
    assert_eq!(call.method, "GET");
    assert_eq!(call.uri, "http://test/a/b?c=d");
    let field = |name: &str| {
        call.fields
            .get(name)
            .map(|value| value.to_str().expect("text"))
    };
    assert_eq!(field("x-mixed"), Some("One"));
    assert_eq!(field("te"), Some("trailers"));
    assert_eq!(field("host"), None, "it is :authority");
    assert_eq!(field("connection"), None);
    assert_eq!(field("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn bodies_and_trailers_cross_both_ways() {
    let origin = H2Origin::scripted(|mut call| async move {
        let (body, trailers) = call.body().await.expect("it is whole");
        let mut stream = call.head(Response::builder(), false);
        assert!(send(&mut stream, Bytes::from(body), false).await);
        let mut back = HeaderMap::new();
        let sum = trailers.and_then(|map| map.get("x-sum").cloned());
        back.insert("x-sum", sum.unwrap_or(HeaderValue::from_static("none")));
        stream.send_trailers(back).expect("open");
    });
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (200, "abcdefg"));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);

    for size in [0, 1, 16_384, 65_535, 65_536, 1 << 20, 9 << 20] {
        let body = noise(size);
        let answer = posted(&mut client, "/", &body);
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{size} bytes come back");
    }
    assert_eq!(origin.accepted(), 1);
}

fn noise(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    (0..size).map(|_| random.u8(..)).collect()
}

/// Answers with what is asked for, as it comes.
fn echo() -> H2Origin {
    H2Origin::scripted(|mut call| async move {
        let mut stream = call.head(Response::builder(), false);
        loop {
            let body = call.request.body_mut();
            let Some(Ok(data)) = body.data().await else {
                break;
            };
            let _ = body.flow_control().release_capacity(data.len());
            if !send(&mut stream, data, false).await {
                return;
            }
        }
        let _ = stream.send_data(Bytes::new(), true);
    })
}

#[test]
fn an_answer_may_run_beside_its_request() {
    let origin = echo();
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("5\r\nfirst\r\n");
    let head = client
        .head()
        .expect("the answer's head comes before the request ends");
    assert!(head.starts_with(b"HTTP/1.1 200"));
    assert_eq!(client.exactly(10).expect("echoed"), b"5\r\nfirst\r\n");
    client.send("4\r\nlast\r\n0\r\n\r\n");
    assert_eq!(
        client.exactly(14).expect("echoed"),
        b"4\r\nlast\r\n0\r\n\r\n"
    );
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn both_bodies_cross_at_once_from_http2_to_http2() {
    let origin = echo();
    let proxy = proxy(&origin);
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let mut answers = Vec::new();
        for size in [1, 70_000, 3 << 20, 5 << 20] {
            let request = client.request("POST", "/").body(()).expect("a request");
            let (answer, mut stream) = client.send(request, false).await;
            let body = noise(size);
            let sent = Bytes::from(body.clone());
            tokio::spawn(async move { send_all(&mut stream, sent, true).await });
            let reading = async move { whole(answer.await.expect("an answer")).await.body };
            answers.push((body, tokio::spawn(reading)));
        }
        for (body, answer) in answers {
            let answer = answer.await.expect("no panic");
            assert!(answer == body, "{} bytes come back", body.len());
        }
    });
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_early_answer_ends_its_exchange() {
    let origin = H2Origin::scripted(|mut call| async move {
        call.head(Response::builder().status(413), true);
    });
    let proxy = proxy(&origin);
    for length in [100_000, 50 << 20] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"
        ));
        let piece = vec![0; 50_000];
        client.send(&piece);
        assert_eq!(client.response().status, 413, "{length}");
    }
    eventually("both are over", || origin.running() == 0);
    assert_eq!(proxy.get("/").status, 413);
    assert_eq!(origin.accepted(), 1, "the connection is used again");
}

#[test]
fn a_body_waits_until_the_server_asks_for_it() {
    let origin = H2Origin::scripted(|mut call| async move {
        if call.path() == "/refused" {
            call.head(Response::builder().status(417), true);
            return;
        }
        let interim = Response::builder().status(100).body(()).expect("a head");
        call.respond.send_informational(interim).expect("open");
        let body = call.body().await.expect("whole").0;
        call.ok(body);
    });
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send("body");
    assert_eq!(client.response().text(), "body");
    client.send(
        "POST /refused HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    );
    assert_eq!(client.response().status, 417);
    let mut unasked = proxy.client();
    assert_eq!(unasked.post("/", b"again").status, 100);
    assert_eq!(unasked.response().text(), "again");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_client_that_leaves_ends_its_stream_alone() {
    let origin = H2Origin::scripted(|mut call| async move {
        match call.path() {
            "/ok" => call.ok("ok"),
            "/head" => {
                let stream = call.head(Response::builder(), false);
                ended(stream).await;
            }
            _ => {
                let reset = std::future::poll_fn(|cx| call.respond.poll_reset(cx)).await;
                assert_eq!(reset.expect("a reset"), h2::Reason::CANCEL);
            }
        }
    });
    async fn ended(mut stream: h2::SendStream<Bytes>) {
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    }
    let proxy = proxy(&origin);
    let mut neighbour = proxy.client();
    assert_eq!(neighbour.get("/ok").text(), "ok");
    for target in ["/wait", "/head"] {
        for body in ["", "Content-Length: 9\r\n"] {
            let mut client = proxy.client();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{body}\r\n"));
            eventually("it is being answered", || origin.running() == 1);
            if target == "/head" {
                client.head().expect("a head");
            }
            drop(client);
            eventually("its stream is reset", || origin.running() == 0);
            assert_eq!(neighbour.get("/ok").text(), "ok");
        }
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_cut_request_never_looks_whole() {
    let origin = H2Origin::scripted(|mut call| async move {
        match call.body().await {
            Some((body, _)) => call.ok(body),
            None => call.respond.send_reset(h2::Reason::CANCEL),
        }
    });
    let proxy = proxy(&origin);
    let cases = [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nz\r\n",
    ];
    for (index, case) in cases.iter().enumerate() {
        let mut client = proxy.client();
        client.send(case);
        if index < 2 {
            eventually("it is on its way", || origin.running() == 1);
        }
        client.finish();
        let told = client.try_response().map(|answer| answer.status);
        assert!(!matches!(told, Ok(200)), "{case:?} is answered as whole");
        eventually("its stream has ended", || origin.running() == 0);
    }
    assert_eq!(proxy.client().post("/", b"whole").text(), "whole");
}

#[test]
fn whoever_reads_nothing_stops_only_his_own() {
    let origin = H2Origin::scripted(|mut call| async move {
        if call.path() == "/small" {
            return call.ok("ok");
        }
        let mut stream = call.head(Response::builder(), false);
        let piece = Bytes::from(vec![7; 1 << 20]);
        for _ in 0..256 {
            if !send(&mut stream, piece.clone(), false).await {
                return;
            }
        }
        let _ = stream.send_data(Bytes::new(), true);
    });
    let process = Process::start(&file(origin.address(), "breaker = { mode = \"off\" }"));
    let before = process.resident();
    let stalled: Vec<_> = (0..30)
        .map(|_| {
            let mut client = Client::connect(process.listener);
            client.send("GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
            client
        })
        .collect();
    eventually("all are being answered", || origin.running() == 30);
    let mut quick = Client::connect(process.listener);
    for _ in 0..50 {
        assert_eq!(quick.get("/small").text(), "ok");
    }
    let mut whole = Client::connect(process.listener);
    assert_eq!(whole.get("/big").body.len(), 256 << 20);
    let grown = process.resident().saturating_sub(before);
    assert!(
        grown < 40 * 1024,
        "{grown} KiB for 30 clients that read nothing"
    );
    drop(stalled);
    eventually("all streams are reset", || origin.running() == 0);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_upload_goes_as_fast_as_its_server_takes_it() {
    let (go, wait) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(AtomicUsize::new(0)),
    );
    let (gate, taken) = (go.clone(), wait.clone());
    let origin = H2Origin::scripted(move |mut call| {
        let (gate, taken) = (gate.clone(), taken.clone());
        async move {
            if call.path() == "/small" {
                return call.ok("ok");
            }
            gate.notified().await;
            let body = call.body().await.expect("whole").0;
            taken.store(body.len(), Ordering::SeqCst);
            call.ok("taken");
        }
    });
    let proxy = proxy(&origin);
    let address = proxy.address();
    const SIZE: usize = 64 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let upload = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        client.send(format!(
            "POST /big HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n"
        ));
        let piece = vec![1; 64 << 10];
        for _ in 0..SIZE / piece.len() {
            client.send(&piece);
            counter.fetch_add(piece.len(), Ordering::SeqCst);
        }
        client.response().text()
    });
    eventually("it has begun", || origin.running() == 1);
    let mut last = usize::MAX;
    eventually("it stands still", || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = sent.load(Ordering::SeqCst);
        std::mem::replace(&mut last, now) == now
    });
    assert!(
        last < SIZE / 2,
        "{last} bytes went to a server that takes none"
    );
    assert_eq!(proxy.get("/small").text(), "ok");
    go.notify_one();
    assert_eq!(upload.join().expect("no panic"), "taken");
    assert_eq!(wait.load(Ordering::SeqCst), SIZE);
}
