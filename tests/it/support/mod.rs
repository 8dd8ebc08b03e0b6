//! Scriptable origins, raw clients and a proxy on port 0: blocking sockets and plain threads, so
//! that a test reads from top to bottom. Nothing here sleeps for a fixed time to be right; what is
//! awaited has a deadline.
#![expect(dead_code, reason = "each behaviour uses its own part of the helpers")]

pub mod app;
pub mod chain;
pub mod child;
pub mod client;
pub mod dns;
pub mod frames;
pub mod h2;
pub mod h2_origin;
pub mod mutation;
pub mod origin;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod reference;
pub mod relay;
pub mod tls;
pub mod tls_front;
pub mod tls_origin;
pub mod wait;

pub use app::{ONE_WORKER, app, app_with, balances, count};
pub use child::ChildOrigin;
pub use client::{Client, Response};
pub use dns::{Dns, Manner};
pub use h2_origin::H2Origin;
pub use origin::{Connection, Origin, Received};
pub use process::{Process, Said, evenkeel, says};
pub use proxy::Proxy;
pub use relay::Relay;
pub use tls_front::TlsFront;
pub use wait::{DEADLINE, Rounds, eventually, value_within};
