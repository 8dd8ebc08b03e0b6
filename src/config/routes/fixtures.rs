//! Routes made in a line, for the tests of everything that works on routes.

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
