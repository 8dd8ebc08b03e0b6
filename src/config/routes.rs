//! Which routes are ambiguous, and which can never match: pure analysis for the checker.
//!
//! Both are relations of two routes, and a file may have 10,000, so only pairs that can be
//! related are compared: routes with the same host and path, cut further by the values of that
//! key of `when` that tells most of them apart. Nothing is said that is not certain: what several
//! routes hide together, or what only a comparison of two regexes would show, is not reported.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::model::{
    Condition, Expected, HostPattern, ListenerId, PathMatch, Route, RouteId,
};
use crate::config::overlap::{Automaton, common_path};

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

/// Pairs of regexes compared in one file, and pairs of states looked at for them: beyond these,
/// overlaps are not reported.
const MAX_REGEX_PAIRS: usize = 100_000;
const MAX_REGEX_WORK: usize = 2_000_000;

/// Different regexes of one rank that share a path; each later one with the first such rival.
fn overlapping_regexes(routes: &[Arc<Route>]) -> impl Iterator<Item = Conflict> {
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

/// Routes of one group that one request could match, cheaply: those with different values for
/// one key are kept apart, and each list is ordered by falling priority, then position.
struct Rivals<'a> {
    routes: &'a [Arc<Route>],
    /// The key whose values tell most routes apart.
    key: Option<Subject<'a>>,
    all: Vec<usize>,
    /// By value of that key; `None` for routes that do not ask for one.
    buckets: HashMap<Option<&'a str>, Vec<usize>>,
}

impl<'a> Rivals<'a> {
    fn new(routes: &'a [Arc<Route>], members: &[usize]) -> Rivals<'a> {
        let mut distinct: HashMap<Subject<'a>, BTreeSet<&'a str>> = HashMap::new();
        for &member in members {
            for (subject, value) in wanted_values(&routes[member]) {
                distinct.entry(subject).or_default().insert(value);
            }
        }
        let mut all = members.to_vec();
        all.sort_by_key(|&member| (Reverse(routes[member].priority), member));
        let mut rivals = Rivals {
            routes,
            key: distinct
                .iter()
                .max_by_key(|(subject, values)| (values.len(), *subject))
                .map(|(subject, _)| *subject),
            all: Vec::new(),
            buckets: HashMap::new(),
        };
        for &member in &all {
            let value = rivals.value(member);
            rivals.buckets.entry(value).or_default().push(member);
        }
        rivals.all = all;
        rivals
    }

    fn value(&self, member: usize) -> Option<&'a str> {
        wanted_values(&self.routes[member])
            .find(|(subject, _)| Some(*subject) == self.key)
            .map(|(_, value)| value)
    }

    /// What `member` may meet: with a value those of the same and those without, else all.
    fn lists(&self, member: usize) -> impl Iterator<Item = &[usize]> {
        let lists = match self.value(member) {
            Some(value) => [self.buckets.get(&Some(value)), self.buckets.get(&None)],
            None => [Some(&self.all), None],
        };
        lists.into_iter().flatten().map(Vec::as_slice)
    }

    fn higher_priority(&self, member: usize) -> impl Iterator<Item = usize> {
        let priority = self.routes[member].priority;
        self.lists(member).flat_map(move |list| {
            let end = list.partition_point(|&rival| self.routes[rival].priority > priority);
            list[..end].iter().copied()
        })
    }

    /// In the order of the file within each list.
    fn equal_priority(&self, member: usize) -> impl Iterator<Item = usize> {
        let priority = self.routes[member].priority;
        self.lists(member).flat_map(move |list| {
            let start = list.partition_point(|&rival| self.routes[rival].priority > priority);
            let end = list.partition_point(|&rival| self.routes[rival].priority >= priority);
            list[start..end].iter().copied()
        })
    }
}

/// What a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject<'a> {
    Method,
    Header(&'a str),
    Query(&'a str),
    Cookie(&'a str),
}

fn subject(condition: &Condition) -> Subject<'_> {
    match condition {
        Condition::Method(_) => Subject::Method,
        Condition::Header(name, _) => Subject::Header(name),
        Condition::Query(name, _) => Subject::Query(name),
        Condition::Cookie(name, _) => Subject::Cookie(name),
    }
}

fn wanted_value(condition: &Condition) -> Option<&str> {
    match condition {
        Condition::Header(_, Expected::Value(value))
        | Condition::Query(_, Expected::Value(value))
        | Condition::Cookie(_, Expected::Value(value)) => Some(value),
        _ => None,
    }
}

fn wanted_values(route: &Route) -> impl Iterator<Item = (Subject<'_>, &str)> {
    route
        .when
        .iter()
        .filter_map(|condition| Some((subject(condition), wanted_value(condition)?)))
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

/// Routes made in a line, for the tests of everything that works on routes.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{
        Destination, Forward, PathRegex, Retry, RetryBudget, RetryOn, SplitKey, Target, Timeouts,
        UpstreamId,
    };
    use crate::util::units::{ByteSize, Percent};

    pub(crate) fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.to_owned())
    }

    pub(crate) fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.trim_end_matches('/').to_owned())
    }

    pub(crate) fn regex(source: &str) -> PathMatch {
        PathMatch::Regex(PathRegex {
            source: source.to_owned(),
            regex: regex::bytes::Regex::new(&format!("^(?:{source})$")).expect("a valid regex"),
            literal_prefix: literal_prefix(source),
        })
    }

    /// "" is any, "*.x" a wildcard.
    pub(crate) fn host(pattern: &str) -> Option<HostPattern> {
        match pattern.strip_prefix("*.") {
            Some(suffix) => Some(HostPattern::Wildcard(suffix.to_owned())),
            None if pattern.is_empty() => None,
            None => Some(HostPattern::Exact(pattern.to_owned())),
        }
    }

    /// The first upstream, without timeouts and retries.
    pub(crate) fn destination() -> Destination {
        Destination {
            upstream: UpstreamId(0),
            weight: 1,
            timeout: Timeouts {
                connect: None,
                first_byte: None,
                idle: None,
                tunnel: None,
                total: None,
            },
            retry: Retry {
                attempts: 0,
                on: RetryOn::default(),
                methods: Vec::new(),
                budget: RetryBudget {
                    ratio: Percent::from_fraction(0.0),
                    min_per_second: 0,
                    window: Duration::from_secs(10),
                },
                max_replay_body: ByteSize(0),
            },
        }
    }

    /// For any host and listener, without conditions.
    pub(crate) fn route(path: PathMatch) -> Route {
        Route {
            name: "route".into(),
            origin: String::new(),
            listeners: Vec::new(),
            host: None,
            path,
            when: Vec::new(),
            priority: 0,
            target: Target::Send {
                to: vec![destination()],
                by: SplitKey::Request,
            },
            upgrades: Vec::new(),
            forward: Forward::Normalized,
            max_body: None,
            mirror: None,
            fallback: None,
            access: Default::default(),
            limit: None,
            path_change: None,
            request_headers: Default::default(),
            response_headers: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixtures::{exact, host, prefix, regex, route};
    use super::*;

    fn with(path: PathMatch, change: impl FnOnce(&mut Route)) -> Arc<Route> {
        let mut route = route(path);
        change(&mut route);
        Arc::new(route)
    }

    fn plain(path: PathMatch) -> Arc<Route> {
        Arc::new(route(path))
    }

    fn header(name: &str, value: &str) -> Condition {
        let expected = match value {
            "*" => Expected::Present,
            value => Expected::Value(value.to_owned()),
        };
        Condition::Header(name.to_owned(), expected)
    }

    fn methods(names: &[&str]) -> Condition {
        Condition::Method(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn when(conditions: impl Into<Vec<Condition>>, priority: i64) -> Arc<Route> {
        with(prefix("/a"), |route| {
            route.when = conditions.into();
            route.priority = priority;
        })
    }

    /// As (kind, first, second), for a configuration with two listeners.
    fn found(routes: &[Arc<Route>]) -> Vec<(ConflictKind, usize, usize)> {
        let conflicts = conflicts(routes, 2);
        conflicts
            .iter()
            .map(|conflict| (conflict.kind, conflict.first.0, conflict.second.0))
            .collect()
    }

    use ConflictKind::{Ambiguous, Unreachable};

    #[test]
    fn equal_routes_are_ambiguous() {
        for path in [exact("/a"), prefix("/a"), prefix("/"), regex("/a/.*")] {
            let routes = [plain(path.clone()), plain(exact("/other")), plain(path)];
            assert_eq!(found(&routes), [(Ambiguous, 0, 2)]);
        }
    }

    #[test]
    fn whatever_decides_makes_two_routes_unambiguous() {
        let routes = [
            plain(prefix("/a")),
            plain(exact("/a")),
            plain(prefix("/a/b")),
            plain(regex("/a/[0-9]+")),
            with(prefix("/a"), |route| route.host = host("h")),
            with(prefix("/a"), |route| route.host = host("*.h")),
            with(prefix("/a"), |route| route.when = vec![header("x", "1")]),
            with(prefix("/a"), |route| route.listeners = vec![ListenerId(0)]),
            with(prefix("/a"), |route| route.listeners = vec![ListenerId(1)]),
        ];
        // The last two together take everything, but no single one hides another.
        assert_eq!(found(&routes), []);
    }

    #[test]
    fn listeners_in_common_are_ambiguous() {
        let on = |listeners: &[usize]| {
            with(prefix("/a"), |route| {
                route.listeners = listeners.iter().copied().map(ListenerId).collect();
            })
        };
        assert_eq!(found(&[on(&[0, 1]), on(&[1])]), [(Ambiguous, 0, 1)]);
        assert_eq!(found(&[on(&[0]), on(&[1])]), []);
    }

    #[test]
    fn different_values_of_one_key_are_disjoint() {
        let routes = [when([header("x", "1")], 0), when([header("x", "2")], 0)];
        assert_eq!(found(&routes), []);
        let routes = [when([header("x", "1")], 0), when([header("y", "2")], 0)];
        assert_eq!(found(&routes), [(Ambiguous, 0, 1)]);
        let routes = [when([header("x", "1")], 0), when([header("x", "*")], 0)];
        assert_eq!(found(&routes), [(Ambiguous, 0, 1)]);
        let routes = [when([methods(&["GET"])], 0), when([methods(&["PUT"])], 0)];
        assert_eq!(found(&routes), []);
        let routes = [
            when([methods(&["GET", "PUT"])], 0),
            when([methods(&["PUT"])], 0),
        ];
        assert_eq!(found(&routes), [(Ambiguous, 0, 1)]);
        let one = [header("x", "1"), header("y", "1")];
        let other = [header("y", "2"), header("x", "1")];
        assert_eq!(found(&[when(one, 0), when(other, 0)]), []);
    }

    #[test]
    fn higher_priority_hides_the_same_match() {
        assert_eq!(found(&[when([], 0), when([], 1)]), [(Unreachable, 1, 0)]);
        let routes = [when([header("x", "1")], 0), when([header("x", "*")], 5)];
        assert_eq!(found(&routes), [(Unreachable, 1, 0)]);
        let routes = [when([header("x", "1")], 5), when([header("x", "*")], 0)];
        assert_eq!(found(&routes), [], "other values are left to the second");
        let routes = [
            when([methods(&["GET"])], 0),
            when([methods(&["PUT", "GET"])], 1),
        ];
        assert_eq!(found(&routes), [(Unreachable, 1, 0)]);
        let routes = [when([header("x", "1")], 0), when([], 9)];
        assert_eq!(found(&routes), [], "more conditions go before priority");
    }

    #[test]
    fn naming_every_listener_hides_what_names_none() {
        let all = |path, pattern: &str| {
            with(path, |route| {
                route.listeners = vec![ListenerId(0), ListenerId(1)];
                route.host = host(pattern);
            })
        };
        let below = with(exact("/a/b"), |route| {
            route.host = host("x.example.org");
            route.when = vec![header("x", "1")];
        });
        let hidden = [(Unreachable, 0, 1)];
        assert_eq!(found(&[all(prefix("/"), ""), below.clone()]), hidden);
        let wildcard = all(prefix("/a"), "*.example.org");
        assert_eq!(found(&[wildcard, below.clone()]), hidden);
        assert_eq!(found(&[all(prefix("/a/b/c"), ""), below.clone()]), []);
        assert_eq!(found(&[all(prefix("/a"), "*.x.example.org"), below]), []);
        let routes = [all(prefix("/a"), ""), plain(regex("/a/[0-9]+"))];
        assert_eq!(found(&routes), hidden);
        let one_of_two = with(prefix("/"), |route| route.listeners = vec![ListenerId(0)]);
        assert_eq!(found(&[one_of_two, plain(prefix("/"))]), []);
    }

    #[test]
    fn regexes_of_one_rank_that_share_a_path_are_ambiguous() {
        let routes = [
            plain(regex("/a/[0-9]+")),
            plain(regex("/a/[a-z]+")),
            plain(regex("/a/b/.*")),
            plain(regex("/a/[0-9a-f]+")),
            with(regex("/a/[0-9]{2}"), |route| route.priority = 1),
        ];
        let found = conflicts(&routes, 1);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].first.0, found[0].second.0), (0, 3));
        assert_eq!(found[0].example.as_deref(), Some("/a/0"));
    }

    #[test]
    fn literal_prefix_is_certain_and_whole_segments() {
        for (source, expected) in [
            ("/users/[0-9]+", "/users"),
            ("/users/[0-9]+/x", "/users"),
            ("/a/b.*", "/a"),
            ("/a/b", "/a"),
            ("/a/", "/a"),
            ("/a", ""),
            (".*", ""),
            ("/(a|b)/.*", ""),
            (r"/v1\.0/x", ""),
            ("/a/?b", ""),
            ("/a/*b", ""),
            ("/a/b/?", "/a"),
            ("/a/x|/b/y", ""),
            ("/a/x|/a/y", "/a"),
            ("(?i)/a/b", ""),
            ("^/a/b$", ""),
            ("/a/{0}b", ""),
            ("/é/a+", "/é"),
        ] {
            assert_eq!(literal_prefix(source), expected, "{source}");
        }
    }

    #[test]
    fn ten_thousand_routes_take_no_quadratic_time() {
        let started = std::time::Instant::now();
        let by_header = |i: usize| when([header("x-tenant", &i.to_string())], 0);
        let by_path = |i: usize| plain(prefix(&format!("/p{i}")));
        let equal = |_| plain(prefix("/same"));
        for make in [&by_header as &dyn Fn(usize) -> Arc<Route>, &by_path, &equal] {
            let routes: Vec<_> = (0..10_000).map(make).collect();
            let found = conflicts(&routes, 1).len();
            assert!(
                found == 0 || found == 9_999,
                "each later one is named once: {found}"
            );
        }
        let taken = started.elapsed();
        assert!(taken.as_secs() < 5, "30,000 routes took {taken:?}");
    }

    fn a_route() -> impl Strategy<Value = Arc<Route>> {
        let path = prop::sample::select(vec!["", "/a", "/a/b"]);
        let condition = prop::sample::select(vec![
            vec![],
            vec![methods(&["GET"])],
            vec![methods(&["GET", "PUT"])],
            vec![header("x", "1")],
            vec![header("x", "2")],
            vec![header("x", "*")],
            vec![header("x", "1"), header("y", "1")],
            vec![header("y", "*"), header("x", "1")],
        ]);
        let listeners = prop::sample::subsequence(vec![ListenerId(0), ListenerId(1)], 0..=2);
        let pattern = prop::sample::select(vec!["", "h.o", "*.o"]);
        (path, condition, listeners, pattern, 0..2i64).prop_map(
            |(path, when, listeners, pattern, priority)| {
                with(PathMatch::Prefix(path.to_owned()), |route| {
                    route.when = when;
                    route.listeners = listeners;
                    route.host = host(pattern);
                    route.priority = priority;
                })
            },
        )
    }

    proptest! {
        #[test]
        fn pairs_are_found_whatever_surrounds_them(
            routes in prop::collection::vec(a_route(), 0..12),
        ) {
            let found = conflicts(&routes, 2);
            for second in 0..routes.len() {
                let same = |first: &Route| {
                    first.host == routes[second].host
                        && matches!((&first.path, &routes[second].path),
                            (PathMatch::Prefix(one), PathMatch::Prefix(other)) if one == other)
                };
                let expected = routes[..second].iter().any(|first| {
                    same(first) && ambiguous(first, &routes[second])
                });
                let named = found.iter().any(|conflict| {
                    conflict.kind == Ambiguous && conflict.second.0 == second
                });
                prop_assert_eq!(named, expected);
                let hidden = routes
                    .iter()
                    .any(|first| same(first) && hides(first, &routes[second]));
                let named = found.iter().any(|conflict| {
                    conflict.kind == Unreachable && conflict.second.0 == second
                });
                prop_assert!(named || !hidden);
            }
        }
    }
}
