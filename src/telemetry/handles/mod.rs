//! What the data path counts with: one object per listener, route, upstream and server.
//!
//! A handle is shared by every snapshot that has an object of that name, so counts go on over a
//! reload; its series are gone from the next scrape when the last holder drops it.

mod durations;
mod listener;
mod name;
mod route;
mod server;
mod source;
mod upstream;

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use durations::{BUCKETS, Durations};
pub use listener::CAUSES;
pub(super) use listener::ListenerShard;
pub use listener::{Handshake, ListenerMetrics};
pub use name::{NameMetrics, ResolveResult};
pub(super) use route::{METHODS, RouteShard, request_key_parts};
pub use route::{MirrorResult, RouteMetrics};
pub use server::{
    BreakerReading, CheckResult, ConnectResult, Outcome, ServerMetrics, ServerReading,
};
pub use upstream::{RetryResult, UpstreamMetrics, UpstreamReading};

/// Counts with the values of their label.
fn labelled<const N: usize>(
    labels: [&'static str; N],
    counts: &[AtomicU64; N],
) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
    labels.into_iter().zip(counts)
}
