//! The request body on its way upstream: counted, limited, and recorded so far as a further
//! attempt may need it again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::message::{Abort, BodyError, Data, Downstream, Fields, Frame, Length, ResponseHead};

/// Pieces that a recording may have: each costs memory beside its bytes, and a body that drips in
/// byte by byte is not worth it.
const MAX_PIECES: usize = 1024;

/// Kept bytes per payload byte up to which chunk framing costs nothing: chunks of one byte stay
/// below it, and memory stays a small multiple of `max-replay-body`.
const FRAMING: usize = 8;

/// One per exchange that has a request body; requests without one use the wire's own object.
pub struct RequestBody {
    inner: Rc<dyn Downstream>,
    /// Payload bytes pulled from the client.
    counted: Cell<u64>,
    /// `max-body`.
    limit: u64,
    replay: RefCell<Replay>,
    /// Whoever pulls takes pipes: once nothing is recorded any more.
    pipes: Cell<bool>,
    /// Called once with all of it; dropped when that cannot be any more.
    when_whole: RefCell<Option<WhenWhole>>,
}

type WhenWhole = Box<dyn FnOnce(Whole)>;

/// A copy of a body that has come whole.
pub struct Whole {
    /// Framed as it came.
    pub pieces: Vec<Data>,
    pub trailers: Option<Fields>,
}

/// What was pulled so far, while it may be sent again.
struct Replay {
    pieces: Vec<Data>,
    trailers: Option<Fields>,
    ended: bool,
    /// Payload bytes that may still be recorded; `None` once more came than `max-replay-body`.
    room: Option<usize>,
    /// Next of `pieces` to hand out again; past the end it is the client's turn.
    next: usize,
}

impl RequestBody {
    /// `limit` is in payload bytes; `replay_bytes` 0 records nothing.
    pub fn new(inner: Rc<dyn Downstream>, limit: Option<u64>, replay_bytes: u64) -> Self {
        let room = usize::try_from(replay_bytes).unwrap_or(usize::MAX);
        RequestBody {
            inner,
            counted: Cell::new(0),
            limit: limit.unwrap_or(u64::MAX),
            replay: RefCell::new(Replay {
                pieces: Vec::new(),
                trailers: None,
                ended: false,
                room: Some(room),
                next: 0,
            }),
            pipes: Cell::new(false),
            when_whole: RefCell::new(None),
        }
    }

    /// Has `call` called when the whole body has come, if it can be recorded.
    pub fn when_whole(&self, call: WhenWhole) {
        *self.when_whole.borrow_mut() = Some(call);
    }

    #[cold]
    fn look_if_whole(&self) {
        let replay = self.replay.borrow();
        let ended = replay.ended
            || replay.trailers.is_some()
            || self.inner.length() == Length::Exact(self.counted.get())
            || self.inner.at_end();
        if !ended && replay.room.is_some() {
            return;
        }
        let call = self.when_whole.take().filter(|_| replay.room.is_some());
        let whole = Whole {
            pieces: replay.pieces.iter().map(Data::to_kept).collect(),
            trailers: replay.trailers.clone(),
        };
        drop(replay);
        if let Some(call) = call {
            call(whole);
        }
    }

    /// Payload bytes received from the client so far.
    pub fn received(&self) -> u64 {
        self.counted.get()
    }

    /// True while everything pulled so far can be sent again from its first byte.
    pub fn replayable(&self) -> bool {
        self.replay.borrow().room.is_some()
    }

    /// The next pull starts with the first byte again. Only while [`Self::replayable`].
    pub fn rewind(&self) {
        self.replay.borrow_mut().next = 0;
    }

    fn pull(&self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let frame = match self.inner.poll_frame(cx) {
            Poll::Ready(Ok(frame)) => frame,
            other => return other,
        };
        let bytes = match &frame {
            Frame::Data(data) => data.payload(),
            Frame::Piped(pipe) => pipe.len(),
            Frame::Trailers(_) | Frame::End => 0,
        };
        let counted = self.counted.get() + bytes as u64;
        self.counted.set(counted);
        if counted > self.limit {
            return Poll::Ready(Err(BodyError::TooLarge));
        }
        self.replay.borrow_mut().record(&frame);
        if self.when_whole.borrow().is_some() {
            self.look_if_whole();
        }
        if self.pipes.get() && !self.replayable() {
            self.inner.take_pipes();
        }
        Poll::Ready(Ok(frame))
    }
}

impl Replay {
    fn again(&mut self) -> Option<Frame> {
        if let Some(piece) = self.pieces.get(self.next) {
            self.next += 1;
            return Some(Frame::Data(piece.to_kept()));
        }
        if self.next == self.pieces.len()
            && let Some(trailers) = &self.trailers
        {
            self.next += 1;
            return Some(Frame::Trailers(trailers.clone()));
        }
        self.ended.then_some(Frame::End)
    }

    fn record(&mut self, frame: &Frame) {
        match frame {
            Frame::Data(data) => self.record_data(data),
            // Bytes that nobody can look at: only once nothing is recorded.
            Frame::Piped(_) => self.forget(),
            Frame::Trailers(trailers) => {
                self.trailers = Some(trailers.clone());
                self.next = self.pieces.len() + 1;
            }
            Frame::End => self.ended = true,
        }
    }

    fn record_data(&mut self, data: &Data) {
        let cost = data.payload().max(data.len() / FRAMING);
        self.room = self.room.and_then(|room| room.checked_sub(cost));
        if self.pieces.len() == MAX_PIECES {
            self.room = None;
        }
        if self.room.is_some() {
            self.pieces.push(data.to_kept());
            self.next = self.pieces.len();
        } else {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.room = None;
        self.pieces = Vec::new();
        self.next = 0;
    }
}

impl Downstream for RequestBody {
    fn length(&self) -> Length {
        self.inner.length()
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        if let Some(frame) = self.replay.borrow_mut().again() {
            return Poll::Ready(Ok(frame));
        }
        self.pull(cx)
    }

    fn at_end(&self) -> bool {
        let replay = self.replay.borrow();
        let handed_out = replay.pieces.len() + usize::from(replay.trailers.is_some());
        replay.next == handed_out && (replay.ended || self.inner.at_end())
    }

    fn buffer_bytes(&self) -> usize {
        self.inner.buffer_bytes()
    }

    fn take_pipes(&self) {
        self.pipes.set(true);
        if !self.replayable() {
            self.inner.take_pipes();
        }
    }

    fn poll_interim(&self, cx: &mut Context<'_>, head: &ResponseHead) -> Poll<()> {
        self.inner.poll_interim(cx, head)
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Abort> {
        self.inner.poll_gone(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use super::*;

    /// Gives the scripted frames, then `End` for ever.
    struct Script {
        frames: RefCell<VecDeque<Frame>>,
        pipes: Cell<bool>,
    }

    impl Script {
        fn new(frames: impl IntoIterator<Item = Frame>) -> Rc<Self> {
            Rc::new(Script {
                frames: RefCell::new(frames.into_iter().collect()),
                pipes: Cell::new(false),
            })
        }
    }

    fn data(piece: &str) -> Frame {
        Frame::Data(Data::from(piece.as_bytes().to_vec()))
    }

    impl Downstream for Script {
        fn length(&self) -> Length {
            Length::Unknown
        }

        fn poll_frame(&self, _cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
            Poll::Ready(Ok(self
                .frames
                .borrow_mut()
                .pop_front()
                .unwrap_or(Frame::End)))
        }

        fn take_pipes(&self) {
            self.pipes.set(true);
        }

        fn poll_interim(&self, _cx: &mut Context<'_>, _head: &ResponseHead) -> Poll<()> {
            Poll::Ready(())
        }

        fn poll_gone(&self, _cx: &mut Context<'_>) -> Poll<Abort> {
            Poll::Pending
        }
    }

    fn body(pieces: &[&str], limit: Option<u64>, replay: u64) -> RequestBody {
        let frames = pieces.iter().map(|piece| data(piece));
        RequestBody::new(Script::new(frames), limit, replay)
    }

    /// Pulls at most `frames` frames; gives the text and whether the end came.
    fn pull(body: &RequestBody, frames: usize) -> Result<(String, bool), BodyError> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut text = String::new();
        for _ in 0..frames {
            match body.poll_frame(&mut cx) {
                Poll::Ready(Ok(Frame::Data(data))) => text += &String::from_utf8_lossy(&data),
                Poll::Ready(Ok(Frame::Trailers(_))) => text += "|",
                Poll::Ready(Ok(Frame::Piped(_))) => panic!("nobody here takes pipes"),
                Poll::Ready(Ok(Frame::End)) => return Ok((text, true)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => panic!("the script is always ready"),
            }
        }
        Ok((text, false))
    }

    #[test]
    fn what_may_be_sent_again_is_never_taken_through_a_pipe() {
        let script = Script::new([data("ab"), data("cd"), data("ef")]);
        let body = RequestBody::new(script.clone(), None, 4);
        body.take_pipes();
        assert!(!script.pipes.get());
        let _recorded = pull(&body, 1);
        assert!(!script.pipes.get());
        // The recording has become too long: nothing is sent again from here on.
        let _passed_on = pull(&body, 2);
        assert!(!body.replayable());
        assert!(script.pipes.get());
    }

    #[test]
    fn rewound_body_starts_with_its_first_byte_wherever_it_stood() {
        for pulled in 0..5 {
            let body = body(&["ab", "cd", "ef"], None, 64);
            pull(&body, pulled).unwrap();
            body.rewind();
            assert_eq!(
                pull(&body, 9),
                Ok(("abcdef".into(), true)),
                "after {pulled} frames"
            );
            body.rewind();
            assert_eq!(pull(&body, 9), Ok(("abcdef".into(), true)), "a second time");
            assert_eq!(body.received(), 6, "replayed bytes are not received again");
        }
    }

    #[test]
    fn body_longer_than_the_replay_is_still_sent_whole_but_once() {
        let body = body(&["ab", "cd", "ef"], None, 3);
        assert_eq!(pull(&body, 9), Ok(("abcdef".into(), true)));
        assert!(!body.replayable());
    }

    #[test]
    fn untouched_body_is_replayable_even_without_room() {
        let body = body(&["ab"], None, 0);
        assert!(body.replayable());
        pull(&body, 1).unwrap();
        assert!(!body.replayable());
    }

    #[test]
    fn limit_counts_payload_as_it_comes() {
        let over = body(&["ab", "cd"], Some(3), 64);
        assert_eq!(pull(&over, 9), Err(BodyError::TooLarge));
        let exact = body(&["ab", "c"], Some(3), 64);
        assert_eq!(pull(&exact, 9), Ok(("abc".into(), true)));
    }

    #[test]
    fn trailers_are_replayed_after_the_data() {
        let frames = VecDeque::from([
            Frame::Data(Data::from(b"ab".to_vec())),
            Frame::Trailers(Fields::new()),
            Frame::End,
        ]);
        let body = RequestBody::new(Script::new(frames), None, 64);
        // The wire stops pulling at the trailers: the end after them may never be seen.
        assert_eq!(pull(&body, 2), Ok(("ab|".into(), false)));
        body.rewind();
        assert_eq!(pull(&body, 9), Ok(("ab|".into(), true)));
        body.rewind();
        assert_eq!(pull(&body, 9), Ok(("ab|".into(), true)));
    }
}
