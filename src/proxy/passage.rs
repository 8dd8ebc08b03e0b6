//! One request's passage through the proxy, in one allocation from its head to the end of its
//! answer.
//!
//! Nearly every request takes the direct way: a kept connection carries it to a server, which
//! answers with what the client should see. That is plain code with one wait in it, polled by
//! hand. Where anything else happens (a queue, a connection to be opened, an attempt that fails,
//! a fallback) it turns into a detour: an `async` block that takes the passage over as it stands,
//! at the price of an allocation.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use crate::config::model::RouteId;
use crate::proxy::attempt::Attempt;
use crate::proxy::context::{ConnectionInfo, Context};
use crate::proxy::error::{self, Failure};
use crate::proxy::exchange::{Journey, Turn};
use crate::proxy::response_body::AnswerBody;
use crate::proxy::selection::{self, Selected, Via};
use crate::proxy::transaction::{Prepared, Transaction};
use crate::telemetry::Reason;
use crate::upstream::Refused;
use crate::util::clock;
use crate::wire::{Request, Response};

/// A request and how far it has come. The order of fields matters: an abandoned request's record
/// is written, then its connection closed, then its place freed.
pub(super) struct Passage {
    pub transaction: Transaction,
    pub stage: Stage,
}

pub(super) enum Stage {
    /// The head has come.
    Begun,
    /// The request is on its way to a server, the first that was picked for it.
    Asking(RouteId, Attempt),
    /// The answer's body is on its way to the client.
    Answering(AnswerBody),
    /// On a detour, or at the end.
    Away,
}

/// One request being answered. Dropping it abandons the request: the upstream exchange is
/// cancelled, its lease neutral, its record written.
pub struct Work(Way);

enum Way {
    Direct(Box<Passage>),
    Detour(Pin<Box<dyn Future<Output = Response>>>),
    Done,
}

/// Where a step on the direct way leads.
enum Step {
    Wait(Box<Passage>),
    Answer(Response),
    Detour(Box<Passage>, RouteId, Turn),
}

impl Work {
    pub(super) fn new(
        context: &Rc<Context>,
        connection: &Rc<ConnectionInfo>,
        request: Request,
    ) -> Self {
        Work(Way::Direct(Box::new(Passage {
            transaction: Transaction::open(context, connection, request),
            stage: Stage::Begun,
        })))
    }

    /// What it works on is out of `self` meanwhile: should it panic, its account is dropped by
    /// that, and says so.
    fn advance(&mut self, cx: &mut TaskContext<'_>) -> Poll<Response> {
        loop {
            self.0 = match std::mem::replace(&mut self.0, Way::Done) {
                Way::Direct(passage) => match passage.step(cx) {
                    Step::Wait(passage) => {
                        self.0 = Way::Direct(passage);
                        return Poll::Pending;
                    }
                    Step::Answer(response) => return Poll::Ready(response),
                    Step::Detour(passage, route, turn) => {
                        Way::Detour(Box::pin(passage.detour(route, turn)))
                    }
                },
                Way::Detour(mut detour) => {
                    let polled = detour.as_mut().poll(cx);
                    if polled.is_pending() {
                        self.0 = Way::Detour(detour);
                    }
                    return polled;
                }
                Way::Done => return Poll::Pending,
            };
        }
    }
}

impl Future for Work {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Response> {
        // A panic in one request must not end the traffic of the others on this worker.
        catch_unwind(AssertUnwindSafe(|| self.advance(cx))).unwrap_or_else(|_| {
            tracing::error!("a request ended in a panic; please report it");
            Poll::Ready(error::answer(&Failure::new(Reason::Internal), None))
        })
    }
}

impl Passage {
    fn step(mut self: Box<Self>, cx: &mut TaskContext<'_>) -> Step {
        if let Stage::Begun = self.stage {
            let begun = self.begin(cx);
            return match begun {
                Ok(passage) => passage.step(cx),
                Err(step) => step,
            };
        }
        let Stage::Asking(_, attempt) = &mut self.stage else {
            return Step::Wait(self);
        };
        let Poll::Ready(waited) = attempt.poll_head(&self.transaction, cx) else {
            return Step::Wait(self);
        };
        let Stage::Asking(route, attempt) = std::mem::replace(&mut self.stage, Stage::Away) else {
            return Step::Wait(self);
        };
        let answer = match waited {
            Ok(answer) => answer,
            Err(error) => return Step::Detour(self, route, Turn::Broken(attempt, error)),
        };
        let answered = self.transaction.answered(attempt, answer);
        let status = answered.head.status;
        let state = self.transaction.account.pin.route(route);
        if state.unwelcome(status).is_some() {
            return Step::Detour(self, route, Turn::Unwelcome(answered));
        }
        Step::Answer(self.respond(route, answered))
    }

    /// Judges the head, picks a server and begins the exchange with it.
    fn begin(mut self: Box<Self>, cx: &mut TaskContext<'_>) -> Result<Box<Self>, Step> {
        let pin = self.transaction.account.pin.clone();
        let transaction = &mut self.transaction;
        let route = match transaction.prepare(&pin) {
            Ok(Prepared::Route(route)) => route,
            Ok(Prepared::Answer(response)) => {
                return Err(Step::Answer(
                    self.transaction.account.answered_here(response),
                ));
            }
            Err(failure) => return Err(Step::Answer(self.refuse(&failure))),
        };
        let journey = Journey::new(&pin, route);
        journey.upstream.request_started(clock::now());
        let (lease, connection, claim, bound) =
            match transaction.select_first(journey.upstream, Some(cx)) {
                Ok(Selected { lease, via }) => match via {
                    Via::Kept(connection, claim) => (lease, connection, claim, false),
                    Via::Bound(connection, claim) => (lease, connection, claim, true),
                    Via::Dial(_) => {
                        let turn = Turn::Selected(Selected { lease, via });
                        return Err(Step::Detour(self, route, turn));
                    }
                },
                Err(Refused::Full) => return Err(Step::Detour(self, route, Turn::Full)),
                Err(refused) => {
                    let turn = Turn::Failed(selection::failure(refused));
                    return Err(Step::Detour(self, route, turn));
                }
            };
        let started = transaction.attempt_starts(journey.asked, lease.server());
        let mut attempt = transaction.ask(&journey, connection, claim, lease, started);
        attempt.bound = bound;
        self.stage = Stage::Asking(route, attempt);
        Ok(self)
    }

    /// Whatever is not the direct way, from where that was left.
    async fn detour(mut self: Box<Self>, route: RouteId, turn: Turn) -> Response {
        let pin = self.transaction.account.pin.clone();
        let journey = Journey::new(&pin, route);
        match self.transaction.exchange(journey, turn).await {
            Ok(answered) => self.respond(route, answered),
            Err(failure) => self.fail(route, failure).await,
        }
    }

    /// Answers with `failure`, or with the route's `fallback` where it stands for that.
    async fn fail(mut self: Box<Self>, route: RouteId, failure: Failure) -> Response {
        let pin = self.transaction.account.pin.clone();
        let covered = matches!(failure.reason.status(), 502..=504);
        let fallback = pin.route(route).rules.fallback.as_ref();
        let Some(fallback) = fallback.filter(|_| covered) else {
            return self.refuse(&failure);
        };
        if let Some(journey) = Journey::fallback(&pin, route)
            && self.transaction.replayable()
        {
            self.transaction.rewind();
            if let Ok(answered) = self.transaction.once(journey).await {
                self.transaction.account.fell_back(failure.reason);
                return self.respond(route, answered);
            }
        }
        let response = error::fallback_answer(failure.reason, fallback.status, &fallback.body);
        let account = self.transaction.account;
        account.refused(failure.reason, response)
    }

    fn refuse(self: Box<Self>, failure: &Failure) -> Response {
        let account = self.transaction.account;
        let response = error::answer(failure, Some(&account.head));
        account.refused(failure.reason, response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_is_served_from_the_allocators_cache() {
        // glibc keeps freed blocks of up to 1,032 bytes per thread.
        assert!(size_of::<Passage>() <= 1032);
        assert!(
            size_of::<Work>() <= 24,
            "an idle connection has room for it"
        );
    }
}
