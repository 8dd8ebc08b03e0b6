//! How much work at servers one connection may cause.
//!
//! A stream that its client resets is closed at once and another may be opened, but the server
//! behind us may still be working on it (CVE-2023-44487, CVE-2025-8671). So what was given up a
//! moment ago still counts against `max-concurrent-streams`, and the next request waits.

use std::time::Duration;

use tokio::time::Instant;

use crate::util::clock;

/// How long a request that was given up may keep its server busy.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

pub(super) struct Pace {
    most: usize,
    running: usize,
    /// Given up in this moment and in the one before.
    given_up: (usize, usize),
    since: Instant,
}

impl Pace {
    pub(super) fn new(most: u32) -> Self {
        Pace {
            most: most as usize,
            running: 0,
            given_up: (0, 0),
            since: clock::now(),
        }
    }

    /// Whether one more may begin; counts it if so.
    pub(super) fn begin(&mut self) -> bool {
        self.turn();
        let (now, before) = self.given_up;
        if self.running + now + before >= self.most {
            return false;
        }
        self.running += 1;
        true
    }

    /// One has ended, by its answer or by being given up.
    pub(super) fn end(&mut self, given_up: bool) {
        self.running -= 1;
        if given_up {
            self.turn();
            self.given_up.0 += 1;
        }
    }

    fn turn(&mut self) {
        if self.given_up == (0, 0) {
            // Nothing to forget: the moment begins with the next one.
            self.since = clock::now();
            return;
        }
        let passed = clock::now().saturating_duration_since(self.since);
        if passed >= 2 * MOMENT {
            self.given_up = (0, 0);
            self.since = clock::now();
        } else if passed >= MOMENT {
            self.given_up = (0, self.given_up.0);
            self.since += MOMENT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_counts_for_a_moment() {
        let mut pace = Pace::new(2);
        assert!(pace.begin() && pace.begin() && !pace.begin());
        pace.end(false);
        assert!(
            pace.begin() && !pace.begin(),
            "an answer makes room at once"
        );
        pace.end(true);
        assert!(!pace.begin());
        tokio::time::advance(MOMENT).await;
        assert!(!pace.begin());
        tokio::time::advance(MOMENT).await;
        assert!(pace.begin() && !pace.begin());
    }
}
