//! The transport as `h2` sees it: a socket with a guard in the middle.
//!
//! Frames are collected on their way out and leave when the connection's task has nothing more to
//! say ([`Link::poll_flush`]): `h2` would write each larger DATA frame by itself, and one answer
//! after the other. On their way in they are counted before `h2` sees them, and a task takes no
//! more of them per wake-up than its share.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::Cut;
use crate::wire::h2::guard::Guard;
use crate::wire::io::Socket;

/// What is collected before it is written without being asked for.
const COLLECTED: usize = 64 * 1024;
/// Bytes that one wake-up may read before other connections get their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Small DATA frames that are read before streams take them, and the size of one read: together
/// fewer than what `h2` takes for a flood.
const SMALL_PER_ROUND: usize = 512;
const READ: usize = 16 * 1024;

/// A connection's socket, shared between `h2` and the task that it serves.
pub(super) struct Link {
    socket: Socket,
    /// Read by somebody else before, and how much of that `h2` has had.
    before: Vec<u8>,
    taken: usize,
    out: Vec<u8>,
    sent: usize,
    pub(super) guard: Guard,
    /// Bytes that may still be read in this turn.
    budget: usize,
    /// Streams are to take what was read before there is more.
    full: bool,
    /// Bytes read, ever: grows while the peer is alive.
    pub(super) received: u64,
    /// The peer's FIN was read.
    pub(super) ended: bool,
}

impl Link {
    pub(super) fn new(socket: Socket, before: Vec<u8>, guard: Guard) -> Self {
        Link {
            socket,
            before,
            taken: 0,
            out: Vec::new(),
            sent: 0,
            guard,
            budget: READ_BUDGET,
            full: false,
            received: 0,
            ended: false,
        }
    }

    /// A wake-up begins.
    pub(super) fn begin_turn(&mut self) {
        self.budget = READ_BUDGET;
    }

    /// Streams have had their chance to take what was read.
    pub(super) fn begin_round(&mut self) {
        self.full = false;
        self.guard.small = 0;
    }

    /// There may be more to read once streams have taken what was read.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// The share of this turn is used up, and there may be more.
    pub(super) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    /// Writes what was collected.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let count = ready!(self.socket.poll_write(cx, &self.out[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.sent = 0;
        if self.out.capacity() > COLLECTED / 4 {
            // Many connections wait: none keeps what one burst needed.
            self.out = Vec::new();
        }
        self.out.clear();
        self.socket.poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.socket.poll_shutdown(cx)
    }

    /// Reads what still comes and drops it: how much it was, 0 at the end.
    pub(super) fn poll_discard(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_read(cx, scratch)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        // What comes after a verdict is nobody's: the task has been told.
        if self.guard.verdict().is_some() || self.budget == 0 {
            return Poll::Pending;
        }
        if self.guard.small >= SMALL_PER_ROUND {
            self.full = true;
            return Poll::Pending;
        }
        let most = room.len().min(READ);
        let room = &mut room[..most];
        let count = if self.taken < self.before.len() {
            let rest = &self.before[self.taken..];
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            self.taken += count;
            if self.taken == self.before.len() {
                (self.before, self.taken) = (Vec::new(), 0);
            }
            count
        } else {
            ready!(self.socket.poll_read(cx, room))?
        };
        self.ended |= count == 0;
        self.received += count as u64;
        self.budget = self.budget.saturating_sub(count);
        self.guard.received(&room[..count]);
        if self.guard.verdict() == Some(Cut::Protocol) {
            // The task says what is wrong, and better than `h2` would.
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.out.len() - self.sent >= COLLECTED {
            ready!(self.poll_flush(cx))?;
        }
        self.guard.sent(bytes);
        self.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

/// The end of a [`Link`] that `h2` holds.
#[derive(Clone)]
pub(super) struct Io(pub(super) Rc<RefCell<Link>>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let room = buffer.initialize_unfilled();
        let count = ready!(self.0.borrow_mut().poll_read(cx, room))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, bytes)
    }

    /// The task flushes when it has no more to say.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The task shuts down after it.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
