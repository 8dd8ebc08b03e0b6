//! Servers given by name: where they are now.
//!
//! [`Addresses`] is what a server's connects and checks read; one task per name refreshes it by
//! the TTL of the answer. A failure keeps the last good answer, and a name that never resolved
//! fails the connects that need it, not the start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

/// The addresses of one server.
///
/// Written by the resolving task (answers) and by connects (which of several is in use); read by
/// every connect and check. The two are independent, so relaxed ordering is enough for the index.
#[derive(Debug)]
pub struct Addresses {
    answer: ArcSwap<Answer>,
    /// Of the answer's addresses, the one in use; taken modulo their number.
    preferred: AtomicUsize,
    changed: Notify,
}

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// Not asked yet: connects wait, within their deadline.
    Pending,
    /// Never resolved; the cause, for messages.
    Failed(Arc<str>),
    /// Never empty.
    Known(Arc<[SocketAddr]>),
}

impl Addresses {
    /// Of a server given by its IP address: known for good.
    pub fn fixed(address: SocketAddr) -> Arc<Self> {
        Self::new(Answer::Known(Arc::from([address])))
    }

    /// Of a server given by name: connects wait for the first answer.
    pub fn pending() -> Arc<Self> {
        Self::new(Answer::Pending)
    }

    fn new(answer: Answer) -> Arc<Self> {
        Arc::new(Addresses {
            answer: ArcSwap::from_pointee(answer),
            preferred: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// All addresses, the one in use first; empty while the name is not resolved.
    pub fn list(&self) -> Vec<SocketAddr> {
        match &**self.answer.load() {
            Answer::Known(addresses) => {
                let mut list = addresses.to_vec();
                list.rotate_left(self.preferred.load(Ordering::Relaxed) % addresses.len());
                list
            }
            _ => Vec::new(),
        }
    }
}
