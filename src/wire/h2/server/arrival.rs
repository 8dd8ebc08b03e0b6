//! A stream's request as it comes out of `h2`, judged before anything is begun for it.

use std::rc::Rc;

use h2::RecvStream;
use h2::server::SendResponse;

use crate::message::{Known, Method, RequestHead};
use crate::util::timer::SweepSlot;
use crate::wire::h1::framing::lists;
use crate::wire::h2::blocks::Faults;
use crate::wire::h2::heads;
use crate::wire::h2::server::exchange::Exchange;
use crate::wire::h2::server::stock::{Chunk, Stock};
use crate::wire::h2::server::upgrade::Upgrade;
use crate::wire::{Limits, Refusal, RefusalReason};

/// A request that may wait for its turn.
pub(super) struct Arrival {
    pub(super) head: RequestHead,
    pub(super) connect: Option<Upgrade>,
    pub(super) way: Way,
}

/// The stream behind a request.
pub(super) struct Way {
    pub(super) exchange: Rc<Exchange>,
    pub(super) slot: SweepSlot,
    pub(super) is_head: bool,
}

/// A request that is refused for its head.
pub(super) struct Unwelcome {
    pub(super) refusal: Refusal,
    pub(super) way: Way,
}

impl Arrival {
    pub(super) fn new(
        (request, respond): (http::Request<RecvStream>, SendResponse<Chunk>),
        slot: SweepSlot,
        (stock, faults): (&Rc<Stock>, &Rc<Faults>),
        limits: &Limits,
    ) -> Result<Self, Box<Unwelcome>> {
        let (parts, receiver) = request.into_parts();
        let fault = faults.of_head(respond.stream_id().as_u32());
        let translated = heads::request(&parts, limits).and_then(|head| match fault {
            None => Ok(head),
            Some(detail) => Err(Box::new(heads::Malformed {
                reason: RefusalReason::BadRequest,
                detail,
                head,
            })),
        });
        let protocol = parts.extensions.get::<h2::ext::Protocol>();
        let (declared, expects) = match &translated {
            // What follows is no body of it.
            Ok(_) if protocol.is_some() => (Some(0), false),
            Ok(head) => (
                content_length(head),
                head.fields.contains(Known::Expect)
                    && lists(&head.fields, Known::Expect, "100-continue"),
            ),
            Err(_) => (None, false),
        };
        let way = Way {
            exchange: Exchange::new(
                receiver,
                respond,
                declared,
                expects,
                (stock.clone(), faults.clone()),
                limits.connection_buffer,
            ),
            slot,
            is_head: parts.method == http::Method::HEAD,
        };
        let mut head = match translated {
            Ok(head) => head,
            Err(malformed) => {
                let refusal = Refusal {
                    reason: malformed.reason,
                    detail: malformed.detail,
                    method: Some(malformed.head.method.as_str().to_owned()),
                    target: Some(String::from_utf8_lossy(malformed.head.target()).into_owned()),
                    head: Some(malformed.head),
                };
                return Err(Box::new(Unwelcome { refusal, way }));
            }
        };
        let connect = protocol
            .filter(|_| head.method == Method::Connect)
            .map(|protocol| Upgrade::ask(&mut head, protocol.as_str()));
        Ok(Arrival { head, connect, way })
    }
}

/// The library has checked that it is one number, and counts the body against it.
fn content_length(head: &RequestHead) -> Option<u64> {
    let value = head.fields.get(Known::ContentLength)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}
