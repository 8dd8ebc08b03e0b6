//! One server's live state, shared by every generation of the configuration that names it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;

use crate::config::model::{self, ProxyProtocol, ServerAddress};
use crate::telemetry::{BreakerReading, Metrics, ServerMetrics, ServerReading, events};
use crate::tls::ClientTerms;
use crate::upstream::breaker::{self, Breaker};
use crate::upstream::common::{Common, lock};
use crate::upstream::connector::Target;
use crate::upstream::health::verdict::Standing;
use crate::upstream::health::{Checks, Report};
use crate::upstream::knock::Knocks;
use crate::upstream::lease::{FailureKind, Lease};
use crate::upstream::pool::ServerConnections;
use crate::upstream::resolve::Addresses;
use crate::upstream::seats::Seat;
use crate::upstream::secure::Security;
use crate::util::ewma::PeakEwma;

/// Tells servers apart over the life of the process: a server that is removed and comes back
/// after its last request has ended is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u64);

impl ServerId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        ServerId(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The live state of one server, keyed by (upstream, address).
///
/// Workers write `in_flight`, `breaker` and `latency`; the task of its checks writes `standing` and
/// `last_check`; `control` belongs to whoever holds the upstream's stepping lock.
///
/// In this order in memory: what every request touches comes first, on few cache lines. It is all
/// written to by requests of any worker, so that nothing is lost by keeping what is read with it.
#[derive(Debug)]
#[repr(C)]
pub struct Server {
    /// Slots taken, over all workers.
    in_flight: AtomicU32,
    /// Counts the times that checks took it out of rotation.
    taken_out: AtomicU32,
    common: Arc<Common>,
    connections: Arc<ServerConnections>,
    metrics: Arc<ServerMetrics>,
    label: Arc<str>,
    id: ServerId,
    latency: PeakEwma,
    breaker: Breaker,
    /// Key of its live state: its address, or the name that it stands for.
    address: ServerAddress,
    addresses: Arc<Addresses>,
    /// Written by reloads and when a name moves.
    origin: ArcSwap<Origin>,
    /// Whether it joined others when it was made.
    joined: AtomicBool,
    /// Written by reloads.
    security: Arc<ArcSwapOption<Security>>,
    /// [`ProxyProtocol`] as a number. Written by reloads.
    introduction: Arc<AtomicU8>,
    /// [`Standing`] as a number.
    standing: AtomicU8,
    /// Milliseconds of [`Common::ms`]; 0 is not known.
    next_check: AtomicU64,
    last_check: Mutex<Option<LastCheck>>,
    /// The last failure that tells was of a check or of reaching it, not of what it said.
    unreached: AtomicBool,
    /// Effective weight, for the gauge: the bits of an `f64`. Written by the control task.
    weight: AtomicU64,
    pub(super) control: Mutex<Control>,
}

/// What a server is asked for by, where nothing else is given.
#[derive(Debug)]
struct Origin {
    /// As configured, with the port that it has.
    address: ServerAddress,
    /// For `Host`: a path is no host (RFC 9110 section 7.2).
    host: Arc<str>,
}

impl Origin {
    fn new(address: &ServerAddress) -> Self {
        Origin {
            address: address.clone(),
            host: match address {
                ServerAddress::Unix(_) => "localhost".into(),
                address => address.to_string().into(),
            },
        }
    }
}

/// What the last check found.
#[derive(Debug, Clone)]
pub struct LastCheck {
    pub at: Instant,
    pub took: Duration,
    pub outcome: Result<(), Arc<str>>,
}

/// What the control task remembers of a server between two looks.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Slow start: when it began.
    pub ramp_since: Option<Instant>,
    /// Added next to others and not in rotation yet.
    pub joining: bool,
    /// Its breaker was open or half-open.
    pub ejected: bool,
    /// Checks allowed it.
    pub usable: bool,
    /// Checks keep it out of rotation (in panic they do not).
    pub kept_out: bool,
    pub checks: Option<Checks>,
    /// While its breaker is waited for by everybody.
    pub knocks: Option<Knocks>,
}

impl Server {
    /// `addresses`: of a server that stands for a name, what it waits for. `beside_others`: it
    /// joins servers that are there, so it waits for a pass where there are checks, and starts
    /// slowly.
    pub(super) fn new(
        seat: &Seat,
        addresses: Arc<Addresses>,
        common: &Arc<Common>,
        config: &model::Upstream,
        beside_others: bool,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let address = &seat.key;
        let id = ServerId::next();
        let standing = match (beside_others, &config.health) {
            (true, Some(_)) => Standing::Waiting,
            _ => Standing::Untested,
        };
        let connections = ServerConnections::new(&config.connections);
        let waiting = Arc::downgrade(common);
        connections.on_room(Box::new(move || {
            let Some(common) = Weak::upgrade(&waiting) else {
                return false;
            };
            common.room_made();
            !common.queue().is_empty()
        }));
        let label: Arc<str> = address.to_string().into();
        let server = Arc::new(Server {
            id,
            address: address.clone(),
            metrics: metrics.server(common.name(), &label),
            label,
            common: common.clone(),
            addresses,
            origin: ArcSwap::from_pointee(Origin::new(&seat.origin)),
            joined: AtomicBool::new(beside_others),
            security: Arc::default(),
            introduction: Arc::new(AtomicU8::new(config.proxy_protocol as u8)),
            connections,
            in_flight: AtomicU32::new(0),
            breaker: Breaker::new(id.0),
            latency: PeakEwma::new(),
            standing: AtomicU8::new(standing as u8),
            next_check: AtomicU64::new(0),
            last_check: Mutex::new(None),
            unreached: AtomicBool::new(false),
            taken_out: AtomicU32::new(0),
            weight: AtomicU64::new(0),
            control: Mutex::new(Control {
                joining: beside_others,
                usable: standing.usable(),
                ..Control::default()
            }),
        });
        // Before the first request can pick it: none may go out in the clear.
        server.secure(config.tls.as_ref());
        let live = Arc::downgrade(&server);
        server
            .metrics
            .attach(move || Some(live.upgrade()?.reading()));
        server
    }

    fn reading(&self) -> ServerReading {
        let breaker = match self.breaker.state(&self.common.settings().breaker) {
            breaker::State::Closed => BreakerReading::Closed,
            breaker::State::HalfOpen => BreakerReading::HalfOpen,
            breaker::State::Open => BreakerReading::Open,
        };
        let (active, idle) = self.connections.active_and_idle();
        ServerReading {
            in_flight: self.in_flight().into(),
            latency: self.latency.latest(),
            connections_active: active as u64,
            connections_idle: idle as u64,
            healthy: self.standing().usable(),
            weight: f64::from_bits(self.weight.load(Ordering::Relaxed)),
            breaker,
        }
    }

    pub fn metrics(&self) -> &Arc<ServerMetrics> {
        &self.metrics
    }

    pub(super) fn set_weight(&self, weight: f64) {
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
    }

    pub fn id(&self) -> ServerId {
        self.id
    }

    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// What it is asked for by from now on. True if that is a change.
    pub(super) fn set_origin(&self, origin: &ServerAddress) -> bool {
        let changed = self.origin.load().address != *origin;
        if changed {
            self.origin.store(Arc::new(Origin::new(origin)));
        }
        changed
    }

    /// What `Host` is for it where a client gave none.
    pub fn host(&self) -> Arc<str> {
        self.origin.load().host.clone()
    }

    pub(super) fn joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// As if it had been made beside others: they were there in the process before. For one that
    /// nobody has used yet.
    pub(super) fn join(&self, config: &model::Upstream) {
        self.joined.store(true, Ordering::Relaxed);
        if config.health.is_some() {
            self.set_standing(Standing::Waiting);
        }
        let mut control = lock(&self.control);
        control.joining = true;
        control.usable = self.standing().usable();
    }

    /// The address: label value in metrics and logs.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Name of the upstream that it belongs to.
    pub fn upstream(&self) -> &Arc<str> {
        self.common.name()
    }

    pub(super) fn common(&self) -> &Arc<Common> {
        &self.common
    }

    pub fn connections(&self) -> &Arc<ServerConnections> {
        &self.connections
    }

    /// Where a name points to now.
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }

    /// What a connect goes to.
    pub fn target(&self) -> Target {
        Target {
            address: self.origin.load().address.clone(),
            addresses: self.addresses.clone(),
            security: self.security.clone(),
            introduction: self.introduction.clone(),
        }
    }

    /// How connections to it begin from now on. True if that is a change.
    pub(super) fn introduce(&self, version: ProxyProtocol) -> bool {
        self.introduction.swap(version as u8, Ordering::Relaxed) != version as u8
    }

    /// Speaks TLS by these terms from now on, or plain. True if that is a change.
    pub(super) fn secure(&self, terms: Option<&Arc<ClientTerms>>) -> bool {
        let before = self.security.load();
        let origin = self.origin.load();
        let same = match (&*before, terms) {
            (None, None) => true,
            (Some(before), Some(terms)) => {
                before.terms() == terms && before.is_for(&origin.address)
            }
            _ => false,
        };
        if !same {
            let of = |terms| Security::new(terms, &origin.address, self.upstream(), &self.label);
            self.security.store(terms.map(of));
        }
        !same
    }

    /// Slots taken, over all workers. Relaxed: exact only for the claim itself.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub fn breaker_state(&self, settings: &model::Breaker) -> breaker::State {
        self.breaker.state(settings)
    }

    pub fn latency(&self) -> &PeakEwma {
        &self.latency
    }

    /// What the checks say; [`Standing::Untested`] without checks.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            n if n == Standing::Waiting as u8 => Standing::Waiting,
            n if n == Standing::Healthy as u8 => Standing::Healthy,
            n if n == Standing::Unhealthy as u8 => Standing::Unhealthy,
            _ => Standing::Untested,
        }
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Release);
    }

    pub fn last_check(&self) -> Option<LastCheck> {
        lock(&self.last_check).clone()
    }

    /// When the next check is due, where that is known.
    pub fn next_check(&self) -> Option<Instant> {
        match self.next_check.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(self.common.at_ms(ms)),
        }
    }

    /// Takes a finished check; the control task moves the order when the verdict changed.
    pub fn checked(&self, report: Report) {
        let now = Instant::now();
        let passed = report.outcome.is_ok();
        self.metrics.checked(report.result);
        // Settled: the result agrees with the verdict. Between two verdicts checks come faster.
        let settled = passed == (report.standing == Standing::Healthy);
        if let Some(health) = &self.common.settings().health {
            let wait = match settled {
                true => health.interval,
                false => (health.interval / 5).max(Duration::from_millis(200)),
            };
            let next = self.common.ms(now + wait).max(1);
            self.next_check.store(next, Ordering::Relaxed);
        }
        self.set_standing(report.standing);
        if report.changed {
            let cause = report.outcome.as_ref().err().map_or("", |cause| &**cause);
            events::health(self.upstream(), &self.label, passed, &cause);
            self.common.touch();
        }
        if !passed {
            self.set_unreached(true);
        } else if let Some(opened) = self.breaker.opened() {
            self.reached(opened);
        }
        *lock(&self.last_check) = Some(LastCheck {
            at: now,
            took: report.took,
            outcome: report.outcome,
        });
    }

    /// An attempt failed. Of a probe that was reset it is known that it was reached, and of a death
    /// that it resets what is under way.
    pub(super) fn attempt_failed(&self, kind: FailureKind, probe: bool) {
        match kind {
            FailureKind::Connect => self.set_unreached(true),
            FailureKind::Reset => self.set_unreached(!probe),
            FailureKind::Timeout => {}
            FailureKind::Tls | FailureKind::BadResponse => self.set_unreached(false),
        }
    }

    pub(super) fn is_unreached(&self) -> bool {
        self.unreached.load(Ordering::Relaxed)
    }

    pub(super) fn set_unreached(&self, unreached: bool) {
        self.unreached.store(unreached, Ordering::Relaxed);
    }

    /// It took a connection while that trip held its breaker open. That is news only of a server
    /// that could not be reached: one that takes connections and fails requests is not vouched for.
    pub(super) fn reached(&self, opened: u32) -> bool {
        let news = self.is_unreached() && self.breaker.vouch(opened);
        if news {
            self.set_unreached(false);
            self.common.touch();
        }
        news
    }

    /// There are no checks any more.
    pub(super) fn forget_checks(&self) {
        self.set_standing(Standing::Untested);
        self.next_check.store(0, Ordering::Relaxed);
        *lock(&self.last_check) = None;
    }

    /// Counts the times that checks took it out: a waiting attempt compares it with what it was.
    pub fn taken_out(&self) -> u32 {
        self.taken_out.load(Ordering::Relaxed)
    }

    pub(super) fn take_out(&self) {
        self.taken_out.fetch_add(1, Ordering::Relaxed);
    }

    /// It has a free slot, and its breaker is closed.
    pub(super) fn is_open_to(&self, max_requests: u32) -> bool {
        self.breaker.is_closed() && self.in_flight() < max_requests
    }

    /// Takes a slot and, of a half-open breaker, a probe.
    pub(super) fn claim(
        self: &Arc<Self>,
        max_requests: u32,
        settings: &model::Breaker,
    ) -> Option<Lease> {
        if !self.take_slot(max_requests) {
            return None;
        }
        match self.breaker.admit(settings) {
            Some(ticket) => Some(Lease::new(self.clone(), ticket)),
            None => {
                self.free_slot();
                None
            }
        }
    }

    /// One compare-and-swap: never over `max_requests`, whatever the concurrency.
    fn take_slot(&self, max_requests: u32) -> bool {
        let take = |taken: u32| (taken < max_requests).then_some(taken + 1);
        // Relaxed: the count orders nothing; what a freed slot means is ordered by `free_slot`.
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Sequentially consistent with the queue's length, see there.
    pub(super) fn free_slot(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.common.room_made();
    }
}
