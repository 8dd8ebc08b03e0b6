//! The body of an answer. It owns the exchange: pulling it also moves the request body.

use std::task::{Context, Poll, ready};

use crate::message::{BodyError, BodyStream, Frame, Length};
use crate::wire::h1::client::{Connection, Inner};
use crate::wire::h1::inbound::Fill;
use crate::wire::h1::piping::poll_piped;
use crate::wire::h1::reader::{BodyReader, Step};

/// The body of an answer. Dropping it closes the connection.
pub struct ResponseBody {
    /// `None` once the connection has been closed or given back.
    inner: Option<Box<Inner>>,
    reader: BodyReader,
    /// Both bodies have ended.
    over: bool,
    progress: u64,
    request_failed: bool,
    pipes: bool,
}

impl ResponseBody {
    pub(super) fn new(inner: Box<Inner>) -> Self {
        ResponseBody {
            reader: BodyReader::new(inner.answer.0),
            inner: Some(inner),
            over: false,
            progress: 0,
            request_failed: false,
            pipes: false,
        }
    }

    /// The exchange broke off because the client's request body did.
    pub fn request_failed(&self) -> bool {
        self.request_failed
    }

    /// Both bodies have ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Once both bodies have ended, and if it can be used again: the connection. It is closed
    /// already if it cannot.
    pub fn take_connection(&mut self) -> Option<Connection> {
        if self.over {
            self.inner.take().map(Connection)
        } else {
            None
        }
    }

    /// The exchange is broken off.
    pub fn close(&mut self) {
        self.inner = None;
    }

    /// As [`Exchange::awaits_client`](super::Exchange::awaits_client).
    pub fn awaits_client(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| inner.upload.awaits_client())
    }

    /// As [`Exchange::progress`](super::Exchange::progress).
    pub fn progress(&self) -> u64 {
        self.inner
            .as_ref()
            .map_or(self.progress, |inner| inner.progress())
    }

    /// Both bodies ended: closes what cannot be used again.
    fn finish(&mut self) {
        self.over = true;
        if let Some(inner) = &self.inner {
            self.progress = inner.progress();
            if !inner.is_reusable() {
                self.inner = None;
            }
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Result<Frame, BodyError>> {
        self.close();
        Poll::Ready(Err(error))
    }
}

impl BodyStream for ResponseBody {
    fn length(&self) -> Length {
        self.reader.length()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let Some(inner) = self.inner.as_mut().filter(|_| !self.over) else {
            let whole = self.reader.is_done();
            return Poll::Ready(if whole {
                Ok(Frame::End)
            } else {
                Err(BodyError::Reset)
            });
        };
        if let Poll::Ready(Err(error)) = inner.upload.poll(&mut inner.socket, cx) {
            self.request_failed = true;
            return self.fail(error);
        }
        loop {
            match self.reader.next(&mut inner.inbound) {
                Err(_) => return self.fail(BodyError::Framing),
                Ok(Step::Frame(Frame::End)) => {
                    // A server that closes after its answer takes nothing more.
                    if inner.upload.is_over() || !inner.answer.1 {
                        self.finish();
                    }
                    return Poll::Ready(Ok(Frame::End));
                }
                Ok(Step::Frame(frame)) => return Poll::Ready(Ok(frame)),
                Ok(Step::More) => {}
            }
            if self.pipes
                && let Some(piped) = ready!(poll_piped(
                    &mut self.reader,
                    &mut inner.socket,
                    inner.inbound.limit(),
                    cx
                ))
            {
                inner.received += 1;
                return match piped {
                    Ok(frame) => Poll::Ready(Ok(frame)),
                    Err(_) => self.fail(BodyError::Reset),
                };
            }
            match ready!(inner.inbound.poll_fill(&mut inner.socket, cx)) {
                Ok(Fill::Bytes) => inner.received += 1,
                Ok(Fill::Full) => return self.fail(BodyError::Framing),
                Ok(Fill::End) => {
                    if !self.reader.closed() {
                        return self.fail(BodyError::Reset);
                    }
                }
                Err(_) => return self.fail(BodyError::Reset),
            }
        }
    }

    fn take_pipes(&mut self) {
        self.pipes = true;
    }

    fn at_end(&self) -> bool {
        self.reader.is_done()
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(inner) = self.inner.as_mut().filter(|_| !self.over) else {
            return Poll::Ready(Ok(()));
        };
        if let Err(error) = ready!(inner.upload.poll(&mut inner.socket, cx)) {
            self.request_failed = true;
            return self.fail(error).map(|_| Err(error));
        }
        if self.reader.is_done() {
            self.finish();
        }
        Poll::Ready(Ok(()))
    }
}
