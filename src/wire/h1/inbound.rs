//! Received bytes that nobody has taken yet.
//!
//! While a task runs they lie in a scratch buffer of the worker; before it waits they are parked:
//! no bytes, no buffer, and a few bytes cost as much memory as they are.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::message::{Data, SCRATCH_BYTES, Scratch};
use crate::wire::io::Socket;

#[derive(Debug)]
pub(super) struct Inbound {
    buffer: Buffer,
    start: u32,
    end: u32,
    /// Bytes of one read.
    limit: u32,
}

#[derive(Debug)]
enum Buffer {
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

impl Default for Inbound {
    fn default() -> Self {
        Inbound {
            buffer: Buffer::None,
            start: 0,
            end: 0,
            limit: SCRATCH_BYTES as u32,
        }
    }
}

impl Inbound {
    /// No read gives more than this.
    pub(super) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes as u32;
    }

    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

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
        self.buffer = Buffer::None;
        (self.start, self.end) = (0, 0);
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
    pub(super) fn read(&mut self, socket: &mut Socket) -> io::Result<Fill> {
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
        let end = self.end as usize;
        let most = scratch.len().min(end + self.limit as usize);
        match socket.try_read(&mut scratch[end..most]) {
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
        let (from, to) = (self.start as usize, self.start as usize + count);
        let left = Buffer::parked(&self.bytes()[count + extra..]);
        let buffer = std::mem::replace(&mut self.buffer, left);
        (self.start, self.end) = (0, rest as u32);
        match buffer {
            Buffer::None => Data::from(Bytes::new()),
            Buffer::Scratch(scratch) => Data::view(scratch, from, to),
            Buffer::Parked(parked) => Data::from(Bytes::from(parked).slice(from..to)),
        }
    }

    /// Gives the scratch buffer back; before any wait.
    pub(super) fn park(&mut self) {
        if let Buffer::Scratch(_) = &self.buffer {
            self.buffer = Buffer::parked(self.bytes());
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    fn unpark(&mut self) {
        if let Buffer::Scratch(_) = &self.buffer {
            return;
        }
        let mut scratch = Scratch::take();
        let length = self.len();
        scratch[..length].copy_from_slice(self.bytes());
        self.buffer = Buffer::Scratch(scratch);
        (self.start, self.end) = (0, length as u32);
    }
}

impl Buffer {
    fn parked(bytes: &[u8]) -> Buffer {
        if bytes.is_empty() {
            Buffer::None
        } else {
            Buffer::Parked(bytes.to_vec())
        }
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
}
