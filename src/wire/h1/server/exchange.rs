//! One request and its answer.
//!
//! One allocation from the request's head to the end of its answer: what an idle connection does
//! not need is not there while it is idle, and what follows takes the place of what it follows.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::message::Version;
use crate::util::timer::SweepSlot;
use crate::wire::h1::inbound::Inbound;
use crate::wire::h1::server::Ended;
use crate::wire::h1::server::answering::{Answering, Sent};
use crate::wire::h1::server::connection::ServerConnection;
use crate::wire::h1::server::line::Line;
use crate::wire::h1::server::rest::{After, Rest};
use crate::wire::h1::server::tunnel::TunnelPump;
use crate::wire::{Handler, Response};

pub(super) struct Exchange<W> {
    connection: Rc<ServerConnection>,
    facts: Facts,
    phase: Phase<W>,
}

enum Phase<W> {
    Handling(W),
    Answering(Answering),
    /// The answer is out, the request is not in yet; or the connection lingers.
    Rest(Rest),
    Tunnel(TunnelPump),
}

/// What must be known of a request when its answer is framed, and after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) is_head: bool,
    pub(super) version: Version,
    /// Neither the client nor we end the connection after this answer.
    pub(super) keep: bool,
    /// The client may send another request at any time: it did not ask for the end.
    pub(super) more: bool,
    /// How long the next request may take to come.
    pub(super) idle_timeout: Duration,
}

impl<W: Future<Output = Response> + Unpin> Exchange<W> {
    /// A request that `work` answers.
    pub(super) fn new(connection: Rc<ServerConnection>, facts: Facts, work: W) -> Box<Self> {
        Box::new(Exchange {
            connection,
            facts,
            phase: Phase::Handling(work),
        })
    }

    /// A request that has its answer already.
    pub(super) fn answered(
        connection: Rc<ServerConnection>,
        facts: Facts,
        response: Response,
    ) -> Box<Self> {
        let answering = Answering::new(response, facts, &connection);
        Box::new(Exchange {
            connection,
            facts,
            phase: Phase::Answering(answering),
        })
    }

    /// Ready when request and answer are over: with nothing where the next request may follow.
    pub(super) fn poll<H: Handler<Work = W>>(
        &mut self,
        handler: &H,
        slot: &SweepSlot,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Ended>> {
        let connection = &*self.connection;
        loop {
            self.phase = match &mut self.phase {
                Phase::Handling(work) => match Pin::new(work).poll(cx) {
                    Poll::Ready(_) if connection.is_gone() => {
                        return Poll::Ready(Some(Ended::Aborted));
                    }
                    Poll::Ready(response) => {
                        self.facts.keep &= !response.close && !handler.closing();
                        Phase::Answering(Answering::new(response, self.facts, connection))
                    }
                    Poll::Pending if connection.is_gone() => {
                        return Poll::Ready(Some(Ended::Aborted));
                    }
                    Poll::Pending => return Poll::Pending,
                },
                Phase::Answering(answering) => match ready!(answering.poll(connection, slot, cx)) {
                    Sent::Broken => return Poll::Ready(Some(Ended::Aborted)),
                    Sent::Tunnel(tunnel) => Phase::Tunnel(tunnel),
                    Sent::Whole(rest) => Phase::Rest(rest),
                },
                Phase::Rest(rest) => {
                    return rest.poll(connection, slot, cx).map(|after| match after {
                        After::Next => None,
                        After::Closed => Some(Ended::Cleanly),
                        After::Broken => Some(Ended::Aborted),
                    });
                }
                Phase::Tunnel(pump) => return pump.poll(connection, cx).map(Some),
            };
        }
    }

    /// For the next request: the socket, and what came of that request already.
    pub(super) fn leave(&self) -> (Option<Line>, Inbound) {
        self.connection.leave()
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.facts.idle_timeout
    }
}
