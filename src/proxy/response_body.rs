//! The response body on its way to the client. It owns the exchange: pulling it also moves the
//! request body upstream, and its end or drop ends the lease and writes the record.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{BodyError, BodyStream, Frame, Length};
use crate::proxy::account::Account;
use crate::proxy::answer::WayBack;
use crate::proxy::hop_by_hop;
use crate::telemetry::Reason;
use crate::upstream::Lease;
use crate::util::timer::{Deadline, SweepSlot, Timers};
use crate::wire::h1::client::ResponseBody;

/// What an answered exchange still holds.
pub struct ExchangeBody {
    inner: ResponseBody,
    /// Behind the connection that it is for: that is closed before its place is free.
    way_back: Option<WayBack>,
    lease: Option<Lease>,
    account: Box<Account>,
    clock: IdleClock,
    total: Option<Deadline>,
    ended: bool,
    /// The exchange's, when its idle clock was last looked at.
    progress: u64,
}

/// `timeout.idle` (or `tunnel`, for streams of events): no byte in any direction. One number that
/// the sweep reads; the clock is read when the exchange waits, not per frame.
pub struct IdleClock {
    limit: Option<Duration>,
    timers: Timers,
    slot: Option<SweepSlot>,
    ends: Option<Instant>,
}

impl IdleClock {
    pub fn new(limit: Option<Duration>, timers: Timers) -> Self {
        IdleClock {
            limit,
            timers,
            slot: None,
            ends: None,
        }
    }

    /// A byte moved.
    pub fn restart(&mut self) {
        self.ends = None;
    }

    /// Call when nothing else is ready.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        if self.ends.is_none() {
            let ends = Instant::now() + limit;
            self.ends = Some(ends);
            self.slot
                .get_or_insert_with(|| self.timers.slot())
                .set_end(ends, limit);
        }
        match &self.slot {
            Some(slot) => slot.poll_expired(cx),
            None => Poll::Pending,
        }
    }
}

impl ExchangeBody {
    pub fn new(
        inner: ResponseBody,
        way_back: WayBack,
        lease: Lease,
        account: Box<Account>,
        clock: IdleClock,
        total: Option<Deadline>,
    ) -> Self {
        ExchangeBody {
            inner,
            way_back: Some(way_back),
            lease: Some(lease),
            account,
            clock,
            total,
            ended: false,
            progress: 0,
        }
    }

    /// Ends an exchange without a body at once, so that its connection is free before the client
    /// has its answer. False while the request body still goes out.
    pub fn end_now(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        matches!(self.poll_frame(&mut cx), Poll::Ready(Ok(Frame::End)))
    }

    fn failed(&mut self, error: BodyError, fault: Fault) -> BodyError {
        self.ended = true;
        self.inner.close();
        self.way_back = None;
        if let Some(mut lease) = self.lease.take()
            && fault == Fault::Upstream
        {
            lease.body_failed(Instant::now());
        }
        self.account.broke_off(reason_of(error, fault));
        error
    }

    /// Releases everything once both bodies have ended.
    fn end_if_over(&mut self) {
        if self.inner.is_over() && !self.ended {
            self.ended = true;
            if let Some(way_back) = self.way_back.take()
                && let Some(connection) = self.inner.take_connection()
            {
                way_back.take(connection);
            }
            self.lease = None;
            self.account.finish();
        }
    }

    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let progress = self.inner.progress();
        if progress != self.progress {
            self.progress = progress;
            self.clock.restart();
        }
        if self
            .total
            .as_mut()
            .is_some_and(|total| total.poll_expired(cx).is_ready())
        {
            return Poll::Ready(BodyError::TotalTimeout);
        }
        self.clock.poll_expired(cx).map(|()| BodyError::IdleTimeout)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Upstream,
    Downstream,
}

fn reason_of(error: BodyError, fault: Fault) -> Reason {
    match (error, fault) {
        (BodyError::TotalTimeout, _) => Reason::TotalTimeout,
        (BodyError::TooLarge, _) => Reason::BodyTooLarge,
        (_, Fault::Downstream) | (BodyError::Aborted, _) => Reason::ClientClosed,
        (BodyError::Reset, Fault::Upstream) => Reason::UpstreamReset,
        (BodyError::Framing, Fault::Upstream) => Reason::BadResponse,
        (BodyError::IdleTimeout, Fault::Upstream) => Reason::ResponseTimeout,
    }
}

impl BodyStream for ExchangeBody {
    fn length(&self) -> Length {
        self.inner.length()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let frame = match self.inner.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Poll::Ready(error) = self.poll_time(cx) else {
                    return Poll::Pending;
                };
                let fault = if self.inner.awaits_client() {
                    Fault::Downstream
                } else {
                    Fault::Upstream
                };
                return Poll::Ready(Err(self.failed(error, fault)));
            }
        };
        self.clock.restart();
        Poll::Ready(match frame {
            Ok(Frame::Data(data)) => {
                self.account.response_bytes += data.payload() as u64;
                Ok(Frame::Data(data))
            }
            Ok(Frame::Piped(pipe)) => {
                self.account.response_bytes += pipe.len() as u64;
                Ok(Frame::Piped(pipe))
            }
            Ok(Frame::Trailers(mut trailers)) => {
                hop_by_hop::clean_trailers(&mut trailers);
                Ok(Frame::Trailers(trailers))
            }
            Ok(Frame::End) => {
                self.end_if_over();
                Ok(Frame::End)
            }
            Err(error) => {
                let fault = if self.inner.request_failed() {
                    Fault::Downstream
                } else {
                    Fault::Upstream
                };
                Err(self.failed(error, fault))
            }
        })
    }

    fn moves_request(&self) -> bool {
        !self.ended
    }

    fn take_pipes(&mut self) {
        self.inner.take_pipes();
    }

    fn at_end(&self) -> bool {
        self.inner.at_end()
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self.inner.poll_pump(cx) {
            Poll::Ready(Ok(())) => {
                self.end_if_over();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error, Fault::Downstream))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>, progressed: bool) -> Poll<BodyError> {
        if progressed {
            self.clock.restart();
        }
        // The request body still flows while the client does not read.
        match self.poll_time(cx) {
            Poll::Ready(error) => Poll::Ready(self.failed(error, Fault::Downstream)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for ExchangeBody {
    fn drop(&mut self) {
        if !self.ended {
            self.account.broke_off(Reason::ClientClosed);
        }
    }
}
