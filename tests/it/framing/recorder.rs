//! An origin that writes down every byte that comes, and every request that an independent and
//! strict reader finds in them: what that cannot read is an entry too.

use std::sync::{Arc, Mutex};

use crate::support::client::lossy;
use crate::support::reference::{self, Message, Reading};
use crate::support::{Connection, Origin};

/// The recording origin.
pub struct Recorder {
    pub origin: Origin,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    entries: Vec<String>,
    /// Of each connection.
    bytes: Vec<Vec<u8>>,
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
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let shared = heard.clone();
        let origin = Origin::scripted(move |connection| {
            let mut bytes = Vec::new();
            while let Some(entry) = request(connection, &mut bytes, &shared) {
                let whole = !entry.ends_with("(cut)");
                let mut heard = shared.lock().expect("no panic with the lock");
                heard.entries.push(entry);
                drop(heard);
                if !whole {
                    return;
                }
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        Recorder { origin, heard }
    }

    /// One line per request: start line, fields and body, without what every proxy run adds.
    pub fn seen(&self) -> Vec<String> {
        self.lock().entries.clone()
    }

    /// The same, and forgets it.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().entries)
    }

    /// What came is, on each connection, whole requests one behind the other, and at most one cut
    /// one at the end; another reader of heads sees the same ends and the same names.
    #[track_caller]
    pub fn check(&self) {
        for bytes in &self.lock().bytes {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match reference::request(rest) {
                    Reading::Whole(message) => {
                        reference::agrees_with_httparse(rest, &message);
                        rest = &rest[message.length..];
                    }
                    Reading::Partial(_) => break,
                    Reading::Faulty(fault) => panic!("{fault}: {}", rest.escape_ascii()),
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic with the lock")
    }
}

/// `None`: the proxy closed between two requests. A request that broke off ends in `(cut)`.
/// `bytes` are those of the connection that no request has had yet.
fn request(
    connection: &mut Connection,
    bytes: &mut Vec<u8>,
    heard: &Mutex<Heard>,
) -> Option<String> {
    let mut continued = false;
    loop {
        match reference::request(bytes) {
            Reading::Whole(message) => {
                let own: Vec<u8> = bytes.drain(..message.length).collect();
                return Some(whole(&message, &own));
            }
            Reading::Faulty(fault) => return Some(format!("FAULTY: {fault} (cut)")),
            Reading::Partial(Some(message)) if !continued && expects(&message) => {
                connection.send("HTTP/1.1 100 Continue\r\n\r\n");
                continued = true;
            }
            Reading::Partial(head) => match connection.some() {
                Some(more) => {
                    note(connection.index, &more, heard);
                    bytes.extend(more);
                }
                None if bytes.is_empty() => return None,
                None => {
                    let read = head.map_or_else(|| lossy(bytes), |head| entry(&head));
                    return Some(format!("{read} (cut)"));
                }
            },
        }
    }
}

fn note(connection: usize, more: &[u8], heard: &Mutex<Heard>) {
    let mut heard = heard.lock().expect("no panic with the lock");
    let count = heard.bytes.len().max(connection + 1);
    heard.bytes.resize(count, Vec::new());
    heard.bytes[connection].extend(more);
}

fn expects(message: &Message) -> bool {
    !message.values("expect").is_empty()
}

fn whole(message: &Message, bytes: &[u8]) -> String {
    let mut line = entry(message);
    if let Some(fault) = reference::forwarded_fault(message, bytes) {
        return format!("FAULTY: {fault}: {line} (cut)");
    }
    if message.head < message.length {
        line += " | ";
        line += &lossy(&bytes[message.head..]).replace("\r\n", "~");
    }
    line
}

fn entry(message: &Message) -> String {
    let [method, target, _] = &message.start;
    let mut parts = vec![format!("{} {}", lossy(method), lossy(target))];
    for (name, value) in &message.fields {
        let (name, value) = (lossy(name), lossy(value));
        let lower = name.to_ascii_lowercase();
        if ADDED.contains(&&*lower) || (lower == "host" && value == "h") {
            continue;
        }
        parts.push(format!("{name}: {value}").trim_end().to_owned());
    }
    parts.join(" | ")
}
