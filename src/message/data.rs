//! A piece of a body.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::message::Scratch;

/// A piece of a body: a view into a scratch buffer, or bytes of our own. Never sent to another
/// thread, and not kept longer than the write that it waits for: a scratch buffer is large.
pub struct Data {
    source: Source,
    start: u32,
    end: u32,
    /// These bytes are chunk-framed as received and validated: sent as they are where the other
    /// side is chunked HTTP/1.1 too. The length of the slice counts them raw. A framed piece ends
    /// before the last chunk; it may begin and end anywhere else.
    pub framed: bool,
    position: ChunkPosition,
    payload: u32,
}

enum Source {
    Scratch(Scratch),
    Bytes(Bytes),
}

/// Where in a chunked body a framed piece begins, so that the framing can still be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChunkPosition {
    /// Payload bytes of the current chunk to come.
    pub(crate) remaining: u64,
    /// The current chunk's CRLF is to come, after `remaining` bytes.
    pub(crate) inside: bool,
}

impl Data {
    /// Plain bytes `start..end` of a scratch buffer.
    pub(crate) fn view(scratch: Scratch, start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= scratch.len());
        Data {
            source: Source::Scratch(scratch),
            start: start as u32,
            end: end as u32,
            framed: false,
            position: ChunkPosition::default(),
            payload: (end - start) as u32,
        }
    }

    /// Marks the bytes as chunk-framed; `payload` of them are payload.
    pub(crate) fn with_framing(mut self, position: ChunkPosition, payload: usize) -> Self {
        self.framed = true;
        self.position = position;
        self.payload = payload as u32;
        self
    }

    /// How many bytes of payload are in it: its length unless it is framed.
    pub fn payload(&self) -> usize {
        self.payload as usize
    }

    /// A copy that may be kept (to be sent again), framed as this one is.
    pub fn to_kept(&self) -> Data {
        let source = match &self.source {
            Source::Scratch(_) => Source::Bytes(Bytes::copy_from_slice(self)),
            Source::Bytes(bytes) => {
                Source::Bytes(bytes.slice(self.start as usize..self.end as usize))
            }
        };
        Data {
            source,
            start: 0,
            end: self.end - self.start,
            ..*self
        }
    }

    /// Lets go of a buffer of more than `limit` bytes: a copy takes less. For a piece that has to
    /// wait.
    pub(crate) fn settle(&mut self, limit: usize) {
        if let Source::Scratch(scratch) = &self.source
            && scratch.len() > limit
        {
            *self = self.to_kept();
        }
    }

    /// The payload as bytes that may be kept and split.
    pub(crate) fn into_payload(self) -> Bytes {
        let data = self.unframed();
        let range = data.start as usize..data.end as usize;
        match data.source {
            Source::Scratch(scratch) => Bytes::copy_from_slice(&scratch[range]),
            Source::Bytes(bytes) => bytes.slice(range),
        }
    }

    /// The payload alone: takes the chunk framing off, in place where it can.
    pub fn unframed(self) -> Data {
        if !self.framed {
            return self;
        }
        let (start, end, payload) = (self.start as usize, self.end as usize, self.payload());
        match self.source {
            Source::Scratch(mut scratch) => {
                let length = strip_framing(&mut scratch[start..end], self.position);
                debug_assert_eq!(length, payload, "the decoder counted the payload");
                Data::view(scratch, start, start + length)
            }
            Source::Bytes(bytes) => {
                let mut own = bytes[start..end].to_vec();
                let length = strip_framing(&mut own, self.position);
                own.truncate(length);
                Data::from(Bytes::from(own))
            }
        }
    }
}

/// Moves the payload of validated chunk framing together; gives its length.
pub(crate) fn strip_framing(bytes: &mut [u8], mut position: ChunkPosition) -> usize {
    let (mut read, mut write) = (0, 0);
    while read < bytes.len() {
        let available = bytes.len() - read;
        if position.remaining > 0 {
            let step = position.remaining.min(available as u64) as usize;
            bytes.copy_within(read..read + step, write);
            (read, write) = (read + step, write + step);
            position.remaining -= step as u64;
        } else if position.inside {
            read += 2;
            position.inside = false;
        } else {
            let Some(line) = memchr::memchr(b'\n', &bytes[read..]) else {
                break;
            };
            position.remaining = hex_prefix(&bytes[read..read + line]);
            position.inside = true;
            read += line + 1;
        }
    }
    write
}

fn hex_prefix(line: &[u8]) -> u64 {
    line.iter()
        .map_while(|&byte| char::from(byte).to_digit(16))
        .fold(0, |size, digit| size << 4 | u64::from(digit))
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Self {
        let length = bytes.len() as u32;
        Data {
            source: Source::Bytes(bytes),
            start: 0,
            end: length,
            framed: false,
            position: ChunkPosition::default(),
            payload: length,
        }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Data::from(Bytes::from(bytes))
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes: &[u8] = match &self.source {
            Source::Scratch(scratch) => scratch,
            Source::Bytes(bytes) => bytes,
        };
        &bytes[self.start as usize..self.end as usize]
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data")
            .field("length", &self.len())
            .field("framed", &self.framed)
            .field("payload", &self.payload)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(text: &[u8], position: ChunkPosition, payload: usize) -> Data {
        Data::from(text.to_vec()).with_framing(position, payload)
    }

    #[test]
    fn framing_comes_off_from_the_start_of_a_body() {
        let data = framed(b"3\r\nabc\r\n2\r\nde", ChunkPosition::default(), 5).unframed();
        assert_eq!(
            (&data[..], data.framed, data.payload()),
            (&b"abcde"[..], false, 5)
        );
    }

    #[test]
    fn framing_comes_off_from_the_middle_of_a_chunk() {
        let middle = ChunkPosition {
            remaining: 2,
            inside: true,
        };
        assert_eq!(
            &framed(b"bc\r\nA\r\n0123", middle, 6).unframed()[..],
            b"bc0123"
        );
        let before_its_end = ChunkPosition {
            remaining: 0,
            inside: true,
        };
        assert_eq!(
            &framed(b"\r\n1\r\nx\r\n", before_its_end, 1).unframed()[..],
            b"x"
        );
    }

    #[test]
    fn a_piece_that_waits_holds_no_more_than_it_may() {
        let mut data = Data::view(Scratch::take(), 7, 4_007);
        data.settle(crate::message::SCRATCH_BYTES);
        assert!(
            matches!(data.source, Source::Scratch(_)),
            "it is allowed to"
        );
        data.settle(4_096);
        assert!(matches!(data.source, Source::Bytes(_)));
        assert_eq!((data.len(), data.payload()), (4_000, 4_000));
    }

    #[test]
    fn framing_comes_off_in_place_in_a_scratch_buffer() {
        let mut scratch = Scratch::take();
        scratch[10..23].copy_from_slice(b"3\r\nabc\r\n2\r\nde");
        let data = Data::view(scratch, 10, 23).with_framing(ChunkPosition::default(), 5);
        assert_eq!(&data.to_kept()[..], b"3\r\nabc\r\n2\r\nde");
        assert_eq!(&data.unframed()[..], b"abcde");
    }
}
