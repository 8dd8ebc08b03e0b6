//! Which pairs of routes are worth a comparison: those that one request could match, found without
//! comparing all with all.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::config::model::{Condition, Expected, Route};

/// Routes of one group that one request could match, cheaply: those with different values for
/// one key are kept apart, and each list is ordered by falling priority, then position.
pub(super) struct Rivals<'a> {
    routes: &'a [Arc<Route>],
    /// The key whose values tell most routes apart.
    key: Option<Subject<'a>>,
    all: Vec<usize>,
    /// By value of that key; `None` for routes that do not ask for one.
    buckets: HashMap<Option<&'a str>, Vec<usize>>,
}

impl<'a> Rivals<'a> {
    pub(super) fn new(routes: &'a [Arc<Route>], members: &[usize]) -> Rivals<'a> {
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

    pub(super) fn higher_priority(&self, member: usize) -> impl Iterator<Item = usize> {
        let priority = self.routes[member].priority;
        self.lists(member).flat_map(move |list| {
            let end = list.partition_point(|&rival| self.routes[rival].priority > priority);
            list[..end].iter().copied()
        })
    }

    /// In the order of the file within each list.
    pub(super) fn equal_priority(&self, member: usize) -> impl Iterator<Item = usize> {
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
pub(super) enum Subject<'a> {
    Method,
    Header(&'a str),
    Query(&'a str),
    Cookie(&'a str),
}

pub(super) fn subject(condition: &Condition) -> Subject<'_> {
    match condition {
        Condition::Method(_) => Subject::Method,
        Condition::Header(name, _) => Subject::Header(name),
        Condition::Query(name, _) => Subject::Query(name),
        Condition::Cookie(name, _) => Subject::Cookie(name),
    }
}

pub(super) fn wanted_value(condition: &Condition) -> Option<&str> {
    match condition {
        Condition::Header(_, Expected::Value(value))
        | Condition::Query(_, Expected::Value(value))
        | Condition::Cookie(_, Expected::Value(value)) => Some(&value.text),
        _ => None,
    }
}

pub(super) fn wanted_values(route: &Route) -> impl Iterator<Item = (Subject<'_>, &str)> {
    route
        .when
        .iter()
        .filter_map(|condition| Some((subject(condition), wanted_value(condition)?)))
}
