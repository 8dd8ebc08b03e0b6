//! Both sides with a bare proxy between them: no routing, no retry, one connection per request.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::support::{Answer as Handled, Client, local, plain, read_until, without_date};
use crate::message::{Body, BodyError, Data, Known, RequestHead, Tunnel};
use crate::wire::client::Answer;
use crate::wire::h1::Ended;
use crate::wire::h1::client::{Connection, Exchange};
use crate::wire::io::Socket;
use crate::wire::{Request, Response};

/// The server's ends of the proxy's connections, in order.
type Servers = Rc<RefCell<Vec<UnixStream>>>;

/// A client of a bare proxy, and where its servers appear.
fn proxy() -> (Client, Servers) {
    let servers = Servers::default();
    let connect = Rc::clone(&servers);
    let client = Client::new(move |request| {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        connect.borrow_mut().push(theirs);
        forward(request, Connection::new(Socket::from(ours)))
    });
    (client, servers)
}

fn forward(request: Request, connection: Connection) -> Handled {
    Box::pin(async move {
        let Request {
            head, downstream, ..
        } = request;
        let upgrade = upgrade_token(&head);
        let mut exchange = Exchange::start(connection, &head, &downstream, upgrade.as_deref());
        loop {
            let answer = poll_fn(|cx| match exchange.poll_head(cx) {
                Poll::Pending => downstream.poll_gone(cx).map(|_| None),
                ready => ready.map(Some),
            });
            let answer = answer.await;
            let came = exchange.take_head();
            match answer {
                None => std::future::pending().await,
                Some(Err(error)) => return plain(502, error.to_string()),
                Some(Ok(Answer::Interim)) => {
                    let interim = came.expect("it has come");
                    poll_fn(|cx| downstream.poll_interim(cx, &interim)).await;
                }
                Some(Ok(Answer::Final)) => {
                    let body = Body::Stream(Box::new(exchange.into_body()));
                    return Response {
                        head: came.expect("it has come"),
                        body,
                        close: false,
                    };
                }
                Some(Ok(Answer::Switching)) => {
                    let (socket, first) = exchange.into_tunnel();
                    let body = Body::Tunnel(Box::new(Plain { socket, first }));
                    return Response {
                        head: came.expect("it has come"),
                        body,
                        close: false,
                    };
                }
            }
        }
    })
}

fn upgrade_token(head: &RequestHead) -> Option<String> {
    head.fields
        .get(Known::Upgrade)
        .map(|token| String::from_utf8_lossy(token).into_owned())
}

struct Plain {
    socket: Socket,
    first: Vec<u8>,
}

impl Tunnel for Plain {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Data>, BodyError>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(Data::from(std::mem::take(&mut self.first)))));
        }
        let mut buffer = vec![0; limit];
        self.socket
            .poll_read(cx, &mut buffer)
            .map(|read| match read {
                Ok(0) => Ok(None),
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(Some(Data::from(buffer)))
                }
                Err(_) => Err(BodyError::Reset),
            })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, BodyError>> {
        self.socket
            .poll_write(cx, bytes)
            .map_err(|_| BodyError::Reset)
    }

    fn poll_expired(&mut self, _cx: &mut Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.socket.poll_shutdown(cx).map_err(|_| BodyError::Reset)
    }
}

async fn server(servers: &Servers) -> UnixStream {
    loop {
        if let Some(server) = servers.borrow_mut().pop() {
            return server;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_chunked_answer_passes_however_it_is_cut() {
    let text = "HTTP/1.1 200 Fine\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n003;ext=1\r\nabc\r\n1\r\nx\r\n0\r\nX-Sum: 9\r\nCookie: no\r\n\r\n";
    local(async {
        for version in ["1.1", "1.0"] {
            for cut in 0..text.len() {
                let (mut client, servers) = proxy();
                client.send(format!("GET / HTTP/{version}\r\n\r\n")).await;
                let mut server = server(&servers).await;
                read_until(&mut server, "\r\n\r\n").await;
                server
                    .write_all(&text.as_bytes()[..cut])
                    .await
                    .expect("writable");
                for _ in 0..6 {
                    tokio::task::yield_now().await;
                }
                server
                    .write_all(&text.as_bytes()[cut..])
                    .await
                    .expect("writable");
                if version == "1.0" {
                    let answer = client.read_all().await;
                    assert!(
                        answer.ends_with("Connection: close\r\n\r\nhelloabcx"),
                        "{cut} {answer}"
                    );
                    continue;
                }
                let answer = client.read_until("X-Sum: 9\r\n\r\n").await;
                let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
                assert_eq!(
                    head,
                    "HTTP/1.1 200 Fine\r\nX-Own: 1\r\nTransfer-Encoding: chunked"
                );
                assert!(
                    !body.contains("ext") && !body.contains("Cookie"),
                    "{cut} {body}"
                );
                assert_eq!(dechunk(body), "helloabcx", "cut at {cut}: {body}");
            }
        }
    })
    .await;
}

/// A reader of its own: payload of a whole chunked body.
fn dechunk(mut body: &str) -> String {
    let mut payload = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").expect("a size line");
        let size = usize::from_str_radix(size, 16).expect("a size");
        assert!(
            size <= rest.len(),
            "a chunk of {size} bytes in {body:?} after {payload:?}"
        );
        if size == 0 {
            return payload;
        }
        payload.push_str(&rest[..size]);
        body = rest[size..]
            .strip_prefix("\r\n")
            .expect("CRLF after the data");
    }
}

#[tokio::test]
async fn a_chunked_upload_passes_however_it_is_cut() {
    let text = "POST /u HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n003;ext=1\r\nabc\r\n1\r\nx\r\n0\r\nX-Sum: 9\r\nCookie: no\r\n\r\n";
    local(async {
        for cut in 0..text.len() {
            let (mut client, servers) = proxy();
            client.send(&text[..cut]).await;
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
            client.send(&text[cut..]).await;
            let mut server = server(&servers).await;
            let request = read_until(&mut server, "X-Sum: 9\r\n\r\n").await;
            let (head, body) = request.split_once("\r\n\r\n").expect("a head");
            assert_eq!(
                head,
                "POST /u HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
            );
            assert_eq!(dechunk(body), "helloabcx", "cut at {cut}: {body}");
            server
                .write_all(b"HTTP/1.1 204 N\r\n\r\n")
                .await
                .expect("writable");
            assert_eq!(
                client.read_until("\r\n\r\n").await,
                "HTTP/1.1 204 N\r\n\r\n"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_answer_is_seen_as_cut() {
    local(async {
        let (mut client, servers) = proxy();
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        let mut server = server(&servers).await;
        read_until(&mut server, "\r\n\r\n").await;
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwor";
        server.write_all(text.as_bytes()).await.expect("writable");
        drop(server);
        let answer = client.read_all().await;
        assert!(
            answer.contains("hello") && !answer.contains("\r\n0\r\n"),
            "{answer}"
        );
        assert_eq!(client.ended().await, Ended::Aborted);
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_ends_at_the_server() {
    local(async {
        let (mut client, servers) = proxy();
        client
            .send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        let mut server = server(&servers).await;
        read_until(&mut server, "hello\r\n").await;
        assert_ne!(client.ended().await, Ended::Cleanly);
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        assert_eq!(without_date(&rest), "");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_exchange() {
    local(async {
        let (mut client, servers) = proxy();
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        let mut server = server(&servers).await;
        read_until(&mut server, "\r\n\r\n").await;
        assert_eq!(client.ended().await, Ended::Aborted);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect("closed");
    })
    .await;
}

#[tokio::test]
async fn interim_answers_pass_and_the_clients_expectation_reaches_the_server() {
    local(async {
        let (mut client, servers) = proxy();
        client
            .send("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            .await;
        let mut server = server(&servers).await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        assert!(head.contains("Expect: 100-continue"), "{head}");
        server
            .write_all(b"HTTP/1.1 103 E\r\nLink: a\r\n\r\n")
            .await
            .expect("writable");
        assert_eq!(
            client.read_until("\r\n\r\n").await,
            "HTTP/1.1 103 E\r\nLink: a\r\n\r\n"
        );
        server
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .expect("writable");
        assert_eq!(
            client.read_until("\r\n\r\n").await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.send("ab").await;
        read_until(&mut server, "ab").await;
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            .await
            .expect("writable");
        client.read_until("\r\n\r\nx").await;
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_carries_both_ways_and_each_end_on_its_own() {
    local(async {
        let (mut client, servers) = proxy();
        // The first frame comes with the request: it stays with us until the 101.
        client
            .send("GET / HTTP/1.1\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nearly")
            .await;
        let mut server = server(&servers).await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        assert!(head.ends_with("Upgrade: echo\r\n\r\n"), "{head}");
        let text = "HTTP/1.1 101 S\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nfirst";
        server.write_all(text.as_bytes()).await.expect("writable");
        read_until(&mut server, "early").await;
        let answer = client.read_until("first").await;
        assert_eq!(
            answer,
            "HTTP/1.1 101 S\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst"
        );
        client.send("up").await;
        client.stream.shutdown().await.expect("open");
        let mut up = Vec::new();
        server
            .read_to_end(&mut up)
            .await
            .expect("the client's end passes");
        assert_eq!(up, b"up");
        server
            .write_all(b"down")
            .await
            .expect("the other way is still open");
        drop(server);
        assert_eq!(client.read_all().await, "down");
        assert_eq!(client.ended().await, Ended::Cleanly);
    })
    .await;
}

#[tokio::test]
async fn large_bodies_pass_with_back_pressure() {
    const SIZE: usize = 8 * 1024 * 1024;
    local(async {
        let (mut client, servers) = proxy();
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        let mut server = server(&servers).await;
        read_until(&mut server, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        let body: Vec<u8> = (0..SIZE).map(|i| (i % 253) as u8).collect();
        server.write_all(head.as_bytes()).await.expect("writable");
        let sent = Rc::new(std::cell::Cell::new(0));
        let sending = {
            let (sent, body) = (Rc::clone(&sent), body.clone());
            tokio::task::spawn_local(async move {
                for piece in body.chunks(64 * 1024) {
                    server.write_all(piece).await.expect("writable");
                    sent.set(sent.get() + piece.len());
                }
                server
            })
        };
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        assert!(
            sent.get() < 3 * 1024 * 1024,
            "nobody reads, so little may be in flight"
        );
        let mut got = Vec::new();
        let mut piece = vec![0; 256 * 1024];
        while !got.ends_with(&body[SIZE - 64..]) || got.len() < SIZE {
            let count = client.stream.read(&mut piece).await.expect("readable");
            assert!(count > 0, "the body must come whole");
            got.extend_from_slice(&piece[..count]);
        }
        assert!(got.ends_with(&body));
        sending.await.expect("no panic");
    })
    .await;
}
