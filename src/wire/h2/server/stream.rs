//! One stream from its request to the end of its answer.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::message::Downstream;
use crate::wire::Response;
use crate::wire::h2::server::answering::{Answering, Sent};
use crate::wire::h2::server::arrival::Way;
use crate::wire::h2::server::tunnel::TunnelPump;
use crate::wire::h2::server::upgrade::Upgrade;

/// Polled inside the connection's task; dropping it cancels what it does.
pub(super) struct Stream<W> {
    phase: Phase<W>,
    way: Way,
    /// It began as a tunnel by extended CONNECT.
    connect: Option<Upgrade>,
    /// Of the connection: an answer asked for its end. `None` where no work was begun.
    close: Option<Rc<Cell<bool>>>,
}

enum Phase<W> {
    Handling(W),
    Answering(Answering),
    Tunnel(TunnelPump),
    Done,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    /// Work at a server was begun and nobody wants its result.
    pub(super) given_up: bool,
    /// It has a place of [`super::pace::Pace`].
    pub(super) paced: bool,
    /// Its client took its answer too slowly, and its place was needed.
    pub(super) shed: bool,
}

impl<W: Future<Output = Response> + Unpin> Stream<W> {
    pub(super) fn new(work: W, way: Way, connect: Option<Upgrade>, close: Rc<Cell<bool>>) -> Self {
        Stream {
            phase: Phase::Handling(work),
            way,
            connect,
            close: Some(close),
        }
    }

    /// A request that was refused for its head; that is no reason to end the connection.
    pub(super) fn answered(response: Response, way: Way) -> Self {
        Stream {
            phase: answering(response, &way),
            way,
            connect: None,
            close: None,
        }
    }

    fn finished(&mut self, given_up: bool) -> Poll<Finished> {
        self.phase = Phase::Done;
        Poll::Ready(Finished {
            given_up,
            paced: self.close.is_some(),
            shed: self.way.slot.is_shed(),
        })
    }
}

fn answering<W>(response: Response, way: &Way) -> Phase<W> {
    match Answering::new(response, &way.exchange, way.is_head) {
        Ok(answering) => Phase::Answering(answering),
        Err(Sent::Tunnel(tunnel)) => Phase::Tunnel(TunnelPump::new(tunnel, way.exchange.clone())),
        Err(_) => Phase::Done,
    }
}

impl<W: Future<Output = Response> + Unpin> Future for Stream<W> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let stream = &mut *self;
        loop {
            match &mut stream.phase {
                Phase::Handling(work) => {
                    // Its end also when nobody asks for it.
                    if stream.way.exchange.poll_gone(cx).is_ready() {
                        return stream.finished(true);
                    }
                    let Poll::Ready(response) = Pin::new(work).poll(cx) else {
                        return Poll::Pending;
                    };
                    if let Some(close) = &stream.close {
                        close.set(close.get() | response.close);
                    }
                    let response = match stream.connect.take() {
                        Some(upgrade) => upgrade.answer(response),
                        None => response,
                    };
                    stream.phase = answering(response, &stream.way);
                }
                Phase::Answering(answering) => {
                    if stream.way.exchange.poll_gone(cx).is_ready() {
                        return stream.finished(true);
                    }
                    return match answering.poll(&stream.way.slot, cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(Sent::Whole) => stream.finished(false),
                        Poll::Ready(Sent::Tunnel(_) | Sent::Broken) => stream.finished(true),
                    };
                }
                Phase::Tunnel(pump) => {
                    return match pump.poll(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(()) => stream.finished(false),
                    };
                }
                Phase::Done => return stream.finished(false),
            }
        }
    }
}
