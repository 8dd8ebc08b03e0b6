//! One worker, one greedy connection, one modest client: how much the greedy one gets while the
//! modest one waits for an answer. Counted in answers and bytes, not in time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::support::{Client, ONE_WORKER, Origin, Proxy, app, eventually};

/// Requests that the modest client makes.
const ASKED: usize = 60;

/// Greedy bytes go to `/greedy`, and the modest client is answered at once.
fn start(
    greedy: impl Fn(&mut super::support::Connection) + Send + Sync + 'static,
) -> (Origin, Proxy) {
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request_head() {
            if request.target() == "/greedy" {
                return greedy(connection);
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(&(app(&[&origin], "") + ONE_WORKER));
    (origin, proxy)
}

/// How far `count` moves while the modest client waits for each of its answers, in order.
fn meanwhile(proxy: &Proxy, count: &impl Fn() -> u64) -> Vec<u64> {
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    let mut moved: Vec<u64> = (0..ASKED)
        .map(|_| {
            let before = count();
            assert_eq!(client.get("/").status, 200);
            count() - before
        })
        .collect();
    moved.sort_unstable();
    moved
}

/// A connection whose bytes are counted as they are read, until it is shut down.
fn drain(stream: &TcpStream, count: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let (mut stream, count) = (
        stream.try_clone().expect("descriptors are left"),
        count.clone(),
    );
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            count.fetch_add(read as u64, Ordering::SeqCst);
        }
    })
}

/// The same for what is written, over and over.
fn pour(stream: &TcpStream, bytes: Vec<u8>, count: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let (mut stream, count) = (
        stream.try_clone().expect("descriptors are left"),
        count.clone(),
    );
    thread::spawn(move || {
        while stream.write_all(&bytes).is_ok() {
            count.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
    })
}

/// Bytes of a body that may pass while one small request is answered: it waits for some rounds of
/// the worker, in each of which a body may move its budget of 1 MiB, and for what lies in buffers.
const BYTES: u64 = 8 << 20;

/// The machine is shared, and now and then a thread is not scheduled for a while: what is unfair
/// is so each time.
#[track_caller]
fn is_fair(proxy: &Proxy, limit: u64, count: impl Fn() -> u64) {
    let mut tries = Vec::new();
    for _ in 0..4 {
        let moved = meanwhile(proxy, &count);
        if moved[moved.len() / 2] <= limit {
            let all = count();
            assert!(
                all > limit,
                "the greedy one was not greedy: {all} in all, {moved:?}"
            );
            return;
        }
        tries.push(moved);
    }
    panic!("more than {limit} pass while one request is answered: {tries:?}");
}

#[test]
fn endless_answer_lets_others_have_their_turn() {
    let (_origin, proxy) = start(|connection| {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n");
        while connection.try_send([b'x'; 1 << 18]).is_ok() {}
    });
    let mut greedy = proxy.client();
    greedy.send("GET /greedy HTTP/1.1\r\nHost: h\r\n\r\n");
    let count = Arc::new(AtomicU64::new(0));
    let reading = drain(greedy.stream(), &count);
    eventually("the body flows", || count.load(Ordering::SeqCst) > 8 << 20);
    is_fair(&proxy, BYTES, || count.load(Ordering::SeqCst));
    let _ = greedy.stream().shutdown(Shutdown::Both);
    reading.join().expect("no panic");
}

#[test]
fn endless_upload_lets_others_have_their_turn() {
    for framing in [
        "Content-Length: 1000000000000",
        "Transfer-Encoding: chunked",
    ] {
        let (_origin, proxy) = start(|connection| while connection.some().is_some() {});
        let mut greedy = proxy.client();
        greedy.send(format!(
            "PUT /greedy HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
        ));
        let count = Arc::new(AtomicU64::new(0));
        let chunk = [b"40000\r\n", &[b'x'; 1 << 18][..], b"\r\n"].concat();
        let writing = pour(greedy.stream(), chunk, &count);
        eventually("the body flows", || count.load(Ordering::SeqCst) > 8 << 20);
        is_fair(&proxy, BYTES, || count.load(Ordering::SeqCst));
        let _ = greedy.stream().shutdown(Shutdown::Both);
        writing.join().expect("no panic");
    }
}

#[test]
fn endless_tunnel_lets_others_have_their_turn() {
    let (_origin, proxy) = start(|connection| {
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        while let Some(bytes) = connection.some() {
            if connection.try_send(bytes).is_err() {
                return;
            }
        }
    });
    let mut greedy = proxy.client();
    greedy.send(
        "GET /greedy HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(greedy.response().status, 101);
    let (sent, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reading = drain(greedy.stream(), &count);
    let writing = pour(greedy.stream(), vec![b'x'; 1 << 18], &sent);
    eventually("the bytes flow", || count.load(Ordering::SeqCst) > 8 << 20);
    is_fair(&proxy, BYTES, || count.load(Ordering::SeqCst));
    let _ = greedy.stream().shutdown(Shutdown::Both);
    reading.join().expect("no panic");
    writing.join().expect("no panic");
}

/// Answers of one greedy client that may be given while another waits for its own: some rounds of
/// the worker, with a budget of 16 requests in each.
const ANSWERS: u64 = 100;

/// A client that sends one request after the other without waiting for an answer.
fn flooding(proxy: &Proxy, request: &str) -> (Client, Vec<thread::JoinHandle<()>>, Arc<AtomicU64>) {
    let greedy = proxy.client();
    let (sent, got) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads = vec![
        drain(greedy.stream(), &got),
        pour(greedy.stream(), request.repeat(1000).into_bytes(), &sent),
    ];
    (greedy, threads, got)
}

#[test]
fn thousands_of_pipelined_requests_let_others_have_their_turn() {
    for request in [
        // To a server, and answered by us at once.
        "GET /flood HTTP/1.1\r\nHost: h\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n",
    ] {
        let (_origin, proxy) = start(|_| {});
        let answer = {
            let mut client = proxy.client();
            client.send(request);
            let answer = client.response();
            (answer.head.len() + answer.body.len()) as u64
        };
        let (greedy, threads, got) = flooding(&proxy, request);
        let count = || got.load(Ordering::SeqCst) / answer;
        eventually("the answers flow", || count() > 500);
        is_fair(&proxy, ANSWERS, count);
        let _ = greedy.stream().shutdown(Shutdown::Both);
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
}
