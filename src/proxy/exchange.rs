//! Attempts until one answers or none may follow.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::config::model::RouteId;
use crate::proxy::account::Asked;
use crate::proxy::attempt::{Attempt, Failed};
use crate::proxy::error::Failure;
use crate::proxy::head_wait::WaitError;
use crate::proxy::retry::{self, Cause, Situation, Verdict};
use crate::proxy::selection::Selected;
use crate::proxy::transaction::Transaction;
use crate::snapshot::{DestinationState, Snapshot};
use crate::telemetry::{Reason, RetryResult};
use crate::upstream::{ServerId, Upstream};
use crate::util::clock;

/// The attempts of one exchange: where they may go, and where they went.
pub(super) struct Journey<'a> {
    pub id: RouteId,
    /// Also of a fallback, which has the rules of what it stands for.
    pub to: &'a DestinationState,
    pub asked: Asked,
    pub upstream: &'a Arc<Upstream>,
    pub tried: SmallVec<[ServerId; 4]>,
}

/// Where the direct way ends, and the detour begins.
pub(super) enum Turn {
    /// No server has room for a first attempt.
    Full,
    /// A first attempt needs a connection.
    Selected(Selected),
    /// The first attempt gave no head.
    Broken(Attempt, WaitError),
    /// The first attempt was answered with what may be tried elsewhere.
    Unwelcome(Attempt),
    Failed(Failure),
}

/// What the last attempt gave, should there be no better one.
enum Last {
    Answer(Box<Attempt>, Cause),
    Failure(Failed),
}

/// How often a request whose place on a connection was taken back stands in the queue again.
const WAITS: u32 = 3;

impl Last {
    fn is_no_room(&self) -> bool {
        matches!(self, Last::Failure(failed) if failed.no_room)
    }

    fn give(self) -> Result<Attempt, Failure> {
        match self {
            Last::Answer(attempt, _) => Ok(*attempt),
            Last::Failure(failed) => Err(failed.failure),
        }
    }
}

impl Transaction {
    /// The answer of the first attempt that gave a welcome one; else what the last one gave.
    pub(super) async fn exchange(
        &mut self,
        mut journey: Journey<'_>,
        turn: Turn,
    ) -> Result<Attempt, Failure> {
        let mut attempted = match turn {
            Turn::Failed(failure) => return Err(failure),
            Turn::Full => {
                let selected = self.wait_in_queue(journey.upstream).await?;
                journey.try_at(&selected);
                self.attempt(&journey, selected).await
            }
            Turn::Selected(selected) => {
                journey.try_at(&selected);
                self.attempt(&journey, selected).await
            }
            Turn::Broken(attempt, error) => {
                journey.tried.push(attempt.held.lease.server().id());
                self.conclude(&journey, attempt, Err(error)).await
            }
            Turn::Unwelcome(attempt) => {
                journey.tried.push(attempt.held.lease.server().id());
                Ok(attempt)
            }
        };
        let mut waits = 0;
        loop {
            let mut last = match attempted {
                Ok(attempt) => match self.unwelcome(journey.to, &attempt) {
                    Some(cause) => Last::Answer(Box::new(attempt), cause),
                    None => {
                        journey.retried(RetryResult::Success);
                        return Ok(attempt);
                    }
                },
                Err(failed) => Last::Failure(failed),
            };
            let next = match self.next(&journey, &mut last) {
                None if last.is_no_room() && waits < WAITS => {
                    waits += 1;
                    Some(self.wait_in_queue(journey.upstream).await?)
                }
                next => next,
            };
            let Some(next) = next else {
                journey.retried(RetryResult::Failure);
                return last.give();
            };
            self.rewind();
            journey.try_at(&next);
            attempted = self.attempt(&journey, next).await;
        }
    }

    /// One attempt at the upstream of a route's fallback and no more.
    pub(super) async fn once(&mut self, journey: Journey<'_>) -> Result<Attempt, Failure> {
        let selected = self
            .select_other(&journey)
            .ok_or(Failure::new(Reason::NoServer))?;
        self.attempt(&journey, selected)
            .await
            .map_err(|failed| failed.failure)
    }

    fn next(&mut self, journey: &Journey<'_>, last: &mut Last) -> Option<Selected> {
        let (cause, written) = match last {
            Last::Answer(_, cause) => (*cause, true),
            Last::Failure(failed) => match failed.next.take() {
                Some(next) => return Some(*next),
                None => (failed.cause?, failed.written),
            },
        };
        self.elsewhere(journey, cause, written)
    }

    /// The next server, where the rules, a server and the budget allow one, asked in this order:
    /// what no server can take must not cost budget.
    pub(super) fn elsewhere(
        &mut self,
        journey: &Journey<'_>,
        cause: Cause,
        written: bool,
    ) -> Option<Selected> {
        let verdict = retry::judge(&Situation {
            policy: &journey.to.rules.retry,
            cause,
            method: &self.account.head.method,
            written,
            replayable: self.replayable(),
            attempts: journey.tried.len() as u32,
        });
        let Verdict::Retry { charge } = verdict else {
            return None;
        };
        if self.interim_sent {
            return None;
        }
        let metrics = journey.upstream.metrics();
        let Some(selected) = self.select_other(journey) else {
            metrics.retried(RetryResult::NoServer);
            return None;
        };
        if charge && !journey.upstream.withdraw_retry(clock::now()) {
            metrics.retried(RetryResult::BudgetExhausted);
            return None;
        }
        Some(selected)
    }
}

impl<'a> Journey<'a> {
    /// To one of the upstreams of a route.
    pub fn new(snapshot: &'a Snapshot, id: RouteId, choice: u16) -> Self {
        let to = snapshot.route(id).destination(choice);
        Journey {
            id,
            to,
            asked: Asked::Upstream,
            upstream: &to.upstream,
            tried: SmallVec::new(),
        }
    }

    /// To the upstream of its fallback.
    pub fn fallback(snapshot: &'a Snapshot, id: RouteId, choice: u16) -> Option<Self> {
        let upstream = snapshot.route(id).fallback.as_ref()?;
        Some(Journey {
            asked: Asked::Fallback,
            upstream,
            ..Journey::new(snapshot, id, choice)
        })
    }

    fn try_at(&mut self, selected: &Selected) {
        self.tried.push(selected.held.lease.server().id());
    }

    /// Counts the retry that was the last attempt; those before it failed.
    fn retried(&self, last: RetryResult) {
        let retries = self.tried.len().saturating_sub(1);
        for retry in 0..retries {
            let is_last = retry + 1 == retries;
            self.upstream
                .metrics()
                .retried(if is_last { last } else { RetryResult::Failure });
        }
    }
}

impl Transaction {
    /// The cause to try elsewhere that a whole answer is by `retry.on`.
    pub(super) fn unwelcome(&self, to: &DestinationState, attempt: &Attempt) -> Option<Cause> {
        let on = &to.rules.retry.on;
        let status = attempt.status();
        if on.status.iter().any(|range| range.contains(status)) {
            return Some(Cause::Status(status));
        }
        let code = self.grpc.then(|| attempt.call_status()).flatten()?;
        on.grpc.contains(code).then_some(Cause::Grpc(code))
    }
}
