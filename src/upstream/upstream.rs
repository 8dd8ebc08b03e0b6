//! One generation of one upstream: its settings over the live state of its servers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::config::model;
use crate::telemetry::UpstreamMetrics;
use crate::upstream::breaker;
use crate::upstream::common::{Common, lock};
use crate::upstream::concurrency::Bounds;
use crate::upstream::drain::Newcomer;
use crate::upstream::health::verdict::Standing;
use crate::upstream::overrides::{Overridden, Override};
use crate::upstream::pick::Refused;
use crate::upstream::plan::{Facts, Plan, plan};
use crate::upstream::queue::Waiter;
use crate::upstream::roster::Roster;
use crate::upstream::seats::{Place, Seat};
use crate::upstream::server::Server;
use crate::upstream::server_set::ServerSet;
use crate::upstream::slow_start;
use crate::util::clock;
use crate::util::timer::Timers;

/// A named group of servers under one accepted configuration.
#[derive(Debug)]
pub struct Upstream {
    config: Arc<model::Upstream>,
    common: Arc<Common>,
    /// The servers and their order. The servers change when a name is told others.
    set: ArcSwap<ServerSet>,
    /// What the admin API set. Changed under the stepping lock together with the servers.
    overrides: Mutex<Overridden>,
    /// [`super::resolve::Names::changes`] when the servers were looked up.
    seated: AtomicU64,
    /// No longer the published one. Set once; relaxed would do, a pick that misses it by a moment
    /// is a pick of that moment before.
    replaced: AtomicBool,
}

impl Upstream {
    /// Over the given servers. `before` is the generation whose order goes on.
    pub(super) fn new(
        config: &Arc<model::Upstream>,
        common: &Arc<Common>,
        roster: &Arc<Roster>,
        overrides: Overridden,
        before: Option<&Upstream>,
    ) -> Arc<Self> {
        let plan = plan(
            &facts(config, roster, &overrides, Instant::now()),
            config.panic_threshold,
            before.is_some_and(|before| before.set.load().panic()),
        );
        let set = match before {
            Some(before) => before.set.load().next(config, roster, plan),
            None => ServerSet::first(config, roster, plan),
        };
        Arc::new(Upstream {
            config: config.clone(),
            common: common.clone(),
            set: ArcSwap::from_pointee(set),
            overrides: Mutex::new(overrides),
            seated: AtomicU64::new(0),
            replaced: AtomicBool::new(false),
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    pub fn config(&self) -> &Arc<model::Upstream> {
        &self.config
    }

    /// As they are now: in the order of the configuration, those of one name by address.
    pub fn servers(&self) -> Arc<[Arc<Server>]> {
        self.set.load().roster().servers.clone()
    }

    pub(super) fn roster(&self) -> Arc<Roster> {
        self.set.load().roster().clone()
    }

    /// Its servers were looked up when sources had said so much; whether that is news.
    pub(super) fn seated_at(&self, changes: u64) -> bool {
        self.seated.swap(changes, Ordering::Relaxed) != changes
    }

    pub(super) fn common(&self) -> &Arc<Common> {
        &self.common
    }

    pub fn metrics(&self) -> &Arc<UpstreamMetrics> {
        self.common.metrics()
    }

    /// The servers and their order at this moment.
    pub fn set(&self) -> Arc<ServerSet> {
        self.set.load_full()
    }

    pub(super) fn load_set(&self) -> arc_swap::Guard<Arc<ServerSet>> {
        self.set.load()
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// How many requests wait for a slot.
    pub fn queue_length(&self) -> usize {
        self.common.queue().len()
    }

    /// The upstream of that name now; itself when there is none any more.
    pub fn latest(self: &Arc<Self>) -> Arc<Upstream> {
        if !self.is_replaced() {
            return self.clone();
        }
        match &*self.common.current() {
            Some(current) => current.clone(),
            None => self.clone(),
        }
    }

    /// Counts a request (not an attempt) towards the retry budget.
    pub fn request_started(&self, now: Instant) {
        let now = self.common.ms(now);
        let span = self.common.rules().budget();
        self.common.budget().deposit(now, span);
    }

    /// Takes one retry from the budget; false when it is spent.
    #[must_use]
    pub fn withdraw_retry(&self, now: Instant) -> bool {
        let settings = self.common.settings();
        let now = self.common.ms(now);
        self.common.budget().withdraw(now, &settings.retry.budget)
    }

    /// When an open breaker lets probes through.
    pub(super) fn half_open_at(&self, server: &Server, now: Instant) -> Option<Instant> {
        let now = self.common.ms(now);
        let at = server.breaker().half_open_at(&self.config.breaker, now)?;
        Some(self.common.at_ms(at))
    }

    /// Takes a place at the end of the queue, or [`Refused::Overloaded`]: it is full, or the request
    /// would not be served in time. The place is given up after the queue's timeout; `patience` is
    /// what the request has left, if that is limited.
    pub fn enqueue(
        self: &Arc<Self>,
        timers: &Timers,
        patience: Option<Duration>,
    ) -> Result<Waiter, Refused> {
        let settings = self.common.settings();
        let now = clock::now();
        let Some(queue) = &settings.queue else {
            return Err(self.shed(now, None));
        };
        let newcomer = Newcomer {
            size: queue.size,
            now_ms: self.common.ms(now),
            timeout_ms: millis(queue.timeout),
            patience_ms: patience.map_or(u64::MAX, millis),
        };
        Waiter::enter(self, &newcomer, || timers.after(queue.timeout)).map_err(|late| {
            // By then whoever waits now was served, or has given up.
            let wait = late
                .wait_ms
                .map(|wait| wait.min(newcomer.timeout_ms as f64));
            self.shed(now, wait)
        })
    }

    /// Between what an adaptive limit stays: each server may work on something, and none takes more
    /// than its own limit.
    pub(super) fn bounds(&self) -> Bounds {
        let set = self.load_set();
        let slots = set.members().iter().map(|it| u64::from(it.max_requests));
        Bounds::of(set.members().len(), slots.sum())
    }

    /// Refuses a request for overload; `wait_ms`: until it is worth another try, if that is known.
    fn shed(&self, now: Instant, wait_ms: Option<f64>) -> Refused {
        self.common.shed(self.common.ms(now));
        let known = wait_ms.map(|wait| (wait / 1_000.0).ceil().max(1.0) as u64);
        Refused::Overloaded {
            retry_after: known.unwrap_or_else(|| self.retry_after(now)),
        }
    }

    /// Of the server at `index`.
    pub(super) fn override_of(&self, index: usize) -> Override {
        let roster = self.roster();
        let seat = roster.seats.list.get(index);
        seat.map_or_else(Override::default, |seat| {
            lock(&self.overrides).of(index, seat.owner())
        })
    }

    /// All of them. Only while the servers cannot change: under the registry's lock.
    pub(super) fn set_overrides(&self, values: Overridden) {
        *lock(&self.overrides) = values;
    }

    /// Has these servers from now on. Under the registry's and the stepping lock.
    pub(super) fn reseat(&self, roster: &Arc<Roster>, overrides: Overridden) {
        let facts = facts(&self.config, roster, &overrides, Instant::now());
        let set = self.set.load_full();
        let plan = plan(&facts, self.config.panic_threshold, set.panic());
        *lock(&self.overrides) = overrides;
        self.set
            .store(Arc::new(set.next(&self.config, roster, plan)));
    }

    /// A successor was published: this generation is picked from no more.
    pub(super) fn succeeded(&self) -> bool {
        self.is_replaced() && self.common.current().is_some()
    }

    /// A successor was published, or the name is gone.
    pub(super) fn replace(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    /// What the order depends on, at `now`.
    pub(super) fn facts(&self, now: Instant) -> Vec<Facts> {
        self.facts_in(&self.roster(), now)
    }

    /// Of the servers of a set that was read before.
    pub(super) fn facts_in(&self, roster: &Roster, now: Instant) -> Vec<Facts> {
        facts(&self.config, roster, &lock(&self.overrides), now)
    }

    /// Swaps in the set of a plan, if it differs from the one that is there; whether it did.
    pub(super) fn follow(&self, plan: Plan) -> bool {
        let set = self.set.load();
        if *set.plan() == plan {
            return false;
        }
        let next = set.next(&self.config, set.roster(), plan);
        drop(set);
        self.set.store(Arc::new(next));
        true
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn facts(
    config: &model::Upstream,
    roster: &Roster,
    overrides: &Overridden,
    now: Instant,
) -> Vec<Facts> {
    let fact = |(index, (seat, server)): (usize, (&Seat, &Arc<Server>))| Facts {
        weight: overrides.weight(index, seat, config, roster.seats.scale),
        draining: overrides
            .of(index, seat.owner())
            .drain
            .unwrap_or(seat.drain),
        // Nobody has to wait for an answer while there is somebody else.
        backup: seat.backup || seat.place == Place::Pending,
        place: seat.place,
        ..live_facts(config, server, now)
    };
    roster.members().enumerate().map(fact).collect()
}

/// What is not from the configuration.
fn live_facts(config: &model::Upstream, server: &Server, now: Instant) -> Facts {
    // Slow start does not move keys between servers.
    let slow_start = match config.balance {
        model::Balance::Hash(_) => Duration::ZERO,
        _ => config.slow_start,
    };
    let control = lock(&server.control);
    let since = control.ramp_since.or(control.joining.then_some(now));
    let elapsed = since.map(|since| now.saturating_duration_since(since));
    Facts {
        key: server.label().clone(),
        weight: 0,
        draining: false,
        backup: false,
        place: Place::Known,
        standing: match config.health {
            Some(_) => server.standing(),
            None => Standing::Untested,
        },
        breaker: match config.breaker.mode {
            model::BreakerMode::On => server.breaker_state(&config.breaker),
            _ => breaker::State::Closed,
        },
        tenths: elapsed.map_or(10, |elapsed| slow_start::tenths(elapsed, slow_start)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::upstream::testing::{
        config, fail, health, pick, pick_other, port, publish, queue, registry, sequence, verdict,
    };

    fn counts(ports: &[u16]) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for port in ports {
            *counts.entry(*port).or_default() += 1;
        }
        counts
    }

    #[tokio::test]
    async fn first_attempts_follow_nginx_and_retries_never_move_the_order() {
        let upstream = publish(&registry(), config(&[(1, 5), (2, 1), (3, 1)]));
        let first = upstream.servers()[0].id();
        let mut ports = Vec::new();
        for _ in 0..14 {
            ports.push(port(pick(&upstream).unwrap().server()));
            let other = pick_other(&upstream, &[first]).unwrap();
            assert_ne!(other.server().id(), first, "a retry goes to another server");
        }
        assert_eq!(ports, [1, 1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 3, 1, 1]);
    }

    #[tokio::test]
    async fn the_order_is_exact_over_all_threads_together() {
        let upstream = publish(&registry(), config(&[(1, 4), (2, 2), (3, 1)]));
        let ports = std::thread::scope(|scope| {
            let picker = || scope.spawn(|| sequence(&upstream, 7 * 300));
            let threads: Vec<_> = (0..4).map(|_| picker()).collect();
            let joined = threads.into_iter().map(|thread| thread.join().unwrap());
            joined.flatten().collect::<Vec<_>>()
        });
        let expected = BTreeMap::from([(1, 4_800), (2, 2_400), (3, 1_200)]);
        assert_eq!(counts(&ports), expected);
    }

    #[tokio::test]
    async fn one_of_three_down_leaves_the_others_equal() {
        let registry = registry();
        let upstream = publish(
            &registry,
            model::Upstream {
                health: Some(health()),
                ..config(&[(1, 1), (2, 1), (3, 1)])
            },
        );
        verdict(&upstream.servers()[0], Standing::Healthy);
        verdict(&upstream.servers()[1], Standing::Unhealthy);
        registry.look(Instant::now());
        let expected = BTreeMap::from([(1, 50), (3, 50)]);
        assert_eq!(counts(&sequence(&upstream, 100)), expected);
    }

    #[tokio::test]
    async fn max_requests_holds_whatever_the_concurrency() {
        let mut config = config(&[(1, 1)]);
        config.servers[0].max_requests = 3;
        let upstream = publish(&registry(), config);
        let server = &upstream.servers()[0];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let lease = pick(&upstream);
                        assert!(server.in_flight() <= 3, "more slots than max-requests");
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(server.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_open_breakers_in_the_way_is_circuit_open_with_the_time_to_the_probe() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1)]));
        fail(&upstream.servers()[0], upstream.config(), 5);
        registry.look(Instant::now());
        let refused = pick(&upstream).unwrap_err();
        let Refused::CircuitOpen { retry_after } = refused else {
            panic!("refused as {refused:?}");
        };
        assert!((9..=11).contains(&retry_after), "{retry_after}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_success_of_a_probe_others_wait_for_the_close() {
        for queued in [false, true] {
            let registry = registry();
            let mut config = config(&[(1, 1)]);
            config.queue = queue(8).filter(|_| queued);
            let upstream = publish(&registry, config);
            fail(&upstream.servers()[0], upstream.config(), 5);
            tokio::time::advance(Duration::from_secs(12)).await;
            registry.look(Instant::now());
            let mut probes: Vec<_> = (0..3).map(|_| pick(&upstream).unwrap()).collect();
            let circuit_open = Refused::CircuitOpen { retry_after: 1 };
            assert_eq!(pick(&upstream).unwrap_err(), circuit_open, "no news yet");
            probes[0].answered(Instant::now(), Duration::ZERO, 200);
            let refused = pick(&upstream).unwrap_err();
            let expected = if queued { Refused::Full } else { circuit_open };
            assert_eq!(refused, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_without_a_free_probe_is_circuit_open() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1)]));
        fail(&upstream.servers()[0], upstream.config(), 5);
        tokio::time::advance(Duration::from_secs(12)).await;
        registry.look(Instant::now());
        let probes: Vec<_> = (0..3).map(|_| pick(&upstream).unwrap()).collect();
        assert_eq!(
            pick(&upstream).unwrap_err(),
            Refused::CircuitOpen { retry_after: 1 }
        );
        drop(probes);
        assert!(pick(&upstream).is_ok(), "an unreported probe is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_checks_in_the_way_are_no_server_with_the_time_to_the_check() {
        let registry = registry();
        let upstream = publish(
            &registry,
            model::Upstream {
                health: Some(health()),
                panic_threshold: None,
                ..config(&[(1, 1)])
            },
        );
        verdict(&upstream.servers()[0], Standing::Unhealthy);
        registry.look(Instant::now());
        assert_eq!(
            pick(&upstream).unwrap_err(),
            Refused::NoServer { retry_after: 5 }
        );
    }

    #[tokio::test]
    async fn weight_zero_and_draining_are_no_server() {
        let mut config = config(&[(1, 0), (2, 1)]);
        config.servers[1].drain = true;
        let upstream = publish(&registry(), config);
        assert_eq!(
            pick(&upstream).unwrap_err(),
            Refused::NoServer { retry_after: 1 }
        );
    }

    #[tokio::test]
    async fn a_full_server_in_rotation_is_full_although_another_breaker_is_open() {
        let registry = registry();
        let mut config = config(&[(1, 1), (2, 1)]);
        config.servers[0].max_requests = 1;
        let upstream = publish(&registry, config);
        fail(&upstream.servers()[1], upstream.config(), 5);
        registry.look(Instant::now());
        let held = pick(&upstream).unwrap();
        assert_eq!(port(held.server()), 1);
        assert_eq!(pick(&upstream).unwrap_err(), Refused::Full);
        let refused = upstream.enqueue(&Timers::new(), None).err();
        assert!(
            matches!(refused, Some(Refused::Overloaded { .. })),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_full_queue_is_overloaded() {
        let mut config = config(&[(1, 1)]);
        config.servers[0].max_requests = 1;
        config.queue = queue(1);
        let upstream = publish(&registry(), config);
        let timers = Timers::new();
        let _held = pick(&upstream).unwrap();
        let waiter = upstream.enqueue(&timers, None).expect("room for one");
        let refused = upstream.enqueue(&timers, None).err();
        assert!(
            matches!(refused, Some(Refused::Overloaded { .. })),
            "{refused:?}"
        );
        drop(waiter);
        assert!(upstream.enqueue(&timers, None).is_ok());
    }

    #[tokio::test]
    async fn a_bound_request_does_not_go_to_a_draining_server() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
        let server = upstream.servers()[0].clone();
        assert!(upstream.claim(&server).is_some());
        let mut drained = config(&[(1, 1), (2, 1)]);
        drained.servers[0].drain = true;
        publish(&registry, drained);
        assert!(upstream.claim(&server).is_none());
    }

    #[tokio::test]
    async fn backups_serve_when_no_other_is_in_rotation_and_leave_when_one_returns() {
        let registry = registry();
        let mut config = model::Upstream {
            health: Some(health()),
            ..config(&[(1, 1), (2, 1)])
        };
        config.servers[1].backup = true;
        let upstream = publish(&registry, config);
        assert_eq!(sequence(&upstream, 2), [1, 1]);
        for server in upstream.servers().iter() {
            verdict(server, Standing::Healthy);
        }
        verdict(&upstream.servers()[0], Standing::Unhealthy);
        registry.look(Instant::now());
        assert_eq!(sequence(&upstream, 2), [2, 2]);
        verdict(&upstream.servers()[0], Standing::Healthy);
        registry.look(Instant::now());
        assert_eq!(sequence(&upstream, 2), [1, 1]);
    }

    #[tokio::test]
    async fn explain_gives_chances_and_reasons() {
        let registry = registry();
        let mut config = config(&[(1, 3), (2, 1), (3, 1), (4, 0)]);
        config.servers[2].drain = true;
        let upstream = publish(&registry, config);
        let rows = upstream.explain(None, None, Instant::now());
        let row = |index: usize| (rows[index].chance, rows[index].reason.as_deref());
        assert_eq!(row(0), (0.75, None));
        assert_eq!(row(1), (0.25, None));
        assert_eq!(row(2), (0.0, Some("is draining")));
        assert_eq!(row(3), (0.0, Some("its weight is 0")));
    }

    #[tokio::test]
    async fn explain_works_without_publishing() {
        let prepared = registry().prepare(&Arc::new(config(&[(1, 1), (2, 1)])));
        let rows = prepared.explain(None, None, Instant::now());
        assert_eq!(rows.iter().map(|row| row.chance).sum::<f64>(), 1.0);
    }
}
