//! The client side: connections to servers that carry many exchanges at once.
//!
//! A [`Connection`] is a handle; whoever has one may begin an exchange on it. What moves the frames
//! is a task of the worker (the driver), which lives until the last handle and the last
//! stream have gone, or the server ends it. An exchange is one stream: it is driven by the
//! downstream connection's own task, as one of HTTP/1 is, hands frames to the driver and is woken
//! by it. Nothing waits in between but what flow control allows: a request body is pulled from its
//! client only as far as the server's windows reach, and a server gets its window back only as a
//! client takes the bytes.
//!
//! A server's frames get the same care as its HTTP/1: the library judges frames, states and header
//! blocks, [`head`] what a head says, and [`watch`] what it costs to listen at all. A stream that
//! fails ends alone. A connection that fails takes its streams with it, so it is asked for a
//! sign of life where bytes are awaited and none come ([`driver`]).

mod body;
mod driver;
mod exchange;
mod head;
mod io;
#[cfg(test)]
mod tests;
mod tunnel;
mod upload;
mod watch;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::time::Instant;

use crate::util::clock;
use crate::wire::io::Socket;

use driver::Driver;
use io::Io;
use watch::Watch;

pub use body::ResponseBody;
pub use exchange::Exchange;
pub use tunnel::Tunnel;

/// What a server may send of one answer that its client does not take.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Streams on one connection: what is common to allow, and no server's limit by surprise.
const MOST_STREAMS: usize = 100;

/// Enough that streams whose clients take nothing leave the others their windows.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MOST_STREAMS as u32);

/// Bytes of one request body that may wait for the socket.
const SEND_BUFFER: usize = 64 * 1024;

/// A head's size as RFC 9113 section 6.5.2 counts it; the same as for HTTP/1.
const HEADER_LIST: u32 = 64 * 1024;

/// Streams that we reset are remembered for so long, and so many of them: what the server sent
/// before it knew is then no error.
const RESET_MEMORY: Duration = Duration::from_secs(3);
const RESETS_REMEMBERED: usize = 1024;

/// A connection that many exchanges may use at once; a handle on it.
#[derive(Clone)]
pub struct Connection(Rc<Handle>);

/// Shared by all that may begin or end an exchange: when the last goes, the driver closes the
/// connection.
struct Handle {
    shared: Rc<Shared>,
}

/// What a connection's users and its driver know of it.
struct Shared {
    /// `None` once nobody may begin an exchange any more.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    watch: Rc<Watch>,
    /// `https` goes into `:scheme`.
    secure: bool,
    /// Exchanges under way.
    exchanges: Cell<usize>,
    /// Exchanges begun so far.
    begun: Cell<u64>,
    /// When the first of those under way began.
    awaited: Cell<Instant>,
    /// The driver has ended: the socket is closed.
    ended: Cell<bool>,
    /// Asked for a sign of life, the server has not answered yet.
    suspect: Cell<bool>,
    /// An exchange was not answered in time; the driver has not looked into it yet.
    doubt: Cell<bool>,
    /// The driver has given it up for further exchanges.
    retired: Cell<bool>,
    /// Goes with the socket.
    ballast: RefCell<Option<Box<dyn Any>>>,
}

/// Why a server that was connected to is no HTTP/2 server, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the server closed the connection instead of beginning HTTP/2")]
    Closed,
    #[error("the server does not speak HTTP/2")]
    Protocol,
}

impl Connection {
    /// Begins HTTP/2 on a socket that has just been connected: ready when the server's settings are
    /// there. From then on a task of this thread moves its frames. `secure`: the socket is TLS.
    pub async fn connect(socket: Socket, secure: bool) -> Result<Self, HandshakeError> {
        let watch = Rc::new(Watch::new());
        let io = Io::new(socket, watch.clone());
        let (sender, connection) = builder()
            .handshake(io)
            .await
            .map_err(|_| HandshakeError::Closed)?;
        let shared = Rc::new(Shared {
            sender: RefCell::new(Some(sender)),
            watch,
            secure,
            exchanges: Cell::new(0),
            begun: Cell::new(0),
            awaited: Cell::new(clock::now()),
            ended: Cell::new(false),
            suspect: Cell::new(false),
            doubt: Cell::new(false),
            retired: Cell::new(false),
            ballast: RefCell::new(None),
        });
        let mut driver = Driver::new(connection, shared.clone());
        driver.settled().await?;
        tokio::task::spawn_local(driver);
        Ok(Connection(Rc::new(Handle { shared })))
    }

    /// An exchange may be begun, as far as is known: the server has not ended it, will not soon,
    /// and gives signs of life.
    pub fn is_usable(&self) -> bool {
        let shared = &self.0.shared;
        !self.is_over() && !shared.suspect.get() && !shared.doubt.get()
    }

    /// No further exchange will ever begin on it.
    pub fn is_over(&self) -> bool {
        let shared = &self.0.shared;
        shared.ended.get() || shared.watch.is_leaving() || shared.retired.get()
    }

    /// How many exchanges it may carry now: what the server allows, and no more than we want. An
    /// answer of 0 may be another one later.
    pub fn capacity(&self) -> usize {
        self.0.shared.capacity()
    }

    /// Exchanges under way.
    pub fn exchanges(&self) -> usize {
        self.0.shared.exchanges.get()
    }

    /// `what` is dropped when the socket is closed.
    pub fn keep_until_closed(&self, what: Box<dyn Any>) {
        if !self.0.shared.ended.get() {
            self.0.shared.ballast.replace(Some(what));
        }
    }

    /// The server takes extended CONNECT (RFC 8441).
    fn takes_extended_connect(&self) -> bool {
        match &*self.0.shared.sender.borrow() {
            Some(sender) => sender.is_extended_connect_protocol_enabled(),
            None => false,
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .reset_stream_duration(RESET_MEMORY)
        // Nothing is sent before the server's own limit is known.
        .initial_max_send_streams(0);
    builder
}

impl Shared {
    fn capacity(&self) -> usize {
        match &*self.sender.borrow() {
            Some(sender) => sender.current_max_send_streams().min(MOST_STREAMS),
            None => 0,
        }
    }

    /// The driver has ended.
    fn end(&self) {
        self.ended.set(true);
        drop(self.sender.take());
        drop(self.ballast.take());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The library tells the driver when the last one that could send is gone.
        drop(self.shared.sender.take());
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("exchanges", &self.exchanges())
            .field("usable", &self.is_usable())
            .finish()
    }
}
