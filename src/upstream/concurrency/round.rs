//! What requests report, in windows that belong to one limit.

use super::Seen;

/// The least that a window is made of when answers come slowly.
pub(super) const LEAST: u32 = 8;
/// The standard error, in powers of two, with which a mean is taken for what it says.
pub(super) const EXACT: f64 = 0.12;
/// However slow the answers come.
const PATIENCE_MS: u64 = 10_000;

/// Of the logarithms of latencies, with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mean {
    pub log: f64,
    pub error: f64,
    /// Answers per millisecond.
    pub rate: f64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    began: u64,
    pub samples: u32,
    logs: f64,
    squares: f64,
    pub drops: u32,
    pub held: bool,
    looks: u32,
    held_looks: u32,
    pub most_in_flight: u32,
}

impl Window {
    fn at(now_ms: u64) -> Self {
        Window {
            began: now_ms,
            ..Window::default()
        }
    }

    fn add(&mut self, seen: &Seen) {
        self.samples += seen.samples;
        self.logs += seen.logs;
        self.squares += seen.squares;
        self.drops += seen.drops;
        self.held |= seen.held;
        self.looks += 1;
        self.held_looks += u32::from(seen.held);
        self.most_in_flight = self.most_in_flight.max(seen.in_flight);
    }

    /// Answers and signs of overload.
    pub fn all(&self) -> u32 {
        self.samples + self.drops
    }

    /// The limit was reached nearly all the time: the throughput is what it let through.
    pub fn is_saturated(&self) -> bool {
        self.held_looks * 5 >= self.looks * 4
    }

    pub fn mean(&self, now_ms: u64) -> Mean {
        let samples = f64::from(self.samples.max(2));
        let log = self.logs / f64::from(self.samples.max(1));
        let variance = (self.squares / samples - log.powi(2)).max(0.0);
        Mean {
            log,
            error: (variance / samples).sqrt(),
            rate: f64::from(self.samples) / now_ms.saturating_sub(self.began).max(1) as f64,
        }
    }
}

/// When a window says something.
pub(super) struct Wants {
    pub answers: u32,
    /// With fewer of them, or less exact ones, after so long.
    pub patience_ms: f64,
    /// A mean that is certainly over this says enough.
    pub clear_over: Option<f64>,
}

/// A window, and what has to pass before it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    window: Window,
    /// Answers that still belong to an earlier limit, if the round is full.
    unsettled: u32,
    drains_until: Option<u64>,
}

impl Round {
    pub fn new(now_ms: u64, limit: f64) -> Self {
        Round {
            window: Window::at(now_ms),
            unsettled: limit as u32,
            drains_until: None,
        }
    }

    /// After a step a whole round goes by: what comes first after it was asked before it, and of
    /// what was asked after it the fastest comes first.
    pub fn settle(&mut self, limit: f64) {
        self.unsettled = limit as u32;
    }

    /// After a deep step, what was under way before it ends first.
    pub fn drain(&mut self, until_ms: u64) {
        self.drains_until = Some(until_ms);
    }

    pub fn begin(&mut self, now_ms: u64) {
        self.window = Window::at(now_ms);
    }

    /// Takes what was seen; the window, once it says what is wanted.
    pub fn take(&mut self, now_ms: u64, seen: &Seen, limit: f64, wants: &Wants) -> Option<Window> {
        if self.is_draining(now_ms, seen, limit) || self.is_settling(now_ms, seen) {
            return None;
        }
        self.window.add(seen);
        if !self.is_whole(now_ms, wants) {
            return None;
        }
        let window = self.window;
        self.begin(now_ms);
        Some(window)
    }

    fn is_draining(&mut self, now_ms: u64, seen: &Seen, limit: f64) -> bool {
        let Some(until) = self.drains_until else {
            return false;
        };
        if f64::from(seen.in_flight) <= limit || now_ms >= until {
            *self = Round::new(now_ms, limit);
        }
        true
    }

    fn is_settling(&mut self, now_ms: u64, seen: &Seen) -> bool {
        if self.unsettled == 0 {
            return false;
        }
        let late = now_ms >= self.window.began + PATIENCE_MS;
        self.unsettled = match late {
            true => 0,
            false => self.unsettled.saturating_sub(seen.samples + seen.drops),
        };
        if self.unsettled == 0 {
            self.begin(now_ms);
        }
        true
    }

    fn is_whole(&self, now_ms: u64, wants: &Wants) -> bool {
        let elapsed = now_ms.saturating_sub(self.window.began);
        let all = self.window.all();
        if elapsed as f64 >= wants.patience_ms && (all >= LEAST || elapsed >= PATIENCE_MS) {
            return true;
        }
        let mean = self.window.mean(now_ms);
        let slower = |over| mean.log - over > 3.0 * mean.error;
        let is_clear =
            || wants.clear_over.is_some_and(slower) || self.window.drops > self.window.samples / 10;
        all >= wants.answers && (mean.error <= EXACT || is_clear())
    }
}
