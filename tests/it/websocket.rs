//! WebSocket (RFC 6455) through the proxy, which never looks into a frame: what a client and a
//! server of it say to each other arrives, plain and over TLS on both sides.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::chain::Chain;
use crate::support::{Client, Connection, DEADLINE, Origin, Proxy, app, eventually};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// One frame (section 5.2).
#[derive(Debug, Clone, PartialEq)]
struct Frame {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Frame {
            fin: true,
            opcode,
            payload: payload.into(),
        }
    }

    fn part(opcode: u8, payload: &str) -> Self {
        Frame {
            fin: false,
            ..Frame::new(opcode, payload)
        }
    }

    /// A close with its code and reason.
    fn close(code: u16, reason: &str) -> Self {
        Frame::new(CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// As a server sends it; a client masks.
    fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.opcode];
        let masked = u8::from(mask.is_some()) << 7;
        match self.payload.len() {
            short @ 0..=125 => bytes.push(masked | short as u8),
            middle @ 126..=0xffff => {
                bytes.push(masked | 126);
                bytes.extend((middle as u16).to_be_bytes());
            }
            long => {
                bytes.push(masked | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.iter().flatten());
        let key = mask.unwrap_or_default();
        let payload = self.payload.iter().enumerate();
        bytes.extend(payload.map(|(at, byte)| byte ^ key[at % 4]));
        bytes
    }

    /// `None` where the connection ends before it is whole.
    fn read(mut exactly: impl FnMut(usize) -> Option<Vec<u8>>, is_server: bool) -> Option<Self> {
        let start = exactly(2)?;
        assert_eq!(start[0] & 0x70, 0, "no extension was agreed on");
        assert_eq!(
            start[1] & 0x80 != 0,
            is_server,
            "clients mask, servers do not"
        );
        let length = match start[1] & 0x7f {
            126 => exactly(2)?
                .iter()
                .fold(0, |all, byte| all << 8 | usize::from(*byte)),
            127 => exactly(8)?
                .iter()
                .fold(0, |all, byte| all << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        let key = if is_server { exactly(4)? } else { vec![0; 4] };
        let mut payload = exactly(length)?;
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[at % 4];
        }
        Some(Frame {
            fin: start[0] & 0x80 != 0,
            opcode: start[0] & 0x0f,
            payload,
        })
    }
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What the key of section 1.3 is answered with.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: site.example\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\nOrigin: http://site.example\r\n\r\n"
    )
}

fn switch(connection: &mut Connection) -> bool {
    let Some(head) = connection.request_head() else {
        return false;
    };
    assert_eq!(head.header("sec-websocket-key").as_deref(), Some(KEY));
    assert_eq!(head.header("sec-websocket-version").as_deref(), Some("13"));
    assert_eq!(
        head.header("sec-websocket-protocol").as_deref(),
        Some("chat, superchat")
    );
    assert_eq!(head.header("upgrade").as_deref(), Some("websocket"));
    connection.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: superchat\r\n\r\n"
    ));
    true
}

/// Gives back each frame, answers pings, and ends as section 7 says.
fn echo(connection: &mut Connection) {
    if !switch(connection) {
        return;
    }
    while let Some(frame) = Frame::read(|count| connection.exactly(count), true) {
        let answer = match frame.opcode {
            PING => Frame {
                opcode: PONG,
                ..frame
            },
            _ => frame,
        };
        connection.send(answer.encode(None));
        if answer.opcode == CLOSE {
            return;
        }
    }
}

fn echoing() -> Origin {
    Origin::scripted(echo)
}

/// A client's side.
struct Socket(Client);

impl Socket {
    fn open(mut client: Client) -> Self {
        client.send(handshake("/chat"));
        let answer = client.response();
        assert_eq!(answer.status, 101, "{}", answer.text());
        assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
        assert_eq!(answer.header("sec-websocket-protocol"), Some("superchat"));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        Socket(client)
    }

    fn send(&mut self, frame: &Frame) {
        self.0.send(frame.encode(Some([0x37, 0xfa, 0x21, 0x3d])));
    }

    fn receive(&mut self) -> Option<Frame> {
        Frame::read(|count| self.0.exactly(count).ok(), false)
    }

    #[track_caller]
    fn is_echoed(&mut self, frame: &Frame) {
        self.send(frame);
        assert_eq!(self.receive().as_ref(), Some(frame));
    }
}

#[test]
fn frames_of_every_kind_pass() {
    Chain::each(echoing, "", |chain, _| {
        let mut socket = Socket::open(chain.client());
        for size in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            socket.is_echoed(&Frame::new(TEXT, "\u{e9}".repeat(size / 2)));
            let bytes: Vec<u8> = (0..size).map(|at| at as u8).collect();
            socket.is_echoed(&Frame::new(BINARY, bytes));
        }
        // A message in three parts, with a ping between them.
        socket.is_echoed(&Frame::part(TEXT, "one "));
        socket.is_echoed(&Frame::part(CONTINUATION, "two "));
        socket.send(&Frame::new(PING, "are you there"));
        assert_eq!(socket.receive(), Some(Frame::new(PONG, "are you there")));
        socket.is_echoed(&Frame::new(CONTINUATION, "three"));
    });
}

#[test]
fn closing_codes_pass_and_end_the_connection() {
    Chain::each(echoing, "", |chain, origin| {
        for (code, reason) in [
            (1000, ""),
            (1001, "going away"),
            (1011, "oops"),
            (4999, "mine"),
        ] {
            let mut socket = Socket::open(chain.client());
            socket.is_echoed(&Frame::close(code, reason));
            assert_eq!(socket.receive(), None, "the server ends the connection");
        }
        eventually("none is left", || origin.open() == 0);
    });
}

#[test]
fn large_messages_pass_both_ways_at_once() {
    const SIZE: usize = 1 << 20;
    const COUNT: usize = 8;
    let message = |seed: usize| -> Vec<u8> { (0..SIZE).map(|at| (at * 7 + seed) as u8).collect() };
    let origin = move || {
        Origin::scripted(move |connection| {
            if !switch(connection) {
                return;
            }
            let mut writer = connection.writer();
            let sender = thread::spawn(move || {
                for seed in 0..COUNT {
                    let frame = Frame::new(BINARY, message(seed));
                    writer.write_all(&frame.encode(None)).expect("is taken");
                }
            });
            for seed in 0..COUNT {
                let frame = Frame::read(|count| connection.exactly(count), true);
                let frame = frame.expect("a message comes");
                assert!(
                    frame.payload == message(seed + 100),
                    "message {seed} is another"
                );
            }
            sender.join().expect("no panic");
            connection.send(Frame::new(TEXT, "all").encode(None));
            connection.wait_for_close();
        })
    };
    Chain::each(origin, "", |chain, _| {
        let mut socket = Socket::open(chain.client());
        // Written in turns with reading: over TLS both are of one connection.
        for seed in 0..COUNT {
            socket.send(&Frame::new(BINARY, message(seed + 100)));
            let frame = socket.receive().expect("a message comes");
            assert!(frame.payload == message(seed), "message {seed} is another");
        }
        assert_eq!(socket.receive(), Some(Frame::new(TEXT, "all")));
    });
}

#[test]
fn a_client_s_end_is_passed_on_and_the_server_still_speaks() {
    let origin = || {
        Origin::scripted(|connection| {
            if !switch(connection) {
                return;
            }
            connection.wait_for_close();
            connection.send(Frame::new(TEXT, "after your end").encode(None));
        })
    };
    Chain::each(origin, "", |chain, _| {
        let mut socket = Socket::open(chain.client());
        socket.0.finish();
        assert_eq!(socket.receive(), Some(Frame::new(TEXT, "after your end")));
        assert_eq!(socket.receive(), None);
    });
}

#[test]
fn silence_ends_it_and_frames_keep_it() {
    let timeout = "timeout = { tunnel = \"900ms\", idle = \"200ms\" }";
    Chain::each(echoing, timeout, |chain, origin| {
        let mut socket = Socket::open(chain.client());
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            socket.is_echoed(&Frame::new(PING, "").clone().into_pong());
            thread::sleep(Duration::from_millis(100));
        }
        let silent = Instant::now();
        assert_eq!(socket.receive(), None);
        let took = silent.elapsed();
        assert!(took > Duration::from_millis(700), "{took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        eventually("the server's side ends, too", || origin.open() == 0);
    });
}

impl Frame {
    /// Nobody answers it.
    fn into_pong(self) -> Self {
        Frame {
            opcode: PONG,
            ..self
        }
    }
}

#[test]
fn it_counts_as_one_request_that_takes_no_slot() {
    let origin = echoing();
    let proxy = Proxy::start(&app(&[&origin], "max-requests = 1\nqueue = \"off\""));
    let mut sockets: Vec<_> = (0..3).map(|_| Socket::open(proxy.client())).collect();
    for socket in &mut sockets {
        socket.is_echoed(&Frame::new(TEXT, "hello"));
    }
    let active = "evenkeel_connections_active{listener=\"web\"}";
    assert_eq!(proxy.metric(active), Some(3.0));
    drop(sockets);
    let requests =
        "evenkeel_requests_total{listener=\"web\",route=\"/\",method=\"GET\",code=\"101\"}";
    eventually("they are counted", || proxy.metric(requests) == Some(3.0));
    eventually("none is open", || proxy.metric(active) == Some(0.0));
    let in_flight = "evenkeel_requests_in_flight{listener=\"web\"}";
    eventually("none is in flight", || proxy.metric(in_flight) == Some(0.0));
}

#[test]
fn a_reload_leaves_it_alone() {
    let (origin, other) = (echoing(), Origin::good("other"));
    let config = app(&[&origin], "");
    let proxy = Proxy::start(&config);
    let mut socket = Socket::open(proxy.client());
    for change in [
        config.replace("[[route]]\n", "[[route]]\nname = \"chat\"\n"),
        // Its server is gone, then its listener trusts others.
        app(&[&other], ""),
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         trusted-proxies = [\"10.0.0.0/8\"]\n"
            .to_owned()
            + &app(&[&other], ""),
    ] {
        proxy.reconfigure(&change);
        socket.is_echoed(&Frame::new(TEXT, "still here"));
    }
    assert_eq!(proxy.get("/").text(), "other");
    socket.is_echoed(&Frame::close(1000, "bye"));
}

#[test]
fn a_drain_waits_for_it_until_its_deadline() {
    let origin = echoing();
    let process = "[process]\nworkers = 2\ndrain-timeout = \"800ms\"\n".to_owned();
    let proxy = Proxy::start(&(process + &app(&[&origin], "")));
    let mut socket = Socket::open(proxy.client());
    let began = Instant::now();
    proxy.drain();
    socket.is_echoed(&Frame::new(TEXT, "still here"));
    assert_eq!(socket.receive(), None);
    assert!(
        began.elapsed() > Duration::from_millis(700),
        "{:?}",
        began.elapsed()
    );
    proxy.wait();
    assert!(began.elapsed() < DEADLINE);
}

#[test]
fn a_server_that_refuses_answers_as_usual_and_the_connection_goes_on() {
    let origin = || {
        Origin::scripted(|connection| {
            while let Some(request) = connection.request() {
                match request.header("upgrade") {
                    Some(_) => connection.send(
                        "HTTP/1.1 403 Forbidden\r\nSec-WebSocket-Version: 13\r\n\
                         Content-Length: 2\r\n\r\nno",
                    ),
                    None => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"),
                }
            }
        })
    };
    Chain::each(origin, "", |chain, _| {
        let mut client = chain.client();
        client.send(handshake("/chat"));
        let answer = client.response();
        assert_eq!((answer.status, answer.text()), (403, "no".to_owned()));
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        let request = "GET / HTTP/1.1\r\nHost: site.example\r\n\r\n";
        client.send(request);
        assert_eq!(client.response().text(), "yes");
    });
}

#[test]
fn a_switch_to_something_else_reaches_nobody() {
    let origin = || {
        Origin::scripted(|connection| {
            if connection.request_head().is_some() {
                connection.send(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\
                     Connection: Upgrade\r\n\r\nfree bytes",
                );
                connection.wait_for_close();
            }
        })
    };
    Chain::each(origin, "retry = { attempts = 0 }", |chain, _| {
        let mut client = chain.client();
        client.send(handshake("/chat"));
        let answer = client.response();
        assert_eq!(answer.status, 502);
        assert!(!answer.text().contains("free bytes"));
    });
}

#[test]
fn frames_sent_before_the_switch_wait_for_it() {
    let origin = || {
        Origin::scripted(|connection| {
            let Some(_) = connection.request_head() else {
                return;
            };
            assert!(
                connection.is_silent_for(Duration::from_millis(150)),
                "no byte of a protocol that is not agreed on"
            );
            connection.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            ));
            while let Some(frame) = Frame::read(|count| connection.exactly(count), true) {
                connection.send(frame.encode(None));
            }
        })
    };
    Chain::each(origin, "", |chain, origin| {
        let mut client = chain.client();
        let early = Frame::new(TEXT, "too early");
        let mask = Some([1, 2, 3, 4]);
        client.send([handshake("/chat").into_bytes(), early.encode(mask)].concat());
        assert_eq!(client.response().status, 101);
        let mut socket = Socket(client);
        assert_eq!(socket.receive(), Some(early));
        assert!(!origin.last().head_text().contains("too early"));
    });
}
