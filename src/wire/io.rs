//! One socket type over TCP and unix, plain and TLS, so that everything above is one code.
//!
//! Every call is tried first, where the readiness flag that the last event left says that it may
//! succeed, and only what finds nothing asks to be woken. That is the other way round than tokio's
//! own `poll_read` and `poll_write`, which take a turn of its budget each time: ours are counted in
//! requests and bytes (see `h1::server`), and these calls are most of what a request asks of tokio.
//! A short read or write says that the next one would find nothing, and so clears the flag: that
//! saves a call that returns EAGAIN.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;

use crate::message::Pipe;
use crate::wire::tls::TlsSocket;

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: a plain one must not be as large.
    Tls(Box<TlsSocket>),
}

impl Socket {
    /// Reads some bytes; `Ok(0)` is the peer's FIN. `buffer` must not be empty.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_read_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// As [`Socket::poll_read`], `WouldBlock` where there is nothing: registers nothing.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        debug_assert!(!buffer.is_empty(), "an empty read would look like FIN");
        if let Socket::Tls(tls) = self {
            return tls.try_read(buffer);
        }
        let (fd, whole) = (self.fd(), buffer.len());
        self.try_io(Interest::READABLE, whole, || {
            recv(fd, buffer, MsgFlags::empty())
        })
    }

    /// Copies what has come into `buffer`, at least a byte, and leaves it to be read; `Ok(0)` is the
    /// peer's FIN. `buffer` must not be empty. Ready again at once for the same bytes: whoever peeks
    /// reads them before the next look.
    pub fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        debug_assert!(!buffer.is_empty(), "an empty peek would look like FIN");
        let fd = self.fd();
        loop {
            // None is asked for, so that none is too few: the flag stays for the read.
            let peeked = self.try_io(Interest::READABLE, 0, || {
                recv(fd, buffer, MsgFlags::MSG_PEEK)
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_read_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Bytes that are written may still wait inside, encrypted: see [`Socket::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Socket::Tls(tls) = self {
            return tls.poll_write_vectored(cx, &[IoSlice::new(bytes)]);
        }
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// As [`Socket::poll_write`] without TLS, `WouldBlock` where nothing goes: registers nothing.
    #[inline]
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let (fd, whole) = (self.fd(), bytes.len());
        self.try_io(Interest::WRITABLE, whole, || {
            send(fd, bytes, MsgFlags::MSG_NOSIGNAL)
        })
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_write_ready(cx),
            Socket::Unix(stream) => stream.poll_write_ready(cx),
            Socket::Tls(tls) => tls.raw().poll_write_ready(cx),
        }
    }

    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Socket::Tls(tls) => tls.poll_write_vectored(cx, slices),
        }
    }

    /// Ready when all that was written is with the kernel. Plain sockets hold nothing.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => Poll::Ready(Ok(())),
            Socket::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Whether bytes can go from or to it without a copy ([`Pipe`]).
    pub fn splices(&self) -> bool {
        matches!(self, Socket::Tcp(_))
    }

    /// As [`Socket::poll_read`], up to `limit` bytes into an empty pipe.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let Socket::Tcp(stream) = self else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || pipe.fill(&*stream, limit)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => return Poll::Ready(filled),
            }
        }
    }

    /// As [`Socket::poll_write`], out of a pipe.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        let Socket::Tcp(stream) = self else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_io(Interest::WRITABLE, || pipe.drain(&*stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                drained => return Poll::Ready(drained),
            }
        }
    }

    /// [`Socket::poll_flush`] has nothing to do.
    pub fn is_flushed(&self) -> bool {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => true,
            Socket::Tls(tls) => tls.is_flushed(),
        }
    }

    /// Sends FIN, over TLS `close_notify` before it; bytes can still be read.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(tls) => tls.poll_shutdown(cx),
        }
    }

    /// Ready when a read may give bytes, FIN or an error; registers the waker otherwise. Looks at a
    /// flag, makes no system call.
    #[inline]
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_read_ready(cx),
            Socket::Unix(stream) => stream.poll_read_ready(cx),
            Socket::Tls(tls) => tls.poll_read_ready(cx),
        }
    }

    /// True when [`Socket::poll_read_ready`] is ready; registers nothing.
    pub fn is_read_ready(&self) -> bool {
        let nothing = || Ok(());
        match self {
            Socket::Tcp(stream) => stream.try_io(Interest::READABLE, nothing),
            Socket::Unix(stream) => stream.try_io(Interest::READABLE, nothing),
            Socket::Tls(tls) => return tls.is_read_ready(),
        }
        .is_ok()
    }

    /// True if the peer's FIN or reset has arrived, also behind bytes that are not read yet. Looks
    /// at a flag that is only as new as the last event; registers nothing.
    pub fn is_read_closed(&self) -> bool {
        if let Socket::Tls(tls) = self {
            return tls.is_read_closed();
        }
        self.readiness(Interest::READABLE).is_read_closed()
    }

    /// As [`Socket::is_read_closed`], but not for a FIN alone: nothing that we write arrives.
    pub fn is_broken(&self) -> bool {
        if let Socket::Tls(tls) = self {
            return tls.is_broken();
        }
        self.readiness(Interest::WRITABLE).is_write_closed()
    }

    /// Makes the coming close a reset: the peer must see that something was cut off.
    pub fn reset_on_close(&self) {
        match self {
            // Fails only on a socket that is broken already.
            Socket::Tcp(stream) => drop(stream.set_zero_linger()),
            Socket::Unix(_) => {}
            Socket::Tls(tls) => tls.reset_on_close(),
        }
    }

    fn readiness(&self, interest: Interest) -> Ready {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = match self {
            Socket::Tcp(stream) => pin!(stream.ready(interest)).poll(&mut cx),
            Socket::Unix(stream) => pin!(stream.ready(interest)).poll(&mut cx),
            Socket::Tls(tls) => return tls.raw().readiness(interest),
        };
        match ready {
            Poll::Ready(Ok(ready)) => ready,
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    }

    /// One call for up to `whole` bytes, if the flag says that it may succeed.
    #[inline(always)]
    fn try_io(
        &self,
        interest: Interest,
        whole: usize,
        call: impl FnOnce() -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let mut short = None;
        let call = || {
            let count = call()?;
            if 0 < count && count < whole {
                short = Some(count);
                // What tokio takes this for is right for the next call: it clears the flag.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        };
        let result = match self {
            Socket::Tcp(stream) => stream.try_io(interest, call),
            Socket::Unix(stream) => stream.try_io(interest, call),
            // Its own calls are made on the socket below.
            Socket::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        short.map_or(result, Ok)
    }

    /// Its number.
    pub fn descriptor(&self) -> RawFd {
        self.fd()
    }

    fn fd(&self) -> RawFd {
        match self {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
            Socket::Tls(tls) => tls.raw().fd(),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket::Tcp(stream)
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Socket::Unix(stream)
    }
}

/// For what brings its own loop around a stream. Each call takes a turn of tokio's budget, as those
/// of tokio's own sockets do.
impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let turn = ready!(coop::poll_proceed(cx));
        let count = ready!(Socket::poll_read(
            &mut self,
            cx,
            buffer.initialize_unfilled()
        ))?;
        turn.made_progress();
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let turn = ready!(coop::poll_proceed(cx));
        let count = ready!(Socket::poll_write(&mut self, cx, bytes))?;
        turn.made_progress();
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let turn = ready!(coop::poll_proceed(cx));
        let count = ready!(Socket::poll_write_vectored(&mut self, cx, slices))?;
        turn.made_progress();
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Socket::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Socket::poll_shutdown(&mut self, cx)
    }
}
