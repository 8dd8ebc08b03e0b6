//! RFC 9113 and RFC 7541 clause by clause: what is wrong is refused with the right word, what is
//! odd but right is served.

use std::time::Duration;

use crate::support::raw::*;
use crate::support::{Origin, Proxy, app};

#[derive(Debug, Clone, Copy)]
enum Expect {
    /// GOAWAY with one of these codes, then closed.
    Connection(&'static [u32]),
    /// RST_STREAM with one of these on stream 1, and the connection goes on.
    Stream(&'static [u32]),
    /// Either of both.
    Either(&'static [u32]),
    /// Stream 1 is answered with this status, and the connection goes on.
    Answer(u16),
    /// Nothing happens but that the connection goes on.
    Fine,
}

use Expect::{Answer, Connection, Either, Fine, Stream};

/// Fits into a head, and not into one frame with another.
const LONG: &str = match std::str::from_utf8(&[b'y'; 10_000]) {
    Ok(long) => long,
    Err(_) => "",
};

type Case = (&'static str, Vec<u8>, Expect);

fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    pieces.concat()
}

/// A request on stream 1 that is open on the client's side.
fn open() -> Vec<u8> {
    head(1, 0, &POST, &[])
}

fn raw_head(flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, 1, block)
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().filter(|field| field.0 != name).collect()
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<u8> {
    head(1, END_STREAM, &GET, more)
}

fn frames() -> Vec<Case> {
    let settings = |id, value| frame(SETTINGS, 0, 0, &setting(id, value));
    let update = |stream, count: u32| frame(WINDOW_UPDATE, 0, stream, &count.to_be_bytes());
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let priority = |stream: u32, on: u32| {
        frame(
            PRIORITY,
            0,
            stream,
            &[&on.to_be_bytes()[..], &[15]].concat(),
        )
    };
    let data = |stream, flags, payload: &[u8]| frame(DATA, flags, stream, payload);
    let ping = frame(PING, 0, 0, &[7; 8]);
    let rest = || raw_head(END_STREAM, &block(&GET[..2]));
    let continuation = |stream, flags, fields| frame(CONTINUATION, flags, stream, &block(fields));
    vec![
        ("4.1 unknown type", frame(0x16, 0, 0, b"12345678"), Fine),
        ("4.1 undefined flags", frame(PING, 0x16, 0, &[0; 8]), Fine),
        (
            "4.1 reserved bit",
            joined(&[{
                let mut ping = ping.clone();
                ping[5] |= 0x80;
                ping
            }]),
            Fine,
        ),
        (
            "4.2 DATA of 2^14",
            joined(&[open(), data(1, END_STREAM, &[0; 16384])]),
            Answer(200),
        ),
        (
            "4.2 DATA beyond",
            joined(&[open(), data(1, 0, &[0; 16385])]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.2 HEADERS beyond",
            raw_head(END_HEADERS, &[0; 16385]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.3 block that is none",
            raw_head(END_HEADERS | END_STREAM, &[0x40]),
            Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "4.3 PRIORITY inside a block",
            joined(&[rest(), priority(1, 0)]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "4.3 another HEADERS inside a block",
            joined(&[rest(), get(3)]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: DATA",
            data(1, END_STREAM, b"x"),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: RST_STREAM",
            reset(1),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: WINDOW_UPDATE",
            update(1, 100),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: CONTINUATION",
            continuation(1, END_HEADERS, &GET),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: PRIORITY",
            joined(&[priority(1, 0), get(1)]),
            Answer(200),
        ),
        (
            "5.1 half-closed: DATA",
            joined(&[get(1), data(1, END_STREAM, b"x")]),
            Either(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 half-closed: HEADERS",
            joined(&[get(1), get(1)]),
            Either(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 half-closed: CONTINUATION",
            joined(&[get(1), continuation(1, END_HEADERS, &GET)]),
            Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 half-closed: WINDOW_UPDATE",
            joined(&[get(1), update(1, 1)]),
            Answer(200),
        ),
        (
            "5.1 half-closed: PRIORITY",
            joined(&[get(1), priority(1, 0)]),
            Answer(200),
        ),
        (
            "5.1 half-closed: RST_STREAM",
            joined(&[get(1), reset(1)]),
            Fine,
        ),
        (
            "5.1 reset: HEADERS",
            joined(&[open(), reset(1), get(1)]),
            Either(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 reset: CONTINUATION",
            joined(&[open(), reset(1), continuation(1, END_HEADERS, &GET)]),
            Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 reset: PRIORITY",
            joined(&[open(), reset(1), priority(1, 0)]),
            Fine,
        ),
        ("5.1.1 even stream", get(2), Connection(&[PROTOCOL_ERROR])),
        (
            "5.1.1 smaller stream",
            joined(&[get(5), get(1)]),
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "5.3.1 HEADERS on itself",
            raw_head(
                END_STREAM | END_HEADERS | PRIORITIZED,
                &[&[0, 0, 0, 1, 255][..], &block(&GET)].concat(),
            ),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "5.3.1 PRIORITY on itself",
            joined(&[open(), priority(1, 1)]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "5.5 unknown inside a block",
            joined(&[rest(), frame(0x16, 0, 0, b"12345678")]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 DATA on 0",
            data(0, END_STREAM, b"x"),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 padding",
            joined(&[open(), data(1, END_STREAM | PADDED, &[3, b'x', 0, 0, 0])]),
            Answer(200),
        ),
        (
            "6.1 padding beyond",
            joined(&[open(), data(1, END_STREAM | PADDED, &[6, b'x', 0])]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        ("6.2 HEADERS on 0", get(0), Connection(&[PROTOCOL_ERROR])),
        (
            "6.2 padding",
            raw_head(
                END_STREAM | END_HEADERS | PADDED,
                &[&[2][..], &block(&GET), &[0, 0]].concat(),
            ),
            Answer(200),
        ),
        (
            "6.2 padding beyond",
            raw_head(
                END_STREAM | END_HEADERS | PADDED,
                &[&[255][..], &block(&GET)].concat(),
            ),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 priority",
            raw_head(
                END_STREAM | END_HEADERS | PRIORITIZED,
                &[&[0, 0, 0, 0, 15][..], &block(&GET)].concat(),
            ),
            Answer(200),
        ),
        (
            "6.3 PRIORITY on 0",
            priority(0, 1),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.3 PRIORITY of 4",
            joined(&[open(), frame(PRIORITY, 0, 1, &[0; 4])]),
            Either(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.4 RST_STREAM on 0",
            reset(0),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.4 RST_STREAM of 3",
            joined(&[open(), frame(RST_STREAM, 0, 1, &[0; 3])]),
            Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.5 SETTINGS with ACK and payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.5 SETTINGS on 1",
            frame(SETTINGS, 0, 1, &setting(3, 1)),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5 SETTINGS of 3",
            frame(SETTINGS, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 ENABLE_PUSH 2",
            settings(2, 2),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 INITIAL_WINDOW_SIZE beyond",
            settings(4, 1 << 31),
            Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE below",
            settings(5, 16383),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE beyond",
            settings(5, 1 << 24),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 unknown",
            joined(&[settings(0xff, 1), get(1)]),
            Answer(200),
        ),
        (
            "6.5.3 several of one",
            joined(&[
                frame(SETTINGS, 0, 0, &[setting(4, 100), setting(4, 1)].concat()),
                get(1),
                update(1, 100),
            ]),
            Answer(200),
        ),
        (
            "6.6 PUSH_PROMISE",
            frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &block(&GET)].concat(),
            ),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.7 PING of 6",
            frame(PING, 0, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.7 PING on 1",
            frame(PING, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        ("6.7 ACK out of nowhere", frame(PING, ACK, 0, &[9; 8]), Fine),
        (
            "6.8 GOAWAY on 1",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of 0",
            update(0, 0),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of 0 on a stream",
            joined(&[open(), update(1, 0)]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of 3 bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.9.1 connection's beyond",
            joined(&[update(0, (1 << 31) - 1), update(0, (1 << 31) - 1)]),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.1 stream's beyond",
            joined(&[open(), update(1, (1 << 31) - 1), update(1, (1 << 31) - 1)]),
            Either(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.2 grown by SETTINGS",
            joined(&[settings(4, 0), get(1), settings(4, 100)]),
            Answer(200),
        ),
        (
            "6.9.2 negative, then open",
            joined(&[settings(4, 3), get(1), settings(4, 2), update(1, 100)]),
            Answer(200),
        ),
        (
            "6.10 two of them",
            joined(&[
                raw_head(END_STREAM, &block(&GET[..2])),
                continuation(1, 0, &GET[2..3]),
                continuation(1, END_HEADERS, &GET[3..]),
            ]),
            Answer(200),
        ),
        (
            "6.10 none of it",
            joined(&[
                raw_head(END_STREAM, &[]),
                continuation(1, 0, &[]),
                continuation(1, END_HEADERS, &GET),
            ]),
            Answer(200),
        ),
        (
            "6.10 DATA between",
            joined(&[raw_head(0, &block(&GET[..2])), data(1, 0, b"x")]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 on 0",
            joined(&[rest(), continuation(0, END_HEADERS, &GET[2..])]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 on another",
            joined(&[rest(), continuation(3, END_HEADERS, &GET[2..])]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 after END_HEADERS",
            joined(&[open(), continuation(1, END_HEADERS, &[("x", "y")])]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 after the last",
            joined(&[
                rest(),
                continuation(1, END_HEADERS, &GET[2..]),
                continuation(1, END_HEADERS, &[]),
            ]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 after DATA",
            joined(&[open(), data(1, 0, b"x"), continuation(1, END_HEADERS, &[])]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "7 unknown code in RST_STREAM",
            joined(&[open(), frame(RST_STREAM, 0, 1, &[255; 4])]),
            Fine,
        ),
    ]
}

fn messages() -> Vec<Case> {
    let data = |flags, payload: &[u8]| frame(DATA, flags, 1, payload);
    let malformed = Stream(&[PROTOCOL_ERROR]);
    let path = |path: &'static str| {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "h"),
        ];
        head(1, END_STREAM, &fields, &[])
    };
    let start = |fields: &[(&'static str, &'static str)]| head(1, END_STREAM, fields, &[]);
    let authority = |name: &'static str, more: &[(&'static str, &'static str)]| {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", name),
        ];
        head(1, END_STREAM, &fields, more)
    };
    vec![
        ("8.1 GET", get(1), Answer(200)),
        (
            "8.1 HEAD",
            start(&[
                (":method", "HEAD"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "h"),
            ]),
            Answer(200),
        ),
        (
            "8.1 POST",
            joined(&[open(), data(0, b"a"), data(END_STREAM, b"b")]),
            Answer(200),
        ),
        (
            "8.1 POST with trailers",
            joined(&[
                open(),
                data(0, b"a"),
                head(1, END_STREAM, &[], &[("x", "y")]),
            ]),
            Answer(200),
        ),
        (
            "8.1 trailers without END_STREAM",
            joined(&[open(), data(0, b"a"), head(1, 0, &[], &[("x", "y")])]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 upper case",
            with(&[("X-Test", "y")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 space in a name",
            with(&[("x test", "y")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 colon in a name",
            with(&[("x:y", "z")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 empty name",
            with(&[("", "z")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 CR LF in a value",
            with(&[("x", "a\r\nb: c")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 NUL in a value",
            with(&[("x", "a\0b")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 DEL in a value",
            with(&[("x", "a\x7fb")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        ("8.2.1 leading space", with(&[("x", " a")]), Answer(400)),
        ("8.2.1 trailing tab", with(&[("x", "a\t")]), Answer(400)),
        (
            "8.2.2 connection",
            with(&[("connection", "keep-alive")]),
            malformed,
        ),
        (
            "8.2.2 keep-alive",
            with(&[("keep-alive", "timeout=5")]),
            malformed,
        ),
        (
            "8.2.2 proxy-connection",
            with(&[("proxy-connection", "keep-alive")]),
            malformed,
        ),
        (
            "8.2.2 transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
            malformed,
        ),
        ("8.2.2 upgrade", with(&[("upgrade", "h2c")]), malformed),
        (
            "8.2.2 te other than trailers",
            with(&[("te", "trailers, deflate")]),
            malformed,
        ),
        (
            "8.2.2 te: trailers",
            with(&[("te", "trailers")]),
            Answer(200),
        ),
        (
            "8.3 unknown pseudo",
            with(&[(":test", "x")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3 of a response",
            with(&[(":status", "200")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3 behind a field",
            head(1, END_STREAM, &GET[..3], &[("x", "y"), (":authority", "h")]),
            Either(&[PROTOCOL_ERROR]),
        ),
        ("8.3.1 no method", start(&without(":method")), malformed),
        ("8.3.1 no scheme", start(&without(":scheme")), malformed),
        ("8.3.1 no path", start(&without(":path")), malformed),
        ("8.3.1 empty path", path(""), malformed),
        (
            "8.3.1 method twice",
            start(&[&GET[..1], &GET[..]].concat()),
            malformed,
        ),
        (
            "8.3.1 scheme twice",
            start(&[&GET[1..2], &GET[..]].concat()),
            malformed,
        ),
        (
            "8.3.1 path twice",
            start(&[&GET[2..3], &GET[..]].concat()),
            malformed,
        ),
        (
            "8.3.1 authority twice",
            start(&[&GET[3..], &GET[..]].concat()),
            malformed,
        ),
        ("8.3.1 path of no form", path("x"), malformed),
        ("8.3.1 path with a space", path("/a b"), malformed),
        (
            "8.3.1 path with CR LF",
            path("/ HTTP/1.1\r\nx: y"),
            malformed,
        ),
        ("8.3.1 path beyond ASCII", path("/\u{e9}"), Answer(400)),
        ("8.3.1 asterisk of GET", path("*"), Answer(400)),
        ("8.3.1 path with a fragment", path("/a#b"), Answer(400)),
        ("8.3.1 path with a fragment alone", path("/#"), Answer(400)),
        (
            "8.3.1 other scheme with Host",
            head(
                1,
                END_STREAM,
                &[(":method", "GET"), (":scheme", "ftp"), (":path", "/")],
                &[("host", "h")],
            ),
            Answer(400),
        ),
        (
            "8.1 pseudo in trailers",
            joined(&[
                open(),
                data(0, b"a"),
                head(1, END_STREAM, &[], &[(":path", "/")]),
            ]),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1 indexed pseudo in trailers",
            joined(&[
                open(),
                data(0, b"a"),
                raw_head(END_STREAM | END_HEADERS, &[0x84]),
            ]),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1 unknown pseudo in trailers",
            joined(&[
                open(),
                data(0, b"a"),
                head(1, END_STREAM, &[], &[(":x", "/")]),
            ]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1 framing in trailers",
            joined(&[
                open(),
                data(0, b"a"),
                head(1, END_STREAM, &[], &[("content-length", "1")]),
            ]),
            Answer(400),
        ),
        (
            "8.1 too many trailers",
            joined(&[
                open(),
                data(0, b"a"),
                head(1, END_STREAM, &[], &[("x", "y"); 65]),
            ]),
            Answer(400),
        ),
        ("8.3.1 absolute path", path("http://other/"), malformed),
        (
            "8.3.1 dot segments past the root",
            path("/../../x"),
            Answer(400),
        ),
        (
            "8.3.1 no authority",
            start(&without(":authority")),
            Answer(400),
        ),
        (
            "8.3.1 Host instead",
            head(1, END_STREAM, &GET[..3], &[("host", "h")]),
            Answer(200),
        ),
        (
            "8.3.1 Host as well",
            authority("h", &[("host", "h")]),
            Answer(200),
        ),
        (
            "8.3.1 another Host",
            authority("h", &[("host", "other")]),
            Answer(400),
        ),
        (
            "8.3.1 two Hosts",
            authority("h", &[("host", "h"), ("host", "h")]),
            Answer(400),
        ),
        (
            "8.3.1 user information",
            authority("u:p@h", &[]),
            Answer(400),
        ),
        (
            "8.3.1 authority with a slash",
            authority("h/x", &[]),
            malformed,
        ),
        (
            "8.3.1 authority with CR LF",
            authority("h\r\nx: y", &[]),
            malformed,
        ),
        (
            "8.3.1 authority with a space",
            authority("h x", &[]),
            malformed,
        ),
        ("8.3.1 empty authority", authority("", &[]), malformed),
        (
            "8.3.1 port that is none",
            authority("h:99999", &[]),
            Answer(400),
        ),
        (
            "8.3.1 other scheme",
            start(&[
                (":method", "GET"),
                (":scheme", "ftp"),
                (":path", "/"),
                (":authority", "h"),
            ]),
            Answer(400),
        ),
        (
            "8.3.1 scheme of no form",
            start(&[
                (":method", "GET"),
                (":scheme", "ht tp"),
                (":path", "/"),
                (":authority", "h"),
            ]),
            malformed,
        ),
        (
            "8.3.1 method of no form",
            start(&[
                (":method", "GE T"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "h"),
            ]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1.1 length without a body",
            with(&[("content-length", "5")]),
            malformed,
        ),
        (
            "8.1.1 not a number",
            with(&[("content-length", "+0")]),
            malformed,
        ),
        (
            "8.1.1 empty length",
            joined(&[
                head(1, 0, &POST, &[("content-length", "")]),
                data(END_STREAM, b""),
            ]),
            Answer(400),
        ),
        (
            "8.1.1 equal lengths",
            joined(&[
                head(
                    1,
                    0,
                    &POST,
                    &[("content-length", "1"), ("content-length", "1")],
                ),
                data(END_STREAM, b"x"),
            ]),
            Answer(400),
        ),
        (
            "8.1.1 differing lengths",
            joined(&[
                head(
                    1,
                    0,
                    &POST,
                    &[("content-length", "1"), ("content-length", "2")],
                ),
                data(END_STREAM, b"x"),
            ]),
            malformed,
        ),
        (
            "8.1.1 more than declared",
            joined(&[
                head(1, 0, &POST, &[("content-length", "1")]),
                data(END_STREAM, b"xyz"),
            ]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1.1 less than declared",
            joined(&[
                head(1, 0, &POST, &[("content-length", "5")]),
                data(END_STREAM, b"xyz"),
            ]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "8.1.1 in several frames",
            joined(&[
                head(1, 0, &POST, &[("content-length", "1")]),
                data(0, b"x"),
                data(END_STREAM, b"yz"),
            ]),
            Either(&[PROTOCOL_ERROR]),
        ),
        (
            "9.3.8 TRACE",
            start(&[
                (":method", "TRACE"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "h"),
            ]),
            Answer(405),
        ),
        (
            "8.5 CONNECT",
            start(&[(":method", "CONNECT"), (":authority", "h:1")]),
            Answer(405),
        ),
        (
            "8.5 CONNECT with a path",
            start(&[
                (":method", "CONNECT"),
                (":path", "/"),
                (":authority", "h:1"),
            ]),
            malformed,
        ),
        (
            "8441 :protocol without CONNECT",
            start(&[&GET[..], &[(":protocol", "websocket")]].concat()),
            malformed,
        ),
        (
            "9110 10.1.1 other expectation",
            with(&[("expect", "200-ok")]),
            Answer(417),
        ),
        (
            "9110 5.4 too many fields",
            with(&[("a", "b"); 101]),
            Answer(431),
        ),
        (
            "9113 10.5.1 too large",
            head(1, END_STREAM, &GET, &[("x", LONG)]),
            Answer(200),
        ),
    ]
}

fn hpack() -> Vec<Case> {
    let flags = END_STREAM | END_HEADERS;
    let start = block(&GET);
    let head = |more: &[u8]| raw_head(flags, &[&start[..], more].concat());
    let before = |first: &[u8]| raw_head(flags, &[first, &start].concat());
    let wrong = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
    vec![
        ("2.3.3 index beyond", head(&[0xff, 0x80, 0x01]), wrong),
        (
            "2.3.3 name index beyond",
            head(&[0x7f, 0x80, 0x01, 0x01, b'x']),
            wrong,
        ),
        ("4.2 size update in the middle", head(&[0x20]), wrong),
        (
            "5.1 integer without end",
            head(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            wrong,
        ),
        (
            "5.2 padding of 8 bits",
            head(&[0x10, 0x01, b'x', 0x82, 0x1f, 0xff]),
            wrong,
        ),
        (
            "5.2 padding of zeros",
            head(&[0x10, 0x01, b'x', 0x81, 0x18]),
            wrong,
        ),
        (
            "5.2 EOS",
            head(&[0x10, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            wrong,
        ),
        (
            "5.2 longer than the block",
            head(&[0x10, 0x7f, 0x80, 0x7f]),
            wrong,
        ),
        ("6.1 index 0", head(&[0x80]), wrong),
        ("6.3 size update beyond", before(&[0x3f, 0xe2, 0x1f]), wrong),
        ("6.3 size update", before(&[0x3f, 0xe1, 0x1f]), Answer(200)),
        (
            "6.3 two size updates",
            before(&[0x20, 0x3f, 0xe1, 0x1f]),
            Answer(200),
        ),
        ("6.1 static table", head(&[0x90]), Answer(200)),
        (
            "6.2.1 with indexing",
            head(&[0x40, 0x01, b'x', 0x01, b'y', 0xbe]),
            Answer(200),
        ),
        (
            "6.2.2 without indexing",
            head(&[0x00, 0x01, b'x', 0x01, b'y']),
            Answer(200),
        ),
        (
            "6.2.3 never indexed",
            head(&[0x10, 0x01, b'x', 0x01, b'y']),
            Answer(200),
        ),
    ]
}

/// What became of stream 1 and the connection.
#[derive(Debug, PartialEq)]
enum Outcome {
    GoAway(u32),
    Closed,
    Nothing,
    Reset(u32),
    Answered(u16),
    Pong,
}

fn outcome(raw: &mut Raw, expect: Expect) -> Outcome {
    loop {
        let frame = match raw.try_next() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Outcome::Closed,
            Err(_) => return Outcome::Nothing,
        };
        match (frame.kind, expect) {
            (GOAWAY, _) => return Outcome::GoAway(frame.code()),
            (RST_STREAM, _) if frame.stream == 1 => return Outcome::Reset(frame.code()),
            (HEADERS, Answer(_) | Stream(_)) if frame.stream == 1 => {
                return Outcome::Answered(frame.status());
            }
            (PING, Fine) if frame.payload == b"the end!" => return Outcome::Pong,
            _ => {}
        }
    }
}

fn run(cases: Vec<Case>) {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let mut wrong = Vec::new();
    for (name, bytes, expect) in cases {
        let mut raw = Raw::connect(proxy.address());
        raw.patience(Duration::from_secs(5));
        raw.send(bytes);
        if let Fine = expect {
            raw.send(frame(PING, 0, 0, b"the end!"));
        }
        let outcome = outcome(&mut raw, expect);
        let right = match (expect, &outcome) {
            (Connection(codes), Outcome::GoAway(code)) => {
                codes.contains(code) && raw.next().is_none()
            }
            (Stream(codes), Outcome::Reset(code)) => codes.contains(code) && raw.pings(),
            (Either(codes), Outcome::Reset(code)) => codes.contains(code) && raw.pings(),
            (Either(codes), Outcome::GoAway(code)) => codes.contains(code) && raw.next().is_none(),
            (Answer(status), Outcome::Answered(code)) => status == *code && raw.pings(),
            (Fine, Outcome::Pong) => true,
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: {outcome:?}, not {expect:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nothing of what was refused was repaired, and nothing hid a second request.
    for seen in origin.requests() {
        let start = seen.start_line();
        let usual = ["GET / HTTP/1.1", "POST / HTTP/1.1", "HEAD / HTTP/1.1"];
        assert!(usual.contains(&start.as_str()), "{start}");
        assert_eq!(seen.headers("host"), ["h"], "{}", seen.head_text());
        for name in ["connection", "upgrade", "b", "a"] {
            assert_eq!(seen.header(name), None, "{}", seen.head_text());
        }
    }
    assert_eq!(proxy.get("/").status, 200, "others are served");
}

#[test]
fn frames_and_streams() {
    run(frames());
}

#[test]
fn messages_of_http() {
    run(messages());
}

#[test]
fn header_compression() {
    run(hpack());
}
