//! What every answer needs of an upstream's settings, in words of their own.
//!
//! Settings change with a reload and are asked for by every request. Reading the whole of them
//! takes a guard that is written to and a walk over several objects; these few are plain loads
//! from one cache line. They say only whether there is more to look at: who finds a status that
//! may be a failure, or a breaker with something to judge, reads the settings themselves.
//!
//! Written under the registry's lock. Relaxed: each word stands for itself, and a request that sees
//! one old and one new has come at the moment of a reload.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::model::{self, BreakerMode};
use crate::util::window::Span;

/// Of the published generation.
#[derive(Debug)]
pub(super) struct Rules {
    /// [`OfBreaker`] but for the time: 10 bits status, one bit off, the span.
    breaker: AtomicU64,
    /// [`OfBreaker::slow`]; the greatest is none.
    slow_nanos: AtomicU64,
    budget: AtomicU32,
}

/// What the breaker needs of an answer that is no failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfBreaker {
    pub off: bool,
    /// No status below this one is a failure.
    pub failure_from: u16,
    pub span: Span,
    /// An answer that takes as long counts as slow.
    pub slow: Duration,
}

/// Above every status.
const NO_STATUS: u16 = 1_000;
const STATUS_BITS: u32 = 10;

impl Rules {
    pub fn of(settings: &model::Upstream) -> Self {
        let rules = Rules {
            breaker: AtomicU64::new(0),
            slow_nanos: AtomicU64::new(0),
            budget: AtomicU32::new(0),
        };
        rules.follow(settings);
        rules
    }

    pub fn follow(&self, settings: &model::Upstream) {
        let breaker = &settings.breaker;
        let ranges = breaker.failure_status.iter();
        let failure_from = ranges.map(|range| range.first).min();
        let failure_from = failure_from.unwrap_or(NO_STATUS).min(NO_STATUS);
        let word = u64::from(Span::of(breaker.window).to_bits()) << (STATUS_BITS + 1)
            | u64::from(breaker.mode == BreakerMode::Off) << STATUS_BITS
            | u64::from(failure_from);
        let slow = breaker.slow.as_ref().map(|slow| slow.threshold.as_nanos());
        let slow = slow.and_then(|nanos| u64::try_from(nanos).ok());
        let budget = Span::of(settings.retry.budget.window).to_bits();
        self.breaker.store(word, Ordering::Relaxed);
        self.slow_nanos
            .store(slow.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
    }

    pub fn breaker(&self) -> OfBreaker {
        let word = self.breaker.load(Ordering::Relaxed);
        OfBreaker {
            off: word >> STATUS_BITS & 1 != 0,
            failure_from: (word & ((1 << STATUS_BITS) - 1)) as u16,
            span: Span::from_bits((word >> (STATUS_BITS + 1)) as u32),
            slow: Duration::from_nanos(self.slow_nanos.load(Ordering::Relaxed)),
        }
    }

    /// How far back the retry budget counts.
    pub fn budget(&self) -> Span {
        Span::from_bits(self.budget.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Slow, StatusRange};
    use crate::upstream::testing::config;
    use crate::util::units::Percent;

    #[test]
    fn what_is_followed_is_read() {
        let mut settings = config(&[(1, 1)]);
        let rules = Rules::of(&settings);
        let read = rules.breaker();
        assert_eq!((read.off, read.failure_from), (false, 502));
        assert_eq!(read.slow, Duration::from_nanos(u64::MAX), "none is as slow");
        let range = |first| StatusRange { first, last: 599 };
        settings.breaker.failure_status = vec![range(500), range(429)];
        settings.breaker.mode = BreakerMode::Off;
        settings.breaker.window = Duration::from_secs(86_400);
        settings.breaker.slow = Some(Slow {
            threshold: Duration::from_millis(3),
            ratio: Percent::from_fraction(0.5),
        });
        settings.retry.budget.window = Duration::from_secs(7);
        rules.follow(&settings);
        let read = rules.breaker();
        assert_eq!((read.off, read.failure_from), (true, 429));
        assert_eq!(read.slow, Duration::from_millis(3));
        assert_eq!(read.span, Span::of(Duration::from_secs(86_400)));
        assert_eq!(rules.budget(), Span::of(Duration::from_secs(7)));
        settings.breaker.failure_status.clear();
        rules.follow(&settings);
        assert!(rules.breaker().failure_from > 999, "nothing is a failure");
    }
}
