//! A final answer going out on its stream.
//!
//! A piece of a body is pulled when the stream's window is open, and given to `h2` as far as that
//! window goes: nothing is reserved for bytes that are not there, because what one stream reserves
//! of the connection's window no other stream can use.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use crate::message::{Body, BodyStream, Fields, Frame, Length, Tunnel};
use crate::util::clock;
use crate::util::timer::{Awaits, SweepSlot};
use crate::wire::Response;
use crate::wire::h2::heads::{self, Declared};
use crate::wire::h2::server::exchange::Exchange;
use crate::wire::h2::server::stock::Chunk;

/// An answer of our own that its client does not take is given up after this.
const STALL: Duration = Duration::from_secs(30);

/// Body bytes that one poll may move before other streams get their turn.
const BUDGET: usize = 256 * 1024;

pub(super) struct Answering {
    exchange: Rc<Exchange>,
    body: Option<Box<dyn BodyStream>>,
    /// Pulled and not sent.
    piece: Bytes,
    trailers: Option<Fields>,
    /// Payload still promised by `Content-Length`; `None` where none is.
    promised: Option<u64>,
    /// The answer to HEAD, 204, 304: no payload may follow.
    bare: bool,
    /// The body broke off; what came before goes out still.
    failed: bool,
    /// The body has no more.
    ended: bool,
    /// END_STREAM was sent.
    closed: bool,
    /// How long the client may take nothing of a body that is no stream.
    patience: Option<Duration>,
    /// Bytes sent, and how many at the last stall.
    sent: u64,
    stalled_at: Option<u64>,
}

/// How sending ended.
pub(super) enum Sent {
    Whole,
    Tunnel(Box<dyn Tunnel>),
    /// The client left, or the body broke off.
    Broken,
}

/// Nothing more can be sent of it.
struct Broken;

impl Answering {
    /// Sends the head.
    pub(super) fn new(
        response: Response,
        exchange: &Rc<Exchange>,
        is_head: bool,
    ) -> Result<Self, Sent> {
        let Response { head, body, .. } = response;
        let bare = is_head || matches!(head.status, 204 | 304);
        let declared = match (&body, head.status, body.length()) {
            (Body::Tunnel(_), _, _) | (_, 204, _) => Declared::Nothing,
            (Body::Bytes(bytes), _, _) if is_head => Declared::Length(bytes.len() as u64),
            _ if bare => Declared::AsReceived,
            (_, _, Length::Exact(length)) => Declared::Length(length),
            (_, _, Length::Unknown) => Declared::Nothing,
        };
        let Some(head) = heads::response(&head, declared) else {
            exchange.reset(Reason::INTERNAL_ERROR);
            return Err(Sent::Broken);
        };
        let patience = match &body {
            Body::Whole(_, patience) => *patience,
            _ => Some(STALL),
        };
        let (body, piece) = match body {
            Body::Empty => (None, Bytes::new()),
            Body::Bytes(bytes) => (None, bytes),
            Body::Whole(data, _) => (None, data.into_payload()),
            Body::Stream(stream) => (Some(stream), Bytes::new()),
            Body::Tunnel(tunnel) => {
                let sent = exchange.send_head(head, false);
                return Err(if sent {
                    Sent::Tunnel(tunnel)
                } else {
                    Sent::Broken
                });
            }
        };
        let piece = if bare { Bytes::new() } else { piece };
        let ended = body.is_none();
        let closed = bare || (ended && piece.is_empty());
        if !exchange.send_head(head, closed) {
            return Err(Sent::Broken);
        }
        exchange.stock.holds(0, piece.len());
        Ok(Answering {
            exchange: exchange.clone(),
            body,
            piece,
            trailers: None,
            promised: match declared {
                Declared::Length(length) if !bare => Some(length),
                _ => None,
            },
            bare,
            failed: false,
            ended,
            closed,
            patience,
            sent: 0,
            stalled_at: None,
        })
    }

    pub(super) fn poll(&mut self, slot: &SweepSlot, cx: &mut Context<'_>) -> Poll<Sent> {
        if self.failed {
            // Never a clean end (RFC 9113 section 8.1).
            self.exchange.reset(Reason::INTERNAL_ERROR);
            return Poll::Ready(Sent::Broken);
        }
        let before = self.sent;
        loop {
            let moved = match self.advance(cx) {
                Ok(moved) => moved,
                Err(Broken) => {
                    self.failed = true;
                    self.body = None;
                    self.exchange.stock.after_writing(cx);
                    return Poll::Pending;
                }
            };
            match moved {
                Moved::On if self.sent - before > BUDGET as u64 => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Moved::On => {}
                Moved::End => return self.poll_rest(cx),
                Moved::AwaitsBody => return Poll::Pending,
                Moved::AwaitsClient => {
                    return self.poll_stalled(slot, cx).map(|()| {
                        // As a reset of the client's: it takes nothing.
                        self.exchange.reset(Reason::CANCEL);
                        Sent::Broken
                    });
                }
            }
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Result<Moved, Broken> {
        if !self.piece.is_empty() {
            return self.send(cx);
        }
        if self.ended {
            self.close()?;
            return Ok(Moved::End);
        }
        let at_end = self.body.as_ref().is_some_and(|body| body.at_end());
        if !self.closed && !self.exchange.may_pull(at_end, cx) {
            return Ok(Moved::AwaitsClient);
        }
        self.pull(cx)
    }

    /// As much of the piece as the window allows; with it the end, where that is known.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<Moved, Broken> {
        let end = self.ended && self.trailers.is_none();
        let sent = self.exchange.send(&mut self.piece, end, cx);
        let count = sent.map_err(|_| Broken)?;
        if count == 0 {
            return Ok(Moved::AwaitsClient);
        }
        self.sent += count as u64;
        self.closed |= end && self.piece.is_empty();
        Ok(Moved::On)
    }

    fn pull(&mut self, cx: &mut Context<'_>) -> Result<Moved, Broken> {
        let Some(body) = &mut self.body else {
            self.ended = true;
            return Ok(Moved::On);
        };
        match body.poll_frame(cx) {
            Poll::Pending => {
                self.exchange.pulled_nothing();
                return Ok(Moved::AwaitsBody);
            }
            Poll::Ready(Ok(frame)) => self.take(frame)?,
            Poll::Ready(Err(_)) => return Err(Broken),
        }
        // The end that comes without waiting leaves together with the last bytes.
        if !self.ended
            && let Some(body) = &mut self.body
            && body.at_end()
            && let Poll::Ready(frame) = body.poll_frame(cx)
        {
            self.take(frame.map_err(|_| Broken)?)?;
        }
        Ok(Moved::On)
    }

    fn take(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Data(data) => {
                if self.bare {
                    return Err(Broken);
                }
                let bytes = data.into_payload();
                if let Some(promised) = &mut self.promised {
                    *promised = promised.checked_sub(bytes.len() as u64).ok_or(Broken)?;
                }
                self.exchange.stock.holds(0, bytes.len());
                if self.piece.is_empty() {
                    self.piece = bytes;
                } else {
                    self.piece = [&self.piece[..], &bytes].concat().into();
                }
                Ok(())
            }
            // Never asked for.
            Frame::Piped(_) => Err(Broken),
            Frame::Trailers(trailers) => {
                self.trailers = (!self.bare).then_some(trailers);
                Ok(())
            }
            Frame::End => {
                if self.promised.is_some_and(|promised| promised > 0) {
                    return Err(Broken);
                }
                self.ended = true;
                Ok(())
            }
        }
    }

    /// Everything is sent but the end.
    fn close(&mut self) -> Result<(), Broken> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        let trailers = self.trailers.take();
        let stock = &self.exchange.stock;
        let sent = self.exchange.with_body(|stream| match trailers {
            Some(trailers) => stream.send_trailers(heads::trailers(&trailers)),
            None => stream.send_data(Chunk::new(Bytes::new(), stock), true),
        });
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Broken),
        }
    }

    /// The answer is out; what its body still moves is the request's. Then dropping the stream
    /// tells a client that still sends to stop (RFC 9113 section 8.1).
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Sent> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Sent::Whole);
        };
        if body.poll_pump(cx).is_ready() {
            return Poll::Ready(Sent::Whole);
        }
        body.poll_expired(cx, false).map(|_| Sent::Whole)
    }

    /// The client does not take what there is: the upload goes on, and somebody's patience ends.
    /// Ready when it has.
    fn poll_stalled(&mut self, slot: &SweepSlot, cx: &mut Context<'_>) -> Poll<()> {
        let progressed = self.stalled_at != Some(self.sent);
        self.stalled_at = Some(self.sent);
        if let Some(body) = &mut self.body {
            if body.poll_expired(cx, progressed).is_ready() {
                return Poll::Ready(());
            }
            return match body.poll_pump(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            };
        }
        if let (true, Some(patience)) = (progressed, self.patience) {
            slot.set_end(clock::now() + patience, patience);
            slot.awaits(Awaits::Reader, self.sent);
        }
        slot.poll_expired(cx)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.exchange.stock.holds(self.piece.len(), 0);
    }
}

/// How far one step went.
enum Moved {
    On,
    AwaitsBody,
    AwaitsClient,
    /// The answer is out.
    End,
}
