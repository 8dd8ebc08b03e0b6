//! What a listener shows of itself over TLS: certificates, sessions, what it demands of clients.
//!
//! The bytes are `wire`'s; here are the rules that a handshake follows.

pub mod hello;
