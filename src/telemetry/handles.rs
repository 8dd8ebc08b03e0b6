//! What the data path counts with: one object per listener, route, upstream and server.
//!
//! A handle is shared by every snapshot that has an object of that name, so counts go on over a
//! reload; its series are gone from the next scrape when the last holder drops it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Reason;
use super::shard::{Cell64, Counter, Level, Sharded};
use super::table::Table;

/// Upper bounds in seconds: OpenTelemetry's list for HTTP durations.
pub(super) const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

const BUCKET_MICROS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000,
    2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// Methods that are label values of their own; all others are `other`.
pub(super) const METHODS: [&str; 10] = [
    "other", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE",
];

fn method_index(method: &str) -> usize {
    METHODS
        .iter()
        .skip(1)
        .position(|known| *known == method)
        .map_or(0, |found| found + 1)
}

/// Durations by bucket, of one worker.
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// The last is +Inf; not cumulative.
    pub counts: [Cell64; 15],
    pub sum_nanos: Cell64,
}

#[derive(Debug, Default)]
pub(super) struct RouteShard {
    pub durations: Durations,
    pub request_bytes: Cell64,
    pub response_bytes: Cell64,
}

#[derive(Debug, Default)]
pub(super) struct ListenerShard {
    pub in_flight: Level,
    pub connections: Level,
    pub accepted: Cell64,
    pub refused: Cell64,
}

impl Durations {
    fn observe(&self, duration: Duration, access: super::shard::Access) {
        let micros = duration.as_micros();
        // `le` is inclusive; a duration a fraction of a microsecond above a bound counts below it.
        let bucket = BUCKET_MICROS
            .iter()
            .position(|&bound| micros <= u128::from(bound));
        self.counts[bucket.unwrap_or(BUCKET_MICROS.len())].add(1, access);
        self.sum_nanos.add(
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            access,
        );
    }
}

/// Counts of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(super) name: Arc<str>,
    /// Part of the keys of [`RouteMetrics`]; the same for the same name for ever.
    pub(super) slot: u64,
    pub(super) shards: Sharded<ListenerShard>,
}

impl ListenerMetrics {
    pub(super) fn new(name: Arc<str>, slot: u64, workers: usize) -> Self {
        ListenerMetrics {
            name,
            slot,
            shards: Sharded::new(workers),
        }
    }

    /// A connection was accepted and is open until [`ListenerMetrics::connection_closed`].
    pub fn connection_opened(&self) {
        let (shard, access) = self.shards.local();
        shard.connections.add(1, access);
        shard.accepted.add(1, access);
    }

    pub fn connection_closed(&self) {
        let (shard, access) = self.shards.local();
        shard.connections.add(-1, access);
    }

    /// Accepted and closed at once, or turned away by a limit.
    pub fn connection_refused(&self) {
        let (shard, access) = self.shards.local();
        shard.refused.add(1, access);
    }

    /// A request head is complete; in flight until [`ListenerMetrics::request_ended`].
    pub fn request_started(&self) {
        let (shard, access) = self.shards.local();
        shard.in_flight.add(1, access);
    }

    pub fn request_ended(&self) {
        let (shard, access) = self.shards.local();
        shard.in_flight.add(-1, access);
    }

    pub fn requests_in_flight(&self) -> i64 {
        self.shards
            .iter()
            .map(|shard| shard.in_flight.value())
            .sum()
    }

    pub fn connections_active(&self) -> i64 {
        self.shards
            .iter()
            .map(|shard| shard.connections.value())
            .sum()
    }
}

/// Counts of one route, or of requests without one.
#[derive(Debug)]
pub struct RouteMetrics {
    pub(super) name: Arc<str>,
    /// By listener slot, method and code.
    pub(super) requests: Table,
    pub(super) shards: Sharded<RouteShard>,
}

impl RouteMetrics {
    pub(super) fn new(name: Arc<str>, workers: usize) -> Self {
        RouteMetrics {
            name,
            requests: Table::new(workers),
            shards: Sharded::new(workers),
        }
    }

    /// A request ended: `status` as in the access log, `duration` from the first byte of the
    /// request to the last of the response, bytes of the bodies.
    pub fn completed(
        &self,
        listener: &ListenerMetrics,
        method: &str,
        status: u16,
        duration: Duration,
        bytes: (u64, u64),
    ) {
        self.requests
            .add(request_key(listener.slot, method_index(method), status), 1);
        let (shard, access) = self.shards.local();
        shard.durations.observe(duration, access);
        shard.request_bytes.add(bytes.0, access);
        shard.response_bytes.add(bytes.1, access);
    }

    /// Requests so far, over all listeners.
    pub fn requests_total(&self) -> u64 {
        self.requests.totals().values().sum()
    }
}

fn request_key(slot: u64, method: usize, status: u16) -> u64 {
    // A status has at most three digits; what has more is none, and 0 stands for it.
    let status = if status < 1000 { u64::from(status) } else { 0 };
    slot << 14 | (method as u64) << 10 | status
}

pub(super) fn request_key_parts(key: u64) -> (u64, usize, u16) {
    (key >> 14, (key >> 10 & 0xf) as usize, (key & 0x3ff) as u16)
}

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

    pub(super) fn label(key: u64) -> String {
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
    pub(super) const LABELS: [&str; 4] = ["success", "failure", "budget_exhausted", "no_server"];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectResult {
    Ok,
    Refused,
    Timeout,
    /// Anything else: unreachable, no address, no descriptors left.
    Failed,
}

impl ConnectResult {
    pub(super) const LABELS: [&str; 4] = ["ok", "refused", "timeout", "failed"];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    Success,
    Failure,
    Timeout,
}

impl CheckResult {
    pub(super) const LABELS: [&str; 3] = ["success", "failure", "timeout"];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerReading {
    Closed,
    HalfOpen,
    Open,
}

impl BreakerReading {
    /// In the order of the values of the state metric.
    pub(super) const LABELS: [&str; 3] = ["closed", "half-open", "open"];

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
    /// As configured or overridden.
    pub weight: u32,
    pub breaker: BreakerReading,
}

/// The live state of an upstream at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamReading {
    pub queue_length: u64,
    pub panic: bool,
}

/// Reads live state at a scrape; `None` when its owner is gone.
type Reading<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// Where a handle gets readings from; replaced when the owner of the live state is.
struct Source<T>(Mutex<Option<Reading<T>>>);

impl<T> Source<T> {
    fn empty() -> Self {
        Source(Mutex::new(None))
    }

    fn set(&self, read: Reading<T>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    fn read(&self) -> Option<T> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|read| read())
    }
}

impl<T> std::fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// Counts of one upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    pub(super) name: Arc<str>,
    pub(super) durations: Sharded<Durations>,
    retries: [Counter; 4],
    source: Source<UpstreamReading>,
}

impl UpstreamMetrics {
    pub(super) fn new(name: Arc<str>, workers: usize) -> Self {
        UpstreamMetrics {
            name,
            durations: Sharded::new(workers),
            retries: std::array::from_fn(|_| Counter::new(workers)),
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
        self.retries[result as usize].add(1);
    }

    pub(super) fn reading(&self) -> Option<UpstreamReading> {
        self.source.read()
    }

    pub(super) fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RetryResult::LABELS
            .into_iter()
            .zip(self.retries.iter().map(Counter::value))
    }
}

/// Counts of one server of an upstream.
#[derive(Debug)]
pub struct ServerMetrics {
    pub(super) upstream: Arc<str>,
    pub(super) server: Arc<str>,
    pub(super) attempts: Table,
    connects: [Counter; 4],
    checks: [AtomicU64; 3],
    transitions: [AtomicU64; 3],
    source: Source<ServerReading>,
}

impl ServerMetrics {
    pub(super) fn new(upstream: Arc<str>, server: Arc<str>, workers: usize) -> Self {
        ServerMetrics {
            upstream,
            server,
            attempts: Table::new(workers),
            connects: std::array::from_fn(|_| Counter::new(workers)),
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
        self.attempts.add(outcome.key(), 1);
    }

    pub fn connected(&self, result: ConnectResult) {
        self.connects[result as usize].add(1);
    }

    pub fn checked(&self, result: CheckResult) {
        self.checks[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The breaker is now in state `to`. [`super::events::breaker`] logs and calls this.
    pub(super) fn breaker_moved(&self, to: BreakerReading) {
        self.transitions[to as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reading(&self) -> Option<ServerReading> {
        self.source.read()
    }

    pub(super) fn connects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ConnectResult::LABELS
            .into_iter()
            .zip(self.connects.iter().map(Counter::value))
    }

    pub(super) fn checks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .checks
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        CheckResult::LABELS.into_iter().zip(counts)
    }

    pub(super) fn transitions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self
            .transitions
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        BreakerReading::LABELS.into_iter().zip(counts)
    }

    /// Attempts so far, over all outcomes.
    pub fn attempts_total(&self) -> u64 {
        self.attempts.totals().values().sum()
    }

    /// Attempts so far that failed or were answered with 500 and above.
    pub fn failures_total(&self) -> u64 {
        let failed = |key: u64| key >> 16 != 1 || (key & 0xffff) >= 500;
        self.attempts
            .totals()
            .iter()
            .filter(|(key, _)| failed(**key))
            .map(|(_, n)| n)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn request_keys_come_apart_again(slot in 1u64..1 << 40, method in 0usize..10, status in 0u16..1000) {
            prop_assert_eq!(request_key_parts(request_key(slot, method, status)), (slot, method, status));
        }

        #[test]
        fn a_duration_falls_into_the_first_bucket_that_holds_it(micros in 0u64..20_000_000) {
            let durations = Durations::default();
            durations.observe(Duration::from_micros(micros), super::super::shard::Access::Shared);
            let bucket = durations.counts.iter().position(|count| count.value() == 1).unwrap_or(99);
            let seconds = micros as f64 / 1e6;
            prop_assert!(bucket == 14 || seconds <= BUCKETS[bucket]);
            prop_assert!(bucket == 0 || seconds > BUCKETS[bucket - 1]);
        }
    }

    #[test]
    fn unknown_methods_are_other() {
        assert_eq!(METHODS[method_index("BREW")], "other");
        assert_eq!(METHODS[method_index("get")], "other");
        assert_eq!(METHODS[method_index("PATCH")], "PATCH");
    }

    #[test]
    fn outcomes_have_their_status_or_reason_as_label() {
        assert_eq!(Outcome::label(Outcome::Status(200).key()), "200");
        assert_eq!(
            Outcome::label(Outcome::Failed(Reason::ConnectRefused).key()),
            "connect_refused"
        );
    }
}
