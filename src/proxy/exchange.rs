//! Attempts until one answers or none may follow.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::config::model::RouteId;
use crate::proxy::attempt::{Answered, Failed};
use crate::proxy::error::Failure;
use crate::proxy::retry::{self, Cause, Situation, Verdict};
use crate::proxy::selection::Selected;
use crate::proxy::transaction::Transaction;
use crate::snapshot::RouteState;
use crate::telemetry::{Reason, RetryResult};
use crate::upstream::{ServerId, Upstream};

/// The attempts of one exchange: where they may go, and where they went.
pub(super) struct Journey<'a> {
    pub route: &'a RouteState,
    pub upstream: &'a Arc<Upstream>,
    pub tried: SmallVec<[ServerId; 4]>,
}

/// What the last attempt gave, should there be no better one.
enum Last {
    Answer(Box<Answered>, Cause),
    Failure(Failed),
}

impl Last {
    fn give(self) -> Result<Answered, Failure> {
        match self {
            Last::Answer(answered, _) => Ok(*answered),
            Last::Failure(failed) => Err(failed.failure),
        }
    }
}

impl Transaction {
    /// The answer of the first attempt that gave a welcome one; else what the last one gave.
    pub(super) async fn exchange(&mut self, route: RouteId) -> Result<Answered, Failure> {
        let pin = self.pin.clone();
        let route = pin.route(route);
        let mut journey = Journey {
            route,
            upstream: &route.upstream,
            tried: SmallVec::new(),
        };
        journey.upstream.request_started(Instant::now());
        let mut selected = self.select_first(journey.upstream).await?;
        loop {
            journey.tried.push(selected.lease.server().id());
            let mut last = match self.attempt(&journey, selected).await {
                Ok(answered) => match unwelcome(route, &answered) {
                    Some(cause) => Last::Answer(Box::new(answered), cause),
                    None => {
                        journey.retried(RetryResult::Success);
                        return Ok(answered);
                    }
                },
                Err(failed) => Last::Failure(failed),
            };
            let Some(next) = self.next(&journey, &mut last) else {
                journey.retried(RetryResult::Failure);
                return last.give();
            };
            self.rewind();
            selected = next;
        }
    }

    /// One attempt at `upstream` and no more: for a route's fallback.
    pub(super) async fn once(
        &mut self,
        route: &RouteState,
        upstream: &Arc<Upstream>,
    ) -> Result<Answered, Failure> {
        let journey = Journey {
            route,
            upstream,
            tried: SmallVec::new(),
        };
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
            policy: &journey.route.rules.retry,
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
        if charge && !journey.upstream.withdraw_retry(Instant::now()) {
            metrics.retried(RetryResult::BudgetExhausted);
            return None;
        }
        Some(selected)
    }
}

impl Journey<'_> {
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

/// The cause that a whole answer is by `retry.on`.
fn unwelcome(route: &RouteState, answered: &Answered) -> Option<Cause> {
    let status = answered.head.status;
    let listed = route
        .rules
        .retry
        .on
        .status
        .iter()
        .any(|range| range.contains(status));
    listed.then_some(Cause::Status(status))
}
