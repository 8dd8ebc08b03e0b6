//! Of one name that servers are given by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::labelled;

/// How a question for a name ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveResult {
    Success,
    /// There is no such name.
    NotFound,
    /// The name is there, and has nothing of what was asked for.
    Empty,
    /// The service is decidedly not offered (RFC 2782, target `.`).
    Unavailable,
    Timeout,
    /// The name server refused the question.
    Refused,
    /// Anything else: a name server that failed, is not there, or says what cannot be read.
    Failure,
}

impl ResolveResult {
    const LABELS: [&'static str; 7] = [
        "success",
        "not_found",
        "empty",
        "unavailable",
        "timeout",
        "refused",
        "failure",
    ];

    /// Somebody who knows has said that there is nothing.
    pub fn is_definite(self) -> bool {
        matches!(
            self,
            ResolveResult::NotFound | ResolveResult::Empty | ResolveResult::Unavailable
        )
    }
}

/// Series of one name. Counted by the task that asks for it: a few times a minute.
#[derive(Debug)]
pub struct NameMetrics {
    pub(in crate::telemetry) name: Arc<str>,
    asked: [AtomicU64; ResolveResult::LABELS.len()],
    /// Unix seconds; 0 is never.
    last_success: AtomicU64,
}

impl NameMetrics {
    pub(in crate::telemetry) fn new(name: Arc<str>) -> Self {
        NameMetrics {
            name,
            asked: Default::default(),
            last_success: AtomicU64::new(0),
        }
    }

    /// Once per question, when it has ended.
    pub fn asked(&self, result: ResolveResult) {
        self.asked[result as usize].fetch_add(1, Ordering::Relaxed);
        if result == ResolveResult::Success {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = now.map_or(0, |now| now.as_secs());
            self.last_success.store(seconds, Ordering::Relaxed);
        }
    }

    pub(in crate::telemetry) fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(ResolveResult::LABELS, &self.asked)
    }

    pub(in crate::telemetry) fn last_success(&self) -> Option<u64> {
        match self.last_success.load(Ordering::Relaxed) {
            0 => None,
            seconds => Some(seconds),
        }
    }
}
