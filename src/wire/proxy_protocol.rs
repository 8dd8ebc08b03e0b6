//! The PROXY protocol, versions 1 and 2 (haproxy's doc/proxy-protocol.txt): who the client is, said
//! by a proxy in front of us before the first byte of the connection itself.
//!
//! A listener either requires it or knows nothing of it, because a header that may be there or not
//! is one that any client may write. It is read whole before anything else is looked at, in however
//! many segments it comes; the bytes after it belong to what follows and stay in the socket. What
//! is not exactly a header ends the connection at the first byte that cannot be part of one: there
//! is nobody to answer, because the other side is a proxy that speaks something else.
//!
//! Version 1 is one line of at most 107 bytes; version 2 is binary, of at most 536 bytes here (what
//! every path takes in one segment, section 2.2), which leaves 484 bytes of extensions after IPv6
//! addresses. The length field bounds everything: an extension that would reach past it is
//! malformed, not followed into the stream (CVE-2026-47692).

mod binary;
mod text;

use std::net::SocketAddr;

pub use binary::{local_v2, proxied_v2};
pub use text::{proxied_v1, unknown_v1};

/// No header is longer.
pub const MAX_BYTES: usize = 536;

/// Whom a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoints {
    /// Nobody but the peer itself: LOCAL, UNKNOWN, and families that are no internet address.
    Real,
    Proxied {
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
}

/// Why the bytes are not a header, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// The header at the beginning of `bytes` and its length. `None`: all of `bytes` belong to a header
/// that goes on; never for [`MAX_BYTES`] or more.
pub fn parse(bytes: &[u8]) -> Result<Option<(Endpoints, usize)>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => text::parse(bytes),
        Some(b'\r') => binary::parse(bytes),
        Some(_) => Err(Malformed("no PROXY header")),
    }
}

/// True while `bytes` are as `whole` begins, as far as they go.
fn begins(bytes: &[u8], whole: &[u8]) -> bool {
    let common = bytes.len().min(whole.len());
    bytes[..common] == whole[..common]
}

#[cfg(test)]
mod tests;
