//! From an answered exchange to what goes downstream: the head cleaned, the body wrapped, the
//! connection's way back settled.

use std::time::Duration;

use crate::message::{Body, Data, Known, ResponseHead};
use crate::proxy::attempt::{Attempt, Held};
use crate::proxy::error::{self, Failure};
use crate::proxy::passage::{Passage, Stage};
use crate::proxy::patience::IdleClock;
use crate::proxy::response_body::AnswerBody;
use crate::proxy::transaction::Transaction;
use crate::proxy::tunnel::ExchangeTunnel;
use crate::proxy::{forwarding, hop_by_hop};
use crate::telemetry::Reason;
use crate::util::clock;
use crate::wire::Response;

impl Passage {
    /// What the client gets of a server's answer.
    pub(super) fn respond(mut self: Box<Self>) -> Response {
        let Passage {
            transaction: Some(transaction),
            stage,
        } = &mut *self
        else {
            return error::answer(&Failure::new(Reason::Internal), None);
        };
        let Stage::Asking(mut attempt) = std::mem::take(stage) else {
            return error::answer(&Failure::new(Reason::Internal), None);
        };
        let head = attempt.exchange.take_head();
        // It is there: nobody else takes the head of a final answer.
        let mut head = head.unwrap_or_else(|| ResponseHead::new(502));
        let token = hop_by_hop::clean_response(&mut head.fields);
        transaction.sign(&mut head);
        attempt.held.bound |= binds_connection(&head);
        let events = is_event_stream(&head);
        transaction.account.edit_answer(attempt.route, &mut head);
        transaction.stick(&attempt, &mut head);
        let body = if attempt.switching {
            if let Some(token) = token {
                hop_by_hop::offer_upgrade(&mut head.fields, &token);
            }
            self.tunnel(attempt)
        } else {
            self.body(attempt, events)
        };
        Response {
            head,
            body,
            close: false,
        }
    }

    /// A body that came with its head ends the exchange at once, so that its connection is free
    /// before the client has its answer. Any other passes from now on.
    fn body(mut self: Box<Self>, attempt: Attempt, events: bool) -> Body {
        let Some(transaction) = &mut self.transaction else {
            return Body::Empty;
        };
        let Attempt {
            exchange,
            mut held,
            route,
            ..
        } = attempt;
        let timeout = transaction.account.timeout(route);
        let mut idle = timeout.idle;
        if events {
            idle = timeout.tunnel;
            held.lease.release_slot();
        } else if transaction.grpc {
            idle = timeout.tunnel;
        }
        match exchange.into_whole() {
            Ok((data, connection)) => {
                held.hand_back(connection, &transaction.connection);
                let body = transaction.whole(data, idle);
                self.close();
                body
            }
            Err(exchange) => {
                transaction.account.passes();
                let endless = events || transaction.grpc;
                let body = AnswerBody::new(exchange.into_body(), held, idle, endless);
                self.stage = Stage::Answering(body);
                Body::Stream(self)
            }
        }
    }

    /// After a switch: the tunnel holds what its exchange held.
    fn tunnel(mut self: Box<Self>, attempt: Attempt) -> Body {
        let Some(transaction) = self.transaction.take() else {
            return Body::Empty;
        };
        let Transaction {
            account, patience, ..
        } = transaction;
        let Attempt {
            exchange,
            held: Held {
                claim, mut lease, ..
            },
            route,
            ..
        } = attempt;
        lease.release_slot();
        let limit = account.timeout(route).tunnel;
        let clock = (IdleClock::new(limit), patience);
        let tunnel = ExchangeTunnel::new(exchange.into_tunnel(), lease, claim, account, clock);
        Body::Tunnel(Box::new(tunnel))
    }
}

impl Transaction {
    /// The exchange has ended: the account is closed, and `data` goes out by itself.
    fn whole(&mut self, data: Option<Data>, idle: Option<Duration>) -> Body {
        let Some(data) = data else {
            self.account.finish();
            return Body::Empty;
        };
        self.account.response_bytes = data.payload() as u64;
        self.account.finish();
        Body::Whole(data, self.left_for(idle))
    }

    /// How long the client may take nothing of a whole answer.
    fn left_for(&self, idle: Option<Duration>) -> Option<Duration> {
        let total = self.total.as_ref().map(|total| {
            let ends = total.expires_at();
            ends.saturating_duration_since(clock::now())
        });
        [idle, total].into_iter().flatten().min()
    }

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
pub(super) fn binds_connection(head: &ResponseHead) -> bool {
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
