//! Counts of upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::durations::Durations;
use super::labelled;
use super::source::Source;
use crate::telemetry::shard::Sharded;

/// What became of a wish to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryResult {
    /// The retry gave an answer that goes to the client as a success.
    Success,
    /// The retry failed too.
    Failure,
    /// The budget had nothing left.
    BudgetExhausted,
    /// No untried server admitted it.
    NoServer,
}

impl RetryResult {
    pub(in crate::telemetry) const LABELS: [&str; 4] =
        ["success", "failure", "budget_exhausted", "no_server"];
}

/// The live state of an upstream at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamReading {
    pub queue_length: u64,
    /// `None`: there is none.
    pub concurrency_limit: Option<u32>,
    pub panic: bool,
}

/// Counts of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    pub(in crate::telemetry) name: Arc<str>,
    pub(in crate::telemetry) durations: Sharded<Durations>,
    /// Rare enough to be shared by all workers.
    retries: [AtomicU64; 4],
    source: Source<UpstreamReading>,
}

impl UpstreamMetrics {
    pub(in crate::telemetry) fn new(name: Arc<str>, workers: usize) -> Self {
        UpstreamMetrics {
            name,
            durations: Sharded::new(workers),
            retries: Default::default(),
            source: Source::empty(),
        }
    }

    /// Queue length and panic are read by `read` at each scrape. It is called from the control
    /// runtime and must not wait; hold the owner weakly in it.
    pub fn attach(&self, read: impl Fn() -> Option<UpstreamReading> + Send + Sync + 'static) {
        self.source.set(Box::new(read));
    }

    /// An attempt ended after `duration`: from its start to the end of the response body.
    pub fn attempt_ended(&self, duration: Duration) {
        let (shard, access) = self.durations.local();
        shard.observe(duration, access);
    }

    pub fn retried(&self, result: RetryResult) {
        self.retries[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::telemetry) fn reading(&self) -> Option<UpstreamReading> {
        self.source.read()
    }

    pub(in crate::telemetry) fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(RetryResult::LABELS, &self.retries)
    }
}
