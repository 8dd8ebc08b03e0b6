//! What streams make possible: servers that fail one request beside others, that never read, and
//! that allow few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::h2_upstream::raw::{Raw, raw, raw_with};
use crate::h2_upstream::to;
use crate::support::frames::{self, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS};
use crate::support::{Origin, Proxy, eventually};

const ALONE: &str = "retry = { attempts = 0 }\nbreaker = { mode = \"off\" }";

/// Serves all but the first request, and says once that was given up.
fn stalling_one(begin: fn(&mut Raw<'_>, u32), given_up: Arc<AtomicUsize>) -> Origin {
    raw(move |raw| {
        let Some(stalled) = raw.request() else { return };
        begin(raw, stalled);
        while let Some(frame) = raw.next() {
            match frame.kind {
                frames::HEADERS => raw.ok(frame.stream),
                frames::RST_STREAM => {
                    assert_eq!(frame.stream, stalled, "nobody else is given up");
                    given_up.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
        }
    })
}

#[test]
fn a_stream_that_stalls_holds_nobody_else() {
    let nothing: fn(&mut Raw<'_>, u32) = |_, _| {};
    let half: fn(&mut Raw<'_>, u32) = |raw, stream| {
        raw.send(frames::headers(stream, 0, &[(":status", "200")]));
        raw.send(frames::data(stream, 0, b"half"));
    };
    for (begin, patience) in [
        (nothing, "timeout = { first-byte = \"3s\" }"),
        (half, "timeout = { idle = \"3s\" }"),
    ] {
        let given_up = Arc::default();
        let origin = stalling_one(begin, Arc::clone(&given_up));
        let proxy = to(origin.address(), &format!("{ALONE}\n{patience}"));
        let mut stalled = proxy.client();
        stalled.send("GET /stalled HTTP/1.1\r\nHost: h\r\n\r\n");
        eventually("it is on its way", || origin.open() == 1);
        let mut other = proxy.client();
        let mut served = 0;
        eventually("the stalled one is given up", || {
            assert_eq!(other.get("/").text(), "ok", "{patience}");
            served += 1;
            given_up.load(Ordering::SeqCst) == 1
        });
        assert!(served > 10, "{patience}: others went on");
        match stalled.try_response() {
            Ok(answer) => assert_eq!(answer.evenkeel_reason(), Some("response_timeout")),
            Err(_) => assert!(patience.contains("idle"), "cut"),
        }
        assert_eq!(other.get("/").text(), "ok", "{patience}");
        assert_eq!(origin.connections(), 1, "{patience}");
    }
}

/// What a server does not want to read, it does not have to; what fits nowhere is not waited for
/// without end.
#[test]
fn a_server_that_never_reads_is_not_waited_for() {
    let origin = raw_with(&[(INITIAL_WINDOW_SIZE, 0)], |raw| {
        raw.serve_without_bodies()
    });
    let patience = "timeout = { idle = \"500ms\", first-byte = \"20s\" }";
    let proxy = to(origin.address(), &format!("{ALONE}\n{patience}"));
    let answer = proxy.client().post("/", b"order");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (504, Some("response_timeout"))
    );
    assert_eq!(proxy.get("/").text(), "ok", "who sends nothing is served");
}

impl Raw<'_> {
    /// Answers requests that have no body.
    fn serve_without_bodies(&mut self) {
        while let Some(frame) = self.next() {
            if frame.kind == frames::HEADERS && frame.is(frames::END_STREAM) {
                self.ok(frame.stream);
            }
        }
    }
}

/// Neither frames nor bytes are taken: the socket itself is full.
#[test]
fn a_server_whose_socket_is_full_is_not_waited_for() {
    let window = [(INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
    let origin = raw_with(&window, |raw| {
        if raw.connection.index > 0 {
            return raw.serve();
        }
        raw.send(frames::window_update(0, 0x7fff_0000));
        let Some(_) = raw.request() else { return };
        eventually("nobody writes any more", || raw.connection.is_broken());
    });
    let patience = "timeout = { idle = \"500ms\", first-byte = \"20s\" }";
    let proxy = to(origin.address(), &format!("{ALONE}\n{patience}"));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n");
    let mut writer = client.stream().try_clone().expect("a socket");
    thread::spawn(move || {
        use std::io::Write;
        while writer.write_all(&[7; 65_536]).is_ok() {}
    });
    let answer = client.response();
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (504, Some("response_timeout"))
    );
    eventually("the next is served", || proxy.get("/").status == 200);
}

#[test]
fn one_request_at_a_time_is_what_a_server_gets() {
    let origin = raw_with(&[(MAX_CONCURRENT_STREAMS, 1)], |raw| {
        while let Some(stream) = raw.request() {
            let early = raw
                .connection
                .is_silent_for(std::time::Duration::from_millis(5));
            assert!(early, "a second request while the first one runs");
            raw.ok(stream);
        }
    });
    let proxy = to(origin.address(), ALONE);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = proxy.client();
            thread::spawn(move || {
                for _ in 0..10 {
                    assert_eq!(client.get("/").text(), "ok");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every request is served");
    }
}

/// A server that is not ready yet may say so.
#[test]
fn a_server_that_allows_requests_later_gets_them_then() {
    let asked = Arc::new(AtomicUsize::new(0));
    let gate = Arc::clone(&asked);
    let origin = raw_with(&[(MAX_CONCURRENT_STREAMS, 0)], move |raw| {
        eventually("somebody waits", || gate.load(Ordering::SeqCst) == 1);
        raw.send(frames::settings(&[(MAX_CONCURRENT_STREAMS, 100)]));
        raw.serve();
    });
    let proxy: Proxy = to(origin.address(), ALONE);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\norder");
    eventually("it is on its way", || origin.connections() == 1);
    asked.store(1, Ordering::SeqCst);
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (200, "ok"));
}
