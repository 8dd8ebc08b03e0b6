//! Counts of servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::labelled;
use super::source::Source;
use crate::telemetry::Reason;
use crate::telemetry::shard::Sharded;
use crate::telemetry::table::Table;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered.
    Status(u16),
    Failed(Reason),
}

impl Outcome {
    fn key(self) -> u64 {
        match self {
            Outcome::Status(status) => 1 << 16 | u64::from(status),
            Outcome::Failed(reason) => 2 << 16 | reason.index() as u64,
        }
    }

    pub(in crate::telemetry) fn label(key: u64) -> String {
        let value = key & 0xffff;
        match key >> 16 {
            1 => format!("{value:03}"),
            _ => Reason::ALL
                .get(value as usize)
                .map_or("other", |reason| reason.as_str())
                .into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectResult {
    Ok,
    Refused,
    Timeout,
    /// Anything else: unreachable, no address, no descriptors left.
    Failed,
    /// Connected, and then the handshake failed.
    TlsFailed,
}

impl ConnectResult {
    pub(in crate::telemetry) const LABELS: [&str; 5] =
        ["ok", "refused", "timeout", "failed", "tls_failed"];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    Success,
    Failure,
    Timeout,
}

impl CheckResult {
    pub(in crate::telemetry) const LABELS: [&str; 3] = ["success", "failure", "timeout"];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerReading {
    Closed,
    HalfOpen,
    Open,
}

impl BreakerReading {
    /// In the order of the values of the state metric.
    pub(in crate::telemetry) const LABELS: [&str; 3] = ["closed", "half-open", "open"];

    pub fn as_str(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

/// The live state of a server at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerReading {
    pub in_flight: u64,
    /// Moving average in seconds; `None` without samples.
    pub latency: Option<f64>,
    pub connections_active: u64,
    pub connections_idle: u64,
    pub healthy: bool,
    /// As configured or overridden; its part of that of a name.
    pub weight: f64,
    pub breaker: BreakerReading,
}

/// Counts of one server of an upstream.
#[derive(Debug)]
pub struct ServerMetrics {
    pub(in crate::telemetry) upstream: Arc<str>,
    pub(in crate::telemetry) server: Arc<str>,
    attempts: Sharded<Table>,
    /// These are rare enough to be shared by all workers.
    connects: [AtomicU64; 5],
    checks: [AtomicU64; 3],
    transitions: [AtomicU64; 3],
    source: Source<ServerReading>,
}

impl ServerMetrics {
    pub(in crate::telemetry) fn new(upstream: Arc<str>, server: Arc<str>, workers: usize) -> Self {
        ServerMetrics {
            upstream,
            server,
            attempts: Sharded::new(workers),
            connects: Default::default(),
            checks: Default::default(),
            transitions: Default::default(),
            source: Source::empty(),
        }
    }

    /// The gauges are read by `read` at each scrape. It is called from the control runtime and
    /// must not wait; hold the owner weakly in it.
    pub fn attach(&self, read: impl Fn() -> Option<ServerReading> + Send + Sync + 'static) {
        self.source.set(Box::new(read));
    }

    /// Once per attempt, when its outcome is known.
    pub fn attempted(&self, outcome: Outcome) {
        let (shard, access) = self.attempts.local();
        shard.add(outcome.key(), 1, access);
    }

    pub fn connected(&self, result: ConnectResult) {
        self.connects[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn checked(&self, result: CheckResult) {
        self.checks[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The breaker is now in state `to`. [`crate::telemetry::events::breaker`] logs and calls this.
    pub(in crate::telemetry) fn breaker_moved(&self, to: BreakerReading) {
        self.transitions[to as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By key of the outcome, over all workers.
    pub(in crate::telemetry) fn attempts(&self) -> BTreeMap<u64, u64> {
        Table::totals(self.attempts.iter())
    }

    pub(in crate::telemetry) fn reading(&self) -> Option<ServerReading> {
        self.source.read()
    }

    pub(in crate::telemetry) fn connects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(ConnectResult::LABELS, &self.connects)
    }

    pub(in crate::telemetry) fn checks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(CheckResult::LABELS, &self.checks)
    }

    pub(in crate::telemetry) fn transitions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        labelled(BreakerReading::LABELS, &self.transitions)
    }

    /// Attempts so far, over all outcomes.
    pub fn attempts_total(&self) -> u64 {
        self.attempts().values().sum()
    }

    /// Attempts so far that failed or were answered with 500 and above.
    pub fn failures_total(&self) -> u64 {
        let failed = |key: u64| key >> 16 != 1 || (key & 0xffff) >= 500;
        self.attempts()
            .iter()
            .filter(|(key, _)| failed(**key))
            .map(|(_, n)| n)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_status_or_reason_as_label() {
        assert_eq!(Outcome::label(Outcome::Status(200).key()), "200");
        assert_eq!(
            Outcome::label(Outcome::Failed(Reason::ConnectRefused).key()),
            "connect_refused"
        );
    }
}
