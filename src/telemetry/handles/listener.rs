//! Counts of listeners.

use std::sync::Arc;

use crate::telemetry::shard::{Cell64, Level, Sharded};

#[derive(Debug, Default)]
pub(in crate::telemetry) struct ListenerShard {
    pub in_flight: Level,
    pub connections: Level,
    pub accepted: Cell64,
    pub refused: Cell64,
    pub paused: Cell64,
    pub cut: [Cell64; CAUSES.len()],
    /// By [`Handshake`].
    pub handshakes: [Cell64; Handshake::LABELS.len()],
}

/// How a TLS handshake with a client ended: the values of `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// In full.
    Ok,
    /// An earlier session goes on.
    Resumed,
    Timeout,
    /// The client left, or its connection broke.
    ClientGone,
    /// What came was something else: plain HTTP, or garbage.
    NotTls,
    /// No version, cipher or application protocol in common.
    NothingInCommon,
    /// The client showed no certificate, or one that is not accepted.
    ClientCertificate,
    /// By an alert: most often it does not trust our certificate.
    RefusedByClient,
    ProtocolError,
}

impl Handshake {
    const LABELS: [&'static str; 9] = [
        "ok",
        "resumed",
        "timeout",
        "client_gone",
        "not_tls",
        "nothing_in_common",
        "client_certificate",
        "refused_by_client",
        "protocol_error",
    ];
}

/// Why connections are cut off, as the wire names them.
pub const CAUSES: [&str; 14] = [
    "protocol",
    "limits",
    "ping_flood",
    "settings_flood",
    "priority_flood",
    "window_update_flood",
    "resets",
    "empty_frames",
    "continuation_flood",
    "unknown_frames",
    "header_timeout",
    "dead_peer",
    "overload_idle",
    "overload_slow",
];

/// Counts of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    pub(in crate::telemetry) name: Arc<str>,
    /// Part of the keys of [`RouteMetrics`]; the same for the same name for ever.
    pub(in crate::telemetry) slot: u64,
    pub(in crate::telemetry) shards: Sharded<ListenerShard>,
}

impl ListenerMetrics {
    pub(in crate::telemetry) fn new(name: Arc<str>, slot: u64, workers: usize) -> Self {
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

    /// Nobody was accepted for a while: no descriptors, no memory or no place.
    pub fn accept_paused(&self) {
        let (shard, access) = self.shards.local();
        shard.paused.add(1, access);
    }

    /// Cut off because of what its client did; a cause that is not one of [`CAUSES`] is not counted.
    pub fn connection_cut(&self, cause: &str) {
        let (shard, access) = self.shards.local();
        if let Some(place) = CAUSES.iter().position(|known| *known == cause) {
            shard.cut[place].add(1, access);
        }
    }

    pub fn handshake_ended(&self, result: Handshake) {
        let (shard, access) = self.shards.local();
        shard.handshakes[result as usize].add(1, access);
    }

    /// By result.
    pub(in crate::telemetry) fn handshakes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Handshake::LABELS
            .into_iter()
            .enumerate()
            .map(|(index, label)| {
                let counts = self.shards.iter();
                (
                    label,
                    counts.map(|shard| shard.handshakes[index].value()).sum(),
                )
            })
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
