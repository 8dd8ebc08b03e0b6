//! One FIFO per upstream over all workers for requests that found every server full.
//!
//! A free slot belongs to the first waiter. Nobody reserves it: while somebody waits, newcomers go
//! to the end of the queue without looking at the servers, so whoever is woken finds the slot still
//! there. Handing over is three rules:
//!
//! 1. Whoever makes room wakes the first waiter that was not woken yet.
//! 2. A waiter that got a lease wakes the next one, if there is still room.
//! 3. A waiter that was woken and cannot use the room (its worker has no connection to that
//!    server), is dropped, or runs out of time, passes the wake-up to the one behind it.
//!
//! No wake-up is lost: a waiter first enters the queue (`length`), then looks at the servers; who
//! makes room first changes the server, then looks at `length`. Both are sequentially consistent,
//! so at least one of the two sees the other.
//!
//! The mutex guards the list only and is taken by nobody while the queue is empty.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::time::Instant;

use crate::upstream::common::Common;
use crate::upstream::lease::Lease;
use crate::upstream::pick::{Pick, Refused};
use crate::upstream::upstream::Upstream;
use crate::util::timer::Deadline;

/// The waiting requests of one upstream.
#[derive(Debug, Default)]
pub struct Queue {
    /// Of `list`; written under its lock, read by every pick and every release.
    length: AtomicUsize,
    list: Mutex<List>,
}

impl Queue {
    /// How many wait. Sequentially consistent: see the module.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes the first waiter that was not woken yet.
    pub fn wake_first(&self) {
        let waker = {
            let mut list = self.lock();
            let first = list.head;
            list.wake_from(first)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A place at the end, unless `size` wait already.
    fn enter(&self, size: usize) -> Option<usize> {
        let mut list = self.lock();
        if list.nodes.len() >= size {
            return None;
        }
        let place = list.push();
        self.length.store(list.nodes.len(), Ordering::SeqCst);
        drop(list);
        fence(Ordering::SeqCst);
        Some(place)
    }

    /// Leaves `waker` for the next wake-up; whether it was woken since the last look, and whether
    /// it is the first.
    fn look(&self, place: usize, waker: &Waker) -> (bool, bool) {
        let mut list = self.lock();
        let first = list.head == Some(place);
        let node = &mut list.nodes[place];
        match &mut node.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        let look = (std::mem::take(&mut node.woken), first);
        drop(list);
        // The look at the servers that follows is not done before the entry above is visible.
        fence(Ordering::SeqCst);
        look
    }

    /// Wakes the first one behind `place` that was not woken yet.
    fn pass_on(&self, place: usize) {
        let waker = {
            let mut list = self.lock();
            let next = list.nodes[place].next;
            list.wake_from(next)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether it was woken since its last look, or was the first and so the one that looks: then
    /// somebody else has to.
    fn leave(&self, place: usize) -> bool {
        let mut list = self.lock();
        let first = list.head == Some(place);
        let node = list.remove(place);
        self.length.store(list.nodes.len(), Ordering::SeqCst);
        node.woken || first
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A linked list in a slab: a waiter leaves from wherever it stands in constant time.
#[derive(Debug, Default)]
struct List {
    nodes: Slab<Node>,
    head: Option<usize>,
    tail: Option<usize>,
}

#[derive(Debug)]
struct Node {
    previous: Option<usize>,
    next: Option<usize>,
    waker: Option<Waker>,
    woken: bool,
}

impl List {
    fn push(&mut self) -> usize {
        let place = self.nodes.insert(Node {
            previous: self.tail,
            next: None,
            waker: None,
            woken: false,
        });
        match self.tail {
            Some(tail) => self.nodes[tail].next = Some(place),
            None => self.head = Some(place),
        }
        self.tail = Some(place);
        place
    }

    fn remove(&mut self, place: usize) -> Node {
        let node = self.nodes.remove(place);
        match node.previous {
            Some(previous) => self.nodes[previous].next = node.next,
            None => self.head = node.next,
        }
        match node.next {
            Some(next) => self.nodes[next].previous = node.previous,
            None => self.tail = node.previous,
        }
        node
    }

    fn wake_from(&mut self, mut at: Option<usize>) -> Option<Waker> {
        while let Some(place) = at {
            let node = &mut self.nodes[place];
            if !node.woken {
                node.woken = true;
                return node.waker.clone();
            }
            at = node.next;
        }
        None
    }
}

/// A place in an upstream's queue. Dropping it leaves the queue and passes on what it was handed.
pub struct Waiter {
    /// Of the generation that the request started under; the pick goes to its successor.
    upstream: Arc<Upstream>,
    common: Arc<Common>,
    /// `None` once it has left.
    place: Option<usize>,
    deadline: Deadline,
}

impl Waiter {
    /// Takes a place at the end, or `None` when `size` wait already.
    pub(super) fn enter(
        upstream: &Arc<Upstream>,
        size: usize,
        deadline: impl FnOnce() -> Deadline,
    ) -> Option<Waiter> {
        let common = upstream.common().clone();
        let place = common.queue().enter(size)?;
        Some(Waiter {
            upstream: upstream.clone(),
            common,
            place: Some(place),
            deadline: deadline(),
        })
    }

    /// Ready with a lease, or with why not: [`Refused::QueueTimeout`], or what changed meanwhile
    /// ([`Refused::CircuitOpen`], [`Refused::NoServer`]).
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pick: &mut Pick<'_>,
    ) -> Poll<Result<Lease, Refused>> {
        let Some(place) = self.place else {
            return Poll::Ready(Err(Refused::QueueTimeout { retry_after: 1 }));
        };
        let (woken, first) = self.common.queue().look(place, cx.waker());
        if (woken || first)
            && let Poll::Ready(result) = self.look(place, woken, pick)
        {
            return Poll::Ready(result);
        }
        if self.deadline.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        self.give_up();
        Poll::Ready(Err(Refused::QueueTimeout {
            retry_after: self.upstream.retry_after(Instant::now()),
        }))
    }

    fn look(
        &mut self,
        place: usize,
        woken: bool,
        pick: &mut Pick<'_>,
    ) -> Poll<Result<Lease, Refused>> {
        match self.upstream.pick_for_waiter(pick) {
            Ok(lease) => {
                self.leave();
                if self.upstream.has_room() {
                    self.common.queue().wake_first();
                }
                Poll::Ready(Ok(lease))
            }
            Err(Refused::Full) => {
                // Full for everybody, or only for this worker's connections?
                if woken && self.upstream.has_room() {
                    self.common.queue().pass_on(place);
                }
                Poll::Pending
            }
            Err(refused) => {
                self.leave();
                // What refuses this one refuses those behind it: let them know one by one.
                self.common.queue().wake_first();
                Poll::Ready(Err(refused))
            }
        }
    }

    /// Leaves; whether a wake-up was left over.
    fn leave(&mut self) -> bool {
        match self.place.take() {
            Some(place) => self.common.queue().leave(place),
            None => false,
        }
    }

    fn give_up(&mut self) {
        if self.leave() {
            self.common.queue().wake_first();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.give_up();
    }
}
