//! The server side: one task per downstream connection, for its whole life.
//!
//! The task is a state machine written by hand, because an idle connection is as large as the
//! largest thing it ever waited for: what belongs to one request (the handler's future, the
//! answer being sent) is boxed and gone with it. Requests are answered one at a time and in
//! order; what a client sends early waits, bounded, in [`Inbound`](super::inbound::Inbound).
//!
//! Recovery: whatever cannot be read with certainty ends the connection. A refusal is answered
//! and then lingers, so that the answer is not lost to a reset; an answer that breaks off is
//! never ended cleanly (no last chunk, or a reset where only the connection's end marks it).

mod answering;
mod connection;
mod rest;
mod tunnel;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use crate::message::{Downstream, Known, Method, RequestHead, Version};
use crate::util::clock;
use crate::util::timer::{SweepSlot, Timers};
use crate::wire::h1::framing::{is_persistent, lists, of_request};
use crate::wire::h1::inbound::Fill;
use crate::wire::h1::parse::{self, HeadLimits, Malformed};
use crate::wire::io::Socket;
use crate::wire::{Handler, Limits, Refusal, RefusalReason, Request, Response};

use answering::{Answering, Sent};
use connection::ServerConnection;
use rest::{After, Rest};
use tunnel::TunnelPump;

/// Requests that one wake-up may answer before other connections get their turn.
const BUDGET: u32 = 16;

/// How a downstream connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Between two requests, or after an answer that announced it.
    Cleanly,
    /// No request came in time; nothing was answered.
    IdleTimeout,
    /// A request or its answer was broken off.
    Aborted,
}

/// The whole life of one downstream connection: requests one after the other, each answered by
/// `handler`, until either side ends it.
pub fn serve<H: Handler + 'static>(
    socket: Socket,
    timers: &Timers,
    handler: Rc<H>,
) -> impl Future<Output = Ended> + use<H> {
    let slot = timers.slot();
    let patience = handler.limits().header_timeout;
    slot.set_end(clock::now() + patience, patience);
    Serve {
        connection: Rc::new(ServerConnection::new(socket)),
        handler,
        slot,
        state: State::Head {
            tried: 0,
            timed: true,
            began: None,
        },
        requests: 0,
    }
}

struct Serve<H: Handler> {
    connection: Rc<ServerConnection>,
    handler: Rc<H>,
    /// Header and idle deadlines; also bounds what is sent and drained without a proxy watching.
    slot: SweepSlot,
    state: State<H::Work>,
    requests: u64,
}

enum State<W> {
    /// Waiting for a head, or for the rest of one.
    Head {
        /// Buffered bytes when parsing last found no end.
        tried: usize,
        /// The header deadline is running (and not the idle one).
        timed: bool,
        /// When its first bytes came, if that was not all of it.
        began: Option<Instant>,
    },
    Handling(Box<W>, Facts),
    Answering(Box<Answering>),
    /// The answer is out, the request is not in yet; or the connection lingers.
    Rest(Rest),
    Tunnel(Box<TunnelPump>),
}

/// What must be known of a request when its answer is framed.
#[derive(Debug, Clone, Copy)]
struct Facts {
    is_head: bool,
    version: Version,
    /// Neither the client nor we end the connection after this answer.
    keep: bool,
    /// The client may send another request at any time: it did not ask for the end.
    more: bool,
}

impl<H: Handler + 'static> Future for Serve<H> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let serve = &mut *self;
        let _turn = clock::turn();
        let last = serve.requests + u64::from(BUDGET);
        loop {
            let next = match &mut serve.state {
                State::Head { .. } if serve.requests == last => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Head { .. } => ready!(serve.poll_head(cx)),
                State::Handling(answer, facts) => match Pin::new(answer.as_mut()).poll(cx) {
                    Poll::Ready(response) => {
                        let facts = *facts;
                        serve.begin_answer(response, facts)
                    }
                    Poll::Pending if serve.connection.is_gone() => Err(Ended::Aborted),
                    Poll::Pending => return Poll::Pending,
                },
                State::Answering(answering) => {
                    match ready!(answering.poll(&serve.connection, &serve.slot, cx)) {
                        Sent::Broken => Err(Ended::Aborted),
                        Sent::Tunnel(tunnel) => Ok(State::Tunnel(Box::new(tunnel))),
                        Sent::Whole(rest) => Ok(State::Rest(rest)),
                    }
                }
                State::Rest(rest) => match ready!(rest.poll(&serve.connection, &serve.slot, cx)) {
                    After::Next => Ok(serve.next_request()),
                    After::Closed => Err(Ended::Cleanly),
                    After::Broken => Err(Ended::Aborted),
                },
                State::Tunnel(pump) => Err(ready!(pump.poll(&serve.connection, cx))),
            };
            match next {
                Ok(state) => serve.state = state,
                Err(ended) => return Poll::Ready(ended),
            }
        }
    }
}

impl<H: Handler + 'static> Serve<H> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<State<H::Work>, Ended>> {
        let limits = self.handler.limits();
        loop {
            if let Some(next) = self.try_parse(&limits) {
                return Poll::Ready(Ok(next));
            }
            let (filled, waiting) = self.connection.poll_fill(cx);
            match filled {
                Poll::Pending => return self.poll_wait(cx, &limits, waiting),
                Poll::Ready(Ok(Fill::Bytes)) => {}
                Poll::Ready(Ok(Fill::End)) if waiting == 0 => {
                    return Poll::Ready(Err(Ended::Cleanly));
                }
                Poll::Ready(Ok(Fill::Full)) => {
                    let detail = "the request head is too large";
                    let reason = RefusalReason::HeaderTooLarge;
                    return Poll::Ready(Ok(self.refuse(Malformed { reason, detail }, None)));
                }
                Poll::Ready(Ok(Fill::End) | Err(_)) => return Poll::Ready(Err(Ended::Aborted)),
            }
        }
    }

    /// Nothing to read: what may end the wait. `waiting` bytes of a head have come.
    fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        limits: &Limits,
        waiting: usize,
    ) -> Poll<Result<State<H::Work>, Ended>> {
        if waiting == 0 && self.handler.poll_closing(cx).is_ready() {
            return Poll::Ready(Err(Ended::Cleanly));
        }
        if let State::Head { timed, began, .. } = &mut self.state
            && began.is_none()
            && waiting > 0
        {
            let now = clock::now();
            *began = Some(now);
            if !*timed {
                *timed = true;
                let patience = limits.header_timeout;
                self.slot.set_end(now + patience, patience);
            }
        }
        ready!(self.slot.poll_expired(cx));
        if waiting == 0 {
            // Between two requests nobody is refused: most kept connections end like this.
            if self.requests == 0 {
                self.handler.idle_timeout();
            }
            return Poll::Ready(Err(Ended::IdleTimeout));
        }
        let detail = "the request head did not come in time";
        let reason = RefusalReason::RequestTimeout;
        Poll::Ready(Ok(self.refuse(Malformed { reason, detail }, None)))
    }

    /// A head out of what is buffered. A head that dribbles in is not parsed again for every
    /// byte: only when its end may have come, or twice as much as last time.
    fn try_parse(&mut self, limits: &Limits) -> Option<State<H::Work>> {
        let State::Head { tried, began, .. } = &mut self.state else {
            return None;
        };
        let began = *began;
        let parsed = {
            let inner = self.connection.borrow();
            let bytes = inner.inbound.bytes();
            if bytes.len() == *tried {
                return None;
            }
            let new = &bytes[tried.saturating_sub(3)..];
            let has = |end| memchr::memmem::find(new, end).is_some();
            // A bare LF ends no head, but whoever sent it waits for an answer.
            let ended = *tried == 0 || has(b"\n\r\n") || has(b"\n\n");
            if !ended && bytes.len() < 2 * *tried && bytes.len() < limits.max_header_bytes {
                return None;
            }
            *tried = bytes.len();
            let limits = HeadLimits {
                bytes: limits.max_header_bytes,
                fields: limits.max_headers,
                underscores: limits.underscore_headers,
            };
            parse::request(bytes, &limits)
        };
        match parsed {
            Ok(None) => None,
            Ok(Some((head, length))) => {
                self.connection.borrow_mut().inbound.consume(length);
                Some(self.dispatch(head, began, limits))
            }
            Err(malformed) => Some(self.refuse(malformed, None)),
        }
    }

    fn dispatch(
        &mut self,
        head: RequestHead,
        began: Option<Instant>,
        limits: &Limits,
    ) -> State<H::Work> {
        let framing = match of_request(&head) {
            Ok(framing) => framing,
            Err(malformed) => return self.refuse(malformed, Some(head)),
        };
        self.slot.clear();
        self.requests += 1;
        let persistent = is_persistent(head.version, &head.fields);
        let facts = Facts {
            is_head: head.method == Method::Head,
            version: head.version,
            keep: persistent && (limits.max_requests == 0 || self.requests < limits.max_requests),
            more: persistent,
        };
        let expects = head.fields.contains(Known::Expect)
            && lists(&head.fields, Known::Expect, "100-continue");
        self.connection
            .borrow_mut()
            .begin(framing, head.version, expects);
        let downstream: Rc<dyn Downstream> = self.connection.clone();
        let work = self.handler.handle(Request {
            head,
            downstream,
            began,
        });
        State::Handling(Box::new(work), facts)
    }

    fn refuse(&mut self, malformed: Malformed, head: Option<RequestHead>) -> State<H::Work> {
        let Malformed { reason, detail } = malformed;
        let (method, target) = match &head {
            Some(head) => {
                let target = String::from_utf8_lossy(head.target()).into_owned();
                (Some(head.method.as_str().to_owned()), Some(target))
            }
            None => parse::start_line_parts(self.connection.borrow().inbound.bytes()),
        };
        let is_head = method.as_deref() == Some("HEAD");
        let response = self.handler.refuse(Refusal {
            reason,
            detail,
            method,
            target,
            head,
        });
        self.slot.clear();
        self.connection.borrow_mut().begin_refused();
        self.answer(
            response,
            Facts {
                is_head,
                version: Version::Http11,
                keep: false,
                more: true,
            },
        )
    }

    fn begin_answer(&mut self, response: Response, facts: Facts) -> Result<State<H::Work>, Ended> {
        if self.connection.is_gone() {
            return Err(Ended::Aborted);
        }
        Ok(self.answer(response, facts))
    }

    fn answer(&mut self, response: Response, mut facts: Facts) -> State<H::Work> {
        facts.keep &= !response.close && !self.handler.closing();
        State::Answering(Box::new(Answering::new(response, facts, &self.connection)))
    }

    fn next_request(&mut self) -> State<H::Work> {
        if Rc::strong_count(&self.connection) > 1 {
            // Somebody still holds the last request's side: it must not see the next one's.
            self.connection = Rc::new(self.connection.move_out());
        }
        let waiting = {
            let mut inner = self.connection.borrow_mut();
            inner.finish();
            inner.waiting()
        };
        if waiting == 0 {
            let patience = self.handler.limits().idle_timeout;
            self.slot.set_end(clock::now() + patience, patience);
        }
        State::Head {
            tried: 0,
            timed: false,
            began: None,
        }
    }
}
