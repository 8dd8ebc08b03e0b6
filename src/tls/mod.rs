//! What a listener shows of itself over TLS: certificates, sessions, what it demands of clients.
//!
//! The bytes are `wire`'s; here are the rules that a handshake follows. All of it is made while a
//! configuration is loaded, so that whatever is wrong with a file is found before it is in use.

mod certificate;
mod client;
pub mod hello;
mod names;
mod terms;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use certificate::{Certificate, Fault, FileError, authorities, certificates};
pub use client::{ClientDraft, ClientTerms, Secure, Trust};
pub use names::Names;
pub use terms::{Admission, Draft, Terms, Version};

/// The one that all connections of the process use: AWS-LC, post-quantum key exchange preferred.
/// Always given explicitly: a library that enables another provider must not change ours.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}
