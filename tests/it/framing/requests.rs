//! Request heads and bodies that can be read in more than one way reach no server; the others
//! reach it as one request, the one that we read.

use super::recorder::Recorder;
use crate::support::{Proxy, eventually};

pub fn start(recorder: &Recorder) -> Proxy {
    Proxy::start(&format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocols = [\"http/1.1\"]\n\
         [upstream.app]\nservers = [\"{}\"]\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        recorder.origin.address()
    ))
}

pub fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(300)].escape_ascii().to_string()
}

/// A row a line, since it is a table: clause, request, status. Nothing of it may reach the server,
/// and nothing behind it is read.
type Refused = (&'static str, &'static [u8], u16);

#[rustfmt::skip]
const START_LINES: &[Refused] = &[
    ("RFC 9112 3: one space", b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: one space", b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: one space", b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: one space", b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: no tab", b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: no tab", b"GET /\tHTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: no vertical tab", b"GET /\x0bHTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: no space in it", b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: three parts", b"GET HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: three parts", b"GET\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3: method", b"/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9110 9.1: token", b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9110 9.1: token", b"G\0T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9110 9.1: token", b"G\xc3\x89T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: 0.9", b"GET /\r\n\r\n", 400),
    ("RFC 9112 2.3: 0.9", b"GET / HTTP/0.9\r\nHost: h\r\n\r\n", 505),
    ("RFC 9112 2.3: 1.2", b"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505),
    ("RFC 9112 2.3: 2.0", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ("RFC 9113 3.4: preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("RFC 9112 2.3: name", b"GET / http/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: name", b"GET / HTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: digits", b"GET / HTTP/1.10\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: digits", b"GET / HTTP/01.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: digits", b"GET / HTTP/1,1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: digits", b"GET / HTTP/1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.3: digits", b"GET / HTTP/1.x\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.2: one empty line", b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.2: bare LF", b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.2: bare LF", b"GET / HTTP/1.1\nHost: h\n\n", 400),
    ("RFC 9112 2.2: bare LF", b"GET / HTTP/1.1\r\nHost: h\n\r\n", 400),
    ("RFC 9112 2.2: bare LF", b"GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
    ("RFC 9112 2.2: bare LF", b"GET / HTTP/1.1\r\nX: a\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.2: bare CR", b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 2.2: bare CR", b"GET / HTTP/1.1\rHost: h\r\n\r\n", 400),
    ("RFC 9112 2.2: bare CR", b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400),
    ("RFC 9112 2.2: bare CR", b"GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", 400),
    ("RFC 9112 2.2: bare CR", b"GET /\rX HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: control byte", b"GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: control byte", b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: control byte", b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: control byte", b"GET /?\x7f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.3: only CONNECT", b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.4: only OPTIONS", b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.4: only OPTIONS", b"POST * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.4: alone", b"OPTIONS *x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.1: path", b"GET ?x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.1: path", b"GET a/b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: no fragment", b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: no fragment", b"GET /a?b#c HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: no fragment", b"GET http://h#c HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.2: authority", b"GET http:///a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.2: authority", b"GET http:a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2.2: port", b"GET http://h:99999/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9110 4.2.4: userinfo", b"GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9110 4.2: scheme", b"GET gopher://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 3986 2.1: escape", b"GET /%g0 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 3986 2.1: escape", b"GET /%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ("RFC 9110 9.3.6: no tunnel", b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 405),
    ("RFC 9110 9.3.6: no tunnel", b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
    (
        "RFC 9110 9.3.6: its body goes nowhere",
        b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\nContent-Length: 35\r\n\r\n\
          GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        405,
    ),
    ("RFC 9110 9.3.8: mirrors secrets", b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
];

#[rustfmt::skip]
const FIELDS: &[Refused] = &[
    ("RFC 9112 5.1: colon", b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    ("RFC 9112 5.1: colon", b"GET / HTTP/1.1\r\nHost\t: h\r\n\r\n", 400),
    ("RFC 9112 5.1: colon", b"GET / HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", 400),
    ("RFC 9112 5.1: colon", b"GET / HTTP/1.1\r\nHost: h\r\nX: y\r\nZ\r\n\r\n", 400),
    ("RFC 9112 2.2: no space first", b"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400),
    ("RFC 9112 2.2: no space first", b"GET / HTTP/1.1\r\n\tX: y\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 5.2: obs-fold", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
    ("RFC 9112 5.2: obs-fold", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n\tb\r\n\r\n", 400),
    ("RFC 9112 5.2: obs-fold", b"GET / HTTP/1.1\r\nHost: h\r\nX:\r\n b\r\n\r\n", 400),
    ("RFC 9112 5.2: obs-fold hides a field", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\n: y\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\nX Y: z\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\nX(: y\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\n\"X\": y\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\nX\0: y\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\nX\xff: y\r\n\r\n", 400),
    ("RFC 9110 5.1: token", b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-\nEncoding: chunked\r\n\r\n", 400),
    ("RFC 9110 5.5: NUL", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    ("RFC 9110 5.5: control byte", b"GET / HTTP/1.1\r\nHost: h\r\nX: \x01\r\n\r\n", 400),
    ("RFC 9110 5.5: control byte", b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x0bb\r\n\r\n", 400),
    ("RFC 9110 5.5: control byte", b"GET / HTTP/1.1\r\nHost: h\r\nX: \x7f\r\n\r\n", 400),
    ("RFC 9110 5.5: control byte", b"GET / HTTP/1.1\r\nHost: h\r\nX: \x1b[31m\r\n\r\n", 400),
    ("RFC 9112 3.2: one Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("RFC 9112 3.2: one Host", b"GET http://h/ HTTP/1.1\r\n\r\n", 400),
    ("RFC 9112 3.2: one Host", b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
    ("RFC 9112 3.2: one Host", b"GET / HTTP/1.1\r\nHost: h\r\nhOST: i\r\n\r\n", 400),
    ("RFC 9112 3.2: one Host", b"GET / HTTP/1.0\r\nHost: h\r\nHost: i\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: h#\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: http://h\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: h:x\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: h:80:80\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: h:65536\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", 400),
    ("RFC 9112 3.2: valid Host", b"GET / HTTP/1.1\r\nHost: h\xff\r\n\r\n", 400),
    ("RFC 9110 10.1.1: unknown", b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", 417),
    ("RFC 9110 10.1.1: unknown", b"GET / HTTP/1.1\r\nHost: h\r\nExpect:\r\n\r\n", 417),
    (
        "RFC 9110 10.1.1: hidden, its body is no request",
        b"GET / HTTP/1.1\r\nHost: h\r\nExpect: y 100-continue\r\nContent-Length: 35\r\n\r\n\
          GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        417,
    ),
    (
        "RFC 9110 10.1.1: twice",
        b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\
          Content-Length: 1\r\n\r\nx",
        417,
    ),
    ("RFC 9110 7.6.2: number", b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: -1\r\n\r\n", 400),
];

/// What stands in for the framing fields; a body of `hello` and a request to smuggle follow.
type Framing = (&'static str, &'static [u8], u16);

#[rustfmt::skip]
const FRAMING: &[Framing] = &[
    ("RFC 9112 6.1: both", b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    ("RFC 9112 6.1: both", b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    ("RFC 9112 6.1: both", b"Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
    ("RFC 9112 6.1: both", b"Content-Length: 5\r\nTransfer-Encoding: identity", 400),
    ("RFC 9112 6.3: twice", b"Content-Length: 5\r\nContent-Length: 5", 400),
    ("RFC 9112 6.3: twice", b"Content-Length: 5\r\nContent-Length: 6", 400),
    ("RFC 9112 6.3: twice", b"Content-Length: 5\r\ncontent-length: 0", 400),
    ("RFC 9112 6.3: list", b"Content-Length: 5, 5", 400),
    ("RFC 9112 6.3: list", b"Content-Length: 5,", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: +5", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: -5", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: 0x5", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: 5 5", 400),
    ("RFC 9110 8.6: digits", b"Content-Length:", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: 5a", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: 5.0", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: 5;", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: \"5\"", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: \xd9\xa5", 400),
    ("RFC 9110 8.6: digits", b"Content-Length: \x0b5", 400),
    ("RFC 9110 8.6: overflow", b"Content-Length: 18446744073709551616", 400),
    ("RFC 9110 8.6: overflow", b"Content-Length: 99999999999999999999", 400),
    ("RFC 9112 5.1: colon", b"Content-Length : 5", 400),
    ("RFC 9112 5.1: colon", b"Transfer-Encoding : chunked", 400),
    ("RFC 9112 5.2: folded", b"Transfer-Encoding:\r\n chunked", 400),
    ("RFC 9112 6.1: 1.0", b"10 Transfer-Encoding: chunked", 400),
    ("RFC 9112 6.1: 1.0", b"10 Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    ("RFC 9112 6.1: final", b"Transfer-Encoding: gzip", 400),
    ("RFC 9112 6.1: final", b"Transfer-Encoding: chunked, gzip", 400),
    ("RFC 9112 6.1: final", b"Transfer-Encoding: identity", 400),
    ("RFC 9112 7: once", b"Transfer-Encoding: chunked, chunked", 400),
    ("RFC 9112 7: once", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
    ("RFC 9112 7: once", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
    ("RFC 9112 7: once", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", 400),
    ("RFC 9112 6.1: unknown", b"Transfer-Encoding: gzip, chunked", 501),
    ("RFC 9112 6.1: unknown", b"Transfer-Encoding: identity, chunked", 501),
    ("RFC 9112 6.1: unknown", b"Transfer-Encoding: xchunked", 501),
    ("RFC 9112 6.1: unknown", b"Transfer-Encoding: cow", 501),
    ("RFC 9112 7: coding", b"Transfer-Encoding:", 400),
    ("RFC 9112 7: coding", b"Transfer-Encoding: chunked,", 400),
    ("RFC 9112 7: coding", b"Transfer-Encoding: ,chunked", 400),
    ("RFC 9112 7: coding", b"Transfer-Encoding: chunked;q=1", 400),
    ("RFC 9112 7: coding", b"Transfer-Encoding: \"chunked\"", 400),
    ("RFC 9112 7: coding", b"Transfer-Encoding: chunked chunked", 400),
    ("RFC 9112 7: coding", b"Transfer-Encoding: \xa0chunked", 400),
    ("RFC 9110 5.5: control byte", b"Transfer-Encoding: \x0bchunked", 400),
    ("RFC 9110 5.5: control byte", b"Transfer-Encoding: chunked\0", 400),
    ("RFC 9112 2.2: bare CR", b"X: y\rTransfer-Encoding: chunked", 400),
    ("RFC 9112 2.2: bare LF", b"X: y\nTransfer-Encoding: chunked", 400),
    ("RFC 9110 5.1: token", b"Transfer\xe2\x80\x90Encoding: chunked", 400),
];

const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

fn framed(fields: &[u8]) -> Vec<u8> {
    let (version, fields) = match fields.strip_prefix(b"10 ") {
        Some(fields) => ("1.0", fields),
        None => ("1.1", fields),
    };
    let start = format!("POST / HTTP/{version}\r\nHost: h\r\n");
    [
        start.as_bytes(),
        fields,
        b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        SMUGGLED,
    ]
    .concat()
}

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Alone,
    /// Pipelined behind a good one.
    Behind,
    ByteByByte,
}

const WAYS: [Way; 3] = [Way::Alone, Way::Behind, Way::ByteByByte];

/// A request that is refused, however it comes.
fn check_refused(proxy: &Proxy, clause: &str, bytes: &[u8], status: u16, ways: &[Way]) {
    let good = b"GET /before HTTP/1.1\r\nHost: h\r\n\r\n";
    for &way in ways {
        let what = format!("{clause}: {way:?}: {}", show(bytes));
        let mut client = proxy.client();
        match way {
            Way::Alone => drop(client.send(bytes)),
            Way::Behind => {
                client.send([good, bytes].concat());
                assert_eq!(client.response().status, 200, "{what}: the one before");
            }
            // The proxy may have heard enough before the last one.
            Way::ByteByByte => {
                let _ = bytes.iter().try_for_each(|byte| client.try_send([*byte]));
            }
        }
        let answer = client.try_response();
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.evenkeel_reason().is_some(), "{what}: ours");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        let rest = client.rest();
        assert!(rest.is_empty(), "{what}: {} is behind it", show(&rest));
    }
}

#[test]
fn heads_that_can_be_read_in_two_ways_are_refused_and_reach_no_server() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    for &(clause, bytes, status) in START_LINES.iter().chain(FIELDS) {
        check_refused(&proxy, clause, bytes, status, &WAYS);
    }
    for &(clause, fields, status) in FRAMING {
        check_refused(&proxy, clause, &framed(fields), status, &WAYS);
    }
    let count = START_LINES.len() + FIELDS.len() + FRAMING.len();
    assert_eq!(recorder.seen(), vec!["GET /before"; count]);
    recorder.check();
}

#[test]
fn oversized_heads_are_refused_with_the_status_that_says_what_is_too_large() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    let long = "a".repeat(40_000);
    let many: String = (0..101)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    for (clause, head, status) in [
        (
            "RFC 9110 15.5.15",
            format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"),
            414,
        ),
        (
            "RFC 9110 15.5.15",
            format!("GET /?{long} HTTP/1.1\r\nHost: h\r\n\r\n"),
            414,
        ),
        (
            "RFC 9110 15.5.15",
            format!("{long} / HTTP/1.1\r\nHost: h\r\n\r\n"),
            414,
        ),
        (
            "RFC 6585 5",
            format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"),
            431,
        ),
        (
            "RFC 6585 5",
            format!("GET / HTTP/1.1\r\nHost: h\r\n{long}: y\r\n\r\n"),
            431,
        ),
        (
            "RFC 6585 5",
            format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"),
            431,
        ),
        (
            "RFC 6585 5",
            format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}"),
            431,
        ),
        ("RFC 9110 15.5.15", format!("GET /{long}"), 414),
    ] {
        check_refused(
            &proxy,
            clause,
            head.as_bytes(),
            status,
            &[Way::Alone, Way::Behind],
        );
    }
    assert_eq!(recorder.seen(), vec!["GET /before"; 8]);
}

/// Bodies of a chunked request that break off or are no chunks.
#[rustfmt::skip]
const CHUNKS: &[(&str, &[u8])] = &[
    ("RFC 9112 7.1: hex", b"g\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: hex", b"\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: no sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: no sign", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: no prefix", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: no padding", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: no padding", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: no padding", b"5\t\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF", b"5\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF", b"5\rhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF", b"5\r\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF after the data", b"5\r\nhello0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF after the data", b"5\r\nhello\n0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF after the data", b"5\r\nhello\r0\r\n\r\n"),
    ("RFC 9112 7.1: CRLF after the data", b"5\r\nhelloXX0\r\n\r\n"),
    ("RFC 9112 7.1: too few", b"4\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: overflow", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: overflow", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: overflow", b"8000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: zeros", b"000000000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1.1: bare LF in it", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1.1: bare LF in it", b"5;\n\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1.1: bare CR in it", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1.1: NUL in it", b"5;a\0\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1.1: no semicolon", b"5,a\r\nhello\r\n0\r\n\r\n"),
    ("RFC 9112 7.1: last CRLF", b"5\r\nhello\r\n0\r\n\n"),
    ("RFC 9112 7.1: last CRLF", b"5\r\nhello\r\n0\n\n"),
    ("RFC 9112 7.1.2: name", b"0\r\nX y: z\r\n\r\n"),
    ("RFC 9112 7.1.2: name", b"0\r\n: z\r\n\r\n"),
    ("RFC 9112 7.1.2: colon", b"0\r\nX : z\r\n\r\n"),
    ("RFC 9112 7.1.2: colon", b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
    ("RFC 9112 7.1.2: fold", b"0\r\nX: z\r\n z\r\n\r\n"),
    ("RFC 9112 7.1.2: NUL", b"0\r\nX: \0\r\n\r\n"),
    ("RFC 9112 7.1.2: bare LF", b"0\r\nX: a\nHost: i\r\n\r\n"),
    ("RFC 9110 6.5.1: framing", b"0\r\nContent-Length: 5\r\n\r\n"),
    ("RFC 9110 6.5.1: framing", b"0\r\nX: y\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("RFC 9110 6.5.1: framing", b"0\r\nTrailer: X\r\n\r\n"),
    ("RFC 9110 6.5.1: routing", b"0\r\nHost: i\r\nX: y\r\n\r\n"),
    ("RFC 9110 6.5.1: of the connection", b"0\r\nConnection: close\r\n\r\n"),
    ("RFC 9110 6.5.1: of the connection", b"0\r\nUpgrade: h2c\r\n\r\n"),
    ("RFC 9110 6.5.1: of the request", b"0\r\nExpect: 100-continue\r\n\r\n"),
];

#[test]
fn bodies_that_are_no_chunks_are_refused_and_end_no_request_at_the_server() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = [b"5;".as_slice(), &[b'a'; 5000], b"\r\nhello\r\n0\r\n\r\n"].concat();
    let trailer = [b"0\r\nX: ".as_slice(), &[b'a'; 9000], b"\r\n\r\n"].concat();
    let large = [
        ("RFC 9112 7.1.1", &extension[..]),
        ("RFC 9112 7.1.2", &trailer),
    ];
    for &(clause, body) in CHUNKS.iter().chain(&large) {
        // At once, and the head some time before its body.
        let mut client = proxy.client();
        client.send([head, body, SMUGGLED].concat());
        let answer = client.try_response();
        let answer = answer.unwrap_or_else(|error| panic!("{clause}: {}: {error}", show(body)));
        assert_eq!(answer.status, 400, "{clause}: {}", show(body));
        assert!(client.rest().is_empty(), "{clause}: nothing behind it");
        let mut client = proxy.client();
        client.send([head.as_slice(), b"3\r\nabc\r\n"].concat());
        client.send([body, SMUGGLED].concat());
        assert_eq!(client.response().status, 400, "{clause}: {}", show(body));
        assert!(client.rest().is_empty(), "{clause}: nothing behind it");
    }
    let seen = recorder.seen();
    let whole: Vec<_> = seen
        .iter()
        .filter(|entry| !entry.ends_with("(cut)"))
        .collect();
    assert!(whole.is_empty(), "whole requests at the server: {whole:?}");
    recorder.check();
    eventually("the cut requests' connections are closed", || {
        recorder.origin.open() == 0
    });
}

/// Clause, bytes, statuses, what the server sees (CRLF in bodies as `~`).
pub type Accepted = (
    &'static str,
    &'static [u8],
    &'static [u16],
    &'static [&'static str],
);

const ACCEPTED: &[Accepted] = &[
    ("RFC 9112 3", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["GET /"]),
    ("RFC 9112 2.2: one empty line", b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["GET /"]),
    ("RFC 9110 9.1: any token", b"get / HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["get /"]),
    ("RFC 9112 3.2.2", b"GET http://h HTTP/1.1\r\nHost: x\r\n\r\n", &[200], &["GET /"]),
    ("RFC 9112 3.2.4", b"OPTIONS http://h HTTP/1.1\r\nHost: x\r\n\r\n", &[200], &["OPTIONS *"]),
    ("RFC 3986 6.2", b"GET //a HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["GET /a"]),
    ("RFC 9112 5: OWS", b"GET / HTTP/1.1\r\nHost:\t h \r\n\r\n", &[200], &["GET /"]),
    ("RFC 9112 5: empty", b"GET / HTTP/1.1\r\nHost: h\r\nX:\r\n\r\n", &[200], &["GET / | X:"]),
    (
        "RFC 9110 5.5: obs-text and tabs",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\tb\xc3\xa9\r\n!#$%&'*+-.^`|~1: y\r\n\r\n",
        &[200],
        &["GET / | X: a\tb\u{e9} | !#$%&'*+-.^`|~1: y"],
    ),
    (
        "RFC 9112 6.2",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        &[200],
        &["POST / | Content-Length: 5 | hello"],
    ),
    (
        "RFC 9112 6.2: nothing is left behind",
        b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
          GET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[200, 200],
        &["POST /1 | Content-Length: 5 | hello", "GET /2"],
    ),
    (
        "RFC 9110 8.6: no zeros in front, which some read as octal",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 010\r\n\r\n0123456789",
        &[200],
        &["POST / | Content-Length: 10 | 0123456789"],
    ),
    (
        "RFC 9110 9.3.1: GET may have one",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 35\r\n\r\n\
          GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        &[200],
        &["GET / | Content-Length: 35 | GET /smuggled HTTP/1.1~Host: h~~"],
    ),
    (
        "RFC 9112 7.1",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &[200],
        &["POST / | Transfer-Encoding: chunked | 5~hello~0~~"],
    ),
    (
        "RFC 9112 7: any case",
        b"POST / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: ChunKed\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        &[200],
        &["POST / | Transfer-Encoding: chunked | A~0123456789~0~~"],
    ),
    (
        "RFC 9112 7.1.1: extensions end here",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
          5;a=\"b\"\r\nhello\r\n0;x\r\n\r\n",
        &[200],
        &["POST / | Transfer-Encoding: chunked | 5~hello~0~~"],
    ),
    (
        "RFC 9112 7.1: zeros in front end here",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n",
        &[200],
        &["POST / | Transfer-Encoding: chunked | 5~hello~0~~"],
    ),
    (
        "RFC 9112 7.1.2: trailers pass, forbidden ones do not",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
          X-Sum: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nAuthorization: x\r\n\r\n\
          GET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[200, 200],
        &["POST / | Transfer-Encoding: chunked | 1~x~0~X-Sum: 1~~", "GET /2"],
    ),
    (
        "RFC 9112 9.3.2: garbage behind a request ends the connection",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGARBAGE\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        &[200, 400],
        &["GET /"],
    ),
    (
        "RFC 9112 9.3.2: too long a body is a request of its own",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhello\r\n\r\n",
        &[200, 400],
        &["POST / | Content-Length: 2 | he"],
    ),
    (
        "RFC 9112 9.6: nothing is read behind `close`",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        &[200],
        &["GET /"],
    ),
    (
        "RFC 9113 3.1: h2c is not passed on",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
          HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        &[200],
        &["GET /"],
    ),
    (
        "RFC 9110 7.6.1: framing is no option of the hop",
        b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Content-Length, Host\r\nContent-Length: 5\r\n\r\nhello",
        &[200],
        &["POST / | Content-Length: 5 | hello"],
    ),
    (
        "RFC 9110 7.6.1: framing is no option of the hop",
        b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Transfer-Encoding\r\n\
          Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        &[200],
        &["POST / | Transfer-Encoding: chunked | 5~hello~0~~"],
    ),
    (
        "CGI: `_` is not `-`",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        &[200],
        &["POST / | Content-Length: 5 | hello"],
    ),
    (
        "RFC 9110 10.1.1: the body is the body",
        b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 35\r\n\r\n\
          GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[100, 200, 200],
        &[
            "POST / | Expect: 100-continue | Content-Length: 35 | GET /smuggled HTTP/1.1~Host: h~~",
            "GET /2",
        ],
    ),
    (
        "RFC 9110 10.1.1: not in 1.0",
        b"POST / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
        &[200],
        &["POST / | Content-Length: 2 | hi"],
    ),
    (
        "RFC 9110 7.6.2: the body of what we answer is no request",
        b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nContent-Length: 35\r\n\r\n\
          GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[200, 200],
        &["GET /2"],
    ),
    (
        "RFC 9112 9.3: 1.0 goes on as 1.1",
        b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nHost: h\r\n\r\n",
        &[200, 200],
        &["GET /", "GET /2"],
    ),
    (
        "RFC 9110 9.3.3: POST without a body says so",
        b"POST / HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        &[200, 200],
        &["POST / | Content-Length: 0", "POST /2 | Content-Length: 0"],
    ),
];

#[test]
fn what_can_be_read_in_one_way_reaches_the_server_as_that() {
    try_accepted(ACCEPTED);
}

/// Each is answered with its statuses and nothing more, and the server sees what it should.
pub fn try_accepted(rows: &[Accepted]) {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    for &(clause, bytes, statuses, seen) in rows {
        let mut client = proxy.client();
        client.send(bytes);
        for &status in statuses {
            let answer = client.try_response();
            let answer =
                answer.unwrap_or_else(|error| panic!("{clause}: {}: {error}", show(bytes)));
            assert_eq!(answer.status, status, "{clause}: {}", show(bytes));
        }
        client.finish();
        let rest = client.rest();
        assert!(rest.is_empty(), "{clause}: {} is behind it", show(&rest));
        assert_eq!(recorder.take(), seen, "{clause}: {}", show(bytes));
    }
    recorder.check();
}
