//! What servers do instead of answering, row by row: what the client is given (the reason, or an
//! answer that is visibly cut), what log and metric say, what the breaker hears, where it is tried
//! again, and that the next request is none the worse.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::Seen::{Cut, Told, Whole};
use super::{Ear, Seen};
use crate::h2_upstream::raw::{OK, Raw, raw};
use crate::support::frames::{self, END_STREAM};
use crate::support::{Connection, Origin, Proxy, Response, app, eventually};

use Ear::{Deaf, Hears};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Short is only the time that a row is about: on a busy machine nothing else may end by it.
fn patience(what: &str) -> String {
    let (first_byte, idle) = match what.strip_prefix("stalls ") {
        Some(place) if place.ends_with("body") => ("10s", "300ms"),
        Some(_) => ("1s", "10s"),
        None => ("10s", "10s"),
    };
    format!(
        "slow-start = \"off\"\n[upstream.app.timeout]\nfirst-byte = \"{first_byte}\"\n\
         idle = \"{idle}\"\n[upstream.app.breaker]\nconsecutive-failures = 1\nopen = \"50ms\"\n"
    )
}

/// A proxy with its log.
struct Scene {
    proxy: Proxy,
    log: tempfile::TempDir,
}

fn scene(origins: &[&Origin], protocol: &str, what: &str, attempts: u32) -> Scene {
    let log = tempfile::tempdir().expect("a directory");
    let patience = patience(what);
    let more = format!(
        "protocol = \"{protocol}\"\n{patience}[upstream.app.retry]\nattempts = {attempts}\n\
         [access-log]\nformat = \"json\"\npath = \"{}\"\n",
        log.path().join("log").display()
    );
    let proxy = Proxy::start(&app(origins, &more));
    Scene { proxy, log }
}

impl Scene {
    /// The line of the first request, once it is written.
    fn line(&self) -> Value {
        let path = self.log.path().join("log");
        let text = || fs::read_to_string(&path).unwrap_or_default();
        eventually("it is logged", || text().contains('\n'));
        serde_json::from_str(text().lines().next().expect("a line")).expect("JSON")
    }
}

fn seen(answer: std::io::Result<Response>) -> Option<(u16, Option<String>, String)> {
    let answer = answer.ok()?;
    let reason = answer.evenkeel_reason().map(str::to_owned);
    Some((answer.status, reason, answer.text()))
}

fn ask(proxy: &Proxy, method: &str) -> std::io::Result<Response> {
    let mut client = proxy.client();
    client.send(format!(
        "{method} /fault HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"
    ));
    client.try_response_to(method)
}

/// Tries one row: `origin` makes a server that is at fault for `/fault` and serves the rest.
fn check(what: &str, protocol: &str, origin: impl Fn() -> Origin, expected: Seen, ear: Ear) {
    let faulty = origin();
    let alone = scene(&[&faulty], protocol, what, 0);
    let (row, what) = (what, format!("{protocol}, {what}"));
    let got = seen(ask(&alone.proxy, "GET"));
    let line = alone.line();
    let labels = format!("upstream=\"app\",server=\"{}\"", faulty.address());
    let counted = |code: &str| {
        let series = format!("evenkeel_upstream_requests_total{{{labels},code=\"{code}\"}}");
        eventually(&format!("{what}: {code} is counted"), || {
            alone.proxy.metric(&series) >= Some(1.0)
        });
    };
    match expected {
        Told(status, reason) => {
            let told = got.map(|(status, reason, _)| (status, reason));
            assert_eq!(told, Some((status, Some(reason.into()))), "{what}");
            assert_eq!(line["reason"], reason, "{what}: {line}");
            counted(reason);
        }
        Cut(reason) => {
            assert_eq!(got, None, "{what}: passed off as whole");
            assert_eq!(line["reason"], reason, "{what}: {line}");
            counted("200");
        }
        Whole(body) => {
            assert_eq!(got, Some((200, None, body.into())), "{what}");
            assert_eq!(line["reason"], Value::Null, "{what}: {line}");
            counted("200");
        }
    }
    let closed = format!("evenkeel_upstream_breaker_transitions_total{{{labels},to=\"open\"}}");
    match ear {
        Hears => eventually(&format!("{what}: the breaker hears"), || {
            alone.proxy.metric(&closed) == Some(1.0)
        }),
        Deaf => assert_eq!(alone.proxy.breaker_state(&faulty), "closed", "{what}"),
    }
    eventually(&format!("{what}: the next is served"), || {
        alone.proxy.get("/next").status == 200
    });
    // What has not begun to be answered may be asked of another server, where it may be repeated.
    if let Told(..) = expected {
        for (method, again) in [("GET", true), ("POST", false)] {
            let (faulty, good) = (origin(), Origin::answering(GOOD));
            let other;
            let good = if protocol == "h2" {
                other = raw(|raw| raw.serve());
                &other
            } else {
                &good
            };
            let two = scene(&[&faulty, good], protocol, row, 1);
            // Until one was at the faulty one first.
            let mut statuses = Vec::new();
            for _ in 0..2 {
                let got = seen(ask(&two.proxy, method));
                statuses.push(got.map_or(0, |(status, ..)| status));
            }
            let fine = statuses.iter().filter(|status| **status == 200).count();
            assert_eq!(fine == 2, again, "{what}, {method}: {statuses:?}");
        }
    }
}

type Fault = fn(&mut Connection);

#[test]
fn faults_over_http1() {
    let rows: &[(&str, Fault, Seen, Ear)] = &[
        (
            "resets before the head",
            |c| c.reset(),
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "closes before the head",
            |_| {},
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "resets inside of the head",
            |c| {
                c.send("HTTP/1.1 200 OK\r\nServ");
                std::thread::sleep(Duration::from_millis(20));
                c.reset();
            },
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "closes inside of the head",
            |c| c.send("HTTP/1.1 200 OK\r\nServ"),
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "resets behind the head",
            |c| {
                c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
                std::thread::sleep(Duration::from_millis(20));
                c.reset();
            },
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "stalls before the head",
            Connection::wait_for_close,
            Told(504, "response_timeout"),
            Hears,
        ),
        (
            "stalls inside of the head",
            |c| {
                c.send("HTTP/1.1 200 OK\r\nServ");
                c.wait_for_close();
            },
            Told(504, "response_timeout"),
            Hears,
        ),
        (
            "stalls inside of the body",
            |c| {
                c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                c.wait_for_close();
            },
            Cut("response_timeout"),
            Hears,
        ),
        (
            "sends garbage",
            |c| c.send("\u{16}\u{3}garbage\r\n\r\n"),
            Told(502, "bad_response"),
            Hears,
        ),
        (
            "closes inside of a length",
            |c| c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "closes inside of a chunk",
            |c| c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"),
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "closes before the last chunk",
            |c| c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "closes inside of its trailers",
            |c| {
                c.send(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nA: b",
                )
            },
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "sends more than its length",
            |c| c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
            Whole("ok"),
            Deaf,
        ),
        (
            "sends two lengths",
            |c| c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
            Told(502, "bad_response"),
            Hears,
        ),
        (
            "sends a length and chunks",
            |c| {
                c.send(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n\
                     2\r\nok\r\n0\r\n\r\n",
                );
            },
            Told(502, "bad_response"),
            Hears,
        ),
        (
            "sends a head without end",
            |c| {
                c.send("HTTP/1.1 200 OK\r\n");
                while c
                    .try_send("X-A: bcdefghijklmnopqrstuvwxyz\r\n".repeat(100))
                    .is_ok()
                {}
            },
            Told(502, "bad_response"),
            Hears,
        ),
        (
            "switches protocols unasked",
            |c| {
                c.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                     Upgrade: websocket\r\n\r\n",
                );
            },
            Told(502, "bad_response"),
            Hears,
        ),
        (
            "answers and closes at once",
            |c| c.send(GOOD),
            Whole("ok"),
            Deaf,
        ),
        (
            "answers and closes after 1 ms",
            |c| {
                c.send(GOOD);
                std::thread::sleep(Duration::from_millis(1));
            },
            Whole("ok"),
            Deaf,
        ),
        (
            "answers and resets after 5 ms",
            |c| {
                c.send(GOOD);
                std::thread::sleep(Duration::from_millis(5));
                c.reset();
            },
            Whole("ok"),
            Deaf,
        ),
        (
            "begins late",
            |c| {
                std::thread::sleep(Duration::from_millis(150));
                c.drip(
                    &["HTTP/1.1 200 OK\r\n", "Content-Length: 2\r\n\r\n", "o", "k"],
                    Duration::from_millis(20),
                );
            },
            Whole("ok"),
            Deaf,
        ),
    ];
    for (what, fault, expected, ear) in rows {
        let origin = || {
            let fault = *fault;
            Origin::scripted(move |connection| {
                while let Some(request) = connection.request() {
                    if request.target() == "/fault" {
                        return fault(connection);
                    }
                    connection.send(GOOD);
                }
            })
        };
        check(what, "http/1.1", origin, *expected, *ear);
    }
}

type StreamFault = fn(&mut Raw<'_>, u32);

#[test]
fn faults_over_http2() {
    const LONG: &[(&str, &str)] = &[(":status", "200"), ("content-length", "9")];
    let rows: &[(&str, StreamFault, Seen, Ear)] = &[
        (
            "closes before the head",
            |_, _| {},
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "resets before the head",
            |raw, _| raw.connection.reset(),
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "ends the stream before the head",
            |raw, stream| {
                raw.send(frames::reset(stream, 2));
                raw.serve();
            },
            Told(502, "upstream_reset"),
            Hears,
        ),
        (
            "stalls before the head",
            |raw, _| raw.serve(),
            Told(504, "response_timeout"),
            Hears,
        ),
        (
            "stalls inside of the body",
            |raw, stream| {
                raw.send(frames::headers(stream, 0, LONG));
                raw.send(frames::data(stream, 0, b"half"));
                raw.serve();
            },
            Cut("response_timeout"),
            Hears,
        ),
        (
            "ends the stream inside of the body",
            |raw, stream| {
                raw.send(frames::headers(stream, 0, LONG));
                raw.send(frames::data(stream, 0, b"half"));
                raw.send(frames::reset(stream, 2));
                raw.serve();
            },
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "closes inside of the body",
            |raw, stream| {
                raw.send(frames::headers(stream, 0, OK));
                raw.send(frames::data(stream, 0, b"o"));
            },
            Cut("upstream_reset"),
            Hears,
        ),
        (
            "sends garbage",
            |raw, _| {
                raw.send(b"\0\0\x04\x01\x05\0\0\0\0garbage");
                raw.connection.wait_for_close();
            },
            Told(502, "bad_response"),
            Hears,
        ),
        (
            "answers and says goodbye",
            |raw, stream| {
                raw.ok(stream);
                raw.send(frames::goaway(stream, 0));
            },
            Whole("ok"),
            Deaf,
        ),
        (
            "answers and closes at once",
            |raw, stream| {
                raw.send(frames::headers(stream, 0, OK));
                raw.send(frames::data(stream, END_STREAM, b"ok"));
            },
            Whole("ok"),
            Deaf,
        ),
    ];
    for (what, fault, expected, ear) in rows {
        let origin = || {
            let fault = *fault;
            // Each server's first request is for `/fault`.
            raw(move |raw| {
                if raw.connection.index > 0 {
                    return raw.serve();
                }
                if let Some(stream) = raw.request() {
                    fault(raw, stream);
                }
            })
        };
        check(what, "h2", origin, *expected, *ear);
    }
}
