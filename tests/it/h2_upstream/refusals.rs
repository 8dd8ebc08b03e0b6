//! Requests that a server did not look at are sent again, whatever they are; others only where that
//! is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::raw::{raw, raw_with};
use super::to;
use crate::support::frames::{self, END_STREAM, MAX_CONCURRENT_STREAMS};
use crate::support::{H2Origin, Origin, Proxy, eventually};

const ALONE: &str = "retry = { attempts = 0 }\nbreaker = { mode = \"off\" }";

fn two(bad: &Origin, good: &Origin, rest: &str) -> Proxy {
    Proxy::start(&format!(
        "[process]\nworkers = 1\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nprotocol = \"h2\"\nservers = [\"{}\", \"{}\"]\n{rest}\n",
        bad.address(),
        good.address()
    ))
}

fn serving() -> Origin {
    raw(|raw| raw.serve())
}

#[test]
fn a_refused_stream_is_sent_again_whatever_it_is() {
    let origin = raw(|raw| {
        for _ in 0..2 {
            let Some(stream) = raw.request() else { return };
            raw.send(frames::reset(stream, frames::REFUSED_STREAM));
        }
        raw.serve();
    });
    let proxy = to(origin.address(), ALONE);
    let mut client = proxy.client();
    let answer = client.post("/", b"order");
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_server_that_refuses_everything_is_left_for_another() {
    let refusing = raw(|raw| {
        while let Some(stream) = raw.request() {
            raw.send(frames::reset(stream, frames::REFUSED_STREAM));
        }
    });
    let good = serving();
    let proxy = two(&refusing, &good, "breaker = { mode = \"off\" }");
    for _ in 0..4 {
        let answer = proxy.client().post("/", b"order");
        assert_eq!((answer.status, &*answer.text()), (200, "ok"));
    }
    let proxy = to(refusing.address(), ALONE);
    let answer = proxy.client().post("/", b"order");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (502, Some("upstream_reset"))
    );
}

#[test]
fn what_a_goodbye_does_not_cover_is_sent_again() {
    for body in [&b""[..], b"order", &[7; 60_000]] {
        let origin = raw(|raw| {
            if raw.connection.index == 0 && raw.request().is_some() {
                raw.send(frames::goaway(0, frames::NO_ERROR));
                return raw.connection.wait_for_close();
            }
            raw.serve();
        });
        let proxy = to(origin.address(), ALONE);
        let answer = proxy.client().post("/", body);
        assert_eq!((answer.status, &*answer.text()), (200, "ok"));
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn what_a_goodbye_covers_is_answered_where_it_is() {
    let origin = raw(|raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(first) = raw.request() else { return };
        let Some(second) = raw.request() else { return };
        raw.send(frames::goaway(first, frames::NO_ERROR));
        raw.ok(first);
        assert!(second > first);
        raw.connection.wait_for_close();
    });
    let proxy = to(origin.address(), ALONE);
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let mut client = proxy.client();
            thread::spawn(move || client.post("/", b"order").text())
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), "ok");
    }
    assert_eq!(origin.connections(), 2);
    eventually("the first connection is closed", || origin.open() == 1);
}

#[test]
fn a_goodbye_with_an_error_covers_as_much() {
    let origin = raw(|raw| {
        if raw.connection.index == 0 && raw.request().is_some() {
            return raw.send(frames::goaway(0, frames::ENHANCE_YOUR_CALM));
        }
        raw.serve();
    });
    let proxy = to(origin.address(), ALONE);
    assert_eq!(proxy.client().post("/", b"order").text(), "ok");
}

#[test]
fn a_goodbye_in_a_body_lets_it_end() {
    let origin = raw(|raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(stream) = raw.request() else { return };
        raw.send(frames::headers(stream, 0, &[(":status", "200")]));
        raw.send(frames::data(stream, 0, b"first "));
        raw.send(frames::goaway(stream, frames::NO_ERROR));
        raw.send(frames::data(stream, END_STREAM, b"last"));
        raw.connection.wait_for_close();
    });
    let proxy = to(origin.address(), ALONE);
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "first last");
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn a_post_that_a_server_may_have_seen_is_not_sent_again() {
    for code in [
        frames::NO_ERROR,
        frames::PROTOCOL_ERROR,
        frames::INTERNAL_ERROR,
        frames::CANCEL,
        frames::ENHANCE_YOUR_CALM,
    ] {
        let bad = raw(move |raw| {
            while let Some(stream) = raw.request() {
                raw.send(frames::reset(stream, code));
            }
        });
        let good = serving();
        let proxy = two(&bad, &good, "breaker = { mode = \"off\" }");
        let mut answers = Vec::new();
        for _ in 0..2 {
            let answer = proxy.client().post("/", b"order");
            answers.push((answer.status, answer.evenkeel_reason().map(str::to_owned)));
        }
        answers.sort();
        assert_eq!(
            answers,
            [(200, None), (502, Some("upstream_reset".to_owned()))],
            "code {code}"
        );
        // The same of a GET is tried at the other server.
        for _ in 0..2 {
            assert_eq!(proxy.get("/").status, 200, "code {code}");
        }
    }
}

#[test]
fn resets_count_against_their_server() {
    let bad = raw(|raw| {
        while let Some(stream) = raw.request() {
            raw.send(frames::reset(stream, frames::INTERNAL_ERROR));
        }
    });
    let proxy = to(bad.address(), "retry = { attempts = 0 }");
    for _ in 0..5 {
        assert_eq!(proxy.get("/").evenkeel_reason(), Some("upstream_reset"));
    }
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("circuit_open"));
    assert_eq!(bad.connections(), 1, "the connection is not to blame");
}

#[test]
fn a_graceful_end_under_load_loses_nothing() {
    let origin = H2Origin::scripted(|mut call| async move {
        let body = call.body().await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        if body.is_some() {
            call.ok("ok");
        }
    });
    let proxy = to(origin.address(), ALONE);
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (mut client, served) = (proxy.client(), served.clone());
            thread::spawn(move || {
                for _ in 0..150 {
                    let answer = client.post("/", b"order");
                    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 1..8 {
        eventually("requests go on", || {
            served.load(Ordering::SeqCst) > 200 * round
        });
        origin.leave();
    }
    for client in clients {
        client.join().expect("every request is served");
    }
    assert!(origin.accepted() > 3, "connections were ended and replaced");
    eventually("ended connections are closed", || origin.open() <= 2);
}

#[test]
fn another_connection_carries_what_one_has_no_room_for() {
    let came = Arc::new(AtomicUsize::new(0));
    let origin = raw_with(&[(MAX_CONCURRENT_STREAMS, 2)], move |raw| {
        let (Some(first), Some(second)) = (raw.request(), raw.request()) else {
            return;
        };
        came.fetch_add(2, Ordering::SeqCst);
        eventually("all are there", || came.load(Ordering::SeqCst) == 6);
        raw.ok(first);
        raw.ok(second);
        raw.serve();
    });
    let proxy = to(origin.address(), ALONE);
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut client = proxy.client();
            thread::spawn(move || client.get("/").text())
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), "ok");
    }
    assert_eq!(origin.connections(), 3);
    let active = r#"evenkeel_upstream_connections_active{upstream="app",server="ADDRESS"}"#
        .replace("ADDRESS", &origin.address().to_string());
    let idle = active.replace("active", "idle");
    eventually("all connections are idle", || {
        proxy.metric(&active) == Some(0.0) && proxy.metric(&idle) == Some(3.0)
    });
}

#[test]
fn a_limit_that_falls_holds_from_then_on() {
    let origin = raw_with(&[(MAX_CONCURRENT_STREAMS, 10)], |raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(first) = raw.request() else { return };
        let Some(second) = raw.request() else { return };
        raw.send(frames::settings(&[(MAX_CONCURRENT_STREAMS, 0)]));
        raw.send(frames::headers(first, 0, &[(":status", "200")]));
        raw.send(frames::data(first, 0, b"first"));
        raw.ok(second);
        // What comes after the acknowledgement would be a stream too many.
        while let Some(frame) = raw.any() {
            assert_ne!(frame.kind, frames::HEADERS, "no room for another");
            if frame.kind == frames::PING {
                raw.send(frames::frame(frames::PING, frames::ACK, 0, &frame.payload));
                raw.send(frames::data(first, END_STREAM, b""));
            }
        }
    });
    let proxy = to(origin.address(), ALONE);
    let mut first = proxy.client();
    first.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("it is on its way", || origin.connections() == 1);
    let mut second = proxy.client();
    assert_eq!(second.get("/2").text(), "ok");
    for _ in 0..3 {
        assert_eq!(second.get("/3").text(), "ok");
    }
    assert_eq!(origin.connections(), 2);
    assert_eq!(first.response().text(), "first");
}

#[test]
fn a_server_that_allows_no_request_is_as_good_as_none() {
    let origin = raw_with(&[(MAX_CONCURRENT_STREAMS, 0)], |raw| {
        raw.connection.wait_for_close();
    });
    let patience = "timeout = { connect = \"300ms\" }";
    let proxy = to(origin.address(), &format!("{ALONE}\n{patience}"));
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (504, Some("connect_timeout"))
    );
    assert!(origin.connections() <= 2);
    eventually("it is let go", || origin.open() == 0);
}

#[test]
fn requests_wait_for_the_connection_that_one_opens() {
    let origin = H2Origin::scripted(|mut call| async move { call.ok("ok") });
    let proxy = to(origin.address(), ALONE);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = proxy.client();
            thread::spawn(move || client.get("/").status)
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), 200);
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn no_http2_is_said_so() {
    let http1 = Origin::good("hello");
    let proxy = to(http1.address(), ALONE);
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (502, Some("bad_response"))
    );
    let mute = Origin::scripted(|connection| connection.wait_for_close());
    let patience = "timeout = { connect = \"200ms\" }";
    let proxy = to(mute.address(), &format!("{ALONE}\n{patience}"));
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("connect_timeout"));
    let closing = Origin::scripted(|connection| connection.close());
    let proxy = to(closing.address(), ALONE);
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("upstream_reset"));
}
