//! Which worker serves a fresh connection.
//!
//! The kernel spreads connections over the workers' sockets by a hash, which with few long-lived
//! connections can leave a worker idle. A worker clearly over its fair share hands a fresh
//! connection, before its first byte, to the least loaded one: connections move at most once,
//! requests never.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::acceptor::Detached;
use super::room::{Admitted, Room, Rooms};
use crate::config::model::BindAddress;
use crate::util::capacity::Capacity;
use crate::util::timer::{Rule, Timers};

/// Open connections of every worker.
///
/// Every worker writes its own number, and another's when it hands a connection over; everybody
/// reads. Relaxed is enough: a number that is out of date for a moment only moves a connection to
/// the second-best worker. [`Slot`]'s drop is `AcqRel` because a drain concludes from zero.
#[derive(Debug)]
pub struct Loads {
    workers: Box<[Load]>,
    /// Of all of them together.
    capacity: Arc<Capacity>,
    rooms: Rooms,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load {
    connections: AtomicUsize,
    /// The number fell to zero.
    empty: Notify,
}

/// One connection counted with one worker and its listener, from accept to close.
#[derive(Debug)]
pub struct Slot {
    room: Arc<Room>,
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
    pub fn new(workers: usize, capacity: Arc<Capacity>) -> Arc<Self> {
        Arc::new(Loads {
            workers: (0..workers).map(|_| Load::default()).collect(),
            capacity,
            rooms: Rooms::default(),
        })
    }

    pub(super) fn capacity(&self) -> &Capacity {
        &self.capacity
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

    fn count(&self, worker: usize) {
        self.workers[worker]
            .connections
            .fetch_add(1, Ordering::Relaxed);
    }

    fn discount(&self, worker: usize) {
        let load = &self.workers[worker];
        if load.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            load.empty.notify_one();
        }
    }
}

impl Slot {
    /// Counted with another worker from here on.
    fn move_to(&mut self, worker: usize) {
        let loads = self.room.loads();
        loads.count(worker);
        loads.discount(self.worker);
        self.worker = worker;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.room.loads().discount(self.worker);
        self.room.leave();
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

    pub fn capacity(&self) -> &Capacity {
        &self.loads.capacity
    }

    /// The listener's room that all workers share.
    pub fn room(&self, listener: &BindAddress) -> Arc<Room> {
        self.loads.rooms.of(listener, &self.loads)
    }

    /// The slot of a connection that was accepted here.
    pub fn slot(&self, room: &Arc<Room>, admitted: Admitted<'_>) -> Slot {
        admitted.keep();
        self.loads.count(self.worker);
        Slot {
            room: room.clone(),
            worker: self.worker,
        }
    }

    /// Where there is too much of everything, or of one listener's connections, this worker lets go
    /// of those of its own that are first in turn.
    pub fn relieve(&self, timers: &Timers, now: Instant) {
        self.relieve_all(timers, now);
        for room in self.loads.rooms.all() {
            self.relieve_room(timers, now, &room);
            room.tell_of_relief();
        }
    }

    /// Of one listener only.
    pub fn relieve_room(&self, timers: &Timers, now: Instant, room: &Room) {
        self.relieve_crowd(timers, now, room.capacity(), Some(room.number()));
    }

    /// Of the process.
    pub fn relieve_all(&self, timers: &Timers, now: Instant) {
        self.relieve_crowd(timers, now, &self.loads.capacity, None);
    }

    fn relieve_crowd(&self, timers: &Timers, now: Instant, of: &Capacity, crowd: Option<u16>) {
        let Some(excess) = of.excess() else {
            return;
        };
        let rule = Rule {
            crowd,
            min_rate: excess.min_rate,
            haste: excess.full,
        };
        let candidates = timers.candidates(now, rule);
        let me = (self.worker, self.workers.len());
        let count = candidates.count();
        let mine = of.census().share(now, me, count, excess.connections);
        timers.let_go(candidates, mine);
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
        fresh.slot.move_to(worker);
        self.workers[worker].send(fresh).map_err(|refused| {
            let mut fresh = refused.0;
            fresh.slot.move_to(self.worker);
            fresh
        })
    }
}

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

    #[tokio::test]
    async fn the_count_follows_the_slots_and_reports_zero() {
        let capacity = Arc::new(Capacity::default());
        capacity.set(2, 0);
        let loads = Loads::new(2, capacity.clone());
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let share = Share::new(loads.clone(), 0, vec![sender.clone(), sender]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peer = listener.local_addr().expect("bound");
        let room = share.room(&BindAddress::Tcp(peer));
        room.set(None, 0);
        let first = share.slot(&room, room.admit().expect("of two"));
        assert_eq!(share.better(), None, "one connection has no better place");
        let second = share.slot(&room, room.admit().expect("of two"));
        assert_eq!(share.better(), Some(1));

        let stream = std::net::TcpStream::connect(peer).expect("listening");
        let fresh = Fresh {
            stream: Detached::Tcp(stream),
            peer,
            listener: BindAddress::Tcp(peer),
            slot: second,
        };
        share.hand_over(1, fresh).expect("the worker is there");
        assert_eq!((loads.of(0), loads.of(1)), (1, 1), "counted where it goes");

        assert!(room.admit().is_err(), "counted once on its way");
        drop(receiver.recv().await);
        loads.empty(1).await;
        drop(first);
        loads.empty(0).await;
        assert_eq!(capacity.open(), 0);
    }
}
