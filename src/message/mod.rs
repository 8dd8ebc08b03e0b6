//! A request and a response as everything inside sees them: heads, bodies, nothing of any wire.
//!
//! `proxy`, `filter`, `router` and `telemetry` see only these types and never ask which protocol
//! they came from, except where the contract does. `wire` translates at its edge.
//!
//! - [`RequestHead`], [`ResponseHead`]: start line and [`Fields`]; received bytes with positions,
//!   edits as marks and an overlay, written out once.
//! - [`Downstream`]: what the client's side of an exchange offers while it is being answered.
//! - [`Body`]: what is pulled to answer it. The response body owns the exchange: pulling it also
//!   moves the request body upstream, so one task does both.
//! - [`Data`]: a piece of a body, a view into a scratch buffer of the worker.
//! - [`Pipe`]: a piece that stays in the kernel, between two plain sockets.

pub mod body;
pub mod data;
pub mod fields;
pub mod head;
pub mod known;
pub mod pipe;
pub mod scratch;

pub use body::{Abort, Body, BodyError, BodyStream, Downstream, Frame, Length, Tunnel};
pub(crate) use data::ChunkPosition;
pub use data::Data;
pub use fields::{Block, Fields};
pub use head::{Method, RequestHead, ResponseHead, Version};
pub use known::{Known, KnownSet};
pub use pipe::Pipe;
pub use scratch::{SCRATCH_BYTES, Scratch};
