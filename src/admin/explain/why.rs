//! What became of a route, in words.

use super::RouteVerdict;
use crate::config::model::{HostPattern, PathMatch, RouteId};
use crate::router::{Outcome, Rank};
use crate::snapshot::Snapshot;

pub(super) fn verdict(snapshot: &Snapshot, route: RouteId, outcome: Outcome) -> RouteVerdict {
    let rules = &snapshot.route(route).rules;
    let why = match outcome {
        Outcome::Chosen => "chosen".to_owned(),
        Outcome::OtherListener => "it names other listeners".to_owned(),
        Outcome::OtherHost => match &rules.host {
            Some(HostPattern::Exact(host)) => format!("its host is {host}"),
            Some(HostPattern::Wildcard(suffix)) => format!("its host is *.{suffix}"),
            None => "its host is another".to_owned(),
        },
        Outcome::OtherPath => match &rules.path {
            PathMatch::Exact(path) => format!("its path is exactly {path}"),
            PathMatch::Prefix(prefix) => format!("its prefix is {prefix}"),
            PathMatch::Regex(regex) => format!("its regex {} does not match", regex.source),
        },
        Outcome::Condition(index) => match rules.when.get(index) {
            Some(condition) => format!("its condition on {condition} does not hold"),
            None => "a condition does not hold".to_owned(),
        },
        Outcome::Outranked { by, rank } => {
            let winner = &snapshot.route(by).rules.name;
            format!("it matches, but {winner} {}", advantage(rank))
        }
    };
    RouteVerdict {
        name: rules.name.to_string(),
        origin: rules.origin.clone(),
        chosen: outcome == Outcome::Chosen,
        why,
    }
}

fn advantage(rank: Rank) -> &'static str {
    match rank {
        Rank::Listener => "names the listener",
        Rank::Host => "has the more specific host",
        Rank::Path => "has the more specific path",
        Rank::Regex => "has a regex, which goes before a plain prefix of that length",
        Rank::Conditions => "has more conditions",
        Rank::Priority => "has the higher priority",
    }
}
