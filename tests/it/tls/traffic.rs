//! What plain connections carry, TLS carries too.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};

use super::super::support::tls::{connect, try_connect};
use super::super::support::{Client, Origin, app, eventually};
use super::{Scene, listener, scene, simple};

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..size).map(|_| random.u8(..)).collect()
}

/// A client of each version, connected when it is its turn: one that waited for the other's would
/// be a client that sends no request in time.
fn each_version(scene: &Scene) -> impl Iterator<Item = Client> {
    [&TLS12, &TLS13].into_iter().map(|version| {
        let config = scene.authority.client().version(version).build();
        connect(scene.proxy.address(), &config, "a.example")
    })
}

#[test]
fn requests_follow_each_other_and_servers_hear_of_https() {
    let origin = Origin::good("hello");
    let scene = simple(&origin, "");
    let port = scene.proxy.address().port();
    for mut client in each_version(&scene) {
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
            let answer = client.response();
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        }
        let request = origin.last();
        assert_eq!(request.headers("x-forwarded-proto"), ["https"]);
        assert_eq!(request.headers("x-forwarded-port"), [port.to_string()]);
        assert_eq!(request.headers("x-forwarded-for"), ["127.0.0.1"]);
    }
    assert_eq!(scene.handshakes("ok"), 2.0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let target = request.target();
            let length = target.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
        }
    });
    let scene = simple(&origin, "");
    for mut client in each_version(&scene) {
        let requests: String = (0..50)
            .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a.example\r\n\r\n"))
            .collect();
        client.send(requests);
        for number in 0..50 {
            assert_eq!(client.response().text(), format!("/{number}"));
        }
    }
}

#[test]
fn large_bodies_cross_whole_in_both_directions() {
    const SIZE: usize = 12 << 20;
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            assert!(request.body == noise(SIZE, 1), "the upload is another");
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            connection.send(noise(SIZE, 2));
        }
    });
    let scene = simple(&origin, "");
    for mut client in each_version(&scene) {
        for _ in 0..2 {
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {SIZE}\r\n\r\n"
            ));
            client.send(noise(SIZE, 1));
            assert!(
                client.response().body == noise(SIZE, 2),
                "the download is another"
            );
        }
    }
}

#[test]
fn chunked_bodies_and_trailers_cross() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            assert!(request.body.ends_with(b"0\r\n\r\n"), "{request:?}");
            connection
                .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: etag\r\n\r\n");
            for size in [1, 100, 20_000, 70_000] {
                connection.send(format!("{size:x}\r\n"));
                connection.send(noise(size, size as u64));
                connection.send("\r\n");
            }
            connection.send("0\r\netag: x\r\n\r\n");
        }
    });
    let scene = simple(&origin, "");
    let mut client = scene.client();
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        for size in [5, 50_000] {
            client.send(format!("{size:x}\r\n"));
            client.send(noise(size, 9));
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        let answer = client.response();
        let expected: Vec<u8> = [1, 100, 20_000, 70_000]
            .into_iter()
            .flat_map(|size| noise(size, size as u64))
            .collect();
        assert!(answer.body == expected, "{} bytes", answer.body.len());
        assert_eq!(answer.trailers, [("etag".to_owned(), "x".to_owned())]);
    }
}

#[test]
fn an_answer_that_only_the_end_marks_ends_cleanly() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
        connection.close();
    });
    let scene = simple(&origin, "");
    // The client's own library tells a clean end from a cut: reading to the end would fail.
    let mut client = scene.client();
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response().text(), "until the end");
}

#[test]
fn a_cut_answer_never_looks_complete() {
    // FIN is a clean end of that body; a reset is not.
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        thread::sleep(Duration::from_millis(100));
        connection.reset();
    });
    let scene = simple(&origin, "");
    let mut client = scene.client();
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
    let error = client.try_response().expect_err("it was cut");
    let kind = error.kind();
    assert!(
        matches!(
            kind,
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
        ),
        "{error}"
    );
}

#[test]
fn upgraded_connections_carry_bytes_both_ways_until_each_ends() {
    const SIZE: usize = 2 << 20;
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        let up = connection.exactly(SIZE).expect("everything comes");
        assert!(up == noise(SIZE, 3));
        connection.send(noise(SIZE, 4));
        // Half-close: what comes after the client's end.
        connection.wait_for_close();
        connection.send("last words");
    });
    let scene = simple(&origin, "");
    let mut client = scene.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(client.response().status, 101);
    client.send(noise(SIZE, 3));
    assert!(client.exactly(SIZE).expect("everything comes") == noise(SIZE, 4));
    client.finish();
    assert_eq!(client.rest(), b"last words");
}

#[test]
fn a_client_that_never_reads_holds_little_and_hurts_nobody() {
    const SIZE: usize = 64 << 20;
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        let block = noise(1 << 20, 5);
        for _ in 0..SIZE >> 20 {
            if connection.try_send(&block).is_err() {
                return;
            }
        }
    });
    let scene = simple(&origin, super::super::support::ONE_WORKER);
    let config = scene.client_config();
    let deaf: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = connect(scene.proxy.address(), &config, "a.example");
            client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
            client
        })
        .collect();
    eventually("they are being answered", || origin.request_count() == 8);
    for _ in 0..20 {
        let mut client = connect(scene.proxy.address(), &config, "a.example");
        client.send("OPTIONS * HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }
    drop(deaf);
}

#[test]
fn fin_without_close_notify_between_requests_is_an_ordinary_end() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let mut client = scene.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    client.response();
    client.stream().shutdown(Shutdown::Both).expect("alive");
    let open = "evenkeel_connections_active{listener=\"web\"}";
    eventually("it is gone", || scene.proxy.metric(open) == Some(0.0));
    let rejected = "evenkeel_rejected_total{reason=\"client_closed\"}";
    assert_eq!(scene.proxy.metric(rejected), Some(0.0));
}

#[test]
fn a_truncated_upload_does_not_reach_its_end() {
    let origin = Origin::scripted(|connection| {
        // A whole request would be answered.
        if connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let scene = simple(&origin, "");
    let mut client = scene.client();
    client.send("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
    client.stream().shutdown(Shutdown::Write).expect("alive");
    let mut rest = Vec::new();
    let _ = (&mut client.stream()).read_to_end(&mut rest);
    let aborted = "evenkeel_rejected_total{reason=\"client_closed\"}";
    eventually("it is aborted", || scene.proxy.metric(aborted) == Some(1.0));
    assert_eq!(origin.request_count(), 0, "no whole request came");
}

#[test]
fn records_in_small_pieces_are_put_together() {
    let origin = Origin::good("pieces");
    let scene = simple(&origin, "");
    // A relay that passes on one byte at a time, each in a segment of its own.
    let relay = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (front, back) = (relay.local_addr().expect("bound"), scene.proxy.address());
    thread::spawn(move || {
        let (client, _) = relay.accept().expect("a client");
        let server = TcpStream::connect(back).expect("the proxy");
        client.set_nodelay(true).expect("alive");
        server.set_nodelay(true).expect("alive");
        let pump = |mut from: TcpStream, mut to: TcpStream, size: usize| {
            let mut buffer = vec![0; size];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        };
        let (from, to) = (
            client.try_clone().expect("fds"),
            server.try_clone().expect("fds"),
        );
        let up = thread::spawn(move || pump(from, to, 1));
        pump(server, client, 3);
        up.join().expect("no panic");
    });
    let mut client = try_connect(front, &scene.client_config(), "a.example").expect("handshake");
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response().text(), "pieces");
    }
}

#[test]
fn a_drain_ends_idle_connections_with_close_notify() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let mut client = scene.client();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response().status, 200);
    scene.proxy.drain();
    let start = Instant::now();
    assert!(client.is_closed(), "a clean end");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn many_clients_at_once_are_all_served() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let (address, config) = (scene.proxy.address(), Arc::new(scene.client_config()));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let config = config.clone();
            thread::spawn(move || {
                for _ in 0..10 {
                    let mut client = connect(address, &config, "a.example");
                    for _ in 0..5 {
                        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
                        assert_eq!(client.response().status, 200);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("all were served");
    }
    assert_eq!(scene.handshakes("ok") + scene.handshakes("resumed"), 160.0);
}

#[test]
fn a_sticky_cookie_is_secure_where_its_client_speaks_tls() {
    let origin = Origin::good("x");
    let config = listener("") + &app(&[&origin], "sticky = {}");
    let scene = scene(&config, |authority, directory| {
        authority.issue(&["a.example"]).write(directory, "site");
    });
    let answer = scene.client().request("GET", "/", "");
    let set = answer.header("set-cookie").expect("a cookie");
    assert!(set.contains("; Secure"), "{set}");
}
