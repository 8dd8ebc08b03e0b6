//! What fails, and what clients notice of it: servers, and what surrounds the proxy itself.
//!
//! | fault of a server | HTTP/1 | HTTP/2 |
//! |---|---|---|
//! | refuses connections | `breaker`, `retries`, `deaths` | `deaths` |
//! | black hole: no SYN answered, nothing passes | `timeouts`, `deaths` | `deaths` |
//! | TLS that fails, or is cut without a word | `tls`, `tls_upstream` | `h2_upstream/protocols` |
//! | accepts late, begins late | `answers` | `answers` |
//! | accepts and closes, resets before, inside of, after the head | `answers`, `stale`, `races` | `answers`, `h2_upstream/refusals` |
//! | resets streams, says goodbye, breaks off inside of frames | | `answers`, `h2_upstream/refusals` |
//! | stalls before, inside of, after the head | `answers`, `timeouts`, `patience` | `answers`, `streams` |
//! | never reads, allows few requests or none | `timeouts`, `bodies/early` | `streams`, `h2_upstream/refusals` |
//! | garbage, two lengths, length and chunks, 101 unasked | `answers`, `framing/answers` | `answers`, `h2_upstream/answers` |
//! | body shorter than it says, chunks that end early | `answers`, `framing/answers` | `answers`, `h2_upstream/answers` |
//! | body longer than it says, answers nobody asked for | `answers`, `stale`, `races` | `answers`, `h2_upstream/answers` |
//! | answers, then closes (0, 1, 5 ms) | `answers`, `stale` | `answers` |
//! | answers before the request's body, reads none of it | `bodies/early`, `patience` | `h2_upstream/messages` |
//! | 1xx, heads, frames without end | `answers`, `bodies/early` | `h2_upstream/floods` |
//! | stopped, killed, vanished under load; recovery | `deaths`, `recovery`, `slow_start` | `deaths` |
//! | resets or refuses some of all requests | `checks`, `chaos` | `h2_upstream/storms` |
//! | checks that lie, flap, hang, flood | `checks`, `health` | `h2_upstream/protocols` |
//!
//! Each row of `answers` is tried by HTTP/1 and HTTP/2 on the client's side, and inside of TLS on
//! both sides.
//!
//! Of the surroundings: [`files`] (the configuration), [`logs`] (disks, pipes), [`clocks`] (time that
//! jumps), and here descriptors and drains.

mod answers;
mod checks;
mod clocks;
mod deaths;
mod files;
mod load;
mod logs;
mod recovery;
mod streams;
mod tls;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use self::Ear::{Deaf, Hears};
use self::Seen::{Cut, Told, Whole};
use super::support::{Client, Origin, Process, Proxy, app, eventually};

/// What a client is given.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// An answer of the proxy: status and reason.
    Told(u16, &'static str),
    /// The server's answer, visibly broken off; the reason in the log.
    Cut(&'static str),
    /// The server's answer with this body.
    Whole(&'static str),
}

/// Whether a breaker takes it for a failure.
#[derive(Debug, Clone, Copy)]
enum Ear {
    Hears,
    Deaf,
}

/// What a server does, what a client sees of it, and what the breaker hears.
type Row<F> = (&'static str, F, Seen, Ear);

/// The first line of a log of JSON, once it is written.
fn first_line(path: &Path) -> Value {
    let text = || fs::read_to_string(path).unwrap_or_default();
    eventually("it is logged", || text().contains('\n'));
    serde_json::from_str(text().lines().next().expect("a line")).expect("JSON")
}

/// What client, log, metrics and breaker are told of one fault of `server`, the only one of `app`.
fn verdict(
    what: &str,
    proxy: &Proxy,
    server: SocketAddr,
    (got, line): (answers::Got, &Value),
    expected: Seen,
    ear: Ear,
) {
    let code = match expected {
        Told(status, reason) => {
            let told = got.map(|(status, reason, _)| (status, reason));
            assert_eq!(told, Some((status, Some(reason.into()))), "{what}");
            assert_eq!(line["reason"], reason, "{what}: {line}");
            reason
        }
        Cut(reason) => {
            assert_eq!(got, None, "{what}: passed off as whole");
            assert_eq!(line["reason"], reason, "{what}: {line}");
            "200"
        }
        Whole(body) => {
            assert_eq!(got, Some((200, None, body.into())), "{what}");
            assert_eq!(line["reason"], Value::Null, "{what}: {line}");
            "200"
        }
    };
    let labels = format!("upstream=\"app\",server=\"{server}\"");
    let series = format!("evenkeel_upstream_requests_total{{{labels},code=\"{code}\"}}");
    eventually(&format!("{what}: {code} is counted"), || {
        proxy.metric(&series) >= Some(1.0)
    });
    let opened = format!("evenkeel_upstream_breaker_transitions_total{{{labels},to=\"open\"}}");
    match ear {
        Hears => eventually(&format!("{what}: the breaker hears"), || {
            proxy.metric(&opened) == Some(1.0)
        }),
        Deaf => assert_eq!(proxy.metric(&opened), Some(0.0), "{what}"),
    }
}

/// A server whose traffic and whose checks fail or not, each by its own switch.
struct Moody {
    origin: Origin,
    serves: Arc<AtomicBool>,
    passes: Arc<AtomicBool>,
}

impl Moody {
    fn down(name: &'static str) -> Self {
        let (serves, passes) = (Arc::default(), Arc::default());
        let switches: [Arc<AtomicBool>; 2] = [Arc::clone(&serves), Arc::clone(&passes)];
        let origin = Origin::scripted(move |connection| {
            while let Some(request) = connection.request() {
                let [serves, passes] = &switches;
                let check = request.target() == "/healthz";
                let switch = if check { passes } else { serves };
                let up = switch.load(Ordering::SeqCst);
                let status = if up { "200 OK" } else { "503 No" };
                let length = name.len();
                connection.send(format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}"
                ));
            }
        });
        Moody {
            origin,
            serves,
            passes,
        }
    }
}

/// After an outage of all, the first to pass its checks may be the one that is still ejected.
#[test]
fn a_healthy_server_that_is_ejected_does_not_end_a_panic() {
    let (a, b) = (Moody::down("a"), Moody::down("b"));
    let more = "slow-start = \"off\"\n\
                [upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n\
                fall = 1\nrise = 1\n\
                [upstream.app.breaker]\nconsecutive-failures = 1\nopen = \"1m\"\n\
                [upstream.app.retry]\nattempts = 0\n";
    let proxy = Proxy::start(&app(&[&a.origin, &b.origin], more));
    eventually("it panics", || proxy.app_status()["panic"] == true);
    eventually("one of two is ejected", || {
        proxy.get("/");
        [&a, &b].map(|server| proxy.breaker_state(&server.origin)) != ["closed", "closed"]
    });
    let a_is_ejected = proxy.breaker_state(&a.origin) == "open";
    let (ejected, other) = if a_is_ejected { (&a, &b) } else { (&b, &a) };

    other.serves.store(true, Ordering::SeqCst);
    assert_eq!(proxy.get("/").status, 200, "it serves again");
    ejected.passes.store(true, Ordering::SeqCst);
    eventually("the ejected one passes", || {
        proxy.server_status(&ejected.origin)["health"]["verdict"] == "healthy"
    });
    for _ in 0..10 {
        let answer = proxy.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    other.passes.store(true, Ordering::SeqCst);
    eventually("a healthy one is in rotation", || {
        proxy.app_status()["panic"] == false
    });
}

/// Those who wait for a descriptor must not take those that the requests under way need.
#[test]
fn clients_that_wait_do_not_fail_those_that_are_in() {
    // Never keeps a connection: each request needs a new one.
    let origin = Origin::closing_after(1);
    let process = Process::start_with_descriptors(&app(&[&origin], ""), 100);
    let mut good = Client::connect(process.listener);
    assert_eq!(good.get("/").status, 200);
    let crowd: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(process.listener).expect("the backlog has room"))
        .collect();
    eventually("new ones wait", || process.log().contains("new ones wait"));
    for _ in 0..20 {
        let answer = good.get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    drop(crowd);
    let mut fresh = Client::connect(process.listener);
    assert_eq!(fresh.get("/").status, 200, "room again");
}

/// A lack of descriptors says nothing about the server: its breaker stays closed.
#[test]
fn a_server_is_not_blamed_for_descriptors_that_we_lack() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/held" {
                connection.wait_for_close();
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    // Each holds two descriptors: more requests than there are descriptors for, as somebody asked
    // for more than "auto".
    let most = 22;
    let config = app(&[&origin], "");
    let config = format!("[process]\nworkers = 2\nmax-connections = {most}\n{config}");
    let process = Process::start_with_descriptors(&config, 64);
    let mut held: Vec<_> = (0..most)
        .map(|_| {
            let mut client = Client::connect(process.listener);
            let _ = client.try_send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
            client
        })
        .collect();
    // What was let in gets to the server, or is told that there is nothing left to get there by.
    let mut turned_away = 0;
    eventually("all are under way", || {
        held.retain_mut(|client| {
            let silent = client.is_silent_for(Duration::from_millis(1));
            if !silent {
                // One that came too late for a descriptor is closed without a word.
                if let Ok(answer) = client.try_response() {
                    assert_eq!(answer.evenkeel_reason(), Some("overloaded"));
                }
                turned_away += 1;
            }
            silent
        });
        origin.request_count() + turned_away == most
    });
    assert!(origin.request_count() >= 8, "{turned_away} turned away");
    held.clear();
    let mut fresh = Client::connect(process.listener);
    assert_eq!(fresh.get("/").status, 200);
}

/// What a client sends in the moment in which a drain begins is answered, on a kept connection too.
#[test]
fn a_request_that_crosses_with_a_drain_is_answered() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let mut client = proxy.client();
    assert_eq!(client.post("/", b"one").status, 200);
    proxy.drain();
    eventually("nobody is let in", || {
        TcpStream::connect(proxy.address()).is_err()
    });
    let last = client.post("/", b"two");
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(client.is_closed());
    let took = proxy.wait();
    assert!(took < Duration::from_secs(5), "ended after {took:?}");
}
