//! Counts of routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::durations::Durations;
use super::listener::ListenerMetrics;
use crate::telemetry::shard::{Cell64, Sharded};
use crate::telemetry::table::Table;

/// Methods that are label values of their own; all others are `other`.
pub(in crate::telemetry) const METHODS: [&str; 10] = [
    "other", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE",
];

fn method_index(method: &str) -> usize {
    METHODS
        .iter()
        .skip(1)
        .position(|known| *known == method)
        .map_or(0, |found| found + 1)
}

/// In an order that lets a usual request write to two cache lines.
#[derive(Debug, Default)]
#[repr(C)]
pub(in crate::telemetry) struct RouteShard {
    /// By listener slot, method and code.
    pub requests: Table,
    pub request_bytes: Cell64,
    pub response_bytes: Cell64,
    pub durations: Durations,
    pub rate_limited: Cell64,
    /// By [`MirrorResult`].
    pub mirrored: [Cell64; 3],
}

/// What became of the copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorResult {
    /// It was answered, whatever the answer was.
    Sent,
    /// It did not go out: too many were under way, no server took it, its body was too long or
    /// did not come.
    Dropped,
    /// It went out, or was about to, and was not answered.
    Failed,
}

impl MirrorResult {
    pub(in crate::telemetry) const LABELS: [&str; 3] = ["sent", "dropped", "failed"];
}

/// Counts of one route, or of requests without one.
#[derive(Debug)]
pub struct RouteMetrics {
    pub(in crate::telemetry) name: Arc<str>,
    pub(in crate::telemetry) shards: Sharded<RouteShard>,
    /// It has a mirror, or had one.
    mirrors: AtomicBool,
}

impl RouteMetrics {
    pub(in crate::telemetry) fn new(name: Arc<str>, workers: usize) -> Self {
        RouteMetrics {
            name,
            shards: Sharded::new(workers),
            mirrors: AtomicBool::new(false),
        }
    }

    /// Its copies are shown from now on, also while there is none.
    pub fn show_mirrored(&self) {
        self.mirrors.store(true, Ordering::Relaxed);
    }

    /// The copy of a request ended so.
    pub fn mirrored(&self, result: MirrorResult) {
        let (shard, access) = self.shards.local();
        shard.mirrored[result as usize].add(1, access);
    }

    /// Copies so far, where there may be any.
    pub(in crate::telemetry) fn mirrored_totals(&self) -> Vec<(&'static str, u64)> {
        if !self.mirrors.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let total = |index: usize| {
            self.shards
                .iter()
                .map(move |shard| shard.mirrored[index].value())
        };
        let labels = MirrorResult::LABELS.into_iter().enumerate();
        labels
            .map(|(index, label)| (label, total(index).sum()))
            .collect()
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
        let (shard, access) = self.shards.local();
        let key = request_key(listener.slot, method_index(method), status);
        shard.requests.add(key, 1, access);
        shard.durations.observe(duration, access);
        shard.request_bytes.add(bytes.0, access);
        shard.response_bytes.add(bytes.1, access);
    }

    /// A request was over the route's limit.
    pub fn rate_limited(&self) {
        let (shard, access) = self.shards.local();
        shard.rate_limited.add(1, access);
    }

    /// Requests so far, over all listeners.
    pub fn requests_total(&self) -> u64 {
        self.requests().values().sum()
    }

    /// By key, over all workers.
    pub(in crate::telemetry) fn requests(&self) -> BTreeMap<u64, u64> {
        Table::totals(self.shards.iter().map(|shard| &shard.requests))
    }
}

fn request_key(slot: u64, method: usize, status: u16) -> u64 {
    // A status has at most three digits; what has more is none, and 0 stands for it.
    let status = if status < 1000 { u64::from(status) } else { 0 };
    slot << 14 | (method as u64) << 10 | status
}

pub(in crate::telemetry) fn request_key_parts(key: u64) -> (u64, usize, u16) {
    (key >> 14, (key >> 10 & 0xf) as usize, (key & 0x3ff) as u16)
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
    }

    #[test]
    fn unknown_methods_are_other() {
        assert_eq!(METHODS[method_index("BREW")], "other");
        assert_eq!(METHODS[method_index("get")], "other");
        assert_eq!(METHODS[method_index("PATCH")], "PATCH");
    }
}
