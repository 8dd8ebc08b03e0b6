//! What a server may answer, and that nothing which it should not have sent reaches anybody.

use std::io::{ErrorKind, Read};

use crate::support::{Client, Origin, Proxy, eventually};

/// What the server does after its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    Close,
    Reset,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// The client gets this whole; the connection is used again.
    Kept(u16, &'static str),
    /// The client gets this whole; the connection is not used again.
    Passed(u16, &'static str),
    /// 502 with this reason; the connection is not used again.
    Refused(&'static str),
    /// The client sees that the answer is not whole; the connection is not used again.
    Broken,
}

use Outcome::{Broken, Kept, Passed, Refused};
use Then::{Close, Reset, Stay};

type Case = (&'static str, &'static str, &'static [u8], Then, Outcome);

const BAD: Outcome = Refused("bad_response");
const CUT: Outcome = Refused("upstream_reset");

const CASES: &[Case] = &[
    ("9112 6.3", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9112 7.1", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stay, Kept(200, "ok")),
    ("9112 4: no reason", "GET", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9112 4: empty reason", "GET", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9112 6.3: to the end", "GET", b"HTTP/1.1 200 OK\r\n\r\nok", Close, Passed(200, "ok")),
    ("9112 9.6", "GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", Stay, Passed(200, "ok")),
    ("9112 9.3: 1.0", "GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Passed(200, "ok")),
    ("9112 9.3: 1.0", "GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9110 9.3.2", "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Stay, Kept(200, "")),
    ("9110 9.3.2", "HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Stay, Kept(200, "")),
    ("9110 9.3.2: no body", "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Stay, Passed(200, "")),
    ("9110 15.4.5", "GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Stay, Kept(304, "")),
    ("9110 15.4.5: no body", "GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", Stay, Passed(304, "")),
    ("9110 15.3.5", "GET", b"HTTP/1.1 204 No Content\r\n\r\n", Stay, Kept(204, "")),
    ("9110 15.3.5: no body", "GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", Stay, Passed(204, "")),
    ("9110 15.3.5: no body", "GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Stay, Passed(204, "")),
    (
        "9112 9.2: a second answer",
        "GET",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Stay,
        Passed(200, "ok"),
    ),
    (
        "9112 9.2: a second answer",
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Stay,
        Passed(200, "ok"),
    ),
    (
        "9112 9.2: a second answer",
        "HEAD",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Stay,
        Passed(200, ""),
    ),
    ("9112 6.3: more than declared", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", Stay, Passed(200, "ok")),
    ("9112 6.3: more than none", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nok", Stay, Passed(200, "")),
    ("9110 15.2", "GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9110 15.2: no body", "GET", b"HTTP/1.1 102 Processing\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9110 15.2: any number", "GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 199 Odd\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9110 15.2: a 1.0 server", "GET", b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9110 15.2: framing is the final one's", "GET", b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9110 15.3.6", "GET", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Stay, Kept(205, "")),
    ("9110 15: unknown", "GET", b"HTTP/1.1 599 Odd\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(599, "ok")),
    ("9110 15: unknown", "GET", b"HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok", Stay, Kept(299, "ok")),
    ("9110 9.3.2: no body", "HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stay, Passed(200, "")),
    ("9110 9.3.2: no length", "HEAD", b"HTTP/1.1 200 OK\r\n\r\n", Stay, Kept(200, "")),
    ("9110 9.3.2: 204 too", "HEAD", b"HTTP/1.1 204 No Content\r\n\r\n", Stay, Kept(204, "")),
    ("9110 15.4.5: no body", "GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stay, Passed(304, "")),
    ("9110 15.4.5: no length", "GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", Stay, Kept(304, "")),
    ("9112 9.6: in a list", "GET", b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", Stay, Passed(200, "ok")),
    ("9112 9.6: on two lines", "GET", b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", Stay, Passed(200, "ok")),
    ("9112 9.3: 1.0, and close too", "GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok", Stay, Passed(200, "ok")),
    ("9112 6.3: zeros in front", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9112 6.3: POST is no different", "POST", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9112 6.3: DELETE is no different", "DELETE", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, Kept(200, "ok")),
    ("9112 9.2: a second answer behind 204", "GET", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stay, Passed(204, "")),
    ("9112 9.2: a second answer behind 304", "GET", b"HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Stay, Passed(304, "")),
    ("9112 9.2: an interim answer behind the final one", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n", Stay, Passed(200, "ok")),
    ("9112 2.2: an empty line behind it", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n", Stay, Passed(200, "")),
    // Nothing, or half of a head.
    ("9112 9.5", "GET", b"", Close, CUT),
    ("9112 9.5", "GET", b"", Reset, CUT),
    ("9112 9.5", "GET", b"HTTP/1.1 200 OK\r\nContent-Le", Close, CUT),
    ("9112 9.5", "GET", b"HTTP/1.1 200 OK\r\nContent-Le", Reset, CUT),
    ("9110 15.2: nothing follows", "GET", b"HTTP/1.1 102 Processing\r\n\r\n", Close, CUT),
    // Status lines.
    ("9112 4: 0.9", "GET", b"hello\r\n\r\n", Close, BAD),
    ("9112 4: 0.9", "GET", b"<html>", Close, BAD),
    ("9112 4", "GET", b"ICY 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/2.0 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.2 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/0.9 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"http/1.1 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b" HTTP/1.1 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"\r\nHTTP/1.1 200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.1  200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.1\t200 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.1 20 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.1 2000 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.1 2x0 OK\r\n\r\n", Stay, BAD),
    ("9112 4", "GET", b"HTTP/1.1 +20 OK\r\n\r\n", Stay, BAD),
    ("9110 15", "GET", b"HTTP/1.1 099 OK\r\n\r\n", Stay, BAD),
    ("9110 15", "GET", b"HTTP/1.1 000 OK\r\n\r\n", Stay, BAD),
    ("9112 4: NUL", "GET", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    ("9112 4: bare CR", "GET", b"HTTP/1.1 200 O\rX: y\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    ("9112 2.2: bare LF", "GET", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", Stay, BAD),
    // Fields.
    ("9112 2.2: bare LF", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n", Stay, BAD),
    ("9112 2.2: bare CR", "GET", b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    ("9112 5.1", "GET", b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", Stay, BAD),
    ("9112 5.1", "GET", b"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    ("9112 5.1", "GET", b"HTTP/1.1 200 OK\r\n: y\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    ("9112 5.2", "GET", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    ("9110 5.5", "GET", b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n", Stay, BAD),
    // Framing.
    ("9112 6.1: both", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stay, BAD),
    ("9112 6.1: both", "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", Stay, BAD),
    ("9112 6.1: 1.0", "GET", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stay, BAD),
    ("9112 6.1: unknown", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", Close, BAD),
    ("9112 6.1: unknown", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Stay, BAD),
    ("9112 6.1: unknown", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", Close, BAD),
    ("9112 6.1: unknown", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nok", Close, BAD),
    ("9112 6.1: unknown", "HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Stay, BAD),
    ("9112 7: coding", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nok", Close, BAD),
    ("9112 7: coding", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Close, BAD),
    ("9112 5.1", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Close, BAD),
    ("9112 7: once", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Stay, BAD),
    ("9112 7: once", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Stay, BAD),
    ("9112 6.3: twice", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", Stay, BAD),
    ("9112 6.3: twice", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nokok", Stay, BAD),
    ("9112 6.3: twice", "GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\n", Stay, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", Stay, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", Stay, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", Stay, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", Close, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2a\r\n\r\nok", Close, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok", Close, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nok", Close, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2,2\r\n\r\nok", Close, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", Close, BAD),
    ("9110 8.6", "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Stay, BAD),
    ("9110 8.6", "GET", b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n", Stay, BAD),
    // Switching without being asked.
    ("9110 15.2.2", "GET", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", Stay, BAD),
    ("9110 15.2.2", "GET", b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Stay, BAD),
    // Bodies that break off, or are none.
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", Reset, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\n\r\nhello", Reset, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Reset, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", Close, Broken),
    ("9112 8", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n", Close, Broken),
    ("9112 8: a chunk half written", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Reset, Broken),
    ("9112 8: a size half written", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1", Reset, Broken),
    ("9112 8: a last chunk half written", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", Reset, Broken),
    ("9112 8: a trailer half written", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r", Close, Broken),
    ("9112 8: one byte short", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Close, Broken),
    ("9112 8: behind interim answers", "GET", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Close, Broken),
    ("9112 7.1", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", Stay, Broken),
    ("9112 7.1", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", Stay, Broken),
    ("9112 7.1", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", Stay, Broken),
    ("9112 7.1", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n", Stay, Broken),
    ("9112 7.1.2", "GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y: z\r\n\r\n", Stay, Broken),
];

/// Answers `/case/N` with the case's bytes and everything else with `next`.
fn origin(cases: Vec<(Vec<u8>, Then)>, drip: bool) -> Origin {
    Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let target = request.target();
            let Some(number) = target.strip_prefix("/case/") else {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
                continue;
            };
            let (bytes, then) = &cases[number.parse::<usize>().expect("a number")];
            if drip {
                for byte in bytes {
                    connection.send([*byte]);
                }
            } else {
                connection.send(bytes);
            }
            match then {
                Stay => {}
                Close => return,
                Reset => return connection.reset(),
            }
        }
    })
}

/// One worker, so that a second request would find the first one's connection; nothing that
/// hides a bad answer behind another server's.
pub fn start(origin: &Origin) -> Proxy {
    Proxy::start(&format!(
        "[process]\nworkers = 1\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{}\"]\nbreaker = {{ mode = \"off\" }}\n\
         retry = {{ attempts = 0 }}\n",
        origin.address()
    ))
}

/// The next answer that is not an interim one.
fn final_answer(client: &mut Client, method: &str) -> std::io::Result<crate::support::Response> {
    loop {
        let answer = client.try_response_to(method)?;
        if answer.status >= 200 {
            return Ok(answer);
        }
    }
}

#[test]
fn each_client_gets_its_own_answer_and_only_when_it_is_whole() {
    try_cases(false);
}

#[test]
fn answers_that_come_byte_by_byte_are_judged_the_same() {
    try_cases(true);
}

fn try_cases(drip: bool) {
    let cases = CASES.iter().map(|case| (case.2.to_vec(), case.3)).collect();
    let origin = origin(cases, drip);
    let proxy = start(&origin);
    for (number, &(clause, method, bytes, then, outcome)) in CASES.iter().enumerate() {
        // In many pieces, a reset may overtake what came before it, and what follows an answer may
        // come after the next request has gone.
        if drip && (then == Reset || matches!(outcome, Passed(..))) {
            continue;
        }
        let what = format!("RFC {clause}: {method}: {}", bytes.escape_ascii());
        let mut client = proxy.client();
        client.send(format!(
            "{method} /case/{number} HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        let answer = final_answer(&mut client, method);
        match (outcome, answer) {
            (Kept(status, body) | Passed(status, body), Ok(answer)) => {
                assert_eq!((answer.status, &*answer.text()), (status, body), "{what}");
                assert_eq!(answer.evenkeel_reason(), None, "{what}");
            }
            (Refused(reason), Ok(answer)) => {
                assert_eq!(answer.status, 502, "{what}");
                assert_eq!(answer.evenkeel_reason(), Some(reason), "{what}");
            }
            (Broken, Err(_)) => {}
            (_, answer) => panic!("{what}: {answer:?}"),
        }
        let used = origin.last().connection;
        // The same client again where it can, another one where it was broken off.
        let next = match outcome {
            Broken => proxy.client().get("/next"),
            _ => client.get("/next"),
        };
        assert_eq!((next.status, &*next.text()), (200, "next"), "after {what}");
        let again = origin.last().connection == used;
        assert_eq!(
            again,
            matches!(outcome, Kept(..)),
            "connection used again: {what}"
        );
    }
    eventually("only the kept connection is left", || origin.open() <= 1);
}

#[test]
fn heads_of_answers_are_bounded() {
    let long = format!(
        "HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n",
        "a".repeat(80_000)
    );
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100_000));
    let line = format!("HTTP/1.1 200 {}", "a".repeat(300_000));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(10_000);
    let cases = vec![
        (long.into_bytes(), Stay),
        (endless.into_bytes(), Stay),
        (line.into_bytes(), Stay),
        (interim.into_bytes(), Stay),
    ];
    let count = cases.len();
    let origin = origin(cases, false);
    let proxy = start(&origin);
    for number in 0..count {
        let mut client = proxy.client();
        client.send(format!("GET /case/{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = final_answer(&mut client, "GET").expect("an answer");
        assert_eq!(answer.status, 502, "case {number}");
        assert_eq!(
            answer.evenkeel_reason(),
            Some("bad_response"),
            "case {number}"
        );
    }
    eventually("no such connection is kept", || origin.open() == 0);
}

#[test]
fn answer_that_breaks_off_ends_in_a_reset_where_only_the_end_marks_it() {
    let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let origin = origin(vec![(cut.to_vec(), Close), (whole.to_vec(), Stay)], false);
    let proxy = start(&origin);
    for (number, broken) in [(0, true), (1, false)] {
        let mut client = proxy.client();
        client.send(format!("GET /case/{number} HTTP/1.0\r\nHost: h\r\n\r\n"));
        let mut bytes = Vec::new();
        let end = client.stream().read_to_end(&mut bytes);
        let reset = matches!(end, Err(error) if error.kind() == ErrorKind::ConnectionReset);
        assert_eq!(reset, broken, "{}", bytes.escape_ascii());
    }
}
