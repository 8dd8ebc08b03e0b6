//! Server-sent events and long polls: what a server says arrives at once, for as long as it
//! pleases, and a client that leaves ends it there too.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::chain::Chain;
use crate::support::{Client, Connection, DEADLINE, Origin, eventually};

const GET: &str = "GET /events HTTP/1.1\r\nHost: site.example\r\nAccept: text/event-stream\r\n\r\n";

/// An origin that sends what the test hands it, when the test does.
struct Told {
    say: Sender<Vec<u8>>,
    origin: Origin,
}

fn told(head: &'static str) -> Told {
    let (say, said) = channel::<Vec<u8>>();
    let said: Arc<Mutex<Receiver<Vec<u8>>>> = Arc::new(Mutex::new(said));
    let origin = Origin::scripted(move |connection: &mut Connection| {
        if connection.request().is_none() {
            return;
        }
        connection.send(head);
        let said = said.lock().expect("one connection at a time");
        // An empty one ends it.
        while let Ok(piece) = said.recv_timeout(DEADLINE) {
            if piece.is_empty() {
                return;
            }
            connection.send(piece);
        }
    });
    Told { say, origin }
}

impl Told {
    fn say(&self, piece: impl Into<Vec<u8>>) {
        self.say.send(piece.into()).expect("the origin listens");
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn each(head: &'static str, rest: &str, check: impl Fn(&Chain, &Told)) {
    for start in [Chain::plain, Chain::secure] {
        let told = told(head);
        let chain = start(&told.origin, rest);
        check(&chain, &told);
        told.say("");
    }
}

/// Reads until `text` has come; nothing else is on its way by then.
#[track_caller]
fn hears(client: &mut Client, text: &str) {
    let mut heard = Vec::new();
    while heard.len() < text.len() {
        heard.extend(client.some().expect("more comes"));
    }
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn each_event_arrives_before_the_next_is_sent() {
    each(CHUNKED, "", |chain, told| {
        let mut client = chain.client();
        client.send(GET);
        // The head alone, before any event.
        let head = String::from_utf8(client.head().expect("the head comes")).expect("is text");
        assert!(head.contains("text/event-stream"), "{head}");
        for number in 0..50 {
            let event = chunk(&format!(
                "id: {number}\ndata: {}\n\n",
                "x".repeat(number * 40)
            ));
            told.say(event.clone());
            hears(&mut client, &event);
        }
        // In pieces that are no events.
        for piece in ["5\r\nd", "ata:", "\r\n", "2\r\n\n\n\r\n"] {
            told.say(piece);
        }
        let rest = chunk("data:") + &chunk("\n\n");
        let mut heard = String::new();
        while unchunked(&heard).len() < unchunked(&rest).len() {
            heard += &String::from_utf8_lossy(&client.some().expect("more comes"));
        }
        assert_eq!(unchunked(&heard), "data:\n\n");
    });
}

/// Only whole chunks and the beginning of the last.
fn unchunked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        out += &more[..size.min(more.len())];
        rest = more.get(size + 2..).unwrap_or_default();
    }
    out
}

#[test]
fn events_until_the_end_of_the_connection_arrive_at_once_too() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    each(head, "", |chain, told| {
        let mut client = chain.client();
        client.send(GET);
        client.head().expect("the head comes");
        for number in 0..20 {
            let event = format!("data: {number}\n\n");
            told.say(event.clone());
            let mut heard = String::new();
            while !heard.contains(&event) {
                heard += &String::from_utf8_lossy(&client.some().expect("more comes"));
            }
        }
    });
}

#[test]
fn quiet_streams_outlive_the_idle_timeout_and_end_by_the_tunnel_s() {
    let rest = "timeout = { idle = \"300ms\", tunnel = \"1200ms\" }";
    each(CHUNKED, rest, |chain, told| {
        let mut client = chain.client();
        client.send(GET);
        client.head().expect("the head comes");
        let began = Instant::now();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(700));
            told.say(chunk(": still here\n\n"));
            hears(&mut client, &chunk(": still here\n\n"));
        }
        assert!(began.elapsed() > Duration::from_millis(1300));
        let silent = Instant::now();
        let rest = client.rest();
        assert!(
            !rest.ends_with(b"0\r\n\r\n"),
            "what is cut never looks complete"
        );
        let took = silent.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(4),
            "{took:?}"
        );
    });
}

#[test]
fn other_bodies_that_go_quiet_end_by_the_idle_timeout() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rest = "timeout = { idle = \"400ms\", tunnel = \"1h\" }";
    each(head, rest, |chain, told| {
        let mut client = chain.client();
        client.send(GET);
        told.say(chunk("hello"));
        let began = Instant::now();
        let all = client.rest();
        assert!(
            !all.ends_with(b"0\r\n\r\n"),
            "what is cut never looks complete"
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn a_client_that_leaves_ends_the_stream_at_the_server() {
    Chain::each(
        || {
            Origin::scripted(|connection| {
                if connection.request().is_some() {
                    connection.send(CHUNKED);
                    connection.wait_for_close();
                }
            })
        },
        "",
        |chain, origin| {
            let mut leaving = chain.client();
            leaving.send(GET);
            leaving.head().expect("the head comes");
            assert_eq!(origin.open(), 1);
            drop(leaving);
            eventually("the server hears of it", || origin.open() == 0);
            let mut resetting = chain.client();
            resetting.send(GET);
            resetting.head().expect("the head comes");
            resetting.reset();
            eventually("the server hears of it", || origin.open() == 0);
        },
    );
}

#[test]
fn a_client_that_leaves_a_long_poll_ends_it_at_the_server() {
    Chain::each(
        || {
            Origin::scripted(|connection| {
                if connection.request().is_some() {
                    connection.wait_for_close();
                }
            })
        },
        "",
        |chain, origin| {
            let mut leaving = chain.client();
            leaving.send(GET);
            eventually("the server has the request", || origin.request_count() == 1);
            drop(leaving);
            eventually("the server hears of it", || origin.open() == 0);
        },
    );
}

#[test]
fn a_long_poll_is_answered_when_the_server_pleases() {
    each(
        "",
        "timeout = { first-byte = \"5s\", idle = \"300ms\" }",
        |chain, told| {
            let mut client = chain.client();
            for number in 0..2 {
                if number > 0 {
                    // The origin serves one request on each connection.
                    client = chain.client();
                }
                client.send(GET);
                std::thread::sleep(Duration::from_millis(900));
                told.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnews");
                let answer = client.response();
                assert_eq!(
                    answer.text(),
                    "news",
                    "longer than `idle`: {}",
                    answer.status
                );
                told.say("");
            }
        },
    );
}

#[test]
fn many_streams_at_once_each_hear_their_own() {
    let origin = || {
        Origin::scripted(|connection| {
            while let Some(request) = connection.request() {
                connection.send(CHUNKED);
                for number in 0..20 {
                    connection.send(chunk(&format!("data: {} {number}\n\n", request.target())));
                }
                connection.send("0\r\n\r\n");
            }
        })
    };
    Chain::each(origin, "", |chain, _| {
        std::thread::scope(|scope| {
            for stream in 0..20 {
                scope.spawn(move || {
                    let mut client = chain.client();
                    client.send(format!(
                        "GET /{stream} HTTP/1.1\r\nHost: site.example\r\n\r\n"
                    ));
                    let text = client.response().text();
                    let wanted: String = (0..20)
                        .map(|number| format!("data: /{stream} {number}\n\n"))
                        .collect();
                    assert_eq!(text, wanted);
                });
            }
        });
    });
}
