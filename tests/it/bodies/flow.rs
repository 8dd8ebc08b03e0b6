//! Bodies flow as they come, both ways at once, and stop when nobody reads them.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, DEADLINE, Origin, Proxy, eventually};

const BLOCK: usize = 64 * 1024;
const BODY: u64 = 192 * 1024 * 1024;

pub fn start(origin: &Origin, upstream: &str, route: &str) -> Proxy {
    Proxy::start(&format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n{route}\n\
         [upstream.app]\nservers = [\"{}\"]\n{upstream}\n",
        origin.address()
    ))
}

/// The value once it has not moved for a while.
pub fn settled(value: &AtomicU64) -> u64 {
    let (mut last, mut since, start) = (0, Instant::now(), Instant::now());
    loop {
        let now = value.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_millis(300) && now > 0 {
            return now;
        }
        assert!(start.elapsed() < 2 * DEADLINE, "the bytes never stop");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let text = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * text
        .and_then(|text| text.parse::<u64>().ok())
        .expect("a number")
}

#[test]
fn both_directions_flow_at_the_same_time() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Some(bytes) = connection.some() {
            connection.send(&bytes);
            if bytes.ends_with(b"0\r\n\r\n") {
                return;
            }
        }
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let head = client.head().expect("the head comes before the body ends");
    assert!(head.starts_with(b"HTTP/1.1 200"));
    for round in 0..100 {
        let chunk = format!("{:x}\r\n{}\r\n", round + 1, "x".repeat(round + 1));
        client.send(&chunk);
        let echo = client.exactly(chunk.len()).expect("the echo comes at once");
        assert_eq!(echo, chunk.as_bytes(), "round {round}");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.exactly(5).expect("the end comes"), b"0\r\n\r\n");
}

#[test]
fn client_that_does_not_read_stops_the_server_and_costs_no_memory() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let origin = Origin::scripted(move |connection| {
        connection.request();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
        let block = [b'x'; BLOCK];
        for _ in 0..BODY / BLOCK as u64 {
            if connection.try_send(block).is_err() {
                return;
            }
            count.fetch_add(BLOCK as u64, Ordering::SeqCst);
        }
        connection.wait_for_close();
    });
    let proxy = start(&origin, "", "");
    let before = resident();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.head().expect("the head comes");
    }
    let stopped = settled(&sent);
    assert!(
        stopped < BODY,
        "{stopped} bytes were taken from the servers"
    );
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes are kept");
    // What was stopped goes on.
    let mut buffer = vec![0; 1 << 20];
    let mut client = clients.pop().expect("one of them");
    let mut left = BODY - client.take_buffered().len() as u64;
    while left > 0 {
        let read = client.stream().read(&mut buffer).expect("the body goes on");
        assert!(read > 0, "{left} bytes are missing");
        left -= read as u64;
    }
}

#[test]
fn server_that_does_not_read_stops_the_client_and_costs_no_memory() {
    let go = Arc::new(AtomicBool::new(false));
    let reading = go.clone();
    let origin = Origin::scripted(move |connection| {
        connection.request_head();
        eventually("the test says go", || reading.load(Ordering::SeqCst));
        let mut left = BODY;
        while left > 0 {
            let Some(bytes) = connection.some() else {
                return;
            };
            left -= bytes.len() as u64;
        }
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = start(&origin, "", "");
    let before = resident();
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let mut client = proxy.client();
    let mut stream = client.stream().try_clone().expect("descriptors are left");
    let upload = thread::spawn(move || {
        let head = format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the head goes");
        let block = [b'x'; BLOCK];
        for _ in 0..BODY / BLOCK as u64 {
            stream.write_all(&block).expect("the body goes on");
            count.fetch_add(BLOCK as u64, Ordering::SeqCst);
        }
    });
    let stopped = settled(&sent);
    assert!(
        stopped < BODY / 2,
        "{stopped} bytes were taken from the client"
    );
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes are kept");
    go.store(true, Ordering::SeqCst);
    assert_eq!(client.response().text(), "ok");
    upload.join().expect("the upload ends");
}

#[test]
fn events_pass_at_once_and_leave_the_count() {
    let go = Arc::new(AtomicBool::new(false));
    let second = go.clone();
    let origin = Origin::scripted(move |connection| {
        connection.request();
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\n");
        connection.send("data: 1\n\n");
        eventually("the test says go", || second.load(Ordering::SeqCst));
        connection.send("data: 2\n\n");
        connection.wait_for_close();
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.head().expect("the head comes");
    assert_eq!(
        client.exactly(14).expect("comes at once"),
        b"9\r\ndata: 1\n\n\r\n"
    );
    let series = format!(
        "evenkeel_upstream_requests_in_flight{{upstream=\"app\",server=\"{}\"}}",
        origin.address()
    );
    assert_eq!(
        proxy.metric(&series),
        Some(0.0),
        "a stream of events is not in flight"
    );
    go.store(true, Ordering::SeqCst);
    assert_eq!(
        client.exactly(14).expect("comes at once"),
        b"9\r\ndata: 2\n\n\r\n"
    );
}
