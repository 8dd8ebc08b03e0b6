//! Upgraded connections: bytes both ways as they are, and only when both sides agreed.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Client, Connection, Origin, Proxy, eventually};

fn start(origin: &Origin, rest: &str) -> Proxy {
    Proxy::start(&format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [[route]]\nprefix = \"/other\"\nupstream = \"app\"\nupgrades = [\"Other\"]\n\
         [[route]]\nprefix = \"/none\"\nupstream = \"app\"\nupgrades = []\n\
         [upstream.app]\nservers = [\"{}\"]\nbreaker = {{ mode = \"off\" }}\n\
         retry = {{ attempts = 0 }}\n{rest}\n",
        origin.address()
    ))
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A server that switches and then does `rest`.
fn switching(rest: impl Fn(&mut Connection) + Send + Sync + 'static) -> Origin {
    Origin::scripted(move |connection| {
        if connection.request_head().is_some() {
            connection.send(SWITCH);
            rest(connection);
        }
    })
}

fn upgraded(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.response().status, 101);
    client
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..size).map(|_| random.u8(..)).collect()
}

#[test]
fn tunnel_carries_every_byte_both_ways_at_once() {
    const SIZE: usize = 8 << 20;
    let origin = switching(|connection| {
        let mut writer = connection.writer();
        let down = thread::spawn(move || writer.write_all(&noise(SIZE, 1)));
        let up = connection.exactly(SIZE).expect("everything comes");
        assert!(up == noise(SIZE, 2), "the client's bytes are another's");
        down.join().expect("no panic").expect("everything goes");
        connection.send("done");
        connection.wait_for_close();
    });
    let proxy = start(&origin, "");
    let mut client = upgraded(&proxy);
    let mut writer = client.stream().try_clone().expect("descriptors are left");
    let up = thread::spawn(move || writer.write_all(&noise(SIZE, 2)));
    let down = client.exactly(SIZE).expect("everything comes");
    assert!(down == noise(SIZE, 1), "the server's bytes are another's");
    up.join().expect("no panic").expect("everything goes");
    assert_eq!(client.exactly(4).expect("the server had it all"), b"done");
}

/// More than is kept for a request that waits for its turn.
const EARLY: usize = 1 << 20;

#[test]
fn bytes_sent_early_wait_for_the_switch_and_come_first() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        assert!(
            connection.is_silent_for(Duration::from_millis(100)),
            "bytes went to the server before it switched"
        );
        connection.send([SWITCH.as_bytes(), b"\x81\x05first"].concat());
        let early = connection.exactly(EARLY).expect("the early bytes come");
        assert!(early == noise(EARLY, 3), "the early bytes are others");
        connection.send(b"second");
        connection.wait_for_close();
    });
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    let mut writer = client.stream().try_clone().expect("descriptors are left");
    let early = [UPGRADE.as_bytes(), &noise(EARLY, 3)].concat();
    let early = thread::spawn(move || writer.write_all(&early));
    let switched = client.response();
    assert_eq!(switched.status, 101);
    assert_eq!(switched.header("upgrade"), Some("websocket"));
    assert_eq!(switched.header("connection"), Some("Upgrade"));
    assert_eq!(
        switched.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(
        client.exactly(13).expect("in order"),
        b"\x81\x05firstsecond"
    );
    early.join().expect("no panic").expect("everything goes");
    let request = origin.last();
    assert_eq!(request.headers("connection"), ["Upgrade"]);
    assert_eq!(request.headers("upgrade"), ["websocket"]);
    assert_eq!(
        request.headers("sec-websocket-key"),
        ["dGhlIHNhbXBsZSBub25jZQ=="]
    );
}

#[test]
fn early_bytes_of_an_upgrade_that_is_not_made_stay_with_us() {
    let origin = Origin::good("no");
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    client.send([UPGRADE, "\u{1}GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
    assert_eq!(client.response().text(), "no");
    assert_eq!(client.response().status, 400, "they are no request");
    assert!(client.rest().is_empty());
    let mut other = proxy.client();
    assert_eq!(other.get("/other").text(), "no");
    let targets: Vec<_> = origin.requests().iter().map(|one| one.target()).collect();
    assert_eq!(targets, ["/ws", "/other"]);
}

#[test]
fn each_side_may_end_before_the_other() {
    let origin = switching(|connection| {
        let mut all = Vec::new();
        while let Some(bytes) = connection.some() {
            all.extend(bytes);
        }
        // The client's FIN has come; ours has not gone.
        connection.send(format!("got {}", String::from_utf8_lossy(&all)));
    });
    let proxy = start(&origin, "");
    let mut client = upgraded(&proxy);
    client.send("ping").finish();
    assert_eq!(client.rest(), b"got ping", "after our own end");

    let origin = switching(|connection| {
        connection.send("bye");
        connection.finish();
        assert_eq!(connection.exactly(4).expect("after its own end"), b"last");
    });
    let proxy = start(&origin, "");
    let mut client = upgraded(&proxy);
    assert_eq!(client.rest(), b"bye");
    client.send("last");
    client
        .stream()
        .shutdown(Shutdown::Write)
        .expect("the socket is alive");
    eventually("both ends have ended", || origin.open() == 0);
    let series = "evenkeel_requests_in_flight{listener=\"web\"}";
    eventually("the tunnel has ended", || proxy.metric(series) == Some(0.0));
}

#[test]
fn token_that_the_route_does_not_name_is_removed() {
    let origin = Origin::good("plain");
    let proxy = start(&origin, "");
    for (target, version, fields) in [
        ("/", "1.1", "Connection: Upgrade\r\nUpgrade: other\r\n"),
        (
            "/",
            "1.1",
            "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
        ),
        ("/", "1.1", "Upgrade: websocket\r\n"),
        (
            "/",
            "1.0",
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
        ),
        (
            "/none",
            "1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        ),
        (
            "/other",
            "1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        ),
        (
            "/other",
            "1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
        ),
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "GET {target} HTTP/{version}\r\nHost: h\r\n{fields}\r\n"
        ));
        assert_eq!(client.response().text(), "plain", "{target} {fields:?}");
        let received = origin.last();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(received.header(name), None, "{target} {fields:?}");
        }
        assert_eq!(client.get("/").text(), "plain", "the connection goes on");
    }
}

#[test]
fn websockets_begin_with_get_and_others_with_any_method() {
    let origin = Origin::good("plain");
    let proxy = start(&origin, "");
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "get"] {
        for (target, token) in [("/", "websocket"), ("/", "WebSocket"), ("/other", "other")] {
            let fields = format!("Connection: Upgrade\r\nUpgrade: {token}\r\n");
            let answer = proxy.client().request(method, target, &fields);
            assert_eq!(answer.text(), "plain", "{method} {token}");
            let passes = method == "GET" || token == "other";
            let upgrade = origin.last().header("upgrade").is_some();
            assert_eq!(upgrade, passes, "{method} {token}");
        }
    }
}

#[test]
fn requests_that_offer_an_upgrade_and_have_a_body_are_read_to_its_end_first() {
    // The body looks like a request, and what follows it is early.
    let inner = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let size = inner.len();
    for (framing, body) in [
        (format!("Content-Length: {size}"), inner.to_owned()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{size:x}\r\n{inner}\r\n0\r\n\r\n"),
        ),
    ] {
        let origin = Origin::scripted(|connection| {
            let request = connection.request().expect("a whole request");
            assert_eq!(request.header("upgrade").as_deref(), Some("websocket"));
            assert!(
                connection.is_silent_for(Duration::from_millis(50)),
                "early bytes went on"
            );
            connection.send(SWITCH);
            assert_eq!(connection.exactly(5).as_deref(), Some(&b"early"[..]));
            connection.send("late");
        });
        let proxy = start(&origin, "");
        let mut client = proxy.client();
        client.send(format!(
            "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             {framing}\r\n\r\n{body}early"
        ));
        assert_eq!(client.response().status, 101, "{framing}");
        assert_eq!(client.rest(), b"late", "{framing}");
    }
}

#[test]
fn switch_before_the_request_has_ended_is_a_bad_answer() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send(SWITCH);
        connection.wait_for_close();
    });
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    client.send(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Content-Length: 5\r\n\r\nhal",
    );
    assert_eq!(client.response().evenkeel_reason(), Some("bad_response"));
    eventually("that connection is closed", || origin.open() == 0);
}

#[test]
fn switch_to_what_was_not_asked_for_is_a_bad_answer() {
    for (target, asked, answer) in [
        (
            "/",
            "websocket",
            "Connection: upgrade\r\nUpgrade: other\r\n",
        ),
        (
            "/",
            "websocket",
            "Connection: upgrade\r\nUpgrade: websocket, other\r\n",
        ),
        (
            "/",
            "websocket",
            "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n",
        ),
        ("/", "websocket", "Connection: upgrade\r\n"),
        ("/", "websocket", "Upgrade: websocket\r\n"),
        ("/", "other", "Connection: upgrade\r\nUpgrade: other\r\n"),
        (
            "/other",
            "websocket",
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
        ),
        ("/other", "h2c", "Connection: upgrade\r\nUpgrade: h2c\r\n"),
    ] {
        let origin = Origin::answering(format!("HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n"));
        let proxy = start(&origin, "");
        let mut client = proxy.client();
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: {asked}\r\n\r\n"
        ));
        let refused = client.response();
        assert_eq!(refused.status, 502, "{asked}: {answer:?}");
        assert_eq!(refused.evenkeel_reason(), Some("bad_response"));
        eventually("that connection is closed", || origin.open() == 0);
    }
}

#[test]
fn other_tokens_work_where_the_route_names_them() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 101 Now\r\nConnection: upgrade\r\nUpgrade: OTHER\r\n\r\nhi");
        connection.wait_for_close();
    });
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    client.send(
        "GET /other HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c, oTHer\r\n\r\n",
    );
    assert_eq!(client.response().status, 101);
    assert_eq!(client.exactly(2).expect("a tunnel"), b"hi");
    assert_eq!(origin.last().headers("upgrade"), ["oTHer"]);
}

#[test]
fn server_that_does_not_switch_answers_as_usual() {
    let origin = Origin::answering(
        "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: other\r\n\
         Content-Length: 2\r\n\r\nno",
    );
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send(UPGRADE);
        let answer = client.response();
        assert_eq!((answer.status, &*answer.text()), (426, "no"));
    }
    assert_eq!(origin.connections(), 1, "a connection like any other");
}

#[test]
fn tunnel_that_breaks_on_one_side_ends_on_the_other_and_is_not_in_flight() {
    let origin = switching(Connection::wait_for_close);
    let proxy = start(&origin, "");
    let series = format!(
        "evenkeel_upstream_requests_in_flight{{upstream=\"app\",server=\"{}\"}}",
        origin.address()
    );
    let client = upgraded(&proxy);
    assert_eq!(
        proxy.metric(&series),
        Some(0.0),
        "a tunnel leaves the count"
    );
    client.reset();
    eventually("the server's side ends", || origin.open() == 0);

    let origin = switching(|connection| {
        connection.some();
        connection.reset();
    });
    let proxy = start(&origin, "");
    let mut client = upgraded(&proxy);
    client.send("x");
    assert!(client.rest().is_empty());
    let series = "evenkeel_requests_in_flight{listener=\"web\"}";
    eventually("the tunnel has ended", || proxy.metric(series) == Some(0.0));
}

#[test]
fn tunnel_goes_on_through_a_drain_until_its_end_or_the_timeout() {
    let echo = |connection: &mut Connection| {
        while let Some(bytes) = connection.some() {
            connection.send(bytes);
        }
    };
    for ends in [true, false] {
        let origin = switching(echo);
        let timeout = if ends { "8s" } else { "700ms" };
        let proxy = start(
            &origin,
            &format!("[process]\nworkers = 2\ndrain-timeout = \"{timeout}\"\n"),
        );
        let mut client = upgraded(&proxy);
        let address = proxy.address();
        let began = Instant::now();
        proxy.drain();
        eventually("no connection is accepted", || {
            std::net::TcpStream::connect(address).is_err()
        });
        client.send("still here");
        assert_eq!(
            client.exactly(10).expect("the tunnel goes on"),
            b"still here"
        );
        if ends {
            client.finish();
            assert!(client.rest().is_empty());
            proxy.wait();
            assert!(
                began.elapsed() < Duration::from_secs(6),
                "the drain ends with the tunnel"
            );
        } else {
            let mut stream = client.stream();
            let _ = stream.read(&mut [0; 1]);
            let took = began.elapsed();
            assert!(
                took >= Duration::from_millis(650),
                "not before its time: {took:?}"
            );
            proxy.wait();
        }
    }
}
