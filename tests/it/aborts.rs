//! Clients and servers that leave in the middle: what is cancelled, what is counted, what is logged.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::support::{Client, Origin, Proxy, eventually};

/// A proxy with an access log; one failure would open the breaker.
struct Scene {
    proxy: Proxy,
    server: String,
    log: PathBuf,
    _directory: TempDir,
}

fn scene(origin: &Origin, upstream: &str) -> Scene {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("access.json");
    let server = origin.address().to_string();
    let proxy = Proxy::start(&format!(
        "[access-log]\npath = \"{}\"\nformat = \"json\"\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{server}\"]\n{upstream}\n\
         [upstream.app.breaker]\nconsecutive-failures = 1\n",
        log.display()
    ));
    Scene {
        proxy,
        server,
        log,
        _directory: directory,
    }
}

impl Scene {
    fn records(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    #[track_caller]
    fn logs(&self, status: u16, reason: &str) {
        eventually(&format!("{status} {reason} is in the log"), || {
            let records = self.records();
            records
                .iter()
                .any(|one| one["status"] == status && one["reason"] == reason)
        });
    }

    fn server(&self, family: &str) -> Option<f64> {
        let server = &self.server;
        self.proxy
            .metric(&format!("{family}{{upstream=\"app\",server=\"{server}\"}}"))
    }

    /// No slot is taken and the breaker heard of no failure.
    #[track_caller]
    fn is_neutral(&self) {
        eventually("the slot is free", || {
            self.server("evenkeel_upstream_requests_in_flight") == Some(0.0)
                && self
                    .proxy
                    .metric("evenkeel_requests_in_flight{listener=\"web\"}")
                    == Some(0.0)
        });
        assert_eq!(
            self.server("evenkeel_upstream_breaker_state"),
            Some(0.0),
            "closed"
        );
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// The two ways to go.
fn leave(mut client: Client, reset: bool) {
    if reset {
        client.reset();
    } else {
        client.finish();
        assert!(client.rest().is_empty(), "no answer to one who left");
    }
}

#[test]
fn client_that_leaves_while_a_server_thinks_cancels_its_request() {
    for (reset, request) in [
        (false, GET.to_owned()),
        (true, GET.to_owned()),
        (
            true,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        ),
        (
            false,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        ),
        (
            false,
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
        ),
    ] {
        let origin = Origin::scripted(|connection| {
            connection.request_head();
            connection.wait_for_close();
        });
        let scene = scene(&origin, "");
        let mut client = scene.proxy.client();
        client.send(&request);
        origin.last();
        leave(client, reset);
        eventually("the server's connection is closed", || origin.open() == 0);
        scene.is_neutral();
        scene.logs(499, "client_closed");
        assert_eq!(origin.request_count(), 1, "no other attempt: {request:?}");
    }
}

#[test]
fn client_that_leaves_in_its_body_cuts_the_request_at_the_server() {
    for reset in [false, true] {
        for framing in ["Content-Length: 20", "Transfer-Encoding: chunked"] {
            let origin = Origin::scripted(|connection| {
                connection.request_head();
                let mut body = Vec::new();
                while let Some(bytes) = connection.some() {
                    body.extend(bytes);
                }
                assert!(!body.ends_with(b"0\r\n\r\n"), "a cut body looks whole");
            });
            let scene = scene(&origin, "");
            let mut client = scene.proxy.client();
            client.send(format!(
                "PUT / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n5\r\nhello\r\n"
            ));
            origin.last();
            leave(client, reset);
            eventually("the server's connection is closed", || origin.open() == 0);
            scene.is_neutral();
            scene.logs(499, "client_closed");
            assert_eq!(origin.request_count(), 1, "no other attempt: {framing}");
        }
    }
}

#[test]
fn connection_of_an_upload_that_was_answered_and_then_cut_serves_nobody_else() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request_head() {
            let tag = request.target();
            let length = tag.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{tag}"
            ));
        }
    });
    let scene = scene(&origin, "");
    for reset in [false, true] {
        // A connection of its own: nothing was kept.
        let mut client = scene.proxy.client();
        client.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nhello");
        assert_eq!(
            client.response().text(),
            "/upload",
            "before its body has come"
        );
        leave(client, reset);
        eventually("the server's connection is closed", || origin.open() == 0);
        scene.is_neutral();
    }
}

#[test]
fn client_that_leaves_in_its_answer_ends_it_at_the_server() {
    for reset in [false, true] {
        let origin = Origin::scripted(|connection| {
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while connection.try_send("5\r\nhello\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let scene = scene(&origin, "");
        let mut client = scene.proxy.client();
        client.send(GET);
        client.exactly(200).expect("the answer begins");
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        eventually("the server's connection is closed", || origin.open() == 0);
        scene.is_neutral();
        scene.logs(200, "client_closed");
    }
}

#[test]
fn client_that_leaves_the_queue_leaves_no_place_behind() {
    let body = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    let half = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\nhi";
    for request in [GET, body, half] {
        for reset in [false, true] {
            let origin = Origin::stalling();
            let queue = "max-requests = 1\nqueue = { size = 8, timeout = \"60s\" }";
            let scene = scene(&origin, queue);
            let mut first = scene.proxy.client();
            first.send(GET);
            origin.last();
            let mut client = scene.proxy.client();
            client.send(request);
            let series = "evenkeel_upstream_queue_length{upstream=\"app\"}";
            let waiting = || scene.proxy.metric(series);
            eventually("it waits", || waiting() == Some(1.0));
            leave(client, reset);
            eventually(&format!("{request:?} waits no more"), || {
                waiting() == Some(0.0)
            });
            scene.logs(499, "client_closed");
            assert_eq!(
                origin.request_count(),
                1,
                "{request:?} never went to a server"
            );
        }
    }
}

/// By a reset: a FIN stands behind the bytes that nobody takes, and never arrives.
#[test]
fn client_that_leaves_behind_a_server_that_does_not_read_is_noticed() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        eventually("the proxy has gone", || connection.is_broken());
    });
    let scene = scene(&origin, "");
    let client = scene.proxy.client();
    let mut stream = client.stream();
    let timeout = Some(Duration::from_millis(300));
    stream.set_write_timeout(timeout).expect("can be set");
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99000000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the head goes");
    // As much as goes without anybody reading.
    while stream.write(&[b'x'; 65_536]).is_ok() {}
    client.reset();
    eventually("the server's connection is closed", || origin.open() == 0);
    scene.is_neutral();
    scene.logs(499, "client_closed");
}

#[test]
fn request_that_is_aborted_while_it_is_tried_again_is_not_logged_as_answered() {
    let failing = Origin::answering("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    let stalling = Origin::stalling();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("access.json");
    let proxy = Proxy::start(&format!(
        "[process]\nworkers = 1\ndrain-timeout = \"100ms\"\n\
         [access-log]\npath = \"{}\"\nformat = \"json\"\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{}\", \"{}\"]\nbalance = \"round-robin\"\n",
        log.display(),
        failing.address(),
        stalling.address()
    ));
    let mut client = proxy.client();
    client.send(GET);
    stalling.last();
    proxy.drain();
    assert!(client.rest().is_empty(), "the drain cuts it off");
    proxy.wait();
    let text = std::fs::read_to_string(&log).expect("is there");
    let record: serde_json::Value = serde_json::from_str(&text).expect("one record");
    assert_ne!(record["status"], 503, "nobody got that: {record}");
}

#[test]
fn server_that_breaks_its_answer_off_is_in_the_log() {
    for reset in [false, true] {
        let origin = Origin::scripted(move |connection| {
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            if reset {
                connection.reset();
            }
        });
        let scene = scene(&origin, "");
        let mut client = scene.proxy.client();
        client.send(GET);
        client.try_response().expect_err("the answer is not whole");
        scene.logs(200, "upstream_reset");
        let state = scene.server("evenkeel_upstream_breaker_state");
        assert_eq!(state, Some(2.0), "the server failed: its breaker is open");
    }
}
