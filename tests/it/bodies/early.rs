//! Answers before the body has ended: interim ones, early ones, and refusals of a body.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::flow::start;
use crate::support::{Origin, eventually};

const EXPECTING: &str =
    "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[test]
fn expectation_goes_to_the_server_and_its_100_comes_back_before_the_body() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = connection.exactly(5).expect("the body follows");
        assert_eq!(body, b"hello");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send(EXPECTING);
    assert_eq!(client.response().status, 100);
    client.send("hello");
    assert_eq!(client.response().text(), "ok");
    assert_eq!(origin.last().headers("expect"), ["100-continue"]);
}

#[test]
fn server_that_does_not_want_the_body_never_gets_a_byte_of_it() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        assert_eq!(connection.some(), None, "nothing follows the head");
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send(EXPECTING);
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (403, "no"));
    assert_eq!(answer.header("connection"), Some("close"));
    eventually("the server's connection is closed", || origin.open() == 0);
    // A client that sends it all the same is not understood as sending a request.
    let _ = client.try_send("GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.rest().is_empty());
    assert_eq!(origin.request_count(), 1);
}

#[test]
fn server_that_knows_no_100_gets_the_body_after_a_while() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send(EXPECTING);
    assert_eq!(client.response().status, 100, "from us");
    client.send("hello");
    assert_eq!(client.response().text(), "ok");
    assert_eq!(origin.last().body, b"hello");
}

#[test]
fn hints_come_before_the_answer_is_ready() {
    let go = Arc::new(AtomicBool::new(false));
    let ready = go.clone();
    let origin = Origin::scripted(move |connection| {
        connection.request();
        for number in 0..3 {
            connection.send(format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\n\r\n"
            ));
        }
        eventually("the test says go", || ready.load(Ordering::SeqCst));
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    for number in 0..3 {
        let hints = client.response();
        assert_eq!(hints.status, 103);
        assert_eq!(hints.header("link"), Some(&*format!("</{number}>")));
    }
    go.store(true, Ordering::SeqCst);
    assert_eq!(client.response().text(), "ok");
}

/// A server that answers an upload after its head, and then does `rest`.
fn answering_early(rest: fn(&mut crate::support::Connection)) -> Origin {
    Origin::scripted(move |connection| {
        connection.request_head();
        connection.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
        rest(connection);
    })
}

const UPLOAD: usize = 24 << 20;

#[test]
fn early_answer_reaches_a_client_that_still_uploads() {
    for rest in [
        |connection: &mut crate::support::Connection| connection.close(),
        |connection: &mut crate::support::Connection| connection.wait_for_close(),
        |connection: &mut crate::support::Connection| connection.finish(),
    ] {
        let origin = answering_early(rest);
        let proxy = start(&origin, "", "");
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {UPLOAD}\r\n\r\n"
        ));
        let mut stream = client.stream().try_clone().expect("descriptors are left");
        // As far as it goes: the proxy may close once the answer is out.
        let upload = std::thread::spawn(move || drop(stream.write_all(&vec![b'x'; UPLOAD])));
        let answer = client.response();
        assert_eq!((answer.status, &*answer.text()), (413, "big"));
        drop(client);
        drop(proxy);
        upload.join().expect("no panic");
    }
}

#[test]
fn early_answer_of_a_server_that_resets_then_reaches_the_client() {
    let origin = answering_early(|connection| {
        connection.some();
        connection.reset();
    });
    let proxy = start(&origin, "", "");
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        let mut stream = client.stream().try_clone().expect("descriptors are left");
        let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
        let upload = std::thread::spawn(move || while stream.write_all(&chunk).is_ok() {});
        let answer = client.response();
        assert_eq!((answer.status, &*answer.text()), (413, "big"), "{framing}");
        let _ = client.stream().shutdown(std::net::Shutdown::Both);
        upload.join().expect("no panic");
    }
}

#[test]
fn a_chain_of_interim_answers_passes_whole_and_bounded() {
    for (count, passes) in [(1, true), (64, true), (65, false)] {
        let origin = Origin::scripted(move |connection| {
            while connection.request().is_some() {
                for number in 0..count {
                    let status = [100, 102, 103, 199][number % 4];
                    connection.send(format!("HTTP/1.1 {status} Odd\r\nX: {number}\r\n\r\n"));
                }
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let proxy = start(&origin, "", "");
        let mut client = proxy.client();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            for number in 0..count.min(64) {
                let interim = client.response();
                let told = (interim.status, interim.header("x").map(str::to_owned));
                let status = [100, 102, 103, 199][number % 4];
                assert_eq!(told, (status, Some(number.to_string())));
            }
            let last = client.response();
            assert_eq!(last.status, if passes { 200 } else { 502 }, "{count}");
        }
        // To HTTP/1.0 none of them.
        client.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
        assert_eq!(
            client.response().status,
            if passes { 200 } else { 502 },
            "{count}"
        );
    }
}

#[test]
fn upload_that_was_answered_early_is_still_delivered_whole() {
    let delivered = Arc::new(AtomicU64::new(0));
    let count = delivered.clone();
    let origin = Origin::scripted(move |connection| {
        while connection.request_head().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            let Some(body) = connection.exactly(UPLOAD) else {
                return;
            };
            count.fetch_add(body.len() as u64, Ordering::SeqCst);
        }
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    for round in 1..=2 {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {UPLOAD}\r\n\r\n"
        ));
        let mut stream = client.stream().try_clone().expect("descriptors are left");
        let upload = std::thread::spawn(move || stream.write_all(&vec![b'x'; UPLOAD]));
        assert_eq!(client.response().text(), "ok");
        upload.join().expect("no panic").expect("the upload ends");
        eventually("the whole upload has arrived", || {
            delivered.load(Ordering::SeqCst) == round * UPLOAD as u64
        });
    }
    assert_eq!(origin.connections(), 1, "the connection is used again");
}

#[test]
fn body_over_the_limit_by_its_length_is_refused_unread() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "", "max-body = \"10B\"");
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\n{expect}Content-Length: 11\r\n\r\n"
        ));
        let answer = client.response();
        assert_eq!(answer.status, 413, "before a byte of the body was sent");
        assert_eq!(answer.evenkeel_reason(), Some("body_too_large"));
        assert!(client.rest().is_empty());
    }
    assert_eq!(origin.request_count(), 0);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789");
    assert_eq!(client.response().status, 200, "at the limit");
}

#[test]
fn body_over_the_limit_by_its_chunks_is_refused_as_they_come() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "", "max-body = \"10B\"");
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunks in [
        &["b\r\n01234567890\r\n0\r\n\r\n"][..],
        &["5\r\n01234\r\n", "6\r\n012345\r\n"],
    ] {
        let mut client = proxy.client();
        client.send(head);
        for chunk in chunks {
            client.send(chunk);
        }
        let answer = client.response();
        assert_eq!(answer.status, 413);
        assert_eq!(answer.evenkeel_reason(), Some("body_too_large"));
        assert!(client.rest().is_empty());
    }
    eventually("no part of it is left at the server", || origin.open() == 0);
    assert_eq!(origin.request_count(), 0, "no whole request came");
    let mut client = proxy.client();
    client
        .send(head)
        .send("5\r\n01234\r\n5\r\n01234\r\n0\r\n\r\n");
    assert_eq!(client.response().status, 200, "at the limit");
}

#[test]
fn answer_of_ours_before_an_unread_body_closes_only_announced() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, "", "host = \"known.example\"");
    for (length, closes) in [(1 << 30, true), (1 << 10, false)] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: other\r\nContent-Length: {length}\r\n\r\n"
        ));
        let answer = client.response();
        assert_eq!(answer.evenkeel_reason(), Some("no_route"));
        let announced = answer.header("connection") == Some("close");
        assert_eq!(announced, closes, "{length} bytes are still to come");
    }
    assert_eq!(origin.request_count(), 0);
}

#[test]
fn answer_of_ours_reaches_a_client_whose_body_nobody_wants() {
    let origin = Origin::stalling();
    let proxy = start(
        &origin,
        "[upstream.app.timeout]\nfirst-byte = \"100ms\"\n",
        "",
    );
    let size = 1 << 20;
    let body = vec![b'x'; size];
    for (head, status) in [
        ("POST /.. HTTP/1.1\r\nHost: h", 400),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h:1", 405),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: x", 417),
        ("POST / HTTP/1.1\r\nHost: h\r\nX : y", 400),
        ("POST / HTTP/1.1\r\nHost: h", 504),
    ] {
        let start = Instant::now();
        let mut client = proxy.client();
        client.send(format!("{head}\r\nContent-Length: {size}\r\n\r\n"));
        let _ = client.try_send(&body);
        let answer = client.try_response();
        let answer = answer.unwrap_or_else(|error| panic!("{head:?}: {error}"));
        assert_eq!(answer.status, status, "{head:?}");
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{head:?}: at once"
        );
    }
}

#[test]
fn upload_that_was_answered_early_without_a_body_is_still_delivered_whole() {
    let origin = Origin::scripted(|connection| {
        while let Some(received) = connection.request_head() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            if received.header("content-length").is_some() {
                assert_eq!(connection.exactly(8).as_deref(), Some(&b"halfhalf"[..]));
            }
        }
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nhalf");
    let answer = client.response();
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    client.send("half");
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.connections(), 1, "both connections are kept");
}
