//! An order of servers and one counter over it, shared by all workers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::balance::Start;

/// A precomputed order that is gone through again and again.
#[derive(Debug)]
pub(super) struct Turns {
    /// Positions in the list of candidates.
    order: Box<[u32]>,
    next: Counter,
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
            next: Counter(AtomicU64::new(first)),
        }
    }

    /// The next turn: one atomic increment and one read.
    pub fn next(&self) -> Option<usize> {
        if self.order.len() <= 1 {
            return self.order.first().map(|&position| position as usize);
        }
        let turn = self.next.0.fetch_add(1, Ordering::Relaxed) % self.order.len() as u64;
        self.order
            .get(turn as usize)
            .map(|&position| position as usize)
    }
}
