//! The client side: connections to servers, and one exchange after the other on each.
//!
//! An exchange is driven by the downstream connection's own task: [`Exchange::poll_head`] writes
//! the request and pulls its body while it waits for the answer, [`ResponseBody`] goes on doing
//! so while the answer's body is pulled. A server's answer gets the same care as a client's
//! request: what is ambiguous is [`ExchangeError::BadResponse`](crate::wire::client::ExchangeError::BadResponse), and its connection is not used
//! again.
//!
//! [`Connection`], [`Exchange`] and [`ResponseBody`] are one object in three stages, held by a
//! pointer: what an exchange needs is part of its connection, so that taking a kept one, sending
//! on it and giving it back move eight bytes and allocate nothing.

mod body;
mod exchange;
mod upload;

use std::fmt;
use std::io;
use std::task::Context;
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;

use crate::message::{Method, ResponseHead};
use crate::wire::h1::framing::Framing;
use crate::wire::h1::inbound::Inbound;
use crate::wire::io::Socket;

use upload::Upload;

pub use body::ResponseBody;
pub use exchange::Exchange;

/// A connection to a server between two exchanges.
pub struct Connection(Box<Inner>);

/// A connection with the state of the exchange on it; [`Exchange::start`] begins it anew.
struct Inner {
    socket: Socket,
    /// The server's `Keep-Alive: timeout=`, from its last answer that had one.
    keep_alive_hint: Option<Duration>,
    inbound: Inbound,
    upload: Upload,
    /// Of the request; decides whether the answer has a body.
    method: Method,
    upgrade: Option<Box<str>>,
    /// Interim answers so far.
    interim: u32,
    /// Reads that brought something.
    received: u64,
    /// Nothing had come, and the task that begins the next exchange is woken when something does.
    awaited: bool,
    /// The last one that came, until it is taken.
    head: Option<ResponseHead>,
    /// Of the final answer: its framing, and whether the connection stays usable after it.
    answer: (Framing, bool),
}

impl Connection {
    /// On a socket that has just been connected.
    pub fn new(socket: Socket) -> Self {
        Connection(Box::new(Inner {
            socket,
            keep_alive_hint: None,
            inbound: Inbound::default(),
            upload: Upload::default(),
            method: Method::Get,
            upgrade: None,
            interim: 0,
            received: 0,
            awaited: false,
            head: None,
            answer: (Framing::Length(0), false),
        }))
    }

    /// True if nothing has arrived on it: neither FIN nor bytes that nobody asked for (those
    /// would be read as the next answer). Looks at the readiness flag; a system call is made
    /// only when that is up.
    ///
    /// `waiter` is woken when something comes: an exchange that is started in the same wake-up waits
    /// for its answer already, and looks at the socket only after that.
    pub fn is_usable(&mut self, waiter: Option<&mut Context<'_>>) -> bool {
        let inner = &mut *self.0;
        let ready = match waiter {
            Some(cx) => {
                let socket = &mut inner.socket;
                let ready = socket.is_read_ready() || socket.poll_read_ready(cx).is_ready();
                // Without budget tokio wakes at once, leaves no waker, and says nothing of the flag.
                inner.awaited = !ready && has_budget_remaining();
                ready
            }
            None => {
                inner.awaited = false;
                inner.socket.is_read_ready()
            }
        };
        // The flag may be left over from a read that filled its buffer to the brim.
        let empty = |read: io::Result<usize>| {
            read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        !ready || empty(inner.socket.try_read(&mut [0]))
    }

    /// The server's `Keep-Alive: timeout=`, from its last answer that had one.
    pub fn keep_alive_hint(&self) -> Option<Duration> {
        self.0.keep_alive_hint
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.socket).finish()
    }
}

impl Inner {
    /// Changes whenever a byte moved in either direction.
    fn progress(&self) -> u64 {
        self.upload.written().wrapping_add(self.received)
    }

    /// Both bodies have ended: it may carry another exchange.
    fn is_reusable(&self) -> bool {
        self.answer.1 && self.upload.is_done() && self.inbound.is_empty()
    }
}
