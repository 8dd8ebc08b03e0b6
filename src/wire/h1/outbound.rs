//! Bytes on their way into a socket: a head or framing, one piece of a body, framing again.
//!
//! A small piece is copied behind the head, so that they leave in one plain write; a large one is
//! written from the buffer it was read into, together with what stands around it. One piece at a
//! time: it is as large as one read, and more is not held for a peer that does not read.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use crate::message::{Data, Fields, KnownSet, Pipe, SCRATCH_BYTES};
use crate::wire::io::Socket;

/// Below this a copy costs less than another slice in the write.
const COPY_BYTES: usize = 4 * 1024;
#[derive(Debug)]
pub(super) struct Outbound {
    front: Vec<u8>,
    data: Option<Data>,
    /// After the front, in place of data; nothing stands behind it.
    pipe: Option<Pipe>,
    back: Vec<u8>,
    /// Bytes of front, data and back that are written already.
    sent: usize,
    /// There is a piece of a body in it.
    loaded: bool,
    /// Bytes that may wait here; a buffer that is larger is given back first.
    limit: u32,
    /// Bytes written since the last [`Outbound::restart`].
    written: u64,
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound {
            front: Vec::new(),
            data: None,
            pipe: None,
            back: Vec::new(),
            sent: 0,
            loaded: false,
            limit: SCRATCH_BYTES as u32,
            written: 0,
        }
    }
}

impl Outbound {
    /// How many bytes of a body may wait in it: no less than the pieces that it is given.
    pub(super) fn set_limit(&mut self, bytes: usize) {
        self.limit = bytes as u32;
    }

    /// True if another piece can be put behind what is there.
    pub(super) fn has_room(&self) -> bool {
        !self.loaded
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.data.is_none() && self.pipe.is_none()
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Drops what is not written and begins to count anew.
    pub(super) fn restart(&mut self) {
        self.finished();
        self.written = 0;
    }

    /// Drops what is not written.
    pub(super) fn discard(&mut self) {
        self.finished();
    }

    /// Where the next bytes go.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.data.is_some() {
            return &mut self.back;
        }
        if self.front.capacity() == 0 {
            self.front = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        &mut self.front
    }

    /// One piece of a body; only while there is room.
    pub(super) fn push(&mut self, data: Data) {
        debug_assert!(!self.loaded, "one piece at a time");
        // Of framing alone nothing is left where it is taken off.
        self.loaded = !data.is_empty();
        if data.len() <= COPY_BYTES {
            self.buffer().extend_from_slice(&data);
        } else {
            self.data = Some(data);
        }
    }

    /// One piece of a body that needs no framing; only while there is room.
    pub(super) fn push_pipe(&mut self, pipe: Pipe) {
        debug_assert!(!self.loaded, "one piece at a time");
        self.loaded = true;
        self.pipe = Some(pipe);
    }

    /// One piece of a body in the framing of this side.
    pub(super) fn push_body(&mut self, data: Data, chunked: bool) {
        if !chunked {
            self.push(data.unframed());
        } else if data.framed {
            self.push(data);
        } else if !data.is_empty() {
            push_hex(self.buffer(), data.len());
            self.push(data);
            self.buffer().extend_from_slice(b"\r\n");
        }
    }

    /// The last chunk with the trailer section.
    pub(super) fn push_last_chunk(&mut self, trailers: Option<&Fields>) {
        let buffer = self.buffer();
        buffer.extend_from_slice(b"0\r\n");
        if let Some(trailers) = trailers {
            trailers.write(buffer, KnownSet::EMPTY);
        }
        buffer.extend_from_slice(b"\r\n");
    }

    /// Ready when everything is in the socket.
    pub(super) fn poll_flush(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            if self.front.is_empty()
                && let Some(pipe) = &mut self.pipe
            {
                self.written += ready!(socket.poll_drain(cx, pipe))? as u64;
                if pipe.is_empty() {
                    self.pipe = None;
                    self.loaded = false;
                }
                continue;
            }
            let Poll::Ready(count) = self.poll_write(socket, cx) else {
                if let Some(data) = &mut self.data {
                    data.settle(self.limit as usize);
                }
                return Poll::Pending;
            };
            let count = count?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
            self.written += count as u64;
            let data = self.data.as_ref().map_or(0, |data| data.len());
            if self.sent == self.front.len() + data + self.back.len() {
                self.whole();
            }
        }
        socket.poll_flush(cx)
    }

    fn poll_write(&self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(data) = &self.data else {
            return socket.poll_write(cx, &self.front[self.sent..]);
        };
        let mut skip = self.sent;
        let slices = [&self.front[..], data, &self.back].map(|slice| {
            let start = skip.min(slice.len());
            skip -= start;
            IoSlice::new(&slice[start..])
        });
        // The large piece is what is mostly left over after a partial write.
        let first = slices
            .iter()
            .position(|slice| !slice.is_empty())
            .unwrap_or(0);
        socket.poll_write_vectored(cx, &slices[first..])
    }

    fn finished(&mut self) {
        self.pipe = None;
        self.whole();
    }

    /// Everything before the pipe is written.
    fn whole(&mut self) {
        self.data = None;
        self.loaded = self.pipe.is_some();
        self.sent = 0;
        self.back.clear();
        if self.front.capacity() > 0 {
            let mut front = std::mem::take(&mut self.front);
            front.clear();
            recycle(front);
        }
    }
}

fn push_hex(buffer: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0u8; 16];
    let mut position = digits.len();
    loop {
        position -= 1;
        digits[position] = b"0123456789abcdef"[number & 15];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    buffer.extend_from_slice(&digits[position..]);
    buffer.extend_from_slice(b"\r\n");
}

/// Buffers kept for the next heads of this thread.
const POOLED: usize = 64;
/// Larger ones are not kept: few heads need them.
const POOLED_BYTES: usize = 64 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn recycle(buffer: Vec<u8>) {
    if buffer.capacity() <= POOLED_BYTES {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED {
                pool.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for number in [1usize, 9, 15, 16, 255, 4096, 131_072, usize::MAX] {
            let mut buffer = Vec::new();
            push_hex(&mut buffer, number);
            assert_eq!(buffer, format!("{number:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn plain_data_is_chunked_and_framed_data_is_not_framed_again() {
        let mut out = Outbound::default();
        out.push_body(Data::from(b"hello".to_vec()), true);
        assert_eq!(out.front, b"5\r\nhello\r\n");
        assert!(!out.has_room());
        out.restart();
        let framed = Data::from(b"2\r\nab\r\n".to_vec()).with_framing(Default::default(), 2);
        out.push_body(framed.to_kept(), true);
        out.push_last_chunk(None);
        assert_eq!(out.front, b"2\r\nab\r\n0\r\n\r\n");
        out.discard();
        out.push_body(framed, false);
        assert_eq!(out.front, b"ab");
        out.restart();
        let bare = Data::from(b"2\r\n".to_vec()).with_framing(Default::default(), 0);
        out.push_body(bare, false);
        assert!(out.is_empty() && out.has_room());
    }

    #[test]
    fn what_follows_a_large_piece_stays_behind_it() {
        let mut out = Outbound::default();
        out.push_body(Data::from(vec![b'x'; COPY_BYTES + 1]), true);
        out.push_last_chunk(None);
        assert_eq!(out.front, b"1001\r\n");
        assert_eq!(out.back, b"\r\n0\r\n\r\n");
        assert!(!out.has_room());
    }
}
