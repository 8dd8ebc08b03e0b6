//! A client that speaks HTTP/2 frame by frame, as right or as wrong as a test wants.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub use super::frames::*;

/// As [`super::frames::frame`], where the payload is often none.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    super::frames::frame(kind, flags, stream, payload)
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
        let Some(payload) = self.exactly(length(&head))? else {
            return Ok(None);
        };
        Ok(Some(parse(&head, payload)))
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
