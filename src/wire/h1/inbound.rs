//! Received bytes that nobody has taken yet.
//!
//! While a task runs they lie in a scratch buffer of the worker; before it waits they are parked:
//! no bytes, no buffer, and a few bytes cost as much memory as they are.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::message::{Data, Scratch};
use crate::wire::io::Socket;

#[derive(Debug, Default)]
pub(super) struct Inbound {
    buffer: Buffer,
    start: u32,
    end: u32,
}

#[derive(Debug, Default)]
enum Buffer {
    #[default]
    None,
    Scratch(Scratch),
    /// Fewer bytes than a scratch buffer has, since they were parked from one.
    Parked(Vec<u8>),
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Bytes,
    /// The peer's FIN.
    End,
    /// There is no room for more: something larger than a buffer is expected in one piece.
    Full,
}

impl Inbound {
    pub(super) fn bytes(&self) -> &[u8] {
        let range = self.start as usize..self.end as usize;
        match &self.buffer {
            Buffer::None => &[],
            Buffer::Scratch(scratch) => &scratch[range],
            Buffer::Parked(parked) => &parked[range],
        }
    }

    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count as u32;
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Inbound::default();
    }

    /// Reads once behind what is there.
    pub(super) fn poll_fill(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Fill>> {
        loop {
            if !socket.is_read_ready() {
                self.park();
                ready!(socket.poll_read_ready(cx))?;
            }
            match self.read(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// As [`Inbound::poll_fill`], but `WouldBlock` where there is nothing. It takes a scratch
    /// buffer for the call: to be made only where bytes are to be expected.
    pub(super) fn read(&mut self, socket: &Socket) -> io::Result<Fill> {
        self.unpark();
        let Buffer::Scratch(scratch) = &mut self.buffer else {
            return Ok(Fill::Full);
        };
        let (start, end) = (self.start as usize, self.end as usize);
        if end == scratch.len() {
            if start == 0 {
                return Ok(Fill::Full);
            }
            scratch.copy_within(start..end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match socket.try_read(&mut scratch[self.end as usize..]) {
            Ok(0) => {
                self.park();
                Ok(Fill::End)
            }
            Ok(count) => {
                self.end += count as u32;
                Ok(Fill::Bytes)
            }
            Err(error) => {
                self.park();
                Err(error)
            }
        }
    }

    /// Takes the first `count` bytes and forgets the `extra` ones behind them. The scratch buffer
    /// goes along if most of its bytes do.
    pub(super) fn take(&mut self, count: usize, extra: usize) -> Data {
        let rest = self.len() - count - extra;
        if rest > count {
            let data = Data::from(Bytes::copy_from_slice(&self.bytes()[..count]));
            self.consume(count + extra);
            return data;
        }
        let left = Inbound::parked(&self.bytes()[count + extra..]);
        let Inbound { buffer, start, .. } = std::mem::replace(self, left);
        let (from, to) = (start as usize, start as usize + count);
        match buffer {
            Buffer::None => Data::from(Bytes::new()),
            Buffer::Scratch(scratch) => Data::view(scratch, from, to),
            Buffer::Parked(parked) => Data::from(Bytes::from(parked).slice(from..to)),
        }
    }

    /// Gives the scratch buffer back; before any wait.
    pub(super) fn park(&mut self) {
        if let Buffer::Scratch(_) = &self.buffer {
            *self = Inbound::parked(self.bytes());
        }
    }

    fn parked(bytes: &[u8]) -> Inbound {
        if bytes.is_empty() {
            return Inbound::default();
        }
        Inbound {
            buffer: Buffer::Parked(bytes.to_vec()),
            start: 0,
            end: bytes.len() as u32,
        }
    }

    fn unpark(&mut self) {
        if let Buffer::Scratch(_) = &self.buffer {
            return;
        }
        let mut scratch = Scratch::take();
        let length = self.len();
        scratch[..length].copy_from_slice(self.bytes());
        *self = Inbound {
            buffer: Buffer::Scratch(scratch),
            start: 0,
            end: length as u32,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8], parked: bool) -> Inbound {
        let mut inbound = Inbound::default();
        inbound.unpark();
        if let Buffer::Scratch(scratch) = &mut inbound.buffer {
            scratch[..bytes.len()].copy_from_slice(bytes);
        }
        inbound.end = bytes.len() as u32;
        if parked {
            inbound.park();
        }
        inbound
    }

    #[test]
    fn taking_leaves_the_rest_wherever_the_bytes_lie() {
        for parked in [false, true] {
            for count in 1..=8 {
                for extra in 0..=(8 - count) {
                    let mut inbound = with(b"01234567", parked);
                    let data = inbound.take(count, extra);
                    assert_eq!(&data[..], &b"01234567"[..count], "{parked} {count} {extra}");
                    assert_eq!(inbound.bytes(), &b"01234567"[count + extra..]);
                    inbound.unpark();
                    assert_eq!(inbound.bytes(), &b"01234567"[count + extra..]);
                }
            }
        }
    }

    #[test]
    fn parking_keeps_no_buffer() {
        let mut inbound = with(b"abc", false);
        inbound.consume(1);
        inbound.park();
        assert_eq!(inbound.bytes(), b"bc");
        assert!(matches!(inbound.buffer, Buffer::Parked(_)));
        inbound.consume(2);
        assert!(matches!(inbound.buffer, Buffer::None));
    }

    #[test]
    fn an_idle_connection_pays_little_for_it() {
        assert!(size_of::<Inbound>() <= 32);
    }
}
