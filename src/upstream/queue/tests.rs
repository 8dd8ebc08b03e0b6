use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
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
