//! How many servers of an upstream may be ejected at once: `max-ejected` over all workers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::util::units::Percent;

/// The limit in the high half, the places taken in the low half: a claim is one atomic step.
///
/// Breakers claim and give back from any worker; the control task sets the limit.
#[derive(Debug)]
pub struct Places(AtomicU64);

impl Places {
    /// How many may be ejected of `servers`, those with weight that are neither draining nor
    /// backup: rounded down, at least one, so that an upstream with one server may always open.
    pub fn limit(servers: usize, max_ejected: Percent) -> u32 {
        // 0.29 * 100 is 28.999999999999996.
        let share = (servers as f64 * max_ejected.fraction() + 1e-9).floor();
        (share as u32).max(1)
    }

    pub fn new(limit: u32) -> Self {
        Places(AtomicU64::new(u64::from(limit) << 32))
    }

    /// After a change of servers, weights or settings; who is ejected already stays so.
    pub fn set_limit(&self, limit: u32) {
        self.update(|_, taken| Some((limit, taken)));
    }

    /// Ejected now.
    pub fn taken(&self) -> u32 {
        self.0.load(Ordering::SeqCst) as u32
    }

    pub(super) fn claim(&self) -> bool {
        self.update(|limit, taken| (taken < limit).then(|| (limit, taken + 1)))
    }

    /// Takes a place even over the limit, for a server that is ejected already.
    pub(super) fn take_over(&self) {
        self.update(|limit, taken| Some((limit, taken.saturating_add(1))));
    }

    pub(super) fn give_back(&self) {
        self.update(|limit, taken| Some((limit, taken.saturating_sub(1))));
    }

    fn update(&self, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> bool {
        let changed = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |bits| {
                let (limit, taken) = change((bits >> 32) as u32, bits as u32)?;
                Some((u64::from(limit) << 32) | u64::from(taken))
            });
        changed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_rounds_down_but_is_at_least_one() {
        let half = Percent::from_fraction(0.5);
        let limits: Vec<u32> = (0..=7)
            .map(|servers| Places::limit(servers, half))
            .collect();
        assert_eq!(limits, [1, 1, 1, 1, 2, 2, 3, 3]);
        assert_eq!(Places::limit(10, Percent::from_fraction(0.0)), 1);
        assert_eq!(Places::limit(100, Percent::from_fraction(0.29)), 29);
        assert_eq!(Places::limit(3, Percent::from_fraction(1.0)), 3);
    }

    #[test]
    fn racing_claims_never_exceed_the_limit() {
        let places = Places::new(5);
        let claimed: usize = std::thread::scope(|scope| {
            let claims: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| (0..100).filter(|_| places.claim()).count()))
                .collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).sum()
        });
        assert_eq!((claimed, places.taken()), (5, 5));
    }

    #[test]
    fn a_lower_limit_takes_nothing_away() {
        let places = Places::new(2);
        assert!(places.claim() && places.claim());
        places.set_limit(1);
        assert_eq!(places.taken(), 2);
        places.give_back();
        assert!(!places.claim(), "one is still the limit");
    }
}
