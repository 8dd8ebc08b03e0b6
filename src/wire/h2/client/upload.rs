//! A request body on its way into a stream, as far as the server's windows reach.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::time::{Sleep, sleep};

use crate::message::{BodyError, Downstream, Frame, Length, RequestHead};
use crate::util::turn::next_round;
use crate::wire::h2::client::head;
use crate::wire::h2::client::watch::Watch;

/// How long a body waits for `100 Continue` from a server that may not know it (RFC 9110 section
/// 10.1.1: not forever).
const CONTINUE: Duration = Duration::from_secs(1);

/// Body bytes that one wake-up may move before others get their turn.
const BUDGET: u64 = 1024 * 1024;

/// The sending half of one stream.
pub(super) struct Upload {
    /// `None` before the head is sent.
    stream: Option<SendStream<Bytes>>,
    state: State,
    /// What is left of a piece that did not fit into the window.
    rest: Bytes,
    sent: u64,
    /// What is missing is the client's bytes, not the server's readiness to take them.
    awaits_client: bool,
}

/// The client's side is held while there is something to pull from it, no longer.
enum State {
    /// The client expects `100 Continue`: the body stays with it until the server asks for it.
    Held(Pin<Box<Sleep>>, Rc<dyn Downstream>),
    Body(Rc<dyn Downstream>),
    /// END_STREAM is behind everything that was sent.
    Done,
    /// The server takes no more, or got no body.
    Stopped,
    /// A tunnel: who holds it sends.
    Tunnel,
}

impl Upload {
    pub fn new(head: &RequestHead, body: &Rc<dyn Downstream>, tunnel: bool) -> Self {
        let state = match body.length() {
            _ if tunnel => State::Tunnel,
            Length::Exact(0) => State::Done,
            _ if head::expects_continue(head) => {
                State::Held(Box::pin(sleep(CONTINUE)), body.clone())
            }
            _ => State::Body(body.clone()),
        };
        Upload {
            stream: None,
            state,
            rest: Bytes::new(),
            sent: 0,
            awaits_client: false,
        }
    }

    /// The head is on its way.
    pub fn begin(&mut self, stream: SendStream<Bytes>) {
        self.stream = Some(stream);
    }

    /// The head is the whole request.
    pub fn is_empty(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub fn awaits_client(&self) -> bool {
        self.awaits_client && self.pulls_body()
    }

    /// The body's frames are being pulled.
    pub fn pulls_body(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// Body bytes handed over so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The whole request has been sent.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Nothing will be sent any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Stopped)
    }

    /// The server asked for the body, or waited long enough for.
    pub fn release(&mut self) {
        if let State::Held(_, body) = &self.state {
            self.state = State::Body(body.clone());
        }
    }

    /// The final answer is there: a body that was held back is not sent any more. One that is
    /// under way goes on, because the server may still be reading it.
    pub fn answered(&mut self) {
        if let State::Held(..) = self.state {
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.state = State::Stopped;
        self.rest = Bytes::new();
    }

    /// The request is cut off: the server must not take it for whole.
    pub fn break_off(&mut self) {
        if !self.is_over() {
            self.stop();
            if let Some(stream) = &mut self.stream {
                stream.send_reset(Reason::CANCEL);
            }
        }
    }

    /// For a tunnel, which sends by itself.
    pub fn into_stream(self) -> Option<SendStream<Bytes>> {
        self.stream
    }

    /// Moves as much as goes. Only the client's side gives an error: a server that takes no more
    /// may have answered already.
    pub fn poll(&mut self, watch: &Watch, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let start = self.sent;
        loop {
            let (State::Held(..) | State::Body(_)) = self.state else {
                return Poll::Ready(Ok(()));
            };
            self.awaits_client = false;
            if !self.rest.is_empty() {
                if ready!(self.poll_send(watch, cx)).is_err() {
                    self.stop();
                }
            } else if self.poll_pull(watch, cx)?.is_pending() {
                self.awaits_client = true;
                return Poll::Pending;
            }
            if self.sent - start > BUDGET {
                next_round(cx);
                return Poll::Pending;
            }
        }
    }

    /// The next frame from the client; `Pending` where it has none now.
    fn poll_pull(&mut self, watch: &Watch, cx: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        if let State::Held(patience, _) = &mut self.state {
            if patience.as_mut().poll(cx).is_pending() {
                return Ok(Poll::Pending);
            }
            self.release();
        }
        let State::Body(body) = &self.state else {
            return Ok(Poll::Ready(()));
        };
        let Poll::Ready(frame) = body.poll_frame(cx) else {
            return Ok(Poll::Pending);
        };
        match frame? {
            Frame::Data(data) => self.rest = Bytes::copy_from_slice(&data.unframed()),
            // Nobody here takes pipes, so none come; what cannot be sent must not seem whole.
            Frame::Piped(_) => return Err(BodyError::Framing),
            Frame::Trailers(trailers) => {
                let sent = match (&mut self.stream, head::trailers_to_send(&trailers)) {
                    (Some(stream), Some(trailers)) => stream.send_trailers(trailers),
                    (Some(stream), None) => stream.send_data(Bytes::new(), true),
                    (None, _) => Ok(()),
                };
                self.ended(sent, watch);
            }
            Frame::End => {
                let sent = match &mut self.stream {
                    Some(stream) => stream.send_data(Bytes::new(), true),
                    None => Ok(()),
                };
                self.ended(sent, watch);
            }
        }
        Ok(Poll::Ready(()))
    }

    fn ended(&mut self, sent: Result<(), h2::Error>, watch: &Watch) {
        watch.sent(0);
        match sent {
            Ok(()) => self.state = State::Done,
            Err(_) => self.stop(),
        }
    }

    /// Sends what the window takes of `rest`; an error where the server takes no more.
    fn poll_send(&mut self, watch: &Watch, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(()));
        };
        stream.reserve_capacity(self.rest.len());
        let mut room = stream.capacity();
        if room == 0 {
            room = match ready!(stream.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Poll::Ready(Err(())),
            };
        }
        let piece = self.rest.split_to(room.min(self.rest.len()));
        self.sent += piece.len() as u64;
        watch.sent(piece.len());
        // The end that comes without waiting leaves with the last bytes.
        let last = self.rest.is_empty() && self.ends_now(cx);
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(()));
        };
        let sent = stream.send_data(piece, last);
        if last && sent.is_ok() {
            self.state = State::Done;
        }
        Poll::Ready(sent.map_err(drop))
    }

    fn ends_now(&self, cx: &mut Context<'_>) -> bool {
        match &self.state {
            State::Body(body) if body.at_end() => {
                matches!(body.poll_frame(cx), Poll::Ready(Ok(Frame::End)))
            }
            _ => false,
        }
    }
}
