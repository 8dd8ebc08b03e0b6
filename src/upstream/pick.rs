//! One pick: from a set of servers to a claimed lease, or the reason why not.

use std::sync::Arc;

use crate::upstream::pool::{Pooled, Pools, ServerConnections};
use crate::upstream::server::ServerId;

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
    pub carry: &'a dyn Carry,
    pub random: &'a mut fastrand::Rng,
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
            let mut random = fastrand::Rng::with_seed(1);
            let tried = [upstream.servers()[0].id()];
            let mut leases = Vec::with_capacity(100);
            let mut refused = 0;
            // What a thread sets up once is not a pick's.
            let mut pick_all = |leases: &mut Vec<_>| {
                for round in 0..10_u64 {
                    let mut pick = Pick {
                        tried: if round % 2 == 0 { &[] } else { &tried },
                        hash: Some(round.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
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
