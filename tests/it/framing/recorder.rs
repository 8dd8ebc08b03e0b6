//! An origin that writes down every request that it could read in what came, by a parser of its
//! own that is stricter than any server's: what it cannot read is an entry too.

use std::sync::{Arc, Mutex};

use crate::support::client::{find, lossy};
use crate::support::{Connection, Origin};

/// The recording origin.
pub struct Recorder {
    pub origin: Origin,
    seen: Arc<Mutex<Vec<String>>>,
}

/// Added by every proxy run; not what these tests are about.
const ADDED: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-request-id",
    "via",
];

impl Recorder {
    pub fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = seen.clone();
        let origin = Origin::scripted(move |connection| {
            while let Some(entry) = request(connection) {
                let whole = !entry.ends_with("(cut)");
                list.lock().expect("no panic with the lock").push(entry);
                if !whole {
                    return;
                }
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        Recorder { origin, seen }
    }

    /// One line per request: start line, fields and body, without what every proxy run adds.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic with the lock").clone()
    }
}

/// `None`: the proxy closed between two requests. A request that broke off ends in `(cut)`.
fn request(connection: &mut Connection) -> Option<String> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end + 4;
        }
        match connection.some() {
            Some(more) => bytes.extend(more),
            None if bytes.is_empty() => return None,
            None => return Some(format!("{} (cut)", lossy(&bytes))),
        }
    };
    let rest = bytes.split_off(head);
    let (entry, framing) = read_head(&lossy(&bytes));
    connection.unread(rest);
    if entry.contains("Expect: 100-continue") {
        connection.send("HTTP/1.1 100 Continue\r\n\r\n");
    }
    let body = match framing {
        Framing::Bytes(0) => return Some(entry),
        Framing::Bytes(count) => connection.exactly(count),
        Framing::Chunked => connection.chunked(),
        Framing::Faulty => return Some(format!("{entry} (cut)")),
    };
    Some(match body {
        Some(body) => format!("{entry} | {}", lossy(&body).replace("\r\n", "~")),
        None => format!("{entry} (cut)"),
    })
}

enum Framing {
    Bytes(usize),
    Chunked,
    Faulty,
}

fn read_head(head: &str) -> (String, Framing) {
    let mut entry = Vec::new();
    let (mut lengths, mut codings, mut hosts, mut faulty) = (Vec::new(), 0, 0, false);
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let start = lines.next().unwrap_or_default();
    faulty |= start.split(' ').count() != 3 || !start.ends_with(" HTTP/1.1");
    entry.push(start.trim_end_matches(" HTTP/1.1").to_owned());
    for line in lines {
        faulty |= line
            .bytes()
            .any(|byte| (byte < 32 && byte != 9) || byte == 127);
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        faulty |= name.is_empty() || !name.bytes().all(token);
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" => lengths.push(value.trim().parse::<usize>()),
            "transfer-encoding" => {
                codings += 1;
                faulty |= value.trim() != "chunked";
            }
            name if ADDED.contains(&name) => continue,
            _ => {}
        }
        if name.eq_ignore_ascii_case("host") && value.trim() == "h" {
            continue;
        }
        entry.push(line.to_owned());
    }
    faulty |= hosts != 1 || lengths.len() + codings > 1;
    let framing = match (faulty, codings, lengths.first()) {
        (true, ..) | (_, _, Some(Err(_))) => Framing::Faulty,
        (_, 0, None) => Framing::Bytes(0),
        (_, _, Some(Ok(length))) => Framing::Bytes(*length),
        _ => Framing::Chunked,
    };
    if matches!(framing, Framing::Faulty) {
        entry.insert(0, "FAULTY".to_owned());
    }
    (entry.join(" | "), framing)
}
