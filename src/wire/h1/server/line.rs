//! The socket of a downstream connection, and whether its task hears of what arrives on it.
//!
//! The task waits for its client at least twice per request: for one that leaves while it is
//! answered, and for the next request. Nearly always nothing arrives in between, and then the waker
//! of the first wait is still there. tokio keeps it until an event takes it, and that event raises
//! the readiness flag in the same step, on this very thread. So while the flag is down, and no read
//! has lowered it since, asking again would change nothing; no wake-up is lost because
//! - the flag is looked at first, each time: where it is up, the waker counts as gone;
//! - only a read lowers it, which is made only where it was up;
//! - without budget left tokio leaves no waker but wakes at once: that does not count as left;
//! - writing has a waker of its own, and nobody but the connection's one task waits on its socket.

use std::io;
use std::task::{Context, Poll};

use tokio::task::coop::has_budget_remaining;

use crate::message::Frame;
use crate::wire::h1::inbound::{Fill, Inbound};
use crate::wire::h1::outbound::Outbound;
use crate::wire::h1::piping::poll_piped;
use crate::wire::h1::reader::BodyReader;
use crate::wire::io::Socket;

pub(super) struct Line {
    socket: Socket,
    /// The task's waker is there, and no event has taken it.
    watching: bool,
}

impl Line {
    pub(super) fn new(socket: Socket) -> Self {
        Line {
            socket,
            watching: false,
        }
    }

    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Ready when a read may find something.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.socket.is_read_ready() {
            self.watching = false;
            return Poll::Ready(Ok(()));
        }
        if self.watching {
            return Poll::Pending;
        }
        let leaves_waker = has_budget_remaining();
        let ready = self.socket.poll_read_ready(cx);
        self.watching = ready.is_pending() && leaves_waker;
        ready
    }

    /// Reads once behind what is in `inbound`; after [`Line::poll_readable`], and `WouldBlock` if
    /// that was mistaken.
    pub(super) fn read(&mut self, inbound: &mut Inbound) -> io::Result<Fill> {
        self.watching = false;
        inbound.read(&mut self.socket)
    }

    /// Both of them; `inbound` is parked where it waits.
    pub(super) fn poll_fill(
        &mut self,
        inbound: &mut Inbound,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Fill>> {
        loop {
            let Poll::Ready(ready) = self.poll_readable(cx) else {
                inbound.park();
                return Poll::Pending;
            };
            ready?;
            match self.read(inbound) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// As [`poll_piped`], for the body that `reader` reads.
    pub(super) fn poll_piped(
        &mut self,
        reader: &mut BodyReader,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame>>> {
        // It may read, and so lower the flag, without a word.
        self.watching = false;
        poll_piped(reader, &mut self.socket, limit, cx)
    }

    /// A body may go into this socket through a pipe.
    pub(super) fn splices(&self) -> bool {
        self.socket.splices()
    }

    /// Ready when everything is in the socket.
    pub(super) fn poll_flush(
        &mut self,
        out: &mut Outbound,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        out.poll_flush(&mut self.socket, cx)
    }

    /// As [`Socket::is_flushed`].
    pub(super) fn is_flushed(&self) -> bool {
        self.socket.is_flushed()
    }

    /// Sends FIN; bytes can still be read.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }

    /// As [`Socket::is_read_closed`].
    pub(super) fn is_read_closed(&self) -> bool {
        self.socket.is_read_closed()
    }

    /// As [`Socket::is_broken`].
    pub(super) fn is_broken(&self) -> bool {
        self.socket.is_broken()
    }

    /// Makes the coming close visible as a break.
    pub(super) fn reset_on_close(&self) {
        self.socket.reset_on_close();
    }
}
