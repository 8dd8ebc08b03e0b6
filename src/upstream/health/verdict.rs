//! Results of checks in, verdict out: rise and fall, and what holds before the first result.
//!
//! Pure: no clock, no settings kept. A run counts results in a row that speak against the
//! verdict; whoever reaches `fall` (or `rise`) turns it over, anything else starts the run anew.

/// What the checks say about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No result yet, usable: at process start, and in an upstream that is new as a whole.
    Untested,
    /// No result yet, not usable: added next to others by a reload or discovery. One pass is
    /// enough; after a failure it takes `rise`.
    Waiting,
    Healthy,
    Unhealthy,
}

impl Standing {
    /// The server may be used, as far as checks are concerned.
    pub fn usable(self) -> bool {
        matches!(self, Standing::Untested | Standing::Healthy)
    }
}

/// The verdict on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    standing: Standing,
    /// Results in a row against the standing.
    run: u32,
}

impl Verdict {
    pub fn new(standing: Standing) -> Self {
        Verdict { standing, run: 0 }
    }

    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Takes in one result; true when it changed the standing. `rise` and `fall` may differ from
    /// call to call (reload) and count as at least 1.
    pub fn record(&mut self, passed: bool, rise: u32, fall: u32) -> bool {
        let before = self.standing;
        let turned = match (self.standing, passed) {
            (Standing::Untested | Standing::Waiting, true) => Some(Standing::Healthy),
            (Standing::Untested | Standing::Waiting, false) => Some(Standing::Unhealthy),
            (Standing::Healthy, true) | (Standing::Unhealthy, false) => {
                self.run = 0;
                None
            }
            (Standing::Healthy, false) => self.count_to(fall, Standing::Unhealthy),
            (Standing::Unhealthy, true) => self.count_to(rise, Standing::Healthy),
        };
        if let Some(standing) = turned {
            self.standing = standing;
            self.run = 0;
        }
        self.standing != before
    }

    fn count_to(&mut self, needed: u32, then: Standing) -> Option<Standing> {
        self.run = self.run.saturating_add(1);
        (self.run >= needed).then_some(then)
    }

    /// Nothing is under way: there is a result, and no run against it has begun.
    pub fn is_settled(&self) -> bool {
        matches!(self.standing, Standing::Healthy | Standing::Unhealthy) && self.run == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(standing: Standing, results: &[bool]) -> Standing {
        let mut verdict = Verdict::new(standing);
        for result in results {
            verdict.record(*result, 2, 3);
        }
        verdict.standing()
    }

    #[test]
    fn an_untested_server_is_usable_until_its_first_result() {
        assert!(Standing::Untested.usable());
        assert_eq!(after(Standing::Untested, &[true]), Standing::Healthy);
        assert_eq!(after(Standing::Untested, &[false]), Standing::Unhealthy);
    }

    #[test]
    fn an_added_server_waits_for_one_pass() {
        assert!(!Standing::Waiting.usable());
        assert_eq!(after(Standing::Waiting, &[true]), Standing::Healthy);
    }

    #[test]
    fn an_added_server_that_failed_needs_rise() {
        assert_eq!(
            after(Standing::Waiting, &[false, true]),
            Standing::Unhealthy
        );
        assert_eq!(
            after(Standing::Waiting, &[false, true, true]),
            Standing::Healthy
        );
    }

    #[test]
    fn fall_failures_in_a_row_take_a_server_out() {
        assert_eq!(after(Standing::Healthy, &[false, false]), Standing::Healthy);
        assert_eq!(
            after(Standing::Healthy, &[false, false, true, false, false]),
            Standing::Healthy
        );
        assert_eq!(
            after(Standing::Healthy, &[false, false, false]),
            Standing::Unhealthy
        );
    }

    #[test]
    fn rise_passes_in_a_row_bring_it_back() {
        assert_eq!(after(Standing::Unhealthy, &[true]), Standing::Unhealthy);
        assert_eq!(
            after(Standing::Unhealthy, &[true, false, true]),
            Standing::Unhealthy
        );
        assert_eq!(after(Standing::Unhealthy, &[true, true]), Standing::Healthy);
    }

    #[test]
    fn a_run_against_the_standing_is_not_settled() {
        let mut verdict = Verdict::new(Standing::Healthy);
        assert!(verdict.is_settled());
        verdict.record(false, 2, 3);
        assert!(!verdict.is_settled());
        verdict.record(true, 2, 3);
        assert!(verdict.is_settled());
        assert!(!Verdict::new(Standing::Waiting).is_settled());
    }

    proptest! {
        #[test]
        fn the_standing_turns_exactly_after_rise_or_fall_in_a_row(
            results in prop::collection::vec(any::<bool>(), 0..200),
            rise in 1u32..5,
            fall in 1u32..5,
        ) {
            let mut verdict = Verdict::new(Standing::Healthy);
            let mut healthy = true;
            for (index, passed) in results.iter().enumerate() {
                let changed = verdict.record(*passed, rise, fall);
                let needed = if healthy { fall } else { rise } as usize;
                let seen = &results[..=index];
                let in_a_row = seen.iter().rev().take_while(|result| **result != healthy).count();
                let turns = in_a_row >= needed;
                prop_assert_eq!(changed, turns);
                healthy ^= turns;
                prop_assert_eq!(verdict.standing().usable(), healthy);
            }
        }
    }
}
