//! What a peer may make us do for nothing (RFC 9113 section 10.5).
//!
//! The headers of frames are read as their bytes pass, both ways, and nothing is copied. Each kind
//! of frame that costs us something and gives us nothing has a budget: a burst, a trickle per
//! second, and what useful work earns: an answer that was sent to its end, DATA that the peer has
//! to acknowledge. Whoever overdraws one is cut. Honest clients send a few of these frames per
//! request; floods (CVE-2019-9511 to -9518), rapid reset (CVE-2023-44487) and MadeYouReset
//! (CVE-2025-8671) send them instead of requests.

use std::rc::Rc;

use h2::Reason;
use tokio::time::Instant;

use crate::util::clock;
use crate::wire::Cut;
use crate::wire::h2::blocks::{Blocks, Faults};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A frame header, and the error code behind that of RST_STREAM.
const HEAD: usize = 9;
const RESET_HEAD: usize = HEAD + 4;

/// What the library counts as overhead: a DATA frame with fewer bytes.
pub(super) const SMALL: usize = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// One kind of frame that is to be rare.
#[derive(Debug, Clone, Copy)]
struct Budget {
    left: u32,
    most: u32,
    /// Per second without any work.
    trickle: u32,
}

impl Budget {
    const fn new(most: u32, trickle: u32) -> Self {
        Budget {
            left: most,
            most,
            trickle,
        }
    }

    fn earn(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    /// False where there is nothing left.
    fn spend(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[derive(Debug)]
struct Budgets {
    pings: Budget,
    settings: Budget,
    priorities: Budget,
    window_updates: Budget,
    resets: Budget,
    empty: Budget,
    continuations: Budget,
    unknown: Budget,
}

impl Budgets {
    fn all(&mut self) -> [&mut Budget; 8] {
        [
            &mut self.pings,
            &mut self.settings,
            &mut self.priorities,
            &mut self.window_updates,
            &mut self.resets,
            &mut self.empty,
            &mut self.continuations,
            &mut self.unknown,
        ]
    }
}

/// Counts one connection's frames.
#[derive(Debug)]
pub(super) struct Guard {
    /// Bytes of the preface still to come.
    preface: usize,
    inward: Frames,
    outward: Frames,
    budgets: Budgets,
    filled: Instant,
    /// The peer's SETTINGS have come.
    settled: bool,
    /// A header block has begun and not ended.
    in_block: bool,
    blocks: Blocks,
    /// What GOAWAY says of [`Cut::Protocol`].
    reason: Reason,
    pub(super) faults: Rc<Faults>,
    /// DATA frames that hold little, since somebody set it to 0.
    pub(super) small: usize,
    verdict: Option<Cut>,
}

/// Where the frames begin in a stream of bytes.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; RESET_HEAD],
    have: usize,
    /// Payload bytes of the current frame to come.
    rest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
    stream: u32,
    /// Of RST_STREAM.
    code: u32,
}

impl Frames {
    /// The bytes of the current frame's payload, and those behind it.
    fn payload<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let (payload, behind) = bytes.split_at(self.rest.min(bytes.len()));
        self.rest -= payload.len();
        (payload, behind)
    }

    /// The next frame, if its head is whole, and the bytes behind that head.
    fn head<'a>(&mut self, mut bytes: &'a [u8]) -> Option<(Frame, &'a [u8])> {
        loop {
            let wanted = if self.have >= HEAD && self.head[3] == RST_STREAM {
                RESET_HEAD.min(HEAD + self.length())
            } else {
                HEAD
            };
            if self.have >= wanted {
                break;
            }
            if bytes.is_empty() {
                return None;
            }
            let count = bytes.len().min(wanted - self.have);
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
        }
        let length = self.length();
        let code = match self.have {
            RESET_HEAD => self.head[HEAD..]
                .iter()
                .fold(0, |code, &byte| code << 8 | u32::from(byte)),
            _ => 0,
        };
        let frame = Frame {
            kind: self.head[3],
            flags: self.head[4],
            length,
            stream: u32::from_be_bytes([
                self.head[5] & 0x7f,
                self.head[6],
                self.head[7],
                self.head[8],
            ]),
            code,
        };
        self.rest = length - (self.have - HEAD);
        self.have = 0;
        Some((frame, bytes))
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }
}

impl Guard {
    /// `streams`: as many as the peer may have open at once.
    pub(super) fn new(streams: u32) -> Self {
        Guard {
            preface: PREFACE.len(),
            inward: Frames::default(),
            outward: Frames::default(),
            budgets: Budgets {
                pings: Budget::new(100, 10),
                settings: Budget::new(20, 1),
                priorities: Budget::new(200, 10),
                window_updates: Budget::new(1000, 50),
                resets: Budget::new(streams.clamp(50, 1000), 20),
                // The library's own limit is 100 in all.
                empty: Budget::new(50, 10),
                continuations: Budget::new(100, 10),
                unknown: Budget::new(200, 10),
            },
            filled: clock::now(),
            settled: false,
            in_block: false,
            blocks: Blocks::new(),
            reason: Reason::PROTOCOL_ERROR,
            faults: Rc::default(),
            small: 0,
            verdict: None,
        }
    }

    /// Why the connection is to be cut, once it is.
    pub(super) fn verdict(&self) -> Option<Cut> {
        self.verdict
    }

    /// What is said of a break of the protocol.
    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    /// The peer has said what it is: preface and SETTINGS have come.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// A header block is under way, to which nothing else may come between.
    pub(super) fn is_in_head(&self) -> bool {
        let begun = self.inward.rest > 0 && matches!(self.inward.head[3], HEADERS | CONTINUATION);
        self.in_block || begun
    }

    /// Bytes from the peer.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        let mut bytes = &bytes[skipped..];
        self.refill();
        loop {
            let (payload, behind) = self.inward.payload(bytes);
            if self.blocks.is_collecting() {
                let whole = self.inward.rest == 0;
                self.blocks.collect(payload, whole, &self.faults);
                if self.blocks.is_miscoded() {
                    self.reason = Reason::COMPRESSION_ERROR;
                    self.verdict.get_or_insert(Cut::Protocol);
                    return;
                }
            }
            let Some((frame, behind)) = self.inward.head(behind) else {
                return;
            };
            bytes = behind;
            if let Err(cut) = self.judge(frame) {
                self.verdict.get_or_insert(cut);
                return;
            }
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                let last = frame.flags & END_HEADERS != 0;
                self.blocks
                    .begin(frame.stream, frame.flags, frame.kind == HEADERS, last);
            }
        }
    }

    fn judge(&mut self, frame: Frame) -> Result<(), Cut> {
        if !self.settled {
            // RFC 9113 section 3.4: a SETTINGS frame comes first.
            if frame.kind != SETTINGS || frame.flags & ACK != 0 {
                return Err(Cut::Protocol);
            }
            self.settled = true;
        }
        if !has_its_length(frame) {
            // The library calls it a protocol error.
            self.reason = Reason::FRAME_SIZE_ERROR;
            return Err(Cut::Protocol);
        }
        let budgets = &mut self.budgets;
        let (budget, cut) = match frame.kind {
            DATA if frame.length == 0 && frame.flags & END_STREAM == 0 => {
                (&mut budgets.empty, Cut::EmptyFrames)
            }
            HEADERS | CONTINUATION => {
                self.in_block = frame.flags & END_HEADERS == 0;
                if frame.length == 0 {
                    (&mut budgets.empty, Cut::EmptyFrames)
                } else if frame.kind == CONTINUATION {
                    (&mut budgets.continuations, Cut::Continuations)
                } else {
                    return Ok(());
                }
            }
            PRIORITY => (&mut budgets.priorities, Cut::PriorityFlood),
            RST_STREAM => (&mut budgets.resets, Cut::Resets),
            SETTINGS => (&mut budgets.settings, Cut::SettingsFlood),
            PING => (&mut budgets.pings, Cut::PingFlood),
            WINDOW_UPDATE => (&mut budgets.window_updates, Cut::WindowUpdates),
            DATA => {
                self.small += usize::from(frame.length < SMALL);
                return Ok(());
            }
            // Errors all of them, which the library answers.
            PUSH_PROMISE | GOAWAY => return Ok(()),
            _ => (&mut budgets.unknown, Cut::UnknownFrames),
        };
        if budget.spend() { Ok(()) } else { Err(cut) }
    }

    /// Bytes to the peer.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        loop {
            let (_, behind) = self.outward.payload(bytes);
            let Some((frame, behind)) = self.outward.head(behind) else {
                return;
            };
            bytes = behind;
            let budgets = &mut self.budgets;
            match frame.kind {
                // An answer that leaves its request unread resets with NO_ERROR, one that its server
                // broke off with INTERNAL_ERROR: neither is the peer's doing.
                RST_STREAM if !matches!(frame.code, NO_ERROR | INTERNAL_ERROR) => {
                    let spent = budgets.resets.spend();
                    self.verdict = self.verdict.or((!spent).then_some(Cut::Resets));
                }
                DATA | HEADERS => {
                    // Each is acknowledged by up to two, and clients measure with pings.
                    budgets.window_updates.earn(2);
                    budgets.pings.earn(1);
                    if frame.flags & END_STREAM != 0 {
                        self.answered();
                    }
                }
                _ => {}
            }
        }
    }

    fn answered(&mut self) {
        let budgets = &mut self.budgets;
        budgets.resets.earn(1);
        budgets.priorities.earn(4);
        budgets.window_updates.earn(4);
        budgets.continuations.earn(4);
        budgets.empty.earn(1);
        budgets.unknown.earn(4);
    }

    fn refill(&mut self) {
        let passed = clock::now()
            .saturating_duration_since(self.filled)
            .as_secs();
        if passed == 0 {
            return;
        }
        self.filled += std::time::Duration::from_secs(passed);
        let seconds = passed.min(1000) as u32;
        for budget in self.budgets.all() {
            budget.earn(budget.trickle * seconds);
        }
    }
}

/// RFC 9113 sections 6.3 to 6.9: frames of a fixed length have it.
fn has_its_length(frame: Frame) -> bool {
    let length = frame.length;
    match frame.kind {
        PRIORITY => length == 5,
        RST_STREAM | WINDOW_UPDATE => length == 4,
        SETTINGS if frame.flags & ACK != 0 => length == 0,
        SETTINGS => length.is_multiple_of(6),
        PING => length == 8,
        GOAWAY => length >= 8,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    fn opened() -> Guard {
        let mut guard = Guard::new(100);
        guard.received(PREFACE);
        assert!(!guard.is_settled());
        guard.received(&frame(SETTINGS, 0, &[]));
        assert!(guard.is_settled());
        guard
    }

    #[tokio::test(start_paused = true)]
    async fn each_flood_is_told_apart_wherever_reads_end() {
        let table = [
            (PING, 0, 8, Cut::PingFlood),
            (PING, ACK, 8, Cut::PingFlood),
            (SETTINGS, 0, 0, Cut::SettingsFlood),
            (PRIORITY, 0, 5, Cut::PriorityFlood),
            (WINDOW_UPDATE, 0, 4, Cut::WindowUpdates),
            (RST_STREAM, 0, 4, Cut::Resets),
            (DATA, 0, 0, Cut::EmptyFrames),
            (HEADERS, END_HEADERS, 0, Cut::EmptyFrames),
            (CONTINUATION, 0, 3, Cut::Continuations),
            (0x20, 0, 3, Cut::UnknownFrames),
        ];
        for (kind, flags, length, cut) in table {
            let flood = frame(kind, flags, &vec![0; length]).repeat(1100);
            for step in [1, 7, 8192] {
                let mut guard = opened();
                for piece in flood.chunks(step) {
                    guard.received(piece);
                }
                assert_eq!(guard.verdict(), Some(cut), "frames of kind {kind}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn useful_work_pays_for_what_belongs_to_it() {
        let mut guard = opened();
        for _ in 0..5000 {
            guard.received(&frame(HEADERS, END_HEADERS | END_STREAM, b"\x82"));
            guard.received(&frame(WINDOW_UPDATE, 0, &[0; 4]));
            guard.received(&frame(PRIORITY, 0, &[0; 5]));
            guard.received(&frame(PING, 0, &[0; 8]));
            guard.sent(&frame(HEADERS, END_HEADERS, b"x"));
            guard.sent(&frame(DATA, END_STREAM, b"body"));
            guard.sent(&frame(RST_STREAM, 0, &[0; 4]));
        }
        assert_eq!(guard.verdict(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn resets_of_ours_count_as_the_ones_of_the_peer() {
        let mut guard = opened();
        for _ in 0..100 {
            guard.sent(&frame(RST_STREAM, 0, &[0, 0, 0, 1]));
        }
        assert_eq!(guard.verdict(), None);
        guard.sent(&frame(RST_STREAM, 0, &[0, 0, 0, 1]));
        assert_eq!(guard.verdict(), Some(Cut::Resets));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_goes_on_for_ever() {
        let mut guard = opened();
        for _ in 0..2000 {
            guard.received(&frame(PING, 0, &[0; 8]).repeat(5));
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
        }
        assert_eq!(guard.verdict(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_is_seen_in_its_frame_and_behind_it() {
        let mut guard = opened();
        let head = frame(HEADERS, 0, b"abc");
        guard.received(&head[..HEAD + 1]);
        assert!(guard.is_in_head());
        guard.received(&head[HEAD + 1..]);
        assert!(guard.is_in_head(), "CONTINUATION is to come");
        guard.received(&frame(CONTINUATION, END_HEADERS, b"d"));
        assert!(!guard.is_in_head());
    }

    #[tokio::test(start_paused = true)]
    async fn frames_have_the_length_that_they_have() {
        for (kind, flags, length) in [
            (PRIORITY, 0, 4),
            (RST_STREAM, 0, 3),
            (SETTINGS, 0, 7),
            (SETTINGS, ACK, 6),
            (PING, 0, 9),
            (WINDOW_UPDATE, 0, 5),
            (GOAWAY, 0, 7),
        ] {
            let mut guard = opened();
            guard.received(&frame(kind, flags, &vec![0; length]));
            assert_eq!(guard.verdict(), Some(Cut::Protocol), "of kind {kind}");
            assert_eq!(guard.reason(), Reason::FRAME_SIZE_ERROR);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn settings_come_first() {
        let mut guard = Guard::new(100);
        guard.received(PREFACE);
        guard.received(&frame(PING, 0, &[0; 8]));
        assert_eq!(guard.verdict(), Some(Cut::Protocol));
    }
}
