//! The socket as the library sees it: watched, and read for a turn only.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::message::Scratch;
use crate::util::turn::next_round;
use crate::wire::h2::client::watch::Watch;
use crate::wire::io::Socket;

/// A socket whose frames are counted as they come.
pub(super) struct Io {
    socket: Socket,
    watch: Rc<Watch>,
}

impl Io {
    pub fn new(socket: Socket, watch: Rc<Watch>) -> Self {
        Io { socket, watch }
    }

    /// Reads into what is free of `buffer` as it is: to write zeros there first would cost more
    /// than a small read does.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Tls(_) => {
                let mut scratch = Scratch::take();
                let most = buffer.remaining().min(scratch.len());
                if most > 0 {
                    let read = ready!(self.socket.poll_read(cx, &mut scratch[..most]))?;
                    buffer.put_slice(scratch.get(..read).unwrap_or_default());
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &result {
            self.watch.wrote(*written);
        }
        result
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The library reads until nothing is left: a server that never stops would have the worker
        // for itself.
        if self.watch.turn_is_over() {
            next_round(cx);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(self.poll_fill(cx, buffer))?;
        self.watch
            .received(buffer.filled().get(before..).unwrap_or_default())?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = self.socket.poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.socket.poll_write_vectored(cx, slices);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }
}
