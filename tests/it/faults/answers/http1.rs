//! Over HTTP/1.1.

use std::thread::sleep;
use std::time::Duration;

use super::GOOD;
use super::{Cut, Deaf, Hears, Row, Told, Whole};
use crate::support::{Connection, Origin};

/// What a server does instead of answering; then it closes.
type Fault = fn(&mut Connection);

/// At fault for `/fault`.
pub fn server(fault: Fault) -> Origin {
    Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/fault" {
                return fault(connection);
            }
            connection.send(GOOD);
        }
    })
}

pub const ROWS: &[Row<Fault>] = &[
    (
        "resets before the head",
        |c| c.reset(),
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "closes before the head",
        |_| {},
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "resets inside of the head",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nServ");
            c.reset();
        },
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "closes inside of the head",
        |c| c.send("HTTP/1.1 200 OK\r\nServ"),
        Told(502, "upstream_reset"),
        Hears,
    ),
    (
        "resets behind the head",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
            c.reset();
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "stalls before the head",
        Connection::wait_for_close,
        Told(504, "response_timeout"),
        Hears,
    ),
    (
        "stalls inside of the head",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nServ");
            c.wait_for_close();
        },
        Told(504, "response_timeout"),
        Hears,
    ),
    (
        "stalls inside of the body",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            c.wait_for_close();
        },
        Cut("response_timeout"),
        Hears,
    ),
    (
        "sends garbage",
        |c| c.send("\u{16}\u{3}garbage\r\n\r\n"),
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "closes inside of a length",
        |c| c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "closes inside of a chunk",
        |c| c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "closes before the last chunk",
        |c| c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "closes inside of its trailers",
        |c| c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nA: b"),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "sends more than its length",
        |c| c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
        Whole("ok"),
        Deaf,
    ),
    (
        "sends two lengths",
        |c| c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "sends a length and chunks",
        |c| {
            c.send(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\n\r\n",
            );
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "sends a head without end",
        |c| {
            c.send("HTTP/1.1 200 OK\r\n");
            while c
                .try_send("X-A: bcdefghijklmnopqrstuvwxyz\r\n".repeat(100))
                .is_ok()
            {}
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "switches protocols unasked",
        |c| {
            c.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                 Upgrade: websocket\r\n\r\n",
            );
        },
        Told(502, "bad_response"),
        Hears,
    ),
    (
        "answers and closes at once",
        |c| c.send(GOOD),
        Whole("ok"),
        Deaf,
    ),
    (
        "answers and closes after 1 ms",
        |c| {
            c.send(GOOD);
            sleep(Duration::from_millis(1));
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "answers and resets after 5 ms",
        |c| {
            c.send(GOOD);
            sleep(Duration::from_millis(5));
            c.reset();
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "begins late",
        |c| {
            sleep(Duration::from_millis(150));
            c.drip(
                &["HTTP/1.1 200 OK\r\n", "Content-Length: 2\r\n\r\n", "o", "k"],
                Duration::from_millis(20),
            );
        },
        Whole("ok"),
        Deaf,
    ),
    (
        "stalls before the body",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
            c.wait_for_close();
        },
        Cut("response_timeout"),
        Hears,
    ),
    (
        "stalls inside of a chunk of the body",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf");
            c.wait_for_close();
        },
        Cut("response_timeout"),
        Hears,
    ),
    (
        "resets inside of a length",
        |c| {
            c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            c.reset();
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "sends garbage for a chunk",
        |c| c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n"),
        Cut("bad_response"),
        Hears,
    ),
];
