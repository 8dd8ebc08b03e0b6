//! The look-up tables: hosts, and the paths below each.
//!
//! Every look-up is a hash of a piece of the host or path. Long or deep requests cannot make it
//! slow: a piece whose length no configured key has is never hashed. Nor is the prefix of all
//! paths, which most hosts end with and many consist of.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use smallvec::SmallVec;

use crate::config::model::{HostPattern, PathMatch, Route};

// Keys come from the configuration, so nobody outside can make them collide.
type Map<V> = HashMap<Box<[u8]>, V, FixedState>;

/// Positions of routes in the order in which they are tried; seldom more than one.
type Ranked = SmallVec<[u32; 4]>;

/// The routes of one listener, or of all.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: Map<Paths>,
    /// `*.example.org` under `example.org`.
    wildcard: Map<Paths>,
    wildcard_lengths: Lengths,
    any: Paths,
}

impl Hosts {
    pub(super) fn insert(&mut self, position: u32, route: &Route) {
        let paths = match &route.host {
            Some(HostPattern::Exact(host)) => self.exact.entry(host.as_bytes().into()).or_default(),
            Some(HostPattern::Wildcard(suffix)) => {
                self.wildcard_lengths.insert(suffix.len());
                self.wildcard.entry(suffix.as_bytes().into()).or_default()
            }
            None => &mut self.any,
        };
        paths.insert(position, &route.path);
    }

    /// Puts every list into its order.
    pub(super) fn sort_by_key<K: Ord>(&mut self, key: impl Fn(u32) -> K) {
        let paths = self.exact.values_mut().chain(self.wildcard.values_mut());
        for paths in paths.chain([&mut self.any]) {
            for node in paths.nodes.values_mut().chain([&mut paths.root]) {
                node.exact.sort_by_key(|&position| key(position));
                node.below.sort_by_key(|&position| key(position));
            }
        }
    }

    /// The first that `accepts`, most specific host first. A host without a matching path does
    /// not hide less specific ones.
    pub(super) fn find(
        &self,
        host: Option<&[u8]>,
        path: &[u8],
        accepts: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if let Some(host) = host {
            let exact = self.exact.get(host);
            if let Some(found) = exact.and_then(|paths| paths.find(path, &accepts)) {
                return Some(found);
            }
            if let Some(found) = self.find_wildcard(host, path, &accepts) {
                return Some(found);
            }
        }
        self.any.find(path, &accepts)
    }

    fn find_wildcard(
        &self,
        host: &[u8],
        path: &[u8],
        accepts: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if self.wildcard.is_empty() {
            return None;
        }
        memchr::memchr_iter(b'.', host)
            // `*` stands for at least one label, and a label is not empty.
            .filter(|&dot| dot > 0)
            .map(|dot| &host[dot + 1..])
            .filter(|suffix| self.wildcard_lengths.contains(suffix.len()))
            .filter_map(|suffix| self.wildcard.get(suffix))
            .find_map(|paths| paths.find(path, accepts))
    }
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct Paths {
    /// By exact path, prefix, or the literal prefix of a regex; all but the empty one.
    nodes: Map<Node>,
    lengths: Lengths,
    /// The prefix of all paths.
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Routes for exactly this path.
    exact: Ranked,
    /// Regexes and prefixes that begin here.
    below: Ranked,
}

impl Paths {
    fn insert(&mut self, position: u32, path: &PathMatch) {
        let key = match path {
            PathMatch::Exact(path) => path,
            PathMatch::Prefix(prefix) => prefix,
            PathMatch::Regex(regex) => &regex.literal_prefix,
        };
        let node = if key.is_empty() {
            &mut self.root
        } else {
            self.lengths.insert(key.len());
            self.nodes.entry(key.as_bytes().into()).or_default()
        };
        match path {
            PathMatch::Exact(_) => node.exact.push(position),
            PathMatch::Prefix(_) | PathMatch::Regex(_) => node.below.push(position),
        }
    }

    fn find(&self, path: &[u8], accepts: &impl Fn(u32) -> bool) -> Option<u32> {
        let first = |list: &Ranked| list.iter().copied().find(|&position| accepts(position));
        if self.nodes.is_empty() {
            return first(&self.root.below);
        }
        if let Some(node) = self.node(path) {
            let found = first(&node.exact).or_else(|| first(&node.below));
            if found.is_some() {
                return found;
            }
        }
        self.lengths
            .below(path.len())
            .filter(|&cut| path[cut] == b'/')
            .filter_map(|cut| self.nodes.get(&path[..cut]))
            .find_map(|node| first(&node.below))
            // `*` has no slash, and is below the root like everything.
            .or_else(|| first(&self.root.below))
    }

    fn node(&self, key: &[u8]) -> Option<&Node> {
        if !self.lengths.contains(key.len()) {
            return None;
        }
        self.nodes.get(key)
    }
}

/// Which lengths the keys of a map have; all from 255 on count as one.
#[derive(Debug, Default)]
struct Lengths {
    bits: [u64; 4],
    longest: usize,
}

impl Lengths {
    fn insert(&mut self, length: usize) {
        let bit = length.min(255);
        self.bits[bit / 64] |= 1 << (bit % 64);
        self.longest = self.longest.max(length);
    }

    fn contains(&self, length: usize) -> bool {
        let bit = length.min(255);
        self.bits[bit / 64] & 1 << (bit % 64) != 0 && length <= self.longest
    }

    /// Those below `length`, longest first; from 255 on all that may be.
    fn below(&self, length: usize) -> impl Iterator<Item = usize> {
        let long = 255..length.min(self.longest + 1);
        let short = length.min(255);
        let of_word = move |word: usize| {
            // The bits of this word that stand for lengths below `short`.
            let mut bits = match short.saturating_sub(64 * word) {
                0 => 0,
                some @ 1..64 => self.bits[word] & ((1 << some) - 1),
                _ => self.bits[word],
            };
            std::iter::from_fn(move || {
                let highest = bits.checked_ilog2()?;
                bits ^= 1 << highest;
                Some(64 * word + highest as usize)
            })
        };
        long.rev().chain((0..4).rev().flat_map(of_word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lengths_below_are_those_put_in(
            lengths in prop::collection::btree_set(0_usize..300, 0..20), below in 0_usize..320,
        ) {
            let mut set = Lengths::default();
            lengths.iter().for_each(|&length| set.insert(length));
            let found: Vec<usize> = set.below(below).collect();
            prop_assert!(found.is_sorted_by(|a, b| a > b));
            let short = |list: Vec<usize>| list.into_iter().filter(|&length| length < 255);
            let expected = lengths.iter().copied().filter(|&length| length < below).collect();
            prop_assert!(short(found.clone()).eq(short(expected).rev()));
            let missing = lengths.iter().any(|&length| length < below && !found.contains(&length));
            prop_assert!(!missing);
        }
    }
}
