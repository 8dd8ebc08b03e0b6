//! What goes on behind a request and what does not; bodies on every method; fields of the hop;
//! expectations. Each case is a whole stream, and what the server saw of it.

use super::recorder::Recorder;
use super::requests::{Accepted, show, start, try_accepted};

#[rustfmt::skip]
const PERSISTENCE: &[Accepted] = &[
    ("RFC 9112 9.3: 1.1 goes on", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET /1", "GET /2"]),
    ("RFC 9112 9.3: 1.0 does not", b"GET /1 HTTP/1.0\r\nHost: h\r\n\r\nGET /2 HTTP/1.0\r\nHost: h\r\n\r\n", &[200], &["GET /1"]),
    ("RFC 9112 9.3: 1.0 when it asks", b"GET /1 HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET /1", "GET /2"]),
    ("RFC 9112 9.3: close wins", b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, close\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["GET /1"]),
    ("RFC 9112 9.3: close wins", b"GET /1 HTTP/1.0\r\nHost: h\r\nConnection: close, keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nHost: h\r\n\r\n", &[200], &["GET /1"]),
    ("RFC 9112 9.3: on any line", b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["GET /1"]),
    ("RFC 9110 7.6.1: any case", b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: CLOSE\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["GET /1"]),
    ("RFC 9110 7.6.1: a whole member", b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: closed\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET /1", "GET /2"]),
    ("RFC 9110 7.6.1: empty members", b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: ,, ,\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\nConnection:\r\n\r\n", &[200, 200], &["GET /1", "GET /2"]),
    ("RFC 9112 C.2.2: not this field", b"GET /1 HTTP/1.1\r\nHost: h\r\nProxy-Connection: close\r\nKeep-Alive: timeout=0\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET /1", "GET /2"]),
    ("RFC 9112 6.3: no body without framing", b"POST /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["POST /1 | Content-Length: 0", "GET /2"]),
    ("RFC 9112 6.3: 1.0 too, and its end is no body's end", b"POST /1 HTTP/1.0\r\nHost: h\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["POST /1 | Content-Length: 0"]),
    ("RFC 9112 9.6: behind a body and close", b"POST /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200], &["POST /1 | Content-Length: 2 | hi"]),
    ("RFC 9112 2.2: an empty line between two", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n\r\n", &[200, 200], &["GET /1", "GET /2"]),
    ("RFC 9112 2.2: and no second one", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 400], &["GET /1"]),
    ("RFC 9112 2.2: and no LF", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 400], &["GET /1"]),
    ("RFC 9112 3: an error ends it", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 400], &["GET /1"]),
    ("RFC 9112 2.3: an error ends it", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.2\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 505], &["GET /1"]),
    ("RFC 9110 9.3.6: an error ends it", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nCONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 405], &["GET /1"]),
    ("RFC 9110 10.1.1: an error ends it", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPUT /2 HTTP/1.1\r\nHost: h\r\nExpect: x\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 417], &["GET /1"]),
    ("RFC 9112 6.1: an error ends it", b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPUT /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 501], &["GET /1"]),
    ("RFC 9112 2.3: TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400], &[]),
    ("RFC 9113 3.4: HTTP/2 on a plain port", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", &[505], &[]),
];

#[rustfmt::skip]
const BODIES: &[Accepted] = &[
    ("RFC 9110 9.3.1: GET", b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET / | Transfer-Encoding: chunked | 2~hi~0~~", "GET /2"]),
    ("RFC 9110 9.3.1: GET with an empty one", b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", &[200], &["GET / | Content-Length: 0"]),
    ("RFC 9110 9.3.5: DELETE", b"DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["DELETE / | Content-Length: 2 | hi", "GET /2"]),
    ("RFC 9110 9.3.7: OPTIONS", b"OPTIONS / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["OPTIONS / | Transfer-Encoding: chunked | 2~hi~0~~", "GET /2"]),
    ("RFC 9110 9.1: any method", b"BREW / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["BREW / | Content-Length: 2 | hi", "GET /2"]),
    ("RFC 9112 6.2: 1.0", b"POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhiGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["POST / | Content-Length: 2 | hi", "GET /2"]),
    ("RFC 9112 6.2: a body of line ends", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["POST / | Content-Length: 6 | ~~~", "GET /2"]),
    ("RFC 9112 7.1: data that looks like the end", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["POST / | Transfer-Encoding: chunked | 5~0~~~0~~", "GET /2"]),
    ("RFC 9112 7.1: only the last chunk", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["POST / | Transfer-Encoding: chunked | 0~~", "GET /2"]),
    ("RFC 9112 7.1: garbage behind the last chunk", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 400], &["POST / | Transfer-Encoding: chunked | 0~~"]),
    ("RFC 9112 7.1.2: trailers, and a request behind them", b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: 1\r\nX-B:\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["POST / | Transfer-Encoding: chunked | 0~X-A: 1~X-B:~~", "GET /2"]),
    ("RFC 9110 10.1.1: no body, no 100", b"GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET / | Expect: 100-continue", "GET /2"]),
    ("RFC 9110 10.1.1: any case", b"PUT / HTTP/1.1\r\nHost: h\r\nEXPECT: 100-Continue\r\nContent-Length: 2\r\n\r\nhi", &[100, 200], &["PUT / | EXPECT: 100-Continue | Content-Length: 2 | hi"]),
    ("RFC 9110 10.1.1: chunked", b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[100, 200, 200], &["PUT / | Expect: 100-continue | Transfer-Encoding: chunked | 2~hi~0~~", "GET /2"]),
];

#[rustfmt::skip]
const HOP: &[Accepted] = &[
    ("RFC 9110 7.6.1: what Connection names", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: X-A, x-b\r\nX-A: 1\r\nx-B: 2\r\nX-C: 3\r\n\r\n", &[200], &["GET / | X-C: 3"]),
    ("RFC 9110 7.6.1: but nobody's identity", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Cookie, Authorization, Content-Type\r\nCookie: a=b\r\nAuthorization: x\r\nContent-Type: y\r\n\r\n", &[200], &["GET / | Cookie: a=b | Authorization: x | Content-Type: y"]),
    ("RFC 9110 7.6.1: nor itself", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Connection, close\r\n\r\n", &[200], &["GET /"]),
    ("RFC 9110 7.6.1: always these", b"GET / HTTP/1.1\r\nHost: h\r\nKeep-Alive: 9\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: trailers, gzip\r\nUpgrade: x\r\nHTTP2-Settings: AA\r\n\r\n", &[200], &["GET /"]),
    ("RFC 9110 6.6.2: not this one", b"POST / HTTP/1.1\r\nHost: h\r\nConnection: Trailer\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: 1\r\n\r\n", &[200], &["POST / | Trailer: X-A | Transfer-Encoding: chunked | 0~X-A: 1~~"]),
    ("RFC 9110 7.6.2: counted down", b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5\r\n\r\n", &[200], &["OPTIONS / | Max-Forwards: 4"]),
    ("RFC 9110 7.6.2: only there", b"GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", &[200], &["GET / | Max-Forwards: 0"]),
    ("RFC 9110 7.6.2: answered here", b"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 00\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", &[200, 200], &["GET /2"]),
    ("RFC 9110 7.6.2: one number", b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5, 5\r\n\r\n", &[400], &[]),
    ("RFC 9110 7.6.2: one number", b"OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5\r\nMax-Forwards: 5\r\n\r\n", &[400], &[]),
    ("RFC 9113 3.1: h2c without an upgrade", b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", &[200], &["GET /"]),
    ("RFC 9113 3.1: h2c among others", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c, x\r\nUpgrade: H2C\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[200, 505], &["GET /"]),
    ("RFC 9110 5.3: order and spelling stay", b"GET / HTTP/1.1\r\nHost: h\r\nb: 1\r\nA: 2\r\nB: 3\r\nb: 4\r\n\r\n", &[200], &["GET / | b: 1 | A: 2 | B: 3 | b: 4"]),
    ("RFC 9110 5.5: colons and quotes are a value's", b"GET / HTTP/1.1\r\nHost: h\r\nX: :a: \"b\r\n\r\n", &[200], &["GET / | X: :a: \"b"]),
];

#[test]
fn connections_go_on_behind_what_allows_it() {
    try_accepted(PERSISTENCE);
}

#[test]
fn every_method_may_have_a_body() {
    try_accepted(BODIES);
}

#[test]
fn fields_of_the_hop_end_here() {
    try_accepted(HOP);
}

/// As large as it may be, and one byte more: the body of a chunked request, and its status.
#[test]
fn chunk_extensions_and_trailers_have_a_limit_each() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    let extension = |size: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(size - 3));
    let many = |count: usize| {
        let line = format!("1;{}\r\nx\r\n", "a".repeat(100));
        format!("{}0\r\n\r\n", line.repeat(count))
    };
    let trailer = |size: usize| format!("0\r\nX: {}\r\n\r\n", "a".repeat(size - 7));
    let trailers = |count: usize| {
        let lines: String = (0..count)
            .map(|number| format!("X{number}: y\r\n"))
            .collect();
        format!("0\r\n{lines}\r\n")
    };
    for (body, status) in [
        (extension(200), 200),
        (extension(300), 400),
        (extension(100_000), 400),
        (many(100), 200),
        (many(200), 400),
        (trailer(8 * 1024), 200),
        (trailer(8 * 1024 + 1), 400),
        (trailer(200_000), 400),
        (trailers(64), 200),
        (trailers(65), 400),
        (format!("0;{}\r\n\r\n", "a".repeat(300)), 400),
        (format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(15)), 200),
        (format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(16)), 400),
        ("0".repeat(100_000), 400),
    ] {
        let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut client = proxy.client();
        let _ = client.try_send(format!("{head}{body}"));
        let answer = client.try_response();
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", show(body.as_bytes())));
        assert_eq!(
            answer.status,
            status,
            "{} bytes: {}",
            body.len(),
            show(body.as_bytes())
        );
    }
    let whole = |entry: &&String| !entry.ends_with("(cut)");
    let seen = recorder.take();
    assert_eq!(
        seen.iter().filter(whole).count(),
        5,
        "the five good ones: {seen:?}"
    );
    recorder.check();
}
