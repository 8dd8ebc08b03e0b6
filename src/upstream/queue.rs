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
//! Who would only wait in vain is not let in: [`drain`](super::drain).
//!
//! The mutex guards the list only and is taken by nobody while the queue is empty.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::time::Instant;

use crate::upstream::common::Common;
use crate::upstream::drain::{Drain, Newcomer, Outlook};
use crate::upstream::lease::Lease;
use crate::upstream::pick::{Pick, Refused};
use crate::upstream::upstream::Upstream;
use crate::util::clock;
use crate::util::timer::Deadline;

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
    fn enter(&self, newcomer: &Newcomer) -> Result<usize, Late> {
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
    fn return_to_front(&self, since_ms: u64) -> usize {
        let mut list = self.lock();
        let place = list.push_front(since_ms);
        self.length.store(list.nodes.len(), Ordering::SeqCst);
        drop(list);
        fence(Ordering::SeqCst);
        place
    }

    /// Leaves with a lease.
    fn serve(&self, place: usize, now_ms: u64) {
        let mut list = self.lock();
        let node = list.remove(place);
        list.drain
            .serves(now_ms, now_ms.saturating_sub(node.since_ms));
        self.length.store(list.nodes.len(), Ordering::SeqCst);
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
pub(super) struct Late {
    pub wait_ms: Option<f64>,
}

/// A place in an upstream's queue. Dropping it leaves the queue and passes on what it was handed.
pub struct Waiter {
    /// Of the generation that the request started under; the pick goes to its successor.
    upstream: Arc<Upstream>,
    common: Arc<Common>,
    /// `None` once it has left.
    place: Option<usize>,
    since_ms: u64,
    /// It came back after a lost claim, and lets others run before it looks again.
    returned: bool,
    deadline: Deadline,
}

impl Waiter {
    /// Takes a place at the end, unless the queue is full or it would be in vain.
    pub(super) fn enter(
        upstream: &Arc<Upstream>,
        newcomer: &Newcomer,
        deadline: impl FnOnce() -> Deadline,
    ) -> Result<Waiter, Late> {
        let common = upstream.common().clone();
        let place = common.queue().enter(newcomer)?;
        Ok(Waiter {
            upstream: upstream.clone(),
            common,
            place: Some(place),
            since_ms: newcomer.now_ms,
            returned: false,
            deadline: deadline(),
        })
    }

    /// Goes on waiting in front of everybody: the lease turned out to be of no use, because
    /// another worker opened the last connection that its server may have.
    pub fn go_on(&mut self) {
        if self.place.is_none() {
            self.place = Some(self.common.queue().return_to_front(self.since_ms));
            self.returned = true;
        }
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
        if std::mem::take(&mut self.returned) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
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
                self.place = None;
                let now = self.common.ms(clock::now());
                self.common.queue().serve(place, now);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::config::model;
    use crate::upstream::pick::{AnyConnection, Carry};
    use crate::upstream::pool::ServerConnections;
    use crate::upstream::registry::Registry;
    use crate::upstream::testing::{config, fail, pick, port, publish, queue, registry, server};
    use crate::util::random::Random;
    use crate::util::timer::Timers;

    /// Notes that it was woken.
    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// A waiting request on a worker of its own.
    struct Request {
        waiter: Waiter,
        flag: Arc<Flag>,
        carry: Box<dyn Carry>,
    }

    impl Request {
        fn new(upstream: &Arc<Upstream>) -> Self {
            Request {
                waiter: upstream
                    .enqueue(&Timers::new(), None)
                    .expect("room in the queue"),
                flag: Arc::default(),
                carry: Box::new(AnyConnection),
            }
        }

        fn poll(&mut self) -> Option<Result<Lease, Refused>> {
            self.flag.0.store(false, Ordering::SeqCst);
            let waker = Waker::from(self.flag.clone());
            let mut pick = Pick {
                tried: &[],
                hash: None,
                sticky: None,
                carry: &*self.carry,
                random: &mut Random::seeded(1),
            };
            let polled = self
                .waiter
                .poll(&mut Context::from_waker(&waker), &mut pick);
            match polled {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            }
        }

        /// Polls only when woken, as a runtime would.
        fn run(&mut self) -> Option<Result<Lease, Refused>> {
            if self.flag.0.load(Ordering::SeqCst) {
                self.poll()
            } else {
                None
            }
        }

        fn wait(upstream: &Arc<Upstream>) -> Self {
            let mut request = Self::new(upstream);
            assert!(request.poll().is_none(), "it has to wait");
            request
        }
    }

    fn slots(servers: &[(u16, u32)]) -> model::Upstream {
        let mut config = config(&[]);
        config.queue = queue(1_000_000);
        for &(port, max_requests) in servers {
            config.servers.push(model::Server {
                max_requests,
                ..server(port, 1)
            });
        }
        config
    }

    fn one_slot() -> (Arc<Registry>, Arc<Upstream>) {
        let registry = registry();
        let upstream = publish(&registry, slots(&[(1, 1)]));
        (registry, upstream)
    }

    #[tokio::test]
    async fn a_free_slot_goes_to_who_waited_longest_and_newcomers_stand_behind() {
        let (_registry, upstream) = one_slot();
        let held = pick(&upstream).unwrap();
        let mut first = Request::wait(&upstream);
        let mut second = Request::wait(&upstream);
        drop(held);
        assert_eq!(pick(&upstream).unwrap_err(), Refused::Full, "a newcomer");
        assert!(second.run().is_none());
        let lease = first.run().expect("it was woken").unwrap();
        assert!(second.run().is_none(), "the slot is taken again");
        drop(lease);
        assert!(second.run().is_some());
        assert_eq!(upstream.queue_length(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_is_gone_passes_its_wake_up_on() {
        let (_registry, upstream) = one_slot();
        let held = pick(&upstream).unwrap();
        let first = Request::wait(&upstream);
        let mut second = Request::wait(&upstream);
        drop(held);
        assert!(second.run().is_none(), "not its turn");
        drop(first);
        assert!(second.run().is_some());
    }

    #[tokio::test]
    async fn a_waiter_that_never_looked_leaves_the_slot_to_the_next() {
        let (_registry, upstream) = one_slot();
        let held = pick(&upstream).unwrap();
        let first = Request::new(&upstream);
        drop(held);
        let mut second = Request::wait(&upstream);
        drop(first);
        assert!(second.run().is_some());
    }

    #[tokio::test]
    async fn two_free_slots_serve_two_waiters() {
        let registry = registry();
        let upstream = publish(&registry, slots(&[(1, 2)]));
        let held = (pick(&upstream).unwrap(), pick(&upstream).unwrap());
        let mut requests: Vec<_> = (0..3).map(|_| Request::wait(&upstream)).collect();
        drop(held);
        let served: Vec<_> = requests.iter_mut().map(|request| request.run()).collect();
        assert!(served[0].is_some() && served[1].is_some() && served[2].is_none());
    }

    struct NoConnection;

    impl Carry for NoConnection {
        fn can_carry(&self, _server: &Arc<ServerConnections>) -> bool {
            false
        }

        fn want(&self, _server: &Arc<ServerConnections>) {}
    }

    #[tokio::test]
    async fn who_cannot_use_the_slot_passes_it_on_and_keeps_its_place() {
        let registry = registry();
        let mut limited = slots(&[(1, 1)]);
        limited.connections.max_connections = Some(1);
        let upstream = publish(&registry, limited);
        let held = pick(&upstream).unwrap();
        let mut first = Request::new(&upstream);
        first.carry = Box::new(NoConnection);
        assert!(first.poll().is_none());
        let mut second = Request::wait(&upstream);
        drop(held);
        assert!(first.run().is_none(), "its worker has no connection");
        let lease = second.run().expect("it was handed on").unwrap();
        first.carry = Box::new(AnyConnection);
        drop(lease);
        assert!(first.run().is_some(), "it is the first still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_gives_up_after_the_timeout() {
        let (_registry, upstream) = one_slot();
        let _held = pick(&upstream).unwrap();
        let timers = Timers::new();
        let mut waiter = upstream.enqueue(&timers, None).expect("room");
        let started = Instant::now();
        let waiting = poll_fn(|cx| {
            let mut pick = Pick {
                tried: &[],
                hash: None,
                sticky: None,
                carry: &AnyConnection,
                random: &mut Random::new(),
            };
            waiter.poll(cx, &mut pick)
        });
        let result = tokio::select! {
            result = waiting => result,
            () = timers.run() => unreachable!("the timers run for ever"),
        };
        assert_eq!(
            result.unwrap_err(),
            Refused::QueueTimeout { retry_after: 1 }
        );
        assert!(started.elapsed() >= Duration::from_secs(1));
        assert_eq!(upstream.queue_length(), 0);
    }

    #[tokio::test]
    async fn a_waiter_takes_a_server_that_a_reload_adds() {
        let (registry, upstream) = one_slot();
        let _held = pick(&upstream).unwrap();
        let mut first = Request::wait(&upstream);
        publish(&registry, slots(&[(1, 1), (2, 1)]));
        let lease = first.run().expect("it was woken").unwrap();
        assert_eq!(port(lease.server()), 2);
    }

    #[tokio::test]
    async fn a_raised_limit_is_handed_out() {
        let (registry, upstream) = one_slot();
        let _held = pick(&upstream).unwrap();
        let mut first = Request::wait(&upstream);
        publish(&registry, slots(&[(1, 2)]));
        assert!(first.run().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_are_told_when_breakers_open_and_one_by_one() {
        let (registry, upstream) = one_slot();
        let held = pick(&upstream).unwrap();
        let mut first = Request::wait(&upstream);
        let mut second = Request::wait(&upstream);
        let mut held = Some(held);
        for _ in 0..5 {
            let mut lease = held.take().unwrap();
            lease.failure(
                Instant::now(),
                Duration::ZERO,
                crate::upstream::FailureKind::Reset,
            );
            drop(lease);
            held = upstream.claim(&upstream.servers()[0]);
        }
        registry.look(Instant::now());
        for request in [&mut first, &mut second] {
            let refused = request.run().expect("it was woken").unwrap_err();
            assert!(
                matches!(refused, Refused::CircuitOpen { .. }),
                "{refused:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_freed_probe_and_a_half_open_breaker_wake_a_waiter() {
        let registry = registry();
        let mut two = slots(&[(1, 1), (2, 9)]);
        two.breaker.probes = 1;
        let upstream = publish(&registry, two);
        fail(&upstream.servers()[1], upstream.config(), 5);
        registry.look(Instant::now());
        let _held = pick(&upstream).unwrap();
        let mut first = Request::wait(&upstream);
        let mut second = Request::wait(&upstream);
        tokio::time::advance(Duration::from_secs(12)).await;
        registry.look(Instant::now());
        let probe = first.run().expect("half-open").unwrap();
        assert_eq!(port(probe.server()), 2);
        assert!(second.run().is_none(), "the probe is taken");
        drop(probe);
        assert!(second.run().is_some());
    }

    /// A thread's own tiny runtime.
    fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            std::thread::park_timeout(Duration::from_secs(60));
            assert!(std::time::Instant::now() < deadline, "a wake-up was lost");
        }
    }

    /// One request: picks or waits, and gives up waiting now and then.
    fn request(upstream: &Arc<Upstream>, timers: &Timers, random: &mut Random) {
        let mut pick = Pick {
            tried: &[],
            hash: None,
            sticky: None,
            carry: &AnyConnection,
            random,
        };
        let lease = match upstream.pick(&mut pick) {
            Ok(lease) => lease,
            Err(_) => {
                let mut waiter = upstream.enqueue(timers, None).expect("room in the queue");
                let gives_up = pick.random.below(8) == 0;
                let mut polls = 0;
                let waited = block_on(|cx| match waiter.poll(cx, &mut pick) {
                    Poll::Pending if gives_up && polls == 0 => Poll::Ready(None),
                    polled => {
                        polls += 1;
                        polled.map(Some)
                    }
                });
                match waited {
                    Some(lease) => lease.expect("there are servers"),
                    None => return,
                }
            }
        };
        if random.below(2) == 0 {
            std::thread::yield_now();
        }
        drop(lease);
    }

    #[tokio::test]
    async fn no_wake_up_is_lost_among_racing_workers_and_reloads() {
        let registry = registry();
        let upstream = publish(&registry, slots(&[(1, 1), (2, 1)]));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = |seed: u64| {
                let upstream = upstream.clone();
                scope.spawn(move || {
                    let (timers, mut random) = (Timers::new(), Random::seeded(seed));
                    (0..1_500).for_each(|_| request(&upstream, &timers, &mut random));
                })
            };
            let workers: Vec<_> = (0..8).map(worker).collect();
            let reloads = scope.spawn(|| {
                let mut wide = false;
                while !done.load(Ordering::SeqCst) {
                    wide = !wide;
                    publish(&registry, slots(&[(1, 1), (2, if wide { 2 } else { 1 })]));
                    registry.look(Instant::now());
                    std::thread::yield_now();
                }
            });
            let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            done.store(true, Ordering::SeqCst);
            reloads.join().expect("reloads go on");
            assert!(ended.iter().all(Result::is_ok), "a worker got stuck");
        });
        assert_eq!(upstream.queue_length(), 0);
        assert!(
            upstream
                .latest()
                .servers()
                .iter()
                .all(|server| server.in_flight() == 0)
        );
    }
}
