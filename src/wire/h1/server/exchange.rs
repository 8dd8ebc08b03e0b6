//! One request and its answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::message::Version;
use crate::util::timer::SweepSlot;
use crate::wire::h1::inbound::Inbound;
use crate::wire::h1::server::Ended;
use crate::wire::h1::server::answering::{Answering, Sent};
use crate::wire::h1::server::connection::{Held, ServerConnection};
use crate::wire::h1::server::line::Line;
use crate::wire::h1::server::rest::{After, Rest};
use crate::wire::h1::server::tunnel::TunnelPump;
use crate::wire::{Cut, Handler, Response};

pub(super) struct Exchange<W> {
    /// The handler's, until it has answered. Goes before what it works on.
    work: Option<W>,
    connection: Held,
}

/// How far an exchange has come.
pub(super) enum Phase {
    Handling,
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
    /// The client's FIN after its request is not its leaving.
    pub(super) half_close: bool,
    /// How long the next request may take to come.
    pub(super) idle_timeout: Duration,
}

impl Facts {
    /// Of a head that was refused: nothing follows it.
    pub(super) const REFUSED: Facts = Facts {
        is_head: false,
        version: Version::Http11,
        keep: false,
        more: true,
        half_close: false,
        idle_timeout: Duration::ZERO,
    };
}

impl<W: Future<Output = Response> + Unpin> Exchange<W> {
    /// A request that `work` answers.
    pub(super) fn new(connection: Held, work: W) -> Self {
        Exchange {
            work: Some(work),
            connection,
        }
    }

    /// A request that has its answer already.
    pub(super) fn answered(connection: Held, response: Response) -> Self {
        connection.answer(response);
        Exchange {
            work: None,
            connection,
        }
    }

    /// Ready when request and answer are over: with nothing where the next request may follow.
    pub(super) fn poll<H: Handler<Work = W>>(
        &mut self,
        handler: &H,
        slot: &SweepSlot,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Ended>> {
        let connection = &*self.connection;
        if let Some(work) = &mut self.work {
            let polled = Pin::new(work).poll(cx);
            if connection.is_gone() {
                return Poll::Ready(Some(Ended::Aborted));
            }
            let mut response = ready!(polled);
            response.close |= handler.closing();
            self.work = None;
            connection.answer(response);
        }
        let ended = ready!(connection.poll_answer(slot, cx));
        if ended == Some(Ended::Aborted) && slot.is_shed() {
            handler.cut(Cut::OverloadSlow);
        }
        Poll::Ready(ended)
    }

    /// For the next request: the socket, and what came of that request already.
    pub(super) fn leave(&self) -> (Option<Line>, Inbound) {
        self.connection.leave()
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.connection.borrow().facts.idle_timeout
    }
}

impl ServerConnection {
    fn answer(&self, response: Response) {
        *self.phase.borrow_mut() = Phase::Answering(Answering::new(response, self));
    }

    fn poll_answer(&self, slot: &SweepSlot, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        let mut phase = self.phase.borrow_mut();
        loop {
            *phase = match &mut *phase {
                Phase::Answering(answering) => match ready!(answering.poll(self, slot, cx)) {
                    Sent::Tunnel(tunnel) => Phase::Tunnel(tunnel),
                    Sent::Whole(rest) => Phase::Rest(rest),
                    Sent::Broken => return Poll::Ready(Some(Ended::Aborted)),
                },
                Phase::Rest(rest) => {
                    return rest.poll(self, slot, cx).map(|after| match after {
                        After::Next => None,
                        After::Closed => Some(Ended::Cleanly),
                        After::Broken => Some(Ended::Aborted),
                    });
                }
                Phase::Tunnel(pump) => return pump.poll(self, cx).map(Some),
                Phase::Handling => return Poll::Ready(Some(Ended::Aborted)),
            };
        }
    }
}
