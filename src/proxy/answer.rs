//! From an answered exchange to what goes downstream: the head cleaned, the body wrapped, the
//! connection's way back settled.

use crate::config::model::RouteId;
use crate::message::{Body, Known, Length, ResponseHead};
use crate::proxy::attempt::{Answered, Attempt};
use crate::proxy::passage::{Passage, Stage};
use crate::proxy::patience::IdleClock;
use crate::proxy::response_body::AnswerBody;
use crate::proxy::transaction::Transaction;
use crate::proxy::tunnel::ExchangeTunnel;
use crate::proxy::{forwarding, hop_by_hop};
use crate::wire::Response;

impl Passage {
    pub(super) fn respond(mut self: Box<Self>, route: RouteId, answered: Answered) -> Response {
        if answered.switching {
            return self.tunnel(route, answered);
        }
        let Answered {
            mut head,
            mut attempt,
            ..
        } = answered;
        let transaction = &mut self.transaction;
        let timeout = &transaction.account.pin.route(route).rules.timeout;
        let mut idle = timeout.idle;
        if is_event_stream(&head) {
            idle = timeout.tunnel;
            attempt.lease.release_slot();
        }
        attempt.bound |= binds_connection(&head);
        hop_by_hop::clean_response(&mut head.fields);
        transaction.sign(&mut head);
        transaction.account.passes();
        let mut body = AnswerBody::new(attempt, idle);
        let body = match body.length() {
            Length::Exact(0) if body.end_now(transaction) => Body::Empty,
            _ => {
                self.stage = Stage::Answering(body);
                Body::Stream(self)
            }
        };
        Response {
            head,
            body,
            close: false,
        }
    }

    fn tunnel(self: Box<Self>, route: RouteId, answered: Answered) -> Response {
        let Answered {
            mut head, attempt, ..
        } = answered;
        let token = hop_by_hop::clean_response(&mut head.fields);
        if let Some(token) = token {
            hop_by_hop::offer_upgrade(&mut head.fields, &token);
        }
        let transaction = self.transaction;
        transaction.sign(&mut head);
        let Transaction {
            account, patience, ..
        } = transaction;
        let Attempt {
            exchange,
            mut lease,
            claim,
            ..
        } = attempt;
        lease.release_slot();
        let limit = account.pin.route(route).rules.timeout.tunnel;
        let patience = (IdleClock::new(limit), patience);
        let (socket, received) = exchange.into_tunnel();
        let tunnel = ExchangeTunnel::new(socket, received, lease, claim, account, patience);
        Response {
            head,
            body: Body::Tunnel(Box::new(tunnel)),
            close: false,
        }
    }
}

impl Transaction {
    /// `Via` on the way back (RFC 9110 section 7.6.3), where the listener has it.
    fn sign(&self, head: &mut ResponseHead) {
        let account = &self.account;
        if account.pin.listener(account.listener).rules.via {
            forwarding::append_via(&mut head.fields, head.version);
        }
    }
}

/// NTLM and Negotiate authenticate a connection, not a request: it must never serve another
/// client (section 6 of the contract).
fn binds_connection(head: &ResponseHead) -> bool {
    head.fields.values(Known::WwwAuthenticate).any(|value| {
        let scheme = value
            .split(|&byte| byte == b' ' || byte == b',')
            .next()
            .unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

fn is_event_stream(head: &ResponseHead) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    head.fields.get(Known::ContentType).is_some_and(|value| {
        value
            .get(..TYPE.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(TYPE))
    })
}
