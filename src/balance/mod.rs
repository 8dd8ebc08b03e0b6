//! Policies: which server takes the next attempt.
//!
//! Pure: no I/O, no clock, no runtime. A [`Picker`] is built aside whenever weights or the set in
//! rotation change, which may take milliseconds; a pick then reads it and the live state behind
//! [`Servers`], never allocates and never waits. One file per algorithm:
//!
//! - `random`: one weighted draw (`candidates`).
//! - `round-robin`, `smooth-weighted`: a precomputed order (`round_robin`, `smooth_weighted`)
//!   with one counter over all workers (`turns`). A turn whose server does not admit is passed
//!   on to the next, a few times; then, and for every retry, a weighted draw. A retry never takes a
//!   turn: it would shift the order under first attempts, and where every nth server fails that
//!   locks them on to it.
//! - `least-requests`, `peak-ewma`: two weighted draws and the better of them.
//! - `hash`: a Maglev table (`maglev`) with bounded loads (`hash`).
//!
//! The rule for backup servers lives here too (`candidates`), so that every policy has it.

mod candidates;
mod hash;
mod least_requests;
mod maglev;
mod peak_ewma;
mod round_robin;
mod smooth_weighted;
mod turns;

use std::sync::Arc;

use crate::config::model::Balance;
use crate::util::random::Random;

use candidates::{Candidate, Candidates};
use hash::Hash;
use turns::Turns;

pub use maglev::hash_key;
pub use smooth_weighted::{LONGEST_PERIOD, order as smooth_order, period};

/// Turns that are passed on before a first attempt draws instead.
const PASSED_ON: usize = 8;

/// What a picker is built from: one per server of the upstream, in the upstream's order, whether it
/// is in rotation or not. Its position is the index that [`Picker::pick`] gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The address as written: its places in the hash table depend on nothing else.
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
    /// False for a retry: it never takes a turn.
    pub first_attempt: bool,
    /// [`hash_key`] of the request, under `balance = "hash"`.
    pub hash: Option<u64>,
}

/// The policy of one upstream, ready for one set of servers and weights. Shared by all workers.
#[derive(Debug)]
pub struct Picker {
    policy: Policy,
    candidates: Candidates,
    /// The addresses of the candidates.
    keys: Box<[Arc<str>]>,
}

#[derive(Debug)]
enum Policy {
    Random,
    RoundRobin(Turns),
    SmoothWeighted(Turns),
    LeastRequests,
    PeakEwma,
    Hash(Hash),
}

impl Picker {
    /// Prepares `policy` for `entries`; may take milliseconds, so never on a worker.
    pub fn build(policy: &Balance, entries: &[Entry], start: Start) -> Picker {
        let list = candidates(policy, entries);
        let policy = match policy {
            Balance::Random => Policy::Random,
            Balance::LeastRequests => Policy::LeastRequests,
            Balance::PeakEwma => Policy::PeakEwma,
            Balance::RoundRobin => {
                Policy::RoundRobin(Turns::new(order(round_robin::order, &list), start))
            }
            Balance::SmoothWeighted => {
                Policy::SmoothWeighted(Turns::new(order(smooth_weighted::order, &list), start))
            }
            Balance::Hash(_) => Policy::Hash(Hash::new(entries, None)),
        };
        Picker::with(policy, list, entries)
    }

    /// The picker to use after a change, or `None` when this one still fits. What did not change is
    /// shared: where an order has got to, when the servers and weights are the same and only their
    /// indices moved; a hash table when its members are. `seed` is any random number.
    pub fn rebuilt(&self, policy: &Balance, entries: &[Entry], seed: u64) -> Option<Picker> {
        let list = candidates(policy, entries);
        let same_servers = self.same_servers(&list, entries);
        let same = same_servers && *self.candidates.list() == *list;
        let policy = match (&self.policy, policy) {
            (Policy::Random, Balance::Random)
            | (Policy::LeastRequests, Balance::LeastRequests)
            | (Policy::PeakEwma, Balance::PeakEwma)
            | (Policy::RoundRobin(_), Balance::RoundRobin)
            | (Policy::SmoothWeighted(_), Balance::SmoothWeighted)
                if same =>
            {
                return None;
            }
            (Policy::Hash(hash), Balance::Hash(_)) if same && hash.fits(entries) => return None,
            (Policy::Hash(hash), Balance::Hash(_)) => Policy::Hash(Hash::new(entries, Some(hash))),
            (Policy::RoundRobin(turns), Balance::RoundRobin) if same_servers => {
                Policy::RoundRobin(turns.renamed(order(round_robin::order, &list)))
            }
            (Policy::SmoothWeighted(turns), Balance::SmoothWeighted) if same_servers => {
                Policy::SmoothWeighted(turns.renamed(order(smooth_weighted::order, &list)))
            }
            (_, policy) => return Some(Picker::build(policy, entries, Start::Random(seed))),
        };
        Some(Picker::with(policy, list, entries))
    }

    /// The index of the server to try; `None` when none admits.
    pub fn pick<S: Servers>(&self, pick: &Pick<'_, S>, random: &mut Random) -> Option<usize> {
        let servers = pick.servers;
        match &self.policy {
            Policy::RoundRobin(turns) | Policy::SmoothWeighted(turns) if pick.first_attempt => {
                take_turn(turns, servers).or_else(|| self.draw(servers, random))
            }
            Policy::Random | Policy::RoundRobin(_) | Policy::SmoothWeighted(_) => {
                self.draw(servers, random)
            }
            Policy::LeastRequests | Policy::PeakEwma => self.draw_two(servers, random),
            Policy::Hash(hash) => {
                let number = pick.hash.unwrap_or_else(|| random.number());
                hash.pick(servers, &self.candidates, number)
            }
        }
    }

    /// How likely each entry is to take a first attempt now, by index of `servers`; for `explain`,
    /// may allocate and take a while. All zero when none admits. `count` is how many entries the
    /// picker was built from.
    pub fn chances<S: Servers>(&self, servers: &S, hash: Option<u64>, count: usize) -> Vec<f64> {
        let mut chances = vec![0.0; count];
        let mut add = |index: usize, chance: f64| {
            if let Some(sum) = chances.get_mut(index) {
                *sum += chance;
            }
        };
        match &self.policy {
            Policy::Hash(table) => {
                let places = 0..maglev::PLACES as u64;
                let hashes = hash.map_or(places, |hash| hash..hash.saturating_add(1));
                let each = 1.0 / (hashes.end - hashes.start) as f64;
                for hash in hashes {
                    let picked = table.pick(servers, &self.candidates, hash);
                    picked.into_iter().for_each(|index| add(index, each));
                }
            }
            Policy::Random | Policy::RoundRobin(_) | Policy::SmoothWeighted(_) => {
                let (admitting, total) = self.admitting(servers);
                for one in admitting {
                    add(one.index, f64::from(one.share) / total);
                }
            }
            Policy::LeastRequests | Policy::PeakEwma => {
                let (admitting, total) = self.admitting(servers);
                // Each cost once: that of a server without samples asks all others.
                let costed: Vec<(Candidate, f64)> = admitting
                    .iter()
                    .map(|&one| (one, self.cost(servers, one)))
                    .collect();
                for &(first, first_cost) in &costed {
                    let chance = f64::from(first.share) / total;
                    let rest = total - f64::from(first.share);
                    if costed.len() == 1 {
                        add(first.index, chance);
                    }
                    for &(second, second_cost) in &costed {
                        if second.index != first.index {
                            let winner = if second_cost < first_cost {
                                second
                            } else {
                                first
                            };
                            add(winner.index, chance * f64::from(second.share) / rest);
                        }
                    }
                }
            }
        }
        chances
    }

    /// Whether a pick asks how old a latency is.
    pub fn asks_for_latency(&self) -> bool {
        matches!(self.policy, Policy::PeakEwma)
    }

    /// Whether nobody takes part, whatever it would admit.
    pub fn is_empty(&self) -> bool {
        self.candidates.list().is_empty()
    }

    fn with(policy: Policy, list: Vec<Candidate>, entries: &[Entry]) -> Picker {
        let keys = list
            .iter()
            .map(|one| Arc::clone(&entries[one.index].key))
            .collect();
        Picker {
            policy,
            candidates: Candidates::new(list),
            keys,
        }
    }

    /// Whether `list` has the same addresses and weights in the same order, at whatever indices.
    fn same_servers(&self, list: &[Candidate], entries: &[Entry]) -> bool {
        let mine = self.keys.iter().zip(self.candidates.list());
        let theirs = list.iter().map(|one| (&entries[one.index].key, one.share));
        mine.map(|(key, one)| (key, one.share)).eq(theirs)
    }

    fn draw<S: Servers>(&self, servers: &S, random: &mut Random) -> Option<usize> {
        self.candidates
            .draw(servers, None, random)
            .map(|candidate| candidate.index)
    }

    fn draw_two<S: Servers>(&self, servers: &S, random: &mut Random) -> Option<usize> {
        let first = self.candidates.draw(servers, None, random)?;
        let Some(second) = self.candidates.draw(servers, Some(first), random) else {
            return Some(first.index);
        };
        let better = self.cost(servers, second) < self.cost(servers, first);
        Some(if better { second.index } else { first.index })
    }

    /// What the two-choice policies compare.
    fn cost<S: Servers>(&self, servers: &S, candidate: Candidate) -> f64 {
        match &self.policy {
            Policy::PeakEwma => peak_ewma::cost(servers, self.candidates.list(), candidate),
            _ => least_requests::cost(servers, candidate),
        }
    }

    fn admitting<S: Servers>(&self, servers: &S) -> (Vec<Candidate>, f64) {
        let all = self.candidates.list().iter();
        let admitting: Vec<Candidate> = all
            .filter(|one| servers.admits(one.index))
            .copied()
            .collect();
        let total = admitting.iter().map(|one| f64::from(one.share)).sum();
        (admitting, total)
    }
}

fn take_turn<S: Servers>(turns: &Turns, servers: &S) -> Option<usize> {
    for _ in 0..=PASSED_ON {
        let index = turns.next()?;
        if servers.admits(index) {
            return Some(index);
        }
    }
    None
}

/// Who takes part with which share. `round-robin` knows no weights and `hash` no slow start.
fn candidates(policy: &Balance, entries: &[Entry]) -> Vec<Candidate> {
    let share = |entry: &Entry| {
        let tenths = entry.tenths.clamp(1, 10);
        match policy {
            Balance::RoundRobin => tenths,
            Balance::Hash(_) => entry.weight * 10,
            _ => entry.weight * tenths,
        }
    };
    let indices = candidates::taking_part(entries).into_iter();
    indices
        .map(|index| Candidate {
            index,
            share: share(&entries[index]),
        })
        .collect()
}

/// The order of `list` as indices of entries.
fn order(of_shares: fn(&[u32]) -> Vec<u32>, list: &[Candidate]) -> Vec<u32> {
    let shares: Vec<u32> = list.iter().map(|candidate| candidate.share).collect();
    let mut order = of_shares(&shares);
    for place in &mut order {
        *place = list[*place as usize].index as u32;
    }
    order
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
