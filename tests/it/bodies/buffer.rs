//! `connection-buffer`: what connections hold for peers that do not read.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::flow::settled;
use crate::support::{Client, Origin, Process, eventually};

/// Exchanges that wait at once: enough to be seen in the memory of a process, few enough not to be
/// felt by the tests next to these.
const MANY: usize = 40;
/// What each may take in KiB, everything included: a fraction of what the default allows.
const EACH_KIB: usize = 80;

fn start(origin: &Origin) -> Process {
    Process::start(&format!(
        "[process]\nworkers = 1\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nlimits = {{ connection-buffer = \"4KiB\" }}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{}\"]\n",
        origin.address()
    ))
}

/// The kernel holds little at this end: most of what is on its way would be the proxy's.
fn hold_little(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_send_buffer_size(32 << 10).expect("can be set");
    socket.set_recv_buffer_size(32 << 10).expect("can be set");
}

/// Sends chunks for as long as somebody takes them.
fn pour(mut stream: &TcpStream, count: &AtomicU64) {
    hold_little(stream);
    let timeout = Some(Duration::from_secs(20));
    stream.set_write_timeout(timeout).expect("can be set");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    while stream.write_all(chunk.as_bytes()).is_ok() {
        count.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    }
}

fn holds_little(proxy: &Process, before: usize) {
    let grown = proxy.resident().saturating_sub(before);
    assert!(
        grown < MANY * EACH_KIB,
        "{grown} KiB are kept for {MANY} exchanges"
    );
}

#[test]
fn clients_that_do_not_read_are_not_held_more_for_than_is_allowed() {
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let origin = Origin::scripted(move |connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        pour(&connection.writer(), &count);
    });
    let proxy = start(&origin);
    let mut clients: Vec<Client> = (0..MANY).map(|_| Client::connect(proxy.listener)).collect();
    let before = proxy.resident();
    for client in &mut clients {
        hold_little(client.stream());
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    eventually("all of them are asked for", || {
        origin.request_count() == MANY
    });
    settled(&sent);
    holds_little(&proxy, before);
}

#[test]
fn servers_that_do_not_read_are_not_held_more_for_than_is_allowed() {
    // Until the test is over.
    let (over, waiting) = mpsc::channel::<()>();
    let waiting = Mutex::new(waiting);
    let origin = Origin::scripted(move |connection| {
        connection.request_head();
        let _ = waiting.lock().map(|waiting| waiting.recv());
    });
    let proxy = start(&origin);
    let clients: Vec<Client> = (0..MANY).map(|_| Client::connect(proxy.listener)).collect();
    let before = proxy.resident();
    let sent = Arc::new(AtomicU64::new(0));
    for client in &clients {
        let mut stream = client.stream().try_clone().expect("descriptors are left");
        let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("the head goes");
        let count = sent.clone();
        std::thread::spawn(move || pour(&stream, &count));
    }
    eventually("all of them have begun", || origin.request_count() == MANY);
    settled(&sent);
    holds_little(&proxy, before);
    drop(over);
}
