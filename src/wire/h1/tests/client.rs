//! The client side against a server of raw bytes.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::support::{Given, local, read_until};
use crate::message::{
    BodyError, BodyStream, Data, Downstream, Frame, Known, Length, Method, RequestHead, Version,
};
use crate::wire::client::{Answer, ExchangeError};
use crate::wire::h1::client::{Connection, Exchange};
use crate::wire::io::Socket;

fn head(method: Method, pairs: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(method, Version::Http11, b"/p");
    for (name, value) in pairs {
        head.fields.append_text(name, value.as_bytes());
    }
    head
}

fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    (Connection::new(Socket::from(ours)), theirs)
}

fn start(
    connection: Connection,
    request: &RequestHead,
    body: Rc<Given>,
    upgrade: Option<&str>,
) -> Exchange {
    let body: Rc<dyn Downstream> = body;
    Exchange::start(connection, request, &body, upgrade)
}

fn is_usable(connection: &mut Connection) -> bool {
    connection.is_usable(None)
}

async fn answer(exchange: &mut Exchange) -> Result<Answer, ExchangeError> {
    poll_fn(|cx| exchange.poll_head(cx)).await
}

/// What became of an answer that a server sent all at once before closing.
struct Got {
    status: u16,
    length: Length,
    body: Result<Vec<u8>, BodyError>,
    reusable: bool,
}

async fn get(method: Method, bytes: &str, close: bool) -> Result<Got, ExchangeError> {
    let (connection, mut server) = pair();
    server.write_all(bytes.as_bytes()).await.expect("writable");
    if close {
        server.shutdown().await.expect("open");
    }
    let mut exchange = start(connection, &head(method, &[]), Given::nothing(), None);
    let status = loop {
        match answer(&mut exchange).await? {
            Answer::Interim => {}
            Answer::Final => break exchange.take_head().expect("it has come").status,
            Answer::Switching => panic!("nobody asked for it"),
        }
    };
    let mut body = exchange.into_body();
    let got = pull(&mut body).await;
    assert_eq!(body.is_over(), got.is_ok(), "nothing is left to send");
    Ok(Got {
        status,
        length: body.length(),
        body: got,
        reusable: body.take_connection().is_some(),
    })
}

async fn pull(body: &mut dyn BodyStream) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    loop {
        match poll_fn(|cx| body.poll_frame(cx)).await? {
            Frame::Data(data) => bytes.extend_from_slice(&data.unframed()),
            Frame::Trailers(fields) => {
                for (name, value) in fields.iter() {
                    bytes.extend_from_slice(&[b"|", name, b"=", value].concat());
                }
            }
            Frame::Piped(_) => panic!("nobody here takes pipes"),
            Frame::End => return Ok(bytes),
        }
    }
}

#[tokio::test]
async fn answers_end_where_their_framing_says() {
    use Length::{Exact, Unknown};
    use Method::{Get, Head};
    /// Method, answer, whether the server closes, then: length, body, whether it is reusable.
    type Row = (Method, &'static str, bool, Length, &'static [u8], bool);
    let table: &[Row] = &[
        (
            Get,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            Exact(2),
            b"ok",
            true,
        ),
        (
            Get,
            "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            false,
            Exact(0),
            b"",
            true,
        ),
        (
            Get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
            Unknown,
            b"ok",
            true,
        ),
        (
            Get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-A: 1\r\nDate: 2\r\n\r\n",
            false,
            Unknown,
            b"ok|X-A=1",
            true,
        ),
        (
            Get,
            "HTTP/1.1 200 OK\r\n\r\nuntil close",
            true,
            Unknown,
            b"until close",
            false,
        ),
        (
            Get,
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            Exact(2),
            b"ok",
            false,
        ),
        (
            Get,
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            false,
            Exact(2),
            b"ok",
            true,
        ),
        (
            Get,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            false,
            Exact(2),
            b"ok",
            false,
        ),
        (
            Get,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
            false,
            Exact(2),
            b"ok",
            false,
        ),
        (
            Get,
            "HTTP/1.1 204 No Content\r\n\r\n",
            false,
            Exact(0),
            b"",
            true,
        ),
        (
            Get,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            false,
            Exact(0),
            b"",
            true,
        ),
        (
            Head,
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            false,
            Exact(0),
            b"",
            true,
        ),
        (
            Head,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            Exact(0),
            b"",
            false,
        ),
        (
            Get,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            false,
            Exact(1),
            b"x",
            true,
        ),
    ];
    local(async {
        for (method, bytes, close, length, body, reusable) in table {
            let got = get(method.clone(), bytes, *close).await.expect(bytes);
            assert_eq!(got.length, *length, "{bytes:?}");
            assert_eq!(got.body.as_deref(), Ok(*body), "{bytes:?}");
            assert_eq!(got.reusable, *reusable, "{bytes:?}");
            assert!(got.status >= 200);
        }
    })
    .await;
}

#[tokio::test]
async fn ambiguous_and_malformed_answers_are_bad() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(65);
    let table = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 O\u{1}K\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        &interim,
    ];
    local(async {
        for bytes in table {
            let error = get(Method::Get, bytes, false).await.map(|got| got.status);
            assert!(
                matches!(error, Err(ExchangeError::BadResponse(_))),
                "{bytes:?}: {error:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn bodies_that_are_cut_are_not_whole() {
    local(async {
        for bytes in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        ] {
            let got = get(Method::Get, bytes, true).await.expect(bytes);
            assert_eq!(got.body, Err(BodyError::Reset), "{bytes:?}");
            assert!(!got.reusable);
        }
        let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokx";
        let got = get(Method::Get, bad, false).await.expect("a good head");
        assert_eq!(got.body, Err(BodyError::Framing));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_ends_says_what_was_written_and_answered() {
    local(async {
        let (connection, server) = pair();
        drop(server);
        let nothing = Given::nothing();
        let mut exchange = start(connection, &head(Method::Get, &[]), nothing, None);
        let error = answer(&mut exchange).await.expect_err("nobody is there");
        let nothing = matches!(
            error,
            ExchangeError::Closed {
                answered: false,
                written: 0
            } | ExchangeError::Reset {
                answered: false,
                written: 0
            }
        );
        assert!(nothing, "{error:?}");

        let (connection, mut server) = pair();
        let nothing = Given::nothing();
        let mut exchange = start(connection, &head(Method::Get, &[]), nothing, None);
        let serving = async {
            let request = read_until(&mut server, "\r\n\r\n").await;
            server.write_all(b"HTTP/1.1 1").await.expect("writable");
            drop(server);
            request
        };
        let (error, request) = tokio::join!(answer(&mut exchange), serving);
        let written = request.len() as u64;
        assert_eq!(
            error.err(),
            Some(ExchangeError::Closed {
                answered: true,
                written
            })
        );
        assert_eq!(request, "GET /p HTTP/1.1\r\n\r\n");
        assert!(exchange.request_written());
    })
    .await;
}

#[tokio::test]
async fn usable_means_that_nothing_has_arrived() {
    let (mut connection, mut server) = pair();
    tokio::task::yield_now().await;
    assert!(is_usable(&mut connection));
    server
        .write_all(b"HTTP/1.1 200 OK\r\n")
        .await
        .expect("writable");
    while is_usable(&mut connection) {
        tokio::task::yield_now().await;
    }
    let (mut connection, server) = pair();
    assert!(is_usable(&mut connection));
    drop(server);
    while is_usable(&mut connection) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_answer_wakes_whoever_found_its_connection_usable() {
    local(async {
        let (mut connection, mut server) = pair();
        let nobody = Given::nothing();
        for round in 0..3 {
            let started = poll_fn(|cx| {
                // Found usable a second time by nobody's task: the first one is not woken any more.
                let usable =
                    connection.is_usable(Some(cx)) && (round < 2 || is_usable(&mut connection));
                Poll::Ready(usable)
            });
            assert!(started.await, "nothing has come yet");
            let mut exchange = start(connection, &head(Method::Get, &[]), nobody.clone(), None);
            let serving = async {
                read_until(&mut server, "\r\n\r\n").await;
                let text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                server.write_all(text.as_bytes()).await.expect("writable");
            };
            let (got, ()) = tokio::join!(answer(&mut exchange), serving);
            assert!(matches!(got, Ok(Answer::Final)), "{got:?}");
            let mut body = exchange.into_body();
            pull(&mut body).await.expect("empty");
            connection = body.take_connection().expect("reusable");
        }
    })
    .await;
}

#[tokio::test]
async fn requests_are_framed_by_their_body() {
    let trailers = || Frame::Trailers(super::support::fields(&[("X-T", "1")]));
    local(async {
        /// Fields, length, pieces, whether trailers follow, and what the server sees.
        type Row = (
            &'static [(&'static str, &'static str)],
            Length,
            &'static [&'static str],
            bool,
            &'static str,
        );
        let table: &[Row] = &[
            (
                &[("Host", "x")],
                Length::Exact(0),
                &[],
                false,
                "Host: x\r\nContent-Length: 0\r\n\r\n",
            ),
            (
                &[("content-length", "0"), ("Host", "x")],
                Length::Exact(0),
                &[],
                false,
                "content-length: 0\r\nHost: x\r\n\r\n",
            ),
            (
                &[("content-length", "4"), ("Host", "x")],
                Length::Exact(4),
                &["ab", "cd"],
                false,
                "content-length: 4\r\nHost: x\r\n\r\nabcd",
            ),
            (
                &[("content-length", "9")],
                Length::Exact(2),
                &["ab"],
                false,
                "Content-Length: 2\r\n\r\nab",
            ),
            (
                &[("Transfer-Encoding", "chunked"), ("Connection", "x")],
                Length::Unknown,
                &["ab", "c"],
                false,
                "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            ),
            (
                &[],
                Length::Unknown,
                &["ab"],
                true,
                "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n",
            ),
        ];
        for (fields, length, pieces, with_trailers, expected) in table {
            let (connection, mut server) = pair();
            let body = Given::new(*length, pieces);
            if *with_trailers {
                body.frames.borrow_mut().push_back(Ok(trailers()));
            }
            let mut exchange = start(connection, &head(Method::Post, fields), body, None);
            let expected = format!("POST /p HTTP/1.1\r\n{expected}");
            let serving = async {
                let mut bytes = vec![0; expected.len()];
                server
                    .read_exact(&mut bytes)
                    .await
                    .expect("a whole request");
                server
                    .write_all(b"HTTP/1.1 204 x\r\n\r\n")
                    .await
                    .expect("writable");
                String::from_utf8(bytes).expect("text")
            };
            let (got, request) = tokio::join!(answer(&mut exchange), serving);
            assert!(matches!(got, Ok(Answer::Final)), "{got:?}");
            assert_eq!(request, expected);
            assert!(exchange.request_written());
            assert_eq!(exchange.bytes_written(), expected.len() as u64);
        }
    })
    .await;
}

#[tokio::test]
async fn an_expectation_holds_the_body_back_until_the_server_asks() {
    local(async {
        let (connection, mut server) = pair();
        let body = Given::new(Length::Exact(2), &["ab"]);
        let request = head(
            Method::Post,
            &[("Expect", "100-continue"), ("Content-Length", "2")],
        );
        let mut exchange = start(connection, &request, body.clone(), None);
        let serving = async {
            read_until(&mut server, "\r\n\r\n").await;
            assert_eq!(body.pulls.get(), 0, "the body waits");
            server
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await
                .expect("writable");
            read_until(&mut server, "ab").await;
            server
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .expect("writable");
        };
        let asking = async {
            let first = answer(&mut exchange).await.expect("an answer");
            assert_eq!(first, Answer::Interim);
            assert_eq!(exchange.head().map(|head| head.status), Some(100));
            answer(&mut exchange).await.expect("an answer")
        };
        let (last, ()) = tokio::join!(asking, serving);
        assert!(matches!(last, Answer::Final));
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_body_was_asked_for_ends_the_connection() {
    local(async {
        let (connection, mut server) = pair();
        let body = Given::new(Length::Exact(2), &["ab"]);
        let request = head(
            Method::Post,
            &[("Expect", "100-continue"), ("Content-Length", "2")],
        );
        let mut exchange = start(connection, &request, body.clone(), None);
        server
            .write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            .await
            .expect("writable");
        assert!(matches!(answer(&mut exchange).await, Ok(Answer::Final)));
        let mut answer = exchange.into_body();
        assert_eq!(pull(&mut answer).await, Ok(Vec::new()));
        assert!(answer.is_over() && answer.take_connection().is_none());
        assert_eq!(body.pulls.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_has_come_whole_ends_its_exchange_at_once() {
    /// Answer, whether the request is out, and the body that comes with the connection.
    type Row = (&'static str, bool, Option<&'static str>);
    let table: &[Row] = &[
        ("200 OK\r\nContent-Length: 2\r\n\r\nok", true, Some("ok")),
        ("200 OK\r\nContent-Length: 0\r\n\r\n", true, Some("")),
        ("204 No\r\n\r\n", true, Some("")),
        ("200 OK\r\nContent-Length: 2\r\n\r\nok", false, None),
        ("200 OK\r\nContent-Length: 3\r\n\r\nok", true, None),
        ("200 OK\r\nContent-Length: 1\r\n\r\nok", true, None),
        (
            "200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            true,
            None,
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            true,
            None,
        ),
        ("200 OK\r\n\r\n", true, None),
    ];
    local(async {
        for (text, sent, expected) in table {
            let (connection, mut server) = pair();
            let text = format!("HTTP/1.1 {text}");
            server.write_all(text.as_bytes()).await.expect("writable");
            let body = Given::new(Length::Unknown, &[]);
            if !sent {
                let large = Frame::Data(Data::from(vec![b'x'; 4_000_000]));
                body.frames.borrow_mut().push_back(Ok(large));
            }
            let mut exchange = start(connection, &head(Method::Post, &[]), body, None);
            assert_eq!(answer(&mut exchange).await, Ok(Answer::Final), "{text}");
            let whole = exchange.into_whole().ok();
            let got = whole.map(|(data, _)| data.map_or(Vec::new(), |data| data.to_vec()));
            assert_eq!(got.as_deref(), expected.map(str::as_bytes), "{text}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_upload_goes_on_after_its_answer_and_the_connection_returns_after_both() {
    local(async {
        let (connection, mut server) = pair();
        let body = Given::new(Length::Unknown, &[]);
        // Large enough that it cannot be in the socket at once.
        for _ in 0..64 {
            body.frames
                .borrow_mut()
                .push_back(Ok(Frame::Data(Data::from(vec![b'x'; 60_000]))));
        }
        let mut exchange = start(connection, &head(Method::Post, &[]), body, None);
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .expect("writable");
        assert!(matches!(answer(&mut exchange).await, Ok(Answer::Final)));
        assert!(!exchange.request_written());
        let mut answer = exchange.into_body();
        assert_eq!(pull(&mut answer).await, Ok(b"ok".to_vec()));
        assert!(!answer.is_over(), "the upload is not over");
        assert!(answer.take_connection().is_none());
        let pumping = async { poll_fn(|cx| answer.poll_pump(cx)).await.expect("an upload") };
        let reading = async { read_until(&mut server, "\r\n0\r\n\r\n").await.len() };
        let ((), length) = tokio::join!(pumping, reading);
        assert!(length > 64 * 60_000);
        assert!(answer.is_over() && answer.take_connection().is_some());
    })
    .await;
}

#[tokio::test]
async fn an_answer_dropped_before_its_end_closes_its_connection() {
    local(async {
        let (connection, mut server) = pair();
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok")
            .await
            .expect("writable");
        let mut exchange = start(connection, &head(Method::Get, &[]), Given::nothing(), None);
        assert!(matches!(answer(&mut exchange).await, Ok(Answer::Final)));
        let mut body = exchange.into_body();
        assert!(body.take_connection().is_none());
        drop(body);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect("closed");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_comes_back_knows_nothing_of_its_last_exchange() {
    local(async {
        let (mut connection, mut server) = pair();
        for round in 0..3 {
            // HEAD, 102, an upgrade and a body: each leaves something to forget.
            let body = Given::new(Length::Exact(2), &["ab"]);
            let request = head(Method::Head, &[("Content-Length", "2")]);
            let text = "HTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
            server.write_all(text.as_bytes()).await.expect("writable");
            let mut exchange = start(connection, &request, body.clone(), Some("websocket"));
            assert!(matches!(answer(&mut exchange).await, Ok(Answer::Interim)));
            assert!(matches!(answer(&mut exchange).await, Ok(Answer::Final)));
            let mut first = exchange.into_body();
            assert_eq!(pull(&mut first).await, Ok(Vec::new()));
            connection = first.take_connection().expect("reusable");
            assert_eq!(Rc::strong_count(&body), 1, "the client's side is let go");
            let written = "HEAD /p HTTP/1.1\r\n";
            assert!(
                read_until(&mut server, "\r\n\r\nab")
                    .await
                    .starts_with(written)
            );

            let mut exchange = start(connection, &head(Method::Get, &[]), Given::nothing(), None);
            assert_eq!((exchange.bytes_written(), exchange.progress()), (0, 0));
            let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            server.write_all(text.as_bytes()).await.expect("writable");
            assert!(matches!(answer(&mut exchange).await, Ok(Answer::Final)));
            let mut second = exchange.into_body();
            assert_eq!(
                pull(&mut second).await,
                Ok(b"ok".to_vec()),
                "in round {round}"
            );
            connection = second.take_connection().expect("reusable");
            assert_eq!(
                read_until(&mut server, "\r\n\r\n").await,
                "GET /p HTTP/1.1\r\n\r\n"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_was_asked_for_gives_the_socket_and_what_followed() {
    local(async {
        let (connection, mut server) = pair();
        let request = head(Method::Get, &[("Sec-WebSocket-Key", "k")]);
        let mut exchange = start(connection, &request, Given::nothing(), Some("websocket"));
        let serving = async {
            let got = read_until(&mut server, "\r\n\r\n").await;
            assert!(
                got.ends_with("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
                "{got}"
            );
            let text = "HTTP/1.1 101 S\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\r\nhello";
            server.write_all(text.as_bytes()).await.expect("writable");
        };
        let (switched, ()) = tokio::join!(answer(&mut exchange), serving);
        assert_eq!(switched, Ok(Answer::Switching));
        let head = exchange.take_head().expect("it has come");
        assert_eq!(head.fields.get(Known::Upgrade), Some(&b"WebSocket"[..]));
        assert_eq!(exchange.into_tunnel().1, b"hello");
    })
    .await;
}

#[tokio::test]
async fn the_servers_idle_time_is_remembered() {
    local(async {
        let (connection, mut server) = pair();
        server
            .write_all(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n")
            .await
            .expect("writable");
        let mut exchange = start(connection, &head(Method::Get, &[]), Given::nothing(), None);
        assert!(matches!(answer(&mut exchange).await, Ok(Answer::Final)));
        let mut body = exchange.into_body();
        pull(&mut body).await.expect("empty");
        let connection = body.take_connection().expect("reusable");
        assert_eq!(
            connection.keep_alive_hint().map(|hint| hint.as_secs()),
            Some(5)
        );
    })
    .await;
}
