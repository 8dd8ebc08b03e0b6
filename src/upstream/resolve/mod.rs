//! Servers given by name: where they are now.
//!
//! [`Addresses`] is what a server's connects and checks read; one task per name ([`spawn`])
//! refreshes it by the TTL of the answer. A failure keeps the last good answer, and a name that
//! never resolved fails the connects that need it, not the start.
//!
//! The address in use stays in use for as long as an answer contains it, whatever the order of
//! the answer: servers of names shuffle their answers, and connections that work are kept.

mod refresh;
mod system;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub use refresh::{Found, Lookup, spawn};
pub use system::SystemResolver;

/// The addresses of one server.
///
/// Written by the resolving task (answers) and by connects (which of several is in use); read by
/// every connect and check. An index that is out of step with the answer for a moment names
/// another address of the same server, so relaxed ordering is enough for it.
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

/// What an answer did to the server's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The same addresses, in whatever order.
    Same,
    /// The first answer, or another set that still contains the address in use.
    Updated,
    /// The address in use is gone: connections to it should end.
    Moved,
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

    /// The address in use; `None` while the name is not resolved.
    pub fn preferred(&self) -> Option<SocketAddr> {
        match &**self.answer.load() {
            Answer::Known(addresses) => {
                let index = self.preferred.load(Ordering::Relaxed) % addresses.len();
                addresses.get(index).copied()
            }
            _ => None,
        }
    }

    /// Why there is no address, for `/status`.
    pub fn failure(&self) -> Option<Arc<str>> {
        match &**self.answer.load() {
            Answer::Failed(cause) => Some(cause.clone()),
            _ => None,
        }
    }

    /// Waits for the first answer. `Err` is why there is none.
    pub async fn ready(&self) -> Result<(), Arc<str>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that an answer in between is not missed.
            changed.as_mut().enable();
            match &**self.answer.load() {
                Answer::Pending => {}
                Answer::Failed(cause) => return Err(cause.clone()),
                Answer::Known(_) => return Ok(()),
            }
            changed.await;
        }
    }

    /// Uses `address` from now on, if it still belongs to the server: others did not answer.
    pub fn prefer(&self, address: SocketAddr) {
        if let Answer::Known(addresses) = &**self.answer.load()
            && let Some(index) = addresses.iter().position(|known| *known == address)
        {
            self.preferred.store(index, Ordering::Relaxed);
        }
    }

    /// Takes over an answer; an empty one is a failure. Called by the resolving task only.
    pub fn publish(&self, addresses: &[SocketAddr]) -> Change {
        if addresses.is_empty() {
            self.fail("the answer has no address".into());
            return Change::Same;
        }
        let in_use = self.preferred();
        let before = self.list();
        let same = before.len() == addresses.len()
            && addresses.iter().all(|address| before.contains(address));
        if same {
            return Change::Same;
        }
        let kept = in_use.and_then(|address| addresses.iter().position(|new| *new == address));
        self.answer.store(Arc::new(Answer::Known(addresses.into())));
        self.preferred.store(kept.unwrap_or(0), Ordering::Relaxed);
        self.changed.notify_waiters();
        if in_use.is_some() && kept.is_none() {
            Change::Moved
        } else {
            Change::Updated
        }
    }

    /// No answer. The last good one stays.
    pub fn fail(&self, cause: Arc<str>) {
        if !matches!(**self.answer.load(), Answer::Known(_)) {
            self.answer.store(Arc::new(Answer::Failed(cause)));
            self.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn the_address_in_use_survives_a_shuffled_answer() {
        let addresses = Addresses::pending();
        assert_eq!(
            addresses.publish(&[address(1), address(2)]),
            Change::Updated
        );
        assert_eq!(addresses.publish(&[address(2), address(1)]), Change::Same);
        assert_eq!(
            addresses.publish(&[address(3), address(1)]),
            Change::Updated
        );
        assert_eq!(addresses.list(), [address(1), address(3)]);
    }

    #[test]
    fn an_answer_without_the_address_in_use_moves_the_server() {
        let addresses = Addresses::pending();
        addresses.publish(&[address(1), address(2)]);
        addresses.prefer(address(2));
        assert_eq!(addresses.publish(&[address(1)]), Change::Moved);
        assert_eq!(addresses.preferred(), Some(address(1)));
    }

    #[test]
    fn a_failure_keeps_the_last_good_answer() {
        let addresses = Addresses::pending();
        addresses.publish(&[address(1)]);
        addresses.fail("no such name".into());
        assert_eq!(addresses.list(), [address(1)]);
        assert_eq!(addresses.failure(), None);
    }

    #[tokio::test]
    async fn connects_wait_for_the_first_answer() {
        let addresses = Addresses::pending();
        let waiting = tokio::spawn({
            let addresses = addresses.clone();
            async move { addresses.ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "nothing is known yet");
        addresses.fail("no such name".into());
        assert_eq!(
            waiting.await.expect("does not panic"),
            Err("no such name".into())
        );
        addresses.publish(&[address(1)]);
        assert_eq!(addresses.ready().await, Ok(()));
    }
}
