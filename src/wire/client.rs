//! The client side of both protocols behind one set of names: a connection to a server, one
//! exchange on it, and the body of its answer.
//!
//! Everything above the wire speaks to servers by these verbs alone: is it still usable, send this
//! head and body, give me the answer. Each is a branch on which protocol the connection speaks and
//! moves a pointer or two, so that HTTP/1.1 pays nothing for its neighbour.

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::message::{
    BodyError, BodyStream, Data, Downstream, Frame, Length, RequestHead, ResponseHead, Scratch,
};
use crate::wire::h1;
use crate::wire::h2;
use crate::wire::io::Socket;

pub use crate::wire::h2::client::HandshakeError;

/// A connection to a server between two exchanges.
#[derive(Debug)]
pub enum Connection {
    H1(h1::client::Connection),
    /// One of many handles on it: others may use it at the same time.
    H2(h2::client::Connection),
}

/// One request and its answer. Dropping it breaks it off.
pub enum Exchange {
    H1(h1::client::Exchange),
    H2(h2::client::Exchange),
}

/// The body of an answer, which owns its exchange: pulling it also moves the request body.
/// Dropping it before its end breaks the exchange off.
pub enum ResponseBody {
    H1(h1::client::ResponseBody),
    H2(Box<h2::client::ResponseBody>),
}

/// The server's side of a connection after an upgrade: bytes both ways, each ending by itself.
pub enum Tunnel {
    /// The socket, and what the server sent after its head.
    H1(Socket, Vec<u8>),
    H2(Box<h2::client::Tunnel>),
}

/// What goes to a server. The head has been cleaned; the wire decides about every field that frames
/// a message or speaks of the connection.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub head: &'a RequestHead,
    pub body: &'a Rc<dyn Downstream>,
    /// The token of the upgrade that is asked for.
    pub upgrade: Option<&'a str>,
    /// The client sent `TE: trailers`: said again where the protocol has such a hint.
    pub te_trailers: bool,
}

/// What a server sent; its head is [`Exchange::take_head`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 1xx other than 101; more follows.
    Interim,
    /// Then [`Exchange::into_whole`] or [`Exchange::into_body`].
    Final,
    /// 101 with the token that was asked for; then [`Exchange::into_tunnel`].
    Switching,
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
    /// An alert of the server (in TLS 1.3 it judges our certificate after we may send), or records
    /// that are none.
    #[error("TLS with the server broke before its answer")]
    Tls { answered: bool, written: u64 },
    #[error("the server's answer is malformed: {0}")]
    BadResponse(&'static str),
    /// The server said that it did not look at the request: it may be sent again whatever it is
    /// (RFC 9113 section 8.7).
    #[error("the server refused the request unseen")]
    Refused,
    /// The server ended this exchange alone.
    #[error("the server reset the request's stream")]
    StreamReset,
    /// The server broke the rules, and the connection with all its exchanges ended by it.
    #[error("the connection was ended: {detail}")]
    Violation {
        answered: bool,
        written: u64,
        detail: &'static str,
    },
    /// The request cannot be said in the server's protocol.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
    /// The client's side failed while the request went out.
    #[error("the request's body broke off")]
    RequestBody(#[source] BodyError),
}

impl Connection {
    /// On a socket that has just been connected.
    #[inline]
    pub fn http1(socket: Socket) -> Self {
        Connection::H1(h1::client::Connection::new(socket))
    }

    /// HTTP/2 on a socket that has just been connected, once its server has said its settings.
    pub async fn http2(socket: Socket, secure: bool) -> Result<Self, HandshakeError> {
        h2::client::Connection::connect(socket, secure)
            .await
            .map(Connection::H2)
    }

    /// True if a request may be sent on it. Makes a system call only where the readiness flag says
    /// that something has come.
    ///
    /// `waiter` is woken when something comes: an exchange that is started in the same wake-up waits
    /// for its answer already, and looks at the socket only after that.
    #[inline]
    pub fn is_usable(&mut self, waiter: Option<&mut Context<'_>>) -> bool {
        match self {
            Connection::H1(connection) => connection.is_usable(waiter),
            Connection::H2(connection) => connection.is_usable(),
        }
    }

    /// Another handle on it, where it carries many exchanges at once.
    #[inline]
    pub fn share(&self) -> Option<Self> {
        match self {
            Connection::H1(_) => None,
            Connection::H2(connection) => Some(Connection::H2(connection.clone())),
        }
    }

    /// How many exchanges it may carry now.
    #[inline]
    pub fn places(&self) -> usize {
        match self {
            Connection::H1(_) => 1,
            Connection::H2(connection) if connection.is_usable() => connection.capacity(),
            Connection::H2(_) => 0,
        }
    }

    /// Carries many exchanges at once, and will never begin another.
    #[inline]
    pub fn is_over(&self) -> bool {
        match self {
            Connection::H1(_) => false,
            Connection::H2(connection) => connection.is_over(),
        }
    }

    /// `what` is dropped when the socket of a connection that is shared is closed.
    #[inline]
    pub fn keep_until_closed(&self, what: Box<dyn Any>) {
        if let Connection::H2(connection) = self {
            connection.keep_until_closed(what);
        }
    }

    /// How long the server said that it keeps the connection, where it said so.
    #[inline]
    pub fn keep_alive_hint(&self) -> Option<Duration> {
        match self {
            Connection::H1(connection) => connection.keep_alive_hint(),
            Connection::H2(_) => None,
        }
    }
}

impl Tunnel {
    /// Up to `limit` bytes from the server; `None` is its end.
    #[inline]
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<Option<Data>>> {
        match self {
            Tunnel::H1(socket, received) => {
                if !received.is_empty() {
                    return Poll::Ready(Ok(Some(Data::from(std::mem::take(received)))));
                }
                let mut scratch = Scratch::take();
                match ready!(socket.poll_read(cx, &mut scratch[..limit]))? {
                    0 => Poll::Ready(Ok(None)),
                    length => Poll::Ready(Ok(Some(Data::view(scratch, 0, length)))),
                }
            }
            Tunnel::H2(stream) => {
                let data = ready!(stream.poll_read(cx))?;
                Poll::Ready(Ok(data.map(Data::from)))
            }
        }
    }

    /// Sends some of `bytes`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Tunnel::H1(socket, _) => socket.poll_write(cx, bytes),
            Tunnel::H2(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Sends what was taken and still waits; bytes can be taken meanwhile.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Tunnel::H1(socket, _) => socket.poll_flush(cx),
            // Its connection's task sends them.
            Tunnel::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Tells the server that nothing more comes; it may still send.
    #[inline]
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Tunnel::H1(socket, _) => socket.poll_shutdown(cx),
            Tunnel::H2(stream) => stream.poll_shutdown(cx),
        }
    }
}

impl Exchange {
    /// Nothing is written before the task waits.
    #[inline]
    pub fn start(connection: Connection, request: &Request<'_>) -> Exchange {
        let Request {
            head,
            body,
            upgrade,
            ..
        } = *request;
        match connection {
            Connection::H1(connection) => {
                Exchange::H1(h1::client::Exchange::start(connection, head, body, upgrade))
            }
            Connection::H2(connection) => {
                Exchange::H2(h2::client::Exchange::start(connection, request))
            }
        }
    }

    /// Moves the request out and gives the next head of the answer. Not to be called again after
    /// a final head or an error.
    #[inline]
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        match self {
            Exchange::H1(exchange) => exchange.poll_head(cx),
            Exchange::H2(exchange) => exchange.poll_head(cx),
        }
    }

    /// The whole request has been handed to the socket.
    #[inline]
    pub fn request_written(&self) -> bool {
        match self {
            Exchange::H1(exchange) => exchange.request_written(),
            Exchange::H2(exchange) => exchange.request_written(),
        }
    }

    /// What the exchange waits for is the client's request body.
    #[inline]
    pub fn awaits_client(&self) -> bool {
        match self {
            Exchange::H1(exchange) => exchange.awaits_client(),
            Exchange::H2(exchange) => exchange.awaits_client(),
        }
    }

    /// The request body is under way: who pulls it notices when its client leaves, unless it is
    /// the server that takes nothing.
    #[inline]
    pub fn pulls_body(&self) -> bool {
        match self {
            Exchange::H1(exchange) => exchange.pulls_body(),
            Exchange::H2(exchange) => exchange.pulls_body(),
        }
    }

    /// The request is cut: the server must see that, whatever it reads.
    #[inline]
    pub fn break_off(&mut self) {
        match self {
            Exchange::H1(exchange) => exchange.break_off(),
            Exchange::H2(exchange) => exchange.break_off(),
        }
    }

    /// The server was not in time, so nobody else begins on the connection before it gave a sign of
    /// life. One of HTTP/1 ends with its exchange. To be dropped then.
    pub fn doubt(&self) {
        if let Exchange::H2(exchange) = self {
            exchange.doubt();
        }
    }

    /// Bytes of the request in the socket so far; 0 only where the server cannot have seen any.
    #[inline]
    pub fn bytes_written(&self) -> u64 {
        match self {
            Exchange::H1(exchange) => exchange.bytes_written(),
            Exchange::H2(exchange) => exchange.bytes_written(),
        }
    }

    /// Changes whenever a byte moved in either direction: compare two readings to know whether
    /// anything moved in between, without reading the clock per byte.
    #[inline]
    pub fn progress(&self) -> u64 {
        match self {
            Exchange::H1(exchange) => exchange.progress(),
            Exchange::H2(exchange) => exchange.progress(),
        }
    }

    /// The head that [`Exchange::poll_head`] told of last; once.
    #[inline]
    pub fn take_head(&mut self) -> Option<ResponseHead> {
        match self {
            Exchange::H1(exchange) => exchange.take_head(),
            Exchange::H2(exchange) => exchange.take_head(),
        }
    }

    #[inline]
    pub fn head(&self) -> Option<&ResponseHead> {
        match self {
            Exchange::H1(exchange) => exchange.head(),
            Exchange::H2(exchange) => exchange.head(),
        }
    }

    /// After [`Answer::Final`], where all of a plain body came with its head and the request is
    /// out: the body, and the connection to be used again.
    #[inline]
    pub fn into_whole(self) -> Result<(Option<Data>, Connection), Exchange> {
        match self {
            Exchange::H1(exchange) => match exchange.into_whole() {
                Ok((data, connection)) => Ok((data, Connection::H1(connection))),
                Err(exchange) => Err(Exchange::H1(exchange)),
            },
            Exchange::H2(exchange) => match exchange.into_whole() {
                Ok((data, connection)) => Ok((data, Connection::H2(connection))),
                Err(exchange) => Err(Exchange::H2(exchange)),
            },
        }
    }

    /// After [`Answer::Final`]: the body.
    #[inline]
    pub fn into_body(self) -> ResponseBody {
        match self {
            Exchange::H1(exchange) => ResponseBody::H1(exchange.into_body()),
            Exchange::H2(exchange) => ResponseBody::H2(Box::new(exchange.into_body())),
        }
    }

    /// After [`Answer::Switching`].
    #[inline]
    pub fn into_tunnel(self) -> Tunnel {
        match self {
            Exchange::H1(exchange) => {
                let (socket, received) = exchange.into_tunnel();
                Tunnel::H1(socket, received)
            }
            Exchange::H2(exchange) => Tunnel::H2(Box::new(exchange.into_tunnel())),
        }
    }
}

impl ResponseBody {
    /// The exchange broke off because the client's request body did.
    #[inline]
    pub fn request_failed(&self) -> bool {
        match self {
            ResponseBody::H1(body) => body.request_failed(),
            ResponseBody::H2(body) => body.request_failed(),
        }
    }

    /// Both bodies have ended.
    #[inline]
    pub fn is_over(&self) -> bool {
        match self {
            ResponseBody::H1(body) => body.is_over(),
            ResponseBody::H2(body) => body.is_over(),
        }
    }

    /// Once both bodies have ended, and if it can be used again: the connection. It is closed
    /// already if it cannot.
    #[inline]
    pub fn take_connection(&mut self) -> Option<Connection> {
        match self {
            ResponseBody::H1(body) => body.take_connection().map(Connection::H1),
            ResponseBody::H2(body) => body.take_connection().map(Connection::H2),
        }
    }

    /// As [`Exchange::doubt`]; to be closed then.
    pub fn doubt(&self) {
        if let ResponseBody::H2(body) = self {
            body.doubt();
        }
    }

    /// The exchange is broken off.
    #[inline]
    pub fn close(&mut self) {
        match self {
            ResponseBody::H1(body) => body.close(),
            ResponseBody::H2(body) => body.close(),
        }
    }

    /// As [`Exchange::awaits_client`].
    #[inline]
    pub fn awaits_client(&self) -> bool {
        match self {
            ResponseBody::H1(body) => body.awaits_client(),
            ResponseBody::H2(body) => body.awaits_client(),
        }
    }

    /// As [`Exchange::progress`].
    #[inline]
    pub fn progress(&self) -> u64 {
        match self {
            ResponseBody::H1(body) => body.progress(),
            ResponseBody::H2(body) => body.progress(),
        }
    }
}

impl BodyStream for ResponseBody {
    #[inline]
    fn length(&self) -> Length {
        match self {
            ResponseBody::H1(body) => body.length(),
            ResponseBody::H2(body) => body.length(),
        }
    }

    #[inline]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        match self {
            ResponseBody::H1(body) => body.poll_frame(cx),
            ResponseBody::H2(body) => body.poll_frame(cx),
        }
    }

    #[inline]
    fn take_pipes(&mut self) {
        match self {
            ResponseBody::H1(body) => body.take_pipes(),
            ResponseBody::H2(body) => body.take_pipes(),
        }
    }

    #[inline]
    fn at_end(&self) -> bool {
        match self {
            ResponseBody::H1(body) => body.at_end(),
            ResponseBody::H2(body) => body.at_end(),
        }
    }

    #[inline]
    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            ResponseBody::H1(body) => body.poll_pump(cx),
            ResponseBody::H2(body) => body.poll_pump(cx),
        }
    }
}
