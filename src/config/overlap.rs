//! Whether one path can match two regexes: the product of two automata, searched for a witness.
//!
//! Regexes with the same literal prefix have the same rank, so two that share a path are
//! ambiguous. Paths in normal form are ASCII, which makes the automata small. The search is kept
//! to paths that are certainly in normal form, and what it cannot decide within its bounds counts
//! as apart: an overlap that is found is real, and comes with a path to show.

use std::collections::{HashMap, VecDeque};

use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

/// States of one automaton; a regex that needs more is not compared.
const MAX_STATES: usize = 2_000;

/// Pairs of states looked at for two regexes.
const MAX_PAIRS: usize = 50_000;

/// A regex as an automaton over the bytes of paths, fully anchored.
#[derive(Debug)]
pub(super) struct Automaton {
    states: Vec<State>,
    start: usize,
    end: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Where to go without a byte.
    free: Vec<usize>,
    /// Inclusive ranges of bytes.
    steps: Vec<(u8, u8, usize)>,
}

impl Automaton {
    /// `None` for a regex that is too large, or looks around itself.
    pub(super) fn new(source: &str) -> Option<Automaton> {
        let hir = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .build()
            .parse(source)
            .ok()?;
        let mut automaton = Automaton {
            states: vec![State::default()],
            start: 0,
            end: 0,
        };
        let parts = match hir.kind() {
            HirKind::Concat(parts) => parts.as_slice(),
            _ => std::slice::from_ref(&hir),
        };
        // The whole is anchored anyway, so an anchor of its own at the end changes nothing.
        let parts = match parts.split_last() {
            Some((last, before)) if *last.kind() == HirKind::Look(Look::End) => before,
            _ => parts,
        };
        automaton.end = parts
            .iter()
            .try_fold(automaton.start, |at, part| automaton.add(part, at))?;
        Some(automaton)
    }

    fn state(&mut self) -> Option<usize> {
        self.states.push(State::default());
        (self.states.len() <= MAX_STATES).then_some(self.states.len() - 1)
    }

    /// Adds what leads from `from` through `hir`; returns where it ends.
    fn add(&mut self, hir: &Hir, from: usize) -> Option<usize> {
        match hir.kind() {
            HirKind::Empty => Some(from),
            HirKind::Literal(literal) => literal
                .0
                .iter()
                .try_fold(from, |at, &byte| self.step(at, &[(byte, byte)])),
            HirKind::Class(class) => self.step(from, &ascii_ranges(class)),
            HirKind::Capture(capture) => self.add(&capture.sub, from),
            HirKind::Concat(parts) => parts.iter().try_fold(from, |at, part| self.add(part, at)),
            HirKind::Alternation(branches) => {
                let end = self.state()?;
                for branch in branches {
                    let branch_end = self.add(branch, from)?;
                    self.states[branch_end].free.push(end);
                }
                Some(end)
            }
            HirKind::Repetition(repetition) => self.repeat(repetition, from),
            // Nothing leads back to the start, so here nothing was matched yet.
            HirKind::Look(Look::Start) if from == self.start => Some(from),
            HirKind::Look(_) => None,
        }
    }

    fn step(&mut self, from: usize, ranges: &[(u8, u8)]) -> Option<usize> {
        let to = self.state()?;
        let steps = ranges.iter().map(|&(first, last)| (first, last, to));
        self.states[from].steps.extend(steps);
        Some(to)
    }

    fn repeat(&mut self, repetition: &Repetition, from: usize) -> Option<usize> {
        let sub = &repetition.sub;
        let mut at = from;
        for _ in 0..repetition.min {
            at = self.add(sub, at)?;
        }
        let Some(max) = repetition.max else {
            // A state of its own: `at` may have other ways out.
            let again = self.state()?;
            self.states[at].free.push(again);
            let end = self.add(sub, again)?;
            self.states[end].free.push(again);
            let out = self.state()?;
            self.states[again].free.push(out);
            return Some(out);
        };
        let out = self.state()?;
        for _ in repetition.min..max {
            self.states[at].free.push(out);
            // Likewise: an alternation before may share `at`.
            let next = self.state()?;
            self.states[at].free.push(next);
            at = self.add(sub, next)?;
        }
        self.states[at].free.push(out);
        Some(out)
    }
}

fn ascii_ranges(class: &Class) -> Vec<(u8, u8)> {
    let ascii = |first: u32, last: u32| (first < 0x80).then(|| (first as u8, last.min(0x7F) as u8));
    match class {
        Class::Unicode(class) => class
            .iter()
            .filter_map(|range| ascii(range.start().into(), range.end().into()))
            .collect(),
        Class::Bytes(class) => class
            .iter()
            .filter_map(|range| ascii(range.start().into(), range.end().into()))
            .collect(),
    }
}

/// Where in a path the search is: decides which bytes keep it in normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Begin,
    AfterSlash,
    InSegment,
}

type Pair = (usize, usize, Place);

/// A shortest path that both match; `None` when there is none or the search is too long.
/// `budget` goes down by the pairs that were looked at.
pub(super) fn common_path(
    one: &Automaton,
    other: &Automaton,
    budget: &mut usize,
) -> Option<String> {
    let start = (one.start, other.start, Place::Begin);
    // How each pair was reached first.
    let mut reached: HashMap<Pair, Option<(Pair, Option<u8>)>> = HashMap::from([(start, None)]);
    let mut waiting = VecDeque::from([start]);
    let bound = MAX_PAIRS.min(*budget);
    while let Some(pair) = waiting.pop_front() {
        if pair.0 == one.end && pair.1 == other.end && pair.2 != Place::Begin {
            *budget = budget.saturating_sub(reached.len());
            return Some(spell(&reached, pair));
        }
        if reached.len() > bound {
            break;
        }
        for (next, byte) in neighbours(one, other, pair) {
            reached.entry(next).or_insert_with(|| {
                // What costs no byte first: the path is the shortest.
                match byte {
                    None => waiting.push_front(next),
                    Some(_) => waiting.push_back(next),
                }
                Some((pair, byte))
            });
        }
    }
    *budget = budget.saturating_sub(reached.len());
    None
}

fn neighbours(one: &Automaton, other: &Automaton, pair: Pair) -> Vec<(Pair, Option<u8>)> {
    let (left, right, place) = pair;
    let mut found = Vec::new();
    let (lefts, rights) = (&one.states[left], &other.states[right]);
    found.extend(lefts.free.iter().map(|&next| ((next, right, place), None)));
    found.extend(rights.free.iter().map(|&next| ((left, next, place), None)));
    for &(first, last, next_left) in &lefts.steps {
        for &(other_first, other_last, next_right) in &rights.steps {
            let (first, last) = (first.max(other_first), last.min(other_last));
            if place != Place::AfterSlash && first <= b'/' && b'/' <= last {
                found.push(((next_left, next_right, Place::AfterSlash), Some(b'/')));
            }
            if let Some(byte) = segment_byte(first, last, place) {
                found.push(((next_left, next_right, Place::InSegment), Some(byte)));
            }
        }
    }
    found
}

/// A byte in the range that may stand in a segment here, a readable one where there is one.
fn segment_byte(first: u8, last: u8, place: Place) -> Option<u8> {
    const READABLE: &[u8] =
        b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_~!$&'()*+,;=:@.";
    let may_stand = |byte: u8| match place {
        Place::Begin => false,
        Place::AfterSlash => byte != b'.',
        Place::InSegment => true,
    };
    let in_range = |byte: &u8| (first..=last).contains(byte) && may_stand(*byte);
    READABLE.iter().copied().find(in_range)
}

fn spell(reached: &HashMap<Pair, Option<(Pair, Option<u8>)>>, end: Pair) -> String {
    let mut path: Vec<u8> = Vec::new();
    let mut at = end;
    while let Some(Some((before, byte))) = reached.get(&at) {
        path.extend(byte);
        at = *before;
    }
    path.iter().rev().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn common(one: &str, other: &str) -> Option<String> {
        let (one, other) = (Automaton::new(one)?, Automaton::new(other)?);
        common_path(&one, &other, &mut MAX_PAIRS.clone())
    }

    #[test]
    fn shared_path_is_found_and_shown() {
        for (one, other, path) in [
            ("/a/[0-9]+", "/a/[0-9a-f]+", "/a/0"),
            ("/a/.*", "/a/b.*", "/a/b"),
            (".*[.]png", "/img/.*", "/img/a.png"),
            ("/x{2,4}", "/x{4,}", "/xxxx"),
            ("^/a$", "/(a|b)", "/a"),
            ("(?i)/A", "/a", "/a"),
            ("/a?", "/", "/"),
            (r"/\d+", r"/\w+", "/0"),
        ] {
            assert_eq!(common(one, other).as_deref(), Some(path), "{one} {other}");
        }
    }

    #[test]
    fn regexes_that_share_no_path_are_apart() {
        for (one, other) in [
            ("/a/[0-9]+", "/a/[a-z]+"),
            ("/a/.*[.]png", "/a/.*[.]jpg"),
            ("/x{2,3}", "/x{4,}"),
            ("/a", "/A"),
            ("/a/[^/]+", "/a/[^/]+/b"),
            ("a", "a"),
            // Only paths that are not in normal form.
            ("/a//b", "/a//.*"),
            ("/[.][.]/.*", ".*"),
            ("/a b", ".*"),
        ] {
            assert_eq!(common(one, other), None, "{one} {other}");
        }
    }

    #[test]
    fn what_cannot_be_compared_counts_as_apart() {
        assert_eq!(common(r"/a\b.*", "/a.*"), None, "looks around itself");
        assert_eq!(common("/(a{100}){100}", "/a+"), None, "too large");
        assert_eq!(common("/a$b|/c", "/c"), None);
    }

    proptest! {
        #[test]
        fn a_path_that_is_shown_is_matched_by_both(
            one in r"/([ab/.]|[ab][*+?]|\([ab]{1,2}\|[ab/]{0,2}\)[*+?]?|\.\*|\[ab\]){0,5}",
            other in r"/([ab/.]|[ab][*+?]|\([ab]{1,2}\|[ab/]{0,2}\)[*+?]?|\.\*|\[ab\]){0,5}",
            path in "/[ab](/?[ab]){0,4}",
        ) {
            let compile = |source: &str| {
                regex::bytes::Regex::new(&format!("^(?:{source})$")).expect("a valid regex")
            };
            let both = [compile(&one), compile(&other)];
            let matched = |path: &str| both.iter().all(|regex| regex.is_match(path.as_bytes()));
            match common(&one, &other) {
                Some(shown) => prop_assert!(matched(&shown), "{} and {}: {}", one, other, shown),
                None => prop_assert!(!matched(&path), "{} and {} share {}", one, other, path),
            }
        }
    }
}
