//! Waiting for a response head: the request goes out, interim answers come back, and whatever may
//! end the wait is watched.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Downstream, ResponseHead};
use crate::upstream::Lease;
use crate::util::timer::{Deadline, SweepSlot, Timers};
use crate::wire::h1::client::{Answer, Exchange, ExchangeError};

/// How often a waiting attempt looks whether its server was taken out, or its client has left
/// behind a body that the server does not take.
const CHECK: Duration = Duration::from_millis(250);

/// Why a wait ended without a head.
#[derive(Debug)]
pub enum WaitError {
    Exchange(ExchangeError),
    /// `timeout.first-byte` or `timeout.idle` passed.
    Timeout,
    /// `timeout.total` passed.
    TotalTimeout {
        /// It was the client's bytes that did not come.
        on_client: bool,
    },
    /// The client has gone.
    Gone,
    /// Active checks took the server out.
    TakenOut,
    /// `timeout.idle` passed, and it is the client's bytes that did not come.
    ClientStalled,
}

/// One wait; all of it is polled by the connection's own task.
pub struct HeadWait<'a> {
    pub exchange: &'a mut Exchange,
    pub downstream: &'a Rc<dyn Downstream>,
    pub timers: &'a Timers,
    pub total: &'a mut Option<Deadline>,
    /// Set: the wait ends when checks take the leased server out.
    pub taken_out: Option<&'a Lease>,
    pub idle: Option<Duration>,
    pub first_byte: Option<Duration>,
    /// An interim answer went to the client.
    pub interim_sent: bool,
    clock: &'a mut Clock,
    interim: Option<ResponseHead>,
}

/// Outlives a wait that was broken off and goes on. Either `idle` runs (the request is going out) or `first_byte` does; the latter stands for
/// the wait from the request's last byte to the head.
#[derive(Default)]
pub struct Clock {
    slot: Option<SweepSlot>,
    first_byte: Option<Deadline>,
    /// When `progress` was seen to change.
    moved: Option<Instant>,
    progress: u64,
}

impl<'a> HeadWait<'a> {
    pub fn new(
        exchange: &'a mut Exchange,
        downstream: &'a Rc<dyn Downstream>,
        timers: &'a Timers,
        total: &'a mut Option<Deadline>,
        clock: &'a mut Clock,
    ) -> Self {
        HeadWait {
            exchange,
            downstream,
            timers,
            total,
            taken_out: None,
            idle: None,
            first_byte: None,
            interim_sent: false,
            clock,
            interim: None,
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, WaitError>> {
        if let Poll::Ready(answer) = self.poll_answer(cx) {
            return Poll::Ready(answer.map_err(WaitError::Exchange));
        }
        if !self.exchange.pulls_body() && self.downstream.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(WaitError::Gone));
        }
        if self
            .total
            .as_mut()
            .is_some_and(|total| total.poll_expired(cx).is_ready())
        {
            let on_client = self.exchange.awaits_client();
            return Poll::Ready(Err(WaitError::TotalTimeout { on_client }));
        }
        self.poll_clock(cx).map(Err)
    }

    /// A final answer; interim ones are passed on as they come.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        loop {
            if let Some(interim) = &self.interim {
                if self.downstream.poll_interim(cx, interim).is_pending() {
                    return Poll::Pending;
                }
                self.interim = None;
            }
            match self.exchange.poll_head(cx) {
                Poll::Ready(Ok(Answer::Interim(mut head))) => {
                    super::hop_by_hop::clean_response(&mut head.fields);
                    self.interim = Some(head);
                    self.interim_sent = true;
                }
                other => return other,
            }
        }
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<WaitError> {
        let waiting_for_head = self.exchange.request_written();
        if waiting_for_head && self.poll_first_byte(cx).is_ready() {
            return Poll::Ready(WaitError::Timeout);
        }
        let idle = if waiting_for_head { None } else { self.idle };
        if idle.is_none() && self.taken_out.is_none() && !self.is_stalled() {
            return Poll::Pending;
        }
        self.poll_slot(cx, idle)
    }

    fn poll_first_byte(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.first_byte else {
            return Poll::Pending;
        };
        let timers = self.timers;
        self.clock
            .first_byte
            .get_or_insert_with(|| timers.after(limit))
            .poll_expired(cx)
    }

    /// The server takes nothing of the request body.
    fn is_stalled(&self) -> bool {
        self.exchange.pulls_body() && !self.exchange.awaits_client()
    }

    /// The sweep's share: no byte moved for `idle`, or the server was taken out.
    fn poll_slot(&mut self, cx: &mut Context<'_>, idle: Option<Duration>) -> Poll<WaitError> {
        if self.taken_out.is_some_and(Lease::taken_out) {
            return Poll::Ready(WaitError::TakenOut);
        }
        let now = Instant::now();
        let progress = self.exchange.progress();
        let stalled = self.is_stalled();
        let clock = &mut *self.clock;
        let moved = match clock.moved {
            Some(moved) if progress == clock.progress => moved,
            _ => now,
        };
        (clock.moved, clock.progress) = (Some(moved), progress);
        if stalled && now - moved >= CHECK && self.downstream.poll_gone(cx).is_ready() {
            return Poll::Ready(WaitError::Gone);
        }
        let idle_ends = idle.map(|idle| moved + idle);
        if idle_ends.is_some_and(|ends| now >= ends) {
            return Poll::Ready(WaitError::Timeout);
        }
        let check = (stalled || self.taken_out.is_some()).then(|| now + CHECK);
        let next = [idle_ends, check].into_iter().flatten().min();
        let timers = self.timers;
        let slot = clock.slot.get_or_insert_with(|| timers.slot());
        if let Some(next) = next {
            match idle {
                Some(idle) if idle_ends == Some(next) => slot.set_end(next, idle),
                _ => slot.set(next),
            }
            // Registers only: `next` is ahead.
            let _registered = slot.poll_expired(cx);
        }
        Poll::Pending
    }
}
