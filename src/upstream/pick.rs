//! One pick: from a set of servers to a claimed lease, or the reason why not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance;
use crate::upstream::lease::Lease;
use crate::upstream::plan::Role;
use crate::upstream::pool::{Pooled, Pools, ServerConnections};
use crate::upstream::server::{Server, ServerId};
use crate::upstream::server_set::{Candidates, Member, Obstacle, ServerSet};
use crate::upstream::sticky::Tag;
use crate::upstream::upstream::Upstream;
use crate::util::clock;
use crate::util::random::Random;

/// Claims that a pick may lose to other workers before it takes the servers for full.
const LOST_CLAIMS: usize = 16;

/// Which servers the connections of one worker can carry a request to (`max-connections`).
///
/// A seam: the pools of a worker implement it, tests and `explain` take [`AnyConnection`].
pub trait Carry {
    /// This worker has an idle connection to the server or may open one.
    fn can_carry(&self, server: &Arc<ServerConnections>) -> bool;

    /// A request waits for a connection to this server: have another worker close an idle one.
    /// What can be carried has to be looked at once more afterwards.
    fn want(&self, server: &Arc<ServerConnections>);
}

/// No limit on connections.
pub struct AnyConnection;

impl Carry for AnyConnection {
    fn can_carry(&self, _server: &Arc<ServerConnections>) -> bool {
        true
    }

    fn want(&self, _server: &Arc<ServerConnections>) {}
}

impl<C: Pooled + 'static> Carry for Pools<C> {
    fn can_carry(&self, server: &Arc<ServerConnections>) -> bool {
        Pools::can_carry(self, server)
    }

    fn want(&self, server: &Arc<ServerConnections>) {
        Pools::want(self, server);
    }
}

/// What a request brings to a pick.
pub struct Pick<'a> {
    /// Servers that this request was already sent to. Empty: a first attempt, which draws from the
    /// order; a retry never draws.
    pub tried: &'a [ServerId],
    /// Of the request's hash key, when the upstream balances by `hash`.
    pub hash: Option<u64>,
    /// The server that the request's cookie names: a first attempt goes there while it takes it.
    pub sticky: Option<Tag>,
    pub carry: &'a dyn Carry,
    pub random: &'a mut Random,
}

/// Why no server takes the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Those in rotation are full: a first attempt stands in the queue ([`super::Upstream::enqueue`]).
    Full,
    /// The queue is full, or off.
    Overloaded { retry_after: u64 },
    /// The queue's time passed.
    QueueTimeout { retry_after: u64 },
    /// Only open breakers stand in the way.
    CircuitOpen { retry_after: u64 },
    /// No server at all is in rotation.
    NoServer { retry_after: u64 },
}

impl Refused {
    /// For `Retry-After`: whole seconds to the next probe or check, rounded up, at least 1.
    pub fn retry_after(self) -> u64 {
        match self {
            Refused::Full => 1,
            Refused::Overloaded { retry_after }
            | Refused::QueueTimeout { retry_after }
            | Refused::CircuitOpen { retry_after }
            | Refused::NoServer { retry_after } => retry_after,
        }
    }
}

impl Upstream {
    /// Picks a server and claims a slot of it, among the servers that the upstream of this name
    /// has now. Never allocates, never waits.
    ///
    /// [`Refused::Full`] on a first attempt: stand in the queue.
    pub fn pick(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        // Whoever waits goes first. A retry has waited already, and never queues.
        if pick.tried.is_empty() && !self.common().queue().is_empty() {
            return Err(Refused::Full);
        }
        if self.is_replaced()
            && let Some(current) = &*self.common().current()
        {
            return current.pick_here(pick);
        }
        self.pick_here(pick)
    }

    /// The same for one who waits.
    pub(super) fn pick_for_waiter(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        if self.is_replaced()
            && let Some(current) = &*self.common().current()
        {
            return current.pick_waiting(pick);
        }
        self.pick_waiting(pick)
    }

    fn pick_waiting(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        let picked = self.pick_here(pick);
        if !matches!(picked, Err(Refused::Full))
            || self.config().connections.max_connections.is_none()
        {
            return picked;
        }
        // Wish first, then look again: one of the two sees a connection that is closed meanwhile.
        self.want_connections(pick);
        self.pick_here(pick)
    }

    fn pick_here(&self, pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        let set = self.load_set();
        let candidates = Candidates {
            set: &set,
            config: self.config(),
            tried: pick.tried,
            carry: pick.carry,
            now_ms: match set.picker().asks_for_latency() {
                true => self.common().ms(clock::now()),
                false => 0,
            },
        };
        let limit = self.common().limit();
        let retries = !pick.tried.is_empty();
        if !retries && limit.is_full() {
            limit.hold();
            return Err(self.refusal(&candidates));
        }
        if let Some(tag) = pick.sticky
            && pick.tried.is_empty()
            && let Some(index) = candidates.stuck(tag)
            && let Some(lease) = self.claim_in(&set, index)
        {
            return self.admit(lease, retries);
        }
        let question = balance::Pick {
            servers: &candidates,
            first_attempt: pick.tried.is_empty(),
            hash: pick.hash,
        };
        for _ in 0..LOST_CLAIMS {
            let Some(index) = set.picker().pick(&question, pick.random) else {
                break;
            };
            if let Some(lease) = self.claim_in(&set, index) {
                return self.admit(lease, retries);
            }
        }
        Err(self.refusal(&candidates))
    }

    /// A place under the upstream's limit, which somebody else may have been faster to take.
    fn admit(&self, mut lease: Lease, past: bool) -> Result<Lease, Refused> {
        let admission = self.common().limit().enter(past).ok_or(Refused::Full)?;
        lease.admitted(admission);
        Ok(lease)
    }

    fn claim_in(&self, set: &ServerSet, index: usize) -> Option<Lease> {
        let member = set.members().get(index)?;
        member
            .server
            .claim(member.max_requests, &self.config().breaker)
    }

    /// Claims a slot of one server, if it admits a request now: for a connection that is bound to
    /// one client.
    pub fn claim(self: &Arc<Self>, server: &Arc<Server>) -> Option<Lease> {
        let current = self.latest();
        let set = current.load_set();
        let same = |member: &Member| Arc::ptr_eq(&member.server, server);
        let index = set.members().iter().position(same)?;
        if !set.members()[index].takes_requests {
            return None;
        }
        let lease = current.claim_in(&set, index)?;
        current.admit(lease, true).ok()
    }

    /// Why no server takes a first attempt now; `None` where one does. Nothing is claimed.
    pub fn refuses(&self, now: Instant) -> Option<Refused> {
        let set = self.load_set();
        let candidates = Candidates {
            set: &set,
            config: self.config(),
            tried: &[],
            carry: &AnyConnection,
            now_ms: self.common().ms(now),
        };
        let takes = |index| candidates.obstacle(index).is_none();
        let free = !self.common().limit().is_full() && (0..set.members().len()).any(takes);
        (!free).then(|| self.refusal(&candidates))
    }

    /// Why nothing took the request. A look at every server: only on the way to a refusal.
    fn refusal(&self, candidates: &Candidates<'_>) -> Refused {
        let mut ejected = false;
        for index in 0..candidates.set.members().len() {
            match candidates.obstacle(index) {
                Some(Obstacle::Role(role)) => ejected |= role.ejected(),
                // A probe came back well: who comes now waits for the next one, or for the close.
                Some(Obstacle::NoProbe) if self.is_closing(candidates, index) => {
                    return Refused::Full;
                }
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

    fn is_closing(&self, candidates: &Candidates<'_>, index: usize) -> bool {
        let member = candidates.set.members().get(index);
        self.config().queue.is_some()
            && member.is_some_and(|member| member.server.breaker().is_closing())
    }

    /// Has other workers close idle connections to servers that lack nothing else.
    fn want_connections(&self, pick: &Pick<'_>) {
        for member in self.load_set().members() {
            let server = &member.server;
            if member.takes_requests
                && server.in_flight() < member.max_requests
                && !pick.carry.can_carry(server.connections())
            {
                pick.carry.want(server.connections());
            }
        }
    }

    /// Whole seconds from `now` to the next probe or check of a server that is out, rounded up, at
    /// least 1: for `Retry-After`.
    pub fn retry_after(&self, now: Instant) -> u64 {
        let set = self.load_set();
        let out = set.members().iter().zip(set.roles());
        let out = out.map(|(member, role)| (&member.server, role));
        let next = out.filter_map(|(server, role)| match role {
            Role::Draining | Role::NoWeight | Role::Unresolved => None,
            Role::Unhealthy | Role::Waiting => server.next_check(),
            Role::HalfOpen => Some(now),
            // Open, maybe not known to the order yet.
            Role::Open | Role::InRotation | Role::StandBy => self.half_open_at(server, now),
        });
        let wait = next
            .min()
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        wait.as_millis().div_ceil(1_000).max(1) as u64
    }

    /// Some server has a free slot that some worker can use.
    pub(super) fn has_room(&self) -> bool {
        match &*self.common().current() {
            Some(current) => current.has_room_here(),
            None => self.has_room_here(),
        }
    }

    fn has_room_here(&self) -> bool {
        if self.common().limit().is_full() {
            return false;
        }
        let set = self.load_set();
        let limit = self.config().connections.max_connections;
        set.members().iter().any(|member| {
            let server = &member.server;
            let connections = server.connections();
            member.takes_requests
                && server.in_flight() < member.max_requests
                && server.breaker().would_admit(&self.config().breaker)
                && limit.is_none_or(|limit| connections.open() < limit || connections.idle() > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Balance, HashKey};
    use crate::upstream::testing::{config, publish, registry};

    /// Invariant: a pick never allocates, whatever the policy, refused or not.
    #[tokio::test]
    async fn a_pick_never_allocates() {
        let boxed = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
        assert_eq!(boxed.count_total, 1, "allocations are counted");
        let policies = [
            Balance::Random,
            Balance::RoundRobin,
            Balance::SmoothWeighted,
            Balance::LeastRequests,
            Balance::PeakEwma,
            Balance::Hash(HashKey::ClientIp),
        ];
        for balance in policies {
            let mut config = config(&[(1, 1), (2, 1), (3, 1)]);
            for server in &mut config.servers {
                server.max_requests = 2;
            }
            config.balance = balance.clone();
            let upstream = publish(&registry(), config);
            let mut random = Random::seeded(1);
            let tried = [upstream.servers()[0].id()];
            let mut leases = Vec::with_capacity(100);
            let mut refused = 0;
            // What a thread sets up once is not a pick's.
            let mut pick_all = |leases: &mut Vec<_>| {
                for round in 0..10_u64 {
                    let mut pick = Pick {
                        tried: if round % 2 == 0 { &[] } else { &tried },
                        hash: Some(round.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                        sticky: None,
                        carry: &AnyConnection,
                        random: &mut random,
                    };
                    match upstream.pick(&mut pick) {
                        Ok(lease) => leases.push(lease),
                        Err(_) => refused += 1,
                    }
                }
                leases.clear();
            };
            pick_all(&mut leases);
            let counted = allocation_counter::measure(|| pick_all(&mut leases));
            assert_eq!(counted.count_total, 0, "{balance:?} allocated");
            assert!(refused > 0, "some picks were refused");
        }
    }
}
