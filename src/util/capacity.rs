//! What the process as a whole may hold, and each of its listeners, and how near it is to that.
//!
//! Two limits: connections of clients (`max-connections`), and resident memory (`memory-limit`, of the
//! process only). A connection takes its [`Place`] before it is accepted and gives it back when its
//! descriptor is closed: one number for all workers, so that the count is exact. Memory is measured by
//! control ([`super::memory`]), which leaves its verdict here.
//!
//! From nine tenths of either on, workers look for connections that nobody needs
//! ([`Capacity::excess`], [`super::timer::Timers::candidates`]) and agree on who goes ([`Census`]);
//! below that nobody looks at anything but one number per sweep.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::census::Census;

/// In case that room was made between the last look and the wait for it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How much memory there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    Enough,
    /// From nine tenths of the limit on.
    Near,
    /// Nothing new is taken in.
    Over,
}

/// See the module. All numbers are written by whoever they are of and read by everybody; only `open`
/// decides something, by itself, so relaxed is enough.
#[derive(Debug, Default)]
pub struct Capacity {
    open: Alone,
    most: AtomicUsize,
    /// Bytes per second; 0 is none.
    min_rate: AtomicU64,
    memory: AtomicU8,
    /// Somebody waits for a place. Only saves the wake-up where nobody does.
    awaited: AtomicBool,
    room: Notify,
    /// All places were taken, and it is not much better yet.
    crowded: AtomicBool,
    /// Connections refused and requests shed, ever.
    refused: AtomicU64,
    shed: AtomicU64,
    census: Census,
}

/// On a cache line of its own: written for every connection.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone(AtomicUsize);

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place<'a>(&'a Capacity);

impl Place<'_> {
    /// Whoever keeps it gives it back by [`Capacity::leave`].
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// Connections that should go.
    pub connections: usize,
    /// Newcomers are kept out.
    pub full: bool,
    /// Bytes per second below which a head or a body is slow; 0: none is.
    pub min_rate: u64,
}

impl Capacity {
    /// Takes up what a configuration says.
    pub fn set(&self, most: usize, min_rate: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.min_rate.store(min_rate, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    pub fn open(&self) -> usize {
        self.open.0.load(Ordering::Relaxed)
    }

    /// The most connections at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Bytes per second; 0 is none.
    pub fn min_rate(&self) -> u64 {
        self.min_rate.load(Ordering::Relaxed)
    }

    /// A place for one more connection.
    pub fn place(&self) -> Option<Place<'_>> {
        let most = self.most();
        let one_more = |open| (open < most).then_some(open + 1);
        let open = &self.open.0;
        // Nothing is taken and given back where there is none: that would look like room to all
        // that wait, and each that looks would wake the others for ever.
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| Place(self))
    }

    /// Nobody would get one now.
    pub fn is_full(&self) -> bool {
        self.open() >= self.most()
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.open.0.fetch_sub(1, Ordering::Relaxed);
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::Relaxed) {
            self.room.notify_waiters();
        }
    }

    /// Returns when there may be a place.
    pub async fn room(&self) {
        // Listens from before the look on, which is what makes a miss rare.
        let left = self.room.notified();
        self.awaited.store(true, Ordering::Relaxed);
        if self.is_full() {
            let _ = tokio::time::timeout(LOOK_AGAIN, left).await;
        }
    }

    /// Returns when a place was given back, or it is time to look again.
    pub async fn left(&self, patience: Duration) {
        let left = self.room.notified();
        self.awaited.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(patience, left).await;
    }

    /// The first word about a time in which all places are taken is the caller's.
    pub fn crowds(&self) -> bool {
        !self.crowded.load(Ordering::Relaxed) && !self.crowded.swap(true, Ordering::Relaxed)
    }

    /// True once, when that is over: there is room again for one connection in ten.
    pub fn is_relaxed(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
            && self.open() < threshold(self.most())
            && self.crowded.swap(false, Ordering::Relaxed)
    }

    /// Between the two.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections refused and requests shed, ever.
    pub fn turned_away(&self) -> (u64, u64) {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        (value(&self.refused), value(&self.shed))
    }

    pub fn set_memory(&self, memory: Memory) {
        self.memory.store(memory as u8, Ordering::Relaxed);
    }

    /// No memory for anything new.
    #[inline]
    pub fn lacks_memory(&self) -> bool {
        self.memory.load(Ordering::Relaxed) == Memory::Over as u8
    }

    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Where either limit is near.
    pub fn excess(&self) -> Option<Excess> {
        let (open, threshold) = (self.open(), threshold(self.most()));
        let mut connections = (open + 1).saturating_sub(threshold);
        if self.memory.load(Ordering::Relaxed) >= Memory::Near as u8 {
            // What a connection holds is not known: a few at a time, until it was enough.
            connections = connections.max(open / 16 + 1);
        }
        (connections > 0 && open > 0).then(|| Excess {
            connections,
            full: open >= self.most() || self.lacks_memory(),
            min_rate: self.min_rate(),
        })
    }
}

/// Nine tenths.
fn threshold(most: usize) -> usize {
    most - most / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_exactly_and_come_back() {
        let capacity = Capacity::default();
        capacity.set(2, 240);
        let first = capacity.place().expect("of two");
        let second = capacity.place().expect("of two");
        assert!(capacity.place().is_none());
        assert_eq!(capacity.open(), 2, "a refusal counts nothing");
        drop(first);
        assert!(capacity.place().is_some());
        second.keep();
        assert_eq!(capacity.open(), 1);
        capacity.leave();
        assert_eq!(capacity.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_do_not_wake_each_other() {
        let capacity = Capacity::default();
        capacity.set(1, 240);
        capacity.place().expect("the only one").keep();
        let looks = AtomicUsize::new(0);
        let waits = || async {
            while capacity.place().is_none() {
                looks.fetch_add(1, Ordering::Relaxed);
                assert!(looks.load(Ordering::Relaxed) < 1_000, "they go round");
                capacity.room().await;
            }
        };
        let second = Duration::from_secs(1);
        let all = async { tokio::join!(waits(), waits(), waits()) };
        assert!(tokio::time::timeout(second, all).await.is_err());
        assert!(looks.load(Ordering::Relaxed) <= 33, "{looks:?}");
    }

    #[test]
    fn from_nine_tenths_on_there_is_too_much() {
        let capacity = Capacity::default();
        capacity.set(100, 240);
        let too_many = |capacity: &Capacity| capacity.excess().map(|excess| excess.connections);
        for _ in 0..89 {
            capacity.place().expect("of 100").keep();
        }
        assert_eq!(too_many(&capacity), None);
        capacity.place().expect("of 100").keep();
        assert_eq!(too_many(&capacity), Some(1), "one less is under 90%");
        capacity.set(1000, 240);
        assert_eq!(too_many(&capacity), None, "a reload makes room");
        capacity.set_memory(Memory::Near);
        assert_eq!(too_many(&capacity), Some(6));
    }

    #[test]
    fn an_episode_is_told_of_once() {
        let capacity = Capacity::default();
        capacity.set(10, 240);
        for _ in 0..10 {
            capacity.place().expect("of 10").keep();
        }
        assert!(capacity.crowds() && !capacity.crowds());
        capacity.leave();
        assert!(!capacity.is_relaxed(), "nine of ten are near still");
        capacity.leave();
        assert!(capacity.is_relaxed() && !capacity.is_relaxed());
    }
}
