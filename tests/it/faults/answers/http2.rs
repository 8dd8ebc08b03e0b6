//! Over HTTP/2: the same, and what only streams and frames can do.

use std::thread::sleep;
use std::time::Duration;

use super::{Cut, Deaf, Hears, Row, Told, Whole};
use crate::h2_upstream::raw::{OK, Raw, raw};
use crate::support::Origin;
use crate::support::frames::{self, END_HEADERS, END_STREAM};

/// What a server does with the first stream instead of answering; then it closes.
type Fault = fn(&mut Raw<'_>, u32);

/// At fault for its first request, which is for `/fault`.
pub fn server(fault: Fault) -> Origin {
    raw(move |raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        if let Some(stream) = raw.request() {
            fault(raw, stream);
        }
    })
}

const LONG: &[(&str, &str)] = &[(":status", "200"), ("content-length", "9")];

/// What was sent has reached the client: behind a reset it would be lost with the connection.
fn arrives(raw: &mut Raw<'_>) {
    raw.send(frames::ping([7; 8]));
    while let Some(frame) = raw.any() {
        if frame.kind == frames::PING && frame.is(frames::ACK) {
            return;
        }
    }
}

/// The beginning of a frame that says it is longer.
fn cut(frame: &[u8]) -> &[u8] {
    &frame[..frame.len() - 3]
}

pub const ROWS: &[Row<Fault>] = &[
    (
        "closes before the head",
        |_, _| {},
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "resets before the head",
        |raw, _| raw.connection.reset(),
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "ends the stream before the head",
        |raw, stream| {
            raw.send(frames::reset(stream, 2));
            raw.serve();
        },
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "stalls before the head",
        |raw, _| raw.serve(),
        Told(504, "response_timeout"),
        Hears,
    ),
    (
        "stalls inside of the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(frames::data(stream, 0, b"half"));
            raw.serve();
        },
        Cut("response_timeout"),
        Hears,
    ),
    (
        "ends the stream inside of the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(frames::data(stream, 0, b"half"));
            raw.send(frames::reset(stream, 2));
            raw.serve();
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "closes inside of the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, OK));
            raw.send(frames::data(stream, 0, b"o"));
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "sends garbage",
        |raw, _| {
            raw.send(b"\0\0\x04\x01\x05\0\0\0\0garbage");
            raw.connection.wait_for_close();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "answers and says goodbye",
        |raw, stream| {
            raw.ok(stream);
            raw.send(frames::goaway(stream, 0));
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "answers and closes at once",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, OK));
            raw.send(frames::data(stream, END_STREAM, b"ok"));
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "resets inside of a frame before the head",
        |raw, stream| {
            raw.send(cut(&frames::headers(stream, 0, OK)));
            raw.connection.reset();
        },
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "closes inside of the head",
        |raw, stream| {
            let block = frames::block(OK);
            raw.send(frames::frame(frames::HEADERS, 0, stream, &block[..4]));
        },
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "ends the stream inside of the head",
        |raw, stream| {
            let block = frames::block(OK);
            raw.send(frames::frame(frames::HEADERS, 0, stream, &block[..4]));
            raw.send(frames::reset(stream, frames::INTERNAL_ERROR));
            raw.connection.wait_for_close();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "stalls inside of the head",
        |raw, stream| {
            let block = frames::block(OK);
            raw.send(frames::frame(frames::HEADERS, 0, stream, &block[..4]));
            raw.connection.wait_for_close();
        },
        Told(504, "response_timeout"),
        Hears,
    ),
    (
        "stalls with its whole connection",
        |raw, _| raw.connection.wait_for_close(),
        Told(504, "response_timeout"),
        Hears,
    ),
    (
        "says goodbye to what it was asked, and closes",
        |raw, stream| raw.send(frames::goaway(stream, frames::NO_ERROR)),
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "says goodbye with an error to what it was asked, and closes",
        |raw, stream| raw.send(frames::goaway(stream, frames::INTERNAL_ERROR)),
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "stalls before the head, with a goodbye",
        |raw, stream| {
            raw.send(frames::goaway(stream, frames::NO_ERROR));
            raw.connection.wait_for_close();
        },
        Told(504, "response_timeout"),
        Hears,
    ),
    (
        "ends the stream behind the head",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(frames::reset(stream, frames::INTERNAL_ERROR));
            raw.serve();
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "resets behind the head",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            arrives(raw);
            raw.connection.reset();
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "stalls before the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.serve();
        },
        Cut("response_timeout"),
        Hears,
    ),
    (
        "stalls inside of a frame of the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(cut(&frames::data(stream, 0, b"half and")));
            raw.connection.wait_for_close();
        },
        Cut("response_timeout"),
        Hears,
    ),
    (
        "closes inside of a frame of the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(cut(&frames::data(stream, 0, b"half and")));
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "resets inside of a frame of the body",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            arrives(raw);
            raw.send(cut(&frames::data(stream, 0, b"half and")));
            raw.connection.reset();
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "closes inside of its trailers",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, &[(":status", "200")]));
            raw.send(frames::data(stream, 0, b"half"));
            raw.send(cut(&frames::headers(stream, END_STREAM, &[("a", "bcde")])));
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "says goodbye with an error inside of the body, and closes",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(frames::data(stream, 0, b"half"));
            raw.send(frames::goaway(stream, frames::INTERNAL_ERROR));
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "says goodbye inside of the body, and closes",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(frames::data(stream, 0, b"half"));
            raw.send(frames::goaway(stream, frames::NO_ERROR));
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "says goodbye inside of the body, and ends it",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, OK));
            raw.send(frames::data(stream, 0, b"o"));
            raw.send(frames::goaway(stream, frames::NO_ERROR));
            raw.send(frames::data(stream, END_STREAM, b"k"));
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "sends less than its length",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, LONG));
            raw.send(frames::data(stream, END_STREAM, b"half"));
            raw.serve();
        },
        Cut("bad_response"),
        Hears,
    ),
    (
        "sends nothing of its length",
        |raw, stream| {
            raw.send(frames::headers(stream, END_STREAM, LONG));
            raw.serve();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "sends more than its length",
        |raw, stream| {
            raw.send(frames::headers(stream, 0, OK));
            raw.send(frames::data(stream, END_STREAM, b"ok and more"));
            raw.serve();
        },
        Cut("bad_response"),
        Hears,
    ),
    (
        "sends a body without a head",
        |raw, stream| {
            raw.send(frames::data(stream, END_STREAM, b"ok"));
            raw.connection.wait_for_close();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "sends a head of garbage",
        |raw, stream| {
            let flags = END_HEADERS | END_STREAM;
            raw.send(frames::frame(frames::HEADERS, flags, stream, [0xff; 20]));
            raw.connection.wait_for_close();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "sends a head without a status",
        |raw, stream| {
            raw.send(frames::headers(stream, END_STREAM, &[("server", "x")]));
            raw.serve();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "sends two lengths",
        |raw, stream| {
            let lengths = [OK, &[("content-length", "3")]].concat();
            raw.send(frames::headers(stream, 0, &lengths));
            raw.send(frames::data(stream, END_STREAM, b"ok"));
            raw.serve();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "answers by HTTP/1",
        |raw, _| {
            raw.send(super::GOOD);
            raw.connection.wait_for_close();
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "answers, and wants no more of the request",
        |raw, stream| {
            raw.ok(stream);
            raw.send(frames::reset(stream, frames::NO_ERROR));
            raw.serve();
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "answers and resets after 5 ms",
        |raw, stream| {
            raw.ok(stream);
            sleep(Duration::from_millis(5));
            raw.connection.reset();
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "begins late",
        |raw, stream| {
            sleep(Duration::from_millis(150));
            let head = frames::headers(stream, 0, OK);
            let (begin, rest) = head.split_at(5);
            for bytes in [begin, rest, &frames::data(stream, 0, b"o")] {
                raw.send(bytes);
                sleep(Duration::from_millis(20));
            }
            raw.send(frames::data(stream, END_STREAM, b"k"));
            raw.serve();
        },
        Whole("ok"),
        Deaf,
    ),
];
