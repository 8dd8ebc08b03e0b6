//! From listener, host, path and predicates to a route: pure, with an optional trace.
//!
//! All routes that match compete and the order in the file never matters. First a route that
//! names the listener, then the host (exact, longest wildcard suffix, any), then the path (exact,
//! longest prefix; a regex counts as its literal prefix and goes before a plain one of the same
//! length), then more conditions in `when`, then the higher `priority`. What is equal in all of
//! this is refused by the checker, but for different regexes: those are tried in the order of
//! their text.
//!
//! [`Router::find`] walks tables in exactly that order and takes the first that matches. The same
//! function with a [`Trace`] then says of every other route why it was not chosen: the data plane
//! and `explain` cannot disagree.

pub mod path;
pub mod spelling;
mod table;
pub mod trace;
mod when;

use std::cmp::Reverse;
use std::sync::Arc;

use regex::bytes::Regex;

use crate::config::model::{Config, HostPattern, ListenerId, PathMatch, Route, RouteId};
use crate::message::{Fields, Method};

pub use trace::{NoTrace, Outcome, Rank, Trace};
pub use when::{cookie_values, query_values};

use table::Hosts;
use when::Predicate;

/// What of a request decides its route.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub listener: ListenerId,
    /// Lower case, without port and trailing dot, as the sanitiser leaves it; `None` matches
    /// any-host routes only.
    pub host: Option<&'a [u8]>,
    /// In normal form, or `*`.
    pub path: &'a [u8],
    /// Without the `?`.
    pub query: Option<&'a [u8]>,
    pub method: &'a Method,
    pub fields: &'a Fields,
}

/// All routes of one configuration, ready to be looked up.
#[derive(Debug)]
pub struct Router {
    /// By [`RouteId`].
    candidates: Vec<Candidate>,
    /// By [`ListenerId`]: routes that name it.
    named: Vec<Option<Hosts>>,
    /// Routes that name no listener.
    unnamed: Hosts,
}

/// One route, with everything compiled that hashing does not decide.
#[derive(Debug)]
struct Candidate {
    regex: Option<Regex>,
    predicates: Box<[Predicate]>,
    route: Arc<Route>,
}

impl Router {
    pub fn build(config: &Config) -> Router {
        Router::from_routes(&config.routes)
    }

    /// `routes` by [`RouteId`].
    pub fn from_routes(routes: &[Arc<Route>]) -> Router {
        let mut named: Vec<Option<Hosts>> = Vec::new();
        let mut unnamed = Hosts::default();
        for (position, route) in routes.iter().enumerate() {
            let position = position as u32;
            if route.listeners.is_empty() {
                unnamed.insert(position, route);
            }
            for &ListenerId(listener) in &route.listeners {
                if named.len() <= listener {
                    named.resize_with(listener + 1, || None);
                }
                named[listener]
                    .get_or_insert_default()
                    .insert(position, route);
            }
        }
        let key = |position: u32| order(&routes[position as usize], position);
        for hosts in named.iter_mut().flatten().chain([&mut unnamed]) {
            hosts.sort_by_key(key);
        }
        Router {
            candidates: routes.iter().map(Candidate::compile).collect(),
            named,
            unnamed,
        }
    }

    /// The one route for this request; `trace` hears why it was none of the others.
    pub fn find(&self, query: &Query<'_>, trace: &mut impl Trace) -> Option<RouteId> {
        let accepts = |position: u32| self.candidates[position as usize].accepts(query);
        let named = self.named.get(query.listener.0).and_then(Option::as_ref);
        let found = named
            .and_then(|hosts| hosts.find(query.host, query.path, accepts))
            .or_else(|| self.unnamed.find(query.host, query.path, accepts))
            .map(|position| RouteId(position as usize));
        self.explain(query, found, trace);
        found
    }

    /// Says of every route what became of it; nothing when nobody listens.
    fn explain<T: Trace>(&self, query: &Query<'_>, chosen: Option<RouteId>, trace: &mut T) {
        if !T::ON {
            return;
        }
        let winner = chosen.map(|id| (id, &*self.candidates[id.0].route));
        for (position, candidate) in self.candidates.iter().enumerate() {
            let id = RouteId(position);
            trace.candidate(id, candidate.outcome(id, query, winner));
        }
    }
}

/// The order in which routes of one host and one literal prefix are tried: a regex first, then
/// more conditions, then priority; the rest only makes it the same whatever the file's order.
fn order(route: &Route, position: u32) -> impl Ord + use<'_> {
    let regex = match &route.path {
        PathMatch::Regex(regex) => Some(regex.source.as_str()),
        PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
    };
    (
        Reverse(regex.is_some()),
        Reverse(route.when.len()),
        Reverse(route.priority),
        regex,
        position,
    )
}

impl Candidate {
    fn compile(route: &Arc<Route>) -> Candidate {
        Candidate {
            regex: match &route.path {
                PathMatch::Regex(regex) => Some(regex.regex.clone()),
                PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
            },
            predicates: route.when.iter().map(Predicate::compile).collect(),
            route: Arc::clone(route),
        }
    }

    /// What the tables do not decide.
    fn accepts(&self, query: &Query<'_>) -> bool {
        self.regex
            .as_ref()
            .is_none_or(|regex| regex.is_match(query.path))
            && self
                .predicates
                .iter()
                .all(|predicate| predicate.holds(query))
    }

    /// The first reason why this is not the chosen one. Everything is looked at anew, without
    /// the tables.
    fn outcome(
        &self,
        id: RouteId,
        query: &Query<'_>,
        winner: Option<(RouteId, &Route)>,
    ) -> Outcome {
        let route = &*self.route;
        if !route.listeners.is_empty() && !route.listeners.contains(&query.listener) {
            return Outcome::OtherListener;
        }
        if !host_matches(route.host.as_ref(), query.host) {
            return Outcome::OtherHost;
        }
        if !path_matches(&route.path, query.path) {
            return Outcome::OtherPath;
        }
        let failed = |predicate: &Predicate| !predicate.holds(query);
        if let Some(condition) = self.predicates.iter().position(failed) {
            return Outcome::Condition(condition);
        }
        match winner {
            Some((by, winner)) if by != id => Outcome::Outranked {
                by,
                rank: deciding_rank(winner, route),
            },
            _ => Outcome::Chosen,
        }
    }
}

fn host_matches(pattern: Option<&HostPattern>, host: Option<&[u8]>) -> bool {
    match (pattern, host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(HostPattern::Exact(exact)), Some(host)) => exact.as_bytes() == host,
        (Some(HostPattern::Wildcard(suffix)), Some(host)) => host
            .strip_suffix(suffix.as_bytes())
            .and_then(|labels| labels.strip_suffix(b"."))
            .is_some_and(|labels| !labels.is_empty()),
    }
}

fn path_matches(pattern: &PathMatch, path: &[u8]) -> bool {
    match pattern {
        PathMatch::Exact(exact) => exact.as_bytes() == path,
        PathMatch::Prefix(prefix) => {
            prefix.is_empty()
                || path
                    .strip_prefix(prefix.as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        }
        PathMatch::Regex(regex) => regex.regex.is_match(path),
    }
}

/// Why `winner` goes before `loser`, where both match the same request.
fn deciding_rank(winner: &Route, loser: &Route) -> Rank {
    if winner.listeners.is_empty() != loser.listeners.is_empty() {
        return Rank::Listener;
    }
    if winner.host != loser.host {
        return Rank::Host;
    }
    let place = |route: &Route| match &route.path {
        PathMatch::Exact(_) => (true, 0),
        PathMatch::Prefix(prefix) => (false, prefix.len()),
        PathMatch::Regex(regex) => (false, regex.literal_prefix.len()),
    };
    if place(winner) != place(loser) {
        return Rank::Path;
    }
    let is_regex = |route: &Route| matches!(route.path, PathMatch::Regex(_));
    if is_regex(winner) != is_regex(loser) {
        return Rank::Regex;
    }
    if winner.when.len() != loser.when.len() {
        return Rank::Conditions;
    }
    Rank::Priority
}

#[cfg(test)]
mod tests;
