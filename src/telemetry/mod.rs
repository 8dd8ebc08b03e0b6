//! What an operator sees: metrics, events, the access log.
//!
//! - [`Metrics`] owns every family; snapshots hold handles ([`RouteMetrics`], ...), resolved once
//!   when they are built, so that a request never looks up a label.
//! - [`events`]: things that happen once (reload, health, breaker): each logs and counts in one
//!   function.
//! - [`AccessLog`]: one line per request, formatted on the worker, written by one thread.
//! - [`Reason`]: why an answer is ours and not a server's; the closed set behind the error table,
//!   the header, the log field and the metric label.

mod access;
pub mod events;
mod handles;
pub mod logging;
mod metrics;
mod process;
mod reason;
mod scrape;
pub mod shard;
mod sink;
mod table;

pub use access::{AccessLog, AccessLogWriter, Attempt, Prepared, Record};
pub use handles::CAUSES as CUT_CAUSES;
pub use handles::{
    BreakerReading, CheckResult, ConnectResult, Handshake, ListenerMetrics, MirrorResult,
    NameMetrics, Outcome, ResolveResult, RetryResult, RouteMetrics, ServerMetrics, ServerReading,
    UpstreamMetrics, UpstreamReading,
};
pub use metrics::Metrics;
pub use reason::Reason;
