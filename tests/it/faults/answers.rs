//! What servers do instead of answering, row by row: what the client is given (the reason, or an
//! answer that is visibly cut), what log and metric say, what the breaker hears, where it is tried
//! again, and that the next request is none the worse. Each row by each protocol of the client, and
//! with TLS on both sides.

mod http1;
mod http2;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Ear::{Deaf, Hears};
use super::Seen::{Cut, Told, Whole};
use super::{Ear, Row, Seen, verdict};
use crate::h2_upstream::raw::raw;
use crate::support::h2::{H2, PATIENCE, block_on, try_whole};
use crate::support::tls::{Authority, Issued, replace, try_connect};
use crate::support::{Origin, Proxy, TlsFront, eventually};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Keys are expensive.
static CA: LazyLock<Authority> = LazyLock::new(Authority::new);
static IDENTITY: LazyLock<Issued> = LazyLock::new(|| CA.issue(&["127.0.0.1", "a.example"]));

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

use Protocol::{Http1, Http2};

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Http1 => "http/1.1",
            Http2 => "h2",
        }
    }
}

/// By what a request comes and goes.
#[derive(Debug, Clone, Copy)]
struct Way {
    client: Protocol,
    server: Protocol,
    /// On both sides.
    tls: bool,
}

/// A server, behind TLS or not.
struct Server {
    origin: Origin,
    front: Option<TlsFront>,
}

impl Server {
    fn new(origin: Origin, way: Way) -> Self {
        let front = way.tls.then(|| {
            let tls = IDENTITY.server(&[way.server.name()]);
            TlsFront::before(origin.address(), tls)
        });
        Server { origin, front }
    }

    fn address(&self) -> SocketAddr {
        let front = self.front.as_ref().map(TlsFront::address);
        front.unwrap_or(self.origin.address())
    }
}

/// Short is only the time that a row is about: on a busy machine nothing else may end by it.
fn patience(what: &str) -> String {
    let (first_byte, idle) = match what.strip_prefix("stalls ") {
        Some(place) if place.ends_with("body") => ("10s", "300ms"),
        Some(_) => ("1s", "10s"),
        None => ("10s", "10s"),
    };
    format!(
        "slow-start = \"off\"\n[upstream.app.timeout]\nfirst-byte = \"{first_byte}\"\n\
         idle = \"{idle}\"\n[upstream.app.breaker]\nconsecutive-failures = 1\nopen = \"50ms\"\n"
    )
}

/// A proxy with its log.
struct Scene {
    proxy: Proxy,
    way: Way,
}

fn scene(servers: &[&Server], way: Way, what: &str, attempts: u32) -> Scene {
    let directory = tempfile::tempdir().expect("a directory");
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address()))
        .collect();
    let (mut listener, mut tls) = ("", "");
    if way.tls {
        replace(&directory.path().join("ca.pem"), &CA.pem());
        IDENTITY.write(directory.path(), "site");
        tls = "[upstream.app.tls]\nca = \"ca.pem\"\n";
        listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                    tls = { certificates = [{ cert = \"site.pem\", key = \"site.key\" }] }\n";
    }
    let config = format!(
        "[process]\nworkers = 1\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n{listener}\
         [upstream.app]\nservers = [{}]\nprotocol = \"{}\"\n{}\
         [upstream.app.retry]\nattempts = {attempts}\n{tls}\
         [access-log]\nformat = \"json\"\npath = \"{}\"\n",
        addresses.join(", "),
        way.server.name(),
        patience(what),
        directory.path().join("log").display()
    );
    let proxy = Proxy::start_in(directory, &config);
    let proxy = proxy.unwrap_or_else(|error| panic!("the proxy starts: {error:?}"));
    Scene { proxy, way }
}

/// Status, reason and body; `None` for an answer that is visibly not whole.
pub(super) type Got = Option<(u16, Option<String>, String)>;

impl Scene {
    /// The line of the first request, once it is written.
    fn line(&self) -> Value {
        super::first_line(&self.proxy.directory().join("log"))
    }

    fn ask(&self, method: &str, target: &str) -> Got {
        match self.way.client {
            Http1 => self.ask_by_http1(method, target),
            Http2 => block_on(self.ask_by_http2(method, target)),
        }
    }

    fn ask_by_http1(&self, method: &str, target: &str) -> Got {
        let mut client = match self.way.tls {
            false => self.proxy.client(),
            true => {
                let settings = CA.client().build();
                try_connect(self.proxy.address(), &settings, "a.example").expect("a handshake")
            }
        };
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"
        ));
        let answer = client.try_response_to(method).ok()?;
        let reason = answer.evenkeel_reason().map(str::to_owned);
        Some((answer.status, reason, answer.text()))
    }

    async fn ask_by_http2(&self, method: &str, target: &str) -> Got {
        let builder = h2::client::Builder::new();
        let stream = TcpStream::connect(self.proxy.address()).await;
        let stream = stream.expect("it listens");
        let mut client = match self.way.tls {
            false => H2::over(stream, "http", "test", &builder).await,
            true => {
                let config = CA.client().alpn(&["h2"]).build();
                let name = ServerName::try_from("a.example").expect("a name");
                let stream = TlsConnector::from(config).connect(name, stream).await;
                H2::over(stream.expect("a handshake"), "https", "test", &builder).await
            }
        };
        let request = client.request(method, target).body(()).expect("a request");
        let (answer, mut body) = client.send(request, false).await;
        // The answer may be there before.
        let _ = body.send_data(Bytes::from_static(b"body"), true);
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = try_whole(answer.expect("in time").ok()?).await.ok()?;
        let reason = answer.header("x-evenkeel-reason").map(str::to_owned);
        Some((answer.status, reason, answer.text()))
    }
}

/// Tries one row: `origin` makes a server that is at fault for `/fault` and serves the rest.
fn check(what: &str, way: Way, origin: impl Fn() -> Origin, expected: Seen, ear: Ear) {
    let faulty = Server::new(origin(), way);
    let alone = scene(&[&faulty], way, what, 0);
    let (row, what) = (what, format!("{way:?}, {what}"));
    let got = alone.ask("GET", "/fault");
    let line = alone.line();
    let address = faulty.address();
    verdict(&what, &alone.proxy, address, (got, &line), expected, ear);
    eventually(&format!("{what}: the next is served"), || {
        matches!(alone.ask("GET", "/next"), Some((200, ..)))
    });
    // What has not begun to be answered may be asked of another server, where it may be repeated.
    if let Told(..) = expected {
        for (method, again) in [("GET", true), ("POST", false)] {
            let good = match way.server {
                Http1 => Origin::answering(GOOD),
                Http2 => raw(|raw| raw.serve()),
            };
            let (faulty, good) = (Server::new(origin(), way), Server::new(good, way));
            let two = scene(&[&faulty, &good], way, row, 1);
            // Until one was at the faulty one first.
            let statuses = [(); 2].map(|()| two.ask(method, "/fault").map_or(0, |got| got.0));
            let fine = statuses.iter().all(|status| *status == 200);
            assert_eq!(fine, again, "{what}, {method}: {statuses:?}");
        }
    }
}

/// All rows, several at once: most of them wait. One that fails does not hide the others.
fn check_all<F: Copy + Sync>(rows: &[Row<F>], server: fn(F) -> Origin, way: Way) {
    let lanes = 4;
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for lane in 0..lanes {
            let failed = &failed;
            scope.spawn(move || {
                for (what, fault, expected, ear) in rows.iter().skip(lane).step_by(lanes) {
                    let row = || check(what, way, || server(*fault), *expected, *ear);
                    if catch_unwind(AssertUnwindSafe(row)).is_err() {
                        eprintln!("failed: {way:?}, {what}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0, "rows failed: {way:?}");
}

fn check_way(client: Protocol, server: Protocol, tls: bool) {
    let way = Way {
        client,
        server,
        tls,
    };
    match server {
        Http1 => check_all(http1::ROWS, http1::server, way),
        Http2 => check_all(http2::ROWS, http2::server, way),
    }
}

#[test]
fn faults_over_http1() {
    check_way(Http1, Http1, false);
}

#[test]
fn faults_over_http1_told_to_http2() {
    check_way(Http2, Http1, false);
}

#[test]
fn faults_over_http2() {
    check_way(Http1, Http2, false);
}

#[test]
fn faults_over_http2_told_to_http2() {
    check_way(Http2, Http2, false);
}

#[test]
fn faults_over_http1_inside_of_tls() {
    check_way(Http1, Http1, true);
    check_way(Http2, Http1, true);
}

#[test]
fn faults_over_http2_inside_of_tls() {
    check_way(Http1, Http2, true);
    check_way(Http2, Http2, true);
}
