//! Counters that no two workers share.
//!
//! A contended atomic costs as much as parsing a header, and a request touches a dozen. So each
//! worker owns one shard of every metric and updates it with a plain load and store: it is the only
//! writer, the scrape only reads, and `Relaxed` is enough because no reader draws conclusions from
//! the order of two counters. Threads that are no worker share shard 0 and use atomic additions.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

thread_local! {
    /// 0: not a worker.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Makes this thread the only writer of the shards of worker `index` (from 0) in the metrics of its
/// process. To be called once, before the thread counts anything; two threads that count into the
/// same [`Metrics`](super::Metrics) must never give the same index.
pub fn enter_worker(index: usize) {
    CURRENT.set(index + 1);
}

/// One `T` per worker and one for everybody else, on cache lines of their own. Made when something
/// is counted first: a route without traffic costs no memory per worker.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    workers: usize,
    shards: OnceLock<Box<[Padded<T>]>>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Padded<T>(T);

/// Proof of who may write how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// This thread is the only writer.
    Owned,
    Shared,
}

impl<T: Default> Sharded<T> {
    pub fn new(workers: usize) -> Self {
        Sharded {
            workers,
            shards: OnceLock::new(),
        }
    }

    /// This thread's shard.
    pub fn local(&self) -> (&T, Access) {
        let make = || (0..=self.workers).map(|_| Padded(T::default())).collect();
        let shards = self.shards.get_or_init(make);
        let current = CURRENT.get();
        match shards.get(current) {
            Some(shard) if current > 0 => (&shard.0, Access::Owned),
            _ => (&shards[0].0, Access::Shared),
        }
    }

    /// Of all workers; nothing where nothing was counted.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards
            .get()
            .into_iter()
            .flatten()
            .map(|shard| &shard.0)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Cell64(AtomicU64);

impl Cell64 {
    pub fn add(&self, n: u64, access: Access) {
        match access {
            Access::Owned => {
                let next = self.0.load(Ordering::Relaxed).wrapping_add(n);
                self.0.store(next, Ordering::Relaxed);
            }
            Access::Shared => {
                self.0.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Counter(Sharded<Cell64>);

impl Counter {
    pub fn new(workers: usize) -> Self {
        Counter(Sharded::new(workers))
    }

    pub fn add(&self, n: u64) {
        let (cell, access) = self.0.local();
        cell.add(n, access);
    }

    pub fn value(&self) -> u64 {
        self.0.iter().map(Cell64::value).sum()
    }
}

/// A number that goes up and down; a shard alone may be negative, the sum is not.
#[derive(Debug, Default)]
pub(super) struct Level(AtomicI64);

impl Level {
    pub fn add(&self, n: i64, access: Access) {
        match access {
            Access::Owned => {
                let next = self.0.load(Ordering::Relaxed).wrapping_add(n);
                self.0.store(next, Ordering::Relaxed);
            }
            Access::Shared => {
                self.0.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_is_lost_between_workers_and_other_threads() {
        let counter = Arc::new(Counter::new(2));
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let counter = counter.clone();
                std::thread::spawn(move || {
                    // Two workers; the third index has no shard and the rest are no workers.
                    if thread < 3 {
                        enter_worker(thread);
                    }
                    for _ in 0..10_000 {
                        counter.add(1);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a counting thread does not panic");
        }
        assert_eq!(counter.value(), 60_000);
    }
}
