//! A socket that speaks TLS, with the ways of [`Socket`].
//!
//! Ciphertext is read into and written from scratch buffers of the worker; between two calls there
//! is only what cannot be helped: the bytes of an incomplete record, plaintext that the caller had
//! no room for, ciphertext that the socket did not take. An idle connection has none of the three.
//!
//! A peer that sends records but no data with them (key updates, tickets, empty ones) is cut after
//! [`BARREN`] bytes; rustls has bounds of its own for most of these.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use rustls::{CommonState, ProtocolVersion};

use crate::message::Scratch;
use crate::tls::hello::{self, Hello};
use crate::wire::io::Socket;
use crate::wire::tls::session::{OVERHEAD, RECORD, SEALED_BYTES, Session};

/// Bytes that may come without any data in them: no handshake message is larger than 64 KiB.
const BARREN: u32 = 96 * 1024;
/// Less is not asked of a socket in one read: one record.
const READ: usize = RECORD + OVERHEAD;
/// Ciphertext that waits and is small enough to go in front of more.
const JOINED: usize = 8 * 1024;

thread_local! {
    /// Where records are put together that lie in pieces.
    static STAGING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// See the module.
pub struct TlsSocket {
    raw: Socket,
    session: Session,
    /// The beginning of a record whose end has not come.
    rest: Vec<u8>,
    /// Decrypted, not taken yet.
    plain: Waiting,
    /// Encrypted, not sent yet.
    pending: Waiting,
    /// Bytes since the last data.
    barren: u32,
    begun: bool,
    inward: Inward,
    outward: Outward,
    /// Something was written after the peer's end had come: it waits for ours.
    answered_end: bool,
    /// No goodbye: the peer is to see that something was cut off.
    cut: Cell<bool>,
    /// What the client's hello made the certificate resolver note, until it is asked for.
    pub(super) hello: Option<Hello>,
}

/// Bytes that leave from the front.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    start: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inward {
    Open,
    /// `close_notify` has come.
    Closed,
    /// What is told after the data that came before it.
    Failed(io::ErrorKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outward {
    Open,
    /// What is pending waits for the first write, to go out with it: a server's tickets until then,
    /// a client's Finished no longer than until it waits.
    Lazy,
    /// `close_notify` is sealed, or an alert.
    Closed,
    /// FIN is sent.
    Shut,
}

/// Why a TLS connection broke.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// FIN without `close_notify`: whatever ends here may have been cut (RFC 8446 section 6.1).
    #[error("the connection ended without close_notify")]
    Truncated,
    #[error("the peer sends TLS records without data")]
    Barren,
}

impl Broken {
    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Broken::Io(error) => error.kind(),
            Broken::Tls(_) | Broken::Barren => io::ErrorKind::InvalidData,
            Broken::Truncated => io::ErrorKind::UnexpectedEof,
        }
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(error) => error,
            broken => io::Error::new(broken.kind(), broken),
        }
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            // As large as what is in it.
            (self.bytes, self.start) = (bytes.to_vec(), 0);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            *self = Waiting::default();
        }
    }
}

impl TlsSocket {
    pub(super) fn new(raw: Socket, session: Session) -> Box<Self> {
        Box::new(TlsSocket {
            raw,
            session,
            rest: Vec::new(),
            plain: Waiting::default(),
            pending: Waiting::default(),
            barren: 0,
            begun: false,
            inward: Inward::Open,
            outward: Outward::Open,
            answered_end: false,
            cut: Cell::new(false),
            hello: None,
        })
    }

    /// The socket below.
    pub fn raw(&self) -> &Socket {
        &self.raw
    }

    pub(super) fn raw_mut(&mut self) -> &mut Socket {
        &mut self.raw
    }

    /// Bytes of memory in buffers of its own.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.rest.capacity() + self.plain.bytes.capacity() + self.pending.bytes.capacity()
    }

    /// Bytes of the handshake have come.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// What is pending goes out with the first write, or before the first wait.
    pub(super) fn is_lazy(&self) -> bool {
        self.outward == Outward::Lazy
    }

    pub(super) fn common(&self) -> &CommonState {
        self.session.common()
    }

    /// As [`Socket::try_read`].
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.plain.is_empty() {
                let waiting = self.plain.bytes();
                let count = waiting.len().min(buffer.len());
                buffer[..count].copy_from_slice(&waiting[..count]);
                self.plain.consume(count);
                return Ok(count);
            }
            match self.inward {
                Inward::Open => {}
                Inward::Closed => return Ok(0),
                Inward::Failed(kind) => return Err(kind.into()),
            }
            match self.receive(buffer) {
                Ok(0) => {}
                Ok(count) => return Ok(count),
                Err(Broken::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.before_waiting();
                    return Err(error);
                }
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// One read of the socket and all that it completes, into `buffer` first. The bytes in there:
    /// there may be none.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        if !self.raw.is_read_ready() {
            return Err(Broken::Io(io::ErrorKind::WouldBlock.into()));
        }
        let mut scratch = Scratch::take();
        let kept = self.rest.len();
        let most = (kept + buffer.len().max(READ)).min(scratch.len());
        if kept + OVERHEAD >= most {
            return Err(self.failed(Broken::Barren));
        }
        scratch[..kept].copy_from_slice(&self.rest);
        match self.raw.try_read(&mut scratch[kept..most]) {
            Ok(0) => Err(self.failed(Broken::Truncated)),
            Ok(count) => {
                self.barren = self.barren.saturating_add(count as u32);
                self.process(&mut scratch[..kept + count], buffer)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Broken::Io(error)),
            Err(error) => Err(self.failed(Broken::Io(error))),
        }
    }

    /// Decrypts what is whole of `incoming`.
    pub(super) fn process(
        &mut self,
        incoming: &mut [u8],
        buffer: &mut [u8],
    ) -> Result<usize, Broken> {
        self.begun = true;
        let mut taken = 0;
        let was_handshaking = self.common().is_handshaking();
        let plain = &mut self.plain;
        let mut control = Vec::new();
        let opened = self.session.open(incoming, &mut control, &mut |data| {
            let count = data.len().min(buffer.len() - taken);
            buffer[taken..taken + count].copy_from_slice(&data[..count]);
            taken += count;
            if count < data.len() {
                plain.push(&data[count..]);
            }
        });
        if was_handshaking && let Some(hello) = hello::take() {
            self.hello = Some(hello);
        }
        if taken > 0 || !self.plain.is_empty() {
            self.barren = 0;
        }
        if !control.is_empty() {
            self.pending.push(&control);
            if was_handshaking && opened.is_ok() && self.finishes_alone() {
                self.outward = Outward::Lazy;
            } else {
                self.send_pending();
            }
        }
        match opened {
            Ok(progress) if progress.closed => {
                self.inward = Inward::Closed;
                self.rest = Vec::new();
            }
            Ok(_) if self.barren > BARREN => return Err(self.failed(Broken::Barren)),
            Ok(progress) => {
                self.rest = incoming.get(progress.consumed..).unwrap_or(&[]).to_vec();
            }
            Err(error) => {
                self.outward = Outward::Closed;
                let failed = self.failed(Broken::Tls(error));
                if taken == 0 {
                    return Err(failed);
                }
            }
        }
        Ok(taken)
    }

    fn failed(&mut self, broken: Broken) -> Broken {
        self.inward = Inward::Failed(broken.kind());
        self.rest = Vec::new();
        broken
    }

    /// As [`Socket::poll_write_vectored`]; what the socket does not take of it is sent by the next
    /// call, or by [`TlsSocket::poll_flush`].
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let waits = self.pending.bytes().len();
        let joins = self.outward == Outward::Lazy && waits <= JOINED;
        if waits > 0 && !joins {
            ready!(self.poll_flush(cx))?;
        }
        if !matches!(self.outward, Outward::Open | Outward::Lazy) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut scratch = Scratch::take();
        let front = if joins { waits } else { 0 };
        scratch[..front].copy_from_slice(&self.pending.bytes()[..front]);
        let sealed = STAGING.with_borrow_mut(|staging| {
            let out = &mut scratch[front..];
            self.session.seal(&mut self.rest, slices, staging, out)
        });
        let (taken, length) = match sealed {
            Ok((0, _)) if slices.iter().any(|slice| !slice.is_empty()) => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            Ok(sealed) => sealed,
            Err(error) => {
                self.outward = Outward::Closed;
                return Poll::Ready(Err(self.failed(Broken::Tls(error)).into()));
            }
        };
        self.answered_end = self.inward == Inward::Closed;
        if joins {
            self.outward = Outward::Open;
            self.pending = Waiting::default();
        }
        self.send(&scratch[..front + length])?;
        Poll::Ready(Ok(taken))
    }

    /// Nothing is left that was written; what may wait for a write does not count.
    pub fn is_flushed(&self) -> bool {
        self.pending.is_empty() || self.outward == Outward::Lazy
    }

    /// Ready when nothing is left that was written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_send_pending(cx)
    }

    fn poll_send_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let sent = ready!(self.raw.poll_write(cx, self.pending.bytes()));
            match sent {
                Ok(count) => self.pending.consume(count),
                Err(error) => {
                    self.pending = Waiting::default();
                    return Poll::Ready(Err(error));
                }
            }
        }
        if self.outward == Outward::Lazy {
            self.outward = Outward::Open;
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Socket::poll_shutdown`]: `close_notify`, then FIN.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.outward, Outward::Open | Outward::Lazy) {
            ready!(self.poll_flush(cx))?;
            self.say_goodbye();
        }
        ready!(self.poll_flush(cx))?;
        if self.outward == Outward::Shut {
            return Poll::Ready(Ok(()));
        }
        ready!(self.raw.poll_shutdown(cx))?;
        self.outward = Outward::Shut;
        Poll::Ready(Ok(()))
    }

    /// A server that speaks first does so only after our Finished.
    fn before_waiting(&mut self) {
        if self.outward == Outward::Lazy && self.session.is_client() {
            self.send_pending();
        }
    }

    /// The handshake is over, and the peer waits for nothing of what it gave last: in TLS 1.3 the
    /// client's Finished, or the server's tickets.
    fn finishes_alone(&self) -> bool {
        let common = self.common();
        !common.is_handshaking() && common.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// See [`TlsSocket::process`]: what the handshake wants to send is sent with what follows.
    fn send_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if self.outward == Outward::Lazy {
            self.outward = Outward::Open;
        }
        // An error comes again where it can be told.
        let _ = self.send(pending.bytes());
    }

    /// Sends what goes now; the rest is pending.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.raw.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending.push(bytes);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Nothing is pending: seals `close_notify` and sends it as far as that goes.
    fn say_goodbye(&mut self) {
        self.outward = Outward::Closed;
        let mut control = Vec::new();
        let closed = self.session.close(&mut self.rest, &mut control);
        if closed.is_ok() {
            let _ = self.send(&control);
        }
    }

    /// As [`Socket::poll_read_ready`].
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_read() {
            return Poll::Ready(Ok(()));
        }
        let ready = self.raw.poll_read_ready(cx);
        if ready.is_pending() {
            self.before_waiting();
        }
        ready
    }

    /// As [`Socket::is_read_ready`].
    pub fn is_read_ready(&self) -> bool {
        self.has_read() || self.raw.is_read_ready()
    }

    /// A read gives something without the socket.
    fn has_read(&self) -> bool {
        !self.plain.is_empty() || self.inward != Inward::Open
    }

    /// As [`Socket::is_read_closed`].
    pub fn is_read_closed(&self) -> bool {
        self.inward != Inward::Open || self.raw.is_read_closed()
    }

    /// As [`Socket::is_broken`].
    pub fn is_broken(&self) -> bool {
        matches!(self.inward, Inward::Failed(_)) || self.raw.is_broken()
    }

    /// As [`Socket::reset_on_close`].
    pub fn reset_on_close(&self) {
        self.cut.set(true);
        self.raw.reset_on_close();
    }
}

impl Drop for TlsSocket {
    /// A body that only the connection's end marks must not look cut off (RFC 9112 section 9.8);
    /// whoever has closed first hears nothing more.
    fn drop(&mut self) {
        let waits = match self.inward {
            Inward::Open => !self.common().is_handshaking(),
            Inward::Closed => self.answered_end,
            Inward::Failed(_) => false,
        };
        if self.outward == Outward::Lazy {
            self.send_pending();
        }
        let open = self.outward == Outward::Open && self.pending.is_empty();
        if waits && open && !self.cut.get() {
            self.say_goodbye();
        }
    }
}

impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsSocket").field(&self.raw).finish()
    }
}

const _: () = assert!(SEALED_BYTES + JOINED <= crate::message::SCRATCH_BYTES);
