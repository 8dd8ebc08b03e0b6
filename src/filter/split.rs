//! Which upstream of a `split` takes a request.
//!
//! Each request alone: the order of smooth weighted round robin over the upstreams, for all workers
//! together by one atomic counter, so that shares are exact over time and never come in bursts. By
//! a key: a place on a line that is divided by the weights, so that the same key goes the same way
//! until the weights change, and then as few as may be change sides.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::balance;
use crate::config::model::{Destination, SplitKey};

#[derive(Debug)]
pub struct Split {
    pub by: SplitKey,
    /// Positions of the destinations; one period.
    order: Box<[u16]>,
    next: AtomicUsize,
    /// Where on the line each destination ends.
    ends: Box<[u64]>,
}

impl Split {
    /// `None` where there is nothing to choose. It goes on where `before`, which was as it, is.
    pub fn new(to: &[Destination], by: &SplitKey, before: Option<&Split>) -> Option<Split> {
        if to.len() < 2 {
            return None;
        }
        let (positions, weights): (Vec<u16>, Vec<u32>) = (0..)
            .zip(to)
            .filter(|(_, to)| to.weight > 0)
            .map(|(position, to)| (position, to.weight))
            .unzip();
        let order: Box<[u16]> = balance::smooth_order(&weights)
            .into_iter()
            .map(|index| positions[index as usize])
            .collect();
        let ends = to
            .iter()
            .scan(0, |end, to| {
                *end += u64::from(to.weight);
                Some(*end)
            })
            .collect();
        let next = before
            .filter(|before| before.order == order)
            .map_or(0, |before| before.next.load(Ordering::Relaxed));
        Some(Split {
            by: by.clone(),
            order,
            next: AtomicUsize::new(next),
            ends,
        })
    }

    /// Whose turn it is.
    pub fn turn(&self) -> u16 {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match self.order.len() {
            0 => 0,
            length => self.order[turn % length],
        }
    }

    /// Whose `key` is.
    pub fn of_key(&self, key: &[u8]) -> u16 {
        let all = self.ends.last().copied().unwrap_or_default();
        // Mixed once more: what goes to one upstream must not be what its own hash takes for alike.
        let hash = balance::hash_key(&balance::hash_key(key).to_le_bytes());
        let place = (u128::from(hash) * u128::from(all)) >> 64;
        self.ends.partition_point(|&end| u128::from(end) <= place) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::routes::fixtures;

    fn split(weights: &[u32], before: Option<&Split>) -> Split {
        let to: Vec<Destination> = weights
            .iter()
            .map(|&weight| Destination {
                weight,
                ..fixtures::destination()
            })
            .collect();
        Split::new(&to, &SplitKey::Request, before).unwrap()
    }

    fn counts(split: &Split, turns: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        (0..turns).for_each(|_| counts[split.turn() as usize] += 1);
        counts
    }

    #[test]
    fn shares_are_exact_and_even() {
        let ninety_five = split(&[95, 5], None);
        for _ in 0..5 {
            assert_eq!(counts(&ninety_five, 100), [95, 5, 0]);
        }
        for _ in 0..5 {
            assert_eq!(counts(&ninety_five, 20), [19, 1, 0], "no bursts");
        }
        assert_eq!(counts(&split(&[1, 0, 2], None), 300), [100, 0, 200]);
        assert_eq!(counts(&split(&[0, 7], None), 10), [0, 10, 0]);
    }

    #[test]
    fn a_reload_between_any_two_requests_changes_no_share() {
        let mut one = split(&[95, 5], None);
        let mut counts = [0; 2];
        for _ in 0..1_000 {
            counts[one.turn() as usize] += 1;
            one = split(&[95, 5], Some(&one));
        }
        assert_eq!(counts, [950, 50]);
    }

    #[test]
    fn a_key_stays_and_shares_are_about_right() {
        let (old, new) = (split(&[95, 5], None), split(&[90, 10], None));
        let keys = (0..20_000_u32).map(|key| key.to_string());
        let (mut second, mut moved) = (0, 0);
        for key in keys {
            let side = old.of_key(key.as_bytes());
            assert_eq!(side, split(&[95, 5], Some(&new)).of_key(key.as_bytes()));
            second += usize::from(side == 1);
            let after = new.of_key(key.as_bytes());
            moved += usize::from(after != side);
            assert!(side == 0 || after == 1, "nobody goes back");
        }
        assert!((800..1_200).contains(&second), "{second}");
        assert!((800..1_200).contains(&moved), "{moved}");
        let without = split(&[1, 0, 1], None);
        assert!((0..1_000_u32).all(|key| without.of_key(&key.to_le_bytes()) != 1));
    }

    #[test]
    fn threads_share_one_order() {
        let one = split(&[3, 1], None);
        let second: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| counts(&one, 1_000)[1]))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(second, 1_000);
    }
}
