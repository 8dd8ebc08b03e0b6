//! A final answer going out.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::message::{Body, Data, Frame, Length, Version};
use crate::util::clock;
use crate::util::timer::{Awaits, SweepSlot};
use crate::util::turn::next_round;
use crate::wire::Response;
use crate::wire::h1::head_write::{self, AnswerFraming, Persistence};
use crate::wire::h1::server::connection::ServerConnection;
use crate::wire::h1::server::rest::{Close, Rest};
use crate::wire::h1::server::tunnel::TunnelPump;

/// An answer of our own that its client does not read is given up after this.
const STALL: Duration = Duration::from_secs(30);

/// Body bytes that one wake-up may move before other connections get their turn.
const BUDGET: u64 = 1024 * 1024;

/// Request body bytes that are worth reading to keep a connection.
pub(super) const DRAIN_BYTES: u64 = 64 * 1024;

pub(super) struct Answering {
    body: Body,
    framing: AnswerFraming,
    /// Payload still promised by `Content-Length`; `None` where none is.
    promised: Option<u64>,
    /// The answer to HEAD, 204, 304: no payload may follow.
    bare: bool,
    end: Option<Close>,
    trailers: bool,
    ended: bool,
    /// The body broke off; what came before goes out still.
    failed: bool,
    /// How long the client may take nothing of a body that is no stream.
    patience: Option<Duration>,
    /// `written` at the last stall.
    stalled_at: Option<u64>,
}

/// How sending ended.
pub(super) enum Sent {
    Whole(Rest),
    Tunnel(TunnelPump),
    /// The client left, or the body broke off.
    Broken,
}

impl Answering {
    /// Frames the answer and puts its head on the way.
    pub(super) fn new(response: Response, connection: &ServerConnection) -> Self {
        let Response {
            head,
            mut body,
            close,
        } = response;
        let mut inner = connection.borrow_mut();
        inner.begin_answer();
        let facts = inner.facts;
        let bare = facts.is_head || matches!(head.status, 204 | 304);
        let framing = match (&body, head.status, body.length()) {
            (Body::Tunnel(_), _, _) => AnswerFraming::Tunnel,
            (_, 204, _) => AnswerFraming::NoBody,
            (Body::Bytes(bytes), _, _) if facts.is_head => {
                AnswerFraming::Length(bytes.len() as u64)
            }
            _ if bare => AnswerFraming::HeadOnly,
            (_, _, Length::Exact(length)) => AnswerFraming::Length(length),
            (_, _, Length::Unknown) if facts.version == Version::Http10 => {
                AnswerFraming::UntilClose
            }
            (_, _, Length::Unknown) => AnswerFraming::Chunked,
        };
        if bare && matches!(body, Body::Bytes(_) | Body::Whole(..)) {
            body = Body::Empty;
        }
        let pumped = matches!(&body, Body::Stream(stream) if stream.moves_request());
        let drainable = inner
            .reader
            .remaining()
            .is_some_and(|rest| rest <= DRAIN_BYTES);
        let close = close
            || !facts.keep
            || framing == AnswerFraming::UntilClose
            || inner.has_sent_all()
            || inner.expects
            || inner.reader.is_broken()
            || !(pumped || drainable);
        let end = close.then_some(if facts.more && !inner.has_sent_all() {
            Close::Linger
        } else {
            Close::AtOnce
        });
        let persistence = match (close, facts.version) {
            (true, _) => Persistence::Close,
            (false, Version::Http10) => Persistence::KeepAlive,
            (false, _) => Persistence::Silent,
        };
        if let (Body::Stream(stream), AnswerFraming::Length(_), true) =
            (&mut body, framing, inner.splices())
        {
            stream.take_pipes();
        }
        head_write::answer(inner.out.buffer(), &head, framing, persistence);
        let promised = match framing {
            AnswerFraming::Length(length) if !bare => Some(length),
            _ => None,
        };
        let patience = match &body {
            Body::Whole(_, patience) => *patience,
            _ => Some(STALL),
        };
        Answering {
            body,
            patience,
            framing,
            promised,
            bare,
            end,
            trailers: false,
            ended: false,
            failed: false,
            stalled_at: None,
        }
    }

    pub(super) fn poll(
        &mut self,
        connection: &ServerConnection,
        slot: &SweepSlot,
        cx: &mut Context<'_>,
    ) -> Poll<Sent> {
        let start = connection.borrow().out.written();
        loop {
            let waits = self.gather(connection, cx).unwrap_or_else(|()| {
                self.failed = true;
                false
            });
            let (flushed, written) = {
                let mut inner = connection.borrow_mut();
                (inner.poll_flush(cx), inner.out.written())
            };
            match flushed {
                Poll::Ready(Err(_)) => return Poll::Ready(Sent::Broken),
                Poll::Ready(Ok(())) if self.failed => {
                    return Poll::Ready(self.broken(connection));
                }
                Poll::Ready(Ok(())) if self.ended => return Poll::Ready(self.sent()),
                Poll::Ready(Ok(())) if waits => {
                    return connection.poll_left(cx).map(|_| Sent::Broken);
                }
                Poll::Ready(Ok(())) => {}
                Poll::Pending => {
                    return self
                        .poll_stalled(written, slot, cx)
                        .map(|()| self.broken(connection));
                }
            }
            if written - start > BUDGET {
                next_round(cx);
                return Poll::Pending;
            }
        }
    }

    /// Pulls frames while there is room; true if the body has no more now. Errors break off.
    fn gather(&mut self, connection: &ServerConnection, cx: &mut Context<'_>) -> Result<bool, ()> {
        while !self.ended && !self.failed {
            // The end that comes without waiting leaves together with the last bytes.
            let last = matches!(&self.body, Body::Stream(stream) if stream.at_end());
            if !last && !connection.borrow().out.has_room() {
                return Ok(false);
            }
            match &mut self.body {
                Body::Empty | Body::Tunnel(_) => self.ended = true,
                Body::Bytes(bytes) => {
                    let data = Data::from(std::mem::take(bytes));
                    connection.borrow_mut().out.push(data);
                    self.ended = true;
                }
                Body::Whole(..) => {
                    if let Body::Whole(data, _) = std::mem::replace(&mut self.body, Body::Empty) {
                        connection.borrow_mut().out.push(data.unframed());
                    }
                    self.ended = true;
                }
                Body::Stream(stream) => match stream.poll_frame(cx) {
                    Poll::Pending => return Ok(true),
                    Poll::Ready(Err(_)) => return Err(()),
                    Poll::Ready(Ok(frame)) => self.take(frame, connection)?,
                },
            }
        }
        Ok(false)
    }

    fn take(&mut self, frame: Frame, connection: &ServerConnection) -> Result<(), ()> {
        let out = &mut connection.borrow_mut().out;
        let chunked = self.framing == AnswerFraming::Chunked;
        match frame {
            Frame::Data(_) | Frame::Piped(_) if self.bare => return Err(()),
            Frame::Piped(pipe) => {
                if let Some(promised) = &mut self.promised {
                    *promised = promised.checked_sub(pipe.len() as u64).ok_or(())?;
                }
                out.push_pipe(pipe);
            }
            Frame::Data(data) => {
                if let Some(promised) = &mut self.promised {
                    *promised = promised.checked_sub(data.payload() as u64).ok_or(())?;
                }
                out.push_body(data, chunked);
            }
            Frame::Trailers(trailers) => {
                if chunked && !self.trailers {
                    out.push_last_chunk(Some(&trailers));
                }
                self.trailers = true;
            }
            Frame::End => {
                if self.promised.is_some_and(|promised| promised > 0) {
                    return Err(());
                }
                if chunked && !self.trailers {
                    out.push_last_chunk(None);
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    /// The client does not read: the upload goes on, and somebody's patience ends. Ready when it
    /// has.
    fn poll_stalled(&mut self, written: u64, slot: &SweepSlot, cx: &mut Context<'_>) -> Poll<()> {
        let progressed = self.stalled_at != Some(written);
        self.stalled_at = Some(written);
        if let Body::Stream(stream) = &mut self.body {
            if stream.poll_expired(cx, progressed).is_ready() {
                return Poll::Ready(());
            }
            return match stream.poll_pump(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            };
        }
        if let (true, Some(patience)) = (progressed, self.patience) {
            slot.set_end(clock::now() + patience, patience);
            slot.awaits(Awaits::Reader, written);
        }
        slot.poll_expired(cx)
    }

    /// A body that is cut short must look so (RFC 9112 section 8). Where only the connection's
    /// end marks the end of the body, that takes a reset.
    fn broken(&self, connection: &ServerConnection) -> Sent {
        if self.framing == AnswerFraming::UntilClose {
            connection.borrow().reset_on_close();
        }
        Sent::Broken
    }

    fn sent(&mut self) -> Sent {
        match std::mem::replace(&mut self.body, Body::Empty) {
            Body::Tunnel(tunnel) => Sent::Tunnel(TunnelPump::new(tunnel)),
            Body::Stream(stream) => Sent::Whole(Rest::new(Some(stream), self.end)),
            Body::Empty | Body::Bytes(_) | Body::Whole(..) => {
                Sent::Whole(Rest::new(None, self.end))
            }
        }
    }
}
