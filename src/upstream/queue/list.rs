//! Who waits, in their order: the list and its length. The rules of waking are in [`super`].

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use slab::Slab;

use crate::upstream::drain::{Drain, Newcomer, Outlook};

/// The waiting requests of one upstream.
#[derive(Debug, Default)]
#[repr(C)]
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

    /// A place at the end, unless as many wait already or it would be in vain.
    pub(super) fn enter(&self, newcomer: &Newcomer) -> Result<usize, Late> {
        let mut list = self.lock();
        let waiting = list.nodes.len();
        let outlook = list.drain.enters(newcomer, waiting);
        if waiting >= newcomer.size || outlook == Outlook::Late {
            let wait_ms = list.drain.wait_ms(waiting);
            return Err(Late { wait_ms });
        }
        let place = list.push_back(newcomer.now_ms);
        self.length.store(list.nodes.len(), Ordering::SeqCst);
        drop(list);
        fence(Ordering::SeqCst);
        Ok(place)
    }

    /// A place in front, for one who had left it.
    pub(super) fn return_to_front(&self, since_ms: u64) -> usize {
        let mut list = self.lock();
        let place = list.push_front(since_ms);
        self.length.store(list.nodes.len(), Ordering::SeqCst);
        drop(list);
        fence(Ordering::SeqCst);
        place
    }

    /// Leaves with a lease.
    pub(super) fn serve(&self, place: usize, now_ms: u64) {
        let mut list = self.lock();
        let node = list.remove(place);
        list.drain
            .serves(now_ms, now_ms.saturating_sub(node.since_ms));
        self.length.store(list.nodes.len(), Ordering::SeqCst);
    }

    /// Leaves `waker` for the next wake-up; whether it was woken since the last look, and whether
    /// it is the first.
    pub(super) fn look(&self, place: usize, waker: &Waker) -> (bool, bool) {
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
    pub(super) fn pass_on(&self, place: usize) {
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
    pub(super) fn leave(&self, place: usize) -> bool {
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
    drain: Drain,
}

#[derive(Debug)]
struct Node {
    /// When it entered, on the upstream's clock.
    since_ms: u64,
    previous: Option<usize>,
    next: Option<usize>,
    waker: Option<Waker>,
    woken: bool,
}

impl List {
    fn push_front(&mut self, since_ms: u64) -> usize {
        let place = self.nodes.insert(Node {
            since_ms,
            previous: None,
            next: self.head,
            waker: None,
            woken: false,
        });
        match self.head {
            Some(head) => self.nodes[head].previous = Some(place),
            None => self.tail = Some(place),
        }
        self.head = Some(place);
        place
    }

    fn push_back(&mut self, since_ms: u64) -> usize {
        let place = self.nodes.insert(Node {
            since_ms,
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
        if self.nodes.is_empty() {
            self.drain.empties();
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

/// No place: how long those that wait will take, if that is known.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream) struct Late {
    pub wait_ms: Option<f64>,
}
