//! Waiting for a response head: the request goes out, interim answers come back, and whatever may
//! end the wait is watched.

use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::ResponseHead;
use crate::proxy::attempt::Attempt;
use crate::proxy::hop_by_hop;
use crate::proxy::transaction::Transaction;
use crate::util::clock;
use crate::util::timer::Awaits;
use crate::wire::Cut;
use crate::wire::client::{Answer, ExchangeError};

/// How often a waiting attempt looks whether its server was taken out, or its client has left
/// behind a body that the server does not take.
pub(super) const CHECK: Duration = Duration::from_millis(250);

/// Why a wait ended without a head.
#[derive(Debug)]
pub(super) enum WaitError {
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

/// What a wait remembers from one wake-up to the next. Either `idle` runs (the request is going
/// out, or it is a call of gRPC) or `first_byte` does: from the request's last byte to the head.
#[derive(Default)]
pub(super) struct Waiting {
    /// Set once the request is out.
    first_byte_ends: Option<Instant>,
    /// When `progress` was seen to change.
    moved: Option<Instant>,
    progress: u64,
    /// An interim answer on its way to the client.
    interim: Option<Box<ResponseHead>>,
}

impl Attempt {
    /// All of it is polled by the connection's own task. Ready once; an error that may pass is
    /// [`WaitError::TakenOut`].
    pub(super) fn poll_head(
        &mut self,
        transaction: &Transaction,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Answer, WaitError>> {
        if let Poll::Ready(answer) = self.poll_answer(transaction, cx) {
            return Poll::Ready(answer.map_err(WaitError::Exchange));
        }
        if !self.exchange.pulls_body() && transaction.downstream.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(WaitError::Gone));
        }
        if transaction.poll_total(cx).is_ready() {
            let on_client = self.exchange.awaits_client();
            return Poll::Ready(Err(WaitError::TotalTimeout { on_client }));
        }
        self.poll_patience(transaction, cx).map(Err)
    }

    /// A final answer; interim ones are passed on as they come.
    fn poll_answer(
        &mut self,
        transaction: &Transaction,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Answer, ExchangeError>> {
        loop {
            if let Some(interim) = &self.waiting.interim {
                ready!(transaction.downstream.poll_interim(cx, interim));
                self.waiting.interim = None;
            }
            match self.exchange.poll_head(cx) {
                Poll::Ready(Ok(Answer::Interim)) => {
                    let Some(mut head) = self.exchange.take_head() else {
                        continue;
                    };
                    hop_by_hop::clean_response(&mut head.fields);
                    self.waiting.interim = Some(Box::new(head));
                    self.interim_sent = true;
                }
                other => return other,
            }
        }
    }

    /// No byte moved for `idle`, no head came within `first-byte`, or the server was taken out:
    /// looked at whenever the task wakes up, and the task is woken in time for it.
    fn poll_patience(
        &mut self,
        transaction: &Transaction,
        cx: &mut TaskContext<'_>,
    ) -> Poll<WaitError> {
        if self.watched && self.held.lease.taken_out() {
            return Poll::Ready(WaitError::TakenOut);
        }
        let timeout = transaction.account.timeout(self.route);
        let now = clock::now();
        let stalled = self.exchange.pulls_body() && !self.exchange.awaits_client();
        // A call may take its time to say its first word: silence is what ends it.
        let (limit, ends) = if self.exchange.request_written() && !transaction.grpc {
            let limit = timeout.first_byte;
            let first = &mut self.waiting.first_byte_ends;
            if first.is_none() && transaction.account.body.is_some() {
                transaction.patience.awaits(Awaits::Nothing, 0);
            }
            *first = first.or_else(|| limit.map(|limit| now + limit));
            (limit, *first)
        } else {
            let moved = self.moved(now);
            if self.exchange.pulls_body() && !transaction.grpc {
                let awaits = match stalled {
                    true => Awaits::Nothing,
                    false => Awaits::Bytes,
                };
                if transaction.patience.awaits(awaits, self.waiting.progress) {
                    transaction.account.client_cut(Cut::OverloadSlow);
                    return Poll::Ready(WaitError::ClientStalled);
                }
                transaction.patience.watch(cx);
            }
            if stalled && now - moved >= CHECK && transaction.downstream.poll_gone(cx).is_ready() {
                return Poll::Ready(WaitError::Gone);
            }
            (timeout.idle, timeout.idle.map(|idle| moved + idle))
        };
        if ends.is_some_and(|ends| now >= ends) {
            return Poll::Ready(if self.exchange.awaits_client() {
                WaitError::ClientStalled
            } else {
                WaitError::Timeout
            });
        }
        let check = (stalled || self.watched).then(|| now + CHECK);
        if let Some(next) = [ends, check].into_iter().flatten().min() {
            transaction.patience.wake_at(next, limit, cx);
        }
        Poll::Pending
    }

    /// When the last byte moved, as far as wake-ups tell.
    fn moved(&mut self, now: Instant) -> Instant {
        let progress = self.exchange.progress();
        let waiting = &mut self.waiting;
        let moved = match waiting.moved {
            Some(moved) if progress == waiting.progress => moved,
            _ => now,
        };
        (waiting.moved, waiting.progress) = (Some(moved), progress);
        moved
    }
}
