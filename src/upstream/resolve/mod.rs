//! Servers given by name: where they are now.
//!
//! One task per name ([`refresh`]) asks for it, by the TTL of the answer, and tells what it is
//! told ([`Says`]): the servers of the upstreams that name it follow (`upstream::seats`). A
//! failure keeps the last good answer, however long it lasts: a name server that is down, or a
//! zone that was emptied by mistake, must not take down what works. A name that never resolved
//! fails the requests that need it, not the start.

mod addresses;
mod names;
mod refresh;
mod srv;
mod system;

use std::net::SocketAddr;
use std::sync::Arc;

pub use addresses::Addresses;
pub use names::{NameView, Names};
pub use refresh::{Answer, Lookup, Trouble};
pub use system::SystemResolver;

/// What a source of servers says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// Nothing yet: requests wait, within their connect deadline.
    Pending,
    /// That there is no server; the cause, for people.
    Missing(Arc<str>),
    /// Never empty, by address, each once.
    Known(Box<[Told]>),
}

/// A server, as a source tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub at: SocketAddr,
    /// Of the weight of the entry, this part of the sum of all.
    pub weight: u32,
    pub backup: bool,
}

impl Told {
    /// By its address alone.
    pub fn plain(at: SocketAddr) -> Self {
        Told {
            at,
            weight: 1,
            backup: false,
        }
    }
}
