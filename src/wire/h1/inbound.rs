//! Received bytes that nobody has taken yet.
//!
//! While a task runs they lie in a scratch buffer of the worker; before it waits they are parked:
//! no bytes, no buffer, and a few bytes cost as much memory as they are.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::message::{Data, Scratch};
use crate::wire::io::Socket;

#[derive(Debug, Default)]
pub(super) struct Inbound {
    scratch: Option<Scratch>,
    /// Where the bytes lie while there is no scratch buffer.
    parked: Vec<u8>,
    start: usize,
    end: usize,
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
        match &self.scratch {
            Some(scratch) => &scratch[self.start..self.end],
            None => &self.parked[self.start..self.end],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Forgets the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.scratch = None;
        if self.parked.capacity() > 0 {
            self.parked = Vec::new();
        }
        (self.start, self.end) = (0, 0);
    }

    /// Reads once behind what is there.
    pub(super) fn poll_fill(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Fill>> {
        self.unpark();
        let Some(scratch) = &mut self.scratch else {
            return Poll::Ready(Ok(Fill::Full));
        };
        if self.end == scratch.len() {
            scratch.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == scratch.len() {
                return Poll::Ready(Ok(Fill::Full));
            }
        }
        match socket.poll_read(cx, &mut scratch[self.end..]) {
            Poll::Pending => {
                self.park();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.park();
                Poll::Ready(Ok(Fill::End))
            }
            Poll::Ready(Ok(count)) => {
                self.end += count;
                Poll::Ready(Ok(Fill::Bytes))
            }
            Poll::Ready(Err(error)) => {
                self.park();
                Poll::Ready(Err(error))
            }
        }
    }

    /// Takes the first `count` bytes and forgets the `extra` ones behind them. The scratch buffer
    /// goes along if most of its bytes do.
    pub(super) fn take(&mut self, count: usize, extra: usize) -> Data {
        let (from, to) = (self.start, self.start + count);
        let rest = self.len() - count - extra;
        if rest > count {
            let data = Data::from(Bytes::copy_from_slice(&self.bytes()[..count]));
            self.consume(count + extra);
            return data;
        }
        let left = self.end - rest..self.end;
        match self.scratch.take() {
            Some(scratch) => {
                self.parked.clear();
                self.parked.extend_from_slice(&scratch[left]);
                (self.start, self.end) = (0, rest);
                Data::view(scratch, from, to)
            }
            None => {
                let parked = std::mem::take(&mut self.parked);
                self.parked.extend_from_slice(&parked[left]);
                (self.start, self.end) = (0, rest);
                Data::from(Bytes::from(parked).slice(from..to))
            }
        }
    }

    /// Gives the scratch buffer back; before any wait.
    pub(super) fn park(&mut self) {
        let Some(scratch) = self.scratch.take() else {
            return;
        };
        self.parked.clear();
        self.parked
            .extend_from_slice(&scratch[self.start..self.end]);
        (self.start, self.end) = (0, self.end - self.start);
    }

    fn unpark(&mut self) {
        // Parked bytes are fewer than a buffer, since they were parked from one.
        if self.scratch.is_some() {
            return;
        }
        let mut scratch = Scratch::take();
        let length = self.len();
        if length > 0 {
            scratch[..length].copy_from_slice(&self.parked[self.start..self.end]);
            self.parked = Vec::new();
        }
        (self.start, self.end) = (0, length);
        self.scratch = Some(scratch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8], parked: bool) -> Inbound {
        let mut inbound = Inbound::default();
        inbound.unpark();
        if let Some(scratch) = &mut inbound.scratch {
            scratch[..bytes.len()].copy_from_slice(bytes);
        }
        inbound.end = bytes.len();
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
        assert!(inbound.scratch.is_none());
        inbound.consume(2);
        assert_eq!(inbound.parked.capacity(), 0);
    }
}
