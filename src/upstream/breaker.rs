//! The circuit breaker of one server: pure, the clock passed in as monotonic milliseconds.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::config::model::Breaker as Settings;
use crate::util::units::Percent;

/// One server's breaker; shared by all workers and the control task. Settings are passed to each
/// call, so that new ones apply to what was counted under the old.
#[derive(Debug)]
pub struct Breaker {}

/// What the breaker says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

/// An admitted attempt: report its outcome with it, and [`Breaker::release`] it in any case.
#[must_use = "a probe that is never released is lost to the breaker"]
#[derive(Debug)]
pub struct Ticket {}

/// A change that the caller logs and counts; any of the first four wakes the control task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Closed to open.
    Opened { cause: Cause, open_for: Duration },
    /// A probe failed: half-open to open again.
    Reopened { trips: u32, open_for: Duration },
    /// The open time is over; only from [`Breaker::tick`].
    HalfOpened,
    /// Enough probes succeeded (slow start follows), or the mode is no longer "on".
    Closed,
    /// It would have opened but for `max-ejected`; nothing changed. Once per run of failures.
    Withheld { cause: Cause },
    /// Mode "watch": it would have opened. Once per run of failures.
    WouldOpen { cause: Cause },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    ConsecutiveFailures,
    FailureRatio,
    SlowRatio,
}

impl Breaker {
    /// `salt` is any random number: it tells this server's jitter from that of others.
    pub fn new(salt: u64) -> Self {
        let _ = salt;
        todo!()
    }

    pub fn state(&self, settings: &Settings) -> State {
        let _ = settings;
        todo!()
    }

    /// Whether [`Breaker::admit`] would give a ticket now.
    pub fn would_admit(&self, settings: &Settings) -> bool {
        let _ = settings;
        todo!()
    }

    /// Admits an attempt: always when closed, as a probe when half-open and one is free, never
    /// when open.
    pub fn admit(&self, settings: &Settings) -> Option<Ticket> {
        let _ = settings;
        todo!()
    }

    /// The response head came after `latency` and is no failure.
    pub fn report_success(
        &self,
        ticket: &mut Ticket,
        latency: Duration,
        now_ms: u64,
        settings: &Settings,
        places: &Places,
    ) -> Option<Transition> {
        let _ = (ticket, latency, now_ms, settings, places);
        todo!()
    }

    /// The attempt failed; after [`Breaker::report_success`] it turns that success into a failure.
    pub fn report_failure(
        &self,
        ticket: &mut Ticket,
        now_ms: u64,
        settings: &Settings,
        places: &Places,
    ) -> Option<Transition> {
        let _ = (ticket, now_ms, settings, places);
        todo!()
    }

    /// The lease ended, whatever was reported. True when this freed a probe: somebody may wait.
    pub fn release(&self, ticket: Ticket) -> bool {
        let _ = ticket;
        todo!()
    }

    /// Does what time does (open to half-open) or a change of mode; only the control task calls it.
    pub fn tick(&self, now_ms: u64, settings: &Settings, places: &Places) -> Option<Transition> {
        let _ = (now_ms, settings, places);
        todo!()
    }

    /// When an open breaker lets probes through; `None` when it is not open.
    pub fn half_open_at(&self, settings: &Settings, now_ms: u64) -> Option<u64> {
        let _ = (settings, now_ms);
        todo!()
    }

    /// Gives back or takes over a place after the server left or joined those that `max-ejected`
    /// counts (`counted`); also with `false` when the server is removed.
    pub fn settle_place(&self, counted: bool, places: &Places) {
        let _ = (counted, places);
        todo!()
    }
}

/// The places for ejected servers of one upstream: `max-ejected` over all workers.
#[derive(Debug)]
pub struct Places(AtomicU64);

impl Places {
    /// How many may be ejected of `servers` (with weight, neither draining nor backup).
    pub fn limit(servers: usize, max_ejected: Percent) -> u32 {
        let _ = (servers, max_ejected);
        todo!()
    }

    pub fn new(limit: u32) -> Self {
        let _ = limit;
        todo!()
    }

    /// After a change of servers, weights or settings.
    pub fn set_limit(&self, limit: u32) {
        let _ = limit;
        todo!()
    }

    /// Ejected now.
    pub fn taken(&self) -> u32 {
        todo!()
    }
}
