//! A stream after an extended CONNECT: bytes both ways, each side ending by itself (RFC 8441
//! section 5).

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use crate::wire::h2::client::exchange::Place;

/// Bytes of one write that are taken at once.
const PIECE: usize = 64 * 1024;

/// A stream that carries bytes. Dropping it resets what has not ended.
pub struct Tunnel {
    // In the order in which they go: the stream, then its place.
    receive: Option<RecvStream>,
    send: Option<SendStream<Bytes>>,
    early: Option<Bytes>,
    /// Bytes that were handed out and not yet taken.
    held: usize,
    place: Place,
}

impl Tunnel {
    pub(super) fn new(
        receive: Option<RecvStream>,
        send: Option<SendStream<Bytes>>,
        early: Option<Bytes>,
        place: Place,
    ) -> Self {
        Tunnel {
            receive,
            send,
            early,
            held: 0,
            place,
        }
    }

    /// The next bytes; `None` is the server's end of stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let held = std::mem::take(&mut self.held);
        let Some(receive) = &mut self.receive else {
            return Poll::Ready(Ok(None));
        };
        if held > 0 {
            // Fails only for more than came.
            let _ = receive.flow_control().release_capacity(held);
        }
        loop {
            let data = match self.early.take() {
                Some(early) => Some(Ok(early)),
                None => ready!(receive.poll_data(cx)),
            };
            match data {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.held = data.len();
                    return Poll::Ready(Ok(Some(data)));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Sends some of `bytes`, as far as the server's window reaches.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let wanted = bytes.len().min(PIECE);
        send.reserve_capacity(wanted);
        let mut room = send.capacity();
        if room == 0 {
            room = match ready!(send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
            };
        }
        let piece = bytes.get(..room.min(wanted)).unwrap_or(bytes);
        let sent = send.send_data(Bytes::copy_from_slice(piece), false);
        self.place.watch().sent(piece.len());
        Poll::Ready(sent.map(|()| piece.len()).map_err(io::Error::other))
    }

    /// Sends the end of stream; bytes can still be read.
    pub fn poll_shutdown(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Ok(()));
        };
        Poll::Ready(send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
