//! What is under way stays with the old process to its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::service::{Service, is_alive, signal_to};
use crate::support::{Client, DEADLINE, Origin, app, eventually};

const PIECES: usize = 40;
const PIECE: usize = 16 * 1024;

/// A body that goes on until the test lets it end; how much arrived of one.
fn slow() -> (Origin, Arc<AtomicBool>) {
    let release = Arc::new(AtomicBool::new(false));
    let origin = Origin::scripted({
        let release = release.clone();
        move |connection| {
            while let Some(head) = connection.request_head() {
                if head.method() == "POST" {
                    let body = connection.exactly(PIECES * PIECE).expect("the whole body");
                    let text = format!("{}", body.len());
                    let length = text.len();
                    connection.send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
                    ));
                    continue;
                }
                let length = PIECES * PIECE;
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                ));
                for piece in 0..PIECES {
                    if piece == PIECES / 2 {
                        eventually("the test goes on", || release.load(Ordering::SeqCst));
                    }
                    connection.send([b'x'; PIECE]);
                }
            }
        }
    });
    (origin, release)
}

#[test]
fn a_download_and_an_upload_come_to_their_end() {
    let (origin, release) = slow();
    let process = "[process]\nworkers = 2\ndrain-timeout = \"20s\"\n";
    let mut service = Service::start(&(process.to_owned() + &app(&[&origin], "")));
    let address = service.listener("web");
    let download = thread::spawn(move || Client::connect(address).get("/").body.len());
    let mut upload = TcpStream::connect(address).expect("connects");
    let length = PIECES * PIECE;
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    upload.write_all(head.as_bytes()).expect("writes");
    upload.write_all(&[b'y'; PIECE]).expect("writes");
    eventually("both are under way", || origin.connections() >= 2);

    // Again and again: two old ones drain at once.
    let first = service.upgrade();
    let second = service.upgrade();
    eventually("the second has nothing to wait for", || !is_alive(second));
    assert!(is_alive(first), "it serves what it has");
    release.store(true, Ordering::SeqCst);
    assert_eq!(download.join().expect("no panic"), length);
    for _ in 1..PIECES {
        upload.write_all(&[b'y'; PIECE]).expect("is taken");
    }
    let mut answer = Client::over(upload);
    let answer = answer.response();
    assert_eq!(answer.text(), length.to_string());
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(service.exit_code(first), Some(0), "{}", service.log());
    assert_eq!(service.said("stopped with requests"), 0);
}

/// Echoes bytes after a switch of protocols.
pub fn echoing() -> Origin {
    Origin::scripted(|connection| {
        if connection.request_head().is_none() {
            return;
        }
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        while let Some(bytes) = connection.some() {
            connection.send(bytes);
        }
    })
}

#[test]
fn a_tunnel_stays_until_the_drain_timeout_of_its_process() {
    let origin = echoing();
    let process = "[process]\nworkers = 2\ndrain-timeout = \"2s\"\n";
    let mut service = Service::start(&(process.to_owned() + &app(&[&origin], "")));
    let mut tunnel = TcpStream::connect(service.listener("web")).expect("connects");
    tunnel.set_read_timeout(Some(DEADLINE)).expect("a socket");
    tunnel
        .write_all(
            b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .expect("writes");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let mut echo = |text: &[u8]| {
        tunnel.write_all(text)?;
        let mut back = vec![0; text.len()];
        tunnel.read_exact(&mut back).map(|()| back)
    };
    assert_eq!(echo(b"before").expect("echoes"), b"before");
    let start = Instant::now();
    let old = service.upgrade();
    assert_eq!(echo(b"after").expect("echoes"), b"after");
    // A service manager tells all processes of a service: the draining one goes on once.
    signal_to(old, Signal::SIGTERM);
    service.eventually_said("draining already");
    assert_eq!(echo(b"still").expect("echoes"), b"still");
    assert_eq!(service.exit_code(old), Some(0));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    echo(b"gone").expect_err("cut off with its process");
    assert_eq!(
        service.said("stopped with requests"),
        1,
        "{}",
        service.log()
    );
}

#[test]
fn signals_for_the_old_one_reach_the_new_one() {
    let (origin, other) = (echoing(), Origin::good("other"));
    let process = "[process]\nworkers = 2\ndrain-timeout = \"10s\"\n".to_owned();
    let mut service = Service::start(&(process.clone() + &app(&[&origin], "")));
    let address = service.listener("web");
    let mut busy = Client::connect(address);
    busy.send(
        "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    eventually("the tunnel is open", || origin.connections() == 1);
    let old = service.upgrade();
    assert!(is_alive(old));
    signal_to(old, Signal::SIGUSR2);
    service.eventually_said("upgrade: done already");
    service.write(&(process + &app(&[&other], "")));
    signal_to(old, Signal::SIGHUP);
    service.eventually_said("trigger=\"signal\"");
    assert_eq!(Client::connect(address).get("/").text(), "other");
    for _ in 0..2 {
        signal_to(old, Signal::SIGTERM);
        service.eventually_said("draining already");
    }
    assert_eq!(service.exit_code(old), Some(0));
}
