//! The claim on one request slot of one server.
//!
//! Counted when made and released once on every way out, because releasing is its drop. What came
//! of the attempt is reported on it; a lease that ends without a report frees its probe and counts
//! for nothing, so a client that leaves never looks like a failed server.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::breaker::{Ticket, Transition, Usual};
use crate::upstream::common::Common;
use crate::upstream::limit::Admission;
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

/// The claim on one request slot, with the probe of a half-open breaker.
#[derive(Debug)]
pub struct Lease {
    server: Arc<Server>,
    /// `None` only while it is dropped.
    ticket: Option<Ticket>,
    /// Still holds its slot.
    slot: bool,
    /// Of the server when the lease was made.
    taken_out: u32,
    admission: Admission,
}

impl Lease {
    /// Takes over a slot that is counted already.
    pub(super) fn new(server: Arc<Server>, ticket: Ticket) -> Self {
        let taken_out = server.taken_out();
        Lease {
            server,
            ticket: Some(ticket),
            slot: true,
            taken_out,
            admission: Admission::NONE,
        }
    }

    /// Holds a place under the upstream's limit, too.
    pub(super) fn admitted(&mut self, admission: Admission) {
        self.admission = admission;
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The response head came at `now`, `latency` after the attempt started. A status of
    /// `failure-status` is a failure to the breaker, any other a success.
    pub fn answered(&mut self, now: Instant, latency: Duration, status: u16) {
        let common = self.server.common();
        if self.admission != Admission::NONE {
            common.limit().answered(latency, status);
        }
        let rules = common.rules().breaker();
        if status >= rules.failure_from && is_failure(common, status) {
            self.server.set_unreached(false);
            return self.failed(now, latency);
        }
        let now = common.ms(now);
        self.server.latency().observe(latency, now);
        let Some(ticket) = &mut self.ticket else {
            return;
        };
        let breaker = self.server.breaker();
        let (settings, places) = (|| common.settings(), common.places());
        let transition = match breaker.count_usual(ticket, latency, now, rules) {
            Usual::Settled => return,
            Usual::ToJudge(at) => breaker.judge_success(at, &settings().breaker, places),
            Usual::Other => {
                breaker.report_success(ticket, latency, now, &settings().breaker, places)
            }
        };
        self.note(transition);
    }

    /// As [`Lease::answered`], for a call of gRPC whose status came with the head.
    pub fn call_refused(&mut self, now: Instant, latency: Duration, status: u16, code: u8) {
        if self.is_failed_call(code) {
            if self.admission != Admission::NONE {
                self.server.common().limit().dropped();
            }
            self.failed(now, latency);
        } else {
            self.answered(now, latency, status);
        }
    }

    /// The status of a call came after the response head: one of `failure-status` turns the
    /// success that was reported with the head into a failure.
    pub fn call_ended(&mut self, now: Instant, code: u8) {
        if self.is_failed_call(code) {
            self.body_failed(now);
        }
    }

    fn is_failed_call(&self, code: u8) -> bool {
        let settings = self.server.common().settings();
        settings.breaker.failure_grpc.contains(code)
    }

    /// No response head came; known at `now`, `elapsed` after the attempt started.
    pub fn failure(&mut self, now: Instant, elapsed: Duration, kind: FailureKind) {
        tracing::debug!(server = %self.server.label(), ?kind, "attempt failed");
        if self.admission != Admission::NONE {
            self.server.common().limit().failed(kind);
        }
        let probe = self.ticket.as_ref().is_some_and(Ticket::is_probe);
        self.server.attempt_failed(kind, probe);
        self.failed(now, elapsed);
    }

    fn failed(&mut self, now: Instant, elapsed: Duration) {
        let now_ms = self.server.common().ms(now);
        self.server.latency().observe_failure(elapsed, now_ms);
        self.report_failure(now_ms);
    }

    /// A reset, timeout or framing error after the response head: the success reported with the
    /// head becomes a failure.
    pub fn body_failed(&mut self, now: Instant) {
        self.report_failure(self.server.common().ms(now));
    }

    fn report_failure(&mut self, now_ms: u64) {
        let common = self.server.common();
        let Some(ticket) = &mut self.ticket else {
            return;
        };
        let transition = self.server.breaker().report_failure(
            ticket,
            now_ms,
            &common.settings().breaker,
            common.places(),
        );
        self.note(transition);
    }

    fn note(&self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.server.common().flipped(&self.server, transition);
        }
    }

    /// Leaves the count early: a tunnel or a `text/event-stream` that is established. Outcomes may
    /// still be reported.
    pub fn release_slot(&mut self) {
        if std::mem::take(&mut self.slot) {
            self.server.common().limit().leave(self.admission);
            self.server.free_slot();
        }
    }

    /// Checks took the server out since this lease was made: an attempt that still waits for its
    /// response head and may be retried should end.
    pub fn taken_out(&self) -> bool {
        self.server.taken_out() != self.taken_out
    }
}

fn is_failure(common: &Common, status: u16) -> bool {
    let settings = common.settings();
    let ranges = &settings.breaker.failure_status;
    ranges.iter().any(|range| range.contains(status))
}

impl Drop for Lease {
    fn drop(&mut self) {
        let probe = match self.ticket.take() {
            Some(ticket) => self.server.breaker().release(ticket),
            None => false,
        };
        self.release_slot();
        if probe {
            // The freed probe is ordered before the look at the queue, as a freed slot is.
            fence(Ordering::SeqCst);
            self.server.common().room_made();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::breaker::State;
    use crate::upstream::testing::{config, pick, publish, registry};
    use crate::upstream::upstream::Upstream;

    fn one() -> Arc<Upstream> {
        publish(&registry(), config(&[(1, 1)]))
    }

    fn state(upstream: &Upstream) -> State {
        upstream.servers()[0].breaker_state(&upstream.config().breaker)
    }

    fn answered(upstream: &Arc<Upstream>, status: u16) -> Lease {
        let mut lease = pick(upstream).expect("a server");
        lease.answered(Instant::now(), Duration::from_millis(5), status);
        lease
    }

    #[tokio::test]
    async fn a_slot_is_counted_once_and_released_once() {
        let upstream = one();
        let server = &upstream.servers()[0];
        let mut lease = pick(&upstream).unwrap();
        assert_eq!(server.in_flight(), 1);
        lease.release_slot();
        lease.release_slot();
        assert_eq!(server.in_flight(), 0, "a tunnel leaves the count");
        drop(lease);
        assert_eq!(server.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_cancelled_request_releases_its_slot() {
        let upstream = one();
        let lease = pick(&upstream).unwrap();
        let request = tokio::spawn(async move {
            let _lease = lease;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        assert_eq!(upstream.servers()[0].in_flight(), 1);
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert_eq!(upstream.servers()[0].in_flight(), 0);
    }

    #[tokio::test]
    async fn leases_without_a_report_are_neutral() {
        let upstream = one();
        for _ in 0..4 {
            drop(answered(&upstream, 503));
        }
        (0..100).for_each(|_| drop(pick(&upstream)));
        assert_eq!(state(&upstream), State::Closed);
        drop(answered(&upstream, 503));
        assert_eq!(state(&upstream), State::Open, "the run of failures went on");
    }

    #[tokio::test]
    async fn only_a_failure_status_is_a_failure() {
        let upstream = one();
        for _ in 0..20 {
            drop(answered(&upstream, 500));
            drop(answered(&upstream, 404));
        }
        assert_eq!(state(&upstream), State::Closed);
        for _ in 0..5 {
            drop(answered(&upstream, 502));
        }
        assert_eq!(state(&upstream), State::Open);
    }

    #[tokio::test]
    async fn a_body_that_fails_turns_its_success_into_a_failure() {
        let upstream = one();
        for _ in 0..5 {
            let mut lease = answered(&upstream, 200);
            lease.body_failed(Instant::now());
            lease.body_failed(Instant::now());
        }
        assert_eq!(
            state(&upstream),
            State::Open,
            "the run is not ended by such a success"
        );
    }

    #[tokio::test]
    async fn a_fast_failure_counts_as_slow() {
        let upstream = one();
        drop(answered(&upstream, 200));
        drop(answered(&upstream, 502));
        let latency = upstream.servers()[0].latency().latest().unwrap();
        assert!(latency >= 1.0, "{latency}");
    }
}
