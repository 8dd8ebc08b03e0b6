//! Policies: which server takes the next attempt.
//!
//! Pure: no I/O, no clock, no runtime. A [`Picker`] is built aside whenever weights or the set in
//! rotation change; a pick then reads it and the live state behind [`Servers`], never allocates and
//! never waits.

use std::sync::Arc;

use crate::config::model::Balance;
use crate::util::random::Random;

/// What a picker is built from: one per server of the upstream, in the upstream's order, whether it
/// is in rotation or not. Its position is the index that [`Picker::pick`] gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The address as written: places in the hash table depend on it alone.
    pub key: Arc<str>,
    /// 0..=1000. 0 takes no part at all: pass 0 for a server that is draining.
    pub weight: u32,
    /// Where its slow start has got to, 1..=10; 10 is the full weight.
    pub tenths: u32,
    pub backup: bool,
    pub standing: Standing,
}

/// Whether a server takes part now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Healthy (or checks are ignored in panic) and its breaker closed.
    InRotation,
    /// Takes part by its weight, as far as it admits probes.
    HalfOpen,
    /// Failed its checks, waits for its first one, or its breaker is open.
    Out,
}

/// Where a turn-taking policy begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first order of an upstream.
    Beginning,
    /// A rebuilt one: any random number.
    Random(u64),
}

/// The live state that a pick reads, by index of [`Entry`].
pub trait Servers {
    /// Whether it may take this attempt now: in rotation or half-open with a free probe, not full,
    /// reachable from this worker, and not tried before by this request.
    fn admits(&self, index: usize) -> bool;
    /// Attempts that hold a slot of it.
    fn in_flight(&self, index: usize) -> u32;
    /// Its faded average in seconds; `None` without samples.
    fn latency(&self, index: usize) -> Option<f64>;
}

/// One question to a picker.
#[derive(Debug)]
pub struct Pick<'a, S> {
    pub servers: &'a S,
    /// False for a retry: it never draws from the order.
    pub first_attempt: bool,
    /// [`hash_key`] of the request, under `balance = "hash"`.
    pub hash: Option<u64>,
}

/// The policy of one upstream, ready for one set of servers and weights.
#[derive(Debug)]
pub struct Picker {}

impl Picker {
    /// Prepares `policy` for `entries`; may take milliseconds, so never on a worker.
    pub fn build(policy: &Balance, entries: &[Entry], start: Start) -> Picker {
        let _ = (policy, entries, start);
        todo!()
    }

    /// The picker to use after a change, or `None` when this one still fits (its order goes on).
    /// Parts that did not change are shared. `seed` is any random number.
    pub fn rebuilt(&self, policy: &Balance, entries: &[Entry], seed: u64) -> Option<Picker> {
        let _ = (policy, entries, seed);
        todo!()
    }

    /// The index of the server to try; `None` when none admits.
    pub fn pick<S: Servers>(&self, pick: &Pick<'_, S>, random: &mut Random) -> Option<usize> {
        let _ = (pick, random);
        todo!()
    }

    /// How likely each entry is to take a first attempt now, in the order of the entries; for
    /// `explain`, may allocate. All zero when none admits.
    pub fn chances<S: Servers>(&self, servers: &S, hash: Option<u64>) -> Vec<f64> {
        let _ = (servers, hash);
        todo!()
    }

    /// Whether any server can be picked in principle (some in rotation or half-open).
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}

/// Entries of one period under `smooth-weighted`; over [`LONGEST_PERIOD`] it is approximated.
pub fn period(weights: &[u32]) -> u64 {
    let _ = weights;
    todo!()
}

/// The longest order that is kept exactly.
pub const LONGEST_PERIOD: u64 = 65_536;

/// The hash of a request's key: FNV-1a and MurmurHash3's finaliser. Fixed for ever, so that all
/// instances send a key to the same server.
pub fn hash_key(key: &[u8]) -> u64 {
    let _ = key;
    todo!()
}
