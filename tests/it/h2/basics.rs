//! Requests and answers of a well-behaved client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::support::h2::{H2, block_on, send_all, try_whole, whole};
use crate::support::raw::{DATA, END_STREAM, POST, RST_STREAM, Raw, frame, head};
use crate::support::{Origin, Proxy, app, eventually};

#[test]
fn a_request_looks_behind_as_one_from_http1() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client
            .request("GET", "/a?b=c")
            .header("cookie", "a=1")
            .header("x-one", "1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let (answer, _) = client.send(request, true).await;
        let answer = whole(answer.await.expect("an answer")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert!(answer.header("date").is_some());
        assert_eq!(answer.header("connection"), None);
    });
    let seen = origin.last();
    assert_eq!(seen.start_line(), "GET /a?b=c HTTP/1.1");
    assert_eq!(seen.headers("host"), [proxy.address().to_string()]);
    assert_eq!(seen.headers("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.headers("via"), ["2 evenkeel"]);
    assert_eq!(seen.header("te"), None);
}

#[test]
fn many_requests_at_once_on_one_connection_and_http1_beside_them() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let mut answers = Vec::new();
        for number in 0..100 {
            let request = client.request("GET", &format!("/{number}"));
            let request = request.body(()).expect("a request");
            answers.push(client.send(request, true).await.0);
        }
        for answer in answers {
            let answer = whole(answer.await.expect("an answer")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        }
    });
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(origin.request_count(), 101);
    let connections = proxy.metric("evenkeel_connections_total{listener=\"web\"}");
    assert_eq!(connections, Some(2.0));
}

#[test]
fn large_bodies_cross_in_both_directions() {
    let body: Vec<u8> = (0..3_000_000u32).map(|place| place as u8).collect();
    let answer = body.clone();
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            connection.send(head);
            connection.send(&answer);
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        for _ in 0..3 {
            let request = client.request("POST", "/");
            let request = request.header("content-length", body.len());
            let request = request.body(()).expect("a request");
            let (answer, mut stream) = client.send(request, false).await;
            send_all(&mut stream, body.clone().into(), true).await;
            let answer = whole(answer.await.expect("an answer")).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == body);
        }
    });
    assert!(origin.last().body == body);
}

#[test]
fn a_burst_of_small_messages_is_a_body_and_no_flood() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let mut raw = Raw::connect(proxy.address());
    // All at once and within the windows, as gRPC libraries send a stream of small messages.
    let mut burst = head(1, 0, &POST, &[]);
    for _ in 0..3_000 {
        burst.extend(frame(DATA, 0, 1, b"ab"));
    }
    burst.extend(frame(DATA, END_STREAM, 1, &[]));
    assert!(raw.send(&burst));
    assert_eq!(raw.answer(1), 200);
    let body = String::from_utf8_lossy(&origin.last().body).into_owned();
    assert_eq!(body.matches("ab").count(), 3_000, "in chunks: {body:.40}");
}

#[test]
fn declared_and_undeclared_bodies_and_none() {
    let origin = Origin::good("");
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client
            .request("PUT", "/declared")
            .header("content-length", "5");
        let (answer, mut stream) = client
            .send(request.body(()).expect("a request"), false)
            .await;
        send_all(&mut stream, Bytes::from_static(b"hello"), true).await;
        assert_eq!(answer.await.expect("an answer").status(), 200);
        assert_eq!(origin.last().header("content-length").as_deref(), Some("5"));
        assert_eq!(client.post("/chunked", "hello").await.status, 200);
        assert_eq!(
            origin.last().header("transfer-encoding").as_deref(),
            Some("chunked")
        );
        assert_eq!(client.get("/none").await.status, 200);
        let seen = origin.last();
        assert_eq!(seen.header("content-length"), None);
        assert_eq!(seen.header("transfer-encoding"), None);
    });
}

#[test]
fn trailers_cross_in_both_directions() {
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            connection.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                 5\r\nhello\r\n0\r\nx-sum: 7\r\nContent-Length: 3\r\n\r\n",
            );
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("POST", "/").body(()).expect("a request");
        let (answer, mut stream) = client.send(request, false).await;
        send_all(&mut stream, Bytes::from_static(b"body"), false).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("1"));
        stream.send_trailers(trailers).expect("the stream is open");
        let answer = whole(answer.await.expect("an answer")).await;
        assert_eq!(answer.text(), "hello");
        let trailers = answer.trailers.expect("there are trailers");
        assert_eq!(trailers["x-sum"], "7");
        assert!(!trailers.contains_key("content-length"));
    });
}

#[test]
fn head_204_and_304_have_no_body() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            connection.send(match request.target().as_str() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            });
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        for (method, path, length) in [
            ("HEAD", "/", Some("9")),
            ("GET", "/204", None),
            ("GET", "/304", Some("9")),
        ] {
            let request = client.request(method, path).body(()).expect("a request");
            let (answer, _) = client.send(request, true).await;
            let answer = whole(answer.await.expect("an answer")).await;
            assert_eq!(answer.header("content-length"), length, "{method} {path}");
            assert!(answer.body.is_empty());
        }
    });
}

#[test]
fn a_body_that_breaks_off_resets_its_stream_and_no_other() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/broken" {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client
            .request("GET", "/broken")
            .body(())
            .expect("a request");
        let (answer, _) = client.send(request, true).await;
        let broken = try_whole(answer.await.expect("a head")).await;
        let (body, error) = broken.expect_err("it breaks off");
        assert_eq!(body, b"half");
        assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
        assert_eq!(client.get("/").await.text(), "ok");
    });
}

#[test]
fn an_expected_100_comes_when_the_body_is_wanted_and_other_interim_answers_pass() {
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("POST", "/").header("expect", "100-continue");
        let (mut answer, mut stream) = client
            .send(request.body(()).expect("a request"), false)
            .await;
        let interim = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
        assert_eq!(interim.expect("one").expect("fine").status(), 100);
        send_all(&mut stream, Bytes::from_static(b"body"), true).await;
        let interim = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
        let interim = interim.expect("another").expect("fine");
        assert_eq!(interim.status(), 103);
        assert_eq!(interim.headers()["link"], "</a>");
        assert_eq!(whole(answer.await.expect("an answer")).await.text(), "ok");
    });
}

#[test]
fn an_early_answer_ends_the_upload_without_an_error() {
    let origin = Origin::good("unused");
    let config = app(&[&origin], "").replace("[[route]]\n", "[[route]]\nmax-body = \"1KiB\"\n");
    let proxy = Proxy::start(&config);
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client
            .request("POST", "/")
            .header("content-length", "100000");
        let (answer, mut stream) = client
            .send(request.body(()).expect("a request"), false)
            .await;
        let answer = whole(answer.await.expect("an answer")).await;
        assert_eq!(answer.status, 413);
        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        assert_eq!(reset.expect("a reset"), h2::Reason::NO_ERROR);
        assert_eq!(client.get("/").await.text(), "unused");
    });
}

#[test]
fn a_reset_stream_cancels_its_request_and_no_other() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/slow" {
                connection.wait_for_close();
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("GET", "/slow").body(()).expect("a request");
        let (answer, mut stream) = client.send(request, true).await;
        while origin.request_count() == 0 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        assert_eq!(client.get("/").await.text(), "ok");
        eventually("the request to the server is given up", || {
            origin.open() == 1
        });
    });
}

#[test]
fn bodies_cross_both_ways_at_once() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Chunks of five bytes come as they were sent, and go back so.
        while let Some(chunk) = connection.exactly("5\r\n12345\r\n".len()) {
            connection.send(chunk);
            if connection.at_most(5).is_none_or(|end| end == b"0\r\n\r\n") {
                break;
            }
        }
        connection.send("0\r\n\r\n");
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("POST", "/").body(()).expect("a request");
        let (answer, mut stream) = client.send(request, false).await;
        let mut answer = answer
            .await
            .expect("an answer before the end of the request");
        send_all(&mut stream, Bytes::from_static(b"12345"), false).await;
        let back = answer.body_mut().data().await.expect("some").expect("data");
        assert_eq!(&back[..], b"12345");
        send_all(&mut stream, Bytes::new(), true).await;
        while let Some(rest) = answer.body_mut().data().await {
            assert!(rest.expect("the end").is_empty());
        }
    });
}

#[test]
fn an_upload_that_is_given_up_never_looks_whole() {
    let whole_ones = Arc::new(AtomicUsize::new(0));
    let seen = whole_ones.clone();
    let origin = Origin::scripted(move |connection| {
        if connection.request().is_some() {
            seen.fetch_add(1, Ordering::SeqCst);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    let part = frame(DATA, 0, 1, b"part");
    let reset = frame(RST_STREAM, 0, 1, &8u32.to_be_bytes());
    let declared: &[(&str, &str)] = &[("content-length", "10")];
    let short = frame(DATA, END_STREAM, 1, b"short");
    let long = frame(DATA, END_STREAM, 1, b"much too long");
    let trailers = head(1, END_STREAM, &[], &[("transfer-encoding", "chunked")]);
    let framing = head(1, END_STREAM, &[], &[("content-length", "4")]);
    for (name, fields, end) in [
        ("reset, chunked", &[][..], Some(reset.clone())),
        ("reset, declared", declared, Some(reset)),
        ("short", declared, Some(short)),
        ("long", declared, Some(long)),
        ("trailers of a connection", &[], Some(trailers)),
        ("trailers that frame", &[], Some(framing)),
        ("gone", &[], None),
    ] {
        let connections = origin.connections();
        let mut raw = Raw::connect(proxy.address());
        raw.send([head(1, 0, &POST, fields), part.clone()].concat());
        eventually("the upload has begun", || {
            origin.connections() > connections
        });
        match end {
            Some(end) => {
                raw.send(end);
                assert!(raw.pings(), "{name}");
            }
            None => drop(raw),
        }
        eventually("the server sees it broken off", || origin.open() == 0);
        assert_eq!(whole_ones.load(Ordering::SeqCst), 0, "{name}");
    }
}
