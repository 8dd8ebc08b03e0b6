//! Which routes are ambiguous, and which can never match: pure analysis for the checker.
//!
//! Both are relations of two routes, and a file may have 10,000, so only pairs that can be
//! related are compared: routes with the same host and path, cut further by the values of that
//! key of `when` that tells most of them apart. Nothing is said that is not certain: what several
//! routes hide together, or what only a comparison of two regexes would show, is not reported.

mod regexes;
mod rivals;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::model::{Condition, HostPattern, ListenerId, PathMatch, Route, RouteId};
pub use regexes::literal_prefix;
use regexes::overlapping_regexes;
use rivals::{Rivals, subject, wanted_value};

/// Two routes that get in each other's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub kind: ConflictKind,
    /// For `Ambiguous` the earlier in the file; for `Unreachable` the one that hides.
    pub first: RouteId,
    /// For `Ambiguous` the later in the file; for `Unreachable` the one that never matches.
    pub second: RouteId,
    /// Two different regexes: a path that both match.
    pub example: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Nothing decides between them: an error.
    Ambiguous,
    /// `second` can never match because `first` takes all of it: a warning.
    Unreachable,
}

/// All conflicts of a configuration's routes, ordered by `second`. `listeners`: how many the
/// configuration has.
///
/// Every route that is ambiguous with an earlier one, and every hidden one, is named once, with
/// the first rival that was found.
pub fn conflicts(routes: &[Arc<Route>], listeners: usize) -> Vec<Conflict> {
    let groups = group(routes, |_| true);
    let covering = group(routes, |route| names_all(route, listeners));
    let mut found = Vec::new();
    for members in groups.values() {
        let rivals = Rivals::new(routes, members);
        for &second in members {
            let twin = rivals
                .equal_priority(second)
                .find(|&first| first < second && ambiguous(&routes[first], &routes[second]));
            found.extend(twin.map(|first| conflict(ConflictKind::Ambiguous, first, second)));
            let hider = rivals
                .higher_priority(second)
                .find(|&first| hides(&routes[first], &routes[second]))
                .or_else(|| hidden_by_listener(routes, &covering, second));
            found.extend(hider.map(|first| conflict(ConflictKind::Unreachable, first, second)));
        }
    }
    let named: HashSet<_> = found
        .iter()
        .filter(|conflict| conflict.kind == ConflictKind::Ambiguous)
        .map(|conflict| conflict.second)
        .collect();
    let regexes = overlapping_regexes(routes);
    found.extend(regexes.filter(|conflict| !named.contains(&conflict.second)));
    found.sort_by_key(|conflict| (conflict.second, conflict.kind));
    found
}

fn conflict(kind: ConflictKind, first: usize, second: usize) -> Conflict {
    Conflict {
        kind,
        first: RouteId(first),
        second: RouteId(second),
        example: None,
    }
}

/// Routes of one key match the same hosts and paths.
type Key<'a> = (Option<&'a HostPattern>, PathKey<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PathKey<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    /// By source: different sources are compared by [`overlapping_regexes`].
    Regex(&'a str),
}

type Groups<'a> = HashMap<Key<'a>, Vec<usize>>;

fn group(routes: &[Arc<Route>], belongs: impl Fn(&Route) -> bool) -> Groups<'_> {
    let mut groups = Groups::new();
    for (position, route) in routes.iter().enumerate() {
        if !belongs(route) {
            continue;
        }
        let path = match &route.path {
            PathMatch::Exact(path) => PathKey::Exact(path),
            PathMatch::Prefix(prefix) => PathKey::Prefix(prefix),
            PathMatch::Regex(regex) => PathKey::Regex(&regex.source),
        };
        groups
            .entry((route.host.as_ref(), path))
            .or_default()
            .push(position);
    }
    groups
}

/// Nothing decides between two routes of one group, and one request can match both.
fn ambiguous(one: &Route, other: &Route) -> bool {
    one.when.len() == other.when.len()
        && one.priority == other.priority
        && share_a_listener(one, other)
        && !disjoint(one, other)
}

/// Both name a listener in common, or both name none. One that names the listener goes before
/// one that names none, so that pair is decided.
fn share_a_listener(one: &Route, other: &Route) -> bool {
    if one.listeners.is_empty() || other.listeners.is_empty() {
        return one.listeners.is_empty() == other.listeners.is_empty();
    }
    one.listeners
        .iter()
        .any(|listener| other.listeners.contains(listener))
}

/// Different values for the same key of `when`: no request matches both.
fn disjoint(one: &Route, other: &Route) -> bool {
    one.when.iter().any(|condition| {
        let same = |rival: &&Condition| subject(rival) == subject(condition);
        match (condition, other.when.iter().find(same)) {
            (Condition::Method(methods), Some(Condition::Method(others))) => {
                !methods.iter().any(|method| others.contains(method))
            }
            (condition, Some(rival)) => match (wanted_value(condition), wanted_value(rival)) {
                (Some(value), Some(other)) => value != other,
                _ => false,
            },
            (_, None) => false,
        }
    })
}

/// `first` matches all that `second` matches, and always wins; both are of one group.
fn hides(first: &Route, second: &Route) -> bool {
    let listeners = if second.listeners.is_empty() {
        first.listeners.is_empty()
    } else {
        let named = |listener: &ListenerId| first.listeners.contains(listener);
        second.listeners.iter().all(named)
    };
    // What asks for as much and takes as much has the same keys: only priority is left to win by.
    listeners
        && first.when.len() == second.when.len()
        && first.priority > second.priority
        && takes_all_of(first, second)
}

/// Every request that meets the conditions of `second` meets those of `first`.
fn takes_all_of(first: &Route, second: &Route) -> bool {
    first.when.iter().all(|condition| {
        let same = |rival: &&Condition| subject(rival) == subject(condition);
        match (condition, second.when.iter().find(same)) {
            (Condition::Method(methods), Some(Condition::Method(rivals))) => {
                rivals.iter().all(|method| methods.contains(method))
            }
            (condition, Some(rival)) => {
                wanted_value(condition).is_none() || wanted_value(condition) == wanted_value(rival)
            }
            (_, None) => false,
        }
    })
}

fn names_all(route: &Route, listeners: usize) -> bool {
    listeners > 0 && route.listeners.iter().collect::<BTreeSet<_>>().len() == listeners
}

/// A route that names every listener goes before all that name none, however specific these are.
fn hidden_by_listener(
    routes: &[Arc<Route>],
    covering: &Groups<'_>,
    second: usize,
) -> Option<usize> {
    let route = &routes[second];
    if covering.is_empty() || !route.listeners.is_empty() {
        return None;
    }
    for host in wider_hosts(route.host.as_ref()) {
        for path in wider_paths(&route.path) {
            let members = covering.get(&(host.as_ref(), path)).into_iter().flatten();
            let hider = members
                .copied()
                .find(|&first| takes_all_of(&routes[first], route));
            if hider.is_some() {
                return hider;
            }
        }
    }
    None
}

/// The host pattern and all that match whatever it matches.
fn wider_hosts(host: Option<&HostPattern>) -> Vec<Option<HostPattern>> {
    let mut wider = vec![host.cloned()];
    if let Some(HostPattern::Exact(name) | HostPattern::Wildcard(name)) = host {
        let suffixes = name.match_indices('.').filter(|(dot, _)| *dot > 0);
        wider.extend(
            suffixes.map(|(dot, _)| Some(HostPattern::Wildcard(name[dot + 1..].to_owned()))),
        );
        wider.push(None);
    }
    wider
}

/// The path itself and the prefixes above it.
fn wider_paths(path: &PathMatch) -> Vec<PathKey<'_>> {
    let (itself, text) = match path {
        PathMatch::Exact(path) => (PathKey::Exact(path), path),
        PathMatch::Prefix(prefix) => (PathKey::Prefix(prefix), prefix),
        PathMatch::Regex(regex) => (PathKey::Regex(&regex.source), &regex.literal_prefix),
    };
    let mut wider = vec![itself, PathKey::Prefix(text)];
    wider.extend(
        text.match_indices('/')
            .map(|(cut, _)| PathKey::Prefix(&text[..cut])),
    );
    wider.push(PathKey::Prefix(""));
    wider
}

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests;
