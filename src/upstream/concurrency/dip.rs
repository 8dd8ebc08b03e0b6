//! Under a lower limit for a moment: what does it cost?
//!
//! The levels of a dip, from the top: where the limit was, or somewhat over the known knee if it was
//! lower; half of that; and on down as long as a level costs no throughput. The first that does
//! lies below the knee, and Little's law says where that is: so many times the level as the level
//! above served more. So a dip can find that the limit was too low as well as that it was too high,
//! and its errors, which on a busy machine are large, go both ways.
//!
//! A knee much lower than the known one is believed only when the top, tried again, serves no more
//! than it: what changed meanwhile may have been the machine.

use super::TOLERANCE;
use super::round::{LEAST, Mean, Window};

/// A level that loses no more than this share of what it takes away (as powers of two) is harmless.
const LOST: f64 = 0.4;
/// Of the known knee: a lower one has to be confirmed.
const MUCH_LOWER: f64 = 0.75;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dip {
    pub began: u64,
    phase: Phase,
    /// The start is interrupted, and no level has shown a queue.
    starting: bool,
    known: Option<f64>,
    floor: f64,
    top: Level,
    /// The lowest that cost no throughput.
    harmless: Level,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// What is there to compare with?
    Top,
    Lowered {
        level: f64,
    },
    /// At the top again, with the knee and the base that were found below.
    Confirms {
        knee: f64,
        base: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Level {
    limit: f64,
    mean: Mean,
}

/// Where a dip begins.
pub(super) struct From {
    pub now_ms: u64,
    pub limit: f64,
    pub mean: Mean,
    /// The mean is good enough to compare with.
    pub exact: bool,
    pub starting: bool,
    pub known: Option<f64>,
    pub floor: f64,
    pub ceiling: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// A window under this limit.
    Up(f64),
    /// The same, when what is over it has ended.
    Down(f64),
    Over(Found),
}

/// What a dip has found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    pub knee: Option<f64>,
    /// Logarithm of the latency without a queue.
    pub base: Option<f64>,
    /// Answers per millisecond at the top.
    pub rate: f64,
    /// The limit from here on.
    pub limit: f64,
    /// There was no queue at the top: the start goes on.
    pub starts: bool,
}

impl Dip {
    pub fn begin(from: &From) -> (Self, Next) {
        let over_knee = from.known.map_or(0.0, |knee| (knee * TOLERANCE).round());
        let high = over_knee.min(from.ceiling).max(from.limit);
        let top = Level {
            limit: high,
            mean: from.mean,
        };
        let mut dip = Dip {
            began: from.now_ms,
            phase: Phase::Top,
            starting: from.starting,
            known: from.known,
            floor: from.floor,
            top,
            harmless: top,
        };
        if high > from.limit * 1.1 || !from.exact {
            return (dip, Next::Up(high));
        }
        dip.top.limit = from.limit;
        let next = dip.lower(from.mean);
        (dip, next)
    }

    /// The limit that it interrupts, and whether that was found already.
    pub fn interrupts(&self) -> (f64, bool) {
        (self.top.limit, !self.starting)
    }

    /// Logarithm of the latency that was seen last.
    pub fn latency(&self) -> f64 {
        self.harmless.mean.log
    }

    /// After a window under the limit that was asked for.
    pub fn judge(&mut self, now_ms: u64, window: &Window) -> Next {
        let mean = window.mean(now_ms);
        if window.samples < LEAST {
            return match self.phase {
                Phase::Confirms { knee, base } => self.found(Some(knee), Some(base)),
                _ => self.found(None, None),
            };
        }
        match self.phase {
            Phase::Top => self.lower(mean),
            Phase::Lowered { .. } if !window.is_saturated() => self.found(None, Some(mean.log)),
            Phase::Lowered { level } => self.compare(level, mean),
            Phase::Confirms { knee, base } => {
                let more = mean.rate / self.harmless.mean.rate;
                let knee = knee.max(self.harmless.limit * more).min(self.top.limit);
                self.found(Some(knee), Some(base))
            }
        }
    }

    fn lower(&mut self, top: Mean) -> Next {
        self.top.mean = top;
        self.harmless = self.top;
        match self.descend() {
            Some(level) => Next::Down(level),
            // Nowhere to go: what is seen here is as good as it gets.
            None => Next::Over(Found {
                limit: self.top.limit,
                starts: false,
                ..self.finding(None, Some(top.log))
            }),
        }
    }

    /// To the next level down, if there is one.
    fn descend(&mut self) -> Option<f64> {
        let above = self.harmless.limit;
        let level = (above / 2.0).max(self.floor).round();
        if level > above * 0.8 {
            return None;
        }
        self.phase = Phase::Lowered { level };
        Some(level)
    }

    fn compare(&mut self, level: f64, mean: Mean) -> Next {
        let above = self.harmless;
        let (lost, whole) = (above.mean.rate / mean.rate, above.limit / level);
        if lost.log2() <= whole.log2() * LOST {
            self.harmless = Level { limit: level, mean };
            self.starting = false;
            if let Some(level) = self.descend() {
                return Next::Down(level);
            }
        }
        let knee = level * lost.clamp(1.0, whole.max(1.0));
        match self.known {
            Some(known) if knee < known * MUCH_LOWER && self.harmless != self.top => {
                let base = mean.log;
                self.phase = Phase::Confirms { knee, base };
                Next::Up(self.top.limit)
            }
            Some(known) => self.found(Some((known * knee).sqrt()), Some(mean.log)),
            None => self.found(Some(knee), Some(mean.log)),
        }
    }

    fn found(&self, knee: Option<f64>, base: Option<f64>) -> Next {
        Next::Over(self.finding(knee, base))
    }

    fn finding(&self, knee: Option<f64>, base: Option<f64>) -> Found {
        let needed = self.harmless.limit.max(knee.unwrap_or(0.0));
        let queue = base.map_or(f64::MAX, |base| self.top.mean.log - base);
        Found {
            knee,
            base,
            rate: self.top.mean.rate,
            limit: self.top.limit.min(needed * TOLERANCE),
            starts: self.starting && queue <= TOLERANCE.log2(),
        }
    }
}

/// To the next dip that a doubt asks for: longer when the last ones found nothing new.
const DOUBT_MS: (u64, u64) = (1_000, 10_000);
/// Between dips, and how many times its length a dip's distance from the next is at least: it
/// costs no more than a fiftieth of the throughput.
const DIP_EVERY_MS: u64 = 20_000;
const DIP_SHARE: u64 = 25;

/// What asks for a dip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reason {
    Time,
    /// Latency or throughput are not those that the last one found.
    Doubt,
    /// Both are far from it.
    Collapse,
}

/// When there is a dip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calendar {
    next: u64,
    /// The earliest moment for one that a doubt asks for.
    doubtful: u64,
    /// For one that a collapse asks for.
    urgent: u64,
    doubt_ms: u64,
}

impl Calendar {
    pub fn new(now_ms: u64) -> Self {
        Calendar {
            next: now_ms + DIP_EVERY_MS,
            doubtful: now_ms,
            urgent: now_ms,
            doubt_ms: DOUBT_MS.0,
        }
    }

    pub fn is_due(&self, now_ms: u64, reason: Reason) -> bool {
        let earliest = match reason {
            Reason::Time => self.next,
            Reason::Doubt => self.next.min(self.doubtful),
            Reason::Collapse => self.next.min(self.urgent),
        };
        now_ms >= earliest
    }

    /// Nothing asks for one.
    pub fn postpone(&mut self, now_ms: u64) {
        self.next = self.next.max(now_ms + DIP_EVERY_MS);
    }

    /// A dip found what was known, or something else.
    pub fn learnt(&mut self, nothing_new: bool) {
        self.doubt_ms = match nothing_new {
            true => (self.doubt_ms * 2).min(DOUBT_MS.1),
            false => DOUBT_MS.0,
        };
    }

    pub fn ended(&mut self, now_ms: u64, began: u64) {
        let took = now_ms.saturating_sub(began);
        // What is new is asked for again before long.
        let unconfirmed = self.doubt_ms <= DOUBT_MS.0;
        let distance = if unconfirmed { 4 } else { 20 };
        self.urgent = now_ms + DOUBT_MS.0.max(took * 4);
        self.doubtful = now_ms + self.doubt_ms.max(took * distance);
        self.next = match unconfirmed {
            true => self.doubtful,
            false => now_ms + DIP_EVERY_MS.max(took * DIP_SHARE),
        };
    }
}
