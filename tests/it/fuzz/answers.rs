//! A client gets its own answer, whole, or sees that it is not; and nobody gets the next one.

use std::io::Write;
use std::net::TcpStream;

use super::lane::{Lane, Patience, Script, read};
use crate::support::mutation::{Corpus, WORDS, rounds};
use crate::support::reference::{self, Message, Reading};

/// Answers `/case` with the bytes of the round, in pieces, and everything else with its target.
struct Replay {
    pieces: Vec<Vec<u8>>,
    close: bool,
}

impl Script for Replay {
    fn answer(&mut self, request: &Message) -> (Vec<Vec<u8>>, bool) {
        let target = &request.start[1];
        if target == b"/case" {
            return (self.pieces.clone(), self.close);
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            target.len()
        );
        (vec![[head.as_bytes(), target].concat()], false)
    }
}

/// What the client has read of an answer, and whether the connection has ended.
struct Got {
    bytes: Vec<u8>,
    ended: bool,
}

/// Sends a request and reads until its answer is whole, or nothing more comes.
fn ask(
    lane: &mut Lane,
    script: &mut Replay,
    stream: &mut TcpStream,
    method: &str,
    target: &str,
) -> Got {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    let mut got = Got {
        bytes: Vec::new(),
        ended: false,
    };
    let patience = Patience::new();
    loop {
        lane.serve(script);
        let (bytes, end) = read(stream);
        got.bytes.extend(bytes);
        got.ended |= end;
        if got.ended || final_answer(&got.bytes, method).is_some() {
            return got;
        }
        patience.turn("the client is answered, or sees the end");
    }
}

/// The first answer that is not an interim one, if it is whole.
fn final_answer(mut bytes: &[u8], method: &str) -> Option<Message> {
    loop {
        match reference::response(bytes, method) {
            Reading::Whole(message) if message.start[1][0] == b'1' => {
                bytes = &bytes[message.length..];
            }
            Reading::Whole(message) => return Some(message),
            Reading::Partial(_) => return None,
            Reading::Faulty(fault) => panic!("{fault} at the client: {}", bytes.escape_ascii()),
        }
    }
}

/// What the server said, as the independent reader has it.
enum Said {
    Answer(Message),
    /// Its head; the rest is cut or no body.
    Cut(Message),
    /// It ends with the connection, which ended.
    ToTheEnd(Message, Vec<u8>),
    Nothing,
}

fn said(mut bytes: &[u8], method: &str, close: bool) -> Said {
    loop {
        match reference::response(bytes, method) {
            Reading::Whole(message) if message.start[1][0] == b'1' => {
                if message.start[1] == b"101" {
                    return Said::Nothing;
                }
                bytes = &bytes[message.length..];
            }
            Reading::Whole(message) => return Said::Answer(message),
            Reading::Partial(Some(head)) => {
                let framed = head.chunked || !head.values("content-length").is_empty();
                return match (framed, close) {
                    (false, true) => {
                        let body = bytes[head.head..].to_vec();
                        Said::ToTheEnd(head, body)
                    }
                    _ => Said::Cut(head),
                };
            }
            Reading::Partial(None) => return Said::Nothing,
            Reading::Faulty(_) => {
                // Its head alone may be good, and its chunks are not.
                let head = reference::response(bytes, "HEAD");
                return match head {
                    Reading::Whole(message) => Said::Cut(message),
                    _ => Said::Nothing,
                };
            }
        }
    }
}

fn check(said: &Said, answer: Option<&Message>) {
    let Some(answer) = answer else {
        let whole = matches!(said, Said::Answer(_) | Said::ToTheEnd(..));
        assert!(!whole, "a whole answer is broken off");
        return;
    };
    if !answer.values("x-evenkeel-reason").is_empty() {
        assert!(
            matches!(&answer.start[1][..], b"502" | b"504"),
            "our own answer"
        );
        return;
    }
    let (head, body) = match said {
        Said::Answer(message) => (message, &message.body),
        Said::ToTheEnd(head, body) => (head, body),
        Said::Cut(head) => panic!("what is cut is passed off as whole: {head:?}"),
        Said::Nothing => panic!("nobody said that: {answer:?}"),
    };
    assert_eq!(head.start[1..], answer.start[1..], "another status");
    assert!(*body == answer.body, "another body");
}

#[test]
fn a_client_gets_the_answer_that_was_meant_or_sees_that_it_is_none() {
    let corpus = Corpus::of("responses");
    let mut lane = Lane::start();
    let before = lane.proxy.resident();
    for (number, mut round) in rounds("answers", 1_000).enumerate() {
        let bytes = round.input(&corpus, 2, WORDS);
        let method = ["GET", "GET", "HEAD", "POST"][round.random.usize(..4)];
        let mut script = Replay {
            pieces: Vec::new(),
            close: true,
        };
        // What a server that stays silent owes costs a timeout each.
        if matches!(said(&bytes, method, false), Said::Answer(_)) || round.random.u8(..50) == 0 {
            script.close = round.random.u8(..4) == 0;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [1, 7, 60, 70_000][round.random.usize(..4)];
            let (piece, after) = rest.split_at(round.random.usize(1..=most).min(rest.len()));
            script.pieces.push(piece.to_vec());
            rest = after;
        }
        let mut client = lane.client();
        let got = ask(&mut lane, &mut script, &mut client, method, "/case");
        let answer = final_answer(&got.bytes, method);
        check(&said(&bytes, method, script.close), answer.as_ref());
        lane.settle(&mut script);
        // The next one, on the same connection where that goes on, and on another.
        let target = format!("/next/{number}");
        let goes_on = answer.as_ref().is_some_and(Message::is_persistent) && !got.ended;
        let mut next = if goes_on { client } else { lane.client() };
        for client in [&mut next, &mut lane.client()] {
            let got = ask(&mut lane, &mut script, client, "GET", &target);
            let answer = final_answer(&got.bytes, "GET").expect("an answer");
            assert_eq!(
                String::from_utf8_lossy(&answer.body),
                target,
                "another's answer"
            );
        }
        lane.take();
        assert!(lane.open() < 10, "connections are left over");
    }
    let grown = lane.proxy.resident().saturating_sub(before);
    assert!(grown < 30_000, "{grown} KiB are kept");
    let log = lane.proxy.log();
    assert!(!log.contains("panic"), "{log}");
}
