//! Which requests of a route are copied to its mirror, and how many copies may be under way.
//!
//! An exact share: of any 1,000,000 requests in a row as many as the share says, spread evenly, for
//! all workers together by one atomic counter. Random draws would do over time, but not for the
//! operator who sends a hundred requests to see whether a mirror works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::util::units::Percent;

/// What a share is a part of: it has four decimals of a percent.
const WHOLE: u64 = 1_000_000;

/// Copies that one route may have under way, over all workers: with what each may hold of a body
/// the bound of their memory, and what a dead mirror can take of descriptors.
const MOST_UNDER_WAY: u32 = 128;

/// The choice of one route.
#[derive(Debug)]
pub struct Sampler {
    /// Of [`WHOLE`].
    share: u64,
    next: AtomicU64,
    under_way: Arc<AtomicU32>,
}

/// The place of one copy under way, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicU32>);

impl Sampler {
    /// It goes on where `before`, which had the same share, is; copies under way stay counted.
    pub fn new(percent: Percent, before: Option<&Sampler>) -> Self {
        let share = (percent.fraction() * WHOLE as f64).round() as u64;
        let next = before
            .filter(|before| before.share == share)
            .map_or(0, |before| before.next.load(Ordering::Relaxed));
        Sampler {
            share,
            next: AtomicU64::new(next),
            under_way: before.map_or_else(Arc::default, |before| before.under_way.clone()),
        }
    }

    /// Whether the next request is copied.
    pub fn turn(&self) -> bool {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % WHOLE;
        let before = |turn: u64| (turn * self.share).div_ceil(WHOLE);
        before(turn + 1) > before(turn)
    }

    /// `None` where too many are under way.
    pub fn enter(&self) -> Option<Place> {
        let more = |count: u32| (count < MOST_UNDER_WAY).then_some(count + 1);
        // Relaxed: the count orders nothing.
        self.under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Place(self.under_way.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(percent: &str, before: Option<&Sampler>) -> Sampler {
        Sampler::new(percent.parse().unwrap(), before)
    }

    fn turns(sampler: &Sampler, requests: usize) -> usize {
        (0..requests).filter(|_| sampler.turn()).count()
    }

    #[test]
    fn shares_are_exact_and_even_from_the_first_request_on() {
        for (percent, per_thousand) in [("0%", 0), ("0.1%", 1), ("12.5%", 125), ("100%", 1000)] {
            let sampler = sampler(percent, None);
            for _ in 0..5 {
                assert_eq!(turns(&sampler, 1000), per_thousand, "{percent}");
            }
        }
        let quarter = sampler("25%", None);
        let first: Vec<bool> = (0..8).map(|_| quarter.turn()).collect();
        assert_eq!(first, [true, false, false, false].repeat(2));
        let smallest = sampler("0.0001%", None);
        assert_eq!(turns(&smallest, 2_000_000), 2);
    }

    #[test]
    fn a_reload_between_any_two_requests_changes_no_share() {
        let mut one = sampler("5%", None);
        let mut copied = 0;
        for _ in 0..1_000 {
            copied += usize::from(one.turn());
            one = sampler("5%", Some(&one));
        }
        assert_eq!(copied, 50);
        assert_eq!(turns(&sampler("100%", Some(&one)), 3), 3);
    }

    #[test]
    fn copies_under_way_are_bounded_over_a_reload() {
        let first = sampler("100%", None);
        let mut places: Vec<Place> = (0..100).map(|_| first.enter().unwrap()).collect();
        let second = sampler("1%", Some(&first));
        places.extend((0..28).map(|_| second.enter().unwrap()));
        assert!(second.enter().is_none() && first.enter().is_none());
        places.pop();
        assert!(second.enter().is_some());
    }
}
