//! The response body on its way to the client. It owns the exchange: pulling it also moves the
//! request body upstream, and its end or drop ends the lease and writes the record.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use crate::config::model::ProxyProtocol;
use crate::message::{BodyError, BodyStream, Frame, Length};
use crate::proxy::attempt::Held;
use crate::proxy::context::{Bound, ConnectionInfo};
use crate::proxy::passage::{Passage, Stage};
use crate::proxy::patience::IdleClock;
use crate::proxy::transaction::Transaction;
use crate::proxy::{grpc, hop_by_hop};
use crate::telemetry::Reason;
use crate::util::clock;
use crate::util::timer::Awaits;
use crate::wire::Cut;
use crate::wire::client::{Connection, ResponseBody};

/// What an answered exchange still holds. The order of fields matters: the connection is closed
/// before its place is free.
pub(super) struct AnswerBody {
    inner: ResponseBody,
    /// Until the exchange has ended.
    held: Option<Held>,
    clock: IdleClock,
    /// A stream of events, a call of gRPC: silence is no slowness.
    endless: bool,
    /// The exchange's, when its idle clock was last looked at.
    progress: u64,
}

impl AnswerBody {
    pub fn new(inner: ResponseBody, held: Held, idle: Option<Duration>, endless: bool) -> Self {
        AnswerBody {
            inner,
            held: Some(held),
            clock: IdleClock::new(idle),
            endless,
            progress: 0,
        }
    }

    /// Whether its client is too slow for a time in which its place is needed.
    fn is_slow(&self, transaction: &Transaction, reader: bool) -> bool {
        if self.endless {
            return false;
        }
        let awaits = match reader {
            true => Awaits::Reader,
            false if self.inner.awaits_client() => Awaits::Bytes,
            false => Awaits::Nothing,
        };
        let moved = self.inner.progress() + transaction.account.response_bytes;
        transaction.patience.awaits(awaits, moved)
    }

    fn cut_slow(&mut self, transaction: &mut Transaction) -> BodyError {
        self.inner.close();
        self.held = None;
        transaction.account.client_cut(Cut::OverloadSlow);
        transaction.account.broke_off(Reason::Overloaded);
        BodyError::IdleTimeout
    }

    fn failed(
        &mut self,
        transaction: &mut Transaction,
        error: BodyError,
        fault: Fault,
    ) -> BodyError {
        if (error, fault) == (BodyError::IdleTimeout, Fault::Upstream) {
            self.inner.doubt();
        }
        self.inner.close();
        if let Some(mut held) = self.held.take()
            && fault == Fault::Upstream
        {
            held.lease.body_failed(clock::now());
        }
        transaction.account.broke_off(reason_of(error, fault));
        error
    }

    /// Releases everything once both bodies have ended.
    fn end_if_over(&mut self, transaction: &mut Transaction) {
        if !self.inner.is_over() {
            return;
        }
        let Some(held) = self.held.take() else { return };
        match self.inner.take_connection() {
            Some(connection) => held.hand_back(connection, &transaction.connection),
            None => drop(held),
        }
        transaction.account.finish();
    }

    fn poll_time(
        &mut self,
        transaction: &Transaction,
        cx: &mut TaskContext<'_>,
    ) -> Poll<BodyError> {
        let progress = self.inner.progress();
        if progress != self.progress {
            self.progress = progress;
            self.clock.restart();
        }
        if transaction.poll_total(cx).is_ready() {
            return Poll::Ready(BodyError::TotalTimeout);
        }
        self.clock
            .poll_expired(&transaction.patience, cx)
            .map(|()| BodyError::IdleTimeout)
    }

    fn poll_frame(
        &mut self,
        transaction: &mut Transaction,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Frame, BodyError>> {
        let frame = match self.inner.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if self.is_slow(transaction, false) {
                    return Poll::Ready(Err(self.cut_slow(transaction)));
                }
                let Poll::Ready(error) = self.poll_time(transaction, cx) else {
                    return Poll::Pending;
                };
                let fault = if self.inner.awaits_client() {
                    Fault::Downstream
                } else {
                    Fault::Upstream
                };
                return Poll::Ready(Err(self.failed(transaction, error, fault)));
            }
        };
        self.clock.restart();
        Poll::Ready(match frame {
            Ok(Frame::Data(data)) => {
                transaction.account.response_bytes += data.payload() as u64;
                Ok(Frame::Data(data))
            }
            Ok(Frame::Piped(pipe)) => {
                transaction.account.response_bytes += pipe.len() as u64;
                Ok(Frame::Piped(pipe))
            }
            Ok(Frame::Trailers(mut trailers)) => {
                if transaction.grpc
                    && let (Some(held), Some(code)) = (&mut self.held, grpc::status(&trailers))
                {
                    held.lease.call_ended(clock::now(), code);
                }
                hop_by_hop::clean_trailers(&mut trailers);
                Ok(Frame::Trailers(trailers))
            }
            Ok(Frame::End) => {
                self.end_if_over(transaction);
                Ok(Frame::End)
            }
            Err(error) => {
                let fault = if self.inner.request_failed() {
                    Fault::Downstream
                } else {
                    Fault::Upstream
                };
                Err(self.failed(transaction, error, fault))
            }
        })
    }

    fn poll_pump(
        &mut self,
        transaction: &mut Transaction,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), BodyError>> {
        match self.inner.poll_pump(cx) {
            Poll::Ready(Ok(())) => {
                self.end_if_over(transaction);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(self.failed(transaction, error, Fault::Downstream)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_expired(
        &mut self,
        transaction: &mut Transaction,
        cx: &mut TaskContext<'_>,
        progressed: bool,
    ) -> Poll<BodyError> {
        if self.is_slow(transaction, true) {
            return Poll::Ready(self.cut_slow(transaction));
        }
        if progressed {
            self.clock.restart();
        }
        // The request body still flows while the client does not read.
        match self.poll_time(transaction, cx) {
            Poll::Ready(error) => Poll::Ready(self.failed(transaction, error, Fault::Downstream)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Held {
    /// The exchange has ended: its connection goes back to where it may serve another.
    pub fn hand_back(self, connection: Connection, client: &ConnectionInfo) {
        // One that others use too carries nobody's identity.
        let alone = self.bound || self.introduction != ProxyProtocol::Off;
        if !alone || self.claim.is_place() {
            return self.claim.check_in(connection);
        }
        let kept = Bound {
            server: self.lease.server().clone(),
            connection,
            claim: self.claim,
        };
        if self.bound {
            *client.bound.borrow_mut() = Some(kept);
            return;
        }
        let mut introduced = client.introduced.borrow_mut();
        introduced.retain(|other| !Arc::ptr_eq(&other.server, &kept.server));
        if introduced.len() < MOST_INTRODUCED {
            introduced.push(kept);
        }
    }
}

/// Upstream connections that one downstream connection keeps for itself.
const MOST_INTRODUCED: usize = 8;

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

impl Passage {
    fn answering(&mut self) -> Option<(&mut Transaction, &mut AnswerBody)> {
        match (&mut self.transaction, &mut self.stage) {
            (Some(transaction), Stage::Answering(body)) => Some((transaction, body)),
            _ => None,
        }
    }

    fn passing(&self) -> Option<&AnswerBody> {
        match &self.stage {
            Stage::Answering(body) => Some(body),
            _ => None,
        }
    }
}

/// In its last stage.
impl BodyStream for Passage {
    fn length(&self) -> Length {
        self.passing()
            .map_or(Length::Unknown, |body| body.inner.length())
    }

    fn poll_frame(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Frame, BodyError>> {
        match self.answering() {
            Some((transaction, body)) => body.poll_frame(transaction, cx),
            None => Poll::Ready(Err(BodyError::Aborted)),
        }
    }

    fn take_pipes(&mut self) {
        if let Some((_, body)) = self.answering() {
            body.inner.take_pipes();
        }
    }

    fn moves_request(&self) -> bool {
        self.passing().is_some_and(|body| body.held.is_some())
    }

    fn at_end(&self) -> bool {
        self.passing().is_some_and(|body| body.inner.at_end())
    }

    fn poll_pump(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BodyError>> {
        match self.answering() {
            Some((transaction, body)) => body.poll_pump(transaction, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_expired(&mut self, cx: &mut TaskContext<'_>, progressed: bool) -> Poll<BodyError> {
        match self.answering() {
            Some((transaction, body)) => body.poll_expired(transaction, cx, progressed),
            None => Poll::Pending,
        }
    }
}
