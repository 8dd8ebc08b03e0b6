//! One generation of one upstream: its settings over the live state of its servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::balance;
use crate::config::model;
use crate::telemetry::UpstreamMetrics;
use crate::upstream::breaker;
use crate::upstream::common::{Common, lock};
use crate::upstream::health::verdict::Standing;
use crate::upstream::lease::Lease;
use crate::upstream::overrides::Override;
use crate::upstream::pick::{Pick, Refused};
use crate::upstream::plan::{Facts, Plan, Role, plan};
use crate::upstream::queue::Waiter;
use crate::upstream::server::Server;
use crate::upstream::server_set::{Candidates, Obstacle, ServerSet};
use crate::upstream::slow_start;
use crate::util::random::Random;
use crate::util::timer::Timers;

/// Claims that a pick may lose to other workers before it takes the servers for full.
const LOST_CLAIMS: usize = 16;

/// A named group of servers under one accepted configuration.
#[derive(Debug)]
pub struct Upstream {
    config: Arc<model::Upstream>,
    common: Arc<Common>,
    /// In the order of the configuration.
    servers: Box<[Arc<Server>]>,
    set: ArcSwap<ServerSet>,
    /// What the admin API set, in the order of the configuration.
    overrides: Mutex<Box<[Override]>>,
    /// No longer the published one. Set once; relaxed would do, a pick that misses it by a moment
    /// is a pick of that moment before.
    replaced: AtomicBool,
}

impl Upstream {
    /// Over the given servers, in the order of the configuration. `before` is the generation whose
    /// order goes on.
    pub(super) fn new(
        config: &Arc<model::Upstream>,
        common: &Arc<Common>,
        servers: Box<[Arc<Server>]>,
        overrides: Box<[Override]>,
        before: Option<&Upstream>,
    ) -> Arc<Self> {
        let plan = plan(
            &facts(config, &servers, &overrides, Instant::now()),
            config.panic_threshold,
        );
        let set = match before {
            Some(before) => before.set.load().next(&config.balance, plan),
            None => ServerSet::first(&config.balance, plan),
        };
        Arc::new(Upstream {
            config: config.clone(),
            common: common.clone(),
            servers,
            set: ArcSwap::from_pointee(set),
            overrides: Mutex::new(overrides),
            replaced: AtomicBool::new(false),
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    pub fn config(&self) -> &Arc<model::Upstream> {
        &self.config
    }

    /// In the order of the configuration.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
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

    /// How many requests wait for a slot.
    pub fn queue_length(&self) -> usize {
        self.common.queue().len()
    }

    /// The upstream of that name now; itself when there is none any more.
    pub fn latest(self: &Arc<Self>) -> Arc<Upstream> {
        if !self.replaced.load(Ordering::Acquire) {
            return self.clone();
        }
        match &*self.common.current() {
            Some(current) => current.clone(),
            None => self.clone(),
        }
    }

    /// Counts a request (not an attempt) towards the retry budget.
    pub fn request_started(&self, now: Instant) {
        let settings = self.common.settings();
        let now = self.common.ms(now);
        self.common.budget().deposit(now, &settings.retry.budget);
    }

    /// Takes one retry from the budget; false when it is spent.
    #[must_use]
    pub fn withdraw_retry(&self, now: Instant) -> bool {
        let settings = self.common.settings();
        let now = self.common.ms(now);
        self.common.budget().withdraw(now, &settings.retry.budget)
    }

    /// Picks a server and claims a slot of it, among the servers that the upstream of this name
    /// has now. Never allocates, never waits.
    ///
    /// [`Refused::Full`] on a first attempt: stand in the queue.
    pub fn pick(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        // Whoever waits goes first. A retry has waited already, and never queues.
        if pick.tried.is_empty() && !self.common.queue().is_empty() {
            return Err(Refused::Full);
        }
        if self.replaced.load(Ordering::Acquire)
            && let Some(current) = &*self.common.current()
        {
            return current.pick_here(pick);
        }
        self.pick_here(pick)
    }

    /// The same for one who waits.
    pub(super) fn pick_for_waiter(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        if self.replaced.load(Ordering::Acquire)
            && let Some(current) = &*self.common.current()
        {
            return current.pick_waiting(pick);
        }
        self.pick_waiting(pick)
    }

    fn pick_waiting(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        let picked = self.pick_here(pick);
        if !matches!(picked, Err(Refused::Full))
            || self.config.connections.max_connections.is_none()
        {
            return picked;
        }
        // Wish first, then look again: one of the two sees a connection that is closed meanwhile.
        self.want_connections(pick);
        self.pick_here(pick)
    }

    fn pick_here(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        let set = self.set.load();
        let candidates = Candidates {
            set: &set,
            servers: &self.servers,
            config: &self.config,
            tried: pick.tried,
            carry: pick.carry,
            // Only this policy wants to know how old a latency is.
            now_ms: match self.config.balance {
                model::Balance::PeakEwma => self.common.ms(Instant::now()),
                _ => 0,
            },
        };
        let question = balance::Pick {
            servers: &candidates,
            first_attempt: pick.tried.is_empty(),
            hash: pick.hash,
        };
        let mut random = Random::seeded(pick.random.u64(..));
        for _ in 0..LOST_CLAIMS {
            let Some(index) = set.picker().pick(&question, &mut random) else {
                break;
            };
            if let Some(lease) = self.claim_here(index) {
                return Ok(lease);
            }
        }
        Err(self.refusal(&candidates))
    }

    fn claim_here(&self, index: usize) -> Option<Lease> {
        let (server, config) = (self.servers.get(index)?, self.config.servers.get(index)?);
        server.claim(config.max_requests, &self.config.breaker)
    }

    /// Claims a slot of one server, if it admits a request now: for a connection that is bound to
    /// one client.
    pub fn claim(self: &Arc<Self>, server: &Arc<Server>) -> Option<Lease> {
        let current = self.latest();
        let same = |candidate: &Arc<Server>| Arc::ptr_eq(candidate, server);
        let index = current.servers.iter().position(same)?;
        let takes = current.set.load().roles().get(index)?.takes_requests();
        if takes {
            current.claim_here(index)
        } else {
            None
        }
    }

    /// Why nothing took the request. A look at every server: only on the way to a refusal.
    fn refusal(&self, candidates: &Candidates<'_>) -> Refused {
        let mut ejected = false;
        for index in 0..self.servers.len() {
            match candidates.obstacle(index) {
                Some(Obstacle::Role(role)) => ejected |= role.ejected(),
                Some(Obstacle::NoProbe) => ejected = true,
                Some(Obstacle::Tried) => {}
                // Nothing in the way any more: somebody else was faster.
                Some(Obstacle::Full | Obstacle::NoConnection) | None => return Refused::Full,
            }
        }
        let retry_after = self.retry_after(Instant::now());
        if ejected {
            return Refused::CircuitOpen { retry_after };
        }
        Refused::NoServer { retry_after }
    }

    /// Has other workers close idle connections to servers that lack nothing else.
    fn want_connections(&self, pick: &Pick<'_>) {
        let set = self.set.load();
        let members = self
            .servers
            .iter()
            .zip(&self.config.servers)
            .zip(set.roles());
        for ((server, config), role) in members {
            if role.takes_requests()
                && server.in_flight() < config.max_requests
                && !pick.carry.can_carry(server.connections())
            {
                pick.carry.want(server.connections());
            }
        }
    }

    /// Whole seconds from `now` to the next probe or check of a server that is out, rounded up, at
    /// least 1: for `Retry-After`.
    pub fn retry_after(&self, now: Instant) -> u64 {
        let set = self.set.load();
        let out = self.servers.iter().zip(set.roles());
        let next = out.filter_map(|(server, role)| match role {
            Role::Open => self.half_open_at(server, now),
            Role::Unhealthy | Role::Waiting => server.next_check(),
            _ => None,
        });
        let wait = next
            .min()
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        wait.as_millis().div_ceil(1_000).max(1) as u64
    }

    /// When an open breaker lets probes through.
    pub(super) fn half_open_at(&self, server: &Server, now: Instant) -> Option<Instant> {
        let now = self.common.ms(now);
        let at = server.breaker().half_open_at(&self.config.breaker, now)?;
        Some(self.common.at_ms(at))
    }

    /// Some server has a free slot that some worker can use.
    pub(super) fn has_room(&self) -> bool {
        match &*self.common.current() {
            Some(current) => current.has_room_here(),
            None => self.has_room_here(),
        }
    }

    fn has_room_here(&self) -> bool {
        let set = self.set.load();
        let limit = self.config.connections.max_connections;
        let mut members = self
            .servers
            .iter()
            .zip(&self.config.servers)
            .zip(set.roles());
        members.any(|((server, config), role)| {
            let connections = server.connections();
            role.takes_requests()
                && server.in_flight() < config.max_requests
                && server.breaker().would_admit(&self.config.breaker)
                && limit.is_none_or(|limit| connections.open() < limit || connections.idle() > 0)
        })
    }

    /// Takes a place at the end of the queue, or [`Refused::Overloaded`]. The place is given up
    /// after the queue's timeout.
    pub fn enqueue(self: &Arc<Self>, timers: &Timers) -> Result<Waiter, Refused> {
        let settings = self.common.settings();
        let place = settings
            .queue
            .as_ref()
            .and_then(|queue| Waiter::enter(self, queue.size, || timers.after(queue.timeout)));
        place.ok_or_else(|| Refused::Overloaded {
            retry_after: self.retry_after(Instant::now()),
        })
    }

    pub(super) fn override_of(&self, index: usize) -> Override {
        lock(&self.overrides)
            .get(index)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn set_override(&self, index: usize, value: Override) {
        if let Some(entry) = lock(&self.overrides).get_mut(index) {
            *entry = value;
        }
    }

    /// A successor was published, or the name is gone.
    pub(super) fn replace(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    /// What the order depends on, at `now`.
    pub(super) fn facts(&self, now: Instant) -> Vec<Facts> {
        facts(&self.config, &self.servers, &lock(&self.overrides), now)
    }

    /// Of the server at `index` of the configuration.
    pub(super) fn facts_of(&self, index: usize, now: Instant) -> Facts {
        let change = self.override_of(index);
        let (entry, server) = (&self.config.servers[index], &self.servers[index]);
        fact(&self.config, entry, server, change, now)
    }

    /// Swaps in the set of a plan, if it differs from the one that is there; whether it did.
    pub(super) fn follow(&self, plan: Plan) -> bool {
        let set = self.set.load();
        if *set.plan() == plan {
            return false;
        }
        let next = set.next(&self.config.balance, plan);
        drop(set);
        self.set.store(Arc::new(next));
        true
    }
}

fn facts(
    config: &model::Upstream,
    servers: &[Arc<Server>],
    overrides: &[Override],
    now: Instant,
) -> Vec<Facts> {
    let members = config.servers.iter().zip(servers).zip(overrides);
    members
        .map(|((entry, server), change)| fact(config, entry, server, *change, now))
        .collect()
}

fn fact(
    config: &model::Upstream,
    entry: &model::Server,
    server: &Server,
    change: Override,
    now: Instant,
) -> Facts {
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
        weight: change.weight.unwrap_or(entry.weight),
        draining: change.drain.unwrap_or(entry.drain),
        backup: entry.backup,
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
