//! Every byte in every place of an answer: what the grammar allows reaches the client as it is;
//! everything else is 502, or breaks the answer off where it has begun.

use std::sync::{Arc, Mutex};

use super::answers::start;
use super::requests::show;
use crate::support::client::lossy;
use crate::support::reference::{Message, Reading};
use crate::support::{Origin, Proxy};

/// What becomes of an answer.
enum Outcome {
    /// The client gets this; its connection and the server's go on.
    Whole(String),
    /// The same; the server's connection is not used again.
    Last(String),
    /// 502 `bad_response`.
    Refused,
    /// The client has the head and sees that the rest is not whole.
    Broken,
}

use Outcome::{Broken, Last, Refused, Whole};

struct Scene {
    answer: Arc<Mutex<Vec<u8>>>,
    origin: Origin,
    proxy: Proxy,
}

impl Scene {
    fn start() -> Self {
        let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
        let shared = answer.clone();
        let origin = Origin::scripted(move |connection| {
            while let Some(request) = connection.request() {
                if request.target() == "/next" {
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
                    continue;
                }
                let bytes = shared.lock().expect("no panic with the lock").clone();
                connection.send(bytes);
            }
        });
        let proxy = start(&origin);
        Scene {
            answer,
            origin,
            proxy,
        }
    }

    /// An answer with each byte between these two.
    fn between(&self, clause: &str, ends: [&str; 2], outcome: impl Fn(u8) -> Outcome) {
        let [before, after] = ends.map(str::as_bytes);
        let answer = |byte| [before, &[byte], after].concat();
        self.every_byte(clause, answer, outcome);
    }

    /// An answer for each byte.
    fn every_byte(
        &self,
        clause: &str,
        answer: impl Fn(u8) -> Vec<u8>,
        outcome: impl Fn(u8) -> Outcome,
    ) {
        let mut client = self.proxy.client();
        for byte in 0..=255 {
            let bytes = answer(byte);
            let what = format!("RFC {clause}: {}", show(&bytes));
            *self.answer.lock().expect("no panic with the lock") = bytes;
            client.send("GET /case HTTP/1.1\r\nHost: h\r\n\r\n");
            let got = client.strictly("GET");
            let wanted = outcome(byte);
            match (&wanted, &got) {
                (Whole(line) | Last(line), Reading::Whole(message)) => {
                    assert_eq!(&entry(message), line, "{what}");
                }
                (Refused, Reading::Whole(message)) => {
                    assert_eq!(message.start[1], b"502", "{what}");
                    let reason = message.values("x-evenkeel-reason");
                    assert_eq!(reason, [b"bad_response"], "{what}");
                }
                (Broken, Reading::Partial(Some(_))) => client = self.proxy.client(),
                (_, got) => panic!("{what}: {got:?}"),
            }
            let used = self.origin.last().connection;
            assert_eq!(client.get("/next").text(), "next", "after {what}");
            let again = self.origin.last().connection == used;
            assert_eq!(again, matches!(wanted, Whole(_)), "used again: {what}");
        }
    }
}

/// Status, reason, fields, body and trailers, without what every proxy run adds and the framing.
fn entry(message: &Message) -> String {
    let [_, status, reason] = &message.start;
    let mut parts = vec![format!("{} {}", lossy(status), lossy(reason))];
    let ours = [
        "via",
        "date",
        "content-length",
        "transfer-encoding",
        "connection",
    ];
    let line = |(name, value): &(Vec<u8>, Vec<u8>)| format!("{}: {}", lossy(name), lossy(value));
    let theirs = message.fields.iter().filter(|(name, _)| {
        let name = lossy(name).to_ascii_lowercase();
        !ours.contains(&&*name)
    });
    parts.extend(theirs.map(line));
    parts.push(lossy(&message.body));
    parts.extend(message.trailers.iter().map(line));
    parts.join(" | ")
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 127)
}

/// Reaches the client as it is between these two where it is allowed.
fn whole_if(allowed: bool, before: &str, byte: u8, after: &str) -> Outcome {
    match allowed {
        true => Whole(lossy(
            &[before.as_bytes(), &[byte], after.as_bytes()].concat(),
        )),
        false => Refused,
    }
}

const END: &str = "\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn every_byte_of_a_status_line_means_one_thing() {
    let scene = Scene::start();
    let only = |wanted: u8| {
        move |byte: u8| match byte {
            _ if byte == wanted => Whole("200 OK | ok".to_owned()),
            _ => Refused,
        }
    };
    scene.between(
        "9112 4: name",
        ["HTT", &format!("/1.1 200 OK{END}")],
        only(b'P'),
    );
    scene.between(
        "9112 4: major",
        ["HTTP/", &format!(".1 200 OK{END}")],
        only(b'1'),
    );
    scene.between(
        "9112 4: dot",
        ["HTTP/1", &format!("1 200 OK{END}")],
        only(b'.'),
    );
    scene.between(
        "9112 4: minor",
        ["HTTP/1.", &format!(" 200 OK{END}")],
        |byte| match byte {
            b'0' => Last("200 OK | ok".to_owned()),
            _ => only(b'1')(byte),
        },
    );
    scene.between(
        "9112 4: space",
        ["HTTP/1.1", &format!("200 OK{END}")],
        only(b' '),
    );
    // An interim answer is another matter.
    scene.between(
        "9112 4: first digit",
        ["HTTP/1.1 ", &format!("02 OK{END}")],
        |byte| match byte {
            b'1' => Refused,
            _ => whole_if(matches!(byte, b'2'..=b'9'), "", byte, "02 OK | ok"),
        },
    );
    let ends = ["HTTP/1.1 2", &format!("1 OK{END}")];
    scene.between("9112 4: second digit", ends, |byte| {
        whole_if(byte.is_ascii_digit(), "2", byte, "1 OK | ok")
    });
    let ends = ["HTTP/1.1 21", &format!(" OK{END}")];
    scene.between("9112 4: third digit", ends, |byte| {
        whole_if(byte.is_ascii_digit(), "21", byte, " OK | ok")
    });
    scene.between(
        "9112 4: space",
        ["HTTP/1.1 200", &format!("OK{END}")],
        only(b' '),
    );
    scene.between(
        "9112 4: reason",
        ["HTTP/1.1 200 O", &format!("K{END}")],
        |byte| whole_if(is_text(byte), "200 O", byte, "K | ok"),
    );
    let long = "0123456789abcdef0123456789abcdef";
    let ends = [&*format!("HTTP/1.1 200 {long}"), &format!("{long}{END}")];
    scene.between("9112 4: reason", ends, |byte| {
        whole_if(
            is_text(byte),
            &format!("200 {long}"),
            byte,
            &format!("{long} | ok"),
        )
    });
    scene.between("9112 2.2: CR", ["HTTP/1.1 200 OK", &END[1..]], only(b'\r'));
    scene.between(
        "9112 2.2: LF",
        ["HTTP/1.1 200 OK\r", &END[2..]],
        only(b'\n'),
    );
}

#[test]
fn every_byte_of_a_servers_field_line_means_one_thing() {
    let scene = Scene::start();
    let head = "HTTP/1.1 200 OK\r\n";
    let field = |byte: u8, name: String| match is_token(byte) {
        true => Whole(format!("200 OK | {name} | ok")),
        false => Refused,
    };
    let first = [head, &format!("X: y{END}")];
    scene.between("9110 5.1: first", first, |byte| {
        field(byte, lossy(&[byte]) + "X: y")
    });
    let inside = [&*format!("{head}X"), &format!("Y: z{END}")];
    scene.between("9110 5.1: in a name", inside, |byte| match byte {
        b':' => Whole("200 OK | X: Y: z | ok".to_owned()),
        _ => field(byte, format!("X{}Y: z", lossy(&[byte]))),
    });
    let colon = [&*format!("{head}X"), &format!(": y{END}")];
    scene.between("9112 5.1: before the colon", colon, |byte| match byte {
        b':' => Whole("200 OK | X: : y | ok".to_owned()),
        _ => field(byte, format!("X{}: y", lossy(&[byte]))),
    });
    scene.between(
        "9110 5.5: a value",
        [&format!("{head}X:"), END],
        |byte| match byte {
            b' ' | b'\t' => Whole("200 OK | X:  | ok".to_owned()),
            _ => whole_if(is_text(byte), "200 OK | X: ", byte, " | ok"),
        },
    );
    for front in ["a", "0123456", "0123456789abcdef0123456789abcdef"] {
        let ends = [&*format!("{head}X: {front}"), &format!("c{END}")];
        let front = format!("200 OK | X: {front}");
        scene.between("9110 5.5: in a value", ends, |byte| {
            whole_if(is_text(byte), &front, byte, "c | ok")
        });
    }
    let last = [head, "\n"].map(str::to_owned);
    let last = [&*format!("{}Content-Length: 0\r\n", last[0]), &last[1]];
    scene.between("9112 2.2: last CR", last, |byte| match byte {
        b'\r' => Whole("200 OK | ".to_owned()),
        _ => Refused,
    });
}

#[test]
fn every_byte_of_a_servers_framing_means_one_thing() {
    let scene = Scene::start();
    let head = "HTTP/1.1 200 OK\r\n";
    for (before, after) in [("0", ""), ("", "1"), ("1", "1")] {
        let digits = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let length = |byte: u8| {
            let digits = digits(byte);
            let text = std::str::from_utf8(digits.trim_ascii()).ok()?.to_owned();
            let space = matches!(byte, b' ' | b'\t') && text.len() == 1;
            (space || byte.is_ascii_digit()).then(|| text.parse::<usize>().ok())?
        };
        let answer = |byte| {
            let body = vec![b'x'; length(byte).unwrap_or(0)];
            [
                head.as_bytes(),
                b"Content-Length: ",
                &digits(byte),
                b"\r\n\r\n",
                &body,
            ]
            .concat()
        };
        scene.every_byte("9110 8.6", answer, |byte| match length(byte) {
            Some(length) => Whole(format!("200 OK | {}", "x".repeat(length))),
            None => Refused,
        });
    }
    for (before, after) in [("", "chunked"), ("chun", "ked"), ("chunked", "")] {
        let ends = [
            format!("{head}Transfer-Encoding: {before}"),
            format!("{after}\r\n\r\n0\r\n\r\n"),
        ];
        let edge = before.is_empty() || after.is_empty();
        scene.between("9112 7", [&ends[0], &ends[1]], |byte| match byte {
            b' ' | b'\t' if edge => Whole("200 OK | ".to_owned()),
            _ => Refused,
        });
    }
}

fn chunked(body: &[u8]) -> Vec<u8> {
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        body,
    ]
    .concat()
}

#[test]
fn every_byte_of_a_servers_chunks_means_one_thing() {
    let scene = Scene::start();
    let size = |digits: &[u8]| {
        let text = std::str::from_utf8(digits).ok()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| usize::from_str_radix(text, 16).ok())?
    };
    for (before, after) in [("5", ""), ("", "5"), ("0", ""), ("5;", ""), ("5;a", "b")] {
        let line = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let digits = |byte: u8| {
            let line = line(byte);
            size(line.split(|&byte| byte == b';').next().unwrap_or_default())
                .filter(|_| is_text(byte))
        };
        let answer = |byte| match digits(byte) {
            Some(0) => chunked(&[&*line(byte), b"\r\n\r\n"].concat()),
            size => {
                let data = vec![b'x'; size.unwrap_or(5)];
                chunked(&[&*line(byte), b"\r\n", &data, b"\r\n0\r\n\r\n"].concat())
            }
        };
        scene.every_byte("9112 7.1", answer, |byte| match digits(byte) {
            Some(size) => Whole(format!("200 OK | {}", "x".repeat(size))),
            None => Broken,
        });
    }
    for (before, after, wanted) in [
        ("5", "\nxxxxx\r\n0\r\n\r\n", b'\r'),
        ("5\r", "xxxxx\r\n0\r\n\r\n", b'\n'),
        ("5\r\nxxxxx", "\n0\r\n\r\n", b'\r'),
        ("5\r\nxxxxx\r", "0\r\n\r\n", b'\n'),
        ("5\r\nxxxxx\r\n0\r\n", "\n", b'\r'),
        ("5\r\nxxxxx\r\n0\r\n\r", "", b'\n'),
    ] {
        let body = |byte| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        scene.every_byte(
            "9112 7.1",
            |byte| chunked(&body(byte)),
            |byte| match byte == wanted {
                true => Whole("200 OK | xxxxx".to_owned()),
                false => Broken,
            },
        );
    }
    for (before, after) in [("X", "Y: z"), ("X: a", "c")] {
        let line = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let answer = |byte| chunked(&[b"0\r\n", &*line(byte), b"\r\n\r\n"].concat());
        let name = before == "X";
        scene.every_byte("9112 7.1.2", answer, |byte| match byte {
            b'_' if name => Whole("200 OK | ".to_owned()),
            b':' if name => Whole("200 OK |  | X: Y: z".to_owned()),
            _ if (name && is_token(byte)) || (!name && is_text(byte)) => {
                Whole(format!("200 OK |  | {}", lossy(&line(byte))))
            }
            _ => Broken,
        });
    }
}
