//! HTTP/1.1 of our own: strict, one task per downstream connection, no buffer while idle.

mod chunked;
pub mod client;
pub(super) mod date;
pub(in crate::wire) mod field_lines;
pub(super) mod framing;
mod head_write;
mod inbound;
mod outbound;
mod parse;
mod piping;
mod reader;
pub mod server;
#[cfg(test)]
mod tests;
mod whole;

pub use server::{Ended, LAST_REQUEST_GRACE, Serve, serve};
pub use whole::{Unreadable, read};
