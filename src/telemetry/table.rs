//! Counters by a small key that is known only when it first occurs (method and status, say).
//!
//! An append-only table per worker: a few keys next to each other, further tables behind. One or
//! two entries take nearly all hits, so a scan beats hashing, and nothing is ever moved: readers
//! need no lock.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shard::{Access, Cell64};

/// As many as fill two cache lines with what follows them; the first four are in one.
const ENTRIES: usize = 7;

/// Counters by non-zero key, of one shard.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Table {
    entries: [Entry; ENTRIES],
    next: OnceLock<Box<Table>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// 0 is free; a key never changes once set.
    key: AtomicU64,
    count: Cell64,
}

impl Table {
    pub fn add(&self, key: u64, n: u64, access: Access) {
        let mut table = self;
        while !table.add_here(key, n, access) {
            table = table.next.get_or_init(Box::default);
        }
    }

    /// False when there is neither the key nor room for it.
    fn add_here(&self, key: u64, n: u64, access: Access) -> bool {
        for entry in &self.entries {
            let mut found = entry.key.load(Ordering::Relaxed);
            if found == 0 {
                // Another thread may claim the entry first, for this key or another (shard 0 only).
                let claimed =
                    entry
                        .key
                        .compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed);
                found = claimed.err().unwrap_or(key);
            }
            if found == key {
                entry.count.add(n, access);
                return true;
            }
        }
        false
    }

    /// Sums over all shards.
    pub fn totals<'a>(shards: impl Iterator<Item = &'a Table>) -> BTreeMap<u64, u64> {
        let mut totals = BTreeMap::new();
        for shard in shards {
            let mut table = Some(shard);
            while let Some(current) = table {
                for entry in &current.entries {
                    let key = entry.key.load(Ordering::Relaxed);
                    if key != 0 {
                        *totals.entry(key).or_default() += entry.count.value();
                    }
                }
                table = current.next.get().map(|next| &**next);
            }
        }
        totals
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
            let table = Table::default();
            let mut model = BTreeMap::<u64, u64>::new();
            for (key, n) in adds {
                table.add(key, n, Access::Owned);
                *model.entry(key).or_default() += n;
            }
            prop_assert_eq!(Table::totals([&table].into_iter()), model);
        }
    }

    #[test]
    fn racing_threads_share_keys_without_loss() {
        let table = Arc::new(Table::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let table = table.clone();
                std::thread::spawn(move || {
                    for n in 0..20_000u64 {
                        table.add(1 + n % 20, 1, Access::Shared);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a counting thread does not panic");
        }
        let totals = Table::totals([&*table].into_iter());
        assert!(totals.values().all(|&count| count == 4_000));
        assert_eq!(totals.len(), 20);
    }

    #[test]
    fn a_table_fills_two_cache_lines() {
        assert_eq!(size_of::<Table>(), 128);
    }
}
