//! The claim on one request slot of one server.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::server::Server;

/// What went wrong at a server. Never a client's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Connect,
    Tls,
    Reset,
    Timeout,
    BadResponse,
}

/// The claim on one request slot: counted when made, released once on every way out.
///
/// Report at most one outcome with the response head ([`answered`](Lease::answered)) or instead of
/// it ([`failure`](Lease::failure)); a lease dropped without either counts for nothing.
#[derive(Debug)]
pub struct Lease {
    server: Arc<Server>,
}

impl Lease {
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The response head came `latency` after the attempt started. A status of `failure-status` is
    /// a failure to the breaker, any other a success.
    pub fn answered(&mut self, _now: Instant, _latency: Duration, _status: u16) {
        todo!()
    }

    /// No response head came, `elapsed` after the attempt started.
    pub fn failure(&mut self, _now: Instant, _elapsed: Duration, _kind: FailureKind) {
        todo!()
    }

    /// A reset, timeout or framing error after the response head: the success reported with the
    /// head becomes a failure.
    pub fn body_failed(&mut self, _now: Instant) {
        todo!()
    }

    /// Leaves the count early: a tunnel or a `text/event-stream` that is established.
    pub fn release_slot(&mut self) {
        todo!()
    }

    /// Checks took the server out since this lease was made.
    pub fn taken_out(&self) -> bool {
        todo!()
    }
}
