//! A request going out: its head, then its body as the client sends it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::message::{BodyError, Downstream, Fields, Frame, Known, Length, RequestHead};
use crate::util::turn::next_round;
use crate::wire::h1::framing::lists;
use crate::wire::h1::head_write;
use crate::wire::h1::outbound::Outbound;
use crate::wire::io::Socket;

/// How long a body waits for `100 Continue` from a server that may not know it (RFC 9110 section
/// 10.1.1: not forever).
const CONTINUE: Duration = Duration::from_secs(1);

/// Body bytes that one wake-up may move before other connections get their turn.
const BUDGET: u64 = 1024 * 1024;

#[derive(Default)]
pub(super) struct Upload {
    out: Outbound,
    chunked: bool,
    state: State,
    /// What is missing is the client's bytes, not the server's readiness to take them.
    awaits_client: bool,
}

/// The client's side is held while there is something to pull from it, no longer: whoever has it
/// alone may use it again.
#[derive(Default)]
enum State {
    /// The client expects `100 Continue`, and so does the server hear of it: the body stays with
    /// the client until the server asks for it.
    Held(Pin<Box<Sleep>>, Rc<dyn Downstream>),
    Body(Rc<dyn Downstream>),
    /// Everything is in `out`.
    Ending,
    #[default]
    Done,
    /// The server takes no more, or got no body: the connection cannot be used again.
    Stopped,
}

impl Upload {
    pub(super) fn begin(
        &mut self,
        head: &RequestHead,
        body: &Rc<dyn Downstream>,
        upgrade: Option<&str>,
    ) {
        let length = body.length();
        self.out.restart();
        self.out.set_limit(body.buffer_bytes());
        head_write::request(self.out.buffer(), head, length, upgrade);
        self.chunked = length == Length::Unknown;
        self.awaits_client = false;
        self.state = match length {
            Length::Exact(0) => State::Ending,
            _ if lists(&head.fields, Known::Expect, "100-continue") => {
                State::Held(Box::pin(sleep(CONTINUE)), body.clone())
            }
            _ => State::Body(body.clone()),
        };
    }

    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client && !self.is_over()
    }

    /// The body's frames are being pulled: a client that leaves is noticed there, unless the
    /// server takes nothing.
    pub(super) fn pulls_body(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    pub(super) fn written(&self) -> u64 {
        self.out.written()
    }

    /// The whole request is in the socket.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Nothing will be written any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Stopped)
    }

    /// The server asked for the body, or waited long enough for.
    pub(super) fn release(&mut self) {
        if let State::Held(_, body) = &self.state {
            self.state = State::Body(body.clone());
        }
    }

    /// The final answer is there: a body that was held back is not sent any more. One that is
    /// under way goes on, because the server may still be reading it.
    pub(super) fn answered(&mut self) {
        if let State::Held(..) = self.state {
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.state = State::Stopped;
        self.out.discard();
    }

    /// Moves as much as goes. Only the client's side gives an error: a server that takes no more
    /// may have answered already.
    pub(super) fn poll(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyError>> {
        match self.state {
            State::Done | State::Stopped => Poll::Ready(Ok(())),
            State::Ending => self.poll_end(socket, cx).map(Ok),
            State::Held(..) | State::Body(_) => self.poll_body(socket, cx),
        }
    }

    /// Nothing is left to pull.
    fn poll_end(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.out.poll_flush(socket, cx)) {
            Ok(()) => self.state = State::Done,
            Err(_) => self.stop(),
        }
        Poll::Ready(())
    }

    fn poll_body(
        &mut self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyError>> {
        if let (State::Body(body), false, true) = (&self.state, self.chunked, socket.splices()) {
            body.take_pipes();
        }
        let start = self.out.written();
        loop {
            let waits = self.gather(cx)?;
            if matches!(self.state, State::Ending) {
                self.awaits_client = false;
                return self.poll_end(socket, cx).map(Ok);
            }
            let flushed = self.out.poll_flush(socket, cx);
            self.awaits_client = waits && flushed.is_ready() && self.pulls_body();
            match flushed {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => {
                    self.stop();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) if waits => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
            }
            if self.out.written() - start > BUDGET {
                next_round(cx);
                return Poll::Pending;
            }
        }
    }

    /// Pulls body frames into `out` while there is room; true if the client has no more now.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, BodyError> {
        if let State::Held(patience, _) = &mut self.state {
            if patience.as_mut().poll(cx).is_pending() {
                return Ok(true);
            }
            self.release();
        }
        // The end that comes without waiting leaves together with the last bytes.
        while let State::Body(body) = &self.state
            && (self.out.has_room() || body.at_end())
        {
            let Poll::Ready(frame) = body.poll_frame(cx) else {
                return Ok(true);
            };
            match frame? {
                Frame::Data(data) => self.out.push_body(data, self.chunked),
                Frame::Piped(pipe) => self.out.push_pipe(pipe),
                Frame::Trailers(trailers) => self.end(Some(&trailers)),
                Frame::End => self.end(None),
            }
        }
        Ok(false)
    }

    fn end(&mut self, trailers: Option<&Fields>) {
        if self.chunked {
            self.out.push_last_chunk(trailers);
        }
        self.state = State::Ending;
    }
}
