//! Which protocol is spoken: by the file, by what a server chooses, and by neither where it does
//! not fit; what a reload changes of it; and how checks ask.

use bytes::Bytes;
use http::Response;
use rustls::ServerConfig;

use crate::support::h2_origin::{Call, send};
use crate::support::tls::{Authority, replace};
use crate::support::{H2Origin, Origin, Proxy, eventually};

fn tls(ca: &Authority, alpn: &[&str]) -> ServerConfig {
    ca.issue(&["127.0.0.1"]).server(alpn)
}

fn config(origin: &H2Origin, protocol: &str, more: &str) -> String {
    format!(
        "[process]\nworkers = 1\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nprotocol = \"{protocol}\"\nservers = [\"{}\"]\n\
         breaker = {{ mode = \"off\" }}\nretry = {{ attempts = 0 }}\n{more}\n",
        origin.address()
    )
}

const TLS: &str = "[upstream.app.tls]\nca = \"ca.pem\"\n";

fn start(ca: &Authority, config: &str) -> Proxy {
    let directory = tempfile::tempdir().expect("a temporary directory");
    replace(&directory.path().join("ca.pem"), &ca.pem());
    match Proxy::start_in(directory, config) {
        Ok(proxy) => proxy,
        Err(error) => panic!("the proxy starts: {error:?}"),
    }
}

async fn echo(mut call: Call) {
    let body = call.body().await.expect("whole").0;
    let mut stream = call.head(Response::builder(), false);
    assert!(send(&mut stream, Bytes::from(body), true).await);
}

#[test]
fn http2_over_tls_carries_everything() {
    let ca = Authority::new();
    for protocol in ["h2", "auto"] {
        let origin = H2Origin::secure(tls(&ca, &["h2", "http/1.1"]), echo);
        let proxy = start(&ca, &config(&origin, protocol, TLS));
        let mut client = proxy.client();
        for size in [0, 1, 70_000, 3 << 20] {
            let body: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
            let answer = client.post("/", &body);
            assert_eq!(answer.status, 200, "{protocol}");
            assert!(answer.body == body, "{size} bytes by {protocol}");
        }
        assert_eq!(origin.accepted(), 1, "{protocol}");
        let call = &origin.calls()[0];
        assert!(call.uri.starts_with("https://test/"), "{}", call.uri);
    }
}

#[test]
fn a_server_that_chooses_http1_gets_it() {
    let ca = Authority::new();
    for alpn in [&["http/1.1"][..], &[]] {
        let origin = H2Origin::secure(tls(&ca, alpn), echo);
        let proxy = start(&ca, &config(&origin, "auto", TLS));
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "http1");
        }
        assert_eq!(origin.accepted(), 1, "the connection is kept");
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let mut client = proxy.client();
                std::thread::spawn(move || client.get("/").text())
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().expect("no panic"), "http1");
        }
    }
}

#[test]
fn a_server_without_the_protocol_is_refused_in_the_handshake() {
    let ca = Authority::new();
    let origin = H2Origin::secure(tls(&ca, &["http/1.1"]), echo);
    let proxy = start(&ca, &config(&origin, "h2", TLS));
    let answer = proxy.get("/");
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.evenkeel_reason(), Some("tls_failed"));
}

#[test]
fn without_tls_there_is_nothing_to_choose_by() {
    let origin = Origin::good("http1");
    let proxy = Proxy::start(&format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nprotocol = \"auto\"\nservers = [\"{}\"]\n",
        origin.address()
    ));
    for _ in 0..3 {
        assert_eq!(proxy.get("/").text(), "http1");
    }
}

#[test]
fn connections_outlive_reloads_that_leave_the_protocol() {
    let origin = H2Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, "h2", ""));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "ok");
    for round in 1..4 {
        let queue = format!("queue = {{ size = {round} }}\n");
        proxy.reconfigure(&config(&origin, "h2", &queue));
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.accepted(), 1);
    // What is spoken changes: the kept connection ends, and the server knows no HTTP/1.
    proxy.reconfigure(&config(&origin, "http/1.1", ""));
    assert_eq!(client.get("/").status, 502);
    eventually("the connection is closed", || origin.open() == 0);
    proxy.reconfigure(&config(&origin, "h2", ""));
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn a_request_under_way_ends_where_it_began() {
    let origin = H2Origin::scripted(|mut call| async move {
        let body = call.body().await.expect("whole").0;
        call.ok(body);
    });
    let proxy = Proxy::start(&config(&origin, "h2", ""));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nbe");
    eventually("it is on its way", || origin.running() == 1);
    proxy.reconfigure(&config(&origin, "http/1.1", ""));
    client.send("gun");
    assert_eq!(client.response().text(), "begun");
    eventually("its connection is closed", || origin.open() == 0);
}

#[test]
fn checks_ask_in_http2() {
    let health = "[upstream.app.health]\npath = \"/healthz\"\nbody = \"well\"\n\
         interval = \"250ms\"\nheaders = { x-check = \"1\" }\n";
    let ca = Authority::new();
    let well = |mut call: Call| async move { call.ok("all is well") };
    let secure = H2Origin::secure(tls(&ca, &["h2"]), well);
    let plain = H2Origin::scripted(well);
    for (origin, tls, scheme) in [(&plain, "", "http"), (&secure, TLS, "https")] {
        let proxy = start(&ca, &config(origin, "h2", &format!("{health}{tls}")));
        let healthy = format!(
            "evenkeel_upstream_server_healthy{{upstream=\"app\",server=\"{}\"}}",
            origin.address()
        );
        let passes = format!(
            "evenkeel_upstream_health_checks_total{{upstream=\"app\",server=\"{}\",result=\"success\"}}",
            origin.address()
        );
        eventually("checks pass", || proxy.metric(&passes) > Some(1.0));
        assert_eq!(proxy.metric(&healthy), Some(1.0));
        let call = origin.calls().into_iter().next().expect("a check");
        assert_eq!(call.uri, format!("{scheme}://{}/healthz", origin.address()));
        assert_eq!(call.fields["x-check"], "1");
    }
}
