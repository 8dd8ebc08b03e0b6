//! Every byte in every place of a request: what the grammar allows there goes on as it is, or as
//! the contract says; everything else is refused and reaches no server.

use super::recorder::Recorder;
use super::requests::{show, start};
use crate::support::Proxy;
use crate::support::client::lossy;

/// What becomes of a request.
enum Outcome {
    /// 200, and the server sees this.
    Seen(String),
    /// This status and the connection's end, and the server sees nothing whole.
    Refused(u16),
}

use Outcome::{Refused, Seen};

const BAD: Outcome = Refused(400);

struct Scene {
    recorder: Recorder,
    proxy: Proxy,
}

impl Scene {
    fn start() -> Self {
        let recorder = Recorder::start();
        let proxy = start(&recorder);
        Scene { recorder, proxy }
    }

    /// A request with each byte between these two.
    fn between(&self, clause: &str, ends: [&str; 2], outcome: impl Fn(u8) -> Outcome) {
        let [before, after] = ends.map(str::as_bytes);
        let request = |byte| [before, &[byte], after].concat();
        self.every_byte(clause, request, outcome);
    }

    /// A request for each byte.
    fn every_byte(
        &self,
        clause: &str,
        request: impl Fn(u8) -> Vec<u8>,
        outcome: impl Fn(u8) -> Outcome,
    ) {
        let mut expected = Vec::new();
        for byte in 0..=255 {
            let bytes = request(byte);
            let what = format!("RFC {clause}: {}", show(&bytes));
            let mut client = self.proxy.client();
            // Refused before it is whole, it may not be taken whole.
            let _ = client.try_send(&bytes);
            let answer = client.try_response();
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            let closes = answer.header("connection") == Some("close");
            match outcome(byte) {
                Seen(entry) => {
                    assert_eq!((answer.status, closes), (200, false), "{what}");
                    assert!(
                        client.take_buffered().is_empty(),
                        "{what}: more is behind it"
                    );
                    expected.push(entry);
                }
                Refused(status) => {
                    assert_eq!((answer.status, closes), (status, true), "{what}");
                    assert!(client.rest().is_empty(), "{what}: more is behind it");
                }
            }
        }
        let mut seen = self.recorder.take();
        seen.retain(|entry| entry.starts_with("FAULTY") || !entry.ends_with("(cut)"));
        assert_eq!(seen, expected, "RFC {clause}");
        self.recorder.check();
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 127)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Seen as it is between these two where it is allowed.
fn seen_if(allowed: bool, before: &str, byte: u8, after: &str) -> Outcome {
    match allowed {
        true => Seen(lossy(
            &[before.as_bytes(), &[byte], after.as_bytes()].concat(),
        )),
        false => BAD,
    }
}

/// As a part of a field's name: an underscore takes the field away.
fn named(before: &str, byte: u8, after: &str) -> Outcome {
    match byte {
        b'_' => Seen("GET /".to_owned()),
        _ => seen_if(is_token(byte), &format!("GET / | {before}"), byte, after),
    }
}

#[test]
fn every_byte_of_a_request_line_means_one_thing() {
    let scene = Scene::start();
    let end = "HTTP/1.1\r\nHost: h\r\n\r\n";
    scene.between("9112 2.2: first", ["", &format!("GET / {end}")], |byte| {
        seen_if(is_token(byte), "", byte, "GET /")
    });
    scene.between("9110 9.1: method", ["G", &format!("T / {end}")], |byte| {
        seen_if(is_token(byte), "G", byte, "T /")
    });
    scene.between("9112 3: behind it", ["GET", &format!("/ {end}")], |byte| {
        seen_if(byte == b' ', "GET", byte, "/")
    });
    scene.between("9112 3.2: target", ["GET ", &format!("a {end}")], |byte| {
        seen_if(byte == b'/', "GET ", byte, "a")
    });
    scene.between(
        "9112 3.2: path",
        ["GET /a", &format!("c {end}")],
        |byte| match byte {
            // The escape would not be whole.
            0..=b' ' | 127 | b'#' | b'\\' | b'%' => BAD,
            128.. => Seen(format!("GET /a%{byte:02X}c")),
            _ => seen_if(true, "GET /a", byte, "c"),
        },
    );
    scene.between(
        "3986 2.1: escape",
        ["GET /a%", &format!("1 {end}")],
        |byte| match byte {
            // Unreserved ones are decoded.
            b'3'..=b'7' => Seen(format!("GET /a{}", char::from((byte - b'0') << 4 | 1))),
            b'2' | b'8' | b'9' | b'A'..=b'F' => seen_if(true, "GET /a%", byte, "1"),
            b'a'..=b'f' => seen_if(true, "GET /a%", byte.to_ascii_uppercase(), "1"),
            _ => BAD,
        },
    );
    scene.between(
        "3986 2.1: escape",
        ["GET /a%4", &format!(" {end}")],
        |byte| match byte {
            b'0' => Seen("GET /a%40".to_owned()),
            b'1'..=b'9' => Seen(format!("GET /a{}", char::from(0x40 + byte - b'0'))),
            b'a'..=b'f' | b'A'..=b'F' => {
                let digit = byte.to_ascii_uppercase() - b'A' + 10;
                Seen(format!("GET /a{}", char::from(0x40 + digit)))
            }
            _ => BAD,
        },
    );
    scene.between(
        "9112 3.2: query",
        ["GET /?a", &format!("c {end}")],
        |byte| {
            let allowed = byte > b' ' && byte != 127 && byte != b'#';
            seen_if(allowed, "GET /?a", byte, "c")
        },
    );
    scene.between(
        "9112 3: behind the target",
        ["GET /", end],
        |byte| match byte {
            b' ' => Seen("GET /".to_owned()),
            _ => BAD,
        },
    );
}

#[test]
fn every_byte_of_a_version_and_of_line_ends_means_one_thing() {
    let scene = Scene::start();
    let only = |wanted: u8| {
        move |byte: u8| match byte {
            _ if byte == wanted => Seen("GET /".to_owned()),
            b'0'..=b'9' if wanted == b'1' => Refused(505),
            _ => BAD,
        }
    };
    let end = "\r\nHost: h\r\n\r\n";
    scene.between(
        "9112 2.3: name",
        ["GET / HTT", &format!("/1.1{end}")],
        only(b'P'),
    );
    scene.between(
        "9112 2.3: slash",
        ["GET / HTTP", &format!("1.1{end}")],
        only(b'/'),
    );
    scene.between(
        "9112 2.3: major",
        ["GET / HTTP/", &format!(".1{end}")],
        only(b'1'),
    );
    scene.between(
        "9112 2.3: dot",
        ["GET / HTTP/1", &format!("1{end}")],
        only(b'.'),
    );
    let kept = "\r\nHost: h\r\nConnection: keep-alive\r\n\r\n";
    scene.between(
        "9112 2.3: minor",
        ["GET / HTTP/1.", kept],
        |byte| match byte {
            b'0' => Seen("GET /".to_owned()),
            _ => only(b'1')(byte),
        },
    );
    scene.between("9112 3: behind it", ["GET / HTTP/1.1", end], |_| BAD);
    scene.between("9112 2.2: CR", ["GET / HTTP/1.1", &end[1..]], only(b'\r'));
    scene.between("9112 2.2: LF", ["GET / HTTP/1.1\r", &end[2..]], only(b'\n'));
    let head = "GET / HTTP/1.1\r\nHost: h";
    scene.between(
        "9112 2.2: a field's CR",
        [head, "\n\r\n"],
        |byte| match byte {
            b'\r' => Seen("GET /".to_owned()),
            _ => BAD,
        },
    );
    scene.between(
        "9112 2.2: a field's LF",
        [&format!("{head}\r"), "\r\n"],
        only(b'\n'),
    );
    scene.between(
        "9112 2.2: last CR",
        [&format!("{head}\r\n"), "\n"],
        only(b'\r'),
    );
    scene.between(
        "9112 2.2: last LF",
        [&format!("{head}\r\n\r"), ""],
        only(b'\n'),
    );
}

#[test]
fn every_byte_of_a_field_line_means_one_thing() {
    let scene = Scene::start();
    let head = "GET / HTTP/1.1\r\nHost: h\r\n";
    let end = "\r\n\r\n";
    let name = [head, &format!("X: y{end}")];
    scene.between("9110 5.1: first", name, |byte| named("", byte, "X: y"));
    let inside = [&*format!("{head}X"), &format!("Y: z{end}")];
    scene.between("9110 5.1: in a name", inside, |byte| match byte {
        b':' => Seen("GET / | X: Y: z".to_owned()),
        _ => named("X", byte, "Y: z"),
    });
    let colon = [&*format!("{head}X"), &format!(": y{end}")];
    scene.between("9112 5.1: before the colon", colon, |byte| match byte {
        b':' => Seen("GET / | X: : y".to_owned()),
        _ => named("X", byte, ": y"),
    });
    for counts in ["Content-Length", "Transfer-Encoding"] {
        let colon = [&*format!("{head}{counts}"), &format!(":5{end}")];
        scene.between("9112 5.1: before the colon", colon, |byte| match byte {
            // Neither a length nor a coding.
            b':' => BAD,
            _ => named(counts, byte, ": 5"),
        });
    }
    scene.between(
        "9110 5.5: a value",
        [&format!("{head}X:"), end],
        |byte| match byte {
            b' ' | b'\t' => Seen("GET / | X:".to_owned()),
            _ => seen_if(is_text(byte), "GET / | X: ", byte, ""),
        },
    );
    // Where it stands in a word of the machine must not matter.
    for front in [
        "a",
        "0123456",
        "0123456789abcde",
        "0123456789abcdef0123456789abcdef",
    ] {
        for back in ["c", "0123456789abcdef0123456789abcdef"] {
            let ends = [&*format!("{head}X: {front}"), &format!("{back}{end}")];
            let seen = format!("GET / | X: {front}");
            scene.between("9110 5.5: in a value", ends, |byte| {
                seen_if(is_text(byte), &seen, byte, back)
            });
        }
    }
}

#[test]
fn every_byte_of_a_host_means_one_thing() {
    let scene = Scene::start();
    let start = "GET / HTTP/1.1\r\nHost: ";
    let end = "\r\n\r\n";
    scene.between(
        "9112 3.2: Host",
        [&format!("{start}a"), &format!("c{end}")],
        |byte| seen_if(is_name(byte), "GET / | Host: a", byte, "c"),
    );
    scene.between(
        "9112 3.2: Host's last",
        [&format!("{start}a"), end],
        |byte| match byte {
            b' ' | b'\t' => Seen("GET / | Host: a".to_owned()),
            _ => seen_if(is_name(byte) || byte == b':', "GET / | Host: a", byte, ""),
        },
    );
    scene.between(
        "9110 4.2: port",
        [&format!("{start}h:8"), &format!("0{end}")],
        |byte| seen_if(byte.is_ascii_digit(), "GET / | Host: h:8", byte, "0"),
    );
    scene.between(
        "3986 3.2.2: IPv6",
        [&format!("{start}[:"), &format!("1]{end}")],
        |byte| seen_if(byte == b':', "GET / | Host: [:", byte, "1]"),
    );
    let ends = ["GET http://a", "c/ HTTP/1.1\r\nHost: h\r\n\r\n"];
    scene.between("9112 3.2.2: authority", ends, |byte| match byte {
        b'/' => Seen("GET /c/ | Host: a".to_owned()),
        b'?' => Seen("GET /?c/ | Host: a".to_owned()),
        _ => seen_if(is_name(byte), "GET / | Host: a", byte, "c"),
    });
}

fn post(fields: &[u8], body: &[u8]) -> Vec<u8> {
    let head = b"POST / HTTP/1.1\r\nHost: h\r\n";
    [head, fields, b"\r\n\r\n", body].concat()
}

/// With as many bytes as these digits say, if they are digits.
fn by_length(digits: &[u8]) -> Vec<u8> {
    let body = vec![b'x'; decimal(digits).unwrap_or(0)];
    post(&[b"Content-Length: ", digits].concat(), &body)
}

fn decimal(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits.trim_ascii()).ok()?.parse().ok()
}

#[test]
fn every_byte_of_a_framing_field_means_one_thing() {
    let scene = Scene::start();
    for (before, after) in [("0", ""), ("", "1"), ("1", "1"), ("", "")] {
        let digits = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let outcome = |byte: u8| {
            let space = matches!(byte, b' ' | b'\t') && before.len() + after.len() == 1;
            match decimal(&digits(byte)) {
                Some(length) if space || byte.is_ascii_digit() => {
                    let body = "x".repeat(length);
                    let entry = format!("POST / | Content-Length: {length} | {body}");
                    Seen(entry.trim_end_matches(" | ").to_owned())
                }
                _ => BAD,
            }
        };
        scene.every_byte("9110 8.6", |byte| by_length(&digits(byte)), outcome);
    }
    for (before, after) in [("", "chunked"), ("chun", "ked"), ("chunked", "")] {
        let coding = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let request = |byte| {
            post(
                &[b"Transfer-Encoding: ", &*coding(byte)].concat(),
                b"0\r\n\r\n",
            )
        };
        let edge = before.is_empty() || after.is_empty();
        scene.every_byte("9112 7", request, |byte| match byte {
            b' ' | b'\t' if edge => Seen("POST / | Transfer-Encoding: chunked | 0~~".to_owned()),
            // Another coding, or two of them.
            b',' if !edge => Refused(501),
            _ if is_token(byte) => Refused(501),
            _ => BAD,
        });
    }
    let expect = [
        "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue",
        "\r\n\r\n",
    ];
    scene.between("9110 10.1.1", expect, |byte| match byte {
        b' ' | b'\t' => Seen("GET / | Expect: 100-continue".to_owned()),
        _ if is_text(byte) => Refused(417),
        _ => BAD,
    });
}

/// A body in one chunk of that size line, and the last one.
fn chunk(line: &[u8]) -> Vec<u8> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let body = match hexadecimal(digits) {
        Some(0) => [line, b"\r\n\r\n"].concat(),
        size => {
            let data = "x".repeat(size.unwrap_or(5)).into_bytes();
            [line, b"\r\n", &data, b"\r\n0\r\n\r\n"].concat()
        }
    };
    post(b"Transfer-Encoding: chunked", &body)
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| usize::from_str_radix(text, 16).ok())?
}

/// What the server sees of [`chunk`]: with zeros in front or an extension the framing is ours.
fn chunk_seen(line: &str) -> Outcome {
    let digits = line.split(';').next().unwrap_or_default();
    let body = match usize::from_str_radix(digits, 16).expect("digits") {
        0 => "0~~".to_owned(),
        size if digits == line && !digits.starts_with('0') => {
            format!("{digits}~{}~0~~", "x".repeat(size))
        }
        size => format!("{size:x}~{}~0~~", "x".repeat(size)),
    };
    Seen(format!("POST / | Transfer-Encoding: chunked | {body}"))
}

#[test]
fn every_byte_of_chunk_framing_means_one_thing() {
    let scene = Scene::start();
    for (before, after) in [("5", ""), ("", "5"), ("0", ""), ("1", "0")] {
        let line = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        scene.every_byte(
            "9112 7.1: size",
            |byte| chunk(&line(byte)),
            |byte| match byte {
                _ if byte.is_ascii_hexdigit() => chunk_seen(&lossy(&line(byte))),
                b';' if !before.is_empty() => chunk_seen(before),
                _ => BAD,
            },
        );
    }
    for (before, after) in [
        ("5;", ""),
        ("5;a", ""),
        ("5;a", "b=c"),
        ("5;0123456", "89abcdef"),
    ] {
        let line = |byte: u8| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        scene.every_byte(
            "9112 7.1.1: extension",
            |byte| chunk(&line(byte)),
            |byte| match is_text(byte) {
                true => chunk_seen("5"),
                false => BAD,
            },
        );
    }
    let body = |before: &'static str, after: &'static str| {
        move |byte: u8| {
            let body = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            post(b"Transfer-Encoding: chunked", &body)
        }
    };
    let whole = |wanted: u8| move |byte: u8| if byte == wanted { chunk_seen("5") } else { BAD };
    let size = body("5", "\nxxxxx\r\n0\r\n\r\n");
    scene.every_byte("9112 7.1: CR behind a size", size, whole(b'\r'));
    let size = body("5\r", "xxxxx\r\n0\r\n\r\n");
    scene.every_byte("9112 7.1: LF behind a size", size, whole(b'\n'));
    let data = body("5\r\nxxxxx", "\n0\r\n\r\n");
    scene.every_byte("9112 7.1: CR behind data", data, whole(b'\r'));
    let data = body("5\r\nxxxxx\r", "0\r\n\r\n");
    scene.every_byte("9112 7.1: LF behind data", data, whole(b'\n'));
    let last = body("5\r\nxxxxx\r\n0\r\n", "\n");
    scene.every_byte("9112 7.1: last CR", last, whole(b'\r'));
    let last = body("5\r\nxxxxx\r\n0\r\n\r", "");
    scene.every_byte("9112 7.1: last LF", last, whole(b'\n'));
}

#[test]
fn every_byte_of_a_trailer_means_one_thing() {
    let scene = Scene::start();
    let seen = |trailer: &[u8]| {
        let trailer = lossy(trailer).replace("\r\n", "~");
        Seen(format!(
            "POST / | Transfer-Encoding: chunked | 0~{trailer}~"
        ))
    };
    let trailer = |before: &str, byte: u8, after: &str| {
        [before.as_bytes(), &[byte], after.as_bytes(), b"\r\n"].concat()
    };
    for (before, after) in [("", "X: y"), ("X", "Y: z"), ("X", ": y")] {
        let line = |byte| trailer(before, byte, after);
        let request = |byte| {
            let body = [b"0\r\n", &*line(byte), b"\r\n"].concat();
            post(b"Transfer-Encoding: chunked", &body)
        };
        scene.every_byte("9112 7.1.2: name", request, |byte| match byte {
            b'_' => seen(b""),
            b':' if !before.is_empty() => seen(&line(byte)),
            _ if is_token(byte) => seen(&line(byte)),
            _ => BAD,
        });
    }
    let line = |byte| trailer("X: a", byte, "c");
    let request = |byte| {
        let body = [b"0\r\n", &*line(byte), b"\r\n"].concat();
        post(b"Transfer-Encoding: chunked", &body)
    };
    scene.every_byte("9112 7.1.2: value", request, |byte| match is_text(byte) {
        true => seen(&line(byte)),
        false => BAD,
    });
}
