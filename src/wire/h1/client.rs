//! The client side: connections to servers, and one exchange after the other on each.
//!
//! An exchange is driven by the downstream connection's own task: [`Exchange::poll_head`] writes
//! the request and pulls its body while it waits for the answer, [`ResponseBody`] goes on doing
//! so while the answer's body is pulled. A server's answer gets the same care as a client's
//! request: what is ambiguous is [`ExchangeError::BadResponse`], and its connection is not used
//! again.

mod body;
mod exchange;
mod upload;

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{BodyError, ResponseHead};
use crate::wire::io::Socket;

pub use body::ResponseBody;
pub use exchange::Exchange;

/// A connection to a server between two exchanges.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    opened_at: Instant,
    requests_served: u64,
    keep_alive_hint: Option<Duration>,
}

impl Connection {
    /// On a socket that has just been connected.
    pub fn new(socket: Socket) -> Self {
        Connection {
            socket,
            opened_at: Instant::now(),
            requests_served: 0,
            keep_alive_hint: None,
        }
    }

    /// True if nothing has arrived on it: neither FIN nor bytes that nobody asked for (those
    /// would be read as the next answer). Looks at the readiness flag; a system call is made
    /// only when that is up.
    pub fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.socket.poll_read_ready(&mut cx).is_pending() {
            return true;
        }
        // The flag may be left over from a read that filled its buffer to the brim.
        self.socket.poll_read(&mut cx, &mut [0]).is_pending()
    }

    /// Exchanges that ended cleanly on it.
    pub fn requests_served(&self) -> u64 {
        self.requests_served
    }

    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// The server's `Keep-Alive: timeout=`, from its last answer that had one.
    pub fn keep_alive_hint(&self) -> Option<Duration> {
        self.keep_alive_hint
    }

    /// Ready when [`Connection::is_usable`] has become false: for whoever keeps it idle.
    pub fn poll_unusable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.socket.poll_read_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => self.socket.poll_read(cx, &mut [0]).map(|_| ()),
        }
    }
}

/// What a server sent.
#[derive(Debug)]
pub enum Answer {
    /// 1xx other than 101; more follows.
    Interim(ResponseHead),
    /// Then [`Exchange::into_body`].
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
