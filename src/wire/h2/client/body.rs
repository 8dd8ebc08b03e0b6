//! The body of an answer. It owns the exchange: pulling it also moves the request body.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;

use crate::message::{BodyError, BodyStream, Data, Frame, Length};
use crate::wire::h2::client::Connection;
use crate::wire::h2::client::exchange::Stream;
use crate::wire::h2::client::head;

/// The body of an answer. Dropping it before its end resets the stream.
pub struct ResponseBody {
    // In the order in which they go: the stream is reset, then its place is free.
    body: Option<RecvStream>,
    /// `None` once the exchange is over or broken off.
    stream: Option<Box<Stream>>,
    /// After the last exchange, to begin another.
    connection: Option<Connection>,
    length: Length,
    /// A piece that came with the head.
    early: Option<Bytes>,
    /// Bytes that the client has not taken: the server's window is smaller by so much.
    held: usize,
    /// All of the body has been given.
    ended: bool,
    /// Both bodies have ended.
    over: bool,
    progress: u64,
    request_failed: bool,
}

impl ResponseBody {
    pub(super) fn new(
        stream: Box<Stream>,
        body: Option<RecvStream>,
        length: Length,
        early: Option<Bytes>,
    ) -> Self {
        ResponseBody {
            body,
            stream: Some(stream),
            connection: None,
            length,
            early,
            held: 0,
            ended: false,
            over: false,
            progress: 0,
            request_failed: false,
        }
    }

    pub fn request_failed(&self) -> bool {
        self.request_failed
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn take_connection(&mut self) -> Option<Connection> {
        self.connection.take()
    }

    /// The exchange is broken off.
    /// As of an exchange; to be closed then.
    pub fn doubt(&self) {
        if let Some(stream) = &self.stream {
            stream.doubt();
        }
    }

    pub fn close(&mut self) {
        self.body = None;
        self.stream = None;
    }

    pub fn awaits_client(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| stream.upload.awaits_client())
    }

    pub fn progress(&self) -> u64 {
        self.stream
            .as_ref()
            .map_or(self.progress, |stream| stream.progress())
    }

    /// Both bodies ended.
    fn finish(&mut self) {
        self.over = true;
        self.progress = self.progress();
        self.body = None;
        self.connection = self.stream.take().map(|stream| stream.into_connection());
    }

    fn fail(&mut self, error: BodyError) -> Poll<Result<Frame, BodyError>> {
        self.progress = self.progress();
        self.close();
        Poll::Ready(Err(error))
    }

    /// What was handed out has been taken: the server may send as much again.
    fn give_back_window(&mut self) {
        let held = std::mem::take(&mut self.held);
        if let (Some(body), 1..) = (&mut self.body, held) {
            // Fails only for more than came.
            let _ = body.flow_control().release_capacity(held);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(early) = self.early.take() {
            return Poll::Ready(Some(Ok(early)));
        }
        match &mut self.body {
            Some(body) => body.poll_data(cx),
            None => Poll::Ready(None),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let trailers = match &mut self.body {
            Some(body) => match ready!(body.poll_trailers(cx)) {
                Ok(trailers) => trailers,
                Err(error) => return self.fail(of_library(&error)),
            },
            None => None,
        };
        if let Some(trailers) = trailers {
            if let Some(stream) = &self.stream {
                stream.watch().head_taken();
            }
            return match head::trailers(&trailers) {
                Ok(trailers) => Poll::Ready(Ok(Frame::Trailers(trailers))),
                Err(_) => self.fail(BodyError::Framing),
            };
        }
        self.ended = true;
        if self
            .stream
            .as_ref()
            .is_none_or(|stream| stream.upload.is_over())
        {
            self.finish();
        }
        Poll::Ready(Ok(Frame::End))
    }
}

impl BodyStream for ResponseBody {
    fn length(&self) -> Length {
        self.length
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        if self.ended {
            return Poll::Ready(Ok(Frame::End));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(BodyError::Reset));
        };
        if let Poll::Ready(Err(error)) = stream.poll_upload(cx) {
            self.request_failed = true;
            return self.fail(error);
        }
        self.give_back_window();
        loop {
            match ready!(self.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    if let Some(stream) = &mut self.stream {
                        stream.received += 1;
                    }
                    self.held = data.len();
                    return Poll::Ready(Ok(Frame::Data(Data::from(data))));
                }
                Some(Err(error)) => return self.fail(of_library(&error)),
                None => return self.poll_end(cx),
            }
        }
    }

    fn at_end(&self) -> bool {
        self.ended
            || self.early.is_none() && self.body.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(()));
        };
        if let Err(error) = ready!(stream.poll_upload(cx)) {
            self.request_failed = true;
            return self.fail(error).map(|_| Err(error));
        }
        if self.ended {
            self.finish();
        }
        Poll::Ready(Ok(()))
    }
}

/// What broke an answer's body off: never its clean end.
fn of_library(error: &h2::Error) -> BodyError {
    if error.is_library() {
        BodyError::Framing
    } else {
        BodyError::Reset
    }
}
