//! What operators see of an upstream: `/status`, `explain`, the dashboard.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::config::model::{self, Balance, BreakerMode};
use crate::upstream::breaker;
use crate::upstream::common::lock;
use crate::upstream::health::verdict::Standing;
use crate::upstream::overrides::Override;
use crate::upstream::pick::AnyConnection;
use crate::upstream::plan::{Facts, Role};
use crate::upstream::resolve::NameView;
use crate::upstream::seats::{Place, Seat};
use crate::upstream::server::Server;
use crate::upstream::server_set::{Candidates, Obstacle, ServerSet};
use crate::upstream::sticky::Tag;
use crate::upstream::upstream::Upstream;

/// An upstream as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpstreamView {
    pub name: String,
    pub balance: &'static str,
    /// Failed checks are ignored.
    pub panic: bool,
    pub queue_length: usize,
    /// `None`: no queue.
    pub queue_size: Option<usize>,
    /// `None`: `concurrency = "off"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyView>,
    /// Places taken under `max-ejected`.
    pub ejected: u32,
    /// The name of the cookie by which clients stay with a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<String>,
    /// That lead to servers, in the order of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NameView>,
    pub servers: Vec<ServerView>,
}

/// What the admin API answers to a change.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OverriddenView {
    Server(Box<ServerView>),
    Name {
        name: String,
        servers: Vec<ServerView>,
    },
}

/// The adaptive limit as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConcurrencyView {
    /// Requests that may be in flight over all servers.
    pub limit: u32,
    /// Those that count: not what has been under way for very long.
    pub in_flight: u32,
    /// Time to the response head without a queue; `None` before it is known.
    pub unloaded_latency_seconds: Option<f64>,
}

/// A server as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerView {
    pub address: String,
    /// As configured, if that leads to this address; of several the first is the one it is asked
    /// for by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve_error: Option<String>,
    pub state: &'static str,
    /// What a sticky cookie calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_tag: Option<String>,
    /// As configured, for all servers of a name together.
    pub weight: u32,
    /// Its part of that, with override and slow start; 0 when it takes no requests.
    pub effective_weight: f64,
    /// Of slow start; `None` when it is not under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_percent: Option<u32>,
    pub backup: bool,
    pub draining: bool,
    /// What the admin API set.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub changed: Option<Override>,
    pub in_flight: u32,
    pub max_requests: u32,
    pub latency_seconds: Option<f64>,
    pub breaker: BreakerView,
    /// `None`: no checks.
    pub health: Option<HealthView>,
    pub connections: ConnectionsView,
    /// Attempts since the server is known.
    pub attempts: u64,
    pub failures: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BreakerView {
    pub mode: &'static str,
    pub state: &'static str,
    /// Until an open one lets probes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_to_probe: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthView {
    pub verdict: &'static str,
    /// Of the last check, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_since_check: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionsView {
    pub active: usize,
    pub idle: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
}

/// How likely a server is to take one request, and if it cannot, why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChanceView {
    pub address: String,
    /// As configured, where that leads to the address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// 0 to 1, of a first attempt now.
    pub chance: f64,
    pub state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl UpstreamView {
    /// At `now`.
    pub fn of(upstream: &Upstream, now: Instant) -> Self {
        let config = upstream.config();
        let set = upstream.set();
        let servers = 0..set.roster().servers.len();
        let facts = upstream.facts_in(set.roster(), now);
        UpstreamView {
            name: config.name.to_string(),
            balance: policy(&config.balance),
            panic: set.panic(),
            queue_length: upstream.queue_length(),
            queue_size: config.queue.as_ref().map(|queue| queue.size),
            concurrency: upstream.concurrency(),
            ejected: upstream.common().places().taken(),
            sticky_cookie: config.sticky.as_ref().map(|sticky| sticky.cookie.clone()),
            names: Vec::new(),
            servers: servers
                .filter_map(|index| ServerView::in_set(upstream, &set, &facts, index, now))
                .collect(),
        }
    }
}

impl ServerView {
    /// Of the server at `index` of `set`.
    fn in_set(
        upstream: &Upstream,
        set: &ServerSet,
        facts: &[Facts],
        index: usize,
        now: Instant,
    ) -> Option<Self> {
        let config = upstream.config();
        let roster = set.roster();
        let (seat, server) = roster.members().nth(index)?;
        let (facts, role) = (facts.get(index)?, *set.roles().get(index)?);
        let entry = config.servers.get(seat.owner())?;
        let weight = f64::from(facts.weight) / f64::from(roster.seats.scale);
        let share = weight * f64::from(facts.tenths) / 10.0;
        let ramping = lock(&server.control).ramp_since.is_some();
        let changed = upstream.override_of(index);
        let (active, idle) = server.connections().active_and_idle();
        Some(ServerView {
            address: server.label().to_string(),
            names: names(config, seat),
            resolve_error: server.addresses().failure().map(|cause| cause.to_string()),
            state: match (role, seat.place) {
                (Role::InRotation | Role::StandBy, Place::Pending) => "resolving",
                (role, _) => state(role),
            },
            sticky_tag: upstream.tag_of(server).map(|tag| tag.to_string()),
            weight: entry.weight,
            effective_weight: if role.takes_requests() { share } else { 0.0 },
            slow_start_percent: ramping.then_some(facts.tenths * 10),
            backup: seat.backup,
            draining: facts.draining,
            changed: (changed != Override::default()).then_some(changed),
            in_flight: server.in_flight(),
            max_requests: seat.max_requests,
            latency_seconds: server.latency().latest(),
            breaker: breaker_view(upstream, server, facts, now),
            health: config.health.as_ref().map(|_| health_view(server, now)),
            connections: ConnectionsView {
                active,
                idle,
                max: config.connections.max_connections,
            },
            attempts: server.metrics().attempts_total(),
            failures: server.metrics().failures_total(),
        })
    }

    /// Of the server at `index`; under the registry's lock.
    pub(super) fn of(upstream: &Upstream, index: usize, now: Instant) -> Option<Self> {
        let set = upstream.set();
        let facts = upstream.facts_in(set.roster(), now);
        Self::in_set(upstream, &set, &facts, index, now)
    }
}

impl Upstream {
    /// The adaptive limit, if there is one.
    pub fn concurrency(&self) -> Option<ConcurrencyView> {
        let reading = self.common().limit().reading()?;
        Some(ConcurrencyView {
            limit: reading.limit,
            in_flight: reading.in_flight,
            unloaded_latency_seconds: reading.base_seconds,
        })
    }

    /// Whether what the active checks say is ignored now.
    pub fn is_panicking(&self) -> bool {
        self.set().panic()
    }

    /// How likely each server is to take a first attempt with this hash key and this tag of a
    /// sticky cookie now, and why each of the others is not. The same questions as a pick asks,
    /// and nothing is claimed.
    pub fn explain(&self, hash: Option<u64>, sticky: Option<Tag>, now: Instant) -> Vec<ChanceView> {
        let set = self.set();
        let candidates = Candidates {
            set: &set,
            config: self.config(),
            tried: &[],
            carry: &AnyConnection,
            now_ms: self.common().ms(now),
        };
        let stuck = sticky.and_then(|tag| candidates.stuck(tag));
        let chances = set
            .picker()
            .chances(&candidates, hash, set.roster().servers.len());
        let of_server = |(index, server): (usize, &std::sync::Arc<Server>)| {
            let chance = match stuck {
                Some(stuck) => f64::from(u8::from(stuck == index)),
                None => chances.get(index).copied().unwrap_or(0.0),
            };
            let obstacle = match stuck == Some(index) {
                true => None,
                false => candidates.obstacle(index),
            };
            let reason = obstacle.map(|obstacle| self.reason(obstacle, server, now));
            let elsewhere = chance == 0.0 && reason.is_none();
            ChanceView {
                address: server.label().to_string(),
                names: names(self.config(), &set.roster().seats.list[index]),
                chance,
                state: state(set.roles()[index]),
                reason: reason.or_else(|| elsewhere.then(|| elsewhere_because(stuck).into())),
            }
        };
        let servers = set.roster().servers.iter().enumerate();
        servers.map(of_server).collect()
    }

    fn reason(&self, obstacle: Obstacle, server: &Server, now: Instant) -> String {
        match obstacle {
            Obstacle::Role(Role::Open) => match self.half_open_at(server, now) {
                Some(at) => format!(
                    "its breaker is open, probes in {:.1} s",
                    at.saturating_duration_since(now).as_secs_f64()
                ),
                None => "its breaker is open".into(),
            },
            Obstacle::Role(Role::Unhealthy) => {
                let check = server.last_check();
                match check.and_then(|check| check.outcome.err()) {
                    Some(cause) => format!("failed its checks: {cause}"),
                    None => "failed its checks".into(),
                }
            }
            Obstacle::Role(Role::Waiting) => "waits for its first passed check".into(),
            Obstacle::Role(Role::NoWeight) => "its weight is 0".into(),
            Obstacle::Role(Role::Unresolved) => match server.addresses().failure() {
                Some(cause) => format!("does not resolve: {cause}"),
                None => "does not resolve".into(),
            },
            Obstacle::Role(Role::Draining) => "is draining".into(),
            Obstacle::Role(Role::StandBy) => "is a backup while others are in rotation".into(),
            Obstacle::Role(role @ (Role::InRotation | Role::HalfOpen)) => state(role).into(),
            Obstacle::Tried => "was tried by this request".into(),
            Obstacle::NoProbe => "its breaker is half-open and every probe is taken".into(),
            Obstacle::Full => format!("is full: {} requests in flight", server.in_flight()),
            Obstacle::NoConnection => "is at its max-connections".into(),
        }
    }
}

fn elsewhere_because(stuck: Option<usize>) -> &'static str {
    match stuck {
        Some(_) => "the sticky cookie names another server",
        None => "the policy prefers another server",
    }
}

/// The entries of the file that lead to a server, but one that is the server itself.
fn names(config: &model::Upstream, seat: &Seat) -> Vec<String> {
    let entries = seat.parts.iter();
    let addresses = entries.filter_map(|(entry, _)| Some(&config.servers.get(*entry)?.address));
    let names = addresses.filter(|address| **address != seat.key);
    names.map(ToString::to_string).collect()
}

fn breaker_view(upstream: &Upstream, server: &Server, facts: &Facts, now: Instant) -> BreakerView {
    let until = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
    BreakerView {
        mode: match upstream.config().breaker.mode {
            BreakerMode::On => "on",
            BreakerMode::Watch => "watch",
            BreakerMode::Off => "off",
        },
        state: match facts.breaker {
            breaker::State::Closed => "closed",
            breaker::State::HalfOpen => "half-open",
            breaker::State::Open => "open",
        },
        seconds_to_probe: upstream.half_open_at(server, now).map(until),
    }
}

fn health_view(server: &Server, now: Instant) -> HealthView {
    let check = server.last_check();
    let since = |at: Instant| now.saturating_duration_since(at);
    HealthView {
        verdict: match server.standing() {
            Standing::Untested => "untested",
            Standing::Waiting => "waiting",
            Standing::Healthy => "healthy",
            Standing::Unhealthy => "unhealthy",
        },
        last_error: check
            .as_ref()
            .and_then(|check| Some(check.outcome.as_ref().err()?.to_string())),
        seconds_since_check: check.as_ref().map(|check| since(check.at).as_secs_f64()),
        check_seconds: check
            .as_ref()
            .map(|check| Duration::as_secs_f64(&check.took)),
    }
}

fn state(role: Role) -> &'static str {
    match role {
        Role::InRotation => "in rotation",
        Role::StandBy => "backup",
        Role::HalfOpen => "half-open",
        Role::Open => "open",
        Role::Unhealthy => "unhealthy",
        Role::Waiting => "waiting for a check",
        Role::NoWeight => "weight 0",
        Role::Unresolved => "unresolved",
        Role::Draining => "draining",
    }
}

fn policy(balance: &Balance) -> &'static str {
    match balance {
        Balance::Random => "random",
        Balance::RoundRobin => "round-robin",
        Balance::SmoothWeighted => "smooth-weighted",
        Balance::LeastRequests => "least-requests",
        Balance::PeakEwma => "peak-ewma",
        Balance::Hash(_) => "hash",
    }
}
