//! Answers that are none, or not all of one: told as such, with nobody else hurt by it.

use super::raw::{OK, raw};
use super::to;
use crate::support::frames::{self, END_STREAM};
use crate::support::{Client, Origin, Proxy, eventually};

const ALONE: &str = "retry = { attempts = 0 }\nbreaker = { mode = \"off\" }";

/// A server that gives `answer` (frames for the stream it is given) to a request for `/bad`, which
/// comes first, and serves every other well.
fn answering(answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Origin {
    raw(move |raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(stream) = raw.request() else { return };
        raw.send(answer(stream));
        raw.serve();
    })
}

/// What a client gets for the first answer, and then for the next one.
#[track_caller]
fn told(what: &str, origin: &Origin) -> (u16, Option<String>) {
    let proxy = to(origin.address(), ALONE);
    let mut client = proxy.client();
    let answer = client.get("/bad");
    let next = client.get("/good");
    assert_eq!((next.status, &*next.text()), (200, "ok"), "after {what}");
    (answer.status, answer.evenkeel_reason().map(str::to_owned))
}

#[test]
fn malformed_heads_are_no_answers() {
    const CASES: &[(&str, &[(&str, &str)])] = &[
        ("101", &[(":status", "101")]),
        ("no status", &[("server", "x")]),
        ("a word for a status", &[(":status", "abc")]),
        ("a long status", &[(":status", "2000")]),
        ("an early status", &[(":status", "099")]),
        ("two statuses", &[(":status", "200"), (":status", "200")]),
        ("a late status", &[("server", "x"), (":status", "200")]),
        (
            "an unknown pseudo-field",
            &[(":status", "200"), (":new", "x")],
        ),
        ("an upper-case name", &[(":status", "200"), ("Server", "x")]),
        ("a space in a name", &[(":status", "200"), ("a b", "x")]),
        ("an empty name", &[(":status", "200"), ("", "x")]),
        ("a colon in a name", &[(":status", "200"), ("a:b", "x")]),
        ("a line break", &[(":status", "200"), ("a", "b\r\nc: d")]),
        ("a lone LF", &[(":status", "200"), ("a", "b\nc")]),
        ("a NUL", &[(":status", "200"), ("a", "b\0c")]),
        ("a space before a value", &[(":status", "200"), ("a", " b")]),
        ("a tab behind a value", &[(":status", "200"), ("a", "b\t")]),
        ("Connection", &[(":status", "200"), ("connection", "close")]),
        ("Keep-Alive", &[(":status", "200"), ("keep-alive", "5")]),
        ("Upgrade", &[(":status", "200"), ("upgrade", "h2c")]),
        (
            "Proxy-Connection",
            &[(":status", "200"), ("proxy-connection", "x")],
        ),
        (
            "Transfer-Encoding",
            &[(":status", "200"), ("transfer-encoding", "chunked")],
        ),
        (
            "a length and no body",
            &[(":status", "200"), ("content-length", "5")],
        ),
        (
            "a length that is none",
            &[(":status", "200"), ("content-length", "+0")],
        ),
        (
            "an empty length",
            &[(":status", "200"), ("content-length", "")],
        ),
        (
            "a length twice",
            &[
                (":status", "200"),
                ("content-length", "0"),
                ("content-length", "0"),
            ],
        ),
        (
            "two lengths",
            &[
                (":status", "200"),
                ("content-length", "0"),
                ("content-length", "1"),
            ],
        ),
    ];
    for (what, fields) in CASES {
        let origin = answering(|stream| frames::headers(stream, END_STREAM, fields));
        let told = told(what, &origin);
        assert_eq!(told, (502, Some("bad_response".to_owned())), "{what}");
    }
}

#[test]
fn heads_beyond_measure_are_no_answers() {
    let long = "x".repeat(70_000);
    let many: Vec<(String, &str)> = (0..300).map(|n| (format!("x-{n}"), "1")).collect();
    let origin = answering(move |stream| {
        let fields = [(":status", "200"), ("x-long", &long)];
        let block = frames::block(&fields);
        let mut bytes = Vec::new();
        for (index, piece) in block.chunks(16_000).enumerate() {
            let last = (index + 1) * 16_000 >= block.len();
            let flags = if last { frames::END_HEADERS } else { 0 };
            let (kind, flags) = match index {
                0 => (frames::HEADERS, flags | END_STREAM),
                _ => (frames::CONTINUATION, flags),
            };
            bytes.extend(frames::frame(kind, flags, stream, piece));
        }
        bytes
    });
    assert_eq!(
        told("a long head", &origin),
        (502, Some("bad_response".to_owned()))
    );
    let origin = answering(move |stream| {
        let mut fields = vec![(":status", "200")];
        fields.extend(many.iter().map(|(name, value)| (name.as_str(), *value)));
        frames::headers(stream, END_STREAM, &fields)
    });
    assert_eq!(
        told("many fields", &origin),
        (502, Some("bad_response".to_owned()))
    );
}

#[test]
fn a_body_where_there_can_be_none_is_no_answer() {
    for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304")] {
        let origin = answering(move |stream| {
            let mut bytes = frames::headers(stream, 0, &[(":status", status)]);
            bytes.extend(frames::data(stream, END_STREAM, b"body"));
            bytes
        });
        let proxy = to(origin.address(), ALONE);
        let mut client = proxy.client();
        client.send(format!("{method} /bad HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = client.try_response_to(method).expect("an answer");
        let told = (answer.status, answer.evenkeel_reason());
        assert_eq!(told, (502, Some("bad_response")), "{method} {status}");
        assert_eq!(client.get("/good").status, 200);
    }
}

#[test]
fn what_has_no_body_may_end_in_a_frame_of_its_own() {
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304)] {
        for split in [false, true] {
            let origin = answering(move |stream| {
                let status = status.to_string();
                let mut fields = vec![(":status", status.as_str())];
                if status != "204" {
                    fields.push(("content-length", "7"));
                }
                if !split {
                    return frames::headers(stream, END_STREAM, &fields);
                }
                let mut bytes = frames::headers(stream, 0, &fields);
                if status == "204" || method == "HEAD" {
                    bytes.extend(frames::data(stream, END_STREAM, b""));
                } else {
                    bytes.extend(frames::headers(stream, END_STREAM, &[("x-t", "1")]));
                    bytes = frames::headers(stream, END_STREAM, &fields);
                }
                bytes
            });
            let proxy = to(origin.address(), ALONE);
            let mut client = proxy.client();
            client.send(format!("{method} /bad HTTP/1.1\r\nHost: h\r\n\r\n"));
            let answer = client.try_response_to(method).expect("an answer");
            assert_eq!(answer.status, status, "{method} {status} {split}");
            if status != 204 {
                assert_eq!(
                    answer.header("content-length"),
                    Some("7"),
                    "{method} {status}"
                );
            }
            assert_eq!(client.get("/good").text(), "ok", "{method} {status}");
        }
    }
}

/// The client must see that the answer is cut.
#[track_caller]
fn is_cut(what: &str, proxy: &Proxy) {
    let mut client: Client = proxy.client();
    client.send("GET /bad HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = client.try_response();
    if let Ok(answer) = &answer {
        assert_eq!(answer.status, 502, "{what}: passed off as whole");
    }
    let next = proxy.client().get("/good");
    assert_eq!((next.status, &*next.text()), (200, "ok"), "after {what}");
}

#[test]
fn a_cut_body_is_never_whole() {
    type Fields = &'static [(&'static str, &'static str)];
    type Case = (&'static str, Fields, fn(u32) -> Vec<u8>);
    const LONG: Fields = &[(":status", "200"), ("content-length", "10")];
    const OPEN: Fields = &[(":status", "200")];
    let cases: &[Case] = &[
        ("too short", LONG, |stream| {
            frames::data(stream, END_STREAM, b"")
        }),
        ("too short with trailers", LONG, |stream| {
            frames::headers(stream, END_STREAM, &[("x-t", "1")])
        }),
        ("too long", LONG, |stream| {
            frames::data(stream, END_STREAM, b"56789x")
        }),
        ("too long, open", LONG, |stream| {
            frames::data(stream, 0, b"56789x")
        }),
        ("reset", LONG, |stream| {
            frames::reset(stream, frames::CANCEL)
        }),
        ("reset without error", LONG, |stream| {
            frames::reset(stream, frames::NO_ERROR)
        }),
        ("reset, no length", OPEN, |stream| {
            frames::reset(stream, frames::INTERNAL_ERROR)
        }),
        ("reset without error, no length", OPEN, |stream| {
            frames::reset(stream, frames::NO_ERROR)
        }),
        ("refused late", OPEN, |stream| {
            frames::reset(stream, frames::REFUSED_STREAM)
        }),
        ("trailers that do not end", OPEN, |stream| {
            frames::headers(stream, 0, &[("x-t", "1")])
        }),
        ("malformed trailers", OPEN, |stream| {
            frames::headers(stream, END_STREAM, &[("connection", "close")])
        }),
        ("padded trailers", OPEN, |stream| {
            frames::headers(stream, END_STREAM, &[("x-t", " 1")])
        }),
        ("goaway", OPEN, |_| {
            frames::goaway(0, frames::INTERNAL_ERROR)
        }),
        ("a broken frame", OPEN, |stream| {
            frames::frame(frames::WINDOW_UPDATE, 0, stream, b"abc")
        }),
        ("a broken ping", OPEN, |_| {
            frames::frame(frames::PING, 0, 0, b"abc")
        }),
        ("a push", OPEN, |stream| {
            let promise = [
                &2u32.to_be_bytes()[..],
                &frames::block(&[(":method", "GET")]),
            ]
            .concat();
            frames::frame(frames::PUSH_PROMISE, frames::END_HEADERS, stream, promise)
        }),
        ("a frame of nobody", OPEN, |_| frames::data(99, 0, b"x")),
    ];
    for (what, head, rest) in cases {
        let origin = answering(move |stream| {
            let mut bytes = frames::headers(stream, 0, head);
            bytes.extend(frames::data(stream, 0, b"01234"));
            bytes.extend(rest(stream));
            bytes
        });
        let proxy = to(origin.address(), ALONE);
        is_cut(what, &proxy);
    }
}

#[test]
fn a_connection_that_ends_in_a_body_cuts_it() {
    for how in ["fin", "reset"] {
        let origin = raw(move |raw| {
            if raw.connection.index > 0 {
                return raw.serve();
            }
            let Some(stream) = raw.request() else { return };
            raw.send(frames::headers(stream, 0, &[(":status", "200")]));
            raw.send(frames::data(stream, 0, b"part"));
            if how == "reset" {
                raw.connection.reset();
            } else {
                raw.connection.close();
            }
        });
        is_cut(how, &to(origin.address(), ALONE));
    }
}

#[test]
fn a_neighbour_goes_on_when_a_stream_fails() {
    let origin = raw(|raw| {
        let (Some(long), Some(bad)) = (raw.request(), raw.request()) else {
            return;
        };
        raw.send(frames::headers(
            long,
            0,
            &[(":status", "200"), ("content-length", "6")],
        ));
        raw.send(frames::data(long, 0, b"abc"));
        raw.send(frames::headers(
            bad,
            END_STREAM,
            &[(":status", "200"), ("upgrade", "x")],
        ));
        raw.awaits(frames::RST_STREAM, bad);
        let Some(reset) = raw.request() else { return };
        raw.send(frames::reset(reset, frames::INTERNAL_ERROR));
        let Some(last) = raw.request() else { return };
        raw.ok(last);
        raw.send(frames::data(long, END_STREAM, b"def"));
        raw.serve();
    });
    let proxy = to(origin.address(), ALONE);
    let mut long = proxy.client();
    long.send("GET /long HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the first is on its way", || origin.open() == 1);
    let connections = || origin.connections();
    let mut other = proxy.client();
    assert_eq!(other.get("/bad").evenkeel_reason(), Some("bad_response"));
    assert_eq!(
        other.get("/reset").evenkeel_reason(),
        Some("upstream_reset")
    );
    assert_eq!(other.get("/good").text(), "ok");
    assert_eq!(long.response().text(), "abcdef");
    assert_eq!(connections(), 1, "all of it on one connection");
}

#[test]
fn interim_answers_pass_and_never_end() {
    let origin = answering(|stream| {
        [
            frames::headers(stream, 0, &[(":status", "103"), ("link", "</a>")]),
            frames::headers(stream, 0, &[(":status", "199"), ("x-n", "2")]),
            frames::headers(stream, 0, OK),
            frames::data(stream, END_STREAM, b"ok"),
        ]
        .concat()
    });
    let proxy = to(origin.address(), ALONE);
    let mut client = proxy.client();
    client.send("GET /bad HTTP/1.1\r\nHost: h\r\n\r\n");
    let first = client.response();
    assert_eq!((first.status, first.header("link")), (103, Some("</a>")));
    let second = client.response();
    assert_eq!((second.status, second.header("x-n")), (199, Some("2")));
    assert_eq!(client.response().text(), "ok");

    let ended = answering(|stream| frames::headers(stream, END_STREAM, &[(":status", "103")]));
    let proxy = to(ended.address(), ALONE);
    let mut client = proxy.client();
    client.send("GET /bad HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut answer = client.response();
    if answer.status == 103 {
        answer = client.response();
    }
    assert_eq!(answer.evenkeel_reason(), Some("bad_response"));
}
