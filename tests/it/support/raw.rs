//! A client that speaks HTTP/2 frame by frame, as right or as wrong as a test wants.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 0x20;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Of RST_STREAM and GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let bytes = self.payload[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(bytes)
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// `:status`, which comes first.
    pub fn status(&self) -> u16 {
        match self.payload[..] {
            [index @ 0x88..=0x8e, ..] => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]
            }
            [0x08 | 0x18 | 0x48, length, ref rest @ ..] if length & 0x80 == 0 => {
                let text = &rest[..usize::from(length)];
                std::str::from_utf8(text)
                    .expect("digits")
                    .parse()
                    .expect("digits")
            }
            [0x08 | 0x18 | 0x48, length, ref rest @ ..] => {
                huffman_digits(&rest[..usize::from(length & 0x7f)])
            }
            _ => panic!("no status first: {:x?}", self.payload),
        }
    }
}

/// RFC 7541 appendix B, of digits alone.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut number) = (&bits[..], 0);
    for _ in 0..3 {
        let (digit, length) = match &rest[..5] {
            "00000" => (0, 5),
            "00001" => (1, 5),
            "00010" => (2, 5),
            _ => (
                u16::from_str_radix(&rest[..6], 2).expect("bits") - 25 + 3,
                6,
            ),
        };
        number = number * 10 + digit;
        rest = &rest[length..];
    }
    number
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals that are never indexed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x10);
        push_text(&mut bytes, name.as_bytes());
        push_text(&mut bytes, value.as_bytes());
    }
    bytes
}

pub fn push_text(bytes: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        bytes.push(text.len() as u8);
    } else {
        let mut rest = text.len() - 127;
        bytes.push(127);
        while rest >= 128 {
            bytes.push((rest & 127) as u8 | 128);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
    bytes.extend(text);
}

/// The pseudo-header fields of a GET.
pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "h"),
];

pub const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "h"),
];

/// A whole head with these fields behind.
pub fn head(stream: u32, flags: u8, start: &[(&str, &str)], more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [start, more].concat();
    frame(HEADERS, flags | END_HEADERS, stream, &block(&fields))
}

pub fn get(stream: u32) -> Vec<u8> {
    head(stream, END_STREAM, &GET, &[])
}

pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A connection of which every byte is the test's.
pub struct Raw {
    stream: TcpStream,
    buffered: Vec<u8>,
}

impl Raw {
    /// Without a word.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let raw = Raw {
            stream,
            buffered: Vec::new(),
        };
        raw.patience(Duration::from_secs(20));
        raw
    }

    /// With preface and SETTINGS exchanged.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[])
    }

    pub fn connect_with(address: SocketAddr, settings: &[u8]) -> Self {
        let mut raw = Self::open(address);
        raw.send(PREFACE);
        raw.send(frame(SETTINGS, 0, 0, settings));
        let first = raw.next().expect("SETTINGS");
        assert_eq!((first.kind, first.flags), (SETTINGS, 0));
        raw.send(frame(SETTINGS, ACK, 0, &[]));
        raw
    }

    pub fn patience(&self, time: Duration) {
        let set = self.stream.set_read_timeout(Some(time));
        set.and_then(|()| self.stream.set_write_timeout(Some(time)))
            .expect("a TCP socket");
    }

    /// What the proxy does not take any more is no mistake of the test.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// `None` when the connection is closed, by FIN or reset.
    pub fn next(&mut self) -> Option<Frame> {
        match self.try_next() {
            Ok(frame) => frame,
            Err(error) => panic!("nothing comes: {error}"),
        }
    }

    pub fn try_next(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.exactly(9)? else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(payload) = self.exactly(length)? else {
            return Ok(None);
        };
        Ok(Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        }))
    }

    fn exactly(&mut self, count: usize) -> io::Result<Option<Vec<u8>>> {
        let mut room = vec![0; 65_536];
        while self.buffered.len() < count {
            match self.stream.read(&mut room) {
                Ok(0) => return Ok(None),
                Ok(length) => self.buffered.extend(&room[..length]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let rest = self.buffered.split_off(count);
        Ok(Some(std::mem::replace(&mut self.buffered, rest)))
    }

    /// The first frame that `wanted` says; others are passed over.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The status of a stream's answer, which is read to its end.
    pub fn answer(&mut self, stream: u32) -> u16 {
        let head = self.until(|frame| frame.kind == HEADERS && frame.stream == stream);
        let head = head.expect("an answer");
        if !head.ends_stream() {
            self.until(|frame| frame.stream == stream && frame.ends_stream())
                .expect("the end of the answer");
        }
        head.status()
    }

    /// Whether it is still a connection.
    pub fn pings(&mut self) -> bool {
        self.send(frame(PING, 0, 0, b"are you?"));
        self.until(|frame| frame.kind == PING && frame.flags == ACK)
            .is_some()
    }

    /// The code of the GOAWAY that ends the connection; `None` where it ends without.
    pub fn goaway(&mut self) -> Option<u32> {
        let goaway = self.until(|frame| frame.kind == GOAWAY && frame.code() != NO_ERROR)?;
        Some(goaway.code())
    }
}
