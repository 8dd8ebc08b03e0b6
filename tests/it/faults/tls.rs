//! Where TLS makes a difference: only `close_notify` is an end, any other may be somebody on the
//! way who cuts an answer (RFC 8446 section 6.1), and nothing that is not sealed is an answer.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use super::Ear::{Deaf, Hears};
use super::Seen::{Cut, Told, Whole};
use super::{Ear, Row, Seen, first_line, verdict};
use crate::support::tls::{Authority, replace};
use crate::support::tls_origin::{Behaviour, Tls, TlsOrigin};
use crate::support::{Origin, Proxy, eventually};

const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf";
const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";

/// Unsealed: a warning that nothing follows, as somebody on the way can write it.
const FORGED_END: &[u8] = b"\x15\x03\x03\x00\x02\x01\x00";
/// A record that nobody sealed.
const FORGED_DATA: &[u8] = b"\x17\x03\x03\x00\x21nobody has sealed what is in here";

fn send(tls: &mut Tls, text: &str) {
    // The proxy may have given up.
    let _ = tls.write_all(text.as_bytes()).and_then(|()| tls.flush());
}

/// `close_notify`, and the end behind it.
fn end(tls: &mut Tls) {
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

/// Past the seals.
fn forge(tls: &mut Tls, bytes: &[u8]) {
    let _ = tls.sock.write_all(bytes);
    let _ = tls.sock.shutdown(Shutdown::Write);
}

fn reset(tls: &mut Tls) {
    socket2::SockRef::from(&tls.sock)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket");
}

/// The proxy before a server, and its log.
fn scene(ca: &Authority, address: std::net::SocketAddr) -> (Proxy, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    replace(&directory.path().join("ca.pem"), &ca.pem());
    let log = directory.path().join("log");
    let config = format!(
        "[upstream.app]\nservers = [\"{address}\"]\nretry = {{ attempts = 0 }}\n\
         breaker = {{ consecutive-failures = 1, open = \"50ms\" }}\n\
         slow-start = \"off\"\n[upstream.app.tls]\nca = \"ca.pem\"\n\
         [access-log]\nformat = \"json\"\npath = \"{}\"\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        log.display()
    );
    let proxy = Proxy::start_in(directory, &config).expect("it starts");
    (proxy, log)
}

fn check(what: &str, ca: &Authority, fault: fn(&mut Tls), expected: Seen, ear: Ear) {
    let origin = TlsOrigin::start(&Behaviour {
        fault: Some(fault),
        ..Behaviour::of(&ca.issue(&["127.0.0.1"]))
    });
    let (proxy, log) = scene(ca, origin.address());
    let mut client = proxy.client();
    client.send("GET /fault HTTP/1.1\r\nHost: test\r\n\r\n");
    let got = client.try_response().ok().map(|answer| {
        let reason = answer.evenkeel_reason().map(str::to_owned);
        (answer.status, reason, answer.text())
    });
    let line = first_line(&log);
    verdict(what, &proxy, origin.address(), (got, &line), expected, ear);
    eventually(&format!("{what}: the next is served"), || {
        proxy.get("/next").status == 200
    });
}

const BEFORE_THE_HEAD: &[Row<fn(&mut Tls)>] = &[
    ("closes", |_| {}, Told(502, "upstream_reset"), Hears),
    ("ends", end, Told(502, "upstream_reset"), Hears),
    ("resets", reset, Told(502, "upstream_reset"), Hears),
    (
        "an answer that is not sealed",
        |tls| forge(tls, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Told(502, "tls_failed"),
        Hears,
    ),
];

const INSIDE_OF_A_BODY: &[Row<fn(&mut Tls)>] = &[
    (
        "until the end, and that is said",
        |tls| {
            send(tls, UNTIL_CLOSE);
            end(tls);
        },
        Whole("half"),
        Deaf,
    ),
    (
        "until the end, and that is not said",
        |tls| send(tls, UNTIL_CLOSE),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "until the end, and another says it",
        |tls| {
            send(tls, UNTIL_CLOSE);
            forge(tls, FORGED_END);
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "until the end, and another adds to it",
        |tls| {
            send(tls, UNTIL_CLOSE);
            forge(tls, FORGED_DATA);
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "a length, closed",
        |tls| send(tls, LENGTH),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "a length, ended",
        |tls| {
            send(tls, LENGTH);
            end(tls);
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "a length, another adds to it",
        |tls| {
            send(tls, LENGTH);
            forge(tls, FORGED_DATA);
        },
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "chunks, closed",
        |tls| send(tls, CHUNKS),
        Cut("upstream_reset"),
        Hears,
    ),
    (
        "chunks, ended",
        |tls| {
            send(tls, CHUNKS);
            end(tls);
        },
        Cut("upstream_reset"),
        Hears,
    ),
];

/// What has come whole is whole, whatever follows.
const BEHIND_THE_BODY: &[Row<fn(&mut Tls)>] = &[
    (
        "a length, closed",
        |tls| send(tls, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Whole("ok"),
        Deaf,
    ),
    (
        "chunks, closed",
        |tls| {
            send(tls, CHUNKS);
            send(tls, "0\r\n\r\n");
        },
        Whole("half"),
        Deaf,
    ),
];

#[test]
fn only_close_notify_is_an_end() {
    let ca = Authority::new();
    for (place, rows) in [
        ("before the head", BEFORE_THE_HEAD),
        ("inside of a body", INSIDE_OF_A_BODY),
        ("behind the body", BEHIND_THE_BODY),
    ] {
        for (what, fault, expected, ear) in rows {
            check(&format!("{place}: {what}"), &ca, *fault, *expected, *ear);
        }
    }
}

#[test]
fn a_handshake_that_is_reset_or_refused_is_no_connection() {
    let ca = Authority::new();
    let reset = Origin::scripted(|connection| {
        connection.some();
        connection.reset();
    });
    // handshake_failure, as a server without a common cipher says it.
    let refusing = Origin::scripted(|connection| {
        connection.some();
        connection.send(b"\x15\x03\x03\x00\x02\x02\x28");
        connection.wait_for_close();
    });
    for (origin, what) in [(reset, "reset"), (refusing, "refused")] {
        let (proxy, _) = scene(&ca, origin.address());
        let answer = proxy.get("/");
        let seen = (answer.status, answer.evenkeel_reason());
        assert_eq!(seen, (502, Some("tls_failed")), "{what}");
        let series = format!(
            "evenkeel_upstream_connects_total{{upstream=\"app\",server=\"{}\",result=\"tls_failed\"}}",
            origin.address()
        );
        assert_eq!(proxy.metric(&series), Some(1.0), "{what}");
    }
}
