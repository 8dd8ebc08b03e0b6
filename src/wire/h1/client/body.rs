//! The body of an answer. It owns the exchange: pulling it also moves the request body.

use std::task::{Context, Poll, ready};

use crate::message::{BodyError, BodyStream, Frame, Length};
use crate::wire::h1::client::{Connection, Exchange};
use crate::wire::h1::inbound::Fill;
use crate::wire::h1::reader::{BodyReader, Step};

/// The body of an answer.
pub struct ResponseBody {
    /// `None` once the connection has been given on.
    exchange: Option<Box<Exchange>>,
    reader: BodyReader,
    on_end: Option<Box<dyn FnOnce(Option<Connection>)>>,
    progress: u64,
    request_failed: bool,
}

impl ResponseBody {
    pub(super) fn new(
        exchange: Box<Exchange>,
        reader: BodyReader,
        on_end: Box<dyn FnOnce(Option<Connection>)>,
    ) -> Self {
        ResponseBody {
            exchange: Some(exchange),
            reader,
            on_end: Some(on_end),
            progress: 0,
            request_failed: false,
        }
    }

    /// The exchange broke off because the client's request body did.
    pub fn request_failed(&self) -> bool {
        self.request_failed
    }

    /// Both bodies have ended, and the connection has been given on.
    pub fn is_over(&self) -> bool {
        self.exchange.is_none()
    }

    /// As [`Exchange::awaits_client`].
    pub fn awaits_client(&self) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| exchange.awaits_client())
    }

    /// As [`Exchange::progress`].
    pub fn progress(&self) -> u64 {
        self.exchange
            .as_ref()
            .map_or(self.progress, |exchange| exchange.progress())
    }

    /// Both bodies ended: gives the connection back if it can be used again.
    fn finish(&mut self) {
        let Some(exchange) = self.exchange.take() else {
            return;
        };
        self.progress = exchange.progress();
        let usable = exchange.answer.1 && exchange.upload.is_done() && exchange.inbound.is_empty();
        if let Some(on_end) = self.on_end.take() {
            let mut connection = exchange.connection;
            connection.requests_served += 1;
            on_end(usable.then_some(connection));
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Result<Frame, BodyError>> {
        self.exchange = None;
        if let Some(on_end) = self.on_end.take() {
            on_end(None);
        }
        Poll::Ready(Err(error))
    }
}

impl BodyStream for ResponseBody {
    fn length(&self) -> Length {
        self.reader.length()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let Some(exchange) = &mut self.exchange else {
            let whole = self.reader.is_done();
            return Poll::Ready(if whole {
                Ok(Frame::End)
            } else {
                Err(BodyError::Reset)
            });
        };
        let upload = exchange.upload.poll(&mut exchange.connection.socket, cx);
        if let Poll::Ready(Err(error)) = upload {
            self.request_failed = true;
            return self.fail(error);
        }
        loop {
            match self.reader.next(&mut exchange.inbound) {
                Err(_) => return self.fail(BodyError::Framing),
                Ok(Step::Frame(Frame::End)) => {
                    // A server that closes after its answer takes nothing more.
                    if exchange.upload.is_over() || !exchange.answer.1 {
                        self.finish();
                    }
                    return Poll::Ready(Ok(Frame::End));
                }
                Ok(Step::Frame(frame)) => return Poll::Ready(Ok(frame)),
                Ok(Step::More) => {}
            }
            match ready!(
                exchange
                    .inbound
                    .poll_fill(&mut exchange.connection.socket, cx)
            ) {
                Ok(Fill::Bytes) => exchange.received += 1,
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

    fn at_end(&self) -> bool {
        self.reader.is_done()
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Ok(()));
        };
        let moved = ready!(exchange.upload.poll(&mut exchange.connection.socket, cx));
        if let Err(error) = moved {
            self.request_failed = true;
            return self.fail(error).map(|_| Err(error));
        }
        if self.reader.is_done() {
            self.finish();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // Closed before the callback hears of it: a slot that it frees is really free.
        self.exchange = None;
        if let Some(on_end) = self.on_end.take() {
            on_end(None);
        }
    }
}
