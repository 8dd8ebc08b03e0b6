//! Who goes first, where each worker sees only its own connections.
//!
//! Letting each worker close its share of what is too much would close young connections of one
//! while another keeps old ones. So each says how many it could let go of, by [`Class`], and all of
//! them read the same list: those of the first classes go, whoever has them, until it is enough. Ages
//! are told to an eighth, so that is by how much one that stays may be older than one that goes;
//! within a worker the order is exact.
//!
//! Workers look one after the other, four times a second, and each decides about its own only. A
//! list is used once all have written theirs, or [`PATIENCE`] after the first did: one that is busy
//! keeps nobody from acting. Whatever was miscounted meanwhile is seen by the next look: it may let go
//! of too few, never of more than are too many now.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a worker's word is taken for true, without a newer one.
const FRESH: Duration = Duration::from_secs(1);
/// For all workers to say theirs.
const PATIENCE: Duration = Duration::from_millis(500);
/// For connections that were let go of to be gone.
const GONE: Duration = Duration::from_millis(50);

/// Connections that go together, as far as the order between workers goes: the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(u16);

/// More than an age can have.
const AGES: u16 = 240;

impl Class {
    /// Has had its last answer.
    pub const OVER: Class = Class(0);

    /// Has never asked for anything, for so long.
    pub fn first(age: Duration) -> Self {
        Class(AGES - bucket(age))
    }

    /// Has nothing to do, for so long.
    pub fn idle(age: Duration) -> Self {
        Class(2 * AGES - bucket(age))
    }

    /// Has moved so many bytes since it was looked at first.
    pub fn slow(moved: u32) -> Self {
        Class(2 * AGES + 1 + moved.checked_ilog2().map_or(0, |log| log as u16 + 1))
    }
}

/// Eight for each doubling, in milliseconds.
fn bucket(age: Duration) -> u16 {
    let millis = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
    match millis {
        0..8 => millis as u16,
        _ => {
            let octave = millis.ilog2();
            (octave as u16 - 2) * 8 + (millis >> (octave - 3) & 7) as u16
        }
    }
}

/// What one worker could let go of.
#[derive(Debug, Default)]
pub struct Count {
    /// How many of each class, those that go first first.
    pub classes: Vec<(Class, usize)>,
    /// Those that go already.
    pub going: usize,
}

/// The counts of all workers. Locked by each of them a few times a second, and only where there is
/// too much of something.
#[derive(Debug, Default)]
pub struct Census(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    /// When the first worker wrote, after a time in which nobody did.
    begun: Option<Instant>,
    of: Vec<Option<List>>,
}

#[derive(Debug)]
struct List {
    at: Instant,
    count: Count,
    /// Let go of since, and not counted in `count` any more.
    let_go: usize,
}

impl List {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < FRESH
    }

    fn going(&self, now: Instant) -> usize {
        let let_go = match now.saturating_duration_since(self.at) < GONE {
            true => self.let_go,
            false => 0,
        };
        self.count.going + let_go
    }
}

impl Census {
    /// How many `worker`, of `workers`, lets go of, the first in the order of its `count`, where
    /// `excess` are too many. It is held to that.
    pub fn share(
        &self,
        now: Instant,
        (worker, workers): (usize, usize),
        count: Count,
        excess: usize,
    ) -> usize {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.of.resize_with(workers, || None);
        lists.write(now, worker, count);
        if !lists.are_complete(now) {
            return 0;
        }
        let mine = lists.share(now, worker, excess);
        if let Some(list) = &mut lists.of[worker] {
            list.let_go = mine;
            list.count.take(mine);
        }
        mine
    }
}

impl Lists {
    fn write(&mut self, now: Instant, worker: usize, count: Count) {
        if !self.of.iter().flatten().any(|list| list.is_fresh(now)) {
            self.begun = Some(now);
        }
        self.of[worker] = Some(List {
            at: now,
            count,
            let_go: 0,
        });
    }

    fn are_complete(&self, now: Instant) -> bool {
        let fresh = |list: &Option<List>| list.as_ref().is_some_and(|list| list.is_fresh(now));
        let waited = |begun| now.saturating_duration_since(begun) >= PATIENCE;
        self.of.iter().all(fresh) || self.begun.is_some_and(waited)
    }

    fn share(&self, now: Instant, worker: usize, excess: usize) -> usize {
        let lists = || self.of.iter().enumerate();
        let fresh = lists().filter_map(|(of, list)| {
            let list = list.as_ref().filter(|list| list.is_fresh(now))?;
            Some((of, list))
        });
        let mut left = excess;
        let mut all = Vec::new();
        for (of, list) in fresh {
            left = left.saturating_sub(list.going(now));
            all.extend(
                list.count
                    .classes
                    .iter()
                    .map(|&(class, count)| (class, of, count)),
            );
        }
        all.sort_unstable();
        let mut mine = 0;
        for (_, of, count) in all {
            let count = count.min(left);
            left -= count;
            if of == worker {
                mine += count;
            }
        }
        mine
    }
}

impl Count {
    fn take(&mut self, mut count: usize) {
        for (_, of_class) in &mut self.classes {
            let taken = count.min(*of_class);
            *of_class -= taken;
            count -= taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn idle(ages: &[u64]) -> Count {
        Count {
            classes: ages
                .iter()
                .map(|age| (Class::idle(Duration::from_secs(*age)), 1))
                .collect(),
            going: 0,
        }
    }

    #[test]
    fn the_older_come_first_and_never_asked_before_idle_before_slow() {
        let mut ages: Vec<_> = (0..40).map(|log| Duration::from_millis(1 << log)).collect();
        ages.push(Duration::MAX);
        for pair in ages.windows(2) {
            assert!(Class::idle(pair[1]) <= Class::idle(pair[0]), "{pair:?}");
            assert!(Class::first(pair[1]) <= Class::first(pair[0]), "{pair:?}");
        }
        assert!(Class::first(Duration::ZERO) < Class::idle(Duration::MAX));
        assert!(Class::idle(Duration::ZERO) < Class::slow(0));
        assert!(Class::slow(0) < Class::slow(1) && Class::slow(9) < Class::slow(u32::MAX));
    }

    #[test]
    fn ages_of_one_class_differ_by_an_eighth() {
        let mut begin = 8;
        for millis in 8..100_000_u64 {
            let class = |millis| bucket(Duration::from_millis(millis));
            assert!(class(millis) >= class(millis - 1), "{millis}");
            if class(millis) > class(millis - 1) {
                begin = millis;
            }
            assert!(
                millis - begin <= begin / 8,
                "{begin} and {millis} are alike"
            );
        }
    }

    #[test]
    fn the_oldest_of_all_workers_go_whoever_has_them() {
        let (census, now) = (Census::default(), Instant::now());
        assert_eq!(
            census.share(now, (0, 2), idle(&[9, 3, 2]), 3),
            0,
            "not alone"
        );
        assert_eq!(census.share(now, (1, 2), idle(&[40, 20, 1]), 3), 2);
        assert_eq!(census.share(now, (0, 2), idle(&[9, 3, 2]), 3), 1);
        assert_eq!(census.share(now, (1, 2), idle(&[1]), 1), 0, "one goes");
        let now = now + GONE;
        assert_eq!(census.share(now, (1, 2), idle(&[1]), 1), 0, "3 is older");
        assert_eq!(census.share(now, (0, 2), idle(&[3, 2]), 1), 1);
    }

    #[test]
    fn within_a_class_no_more_go_than_it_takes() {
        let (census, now) = (Census::default(), Instant::now());
        let each = || idle(&[5, 5, 5]);
        for worker in 0..4 {
            census.share(now, (worker, 4), each(), 0);
        }
        let shares: Vec<_> = (0..4)
            .map(|worker| census.share(now, (worker, 4), each(), 7))
            .collect();
        // Each is as if the others had not gone yet, but those of them that are going count.
        assert!(shares.iter().sum::<usize>() <= 7, "{shares:?}");
        assert_eq!(shares[0], 3);
    }

    #[test]
    fn one_that_says_nothing_keeps_nobody_from_acting() {
        let (census, now) = (Census::default(), Instant::now());
        assert_eq!(census.share(now, (0, 2), idle(&[9]), 1), 0);
        assert_eq!(census.share(now + SECOND / 4, (0, 2), idle(&[9]), 1), 0);
        assert_eq!(census.share(now + SECOND / 2, (0, 2), idle(&[9]), 1), 1);
        let now = now + 60 * SECOND;
        assert_eq!(
            census.share(now, (0, 2), idle(&[9]), 1),
            0,
            "it begins anew"
        );
    }

    #[test]
    fn a_lone_worker_acts_at_once() {
        let (census, now) = (Census::default(), Instant::now());
        assert_eq!(census.share(now, (0, 1), idle(&[9, 8]), 5), 2);
        let mut count = idle(&[9, 8]);
        count.going = 4;
        assert_eq!(census.share(now, (0, 1), count, 5), 1);
    }
}
