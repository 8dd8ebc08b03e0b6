//! What a client's hello named, on its way from the certificate resolver to whoever drives the
//! handshake.
//!
//! rustls' unbuffered connection does not give the server name away, and only the resolver sees
//! it. It is called while the handshake's own thread processes bytes, once per handshake, a
//! resumed one too: so it leaves a note, and who called takes it right after.

use std::cell::RefCell;

/// What the resolver saw and chose.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The name in SNI, in lower case; addresses are not names (RFC 6066 section 3).
    pub server_name: Option<Box<str>>,
    /// The certificate that it chose: its place in the listener's list.
    pub certificate: Option<usize>,
}

thread_local! {
    static NOTE: RefCell<Option<Hello>> = const { RefCell::new(None) };
}

/// By the resolver.
pub fn note(hello: Hello) {
    NOTE.set(Some(hello));
}

/// By whoever processed the bytes: what they made the resolver note.
pub fn take() -> Option<Hello> {
    NOTE.take()
}
