//! How fast a queue drains, and who need not stand in it: refused at once is better than refused
//! after a wait.
//!
//! Two questions are asked of a queue that newcomers want to join.
//!
//! *Will the newcomer be served in time?* What waits before it, divided by the rate at which waiters
//! were served over the last queue timeout, is its wait. It is refused if that is longer than it
//! may wait, and only if that is known: the queue has stood for a whole timeout without running
//! empty, and somebody was served in it. So a burst that fits the queue waits as it always did, and
//! behind a service that stands still everybody waits, because it may go on any moment. The rate
//! is taken at the upper end of what was counted (a standard deviation more), which errs on the
//! side of waiting.
//!
//! *Is it a queue that never goes away?* Such a queue serves no more than a short one and makes
//! everybody wait (CoDel: Nichols & Jacobson 2012, the shortest wait of an interval tells a
//! standing queue from a burst). When nobody has got through in under a tenth of the timeout for a
//! whole timeout, newcomers may expect half of the timeout at most: the queue shrinks to that,
//! without anybody who waits being sent away, and goes on feeding the servers.
//!
//! Pure: milliseconds are passed in. Under the lock of the queue.

/// A timeout is looked back on in so many parts.
const PARTS: usize = 8;

/// Of the timeout, as divisors.
const TARGET: u64 = 10;
const STANDING: f64 = 2.0;

#[derive(Debug, Default)]
pub(super) struct Drain {
    /// The queue was empty before this.
    stands_since: Option<u64>,
    /// Served, by the part of time that its index counts.
    parts: [u32; PARTS],
    /// Of the latest part.
    part: u64,
    now: u64,
    /// Milliseconds of a part.
    length: u64,
    /// The shortest wait of this interval, and of the one before.
    shortest: Option<u64>,
    shortest_before: Option<u64>,
    interval: u64,
}

/// Who wants to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    /// So many may wait.
    pub size: usize,
    pub now_ms: u64,
    /// The queue lets nobody wait for longer.
    pub timeout_ms: u64,
    /// The request can wait no longer.
    pub patience_ms: u64,
}

/// What a newcomer may expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outlook {
    Waits,
    /// It would not be served in time.
    Late,
}

impl Drain {
    /// Somebody wants to enter, and `ahead` wait.
    pub fn enters(&mut self, newcomer: &Newcomer, ahead: usize) -> Outlook {
        let &Newcomer {
            now_ms,
            timeout_ms,
            patience_ms,
            ..
        } = newcomer;
        self.advance(now_ms, timeout_ms);
        let since = match self.stands_since {
            Some(since) if ahead > 0 => since,
            _ => {
                self.restart(now_ms);
                return Outlook::Waits;
            }
        };
        if now_ms.saturating_sub(since) < timeout_ms.max(1) {
            return Outlook::Waits;
        }
        let Some(wait) = self.wait_ms(ahead) else {
            return Outlook::Waits;
        };
        let mut most = timeout_ms as f64;
        if self.is_standing(now_ms, since, timeout_ms) {
            most /= STANDING;
        }
        if wait > most.min(patience_ms as f64) {
            Outlook::Late
        } else {
            Outlook::Waits
        }
    }

    /// A waiter was served after `waited_ms`.
    pub fn serves(&mut self, now_ms: u64, waited_ms: u64) {
        self.advance(now_ms, self.length * PARTS as u64);
        let part = &mut self.parts[(self.part % PARTS as u64) as usize];
        *part = part.saturating_add(1);
        self.shortest = Some(
            self.shortest
                .map_or(waited_ms, |least| least.min(waited_ms)),
        );
    }

    /// Nobody waits any more.
    pub fn empties(&mut self) {
        self.stands_since = None;
    }

    /// Milliseconds until `ahead` that wait were served, if that is known.
    pub fn wait_ms(&self, ahead: usize) -> Option<f64> {
        let at =
            |back: u64| self.parts[((self.part + PARTS as u64 - back) % PARTS as u64) as usize];
        let latest = at(0) + at(1);
        if latest == 0 {
            // It stands still, and may go on any moment.
            return None;
        }
        let rate = |served: u32, span: u64| {
            let served = f64::from(served);
            (served + served.sqrt()) / span.max(1) as f64
        };
        // It may have gone on just now.
        let passed = self.now.saturating_sub(self.part * self.length);
        let lately = rate(latest, self.length + passed);
        let whole = self.length * PARTS as u64;
        Some(ahead as f64 / lately.max(rate(self.parts.iter().sum(), whole)))
    }

    /// Nobody got through quickly for a whole timeout.
    fn is_standing(&self, now_ms: u64, since: u64, timeout_ms: u64) -> bool {
        let target = timeout_ms / TARGET;
        let long = |shortest: Option<u64>| shortest.is_some_and(|shortest| shortest > target);
        now_ms.saturating_sub(since) >= 2 * timeout_ms
            && long(self.shortest_before)
            && self.shortest.is_none_or(|it| it > target)
    }

    fn restart(&mut self, now_ms: u64) {
        self.stands_since = Some(now_ms);
        self.parts = [0; PARTS];
        self.shortest = None;
        self.shortest_before = None;
        self.interval = now_ms;
    }

    /// Forgets what is older than a timeout.
    fn advance(&mut self, now_ms: u64, timeout_ms: u64) {
        let length = (timeout_ms / PARTS as u64).max(1);
        if length != self.length {
            // A reload changed it: what was counted means something else.
            *self = Drain {
                length,
                part: now_ms / length,
                now: now_ms,
                ..Drain::default()
            };
            return;
        }
        self.now = self.now.max(now_ms);
        let part = now_ms / length;
        let passed = part.saturating_sub(self.part).min(PARTS as u64);
        for step in 1..=passed {
            self.parts[((self.part + step) % PARTS as u64) as usize] = 0;
        }
        self.part = self.part.max(part);
        if now_ms.saturating_sub(self.interval) >= timeout_ms {
            self.interval = now_ms;
            self.shortest_before = self.shortest.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A queue of one second before a service that takes one waiter every so many milliseconds.
    struct Line {
        drain: Drain,
        waiting: VecDeque<u64>,
        now: u64,
        refused: usize,
        timed_out: usize,
        waits: Vec<u64>,
    }

    impl Line {
        fn new() -> Self {
            Line {
                drain: Drain::default(),
                waiting: VecDeque::new(),
                now: 0,
                refused: 0,
                timed_out: 0,
                waits: Vec::new(),
            }
        }

        fn arrives(&mut self) {
            let newcomer = Newcomer {
                size: 1_024,
                now_ms: self.now,
                timeout_ms: 1_000,
                patience_ms: u64::MAX,
            };
            let outlook = self.drain.enters(&newcomer, self.waiting.len());
            if outlook == Outlook::Late || self.waiting.len() >= newcomer.size {
                self.refused += 1;
            } else {
                self.waiting.push_back(self.now);
            }
        }

        fn tick(&mut self, serves: bool) {
            self.now += 1;
            while self
                .waiting
                .front()
                .is_some_and(|at| at + 1_000 <= self.now)
            {
                self.waiting.pop_front();
                self.timed_out += 1;
            }
            if serves && let Some(at) = self.waiting.pop_front() {
                self.drain.serves(self.now, self.now - at);
                self.waits.push(self.now - at);
            }
            if self.waiting.is_empty() {
                self.drain.empties();
            }
        }

        /// One served every `every` ms, `per_ms` arrive each.
        fn run(&mut self, ms: u64, every: u64, per_ms: usize) {
            for _ in 0..ms {
                (0..per_ms).for_each(|_| self.arrives());
                self.tick(self.now.is_multiple_of(every));
            }
        }

        fn forget(&mut self) {
            (self.refused, self.timed_out) = (0, 0);
            self.waits.clear();
        }
    }

    #[test]
    fn a_burst_that_fits_waits_as_it_always_did() {
        let mut line = Line::new();
        (0..1_000).for_each(|_| line.arrives());
        line.run(999, 1, 0);
        assert_eq!((line.refused, line.timed_out), (0, 0));
        assert_eq!(line.waits.len(), 999);
    }

    #[test]
    fn a_standing_queue_refuses_at_once_and_serves_sooner() {
        let mut line = Line::new();
        // 100 a second are served, 1000 come.
        line.run(5_000, 10, 1);
        line.forget();
        line.run(5_000, 10, 1);
        assert_eq!(line.timed_out, 0, "nobody waits in vain");
        assert!(
            (495..=505).contains(&line.waits.len()),
            "{}",
            line.waits.len()
        );
        let longest = line.waits.iter().max().expect("some were served");
        assert!((400..800).contains(longest), "{longest} ms");
        let shortest = line.waits.iter().min().expect("some were served");
        assert!(*shortest > 0, "the servers are never kept waiting");
    }

    #[test]
    fn when_the_load_falls_nobody_is_refused() {
        let mut line = Line::new();
        line.run(5_000, 10, 1);
        line.run(1_000, 1, 0);
        line.forget();
        for _ in 0..1_000 {
            line.run(20, 1, 0);
            (0..10).for_each(|_| line.arrives());
        }
        assert_eq!((line.refused, line.timed_out), (0, 0));
    }

    #[test]
    fn behind_a_service_that_stands_still_everybody_waits() {
        let mut line = Line::new();
        line.run(500, 10, 1);
        line.forget();
        for _ in 0..2_000 {
            if line.now.is_multiple_of(10) && line.now > 1_000 {
                line.arrives();
            }
            line.tick(false);
        }
        assert_eq!(line.refused, 0, "it may go on any moment");
        for _ in 0..500 {
            if line.now.is_multiple_of(10) {
                line.arrives();
            }
            line.tick(true);
        }
        assert_eq!(line.refused, 0, "what waits is served in no time");
    }

    #[test]
    fn a_request_with_little_time_left_does_not_stand_in_a_long_queue() {
        let mut line = Line::new();
        line.run(2_500, 10, 1);
        let ahead = line.waiting.len();
        let wait = line.drain.wait_ms(ahead).expect("a rate");
        assert!((300.0..1_100.0).contains(&wait), "{wait}");
        let mut outlook = |patience_ms| {
            let newcomer = Newcomer {
                size: 1_024,
                now_ms: line.now,
                timeout_ms: 1_000,
                patience_ms,
            };
            line.drain.enters(&newcomer, ahead.min(40))
        };
        assert_eq!(outlook(1_000), Outlook::Waits);
        assert_eq!(outlook(200), Outlook::Late);
    }

    proptest! {
        /// Whatever comes and goes: below its capacity nothing is ever refused, and nothing
        /// breaks when the clock or the timeout jumps.
        #[test]
        fn no_newcomer_is_refused_before_the_queue_stood_for_a_timeout(
            steps in prop::collection::vec((0_u64..200, 0_usize..50, any::<bool>()), 1..200),
            timeout_ms in 1_u64..5_000,
        ) {
            let mut drain = Drain::default();
            let (mut now, mut stood_since, mut waiting) = (0, None, 0_usize);
            for (passes, arrive, serves) in steps {
                now += passes;
                if serves && waiting > 0 {
                    drain.serves(now, passes);
                    waiting -= 1;
                }
                if waiting == 0 {
                    drain.empties();
                    stood_since = None;
                }
                for _ in 0..arrive {
                    let newcomer = Newcomer { size: 100, now_ms: now, timeout_ms, patience_ms: u64::MAX };
                    let outlook = drain.enters(&newcomer, waiting);
                    let stood = now - *stood_since.get_or_insert(now);
                    if outlook == Outlook::Late {
                        prop_assert!(stood >= timeout_ms, "refused after {stood} of {timeout_ms} ms");
                    } else {
                        waiting += 1;
                    }
                }
            }
        }
    }
}
