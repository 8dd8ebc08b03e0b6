//! Servers that send what nobody needs: bounded memory, bounded work, and the next request is
//! served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::raw::{OK, Raw, raw};
use super::{file, to};
use crate::support::frames::{self, END_STREAM};
use crate::support::{Client, Origin, Process, eventually};

const ALONE: &str = "retry = { attempts = 0 }\nbreaker = { mode = \"off\" }";

/// KiB that a flood may leave behind.
const GROWTH: usize = 20 * 1024;

/// Sends `bytes` again and again until the proxy ends the connection; how many went.
fn flood(raw: &mut Raw<'_>, mut bytes: impl FnMut(u32) -> Vec<u8>, most: u32) -> u32 {
    for round in 0..most {
        if raw.connection.try_send(bytes(round)).is_err() {
            return round;
        }
    }
    most
}

/// A server whose first connection answers its first request with `bytes` for ever, and whose
/// others are good.
fn flooding(bytes: impl Fn(u32, u32) -> Vec<u8> + Send + Sync + 'static) -> Origin {
    raw(move |raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(stream) = raw.request() else { return };
        let sent = flood(raw, |round| bytes(stream, round), 2_000_000);
        assert!(sent < 2_000_000, "the proxy took all of it");
    })
}

#[track_caller]
fn is_survived(what: &str, origin: &Origin) {
    // In a process of its own: what it holds is its own.
    let proxy = Process::start(&file(origin.address(), ALONE));
    let before = proxy.resident();
    let mut client = Client::connect(proxy.listener);
    client.send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n");
    let start = Instant::now();
    // Whatever it is told, it is told; interim answers may come first.
    let told = loop {
        match client.try_response() {
            Ok(answer) if answer.status < 200 => {}
            Ok(answer) => break Some(answer.status),
            Err(_) => break None,
        }
    };
    assert!(matches!(told, None | Some(502 | 504)), "{what}: {told:?}");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{what} takes long"
    );
    let next = Client::connect(proxy.listener).get("/good");
    assert_eq!((next.status, &*next.text()), (200, "ok"), "after {what}");
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < GROWTH, "{what}: {grown} KiB more");
    eventually("the flood's connection is closed", || origin.open() == 1);
}

#[test]
fn control_frames_without_end() {
    is_survived("pings", &flooding(|_, _| frames::ping([1; 8])));
    is_survived(
        "settings",
        &flooding(|_, round| {
            frames::settings(&[(frames::INITIAL_WINDOW_SIZE, 65_535 + round % 2)])
        }),
    );
    is_survived("empty settings", &flooding(|_, _| frames::settings(&[])));
    is_survived(
        "window updates",
        &flooding(|_, round| frames::window_update(0, 1 + round % 2)),
    );
    is_survived(
        "priorities",
        &flooding(|stream, _| frames::frame(frames::PRIORITY, 0, stream + 2, [0, 0, 0, 0, 1])),
    );
    is_survived(
        "unknown frames",
        &flooding(|stream, _| frames::frame(0xfa, 0, stream, b"")),
    );
    is_survived(
        "acknowledgements",
        &flooding(|_, _| frames::frame(frames::PING, frames::ACK, 0, [9; 8])),
    );
    is_survived(
        "goodbyes",
        &flooding(|stream, _| frames::goaway(stream, frames::NO_ERROR)),
    );
}

#[test]
fn frames_of_streams_that_are_closed_without_end() {
    is_survived(
        "resets",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::headers(stream, END_STREAM, &[(":status", "502")]);
            }
            frames::reset(stream, frames::CANCEL)
        }),
    );
    is_survived(
        "heads",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::headers(stream, END_STREAM, &[(":status", "502")]);
            }
            frames::headers(stream, END_STREAM, OK)
        }),
    );
    is_survived(
        "data",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::headers(stream, END_STREAM, &[(":status", "502")]);
            }
            frames::data(stream, 0, b"x")
        }),
    );
}

#[test]
fn bodies_of_nothing_without_end() {
    is_survived(
        "empty data",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::headers(stream, 0, &[(":status", "200")]);
            }
            frames::data(stream, 0, b"")
        }),
    );
    is_survived(
        "padding",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::headers(stream, 0, &[(":status", "200")]);
            }
            frames::frame(frames::DATA, 0x8, stream, [1, 0])
        }),
    );
}

#[test]
fn heads_without_end() {
    is_survived(
        "interim answers",
        &flooding(|stream, _| frames::headers(stream, 0, &[(":status", "103"), ("link", "</a>")])),
    );
    is_survived(
        "continuations",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::frame(
                    frames::HEADERS,
                    0,
                    stream,
                    frames::block(&[(":status", "200")]),
                );
            }
            frames::frame(
                frames::CONTINUATION,
                0,
                stream,
                frames::block(&[("x", "y")]),
            )
        }),
    );
    is_survived(
        "empty continuations",
        &flooding(|stream, round| {
            let kind = if round == 0 {
                frames::HEADERS
            } else {
                frames::CONTINUATION
            };
            frames::frame(kind, 0, stream, b"")
        }),
    );
    is_survived(
        "trailers",
        &flooding(|stream, round| {
            if round == 0 {
                return frames::headers(stream, 0, &[(":status", "200")]);
            }
            frames::headers(stream, 0, &[("x-t", "1")])
        }),
    );
}

#[test]
fn an_hpack_bomb_is_one_failed_answer() {
    // One entry of 4,000 bytes in the dynamic table, then 16,000 references to it: 64 MB.
    let origin = flooding(|stream, round| {
        let mut block = vec![0x88];
        if round == 0 {
            block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
            block.extend([b'a'; 4000]);
        }
        block.extend([0xbe; 12_000]);
        frames::frame(frames::HEADERS, frames::END_HEADERS, stream, block)
    });
    is_survived("an HPACK bomb", &origin);
}

#[test]
fn interim_answers_that_a_client_does_not_take_are_bounded() {
    let cut = Arc::new(AtomicBool::new(false));
    let flag = cut.clone();
    let origin = raw(move |raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(stream) = raw.request() else { return };
        let long = "x".repeat(12_000);
        flood(
            raw,
            |_| frames::headers(stream, 0, &[(":status", "103"), ("link", &long)]),
            100_000,
        );
        flag.store(true, Ordering::SeqCst);
    });
    let proxy = Process::start(&file(origin.address(), ALONE));
    let before = proxy.resident();
    let mut client = Client::connect(proxy.listener);
    client.send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the server is cut", || cut.load(Ordering::SeqCst));
    let grown = proxy.resident().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} KiB more");
    assert_eq!(Client::connect(proxy.listener).get("/good").text(), "ok");
}

#[test]
fn window_games_end_what_plays_them() {
    const MOST: u32 = 0x7fff_ffff;
    type Case = (&'static str, fn(u32) -> Vec<u8>);
    let cases: [Case; 5] = [
        ("stream overflow", |stream| {
            [
                frames::window_update(stream, MOST),
                frames::window_update(stream, MOST),
            ]
            .concat()
        }),
        ("connection overflow", |_| {
            [
                frames::window_update(0, MOST),
                frames::window_update(0, MOST),
            ]
            .concat()
        }),
        ("zero for a stream", |stream| {
            frames::window_update(stream, 0)
        }),
        ("zero for the connection", |_| frames::window_update(0, 0)),
        ("settings overflow", |stream| {
            [
                frames::window_update(stream, MOST - 65_535),
                frames::settings(&[(frames::INITIAL_WINDOW_SIZE, MOST)]),
            ]
            .concat()
        }),
    ];
    for (what, bytes) in cases {
        let origin = raw(move |raw| {
            if raw.connection.index > 0 {
                return raw.serve();
            }
            let Some(stream) = raw.request() else { return };
            raw.send(bytes(stream));
            raw.serve();
        });
        let proxy = to(origin.address(), ALONE);
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        let answer = client.response();
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
        assert_eq!(proxy.get("/").text(), "ok", "after {what}");
    }
}

#[test]
fn more_than_the_window_ends_its_stream_alone() {
    let origin = raw(|raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        let Some(stream) = raw.request() else { return };
        raw.send(frames::headers(stream, 0, &[(":status", "200")]));
        let piece = vec![0; 16_384];
        for _ in 0..64 {
            if raw
                .connection
                .try_send(frames::data(stream, 0, &piece))
                .is_err()
            {
                return;
            }
        }
        raw.serve();
    });
    let proxy = to(origin.address(), ALONE);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    // The windows are given back as the client reads, so all of it may pass too.
    let _ = client.some();
    drop(client);
    assert_eq!(proxy.get("/").text(), "ok");
}

#[test]
fn windows_given_back_in_small_coin_are_no_flood() {
    let origin = raw(|raw| {
        let Some(stream) = raw.request() else { return };
        loop {
            let Some(frame) = raw.next() else { return };
            if frame.kind != frames::DATA {
                continue;
            }
            for piece in frame.payload.chunks(1024) {
                raw.send(frames::window_update(stream, piece.len() as u32));
                raw.send(frames::window_update(0, piece.len() as u32));
            }
            if frame.is(END_STREAM) {
                break;
            }
        }
        raw.ok(stream);
        raw.serve();
    });
    let proxy = to(origin.address(), ALONE);
    let answer = proxy.client().post("/", &vec![7; 8 << 20]);
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
}
