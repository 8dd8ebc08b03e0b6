//! What comes from a server, frame by frame, before the library sees it: whether its settings and
//! its goodbye are there, and whether listening to it still pays.
//!
//! Most frames cost more to take in than to send, and the library answers some (PING, SETTINGS)
//! and keeps others (1xx heads) without a bound. So frames are paid for: every one but a DATA frame
//! with bytes in it costs one; requests, bytes of bodies in both directions, heads that somebody
//! took and time earn them. A server that keeps to its work never gets near the bound, one that
//! floods is cut.

use std::cell::Cell;
use std::io;

use tokio::time::Instant;

use crate::util::clock;

/// Bytes that one turn of the driver reads.
const TURN: usize = 256 * 1024;

/// What a server may spend without earning.
const MOST: u32 = 1024;
/// What a second earns.
const PER_SECOND: u32 = 50;
/// What a request earns: its head, its trailers, a reset, and window updates for its body's start.
const PER_REQUEST: u32 = 6;
/// What a piece of a request body earns, and so many bytes of it: window updates for stream and
/// connection, from a server that gives its windows back in small coin.
const PER_PIECE: u32 = 2;
const COIN: usize = 256;

/// RFC 9113 section 4.1.
const FRAME_HEAD: usize = 9;

mod kind {
    pub(super) const DATA: u8 = 0x0;
    pub(super) const SETTINGS: u8 = 0x4;
    pub(super) const GOAWAY: u8 = 0x7;
}

const ACK: u8 = 0x1;

/// One connection's account.
pub(super) struct Watch {
    received: Cell<u64>,
    written: Cell<u64>,
    /// Bytes read in this turn.
    turn: Cell<usize>,
    place: Cell<Place>,
    settled: Cell<bool>,
    leaving: Cell<bool>,
    flooded: Cell<bool>,
    credit: Cell<u32>,
    earned_until: Cell<Instant>,
}

/// Where in a frame the bytes received so far end.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    head: [u8; FRAME_HEAD],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes of the payload to come.
    left: usize,
}

impl Watch {
    pub fn new() -> Self {
        Watch {
            received: Cell::new(0),
            written: Cell::new(0),
            turn: Cell::new(0),
            place: Cell::default(),
            settled: Cell::new(false),
            leaving: Cell::new(false),
            flooded: Cell::new(false),
            credit: Cell::new(MOST),
            earned_until: Cell::new(clock::now()),
        }
    }

    /// The server's settings have come.
    pub fn is_settled(&self) -> bool {
        self.settled.get()
    }

    /// GOAWAY has come.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// The server was cut for sending too much of nothing.
    pub fn is_flooded(&self) -> bool {
        self.flooded.get()
    }

    /// Bytes read so far.
    pub fn bytes_received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.written.get()
    }

    pub fn wrote(&self, bytes: usize) {
        self.written.set(self.written.get() + bytes as u64);
    }

    pub fn request_begins(&self) {
        self.earn(PER_REQUEST);
    }

    pub fn sent(&self, bytes: usize) {
        let coins = u32::try_from(bytes / COIN).unwrap_or(MOST);
        self.earn(PER_PIECE + coins.min(MOST));
    }

    /// A head that came was taken by whom it was for.
    pub fn head_taken(&self) {
        self.earn(1);
    }

    /// The driver has a turn of reading.
    pub fn turn_begins(&self) {
        self.turn.set(0);
    }

    pub fn turn_is_over(&self) -> bool {
        self.turn.get() >= TURN
    }

    /// Looks at bytes on their way to the library. An error ends the connection.
    pub fn received(&self, bytes: &[u8]) -> io::Result<()> {
        self.received.set(self.received.get() + bytes.len() as u64);
        self.turn.set(self.turn.get() + bytes.len());
        let mut place = self.place.get();
        let mut rest = bytes;
        while let Some((head, after)) = place.next(rest) {
            rest = after;
            if !self.pays(head) {
                self.flooded.set(true);
                return Err(io::Error::other("the server floods the connection"));
            }
        }
        self.place.set(place);
        Ok(())
    }

    /// Takes note of a frame whose head is there; false when it is one too many.
    fn pays(&self, head: Head) -> bool {
        match head.kind {
            kind::DATA if head.length > 0 => {
                self.earn(1);
                return true;
            }
            kind::SETTINGS if head.flags & ACK == 0 => self.settled.set(true),
            kind::GOAWAY => self.leaving.set(true),
            _ => {}
        }
        if self.credit.get() == 0 {
            self.earn_by_time();
        }
        match self.credit.get().checked_sub(1) {
            Some(credit) => self.credit.set(credit),
            None => return false,
        }
        true
    }

    fn earn(&self, amount: u32) {
        self.credit.set((self.credit.get() + amount).min(MOST));
    }

    fn earn_by_time(&self) {
        let now = clock::now();
        let elapsed = now.saturating_duration_since(self.earned_until.get());
        let earned = elapsed.as_millis() * u128::from(PER_SECOND) / 1000;
        if earned > 0 {
            self.earned_until.set(now);
            self.earn(u32::try_from(earned).unwrap_or(MOST).min(MOST));
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Place {
    /// The next frame head that ends in `bytes`, and what follows it.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<(Head, &'a [u8])> {
        let skipped = self.left.min(bytes.len());
        self.left -= skipped;
        let bytes = &bytes[skipped..];
        let taken = (FRAME_HEAD - self.have).min(bytes.len());
        let (more, rest) = bytes.split_at(taken);
        self.head[self.have..self.have + taken].copy_from_slice(more);
        self.have += taken;
        if self.have < FRAME_HEAD {
            return None;
        }
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.have = 0;
        self.left = length;
        Some((
            Head {
                length,
                kind,
                flags,
            },
            rest,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test]
    async fn frames_are_recognised_however_they_are_cut() {
        let bytes = [
            frame(kind::DATA, 0, b"some bytes"),
            frame(kind::SETTINGS, 0, &[0; 6]),
            frame(kind::GOAWAY, 0, &[0; 8]),
        ]
        .concat();
        for step in 1..=bytes.len() {
            let watch = Watch::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                watch.received(piece).expect("no flood");
                seen.push((watch.is_settled(), watch.is_leaving()));
            }
            assert_eq!(seen.last(), Some(&(true, true)), "in steps of {step}");
            assert!(seen.is_sorted(), "settings come before the goodbye");
            assert_eq!(watch.bytes_received(), bytes.len() as u64);
        }
    }

    #[tokio::test]
    async fn an_acknowledgement_is_no_settings() {
        let watch = Watch::new();
        watch
            .received(&frame(kind::SETTINGS, ACK, b""))
            .expect("no flood");
        assert!(!watch.is_settled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_work_is_not() {
        const PING: u8 = 0x6;
        let watch = Watch::new();
        let ping = frame(PING, 0, &[0; 8]);
        for _ in 0..10 * MOST {
            watch.received(&ping).expect("a ping for every DATA frame");
            watch
                .received(&frame(kind::DATA, 0, b"x"))
                .expect("bytes are welcome");
        }
        for _ in 0..MOST {
            watch.received(&ping).expect("a burst");
        }
        assert!(watch.received(&ping).is_err() && watch.is_flooded());

        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        for _ in 0..PER_SECOND {
            watch.received(&ping).expect("time has passed");
        }
        assert!(watch.received(&ping).is_err());
    }
}
