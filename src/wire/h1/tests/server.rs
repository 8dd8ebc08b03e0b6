//! The server side against raw bytes.

use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::support::{Client, Frames, echo, fields, limits, local, plain, read_body, stream};
use crate::message::{Body, BodyError, Frame, Known, Length, ResponseHead};
use crate::wire::h1::Ended;
use crate::wire::{Limits, RefusalReason, Response};

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_turn() {
    local(async {
        let mut client = Client::new(echo);
        for _ in 0..3 {
            client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let answer = client.read_until("GET /a ").await;
            assert_eq!(
                answer,
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nGET /a "
            );
        }
        assert_eq!(client.ended().await, Ended::Cleanly);
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    local(async {
        let text = "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
                    POST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                    2\r\nde\r\n3;x=y\r\nfgh\r\n0\r\nX-T: 1\r\nCookie: evil\r\n\r\n\
                    GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let expected = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nPOST /1 abc\
                        HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\nPOST /2 defgh|X-T=1\
                        HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nGET /3 ";
        for cut in 0..text.len() {
            let mut client = Client::new(echo);
            client.send(&text[..cut]).await;
            for _ in 0..6 {
                tokio::task::yield_now().await;
            }
            client.send(&text[cut..]).await;
            assert_eq!(client.read_all().await, expected, "cut at {cut}");
            assert_eq!(client.ended().await, Ended::Cleanly, "cut at {cut}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_in_a_pipeline_answers_what_came_before_it() {
    local(async {
        let mut client = Client::new(echo);
        client
            .send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\nHost: x\n\n")
            .await;
        let answers = client.read_all().await;
        assert_eq!(
            answers,
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nGET /1 \
             HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    })
    .await;
}

#[tokio::test]
async fn refused_heads_are_answered_and_the_connection_closed() {
    use RefusalReason::{
        BadRequest, HeaderTooLarge, NotImplemented, UriTooLong, VersionNotSupported,
    };
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(40_000));
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(101));
    let table: &[(&str, RefusalReason)] = &[
        ("GET /\r\n", BadRequest),
        ("GET / HTTP/2.0\r\n\r\n", VersionNotSupported),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VersionNotSupported),
        ("GET / HTTP/1.2\r\n\r\n", VersionNotSupported),
        ("GET / http/1.1\r\n\r\n", BadRequest),
        ("GET  / HTTP/1.1\r\n\r\n", BadRequest),
        ("\u{16}\u{3}\u{1}", BadRequest),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadRequest,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            BadRequest,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            NotImplemented,
        ),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            BadRequest,
        ),
        (&long, UriTooLong),
        (&large, HeaderTooLarge),
        (&many, HeaderTooLarge),
    ];
    local(async {
        for (bytes, reason) in table {
            let mut client = Client::new(echo);
            client.send(bytes).await;
            let answer = client.read_all().await;
            assert!(
                answer.contains("Connection: close\r\n\r\n"),
                "{bytes:?}: {answer}"
            );
            let refused = client.handler.refused.borrow().clone();
            assert_eq!(refused.len(), 1, "{bytes:?}");
            assert_eq!(refused[0].0, *reason, "{bytes:?}: {}", refused[0].1);
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_pull_of_the_body_sends_100() {
    local(async {
        let mut client = Client::new(echo);
        let head =
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        client.send(head).await;
        assert_eq!(
            client.read_until("\r\n\r\n").await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.send("ab").await;
        assert!(
            client
                .read_until("POST / ab")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        client.read_until("GET / ").await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_was_not_asked_for_ends_the_connection() {
    local(async {
        let mut client = Client::new(|_| Box::pin(async { plain(403, "no") }));
        let head =
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        client.send(head).await;
        assert_eq!(
            client.read_all().await,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        );
    })
    .await;
}

#[tokio::test]
async fn a_short_unread_body_is_drained_and_a_long_one_ends_the_connection() {
    local(async {
        let mut client = Client::new(|_| Box::pin(async { plain(403, "no") }));
        client
            .send("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n")
            .await;
        client.read_until("no").await;
        client.send("GET /").await;
        client
            .send("POST / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n")
            .await;
        let answer = client.read_until("no").await;
        assert!(answer.contains("Connection: close"), "{answer}");
        client.send(vec![b'x'; 400_000]).await;
        assert_eq!(client.read_all().await, "");
    })
    .await;
}

#[tokio::test]
async fn interim_answers_go_out_before_the_final_one_and_not_to_http_1_0() {
    local(async {
        for (version, expected) in [
            ("1.1", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            ("1.0", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"),
        ] {
            let mut client = Client::new(|request| {
                Box::pin(async move {
                    let mut head = ResponseHead::new(103);
                    head.fields.append_text("Link", b"a");
                    head.fields.append(Known::ContentLength, b"3");
                    poll_fn(|cx| request.downstream.poll_interim(cx, &head)).await;
                    plain(200, "ok")
                })
            });
            client.send(format!("GET / HTTP/{version}\r\nConnection: keep-alive\r\n\r\n")).await;
            assert_eq!(client.read_until("ok").await, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn streams_are_framed_by_length_version_and_method() {
    let table = [
        (
            "GET / HTTP/1.1",
            Length::Exact(5),
            "Content-Length: 5\r\n\r\nhello",
        ),
        (
            "GET / HTTP/1.1",
            Length::Unknown,
            "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
        (
            "GET / HTTP/1.0",
            Length::Exact(5),
            "Content-Length: 5\r\nConnection: close\r\n\r\nhello",
        ),
        (
            "GET / HTTP/1.0",
            Length::Unknown,
            "Connection: close\r\n\r\nhello",
        ),
    ];
    local(async {
        for (line, length, expected) in table {
            let mut client = Client::new(move |_| {
                Box::pin(async move { stream(Frames::new(length, &["he", "llo"])) })
            });
            client.send(format!("{line}\r\n\r\n")).await;
            let answer = client.read_until(&expected[expected.len() - 5..]).await;
            assert_eq!(
                answer,
                format!("HTTP/1.1 200 OK\r\n{expected}"),
                "{line} {length:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn trailers_follow_the_last_chunk() {
    local(async {
        let mut client = Client::new(|_| {
            Box::pin(async {
                let trailers = Frame::Trailers(fields(&[("X-Sum", "1")]));
                stream(Frames::new(Length::Unknown, &["a"]).then(Ok(trailers)))
            })
        });
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        let answer = client.read_until("\r\n0\r\nX-Sum: 1\r\n\r\n").await;
        assert!(
            answer.ends_with("\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"),
            "{answer}"
        );
    })
    .await;
}

#[tokio::test]
async fn answers_without_a_body_keep_what_the_server_declared() {
    local(async {
        let mut client = Client::new(|request| {
            Box::pin(async move {
                let mut head = ResponseHead::new(if request.head.target() == b"/304" {
                    304
                } else {
                    200
                });
                head.fields.append(Known::ContentLength, b"5000");
                let body = Body::Stream(Box::new(Frames::new(Length::Exact(0), &[])));
                Response {
                    head,
                    body,
                    close: false,
                }
            })
        });
        client.send("HEAD / HTTP/1.1\r\n\r\n").await;
        let answer = client.read_until("\r\n\r\n").await;
        assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
        client.send("GET /304 HTTP/1.1\r\n\r\n").await;
        let answer = client.read_until("\r\n\r\n").await;
        assert_eq!(
            answer,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n"
        );
    })
    .await;
}

#[tokio::test]
async fn our_own_body_is_not_sent_to_head_but_its_length_is() {
    local(async {
        let mut client = Client::new(|_| Box::pin(async { plain(404, "nothing") }));
        client
            .send("HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            .await;
        let answers = client.read_until("nothing").await;
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(answers, format!("{head}{head}nothing"));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_ended_cleanly() {
    local(async {
        for length in [Length::Exact(10), Length::Unknown] {
            let mut client = Client::new(move |_| {
                Box::pin(async move {
                    stream(Frames::new(length, &["abc"]).then(Err(BodyError::Reset)))
                })
            });
            client.send("GET / HTTP/1.1\r\n\r\n").await;
            let answer = client.read_all().await;
            assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
            assert_eq!(client.ended().await, Ended::Aborted);
        }
        // Short of what was promised, though the body itself ended well.
        let mut client =
            Client::new(|_| Box::pin(async { stream(Frames::new(Length::Exact(9), &["abc"])) }));
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        client.read_all().await;
        assert_eq!(client.ended().await, Ended::Aborted);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_and_early_bytes_are_not_lost() {
    local(async {
        let mut client = Client::new(|request| {
            Box::pin(async move {
                if request.head.target() == b"/wait" {
                    poll_fn(|cx| request.downstream.poll_gone(cx)).await;
                    return pending().await;
                }
                let mut polls = 0;
                // Look for the client's end a few times, reading what it sent early.
                poll_fn(|cx| {
                    polls += 1;
                    cx.waker().wake_by_ref();
                    assert!(request.downstream.poll_gone(cx).is_pending(), "still there");
                    if polls > 20 {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
                plain(200, request.head.target().to_vec())
            })
        });
        client
            .send("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /wait HTTP/1.1\r\n\r\n")
            .await;
        let answers = client.read_until("/2").await;
        assert!(answers.contains("/1HTTP/1.1 200 OK"), "{answers}");
        assert_eq!(client.ended().await, Ended::Aborted);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waiting_behind_a_clients_end_takes_a_look_now_and_then() {
    local(async {
        let limits = Limits {
            half_close: true,
            ..limits()
        };
        let mut client = Client::with_limits(limits, |request| {
            let mut enough = Box::pin(sleep(Duration::from_secs(10)));
            Box::pin(async move {
                let mut polls = 0;
                poll_fn(|cx| {
                    polls += 1;
                    assert!(polls < 100, "it waits");
                    assert!(request.downstream.poll_gone(cx).is_pending(), "still there");
                    enough.as_mut().poll(cx)
                })
                .await;
                assert!(polls > 10, "a reset would be seen only at a look");
                plain(200, "late")
            })
        });
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        client.stream.shutdown().await.expect("it is open");
        let answer = client.read_all().await;
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate"
        );
        assert_eq!(client.ended().await, Ended::Cleanly);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_408_and_silence_is_silent() {
    local(async {
        let mut client = Client::new(echo);
        client.send("GET / HT").await;
        let answer = client.read_all().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");

        let mut client = Client::new(echo);
        assert_eq!(client.read_all().await, "");
        let handler = Rc::clone(&client.handler);
        assert_eq!(client.ended().await, Ended::IdleTimeout);
        assert_eq!(handler.silent.get(), 1);

        let limits = Limits {
            idle_timeout: Duration::from_secs(15),
            ..limits()
        };
        let mut client = Client::with_limits(limits, echo);
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        client.read_until("GET / ").await;
        let start = tokio::time::Instant::now();
        assert_eq!(client.read_all().await, "");
        assert!(
            start.elapsed() >= Duration::from_secs(15),
            "the idle timeout, not another"
        );
        assert_eq!(client.ended().await, Ended::IdleTimeout);
    })
    .await;
}

#[tokio::test]
async fn the_last_request_of_a_connection_is_announced() {
    local(async {
        let limits = Limits {
            max_requests: 2,
            ..limits()
        };
        let mut client = Client::with_limits(limits, echo);
        client
            .send("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            .await;
        let answers = client.read_all().await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2);
        assert_eq!(answers.matches("Connection: close").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends_the_connection_with_its_answer() {
    local(async {
        let mut client = Client::new(echo);
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        client.read_until("GET / ").await;
        client.handler.closing.set(true);
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        let answer = client.read_all().await;
        assert!(
            answer.contains("Connection: close\r\n\r\nGET / "),
            "{answer}"
        );
        assert_eq!(client.ended().await, Ended::Cleanly);
    })
    .await;
}

#[tokio::test]
async fn somebody_who_keeps_the_last_request_never_sees_the_next() {
    local(async {
        let kept = Rc::new(std::cell::RefCell::new(Vec::new()));
        let keep = Rc::clone(&kept);
        let mut client = Client::new(move |request| {
            keep.borrow_mut().push(Rc::clone(&request.downstream));
            echo(request)
        });
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        client.read_until("GET / ").await;
        client
            .send("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na")
            .await;
        while kept.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        let old = Rc::clone(&kept.borrow()[0]);
        assert_eq!(read_body(&*old).await, Err(BodyError::Reset));
        client.send("bc").await;
        client.read_until("POST / abc").await;
    })
    .await;
}

#[tokio::test]
async fn large_bodies_flow_both_ways() {
    local(async {
        let mut client = Client::new(|request| {
            Box::pin(async move {
                let body = read_body(&*request.downstream).await.expect("a whole body");
                plain(200, body)
            })
        });
        let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        client
            .send(format!(
                "PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ))
            .await;
        let (mut reader, mut writer) = client.stream.split();
        let sent = body.clone();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut got = Vec::new();
        let writing = async { writer.write_all(&sent).await.expect("writable") };
        let reading = async {
            let mut piece = vec![0; 65536];
            while got.len() < body.len() {
                let count = reader.read(&mut piece).await.expect("readable");
                assert!(count > 0, "the answer must come whole");
                got.extend_from_slice(&piece[..count]);
            }
        };
        tokio::join!(writing, reading);
        assert!(got.windows(5).any(|window| window == &body[..5]));
    })
    .await;
}
