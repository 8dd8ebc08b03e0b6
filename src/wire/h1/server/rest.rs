//! After an answer: the rest of its request, or the end of the connection.
//!
//! A request body that nobody pulled is read and dropped if little of it is to come, so that the
//! connection can be kept; otherwise, and after a refusal, the connection lingers: our side is
//! shut down and what the client still sends is dropped for a while, because a close with unread
//! bytes is a reset that can destroy the answer on its way (RFC 9112 section 9.6).

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::message::{BodyStream, Downstream, Frame};
use crate::util::clock;
use crate::util::timer::SweepSlot;
use crate::util::turn::next_round;
use crate::wire::h1::inbound::Fill;
use crate::wire::h1::server::answering::DRAIN_BYTES;
use crate::wire::h1::server::connection::ServerConnection;

/// For reading what is worth reading.
const DRAIN: Duration = Duration::from_secs(2);
/// For the client to take the answer and close.
const LINGER: Duration = Duration::from_secs(3);
/// A client that sends more than this into the void is not waited for.
const LINGER_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes per wake-up.
const BUDGET: u64 = 1024 * 1024;

pub(super) struct Rest {
    stream: Option<Box<dyn BodyStream>>,
    end: Option<Close>,
    drained: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The answer's body still moves the request's.
    Pumping,
    Draining,
    ShuttingDown,
    Lingering,
}

/// How a connection ends after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The client asked for it and sends nothing more.
    AtOnce,
    /// The client may be sending its next request right now.
    Linger,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Next,
    Closed,
    Broken,
}

impl Rest {
    pub(super) fn new(stream: Option<Box<dyn BodyStream>>, end: Option<Close>) -> Self {
        Rest {
            stream,
            end,
            drained: 0,
            stage: Stage::Pumping,
        }
    }

    pub(super) fn poll(
        &mut self,
        connection: &ServerConnection,
        slot: &SweepSlot,
        cx: &mut Context<'_>,
    ) -> Poll<After> {
        if self.stage == Stage::Pumping {
            ready!(self.poll_pump(cx));
            // Whatever the pump ended with, its answer is out; what is left is the request.
            self.stream = None;
            if let Some(after) = self.judge(connection, slot) {
                return Poll::Ready(after);
            }
        }
        if self.stage == Stage::Draining {
            match ready!(self.poll_drain(connection, slot, cx)) {
                true => return Poll::Ready(After::Next),
                false => self.linger(slot),
            }
        }
        if self.stage == Stage::ShuttingDown {
            if ready!(connection.borrow_mut().poll_shutdown(cx)).is_err() {
                return Poll::Ready(After::Broken);
            }
            self.stage = Stage::Lingering;
        }
        self.poll_linger(connection, slot, cx)
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(());
        };
        if stream.poll_pump(cx).is_ready() {
            return Poll::Ready(());
        }
        stream.poll_expired(cx, false).map(|_| ())
    }

    /// The short ways out; `None` leaves a stage to be polled.
    fn judge(&mut self, connection: &ServerConnection, slot: &SweepSlot) -> Option<After> {
        let inner = connection.borrow();
        let done = inner.reader.is_done();
        if self.end == Some(Close::AtOnce) && done && inner.inbound.is_empty() {
            return Some(After::Closed);
        }
        if self.end.is_none() && done {
            return Some(After::Next);
        }
        if connection.is_gone() {
            return Some(After::Broken);
        }
        if self.end.is_some() || inner.expects {
            self.linger(slot);
        } else {
            slot.set(clock::now() + DRAIN);
            self.stage = Stage::Draining;
        }
        None
    }

    fn linger(&mut self, slot: &SweepSlot) {
        slot.set_close(clock::now() + LINGER, LINGER);
        self.drained = 0;
        self.stage = Stage::ShuttingDown;
    }

    /// True once the request has been read to its end.
    fn poll_drain(
        &mut self,
        connection: &ServerConnection,
        slot: &SweepSlot,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        while self.drained <= DRAIN_BYTES {
            match Downstream::poll_frame(connection, cx) {
                Poll::Pending => return slot.poll_expired(cx).map(|()| false),
                Poll::Ready(Ok(Frame::Data(data))) => self.drained += data.len() as u64,
                Poll::Ready(Ok(Frame::Piped(_) | Frame::Trailers(_))) => {}
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(true),
                Poll::Ready(Err(_)) => break,
            }
        }
        Poll::Ready(false)
    }

    fn poll_linger(
        &mut self,
        connection: &ServerConnection,
        slot: &SweepSlot,
        cx: &mut Context<'_>,
    ) -> Poll<After> {
        let start = self.drained;
        loop {
            let mut inner = connection.borrow_mut();
            self.drained += inner.inbound.len() as u64;
            inner.inbound.clear();
            match inner.poll_fill(cx) {
                Poll::Pending => return slot.poll_expired(cx).map(|()| After::Closed),
                Poll::Ready(Ok(Fill::Bytes | Fill::Full)) if self.drained < LINGER_BYTES => {}
                Poll::Ready(_) => return Poll::Ready(After::Closed),
            }
            if self.drained - start > BUDGET {
                next_round(cx);
                return slot.poll_expired(cx).map(|()| After::Closed);
            }
        }
    }
}
