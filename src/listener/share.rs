//! Which worker serves a fresh connection.
//!
//! The kernel spreads connections over the workers' sockets by a hash, which with few long-lived
//! connections can leave a worker idle. A worker clearly over its fair share hands a fresh
//! connection, before its first byte, to the least loaded one: connections move at most once,
//! requests never.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::acceptor::Detached;
use crate::config::model::BindAddress;

/// Open connections of every worker.
///
/// Every worker writes its own number, and another's when it hands a connection over; everybody
/// reads. Relaxed is enough: a number that is out of date for a moment only moves a connection to
/// the second-best worker. [`Slot`]'s drop is `AcqRel` because a drain concludes from zero.
#[derive(Debug)]
pub struct Loads {
    workers: Box<[Load]>,
    /// Open connections of all of them together, at most.
    most: usize,
    /// Somebody waits at `most`. Only saves the wake-up where nobody does; who waits also looks
    /// again after a while, so relaxed is enough.
    full: AtomicBool,
    room: Notify,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load {
    connections: AtomicUsize,
    /// The number fell to zero.
    empty: Notify,
}

/// One connection counted with one worker, from accept to close.
#[derive(Debug)]
pub struct Slot {
    loads: Arc<Loads>,
    worker: usize,
}

/// A connection on its way to the worker that will serve it.
#[derive(Debug)]
pub struct Fresh {
    pub stream: Detached,
    pub peer: SocketAddr,
    /// The configured address of its listener.
    pub listener: BindAddress,
    pub slot: Slot,
}

/// One worker's view of the others.
#[derive(Debug)]
pub struct Share {
    loads: Arc<Loads>,
    worker: usize,
    workers: Vec<UnboundedSender<Fresh>>,
}

impl Loads {
    pub fn new(workers: usize) -> Arc<Self> {
        // Unknown: as if there were no limit, which accepting finds out soon enough.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Arc::new(Loads {
            workers: (0..workers).map(|_| Load::default()).collect(),
            most: most_connections(descriptors, workers),
            full: AtomicBool::new(false),
            room: Notify::new(),
        })
    }

    pub fn of(&self, worker: usize) -> usize {
        self.workers[worker].connections.load(Ordering::Acquire)
    }

    pub fn total(&self) -> usize {
        (0..self.workers.len()).map(|worker| self.of(worker)).sum()
    }

    /// Waits until `worker` has no connection.
    pub async fn empty(&self, worker: usize) {
        while self.of(worker) > 0 {
            self.workers[worker].empty.notified().await;
        }
    }

    fn take(self: &Arc<Self>, worker: usize) -> Slot {
        self.workers[worker]
            .connections
            .fetch_add(1, Ordering::Relaxed);
        Slot {
            loads: self.clone(),
            worker,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let load = &self.loads.workers[self.worker];
        if load.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            load.empty.notify_one();
        }
        if self.loads.full.load(Ordering::Relaxed) && self.loads.full.swap(false, Ordering::Relaxed)
        {
            self.loads.room.notify_waiters();
        }
    }
}

impl Share {
    /// `workers`: the mailboxes of all, this one's included.
    pub fn new(loads: Arc<Loads>, worker: usize, workers: Vec<UnboundedSender<Fresh>>) -> Self {
        Share {
            loads,
            worker,
            workers,
        }
    }

    /// A slot for a connection that was accepted here.
    pub fn slot(&self) -> Slot {
        self.loads.take(self.worker)
    }

    /// A descriptor may be spent on one more connection.
    pub fn has_room(&self) -> bool {
        self.loads.total() < self.loads.most
    }

    /// Returns when that may have become true.
    pub async fn room(&self) {
        let made = self.loads.room.notified();
        self.loads.full.store(true, Ordering::Relaxed);
        if !self.has_room() {
            // Fails when it is time to look again.
            let _ = tokio::time::timeout(LOOK_AGAIN, made).await;
        }
    }

    /// The worker that a fresh connection, already counted here, should move to.
    pub fn better(&self) -> Option<usize> {
        let mine = self.loads.of(self.worker);
        // Nothing can be clearly less loaded than two.
        if mine < 2 {
            return None;
        }
        let (worker, least) = (0..self.workers.len())
            .map(|worker| (worker, self.loads.of(worker)))
            .min_by_key(|(_, load)| *load)?;
        clearly_over(mine, least).then_some(worker)
    }

    /// Hands `fresh` to `worker`; back when that one has ended.
    pub fn hand_over(&self, worker: usize, mut fresh: Fresh) -> Result<(), Fresh> {
        fresh.slot = self.loads.take(worker);
        self.workers[worker].send(fresh).map_err(|refused| {
            let mut fresh = refused.0;
            fresh.slot = self.slot();
            fresh
        })
    }
}

/// Clients must not take the descriptors that their requests need: those already in would be
/// failed for the sake of those that wait. A quarter is for servers, files and the admin listener;
/// so is what a process has open anyway.
fn most_connections(descriptors: u64, workers: usize) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let own = 24 + 4 * workers;
    descriptors
        .saturating_sub(descriptors / 4)
        .saturating_sub(own)
        .max(FEWEST)
}

/// In case that room was made between the last look and the wait for it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Even with hardly a descriptor somebody is served.
const FEWEST: usize = 8;

/// One connection more would be no gain; an eighth is noise that a move costs more than it gains.
fn clearly_over(mine: usize, least: usize) -> bool {
    mine > least + 1 + least / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_move_nothing() {
        assert!(!clearly_over(1, 0));
        assert!(clearly_over(2, 0));
        assert!(!clearly_over(9, 8));
        assert!(!clearly_over(112, 99));
        assert!(clearly_over(113, 99));
    }

    #[test]
    fn descriptors_are_left_for_servers() {
        assert_eq!(most_connections(100, 2), 43);
        assert_eq!(most_connections(1024, 4), 728);
        assert_eq!(most_connections(16, 2), FEWEST);
        assert!(most_connections(u64::MAX, 2) > 1 << 40);
    }

    #[tokio::test]
    async fn the_count_follows_the_slots_and_reports_zero() {
        let loads = Loads::new(2);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let share = Share::new(loads.clone(), 0, vec![sender.clone(), sender]);
        let first = share.slot();
        assert_eq!(share.better(), None, "one connection has no better place");
        let second = share.slot();
        assert_eq!(share.better(), Some(1));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = listener.local_addr().expect("bound");
        let stream = std::net::TcpStream::connect(peer).expect("listening");
        let fresh = Fresh {
            stream: Detached::Tcp(stream),
            peer,
            listener: BindAddress::Tcp(peer),
            slot: second,
        };
        share.hand_over(1, fresh).expect("the worker is there");
        assert_eq!((loads.of(0), loads.of(1)), (1, 1), "counted where it goes");

        drop(receiver.recv().await);
        loads.empty(1).await;
        drop(first);
        loads.empty(0).await;
    }
}
