//! The client side: a connection to a server, and one exchange on it.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{
    BodyError, BodyStream, Data, Downstream, Frame, Length, RequestHead, ResponseHead,
};
use crate::wire::io::Socket;

/// A connection to a server between two exchanges.
pub struct Connection {
    _socket: Socket,
}

impl Connection {
    pub fn new(_socket: Socket) -> Self {
        todo!()
    }

    /// True if nothing has arrived on it: neither FIN nor bytes that nobody asked for. Looks at
    /// the readiness flag; no system call.
    pub fn is_usable(&mut self) -> bool {
        todo!()
    }

    /// Exchanges that ended cleanly on it.
    pub fn requests_served(&self) -> u64 {
        todo!()
    }

    pub fn opened_at(&self) -> Instant {
        todo!()
    }

    /// The server's `Keep-Alive: timeout=`, from its last answer that had one.
    pub fn keep_alive_hint(&self) -> Option<Duration> {
        todo!()
    }
}

/// What a server sent.
#[derive(Debug)]
pub enum Answer {
    /// 1xx other than 101; more follows.
    Interim(ResponseHead),
    Final(ResponseHead),
    /// 101 with the token that was asked for; then [`Exchange::into_tunnel`].
    Switching(ResponseHead),
}

/// Why an exchange ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// FIN before the answer's head was whole.
    #[error("the server closed the connection before its answer")]
    Closed {
        /// A byte of an answer (interim ones count) had come.
        answered: bool,
        /// Bytes of the request that went into the socket.
        written: u64,
    },
    #[error("the server reset the connection before its answer")]
    Reset { answered: bool, written: u64 },
    #[error("the server's answer is malformed: {0}")]
    BadResponse(&'static str),
    /// The client's side failed while the request went out.
    #[error("the request's body broke off")]
    RequestBody(#[source] BodyError),
}

/// One request and its answer on one connection.
pub struct Exchange {}

impl Exchange {
    /// Nothing is written before the first [`Exchange::poll_head`]. `head` has been cleaned; the
    /// wire decides `Content-Length`, `Transfer-Encoding`, `Connection` and `Upgrade` itself.
    pub fn start(
        _connection: Connection,
        _head: &RequestHead,
        _body: Rc<dyn Downstream>,
        _expect_upgrade: Option<&str>,
    ) -> Exchange {
        todo!()
    }

    /// Moves the request out and gives the next head of the answer.
    pub fn poll_head(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        todo!()
    }

    /// The whole request is in the socket.
    pub fn request_written(&self) -> bool {
        todo!()
    }

    /// Bytes of the request in the socket so far, framing included.
    pub fn bytes_written(&self) -> u64 {
        todo!()
    }

    /// Grows by one whenever a byte moved in either direction: compare two readings to know
    /// whether anything moved in between, without reading the clock per byte.
    pub fn progress(&self) -> u64 {
        todo!()
    }

    /// After [`Answer::Final`]: the body. `on_end` gets the connection once both bodies ended
    /// cleanly and it can be used again, `None` otherwise (dropped before its end included).
    pub fn into_body(self, _on_end: Box<dyn FnOnce(Option<Connection>)>) -> ResponseBody {
        todo!()
    }

    /// After [`Answer::Switching`]: the socket and what the server sent after its head.
    pub fn into_tunnel(self) -> (Socket, Vec<u8>) {
        todo!()
    }
}

/// The body of an answer. Owns the exchange: pulling it also moves the request body.
pub struct ResponseBody {}

impl ResponseBody {
    /// As [`Exchange::progress`].
    pub fn progress(&self) -> u64 {
        todo!()
    }
}

impl BodyStream for ResponseBody {
    fn length(&self) -> Length {
        todo!()
    }

    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        let _: Option<Data> = None;
        todo!()
    }
}
