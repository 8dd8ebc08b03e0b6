//! Counters by a small key that is known only when it first occurs (method and status, say).
//!
//! An append-only table per worker: a few keys next to each other, further chunks behind. One or
//! two entries take nearly all hits, so a scan beats hashing, and nothing is ever moved: readers
//! need no lock.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shard::{Access, Cell64, Sharded};

const CHUNK: usize = 8;

/// Counters by non-zero key.
#[derive(Debug)]
pub(super) struct Table(Sharded<Chunk>);

#[derive(Debug, Default)]
struct Chunk {
    /// 0 is free; a key never changes once set.
    keys: [AtomicU64; CHUNK],
    counts: [Cell64; CHUNK],
    next: OnceLock<Box<Chunk>>,
}

impl Table {
    pub fn new(workers: usize) -> Self {
        Table(Sharded::new(workers))
    }

    pub fn add(&self, key: u64, n: u64) {
        let (chunk, access) = self.0.local();
        let mut chunk = chunk;
        while !chunk.add(key, n, access) {
            chunk = chunk.next.get_or_init(Box::default);
        }
    }

    /// Sums over all workers.
    pub fn totals(&self) -> BTreeMap<u64, u64> {
        let mut totals = BTreeMap::new();
        for shard in self.0.iter() {
            let mut chunk = Some(shard);
            while let Some(current) = chunk {
                for (key, count) in current.keys.iter().zip(&current.counts) {
                    let key = key.load(Ordering::Relaxed);
                    if key != 0 {
                        *totals.entry(key).or_default() += count.value();
                    }
                }
                chunk = current.next.get().map(|next| &**next);
            }
        }
        totals
    }
}

impl Chunk {
    /// False when this chunk has neither the key nor room for it.
    fn add(&self, key: u64, n: u64, access: Access) -> bool {
        for (slot, count) in self.keys.iter().zip(&self.counts) {
            let mut found = slot.load(Ordering::Relaxed);
            if found == 0 {
                // Another thread may claim the slot first, for this key or another (shard 0 only).
                found = match slot.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => key,
                    Err(other) => other,
                };
            }
            if found == key {
                count.add(n, access);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn totals_are_what_a_map_would_hold(adds in prop::collection::vec((1u64..40, 0u64..9), 0..200)) {
            let table = Table::new(1);
            let mut model = BTreeMap::<u64, u64>::new();
            for (key, n) in adds {
                table.add(key, n);
                *model.entry(key).or_default() += n;
            }
            prop_assert_eq!(table.totals(), model);
        }
    }

    #[test]
    fn racing_threads_share_keys_without_loss() {
        let table = Arc::new(Table::new(1));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let table = table.clone();
                std::thread::spawn(move || {
                    for n in 0..20_000u64 {
                        table.add(1 + n % 20, 1);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a counting thread does not panic");
        }
        assert!(table.totals().values().all(|&count| count == 4_000));
        assert_eq!(table.totals().len(), 20);
    }
}
