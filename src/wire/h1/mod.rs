//! HTTP/1.1 of our own: strict, one task per downstream connection, no buffer while idle.

pub mod client;
pub mod server;

pub use server::{Ended, serve};
