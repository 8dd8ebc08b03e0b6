//! What a route does with a request beside sending it as it is: who may ask and how often, which
//! upstream of a split, another path, an answer of its own. The rules are in [`crate::filter`], what
//! they do to a head in [`steps`]; here they meet a transaction.

use crate::config::model::RouteId;
use crate::filter::access;
use crate::filter::answer::Own;
use crate::filter::limit::{Limiter, Verdict};
use crate::message::Known;
use crate::proxy::error::Failure;
use crate::proxy::sanitise::Sanitised;
use crate::proxy::steps;
use crate::proxy::steps::Asked;
use crate::proxy::transaction::Transaction;
use crate::snapshot::{Pin, RouteState};
use crate::telemetry::Reason;
use crate::util::clock;
use crate::wire::Response;

/// Why a route that was not asked for refuses.
pub(super) const SPELLING: &str = "the path is another spelling of one that is denied";

impl Transaction {
    /// Holds a request also to the rules of the routes that its path is another spelling for.
    pub(super) fn guard_spellings(
        &self,
        pin: &Pin,
        route: RouteId,
        sanitised: &Sanitised,
    ) -> Result<(), Failure> {
        let head = &self.account.head;
        let query = steps::query(self.account.listener, head, sanitised, sanitised.path(head));
        for other in steps::other_routes(pin, route, &query) {
            let state = pin.route(other);
            if !access::admits(&state.rules.access, self.account.client) {
                return Err(Failure::because(Reason::Denied, SPELLING));
            }
            if let Some(limiter) = &state.limit {
                self.keep_to(limiter, state)?;
            }
        }
        Ok(())
    }

    /// Whether it may go on at all, and to which upstream.
    #[cold]
    pub(super) fn admit(&mut self, state: &RouteState) -> Result<(), Failure> {
        if !access::admits(&state.rules.access, self.account.client) {
            return Err(Failure::new(Reason::Denied));
        }
        if let Some(limiter) = &state.limit {
            self.keep_to(limiter, state)?;
        }
        if let Some(split) = &state.split {
            let account = &mut self.account;
            let choice = steps::share_of(split, &account.head.fields, account.client);
            account.chose(choice.unwrap_or_else(|| split.turn()));
        }
        if state.sticks {
            self.recall(&state.destination(self.account.choice()).upstream);
        }
        Ok(())
    }

    /// What is done to a head that goes on, or the answer that needs no server.
    #[cold]
    pub(super) fn act(
        &mut self,
        pin: &Pin,
        route: RouteId,
        sanitised: &Sanitised,
    ) -> Result<Option<Response>, Failure> {
        let state = pin.route(route);
        let account = &mut self.account;
        if let Some(change) = &state.rules.path_change {
            steps::change_path(&mut account.head, change, sanitised)?;
        }
        if state.variables {
            let asked = Asked {
                snapshot: pin,
                listener: account.listener,
                route,
                client: account.client,
                id: &account.id,
            };
            account.values = Some(Box::new(steps::values(&asked, &account.head, sanitised)));
        }
        if let Some(own) = &state.own {
            return self.answer_itself(own, route).map(Some);
        }
        if let Some(edits) = &state.request_edits {
            self.account.edit(edits);
            self.host_missing &= !self.account.head.fields.contains(Known::Host);
        }
        Ok(None)
    }

    /// Refuses what is over the route's limit.
    fn keep_to(&self, limiter: &Limiter, route: &RouteState) -> Result<(), Failure> {
        let account = &self.account;
        match limiter.check(account.client, &account.head.fields, clock::now()) {
            Verdict::Admitted => Ok(()),
            Verdict::Refused { retry_after, reset } => {
                route.metrics.rate_limited();
                Err(Failure::limited(limiter.burst(), retry_after, reset))
            }
        }
    }

    /// A redirect, or a fixed answer.
    fn answer_itself(&mut self, own: &Own, route: RouteId) -> Result<Response, Failure> {
        let account = &self.account;
        let (mut head, body) = steps::own_answer(own, &account.head, account.values.as_deref())?;
        account.edit_answer(route, &mut head);
        Ok(Response {
            head,
            body,
            close: false,
        })
    }
}
