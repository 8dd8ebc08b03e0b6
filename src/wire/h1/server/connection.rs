//! A downstream connection as the one request in it sees it, shared with the connection's task.
//!
//! Each request has an object of its own: whoever keeps it longer finds its client gone and never
//! sees the next one's bytes, and an idle connection has none. Objects that nobody keeps serve
//! again: a worker has about as many as it has requests under way.

use std::cell::{Ref, RefCell, RefMut};
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::message::{Abort, BodyError, Downstream, Frame, Length, ResponseHead, Version};
use crate::wire::h1::framing::Framing;
use crate::wire::h1::head_write;
use crate::wire::h1::inbound::{Fill, Inbound};
use crate::wire::h1::outbound::Outbound;
use crate::wire::h1::reader::{BodyReader, Step};
use crate::wire::h1::server::exchange::{Facts, Phase};
use crate::wire::h1::server::line::Line;

/// Bytes of following requests that wait for their turn.
const EARLY_BYTES: usize = 64 * 1024;
/// Between two looks at a socket that is not read.
const LOOK: Duration = Duration::from_millis(250);

/// Objects that a thread keeps for its next requests.
const KEPT: usize = 64;

thread_local! {
    static STACK: RefCell<Vec<Rc<ServerConnection>>> = const { RefCell::new(Vec::new()) };
}

/// What belongs to one request from the end of its head to the end of its answer.
pub(super) struct ServerConnection {
    inner: RefCell<Inner>,
    /// Of the task; a body in it comes back here for `inner`.
    pub(super) phase: RefCell<Phase>,
}

/// What the connection's task and [`Downstream`] both need. Borrowed for one system call at a
/// time, never while a handler or a body runs.
pub(super) struct Inner {
    /// `None` once the request is over.
    line: Option<Line>,
    pub(super) inbound: Inbound,
    pub(super) out: Outbound,
    pub(super) reader: BodyReader,
    pub(super) facts: Facts,
    /// The client waits for 100 before it sends its body.
    pub(super) expects: bool,
    /// We have sent the client 100: what the server says of it comes too late.
    continued: bool,
    /// An interim answer is on its way.
    interim: bool,
    /// The final answer has begun: no interim one may follow.
    answering: bool,
    gone: bool,
    /// The client has sent its FIN, which does not make it gone.
    half_closed: bool,
    /// Whoever pulls the body takes pipes.
    pipes: bool,
    /// For the end of a client that has sent more than we read ahead.
    look: Option<Pin<Box<Sleep>>>,
}

/// The task's hold on the object of a request that is under way; with it the request ends.
pub(super) struct Held(Rc<ServerConnection>);

impl Held {
    /// For a request whose head has been taken out of `inbound`. `expects`: it has
    /// `Expect: 100-continue`.
    pub(super) fn new(
        line: Line,
        inbound: Inbound,
        framing: Framing,
        facts: Facts,
        expects: bool,
    ) -> Self {
        let kept = STACK.with_borrow_mut(Vec::pop);
        let held = Held(kept.unwrap_or_else(|| Rc::new(ServerConnection::unused())));
        let mut inner = held.0.inner.borrow_mut();
        inner.reader = BodyReader::of_request(framing);
        inner.line = Some(line);
        inner.out.set_limit(inbound.limit());
        inner.inbound = inbound;
        inner.facts = facts;
        inner.expects = expects && facts.version == Version::Http11 && !inner.reader.is_done();
        inner.continued = false;
        inner.interim = false;
        inner.answering = false;
        inner.gone = false;
        inner.half_closed = false;
        inner.pipes = false;
        drop(inner);
        held
    }

    /// For a head that was refused: nothing behind it can be understood.
    pub(super) fn refused(line: Line, facts: Facts) -> Self {
        let held = Self::new(line, Inbound::default(), Framing::Chunked, facts, false);
        held.0.inner.borrow_mut().reader.closed();
        held
    }

    /// The request's own side of it.
    pub(super) fn downstream(&self) -> Rc<dyn Downstream> {
        self.0.clone()
    }
}

impl Deref for Held {
    type Target = ServerConnection;

    fn deref(&self) -> &ServerConnection {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A body may hold this object that holds it.
        drop(self.0.phase.replace(Phase::Handling));
        drop(self.0.leave());
        let mut inner = self.0.inner.borrow_mut();
        inner.out.restart();
        inner.look = None;
        drop(inner);
        if Rc::strong_count(&self.0) == 1 {
            // A thread that is ending has no stack any more.
            let _ = STACK.try_with(|stack| {
                let mut stack = stack.borrow_mut();
                if stack.len() < KEPT {
                    stack.push(self.0.clone());
                }
            });
        }
    }
}

impl ServerConnection {
    fn unused() -> Self {
        let inner = Inner {
            line: None,
            inbound: Inbound::default(),
            out: Outbound::default(),
            reader: BodyReader::new(Framing::Length(0)),
            facts: Facts::REFUSED,
            expects: false,
            continued: false,
            interim: false,
            answering: false,
            gone: true,
            half_closed: false,
            pipes: false,
            look: None,
        };
        ServerConnection {
            inner: RefCell::new(inner),
            phase: RefCell::new(Phase::Handling),
        }
    }

    /// Takes out what the next request needs: whoever keeps this object finds its client gone.
    pub(super) fn leave(&self) -> (Option<Line>, Inbound) {
        let mut inner = self.borrow_mut();
        inner.gone = true;
        (inner.line.take(), std::mem::take(&mut inner.inbound))
    }

    pub(super) fn borrow(&self) -> Ref<'_, Inner> {
        self.inner.borrow()
    }

    pub(super) fn borrow_mut(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.inner.borrow().gone
    }

    /// As [`Downstream::poll_gone`] while an answer's body moves the request's: what of that is
    /// under way is read by whoever pulls it, and its end is noticed there.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<Abort> {
        let mut inner = self.inner.borrow_mut();
        let idle = inner.reader.is_done() || (inner.expects && inner.inbound.is_empty());
        if idle || inner.gone {
            inner.poll_gone(cx)
        } else {
            Poll::Pending
        }
    }
}

impl Inner {
    /// The final answer begins.
    pub(super) fn begin_answer(&mut self) {
        self.answering = true;
    }

    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Fill>> {
        match &mut self.line {
            Some(line) => line.poll_fill(&mut self.inbound, cx),
            None => Poll::Ready(Ok(Fill::End)),
        }
    }

    /// Ready when everything is in the socket; an error means that the client is gone.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
        let flushed = match &mut self.line {
            Some(line) => ready!(line.poll_flush(&mut self.out, cx)),
            None => return Poll::Ready(Err(Abort)),
        };
        Poll::Ready(flushed.map_err(|_| {
            self.gone = true;
            Abort
        }))
    }

    /// [`Inner::poll_flush`] has nothing to do.
    fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.line.as_ref().is_none_or(Line::is_flushed)
    }

    /// Sends FIN; bytes can still be read. An error means that the client is gone.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Abort>> {
        match &mut self.line {
            Some(line) => line.poll_shutdown(cx).map_err(|_| Abort),
            None => Poll::Ready(Err(Abort)),
        }
    }

    /// A body may go into this socket through a pipe.
    pub(super) fn splices(&self) -> bool {
        self.line.as_ref().is_some_and(Line::splices)
    }

    /// Makes the coming close visible as a break.
    pub(super) fn reset_on_close(&self) {
        if let Some(line) = &self.line {
            line.reset_on_close();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        if self.gone {
            return Poll::Ready(Err(BodyError::Reset));
        }
        if self.expects {
            if self.answering {
                // The client was never told to send it.
                return Poll::Ready(Err(BodyError::Aborted));
            }
            self.expects = false;
            if self.inbound.is_empty() {
                self.continued = true;
                self.out
                    .buffer()
                    .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
        }
        if !self.answering && !self.is_flushed() && ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(Err(BodyError::Reset));
        }
        loop {
            match self.reader.next(&mut self.inbound) {
                Ok(Step::Frame(frame)) => return Poll::Ready(Ok(frame)),
                Ok(Step::More) => {}
                Err(_) => return Poll::Ready(Err(BodyError::Framing)),
            }
            if self.pipes
                && let Some(line) = &mut self.line
                && let Some(piped) =
                    ready!(line.poll_piped(&mut self.reader, self.inbound.limit(), cx))
            {
                return Poll::Ready(piped.map_err(|_| self.broken()));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(Fill::Bytes) => {}
                Ok(Fill::Full) => return Poll::Ready(Err(BodyError::Framing)),
                Ok(Fill::End) | Err(_) => return Poll::Ready(Err(self.broken())),
            }
        }
    }

    /// The client left before its body's end.
    fn broken(&mut self) -> BodyError {
        self.gone = true;
        self.reader.closed();
        BodyError::Reset
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>, head: &ResponseHead) -> Poll<()> {
        if !self.interim {
            let doubled = head.status == 100 && self.continued;
            if self.facts.version != Version::Http11 || self.answering || self.gone || doubled {
                return Poll::Ready(());
            }
            if head.status == 100 {
                self.expects = false;
            }
            head_write::interim(self.out.buffer(), head);
            self.interim = true;
        }
        let _ = ready!(self.poll_flush(cx));
        self.interim = false;
        Poll::Ready(())
    }

    /// A client that left is only seen behind what it sent: read on, bounded, and nothing lost.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        loop {
            if self.gone {
                return Poll::Ready(Abort);
            }
            if self.half_closed || self.inbound.len() >= EARLY_BYTES.min(self.inbound.limit()) {
                self.inbound.park();
                self.gone = self.has_left();
                if !self.gone {
                    // No read, no event: another look after a while.
                    let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
                    ready!(look.as_mut().poll(cx));
                }
                self.look = None;
                continue;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(Fill::Bytes | Fill::Full) => {}
                Ok(Fill::End) if self.may_half_close() => self.half_closed = true,
                Ok(Fill::End) | Err(_) => self.gone = true,
            }
        }
    }

    /// Without a read: what events have told about the end of the client's side.
    fn has_left(&self) -> bool {
        self.line.as_ref().is_none_or(|line| {
            if self.facts.half_close {
                line.is_broken()
            } else {
                line.is_read_closed()
            }
        })
    }

    /// The whole request has come, or may have: of a chunked one its reader finds that out.
    fn may_half_close(&self) -> bool {
        let waits = self.expects && self.inbound.is_empty();
        let received = self.inbound.len() as u64;
        let whole = self.reader.remaining().is_none_or(|rest| rest <= received);
        self.facts.half_close && !waits && whole
    }

    /// The client has sent its FIN, and nothing of another request before it.
    pub(super) fn has_sent_all(&self) -> bool {
        self.half_closed && self.reader.is_done() && self.inbound.is_empty()
    }
}

impl Downstream for ServerConnection {
    fn length(&self) -> Length {
        self.inner.borrow().reader.length()
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        self.inner.borrow_mut().poll_frame(cx)
    }

    fn at_end(&self) -> bool {
        let inner = self.inner.borrow();
        inner.reader.is_done() && !inner.gone
    }

    fn buffer_bytes(&self) -> usize {
        self.inner.borrow().inbound.limit()
    }

    fn take_pipes(&self) {
        self.inner.borrow_mut().pipes = true;
    }

    fn poll_interim(&self, cx: &mut Context<'_>, head: &ResponseHead) -> Poll<()> {
        self.inner.borrow_mut().poll_interim(cx, head)
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Abort> {
        self.inner.borrow_mut().poll_gone(cx)
    }
}
