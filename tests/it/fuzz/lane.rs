//! A client, a proxy with one worker in a process of its own, and a server, moved on by one thread
//! that never blocks: after a round of the worker everything it had to say is in the sockets, and
//! what belongs to which input is known without waiting.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use crate::support::reference::{self, Message, Reading};
use crate::support::{Client, DEADLINE, Process};

/// The server's part: what it answers, and what it does then.
pub trait Script {
    /// To a whole request; the bytes to send in these pieces, and whether to close then.
    fn answer(&mut self, request: &Message) -> (Vec<Vec<u8>>, bool);
}

pub struct Lane {
    pub proxy: Process,
    listener: TcpListener,
    servers: Vec<Server>,
    /// What the server got since [`Lane::take`].
    pub log: Vec<Received>,
    beat: Client,
}

struct Server {
    stream: TcpStream,
    bytes: Vec<u8>,
    continued: bool,
    /// Still to be sent, a piece a turn.
    pieces: Vec<Vec<u8>>,
    close: bool,
}

/// What came on a connection of the server.
#[derive(Debug, Clone)]
pub enum Received {
    Whole(Message),
    /// The proxy closed in the middle of it: the head if that was whole, and all bytes.
    Cut(Option<Message>, Vec<u8>),
}

impl Lane {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback can be bound");
        listener.set_nonblocking(true).expect("can be set");
        let address = listener.local_addr().expect("bound");
        let proxy = Process::start(&format!(
            "[process]\nworkers = 1\n[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
             limits = {{ header-timeout = \"2s\", idle-timeout = \"60s\" }}\n\
             [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
             [upstream.app]\nservers = [\"{address}\"]\nbreaker = {{ mode = \"off\" }}\n\
             retry = {{ attempts = 0 }}\ntimeout = {{ idle = \"1s\", first-byte = \"1s\", tunnel = \"1s\" }}\n"
        ));
        let beat = Client::connect(proxy.listener);
        Lane {
            proxy,
            listener,
            servers: Vec::new(),
            log: Vec::new(),
            beat,
        }
    }

    /// A client's connection that never blocks.
    pub fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy.listener).expect("the proxy accepts");
        stream.set_nonblocking(true).expect("can be set");
        stream.set_nodelay(true).expect("can be set");
        stream
    }

    /// Lets the worker go round: what it could read before, it has read, and what it had to say
    /// to that is in the sockets.
    pub fn beat(&mut self) {
        for _ in 0..3 {
            let answer = self.beat.request("OPTIONS", "*", "Max-Forwards: 0\r\n");
            assert_eq!(answer.status, 200, "the proxy is alive");
        }
    }

    /// What the server got, all of it.
    pub fn take(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.log)
    }

    /// Moves the server on as far as it goes.
    pub fn serve(&mut self, script: &mut dyn Script) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).expect("can be set");
            stream.set_nodelay(true).expect("can be set");
            self.servers.push(Server {
                stream,
                bytes: Vec::new(),
                continued: false,
                pieces: Vec::new(),
                close: false,
            });
        }
        let log = &mut self.log;
        self.servers.retain_mut(|server| server.serve(script, log));
    }

    /// Sends what the server still has to say, and lets the proxy hear of it. (What comes while
    /// the next request is on its way is that one's answer, and nobody can tell.)
    pub fn settle(&mut self, script: &mut dyn Script) {
        while self.servers.iter().any(|one| !one.pieces.is_empty()) {
            self.serve(script);
        }
        self.serve(script);
        self.beat();
    }

    /// Connections between proxy and server.
    pub fn open(&self) -> usize {
        self.servers.len()
    }
}

impl Server {
    /// `false` once it has ended.
    fn serve(&mut self, script: &mut dyn Script, log: &mut Vec<Received>) -> bool {
        if !self.pieces.is_empty() {
            let piece = self.pieces.remove(0);
            let _ = self.stream.write_all(&piece);
        }
        if self.pieces.is_empty() && self.close {
            return false;
        }
        let (read, end) = read(&mut self.stream);
        self.bytes.extend(read);
        loop {
            match reference::request(&self.bytes) {
                Reading::Whole(message) => {
                    let own: Vec<u8> = self.bytes.drain(..message.length).collect();
                    let fault = reference::forwarded_fault(&message, &own);
                    assert_eq!(fault, None, "{}", own.escape_ascii());
                    self.continued = false;
                    let (pieces, close) = script.answer(&message);
                    self.pieces.extend(pieces);
                    self.close |= close;
                    log.push(Received::Whole(message));
                }
                Reading::Partial(head) => {
                    let expects = |head: &Message| !head.values("expect").is_empty();
                    if !self.continued && head.as_ref().is_some_and(expects) {
                        self.continued = true;
                        let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    if end && !self.bytes.is_empty() {
                        log.push(Received::Cut(head, std::mem::take(&mut self.bytes)));
                    }
                    return !end;
                }
                Reading::Faulty(fault) => {
                    panic!("{fault} at the server: {}", self.bytes.escape_ascii())
                }
            }
        }
    }
}

/// What has come, and whether that is the end.
pub fn read(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, true),
        Err(error) => (bytes, error.kind() != ErrorKind::WouldBlock),
    }
}

/// A deadline for a loop that goes round without blocking.
pub struct Patience(Instant);

impl Patience {
    pub fn new() -> Self {
        Patience(Instant::now() + DEADLINE)
    }

    /// Gives others their turn; fails when it takes too long.
    #[track_caller]
    pub fn turn(&self, what: &str) {
        assert!(Instant::now() < self.0, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(std::time::Duration::from_micros(30));
    }
}
