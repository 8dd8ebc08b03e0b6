//! From an answered exchange to what goes downstream: the head cleaned, the body wrapped, the
//! connection's way back settled.

use std::rc::Rc;
use std::sync::Arc;

use crate::message::{Body, BodyStream, Known, Length, ResponseHead};
use crate::proxy::attempt::Answered;
use crate::proxy::context::{Bound, ConnectionInfo};
use crate::proxy::response_body::{ExchangeBody, IdleClock};
use crate::proxy::transaction::Transaction;
use crate::proxy::tunnel::ExchangeTunnel;
use crate::proxy::{forwarding, hop_by_hop};
use crate::upstream::Server;
use crate::upstream::pool::Claim;
use crate::wire::Response;
use crate::wire::h1::client::Connection;

impl Answered {
    pub(super) fn into_response(self, transaction: Transaction) -> Response {
        if self.switching {
            return self.into_tunnel(transaction);
        }
        let Answered {
            mut head,
            exchange,
            mut lease,
            claim,
            bound,
            ..
        } = self;
        let binds = bound || binds_connection(&head);
        hop_by_hop::clean_response(&mut head.fields);
        transaction.sign(&mut head);
        let streams_events = is_event_stream(&head);
        let idle = if streams_events {
            self.tunnel
        } else {
            self.idle
        };
        if streams_events {
            lease.release_slot();
        }
        let way_back = WayBack {
            bound_to: binds.then(|| BoundTo {
                downstream: transaction.connection.clone(),
                server: lease.server().clone(),
            }),
            claim,
        };
        let Transaction {
            context,
            account,
            total,
            ..
        } = transaction;
        let clock = IdleClock::new(idle, context.timers.clone());
        let mut body =
            ExchangeBody::new(exchange.into_body(), way_back, lease, account, clock, total);
        let body = match body.length() {
            Length::Exact(0) if body.end_now() => Body::Empty,
            _ => Body::Stream(Box::new(body)),
        };
        Response {
            head,
            body,
            close: false,
        }
    }

    fn into_tunnel(self, transaction: Transaction) -> Response {
        let Answered {
            mut head,
            exchange,
            mut lease,
            claim,
            ..
        } = self;
        let token = hop_by_hop::clean_response(&mut head.fields);
        if let Some(token) = token {
            hop_by_hop::offer_upgrade(&mut head.fields, &token);
        }
        transaction.sign(&mut head);
        lease.release_slot();
        let Transaction {
            context, account, ..
        } = transaction;
        let clock = IdleClock::new(self.tunnel, context.timers.clone());
        let (socket, received) = exchange.into_tunnel();
        let tunnel = ExchangeTunnel::new(socket, received, lease, claim, account, clock);
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
        if self.pin.listener(self.listener).rules.via {
            forwarding::append_via(&mut head.fields, head.version);
        }
    }
}

/// Where the connection goes when its exchange has ended.
pub(super) struct WayBack {
    /// Set: to this client alone.
    bound_to: Option<BoundTo>,
    claim: Claim<Connection>,
}

struct BoundTo {
    downstream: Rc<ConnectionInfo>,
    server: Arc<Server>,
}

impl WayBack {
    pub(super) fn take(self, connection: Connection) {
        let Some(to) = self.bound_to else {
            return self.claim.check_in(connection);
        };
        let bound = Bound {
            server: to.server,
            connection,
            claim: self.claim,
        };
        *to.downstream.bound.borrow_mut() = Some(bound);
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
