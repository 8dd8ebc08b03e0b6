//! What all generations of one upstream have in common, by its name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::model::{self, ServerAddress};
use crate::telemetry::{Metrics, UpstreamMetrics, UpstreamReading};
use crate::upstream::breaker::{Places, Transition};
use crate::upstream::budget::RetryBudget;
use crate::upstream::limit::Limit;
use crate::upstream::queue::Queue;
use crate::upstream::rules::Rules;
use crate::upstream::server::Server;
use crate::upstream::upstream::Upstream;

const NEVER: u64 = u64::MAX;

/// The part of an upstream that outlives its configuration.
///
/// It lives as long as any server or any generation of the upstream does, so an upstream that is
/// gone and comes back while old requests still run is the same one.
///
/// In this order in memory: what every request reads comes first, and of that only the queue's
/// length is ever written by one.
#[derive(Debug)]
#[repr(C)]
pub struct Common {
    queue: Queue,
    limit: Limit,
    /// What of `settings` every request needs.
    rules: Rules,
    /// Zero of the milliseconds that breakers, averages and the budget count in.
    origin: Instant,
    metrics: Arc<UpstreamMetrics>,
    budget: RetryBudget,
    name: Arc<str>,
    /// The published generation. Written by the registry only; `None` before the first and after
    /// the last one.
    current: ArcSwapOption<Upstream>,
    /// Of the published generation; kept after the last one for what still runs.
    settings: ArcSwap<model::Upstream>,
    places: Places,
    /// Published servers that somebody still uses, also removed ones.
    servers: Mutex<HashMap<ServerAddress, Weak<Server>>>,
    /// Breaker transitions that the control task has yet to log: few and far between.
    transitions: Mutex<Vec<(Weak<Server>, Transition)>>,
    /// When a request was last refused for overload; milliseconds plus one, 0 is never.
    shed_at: AtomicU64,
    /// Something changed since the control task's last look.
    dirty: AtomicBool,
    /// When the control task looks next if nothing happens; milliseconds, `NEVER` is not at all.
    due: AtomicU64,
    wake: Arc<Notify>,
    /// Held while the next set is built and swapped in: by the control task, a reload, the admin
    /// API. Never by a worker.
    pub(super) stepping: Mutex<Shown>,
}

/// What was logged last.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub panic: bool,
    /// Refuses requests for overload.
    pub sheds: bool,
}

/// Without a refusal for as long, an overload is over.
const SHEDDING_MS: u64 = 10_000;

impl Common {
    pub(super) fn new(
        settings: &Arc<model::Upstream>,
        wake: Arc<Notify>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let common = Arc::new(Common {
            name: settings.name.clone(),
            origin: Instant::now(),
            current: ArcSwapOption::empty(),
            settings: ArcSwap::new(settings.clone()),
            rules: Rules::of(settings),
            queue: Queue::default(),
            limit: Limit::new(),
            places: Places::new(Places::limit(
                settings.servers.len(),
                settings.breaker.max_ejected,
            )),
            budget: RetryBudget::new(metrics.workers()),
            servers: Mutex::default(),
            transitions: Mutex::default(),
            shed_at: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            due: AtomicU64::new(NEVER),
            wake,
            metrics: metrics.upstream(&settings.name),
            stepping: Mutex::default(),
        });
        let live = Arc::downgrade(&common);
        common
            .metrics
            .attach(move || Some(live.upgrade()?.reading()));
        common
    }

    fn reading(&self) -> UpstreamReading {
        UpstreamReading {
            queue_length: self.queue.len() as u64,
            concurrency_limit: self.limit.reading().map(|reading| reading.limit),
            panic: self
                .current()
                .as_ref()
                .is_some_and(|upstream| upstream.set().panic()),
        }
    }

    pub fn metrics(&self) -> &Arc<UpstreamMetrics> {
        &self.metrics
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.due.load(Ordering::Relaxed) {
            NEVER => None,
            ms => Some(self.at_ms(ms)),
        }
    }

    /// Under the stepping lock. Rounded up, so that what is due has been reached by then.
    pub(super) fn set_due(&self, due: Option<Instant>) {
        let ms = due.map_or(NEVER, |due| self.ms(due + Duration::from_nanos(999_999)));
        self.due.store(ms, Ordering::Relaxed);
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    pub fn limit(&self) -> &Limit {
        &self.limit
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    pub fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    /// Settings of the published generation.
    pub fn settings(&self) -> arc_swap::Guard<Arc<model::Upstream>> {
        self.settings.load()
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn current(&self) -> arc_swap::Guard<Option<Arc<Upstream>>> {
        self.current.load()
    }

    /// Publishes `next`; the generation before it.
    pub(super) fn succeed(&self, next: Option<Arc<Upstream>>) -> Option<Arc<Upstream>> {
        if let Some(next) = &next {
            self.rules.follow(next.config());
            self.settings.store(next.config().clone());
            let now = self.ms(Instant::now());
            self.limit.follow(next.config(), now);
        }
        self.current.swap(next)
    }

    /// `now` as monotonic milliseconds.
    pub fn ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.origin).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }

    /// The moment of [`Common::ms`].
    pub fn at_ms(&self, ms: u64) -> Instant {
        self.origin + Duration::from_millis(ms)
    }

    /// A slot, a probe or a connection became free: it belongs to the first waiter. Call after the
    /// change, which must be sequentially consistent.
    pub fn room_made(&self) {
        if !self.queue.is_empty() {
            self.queue.wake_first();
        }
    }

    /// Asks the control task for a look; many times before it looks are once.
    pub fn touch(&self) {
        if !self.dirty.swap(true, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// A request was refused for overload. The control task is told of the first one.
    pub(super) fn shed(&self, now_ms: u64) {
        let before = self.shed_at.swap(now_ms + 1, Ordering::Relaxed);
        if before == 0 || before + SHEDDING_MS <= now_ms {
            self.touch();
        }
    }

    /// Until when requests count as being refused for overload; `None`: they are not.
    pub(super) fn sheds_until(&self, now_ms: u64) -> Option<u64> {
        let until = self.shed_at.load(Ordering::Relaxed).checked_sub(1)? + SHEDDING_MS;
        (until > now_ms).then_some(until)
    }

    /// Whether it was asked for since the last time.
    pub(super) fn take_touched(&self) -> bool {
        self.dirty.swap(false, Ordering::SeqCst)
    }

    /// A worker flipped a breaker: the control task logs it and moves the order.
    pub(super) fn flipped(&self, server: &Arc<Server>, transition: Transition) {
        lock(&self.transitions).push((Arc::downgrade(server), transition));
        self.touch();
    }

    pub(super) fn take_transitions(&self) -> Vec<(Arc<Server>, Transition)> {
        let taken = std::mem::take(&mut *lock(&self.transitions));
        let known = |(server, transition): (Weak<Server>, _)| Some((server.upgrade()?, transition));
        taken.into_iter().filter_map(known).collect()
    }

    /// The live server of that address, removed from the configuration or not.
    pub(super) fn server(&self, address: &ServerAddress) -> Option<Arc<Server>> {
        lock(&self.servers).get(address).and_then(Weak::upgrade)
    }

    /// Makes a prepared server the one of its address.
    pub(super) fn adopt(&self, server: &Arc<Server>) {
        let mut servers = lock(&self.servers);
        servers.retain(|_, known| known.strong_count() > 0);
        servers.insert(server.address().clone(), Arc::downgrade(server));
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
