//! One stream as its request sees it: the body that comes, the way to the client.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use crate::message::{Abort, BodyError, Data, Downstream, Frame, Length, ResponseHead};
use crate::wire::h2::blocks::Faults;
use crate::wire::h2::heads;
use crate::wire::h2::server::stock::{Chunk, PIECE, Stock};

/// What the stream's own future and [`Downstream`] both need.
pub(super) struct Exchange {
    inner: RefCell<Inner>,
    pub(super) stock: Rc<Stock>,
    buffer_bytes: usize,
}

struct Inner {
    receiver: RecvStream,
    length: Length,
    reading: Reading,
    faults: Rc<Faults>,
    /// Bytes of the last frame: their window is released when the next one is asked for, because
    /// then whoever takes the body has room for it.
    unreleased: usize,
    /// The client waits for 100 before it sends its body.
    expects: bool,
    /// We have sent the client 100: what the server says of it comes too late.
    continued: bool,
    sender: Sender,
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Data,
    Trailers,
    Ended,
    Broken,
}

/// Our side of the stream.
enum Sender {
    /// Before the final answer.
    Head(SendResponse<Chunk>),
    Body(SendStream<Chunk>),
}

impl Sender {
    fn reset(&mut self, reason: Reason) {
        match self {
            Sender::Head(respond) => respond.send_reset(reason),
            Sender::Body(stream) => stream.send_reset(reason),
        }
    }
}

impl Exchange {
    pub(super) fn new(
        receiver: RecvStream,
        respond: SendResponse<Chunk>,
        declared: Option<u64>,
        expects: bool,
        (stock, faults): (Rc<Stock>, Rc<Faults>),
        connection_buffer: usize,
    ) -> Rc<Self> {
        let ended = receiver.is_end_stream();
        let length = match declared {
            _ if ended => Length::Exact(0),
            Some(length) => Length::Exact(length),
            None => Length::Unknown,
        };
        let inner = Inner {
            receiver,
            length,
            reading: if ended { Reading::Ended } else { Reading::Data },
            faults,
            unreleased: 0,
            expects: expects && !ended,
            continued: false,
            sender: Sender::Head(respond),
            gone: false,
        };
        Rc::new(Exchange {
            inner: RefCell::new(inner),
            stock,
            buffer_bytes: connection_buffer.min(PIECE),
        })
    }

    fn borrow_mut(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Sends the final head; false if the client is gone.
    pub(super) fn send_head(&self, head: http::Response<()>, end: bool) -> bool {
        let mut inner = self.borrow_mut();
        let Sender::Head(respond) = &mut inner.sender else {
            return false;
        };
        match respond.send_response(head, end) {
            Ok(stream) => {
                inner.sender = Sender::Body(stream);
                true
            }
            Err(_) => {
                inner.gone = true;
                false
            }
        }
    }

    /// With our side's body, once its head is out.
    pub(super) fn with_body<T>(&self, with: impl FnOnce(&mut SendStream<Chunk>) -> T) -> Option<T> {
        match &mut self.borrow_mut().sender {
            Sender::Head(_) => None,
            Sender::Body(stream) => Some(with(stream)),
        }
    }

    /// Whether more of an answer may be pulled; else the task is woken when it is worth asking
    /// again. `at_end`: what follows needs no window.
    pub(super) fn may_pull(&self, at_end: bool, cx: &mut Context<'_>) -> bool {
        let wanted = if self.stock.is_full() { PIECE } else { 1 };
        let capacity = self.with_body(|stream| {
            stream.reserve_capacity(wanted);
            if stream.capacity() < wanted {
                // Registers; what there is may do all the same.
                let _ = stream.poll_capacity(cx);
            }
            stream.capacity()
        });
        match capacity {
            // With no window at all: the first piece is free.
            Some(0) => at_end || self.stock.is_empty(),
            Some(capacity) => self.stock.admits(capacity, cx),
            None => true,
        }
    }

    /// Nothing came to be sent: what was reserved for it is for others.
    pub(super) fn pulled_nothing(&self) {
        self.with_body(|stream| stream.reserve_capacity(1));
    }

    /// Sends as much of a held piece as the window allows, and how much that was; `end` ends the
    /// stream with the last of it.
    pub(super) fn send(
        &self,
        piece: &mut Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<usize, Abort> {
        let length = piece.len();
        let sent = self.with_body(|stream| {
            stream.reserve_capacity(length);
            let capacity = match stream.capacity() {
                0 => match stream.poll_capacity(cx) {
                    Poll::Pending => return Ok(0),
                    Poll::Ready(Some(Ok(capacity))) => capacity,
                    Poll::Ready(_) => return Err(Abort),
                },
                capacity => capacity,
            };
            let count = capacity.min(length);
            let chunk = Chunk::new(piece.split_to(count), &self.stock);
            let sent = stream.send_data(chunk, end && count == length);
            sent.map(|()| count).map_err(|_| Abort)
        });
        let count = length - piece.len();
        self.stock.holds(length, length - count);
        sent.unwrap_or(Err(Abort))
    }

    /// Breaks the stream off.
    pub(super) fn reset(&self, reason: Reason) {
        let mut inner = self.borrow_mut();
        inner.gone = true;
        inner.sender.reset(reason);
    }
}

impl Inner {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        if self.gone {
            return Poll::Ready(Err(BodyError::Reset));
        }
        if self.expects && matches!(self.sender, Sender::Body(_)) {
            // The client was never told to send it.
            return Poll::Ready(Err(BodyError::Aborted));
        }
        self.release();
        loop {
            match self.reading {
                Reading::Ended => return Poll::Ready(Ok(Frame::End)),
                Reading::Broken => return Poll::Ready(Err(BodyError::Framing)),
                Reading::Trailers => return self.poll_trailers(cx),
                Reading::Data => {}
            }
            match self.receiver.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(bytes))) => {
                    self.expects = false;
                    self.unreleased = bytes.len();
                    return Poll::Ready(Ok(Frame::Data(Data::from(bytes))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.broken(&error))),
                Poll::Ready(None) => self.reading = Reading::Trailers,
                Poll::Pending => {
                    self.go_on();
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let trailers = match ready!(self.receiver.poll_trailers(cx)) {
            Ok(trailers) => trailers,
            Err(error) => return Poll::Ready(Err(self.broken(&error))),
        };
        let stream = self.receiver.stream_id().as_u32();
        if self.faults.of_trailers(stream).is_some() {
            // A stream error (RFC 9113 section 8.1.1).
            self.reading = Reading::Broken;
            self.gone = true;
            self.sender.reset(Reason::PROTOCOL_ERROR);
            return Poll::Ready(Err(BodyError::Framing));
        }
        self.reading = Reading::Ended;
        let Some(trailers) = trailers else {
            return Poll::Ready(Ok(Frame::End));
        };
        Poll::Ready(match heads::request_trailers(&trailers) {
            Ok(fields) if fields.is_empty() => Ok(Frame::End),
            Ok(fields) => Ok(Frame::Trailers(fields)),
            Err(_) => {
                self.reading = Reading::Broken;
                Err(BodyError::Framing)
            }
        })
    }

    /// What `h2` found wrong (a length that does not fit) breaks the framing; else the client left.
    fn broken(&mut self, error: &h2::Error) -> BodyError {
        self.reading = Reading::Broken;
        self.gone = true;
        if error.is_library() && error.is_reset() {
            BodyError::Framing
        } else {
            BodyError::Reset
        }
    }

    /// Tells a client that waits to send its body.
    fn go_on(&mut self) {
        if !std::mem::take(&mut self.expects) {
            return;
        }
        let mut head = http::Response::new(());
        *head.status_mut() = http::StatusCode::CONTINUE;
        if let Sender::Head(respond) = &mut self.sender {
            self.continued = respond.send_informational(head).is_ok();
        }
    }

    fn release(&mut self) {
        let count = std::mem::take(&mut self.unreleased);
        if count > 0 {
            // Fails only where the stream has ended meanwhile.
            let _ = self.receiver.flow_control().release_capacity(count);
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Abort> {
        if self.gone {
            return Poll::Ready(Abort);
        }
        let reset = match &mut self.sender {
            Sender::Head(respond) => respond.poll_reset(cx),
            Sender::Body(stream) => stream.poll_reset(cx),
        };
        reset.map(|_| {
            self.gone = true;
            Abort
        })
    }

    fn interim(&mut self, head: &ResponseHead) {
        let Sender::Head(respond) = &mut self.sender else {
            return;
        };
        if self.gone || (head.status == 100 && self.continued) {
            return;
        }
        if head.status == 100 {
            self.expects = false;
        }
        if let Some(head) = heads::interim(head) {
            let _ = respond.send_informational(head);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.release();
    }
}

impl Downstream for Exchange {
    fn length(&self) -> Length {
        self.inner.borrow().length
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        self.borrow_mut().poll_frame(cx)
    }

    fn at_end(&self) -> bool {
        let inner = self.inner.borrow();
        let ended = match inner.reading {
            Reading::Ended => true,
            Reading::Data | Reading::Trailers => inner.receiver.is_end_stream(),
            Reading::Broken => false,
        };
        ended && !inner.gone
    }

    fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    fn poll_interim(&self, _cx: &mut Context<'_>, head: &ResponseHead) -> Poll<()> {
        self.borrow_mut().interim(head);
        Poll::Ready(())
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Abort> {
        self.borrow_mut().poll_gone(cx)
    }
}
