//! What can be said of regexes without a request: what they rank by, and which share a path.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::{PathMatch, Route};
use crate::config::overlap::{Automaton, common_path};
use crate::config::routes::{Conflict, ConflictKind, ambiguous, conflict};

/// Pairs of regexes compared in one file, and pairs of states looked at for them: beyond these,
/// overlaps are not reported.
const MAX_REGEX_PAIRS: usize = 100_000;
const MAX_REGEX_WORK: usize = 2_000_000;

/// Different regexes of one rank that share a path; each later one with the first such rival.
pub(super) fn overlapping_regexes(routes: &[Arc<Route>]) -> impl Iterator<Item = Conflict> {
    let mut groups: HashMap<_, Vec<(usize, &str)>> = HashMap::new();
    for (position, route) in routes.iter().enumerate() {
        if let PathMatch::Regex(regex) = &route.path {
            groups
                .entry((route.host.as_ref(), regex.literal_prefix.as_str()))
                .or_default()
                .push((position, &regex.source));
        }
    }
    let mut groups: Vec<_> = groups
        .into_values()
        .filter(|group| group.len() > 1)
        .collect();
    // Where the bounds cut it short, at least always at the same place.
    groups.sort();
    let mut comparison = Comparison::default();
    let mut found = Vec::new();
    for group in groups {
        for (place, &(second, source)) in group.iter().enumerate() {
            let rival = group[..place].iter().find_map(|&(first, rival)| {
                let same_rank = source != rival && ambiguous(&routes[first], &routes[second]);
                let path = same_rank.then(|| comparison.common_path(rival, source))??;
                Some((first, path))
            });
            found.extend(rival.map(|(first, path)| Conflict {
                example: Some(path),
                ..conflict(ConflictKind::Ambiguous, first, second)
            }));
        }
    }
    found.into_iter()
}

/// Compares regexes until the bounds are reached; then none shares a path with another.
struct Comparison<'a> {
    automata: HashMap<&'a str, Option<Automaton>>,
    pairs_left: usize,
    work_left: usize,
}

impl Default for Comparison<'_> {
    fn default() -> Self {
        Comparison {
            automata: HashMap::new(),
            pairs_left: MAX_REGEX_PAIRS,
            work_left: MAX_REGEX_WORK,
        }
    }
}

impl<'a> Comparison<'a> {
    fn common_path(&mut self, one: &'a str, other: &'a str) -> Option<String> {
        self.pairs_left = self.pairs_left.checked_sub(1)?;
        if self.work_left == 0 {
            return None;
        }
        for source in [one, other] {
            let new = || Automaton::new(source);
            self.automata.entry(source).or_insert_with(new);
        }
        let one = self.automata[one].as_ref()?;
        let other = self.automata[other].as_ref()?;
        common_path(one, other, &mut self.work_left)
    }
}

/// The literal prefix that ranks a regex: the part before the first metacharacter, cut back to
/// the last `/`, without trailing slash, and never more than every match begins with (`/a/?b`
/// matches `/ab`, so its prefix is the root).
pub fn literal_prefix(source: &str) -> String {
    let is_meta = |letter: char| r"\.+*?()|[]{}^$".contains(letter);
    let text = source.split(is_meta).next().unwrap_or_default();
    let certain = certain_prefix(source);
    let common = text.bytes().zip(certain.bytes());
    let length = common.take_while(|(text, certain)| text == certain).count();
    let cut = text.as_bytes()[..length]
        .iter()
        .rposition(|&byte| byte == b'/');
    text[..cut.unwrap_or(0)].trim_end_matches('/').to_owned()
}

/// What every match begins with, as far as the regex says so literally.
fn certain_prefix(source: &str) -> String {
    let parsed = regex_syntax::ParserBuilder::new()
        .utf8(false)
        .build()
        .parse(source);
    let Ok(parsed) = parsed else {
        return String::new();
    };
    let prefixes = regex_syntax::hir::literal::Extractor::new().extract(&parsed);
    let common = prefixes.longest_common_prefix().unwrap_or_default();
    String::from_utf8_lossy(common).into_owned()
}
