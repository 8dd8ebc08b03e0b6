//! The server side: one task per downstream connection, for its whole life.
//!
//! The task is a state machine written by hand, because an idle connection is as large as the
//! largest thing it ever waited for: what belongs to one request (its side of the connection, the
//! answer being sent) is in an object that comes and goes with it. Requests are
//! answered one at a time and in order; what a client sends early waits, bounded, in
//! [`Inbound`].
//!
//! Recovery: whatever cannot be read with certainty ends the connection. A refusal is answered
//! and then lingers, so that the answer is not lost to a reset; an answer that breaks off is
//! never ended cleanly (no last chunk, or a reset where only the connection's end marks it).

mod answering;
mod connection;
mod exchange;
mod line;
mod rest;
mod tunnel;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Known, Method, RequestHead};
use crate::util::clock;
use crate::util::timer::{Awaits, SweepSlot};
use crate::util::turn::next_round;
use crate::wire::h1::framing::{is_persistent, lists, of_request};
use crate::wire::h1::inbound::{Fill, Inbound};
use crate::wire::h1::parse::{self, HeadLimits, Malformed};
use crate::wire::io::Socket;
use crate::wire::{Cut, Handler, Limits, Refusal, RefusalReason, Request};

use connection::Held;
use exchange::{Exchange, Facts};
use line::Line;

/// Requests that one wake-up may answer before other connections get their turn.
const BUDGET: u32 = 16;

/// How long an idle connection that is told to end may still send one request, which is answered
/// with `Connection: close`. A request that is on its way when we close is lost, and a client may
/// repeat only some (RFC 9112 section 9.6): the busier a connection, the likelier one is; who was
/// in the accept queue when a drain began has most likely sent its first already.
pub const LAST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// How a downstream connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Between two requests, or after an answer that announced it.
    Cleanly,
    /// No request came in time; nothing was answered.
    IdleTimeout,
    /// A request or its answer was broken off.
    Aborted,
    /// Not at all: its client speaks HTTP/2 ([`Serve::into_http2`]).
    Http2,
}

/// The whole life of one downstream connection: requests one after the other, each answered by
/// `handler`, until either side ends it. All of it in one task. `slot` is armed: the end of the
/// first head's time.
pub fn serve<H: Handler>(socket: Socket, slot: SweepSlot, handler: H) -> Serve<H> {
    Serve {
        handler,
        slot,
        state: State::Waiting(Line::new(socket), None),
        requests: 0,
        closing: false,
    }
}

/// See [`serve`].
pub struct Serve<H: Handler> {
    handler: H,
    /// Header and idle deadlines; also bounds what is sent and drained without a proxy watching.
    slot: SweepSlot,
    state: State<H::Work>,
    requests: u32,
    /// Told to end while it had no request: what it still waits for is one that is on its way.
    closing: bool,
}

enum State<W> {
    /// For a request, or for the rest of its head.
    Waiting(Line, Option<Box<Head>>),
    Exchange(Exchange<W>),
    /// The first bytes were HTTP/2's connection preface.
    Http2(Line, Box<Head>),
    Ended,
}

/// A head of which a part has come.
#[derive(Default)]
struct Head {
    inbound: Inbound,
    /// Buffered bytes when parsing last found no end.
    tried: usize,
    /// When its first bytes were seen, if that was not all of it: from here its deadline runs. That
    /// of the first request runs from the start.
    began: Option<Instant>,
}

impl Head {
    /// Buffered bytes of a request; an empty line before it is none of it (RFC 9112 section 2.2),
    /// and a client that ends its body with one is idle.
    fn waiting(&self) -> usize {
        match self.inbound.bytes() {
            b"\r" | b"\r\n" => 0,
            bytes => bytes.len(),
        }
    }

    /// A head that dribbles in is not parsed again for every byte: only when its end may have
    /// come, or twice as much as last time.
    fn may_be_whole(&mut self, max_bytes: usize) -> bool {
        let (bytes, before) = (self.inbound.bytes(), self.tried);
        let new = &bytes[before.saturating_sub(3)..];
        let has = |end| memchr::memmem::find(new, end).is_some();
        // A bare LF ends no head, but whoever sent it waits for an answer.
        let ended = before == 0 || has(b"\n\r\n") || has(b"\n\n");
        if !ended && bytes.len() < 2 * before && bytes.len() < max_bytes {
            return false;
        }
        self.tried = bytes.len();
        true
    }
}

/// Nothing in it is pinned: what has to be is boxed.
impl<H: Handler> Unpin for Serve<H> {}

impl<H: Handler> Future for Serve<H> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let serve = &mut *self;
        let _turn = clock::turn();
        let last = serve.requests.saturating_add(BUDGET);
        loop {
            match &mut serve.state {
                State::Waiting(..) if serve.requests == last => {
                    next_round(cx);
                    return Poll::Pending;
                }
                State::Waiting(..) => {
                    if let Err(ended) = ready!(serve.poll_head(cx)) {
                        return Poll::Ready(ended);
                    }
                }
                State::Exchange(exchange) => {
                    match ready!(exchange.poll(&serve.handler, &serve.slot, cx)) {
                        None => serve.next_request(),
                        Some(ended) => return Poll::Ready(ended),
                    }
                }
                State::Http2(..) => return Poll::Ready(Ended::Http2),
                State::Ended => return Poll::Ready(Ended::Aborted),
            }
        }
    }
}

impl<H: Handler> Serve<H> {
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// After [`Ended::Http2`]: the socket, what was read of it, the armed deadline of its first
    /// request.
    pub fn into_http2(self) -> Option<(Socket, Vec<u8>, SweepSlot, H)> {
        match self.state {
            State::Http2(line, head) => Some((
                line.into_socket(),
                head.inbound.bytes().to_vec(),
                self.slot,
                self.handler,
            )),
            _ => None,
        }
    }

    /// Ready when there is an exchange.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut head = match &mut self.state {
            State::Waiting(_, begun) => begun.take().map_or_else(Head::default, |begun| *begun),
            _ => return Poll::Ready(Err(Ended::Aborted)),
        };
        if !head.inbound.is_empty() && self.try_parse(&mut head, &self.handler.limits()) {
            return Poll::Ready(Ok(()));
        }
        loop {
            let State::Waiting(line, _) = &mut self.state else {
                return Poll::Ready(Err(Ended::Aborted));
            };
            let readable = line.poll_readable(cx);
            if readable.is_pending() {
                head.inbound.park();
                let waited = self.poll_wait(&mut head, cx);
                if let State::Waiting(_, begun) = &mut self.state
                    && !head.inbound.is_empty()
                {
                    *begun = Some(Box::new(head));
                }
                return waited;
            }
            let limits = self.handler.limits();
            head.inbound.set_limit(limits.connection_buffer);
            match line.read(&mut head.inbound) {
                Ok(Fill::Bytes) => {
                    if self.try_parse(&mut head, &limits) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Fill::End) if head.waiting() == 0 => {
                    return Poll::Ready(Err(Ended::Cleanly));
                }
                // TLS without close_notify: nothing was under way that could have been cut.
                Err(error)
                    if error.kind() == io::ErrorKind::UnexpectedEof && head.waiting() == 0 =>
                {
                    return Poll::Ready(Err(Ended::Cleanly));
                }
                Ok(Fill::Full) => {
                    let detail = "the request head is too large";
                    let reason = RefusalReason::HeaderTooLarge;
                    self.refuse(Malformed { reason, detail }, Err(&head));
                    return Poll::Ready(Ok(()));
                }
                Ok(Fill::End) | Err(_) => return Poll::Ready(Err(Ended::Aborted)),
            }
        }
    }

    /// Nothing to read: what may end the wait.
    fn poll_wait(&mut self, head: &mut Head, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let waiting = head.waiting() > 0;
        if !waiting && !self.closing && self.handler.closing() {
            self.closing = true;
            let end = clock::now() + LAST_REQUEST_GRACE;
            self.slot.set_end(end, LAST_REQUEST_GRACE);
            self.slot.awaits(Awaits::End, 0);
        }
        if waiting && head.began.is_none() {
            let now = clock::now();
            head.began = Some(now);
            if self.requests > 0 || self.closing {
                let patience = self.handler.limits().header_timeout;
                self.slot.set_end(now + patience, patience);
            }
        }
        if waiting {
            self.slot.awaits(Awaits::Bytes, head.waiting() as u64);
        }
        ready!(self.slot.poll_expired(cx));
        if !waiting && self.closing {
            return Poll::Ready(Err(Ended::Cleanly));
        }
        let shed = self.slot.is_shed();
        if !waiting && shed {
            self.handler.cut(Cut::OverloadIdle);
            return Poll::Ready(Err(Ended::IdleTimeout));
        }
        if !waiting {
            // Between two requests nobody is refused: most kept connections end like this.
            if self.requests == 0 {
                self.handler.idle_timeout();
            }
            return Poll::Ready(Err(Ended::IdleTimeout));
        }
        if shed {
            self.handler.cut(Cut::OverloadSlow);
        }
        let detail = "the request head did not come in time";
        let reason = RefusalReason::RequestTimeout;
        self.refuse(Malformed { reason, detail }, Err(head));
        Poll::Ready(Ok(()))
    }

    /// True if there is an exchange now.
    fn try_parse(&mut self, head: &mut Head, limits: &Limits) -> bool {
        if head.inbound.len() == head.tried {
            return false;
        }
        if !head.may_be_whole(limits.max_header_bytes) {
            return false;
        }
        match parse::request(head.inbound.bytes(), &HeadLimits::of(limits)) {
            Ok(None) => return false,
            Ok(Some((parsed, length))) => {
                head.inbound.consume(length);
                self.dispatch(head, parsed, limits);
            }
            Err(malformed) if self.is_http2(&malformed, head, limits) => {
                let state = std::mem::replace(&mut self.state, State::Ended);
                if let State::Waiting(line, _) = state {
                    self.state = State::Http2(line, Box::new(std::mem::take(head)));
                }
            }
            Err(malformed) => self.refuse(malformed, Err(head)),
        }
        true
    }

    /// What was refused begins HTTP/2's connection preface, which is made so that HTTP/1 refuses it
    /// (RFC 9113 section 3.4).
    fn is_http2(&self, malformed: &Malformed, head: &Head, limits: &Limits) -> bool {
        self.requests == 0
            && limits.h2
            && malformed.reason == RefusalReason::VersionNotSupported
            && head.inbound.bytes().starts_with(b"PRI * HTTP/2.0\r\n")
    }

    fn dispatch(&mut self, received: &mut Head, head: RequestHead, limits: &Limits) {
        let framing = match of_request(&head) {
            Ok(framing) => framing,
            Err(malformed) => return self.refuse(malformed, Ok(head)),
        };
        self.slot.clear();
        self.requests += 1;
        // Unlimited is as many as the counter holds.
        let most = match limits.max_requests {
            0 => u32::MAX,
            most => u32::try_from(most).unwrap_or(u32::MAX),
        };
        let persistent = is_persistent(head.version, &head.fields);
        let facts = Facts {
            is_head: head.method == Method::Head,
            version: head.version,
            keep: persistent && self.requests < most,
            more: persistent,
            half_close: limits.half_close,
            idle_timeout: limits.idle_timeout,
        };
        let expects = head.fields.contains(Known::Expect)
            && lists(&head.fields, Known::Expect, "100-continue");
        let State::Waiting(line, _) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let inbound = std::mem::take(&mut received.inbound);
        let connection = Held::new(line, inbound, framing, facts, expects);
        let work = self.handler.handle(Request {
            head,
            downstream: connection.downstream(),
            began: received.began,
            slot: self.slot.clone(),
        });
        self.state = State::Exchange(Exchange::new(connection, work));
    }

    /// `head`: parsed, or as it was received.
    fn refuse(&mut self, malformed: Malformed, head: Result<RequestHead, &Head>) {
        let Malformed { reason, detail } = malformed;
        let (method, target) = match &head {
            Ok(head) => {
                let target = String::from_utf8_lossy(head.target()).into_owned();
                (Some(head.method.as_str().to_owned()), Some(target))
            }
            Err(received) => parse::start_line_parts(received.inbound.bytes()),
        };
        let facts = Facts {
            is_head: method.as_deref() == Some("HEAD"),
            ..Facts::REFUSED
        };
        let response = self.handler.refuse(Refusal {
            reason,
            detail,
            method,
            target,
            head: head.ok(),
        });
        self.slot.clear();
        let State::Waiting(line, _) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        self.state = State::Exchange(Exchange::answered(Held::refused(line, facts), response));
    }

    fn next_request(&mut self) {
        let State::Exchange(exchange) = &self.state else {
            return;
        };
        let (line, inbound) = exchange.leave();
        let head = Head {
            inbound,
            ..Head::default()
        };
        if head.waiting() == 0 {
            let patience = exchange.idle_timeout();
            self.slot.set_idle(clock::now() + patience, patience);
        }
        let begun = (!head.inbound.is_empty()).then(|| Box::new(head));
        self.state = match line {
            Some(line) => State::Waiting(line, begun),
            None => State::Ended,
        };
    }
}
