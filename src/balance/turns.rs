//! An order of servers and one counter over it, shared by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::balance::Start;

/// A precomputed order that is gone through again and again.
#[derive(Debug)]
pub(super) struct Turns {
    /// Indices of entries; a short order needs no other memory than the picker's.
    order: SmallVec<[u32; 8]>,
    next: Arc<Counter>,
}

/// Alone on its cache lines (two: they are fetched in pairs), so that a pick on one worker does not
/// take from the others what they only read.
///
/// Relaxed: who gets which number is all that matters, nothing is published by it.
#[derive(Debug)]
#[repr(align(128))]
struct Counter(AtomicU64);

impl Turns {
    pub fn new(order: Vec<u32>, start: Start) -> Turns {
        let first = match start {
            Start::Random(number) if !order.is_empty() => number % order.len() as u64,
            _ => 0,
        };
        Turns {
            order: order.into(),
            next: Arc::new(Counter(AtomicU64::new(first))),
        }
    }

    /// The same order of servers with other indices: goes on where this one has got to.
    pub fn renamed(&self, order: Vec<u32>) -> Turns {
        Turns {
            order: order.into(),
            next: Arc::clone(&self.next),
        }
    }

    /// Whose turn it is: one atomic increment and one read.
    pub fn next(&self) -> Option<usize> {
        if self.order.len() <= 1 {
            return self.order.first().map(|&index| index as usize);
        }
        let turn = self.next.0.fetch_add(1, Ordering::Relaxed) % self.order.len() as u64;
        self.order.get(turn as usize).map(|&index| index as usize)
    }
}
