//! The live state of upstreams: which servers take requests now, and what each is carrying.
//!
//! A request only reads one immutable [`ServerSet`], claims a [`Lease`] on one of its servers and
//! reports what came of it. Everything that needs a clock or an order of servers is done by one
//! task ([`control`]) that builds the next set aside and swaps it in.

pub mod breaker;
pub mod budget;
pub mod carried;
pub mod common;
pub mod concurrency;
pub mod connector;
pub mod control;
mod drain;
pub mod health;
mod knock;
pub mod lease;
pub mod limit;
pub mod overrides;
pub mod pick;
pub mod plan;
pub mod pool;
pub mod queue;
pub mod registry;
pub mod resolve;
pub mod roster;
mod rules;
mod seats;
mod secure;
pub mod server;
pub mod server_set;
pub mod slow_start;
mod sticky;
mod tasks;
#[cfg(test)]
mod testing;
#[expect(
    clippy::module_inception,
    reason = "the file is named for the type that it defines"
)]
pub mod upstream;
pub mod view;

pub use lease::{FailureKind, Lease};
pub use overrides::{Override, OverrideError};
pub use pick::{AnyConnection, Carry, Pick, Refused};
pub use queue::Waiter;
pub use registry::Registry;
pub use server::{Server, ServerId};
pub use server_set::ServerSet;
pub use sticky::Tag;
pub use upstream::Upstream;
