//! TLS on a connected socket, either side of it: the handshake, then a [`Socket`] like any other.
//!
//! Both are rustls' unbuffered interface ([`session`]) around our own reads and writes
//! ([`socket`]), so that an idle connection holds no buffer and bytes pass through the worker's
//! scratch buffers.

mod error;
mod session;
mod socket;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use crate::message::Scratch;
use crate::wire::io::Socket;

use session::Session;

pub use error::{Cause, TlsError};
pub use socket::{Broken, TlsSocket};

/// What a handshake agreed on.
#[derive(Debug, Clone, Default)]
pub struct Handshaken {
    /// The protocol chosen by ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// Of the client's hello, in lower case.
    pub server_name: Option<Box<str>>,
    /// Which of the listener's certificates was shown: its place in the list.
    pub certificate: Option<usize>,
    /// The peer's own certificate, verified, in DER.
    pub peer_certificate: Option<Box<[u8]>>,
    /// An earlier session was taken up again.
    pub resumed: bool,
}

/// What a client that speaks plain HTTP to a TLS port is told.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    cache-control: no-store\r\n\
    x-evenkeel-reason: bad_request\r\n\
    connection: close\r\n\
    content-length: 60\r\n\
    \r\n\
    This port speaks HTTPS, and the request came as plain HTTP.\n";

/// The server's side. Without a time limit of its own: whoever polls it has one.
///
/// # Errors
///
/// A client that cannot or must not come in; it has been told by an alert, and one that speaks
/// plain HTTP by an answer.
pub async fn accept(
    socket: Socket,
    config: Arc<ServerConfig>,
) -> Result<(Socket, Handshaken), TlsError> {
    let mut tls = TlsSocket::new(socket, Session::server(config)?);
    let shaken = poll_fn(|cx| poll_accept(&mut tls, cx)).await;
    if let Err(TlsError::PlainHttp) = &shaken {
        answer_plain(&mut tls).await;
    }
    let handshaken = shaken?;
    Ok((Socket::Tls(tls), handshaken))
}

/// The client's side; `name` is what the server's certificate must be for.
///
/// # Errors
///
/// A server that cannot be spoken to or is not trusted; it has been told by an alert.
pub async fn connect(
    socket: Socket,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(Socket, Handshaken), TlsError> {
    let mut tls = TlsSocket::new(socket, Session::client(config, name)?);
    // It speaks first.
    tls.process(&mut [], &mut [])?;
    let handshaken = poll_fn(|cx| poll_handshake(&mut tls, cx)).await?;
    Ok((Socket::Tls(tls), handshaken))
}

fn poll_accept(tls: &mut TlsSocket, cx: &mut Context<'_>) -> Poll<Result<Handshaken, TlsError>> {
    if !tls.has_begun() {
        ready!(poll_first(tls, cx))?;
    }
    poll_handshake(tls, cx)
}

/// The first bytes say whether this is TLS at all: a record of it begins with a small number, a
/// request with a letter.
fn poll_first(tls: &mut TlsSocket, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
    let mut scratch = Scratch::take();
    let count = match ready!(tls.raw_mut().poll_read(cx, &mut scratch)) {
        Ok(0) => return Poll::Ready(Err(TlsError::Closed)),
        Ok(count) => count,
        Err(error) => return Poll::Ready(Err(TlsError::Io(error))),
    };
    if scratch[0].is_ascii_uppercase() {
        return Poll::Ready(Err(TlsError::PlainHttp));
    }
    tls.process(&mut scratch[..count], &mut [])?;
    Poll::Ready(Ok(()))
}

fn poll_handshake(tls: &mut TlsSocket, cx: &mut Context<'_>) -> Poll<Result<Handshaken, TlsError>> {
    while tls.common().is_handshaking() {
        ready!(tls.poll_flush(cx)).map_err(TlsError::Io)?;
        match tls.receive(&mut []) {
            Ok(_) => {}
            Err(Broken::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(tls.raw_mut().poll_read_ready(cx)).map_err(TlsError::Io)?;
            }
            Err(broken) => return Poll::Ready(Err(broken.into())),
        }
    }
    // What it ended with may be in the way of nobody: see [`TlsSocket`].
    if !tls.is_lazy() {
        ready!(tls.poll_flush(cx)).map_err(TlsError::Io)?;
    }
    Poll::Ready(Ok(handshaken(tls)))
}

fn handshaken(tls: &mut TlsSocket) -> Handshaken {
    let hello = tls.hello.take().unwrap_or_default();
    let common = tls.common();
    let peer = common.peer_certificates().and_then(<[_]>::first);
    Handshaken {
        alpn: common.alpn_protocol().map(Box::from),
        server_name: hello.server_name,
        certificate: hello.certificate,
        peer_certificate: peer.map(|certificate: &CertificateDer<'_>| Box::from(&certificate[..])),
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// As far as it goes at once: the answer is smaller than any socket's buffer.
async fn answer_plain(tls: &mut TlsSocket) {
    let raw = tls.raw_mut();
    if raw.try_write(PLAIN_HTTP).is_ok() {
        // What the client still sends is lost with the connection; its answer is not.
        let _ = poll_fn(|cx| raw.poll_shutdown(cx)).await;
    }
}

#[cfg(test)]
mod tests;
