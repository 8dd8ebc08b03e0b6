//! `half-close`: a client that ends its side after its request still gets its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::{Client, Origin, Proxy, eventually};

struct Scene {
    proxy: Proxy,
    log: std::path::PathBuf,
    /// Lets the server answer.
    go: Arc<AtomicBool>,
    origin: Origin,
    _ping: Origin,
    _directory: tempfile::TempDir,
}

/// One worker, so that what one client did is seen before what another does after it.
fn scene(half_close: bool) -> Scene {
    let go = Arc::new(AtomicBool::new(false));
    let gate = go.clone();
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let gate = gate.clone();
            eventually("the server may answer", || {
                gate.load(Ordering::SeqCst) || connection.is_broken()
            });
            let answer = format!("{} {}", request.target(), request.body.len());
            let length = answer.len();
            let _ = connection.try_send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}"
            ));
        }
    });
    let ping = Origin::good("pong");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("access.json");
    let proxy = Proxy::start(&format!(
        "[process]\nworkers = 1\n\
         [access-log]\npath = \"{}\"\nformat = \"json\"\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nhalf-close = {half_close}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/ping\"\nupstream = \"ping\"\n\
         [upstream.app]\nservers = [\"{}\"]\n\
         [upstream.ping]\nservers = [\"{}\"]\n",
        log.display(),
        origin.address(),
        ping.address()
    ));
    Scene {
        proxy,
        log,
        go,
        origin,
        _ping: ping,
        _directory: directory,
    }
}

impl Scene {
    /// Sends `request` and a FIN, which the proxy has seen when this returns.
    fn ended(&self, request: &str) -> Client {
        let mut client = self.proxy.client();
        client.send(request);
        self.origin.last();
        client.finish();
        for _ in 0..2 {
            assert_eq!(self.proxy.get("/ping").text(), "pong");
        }
        client
    }

    #[track_caller]
    fn logs(&self, status: u16, reason: Option<&str>) {
        eventually(&format!("{status} {reason:?} is in the log"), || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let mut records = text
                .lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            records.any(|one| one["status"] == status && one["reason"].as_str() == reason)
        });
    }
}

const GET: &str = "GET /one HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn client_that_ends_its_side_after_its_request_gets_the_answer_and_the_end() {
    let chunked = "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let requests = [
        (GET.to_owned(), "/one 0"),
        (
            "POST /two HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
            "/two 2",
        ),
        (format!("{chunked}5\r\nhello\r\n0\r\n\r\n"), "/c 15"),
        ("GET /old HTTP/1.0\r\n\r\n".to_owned(), "/old 0"),
    ];
    for (request, answer) in requests {
        let scene = scene(true);
        let mut client = scene.ended(&request);
        scene.go.store(true, Ordering::SeqCst);
        let response = client.response();
        assert_eq!((response.status, &*response.text()), (200, answer));
        assert_eq!(response.header("connection"), Some("close"), "{request}");
        assert!(client.rest().is_empty(), "the connection ends behind it");
        scene.logs(200, None);
    }
}

#[test]
fn requests_that_came_before_the_end_are_all_answered() {
    let scene = scene(true);
    let mut client = scene.ended(&format!("{GET}{}", GET.replace("/one", "/two")));
    scene.go.store(true, Ordering::SeqCst);
    assert_eq!(client.response().text(), "/one 0");
    assert_eq!(client.response().text(), "/two 0");
    assert!(client.rest().is_empty(), "the connection ends behind them");
}

#[test]
fn without_it_a_client_that_ends_its_side_has_left() {
    let scene = scene(false);
    let mut client = scene.ended(GET);
    eventually("its request is cancelled", || scene.origin.open() == 0);
    assert!(client.rest().is_empty(), "no answer to one who left");
    scene.logs(499, Some("client_closed"));
}

#[test]
fn reset_behind_the_end_is_still_an_abort() {
    let scene = scene(true);
    scene.ended(GET).reset();
    eventually("its request is cancelled", || scene.origin.open() == 0);
    scene.logs(499, Some("client_closed"));
}

#[test]
fn end_in_the_middle_of_a_request_is_still_an_abort() {
    for body in [
        "Content-Length: 20\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let origin = Origin::scripted(|connection| {
            connection.request_head();
            let mut body = Vec::new();
            while let Some(bytes) = connection.some() {
                body.extend(bytes);
            }
            assert!(!body.ends_with(b"0\r\n\r\n"), "a cut body looks whole");
        });
        let proxy = Proxy::start(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nhalf-close = true\n\
             [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
             [upstream.app]\nservers = [\"{}\"]\n",
            origin.address()
        ));
        let mut client = proxy.client();
        client.send(format!("PUT / HTTP/1.1\r\nHost: h\r\n{body}"));
        origin.last();
        client.finish();
        assert!(client.rest().is_empty(), "no answer to half a request");
        eventually("the server's connection is closed", || origin.open() == 0);
    }
}
