//! Bodies that are pulled, and what the client's side of an exchange offers.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::message::{Data, Fields, Pipe, ResponseHead, SCRATCH_BYTES};

/// How long a body is, known before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Exactly this many bytes; 0 is no body.
    Exact(u64),
    /// Ends when it ends (chunked, or the connection's end).
    Unknown,
}

/// One step of a body.
#[derive(Debug)]
pub enum Frame {
    /// Never empty.
    Data(Data),
    /// Bytes that stay in the kernel; never empty, and only for one that takes pipes
    /// ([`BodyStream::take_pipes`]).
    Piped(Pipe),
    /// After the last data; followed by `End`.
    Trailers(Fields),
    /// Clean end. Pulling again gives `End` again.
    End,
}

/// Why a body broke off before its clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the peer closed or reset the connection before the end of the body")]
    Reset,
    #[error("the framing of the body is malformed")]
    Framing,
    #[error("no byte moved within the idle timeout")]
    IdleTimeout,
    #[error("the total timeout passed")]
    TotalTimeout,
    #[error("the body is larger than allowed")]
    TooLarge,
    /// We ended it: the other side failed, or we are stopping.
    #[error("the exchange was aborted")]
    Aborted,
}

/// A body that is pulled. Dropping it before its end breaks its own side off (h1: close), never
/// ends it cleanly.
pub trait BodyStream {
    fn length(&self) -> Length;

    /// The next frame. `Pending` registers the task's waker with whatever can move it on.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>>;

    /// The consumer can give [`Frame::Piped`] on: its peer is a plain socket, and the body is sent
    /// as it is.
    fn take_pipes(&mut self) {}

    /// For the consumer, while its own peer does not take the last frame: ready with the error
    /// that ends the exchange when its time is over (idle or total). `progressed` says that bytes
    /// moved since the last call, which restarts the idle clock. Default: never.
    fn poll_expired(&mut self, _cx: &mut Context<'_>, _progressed: bool) -> Poll<BodyError> {
        Poll::Pending
    }

    /// True while pulling this body also moves the request body: an answer may then begin before
    /// its request has ended, and the connection goes on after both.
    fn moves_request(&self) -> bool {
        false
    }

    /// True when the next frame is `End` and comes without I/O, so that the consumer may wait for
    /// it and send the last bytes together with the body's end. A hint: `false` is always right.
    fn at_end(&self) -> bool {
        false
    }

    /// For the consumer, while its own peer does not take the last frame, and after `End`: moves
    /// the request body on. `Ready` when nothing is left to move; an error breaks the exchange
    /// off. Called next to [`BodyStream::poll_expired`].
    fn poll_pump(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }
}

/// The client's side of one exchange: its request body, and the way to it before the answer.
///
/// One object per exchange, shared by `Rc`; all methods take `&self` and are called from the
/// connection's own task only.
pub trait Downstream {
    /// Of the request body.
    fn length(&self) -> Length;

    /// The next frame of the request body. The first pull sends `100 Continue` when the client
    /// expects it, unless an interim answer went already.
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>>;

    /// As [`BodyStream::at_end`].
    fn at_end(&self) -> bool {
        false
    }

    /// How many bytes of a body either side of the exchange may hold for a peer that does not
    /// read, and the size of one read.
    fn buffer_bytes(&self) -> usize {
        SCRATCH_BYTES
    }

    /// As [`BodyStream::take_pipes`], for the frames from now on.
    fn take_pipes(&self) {}

    /// Sends an interim answer (1xx other than 101). Silent where version or protocol cannot
    /// carry it. Ready when it is written or dropped.
    fn poll_interim(&self, cx: &mut Context<'_>, head: &ResponseHead) -> Poll<()>;

    /// Ready when the client has gone: reset, or FIN before its answer's end where the listener
    /// does not allow half-close. Call it while waiting for the upstream and nobody pulls the body;
    /// it reads a bounded part of it ahead and consumes none.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Abort>;
}

/// The client has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort;

/// Bytes both ways after an upgrade, with half-close: the upstream's side, as the downstream's
/// wire sees it. Deadlines and counts are the implementor's.
pub trait Tunnel {
    /// Up to `limit` bytes from the server; `Ok(None)` is its FIN.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Data>, BodyError>>;

    /// Writes some of `bytes` to the server.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, BodyError>>;

    /// Ready when all that was written is with the kernel: a write may leave bytes behind.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    /// For the downstream's wire, whenever it waits: ready when the tunnel's idle time is over.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<BodyError>;

    /// Passes on the client's FIN.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;
}

/// The body of a final answer.
pub enum Body {
    Empty,
    /// Made by us.
    Bytes(Bytes),
    /// All of a server's, and how long the client may take nothing of it.
    Whole(Data, Option<Duration>),
    Stream(Box<dyn BodyStream>),
    /// Only with 101 (or 200 to extended CONNECT).
    Tunnel(Box<dyn Tunnel>),
}

impl Body {
    pub fn length(&self) -> Length {
        match self {
            Body::Empty => Length::Exact(0),
            Body::Bytes(bytes) => Length::Exact(bytes.len() as u64),
            Body::Whole(data, _) => Length::Exact(data.payload() as u64),
            Body::Stream(stream) => stream.length(),
            Body::Tunnel(_) => Length::Unknown,
        }
    }
}

/// Body sizes are counted on the wire; `Debug` shows the kind only.
impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Body::Empty => "Empty",
            Body::Bytes(_) => "Bytes",
            Body::Whole(..) => "Whole",
            Body::Stream(_) => "Stream",
            Body::Tunnel(_) => "Tunnel",
        })
    }
}
