//! HTTP/2 by the crate `h2`: frames, HPACK and stream states are its, everything that costs
//! somebody else something is ours to steer.
//!
//! Only this module names `h2` and `http::HeaderMap`: heads are translated at this edge
//! ([`heads`]), bodies are the frames and windows of `h2` behind the traits of
//! [`crate::message`]. The library has no limit on what a peer may make it do for nothing
//! (RFC 9113 section 10.5) and no clock, so a [`guard`] counts the frames as they pass, and the
//! deadlines are kept outside.

mod blocks;
pub mod client;
mod guard;
mod heads;
mod huffman;
mod io;
pub mod server;

pub use server::{Serve, serve};
