//! Clients that mark what they send, servers that mark what they answer, and everybody leaves,
//! stalls and misbehaves as it comes: nobody may ever hold a byte of another's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::reference::{Message, Reading};
use super::support::{Client, Connection, Origin, Proxy, Received, app, eventually};

/// What a server may do with a request: the first part of its target.
const MODES: [&str; 14] = [
    "length",
    "chunked",
    "hints",
    "slow",
    "close",
    "cut",
    "twice",
    "early",
    "bare",
    "reset",
    "soon-closed",
    "large",
    "garbage",
    "until-close",
];

/// Only this tag, over and over; perhaps not to its end.
fn is_only(tag: &str, bytes: &[u8]) -> bool {
    bytes
        .iter()
        .zip(tag.bytes().cycle())
        .all(|(byte, tagged)| *byte == tagged)
}

fn payload(raw: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked {
        return raw.to_vec();
    }
    let (mut rest, mut payload) = (raw, Vec::new());
    loop {
        let line = rest
            .iter()
            .position(|&byte| byte == b'\r')
            .expect("a size line");
        let digits = std::str::from_utf8(&rest[..line]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("digits");
        if size == 0 {
            return payload;
        }
        payload.extend(&rest[line + 2..][..size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

fn with_length(tag: &str, times: usize) -> String {
    let body = tag.repeat(times);
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nX-Tag: {tag}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Answers one request; `false` ends the connection.
fn answer(connection: &mut Connection, request: &Received, random: &mut fastrand::Rng) -> bool {
    let tag = request.header("x-tag").expect("every request has one");
    let target = request.target();
    let mode = target.split('/').nth(1).expect("a mode");
    let times = random.usize(1..20);
    let plain = with_length(&tag, times);
    if request.method() == "HEAD" {
        let head = plain.split_inclusive("\r\n\r\n").next().expect("a head");
        connection.send(head);
        return true;
    }
    match mode {
        "chunked" => {
            let body = tag.repeat(times);
            let size = body.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nX-Tag: {tag}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {size:x}\r\n{body}\r\n0\r\nX-Sum: {tag}\r\n\r\n"
            ));
        }
        "hints" => {
            connection.send(format!(
                "HTTP/1.1 103 Early Hints\r\nX-Tag: {tag}\r\n\r\n{plain}"
            ));
        }
        "slow" => {
            thread::sleep(Duration::from_millis(random.u64(20..120)));
            connection.send(plain);
        }
        "cut" => {
            connection.send(&plain[..plain.len() - 1]);
            if random.bool() {
                connection.reset();
            }
            return false;
        }
        "twice" => connection.send(plain.repeat(2)),
        "bare" => connection.send(format!(
            "HTTP/1.1 204 No Content\r\nX-Tag: {tag}\r\n\r\n{tag}"
        )),
        "reset" => {
            connection.reset();
            return false;
        }
        "soon-closed" => {
            connection.send(plain);
            thread::sleep(Duration::from_micros(random.u64(0..1500)));
            return false;
        }
        "large" => connection.send(with_length(&tag, 300_000 / tag.len())),
        "garbage" => connection.send(format!("{tag}\r\n{plain}")),
        "until-close" => {
            let body = tag.repeat(times);
            connection.send(format!("HTTP/1.1 200 OK\r\nX-Tag: {tag}\r\n\r\n{body}"));
            return false;
        }
        _ => connection.send(plain),
    }
    mode != "close"
}

/// Says in `faults` when a request holds another's bytes.
fn tagging(faults: Arc<Mutex<Vec<String>>>) -> Origin {
    Origin::scripted(move |connection| {
        let mut random = fastrand::Rng::with_seed(connection.index as u64);
        while let Some(request) = connection.request_head() {
            let tag = request.header("x-tag").unwrap_or_default();
            let early = request.target().starts_with("/early");
            if early {
                connection.send(with_length(&tag, 3));
            }
            let chunked = request.header("transfer-encoding").is_some();
            let length = request
                .header("content-length")
                .map_or(0, |text| text.parse().unwrap_or(0));
            let body = if chunked {
                connection.chunked()
            } else {
                connection.exactly(length)
            };
            // Broken off by the proxy.
            let Some(body) = body else { return };
            if tag.is_empty() || !is_only(&tag, &payload(&body, chunked)) {
                let head = request.head_text();
                faults.lock().expect("no panic with the lock").push(head);
            }
            if !early && !answer(connection, &request, &mut random) {
                return;
            }
        }
    })
}

struct Asking {
    random: fastrand::Rng,
    name: String,
    asked: usize,
    whole: usize,
}

struct Asked {
    tag: String,
    method: &'static str,
    bytes: Vec<u8>,
}

impl Asking {
    fn next(&mut self) -> Asked {
        let random = &mut self.random;
        self.asked += 1;
        let tag = format!("<{}.{}>", self.name, self.asked);
        let method = ["GET", "GET", "POST", "PUT", "HEAD", "DELETE"][random.usize(..6)];
        let mode = MODES[random.usize(..MODES.len())];
        let times = [0, 0, 1, 40, 9000][random.usize(..5)];
        let body = tag.repeat(times);
        let head = format!(
            "{method} /{mode}/{} HTTP/1.1\r\nHost: h\r\nX-Tag: {tag}\r\n",
            self.asked
        );
        let bytes = match random.u8(..3) {
            0 if !body.is_empty() => {
                let (first, second) = body.split_at(random.usize(1..=body.len()));
                let mut chunks = String::new();
                for piece in [first, second]
                    .into_iter()
                    .filter(|piece| !piece.is_empty())
                {
                    chunks += &format!("{:x}\r\n{piece}\r\n", piece.len());
                }
                format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
            }
            _ => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        };
        Asked {
            tag,
            method,
            bytes: bytes.into_bytes(),
        }
    }

    /// A connection with some requests on it; `Err` says what another's bytes were found.
    fn connect(&mut self, address: SocketAddr) -> Result<(), String> {
        let mut client = Client::connect(address);
        while self.random.u8(..10) > 0 {
            let pipelined: Vec<Asked> = (0..[1, 1, 1, 3][self.random.usize(..4)])
                .map(|_| self.next())
                .collect();
            let bytes: Vec<u8> = pipelined.iter().flat_map(|one| one.bytes.clone()).collect();
            let leaves = self.random.u8(..8) == 0;
            let sent = if leaves {
                self.random.usize(..bytes.len())
            } else {
                bytes.len()
            };
            // An upload may be answered before its end and never be read.
            let mut writer = client
                .stream()
                .try_clone()
                .map_err(|error| error.to_string())?;
            let upload = thread::spawn(move || {
                let _ = std::io::Write::write_all(&mut writer, &bytes[..sent]);
            });
            if leaves && self.random.bool() {
                client.reset();
                let _ = upload.join();
                return Ok(());
            }
            let goes_on = pipelined
                .iter()
                .try_fold(true, |goes_on, asked| match goes_on {
                    true => self.read(&mut client, asked, leaves),
                    false => Ok(false),
                })?;
            drop(if goes_on && !leaves {
                None
            } else {
                Some(client.stream().shutdown(std::net::Shutdown::Both))
            });
            let _ = upload.join();
            if !goes_on || leaves {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `false` when the connection does not go on.
    fn read(&mut self, client: &mut Client, asked: &Asked, leaves: bool) -> Result<bool, String> {
        if leaves {
            let _ = client
                .stream()
                .set_read_timeout(Some(Duration::from_millis(20)));
        }
        loop {
            match client.next_strictly(asked.method) {
                Reading::Whole(message) => {
                    check(&message, &message.body, asked)?;
                    if message.start[1][0] != b'1' {
                        self.whole += usize::from(message.values("x-evenkeel-reason").is_empty());
                        return Ok(message.is_persistent());
                    }
                }
                Reading::Partial(Some(head)) => {
                    let rest = client.take_buffered().split_off(head.head);
                    let rest = if head.chunked { Vec::new() } else { rest };
                    check(&head, &rest, asked)?;
                    return Ok(false);
                }
                Reading::Partial(None) => return Ok(false),
                Reading::Faulty(fault) => return Err(format!("{fault} in an answer")),
            }
        }
    }
}

fn check(message: &Message, body: &[u8], asked: &Asked) -> Result<(), String> {
    if !message.values("x-evenkeel-reason").is_empty() || message.start[1] == b"100" {
        return Ok(());
    }
    let tag = asked.tag.as_bytes();
    let trailer = message.trailers.iter().all(|(_, value)| value == tag);
    if message.values("x-tag") != [tag] || !trailer || !is_only(&asked.tag, body) {
        let body = &body[..body.len().min(100)];
        let head = format!("{:?} {:?}", message.fields, body.escape_ascii().to_string());
        return Err(format!("{} got {head}", asked.tag));
    }
    Ok(())
}

/// Two servers behind these settings, ten clients, for a while.
fn storm(settings: &str) {
    let faults: Arc<Mutex<Vec<String>>> = Arc::default();
    let origins = [tagging(faults.clone()), tagging(faults.clone())];
    let more = format!(
        "timeout = {{ first-byte = \"60ms\", idle = \"500ms\" }}\n\
         breaker = {{ mode = \"off\" }}\n{settings}\n"
    );
    let proxy = Proxy::start(&app(&[&origins[0], &origins[1]], &more));
    let seconds = std::env::var("EVENKEEL_FUZZ_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(2);
    let until = Instant::now() + Duration::from_secs(seconds);
    let address = proxy.address();
    let asking = |name: u64| {
        let mut asking = Asking {
            random: fastrand::Rng::with_seed(name),
            name: name.to_string(),
            asked: 0,
            whole: 0,
        };
        while Instant::now() < until {
            asking.connect(address)?;
        }
        Ok::<_, String>((asking.asked, asking.whole))
    };
    let (mut asked, mut whole) = (0, 0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..10)
            .map(|name| scope.spawn(move || asking(name)))
            .collect();
        for client in clients {
            let done = client.join().expect("no panic");
            let (sent, got) = done.unwrap_or_else(|fault| panic!("{fault}"));
            (asked, whole) = (asked + sent, whole + got);
        }
    });
    let faults = faults.lock().expect("no panic with the lock");
    assert!(
        faults.is_empty(),
        "another's bytes in a request: {faults:?}"
    );
    assert!(
        asked > 10 && whole > asked / 10,
        "{whole} answers to {asked} requests"
    );
    for origin in &origins {
        let labels = format!("upstream=\"app\",server=\"{}\"", origin.address());
        let series = format!("evenkeel_upstream_requests_in_flight{{{labels}}}");
        eventually("every lease is back", || proxy.metric(&series) == Some(0.0));
    }
    let series = "evenkeel_requests_in_flight{listener=\"web\"}";
    eventually("every request has ended", || {
        proxy.metric(series) == Some(0.0)
    });
}

#[test]
fn nobody_ever_holds_a_byte_of_anothers() {
    storm("retry = { attempts = 0 }\nconnections = { max-idle = 8 }");
}

#[test]
fn nobody_ever_holds_a_byte_of_anothers_that_is_sent_again() {
    storm(
        "retry = { attempts = 1, budget = { ratio = \"100%\", min-per-second = 1000 } }\n\
         connections = { max-idle = 8 }",
    );
}

#[test]
fn nobody_ever_holds_a_byte_of_anothers_that_waited() {
    storm(
        "max-requests = 3\nqueue = { size = 100, timeout = \"200ms\" }\n\
         connections = { max-idle = 2, max-connections = 4 }",
    );
}
