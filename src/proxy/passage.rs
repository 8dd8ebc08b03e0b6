//! One request's passage through the proxy, in one object from its head to the end of its answer.
//!
//! Nearly every request takes the direct way: a kept connection carries it to a server, which
//! answers with what the client should see. That is plain code with one wait in it, polled by
//! hand. Where anything else happens (a queue, a connection to be opened, an attempt that fails,
//! a fallback) it turns into a detour: an `async` block that takes the passage over as it stands,
//! at the price of an allocation.
//!
//! The object of a passage that has ended is used for the next one of its thread. As many are in
//! use as requests wait for their servers, and that is more than an allocator keeps at hand.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};

use crate::config::model::{Format, RouteId};
use crate::proxy::attempt::Attempt;
use crate::proxy::context::{ConnectionInfo, Context};
use crate::proxy::error::{self, Failure};
use crate::proxy::exchange::{Journey, Turn};
use crate::proxy::response_body::AnswerBody;
use crate::proxy::selection::{self, Via};
use crate::proxy::transaction::{Prepared, Transaction};
use crate::telemetry::Reason;
use crate::upstream::Refused;
use crate::util::clock;
use crate::wire::{Request, Response};

/// One request being answered. Dropping it abandons the request: the upstream exchange is
/// cancelled, its lease neutral, its record written.
pub struct Work(Way);

enum Way {
    Direct(Box<Passage>),
    Detour(Pin<Box<dyn Future<Output = Response>>>),
    Done,
}

/// A request and how far it has come. The order of fields matters: an abandoned request's record
/// is written, then its connection closed, then its place freed.
#[derive(Default)]
pub(super) struct Passage {
    /// `None` between two requests.
    pub transaction: Option<Transaction>,
    pub stage: Stage,
}

#[derive(Default)]
pub(super) enum Stage {
    /// The head has come.
    Begun,
    /// The request is on its way to the server that was picked first.
    Asking(Attempt),
    /// The answer's body is on its way to the client.
    Answering(AnswerBody),
    /// On a detour, or over.
    #[default]
    Away,
}

/// What is not a welcome answer to a first attempt.
enum Rare {
    /// An answer of our own that is no refusal.
    Own(Response),
    Refused(Failure),
    Detour(RouteId, Turn),
}

impl Work {
    pub(super) fn new(
        context: &Rc<Context>,
        connection: &Rc<ConnectionInfo>,
        request: Request,
    ) -> Self {
        Work(Way::Direct(Passage::open(context, connection, request)))
    }

    /// What it works on is out of `self` meanwhile: should it panic, its account is dropped by
    /// that, and says so.
    fn advance(&mut self, cx: &mut TaskContext<'_>) -> Poll<Response> {
        match std::mem::replace(&mut self.0, Way::Done) {
            Way::Direct(mut passage) => match passage.step(cx) {
                Poll::Pending => {
                    self.0 = Way::Direct(passage);
                    Poll::Pending
                }
                Poll::Ready(Ok(())) => Poll::Ready(passage.respond()),
                Poll::Ready(Err(rare)) => match *rare {
                    Rare::Own(response) => Poll::Ready(passage.answer(response)),
                    Rare::Refused(failure) => Poll::Ready(passage.refuse(None, &failure)),
                    Rare::Detour(route, turn) => {
                        self.0 = Way::Detour(Box::pin(passage.detour(route, turn)));
                        self.advance(cx)
                    }
                },
            },
            Way::Detour(mut detour) => {
                let polled = detour.as_mut().poll(cx);
                if polled.is_pending() {
                    self.0 = Way::Detour(detour);
                }
                polled
            }
            Way::Done => Poll::Pending,
        }
    }
}

impl Future for Work {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Response> {
        let mut polled = Poll::Pending;
        // A panic in one request must not end the traffic of the others on this worker.
        if catch_unwind(AssertUnwindSafe(|| polled = self.advance(cx))).is_err() {
            tracing::error!("a request ended in a panic; please report it");
            polled = Poll::Ready(error::answer(&Failure::new(Reason::Internal), None));
        }
        polled
    }
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the object itself is kept, not its content")]
    static SPARE: RefCell<Vec<Box<Passage>>> = const { RefCell::new(Vec::new()) };
}

/// Passages kept for the next requests of this thread.
const SPARES: usize = 128;

impl Passage {
    fn open(context: &Rc<Context>, connection: &Rc<ConnectionInfo>, request: Request) -> Box<Self> {
        let mut passage = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        passage.transaction = Some(Transaction::open(context, connection, request));
        passage.stage = Stage::Begun;
        passage
    }

    /// Ends it, and keeps the object for another.
    pub(super) fn close(mut self: Box<Self>) {
        self.transaction = None;
        self.stage = Stage::Away;
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARES {
                spare.push(self);
            }
        });
    }

    /// The direct way: ready when a server has answered.
    fn step(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Box<Rare>>> {
        let Passage {
            transaction: Some(transaction),
            stage,
        } = self
        else {
            return Poll::Pending;
        };
        if let Stage::Begun = stage {
            *stage = Stage::Asking(transaction.begin(cx)?);
        }
        let Stage::Asking(attempt) = stage else {
            return Poll::Pending;
        };
        let waited = ready!(attempt.poll_head(transaction, cx));
        let route = attempt.route;
        if let Ok(answer) = waited {
            transaction.answered(attempt, answer);
            let account = &transaction.account;
            let to = account.pin.route(route).destination(account.choice());
            if transaction.unwelcome(to, attempt).is_none() {
                return Poll::Ready(Ok(()));
            }
        }
        let Stage::Asking(attempt) = std::mem::take(stage) else {
            return Poll::Pending;
        };
        let turn = match waited {
            Ok(_) => Turn::Unwelcome(attempt),
            Err(error) => Turn::Broken(attempt, error),
        };
        Poll::Ready(Err(Box::new(Rare::Detour(route, turn))))
    }

    /// Whatever is not the direct way, from where that was left.
    async fn detour(mut self: Box<Self>, route: RouteId, turn: Turn) -> Response {
        let Passage {
            transaction: Some(transaction),
            stage,
        } = &mut *self
        else {
            return error::answer(&Failure::new(Reason::Internal), None);
        };
        let pin = transaction.account.pin.clone();
        let choice = transaction.account.choice();
        let journey = Journey::new(&pin, route, choice);
        let mut answered = transaction.exchange(journey, turn).await;
        if let Err(failure) = &answered
            && matches!(failure.reason.status(), 502..=504)
            && let Some(journey) = Journey::fallback(&pin, route, choice)
            && transaction.replayable()
        {
            transaction.rewind();
            transaction.recall(journey.upstream);
            if let Ok(attempt) = transaction.once(journey).await {
                transaction.account.fell_back(failure.reason);
                answered = Ok(attempt);
            }
        }
        match answered {
            Ok(attempt) => {
                *stage = Stage::Asking(attempt);
                self.respond()
            }
            Err(failure) => self.refuse(Some(route), &failure),
        }
    }

    /// Answers with `failure`, or with the fixed answer of the route's `fallback` where it stands
    /// for that.
    fn refuse(mut self: Box<Self>, route: Option<RouteId>, failure: &Failure) -> Response {
        let Some(transaction) = self.transaction.take() else {
            return error::answer(failure, None);
        };
        let account = transaction.account;
        let covered = route.filter(|_| matches!(failure.reason.status(), 502..=504));
        let fallback = covered.and_then(|route| account.pin.route(route).rules.fallback.as_ref());
        let response = match fallback {
            Some(fallback) => {
                let body = account.fill_in(&fallback.body, Format::Plain);
                error::fallback_answer(failure.reason, fallback.status, body)
            }
            None => error::answer(failure, Some(&account.head)),
        };
        account.refused(failure.reason, response)
    }

    fn answer(mut self: Box<Self>, response: Response) -> Response {
        match self.transaction.take() {
            Some(transaction) => transaction.account.answered_here(response),
            None => response,
        }
    }
}

impl Transaction {
    /// Judges the head, picks a server and begins the exchange with it.
    fn begin(&mut self, cx: &mut TaskContext<'_>) -> Result<Attempt, Box<Rare>> {
        let pin = self.account.pin.clone();
        let route = match self.prepare(&pin) {
            Ok(Prepared::Route(route)) => route,
            Ok(Prepared::Answer(response)) => return Err(Box::new(Rare::Own(response))),
            Err(failure) => return Err(Box::new(Rare::Refused(failure))),
        };
        let journey = Journey::new(&pin, route, self.account.choice());
        journey.upstream.request_started(clock::now());
        let selected = match self.select_first(journey.upstream, Some(cx)) {
            Ok(selected) => selected,
            Err(Refused::Full) => return Err(Box::new(Rare::Detour(route, Turn::Full))),
            Err(refused) => {
                let failure = selection::failure(refused);
                return Err(Box::new(Rare::Detour(route, Turn::Failed(failure))));
            }
        };
        let Via::Kept(connection) = selected.via else {
            return Err(Box::new(Rare::Detour(route, Turn::Selected(selected))));
        };
        let held = selected.held;
        let started = self.attempt_starts(journey.asked, held.lease.server());
        Ok(self.ask(&journey, connection, true, held, started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_has_room_for_its_work() {
        assert!(size_of::<Work>() <= 24);
    }
}
