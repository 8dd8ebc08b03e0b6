//! What the server saw is a prefix of what the client meant, each request whole or cut off.

use std::io::Write;
use std::net::TcpStream;

use super::lane::{Lane, Patience, Received, Script, read};
use crate::support::mutation::{Corpus, Round, WORDS, rounds};
use crate::support::reference::{self, Message, Reading};

/// What the independent reader makes of a client's bytes.
struct Meaning {
    requests: Vec<Message>,
    /// The head of what is not whole behind them.
    begun: Option<Message>,
    /// Nothing but a refusal can follow.
    faulty: bool,
}

fn meaning(mut bytes: &[u8]) -> Meaning {
    let mut meaning = Meaning {
        requests: Vec::new(),
        begun: None,
        faulty: false,
    };
    loop {
        match reference::request(bytes) {
            Reading::Whole(message) => {
                bytes = &bytes[message.length..];
                let goes_on = message.is_persistent();
                meaning.requests.push(message);
                if !goes_on {
                    return meaning;
                }
            }
            Reading::Partial(head) => {
                meaning.begun = head;
                return meaning;
            }
            Reading::Faulty(_) => {
                meaning.faulty = true;
                return meaning;
            }
        }
    }
}

/// Answers with the number of the request.
#[derive(Default)]
struct Counting(usize);

impl Script for Counting {
    fn answer(&mut self, request: &Message) -> (Vec<Vec<u8>>, bool) {
        self.0 += 1;
        let body = format!("<{}>", self.0);
        let length = body.len();
        let answer = match (&request.start[0][..], self.0 % 3) {
            (b"HEAD", _) => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
            (_, 0) => format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            ),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"),
        };
        (vec![answer.into_bytes()], false)
    }
}

/// The client's side of one round.
struct Talk {
    stream: TcpStream,
    sent: usize,
    got: Vec<u8>,
    ended: bool,
}

impl Talk {
    /// Writes some of it, reads what there is.
    fn go_on(&mut self, bytes: &[u8], random: &mut fastrand::Rng) {
        if self.sent < bytes.len() && !self.ended {
            let most = [1, 7, 60, 3000, 70_000][random.usize(..5)];
            let piece = &bytes[self.sent..][..random.usize(1..=most).min(bytes.len() - self.sent)];
            match self.stream.write(piece) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Refused; what was said before can still be read.
                Err(_) => self.sent = bytes.len(),
            }
        }
        let (more, end) = read(&mut self.stream);
        self.got.extend(more);
        self.ended |= end;
    }

    /// The final answers so far, each as it was read.
    fn answers(&self, requests: &[Message]) -> Vec<Message> {
        let (mut rest, mut answers) = (&self.got[..], Vec::new());
        while !rest.is_empty() {
            let request = requests.get(answers.len());
            let method = request.map_or("GET".into(), |one| String::from_utf8_lossy(&one.start[0]));
            match reference::response(rest, &method) {
                Reading::Whole(message) => {
                    rest = &rest[message.length..];
                    if message.start[1][0] != b'1' {
                        answers.push(message);
                    }
                }
                Reading::Partial(_) => break,
                Reading::Faulty(fault) => panic!("{fault} at the client: {}", rest.escape_ascii()),
            }
        }
        answers
    }
}

/// Sends it in pieces; everything that comes of it has come when this returns.
fn exchange(
    lane: &mut Lane,
    script: &mut Counting,
    bytes: &[u8],
    round: &mut Round,
) -> Vec<Message> {
    let meaning = meaning(bytes);
    let mut talk = Talk {
        stream: lane.client(),
        sent: 0,
        got: Vec::new(),
        ended: false,
    };
    let patience = Patience::new();
    loop {
        talk.go_on(bytes, &mut round.random);
        if round.random.u8(..3) == 0 {
            lane.beat();
        }
        lane.serve(script);
        let answers = talk.answers(&meaning.requests);
        let whole = answers.len() >= meaning.requests.len() && !meaning.faulty;
        if talk.ended || (whole && talk.sent == bytes.len()) {
            if round.random.bool() {
                let socket = socket2::SockRef::from(&talk.stream);
                let _ = socket.set_linger(Some(std::time::Duration::ZERO));
            }
            return answers;
        }
        patience.turn("the client is answered, or sees the end");
    }
}

/// What we answer ourselves and go on.
fn is_answered_here(request: &Message) -> bool {
    let forwards = request.values("max-forwards");
    request.start[0] == b"OPTIONS"
        && forwards
            .iter()
            .any(|left| left.iter().all(|&digit| digit == b'0'))
}

/// The same request on both sides, as far as the bytes of its target must be the same.
fn check_same(meant: &Message, seen: &Message) {
    assert_eq!(meant.start[0], seen.start[0], "another method");
    assert_eq!(seen.start[2], b"HTTP/1.1");
    assert_eq!(seen.values("host").len(), 1);
    let target = &meant.start[1];
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/=&-".contains(byte);
    let path = target
        .split(|&byte| byte == b'?')
        .next()
        .unwrap_or_default();
    let double = path.windows(2).any(|two| two == b"//");
    if target.starts_with(b"/") && path.iter().all(plain) && !double {
        assert_eq!(target, &seen.start[1], "another target");
    }
    for (name, value) in &seen.trailers {
        assert!(
            meant.trailers.contains(&(name.clone(), value.clone())),
            "another trailer"
        );
    }
}

fn check(meaning: &Meaning, log: &[Received], answers: &[Message]) {
    let mut forwarded = meaning.requests.iter().filter(|one| !is_answered_here(one));
    let mut count = 0;
    for (position, received) in log.iter().enumerate() {
        match received {
            Received::Whole(seen) => {
                let meant = forwarded.next().expect("a request that nobody meant");
                check_same(meant, seen);
                assert_eq!(meant.body, seen.body, "another body");
                count += 1;
            }
            Received::Cut(head, bytes) => {
                assert_eq!(position + 1, log.len(), "something behind what was cut");
                let meant = forwarded.next().or(meaning.begun.as_ref());
                let (Some(seen), Some(meant)) = (head, meant) else {
                    // Chunks that were refused: what frames them was meant.
                    assert!(
                        meaning.faulty,
                        "a request that nobody meant: {}",
                        bytes.escape_ascii()
                    );
                    continue;
                };
                check_same(meant, seen);
            }
        }
    }
    // Answers of the server are the ones to this client's requests, in order.
    let theirs = answers
        .iter()
        .filter(|one| one.values("x-evenkeel-reason").is_empty());
    let theirs = theirs.filter(|one| one.values("allow").is_empty());
    assert!(theirs.count() <= count, "more answers than requests");
}

#[test]
fn the_server_sees_what_the_client_meant_or_less() {
    let corpus = Corpus::of("requests");
    let mut lane = Lane::start();
    let mut script = Counting::default();
    let before = lane.proxy.resident();
    for mut round in rounds("requests", 1_500) {
        let bytes = round.input(&corpus, 4, WORDS);
        let first = script.0;
        let answers = exchange(&mut lane, &mut script, &bytes, &mut round);
        // The client is gone: what it began is broken off.
        lane.beat();
        lane.serve(&mut script);
        let log = lane.take();
        check(&meaning(&bytes), &log, &answers);
        let numbers: Vec<String> = answers
            .iter()
            .filter(|answer| answer.body.starts_with(b"<"))
            .map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
            .collect();
        let own: Vec<String> = (first + 1..=script.0).map(|n| format!("<{n}>")).collect();
        let mut own = own.iter();
        let in_order = numbers.iter().all(|number| own.any(|one| one == number));
        assert!(in_order, "another's answer: {numbers:?}");
        assert!(lane.open() < 10, "connections are left over");
    }
    let grown = lane.proxy.resident().saturating_sub(before);
    assert!(grown < 30_000, "{grown} KiB are kept");
    let log = lane.proxy.log();
    assert!(!log.contains("panic"), "{log}");
}
