//! The servers that a pick chooses among: immutable, swapped whole.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::balance::{Picker, Servers, Start};
use crate::config::model;
use crate::upstream::breaker;
use crate::upstream::pick::Carry;
use crate::upstream::plan::{Plan, Role};
use crate::upstream::roster::Roster;
use crate::upstream::server::{Server, ServerId};
use crate::upstream::sticky::Tags;

/// The servers of an upstream at one moment and the order to draw them in.
///
/// Built aside by the control task, a reload or the admin API; a pick reads one and never sees it
/// change. What moves with every request (slots, probes, latency) is in the servers.
#[derive(Debug)]
pub struct ServerSet {
    plan: Plan,
    picker: Arc<Picker>,
    roster: Arc<Roster>,
    /// In the order of the roster.
    members: SmallVec<[Member; 3]>,
    /// `max-connections` is set.
    limited: bool,
    /// Where clients stick to servers.
    tags: Option<Arc<Tags>>,
}

/// What a pick needs of a server beside its live state: of many, side by side.
#[derive(Debug)]
pub(super) struct Member {
    pub server: Arc<Server>,
    pub max_requests: u32,
    /// By its role.
    pub takes_requests: bool,
}

impl ServerSet {
    /// The first one of an upstream: its order starts at the beginning.
    pub(super) fn first(config: &model::Upstream, roster: &Arc<Roster>, plan: Plan) -> Self {
        let picker = Picker::build(&config.balance, &plan.entries, Start::Beginning);
        let tags = Tags::new(config, &roster.servers, None);
        ServerSet::new(config, roster, plan, Arc::new(picker), tags)
    }

    /// The one after this; the order goes on where weights and set are the same.
    pub(super) fn next(&self, config: &model::Upstream, roster: &Arc<Roster>, plan: Plan) -> Self {
        let picker = match self
            .picker
            .rebuilt(&config.balance, &plan.entries, fastrand::u64(..))
        {
            Some(picker) => Arc::new(picker),
            None => self.picker.clone(),
        };
        let servers = &*roster.servers;
        let same =
            servers.len() == self.members.len() && servers.iter().zip(&self.members).all(is_member);
        let tags = Tags::new(config, servers, self.tags.as_ref().filter(|_| same));
        ServerSet::new(config, roster, plan, picker, tags)
    }

    fn new(
        config: &model::Upstream,
        roster: &Arc<Roster>,
        plan: Plan,
        picker: Arc<Picker>,
        tags: Option<Arc<Tags>>,
    ) -> Self {
        let members = roster.members().zip(&plan.roles);
        let members = members.map(|((seat, server), role)| Member {
            server: server.clone(),
            max_requests: seat.max_requests,
            takes_requests: role.takes_requests(),
        });
        ServerSet {
            members: members.collect(),
            roster: roster.clone(),
            limited: config.connections.max_connections.is_some(),
            plan,
            picker,
            tags,
        }
    }

    pub(super) fn tags(&self) -> Option<&Tags> {
        self.tags.as_deref()
    }

    pub(super) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Of each server, in the order of the roster.
    pub fn roles(&self) -> &[Role] {
        &self.plan.roles
    }

    /// Failed checks are ignored.
    pub fn panic(&self) -> bool {
        self.plan.panic
    }
}

fn is_member((server, member): (&Arc<Server>, &Member)) -> bool {
    Arc::ptr_eq(server, &member.server)
}

/// A set as one request sees it: what [`Picker`] asks.
pub(super) struct Candidates<'a> {
    pub set: &'a ServerSet,
    pub config: &'a model::Upstream,
    /// Of the request.
    pub tried: &'a [ServerId],
    pub carry: &'a dyn Carry,
    /// Milliseconds of the upstream's clock.
    pub now_ms: u64,
}

/// What keeps one server from taking one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Its role.
    Role(Role),
    /// This request was there already.
    Tried,
    /// Every probe is taken.
    NoProbe,
    /// `max-requests` are in flight.
    Full,
    /// At `max-connections`, and this worker has none idle.
    NoConnection,
}

impl Candidates<'_> {
    /// The first thing that stands in the way, if anything does.
    pub fn obstacle(&self, index: usize) -> Option<Obstacle> {
        match self.set.plan.roles.get(index) {
            Some(role) if role.takes_requests() => self.passing_obstacle(index),
            Some(&role) => Some(Obstacle::Role(role)),
            None => Some(Obstacle::Role(Role::NoWeight)),
        }
    }

    /// The same beside its role.
    pub(super) fn passing_obstacle(&self, index: usize) -> Option<Obstacle> {
        let Some(member) = self.set.members.get(index) else {
            return Some(Obstacle::Role(Role::NoWeight));
        };
        let server = &member.server;
        // The order may be older than the breaker's last flip.
        if !server.breaker().would_admit(&self.config.breaker) {
            return Some(match server.breaker_state(&self.config.breaker) {
                breaker::State::Open => Obstacle::Role(Role::Open),
                _ => Obstacle::NoProbe,
            });
        }
        if self.tried.contains(&server.id()) {
            return Some(Obstacle::Tried);
        }
        if server.in_flight() >= member.max_requests {
            return Some(Obstacle::Full);
        }
        if self.set.limited && !self.carry.can_carry(server.connections()) {
            return Some(Obstacle::NoConnection);
        }
        None
    }
}

impl Servers for Candidates<'_> {
    fn admits(&self, index: usize) -> bool {
        // Nothing else can be in the way of the usual attempt, and little memory is read.
        let usual = |member: &Member| {
            member.takes_requests
                && self.tried.is_empty()
                && !self.set.limited
                && member.server.is_open_to(member.max_requests)
        };
        self.set.members.get(index).is_some_and(usual) || self.obstacle(index).is_none()
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.set.members[index].server.in_flight()
    }

    fn latency(&self, index: usize) -> Option<f64> {
        self.set.members[index].server.latency().faded(self.now_ms)
    }
}
