//! What a closed breaker counts, and whether that is a reason to trip.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::model::Breaker as Settings;
use crate::upstream::breaker::run::{Ended, Run};
use crate::util::units::Percent;
use crate::util::window::{At, Mark, Window};

/// Indices into the window.
const TOTAL: usize = 0;
const FAILURES: usize = 1;
const SLOW: usize = 2;

/// Outcomes of one epoch, written by all workers. A later epoch sees nothing of them, an earlier
/// one cannot add to them.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Counts {
    run: Run,
    /// When a failure or a slow answer was last counted, plus one: without one in the window a
    /// success need not look at the ratios.
    troubled: AtomicU64,
    window: Window<3>,
}

/// Where a success was counted, to take it back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Success {
    mark: Mark,
    ended: Ended,
}

/// Which of the three triggers tripped a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    ConsecutiveFailures,
    FailureRatio,
    SlowRatio,
}

impl Counts {
    pub fn new() -> Counts {
        Counts {
            run: Run::new(),
            troubled: AtomicU64::new(0),
            window: Window::new(),
        }
    }

    pub fn success(&self, latency: Duration, at: At, settings: &Settings) -> Success {
        let success = self.plain_success(at);
        if settings
            .slow
            .as_ref()
            .is_some_and(|slow| latency >= slow.threshold)
        {
            self.window.add_at(SLOW, success.mark, at);
            self.troubled.store(at.now_ms + 1, Ordering::Relaxed);
        }
        success
    }

    /// One that is not slow.
    pub fn plain_success(&self, at: At) -> Success {
        Success {
            mark: self.window.add(TOTAL, at),
            ended: self.run.success(at.epoch),
        }
    }

    /// `before`: it was counted as a success first. It then moves from one side to the other and
    /// is still one request of the window.
    pub fn failure(&self, before: Option<Success>, at: At) {
        match before {
            Some(success) => self.run.revoked(at.epoch, success.ended),
            None => self.run.failure(at.epoch),
        }
        let moved = before.is_some_and(|success| self.window.add_at(FAILURES, success.mark, at));
        // A success that has left the window comes back whole, as a failure of now.
        if !moved {
            let mark = self.window.add(TOTAL, at);
            self.window.add_at(FAILURES, mark, at);
        }
        self.troubled.store(at.now_ms + 1, Ordering::Relaxed);
    }

    /// Whether a success can complete the volume that a ratio waits for.
    pub fn troubled(&self, at: At) -> bool {
        let troubled = self.troubled.load(Ordering::Relaxed);
        let age = at.now_ms.saturating_sub(troubled);
        troubled != 0 && age <= at.span.as_millis()
    }

    /// The first trigger that is reached.
    pub fn cause(&self, at: At, settings: &Settings) -> Option<Cause> {
        let run = settings.consecutive_failures.min(Run::LONGEST);
        if run > 0 && self.run.length(at.epoch) >= run {
            return Some(Cause::ConsecutiveFailures);
        }
        let [total, failures, slow] = self.window.sums(at);
        if total < u64::from(settings.min_requests) {
            return None;
        }
        if settings
            .failure_ratio
            .is_some_and(|ratio| reached(failures, total, ratio))
        {
            return Some(Cause::FailureRatio);
        }
        let slow_ratio = settings.slow.as_ref().map(|slow| slow.ratio);
        let too_slow = slow_ratio.is_some_and(|ratio| reached(slow, total, ratio));
        too_slow.then_some(Cause::SlowRatio)
    }

    /// Consecutive failures, total, failures and slow answers.
    #[cfg(test)]
    pub fn seen(&self, at: At) -> (u32, [u64; 3]) {
        (self.run.length(at.epoch), self.window.sums(at))
    }
}

/// At or above; the small number because 7% of 100 is 7.000000000000001 in binary.
fn reached(part: u64, total: u64, ratio: Percent) -> bool {
    part > 0 && part as f64 + 1e-9 >= ratio.fraction() * total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_binary_cannot_hold_is_reached_at_its_value() {
        let seven = Percent::from_fraction(0.07);
        assert!(reached(7, 100, seven));
        assert!(!reached(6, 100, seven));
        assert!(
            !reached(0, 100, Percent::from_fraction(0.0)),
            "no failure is no reason"
        );
    }
}
