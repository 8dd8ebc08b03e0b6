//! Which server an attempt goes to: a lease and a connection slot, or the reason why not.

use std::sync::Arc;
use std::task::Context as TaskContext;

use crate::config::model::ProxyProtocol;
use crate::proxy::attempt::Held;
use crate::proxy::context::Bound;
use crate::proxy::error::Failure;
use crate::proxy::exchange::Journey;
use crate::proxy::retry;
use crate::proxy::steps;
use crate::proxy::transaction::Transaction;
use crate::telemetry::Reason;
use crate::upstream::pool::{Acquired, Claim};
use crate::upstream::{Lease, Pick, Refused, ServerId, Upstream};
use crate::util::clock;
use crate::util::timer::Deadline;
use crate::wire::client::Connection;

/// Places at a server, and what to reach it by.
pub(super) struct Selected {
    pub held: Held,
    pub via: Via,
}

pub(super) enum Via {
    /// A kept connection.
    Kept(Connection),
    /// One that is to be opened.
    Dial,
}

impl Transaction {
    /// For a first attempt. [`Refused::Full`]: stand in the upstream's queue.
    pub(super) fn select_first(
        &self,
        upstream: &Arc<Upstream>,
        mut waiter: Option<&mut TaskContext<'_>>,
    ) -> Result<Selected, Refused> {
        if let Some(bound) = self.take_bound(upstream, waiter.as_deref_mut()) {
            return Ok(bound);
        }
        self.pick(upstream, &[], waiter)
    }

    /// For a further attempt: a server not tried yet that admits now. Retries never queue.
    pub(super) fn select_other(&self, journey: &Journey<'_>) -> Option<Selected> {
        self.pick(journey.upstream, &journey.tried, None).ok()
    }

    fn pick(
        &self,
        upstream: &Arc<Upstream>,
        tried: &[ServerId],
        waiter: Option<&mut TaskContext<'_>>,
    ) -> Result<Selected, Refused> {
        let context = &self.account.context;
        let mut random = context.random.borrow_mut();
        let mut pick = Pick {
            tried,
            hash: self.hash_key(upstream),
            sticky: self.stuck_to(),
            carry: &*context.pools,
            random: &mut random,
        };
        let lease = upstream.pick(&mut pick)?;
        self.acquire(lease, upstream, waiter)
    }

    /// A lease claims a request slot; the connection slot is claimed here. Another worker may
    /// have taken the last one since the pick.
    fn acquire(
        &self,
        lease: Lease,
        upstream: &Upstream,
        waiter: Option<&mut TaskContext<'_>>,
    ) -> Result<Selected, Refused> {
        let introduction = upstream.config().proxy_protocol;
        let (claim, via) = match introduction {
            ProxyProtocol::Off => self.acquire_shared(&lease, waiter),
            _ => self.acquire_introduced(&lease, waiter),
        }
        .ok_or(Refused::Full)?;
        let held = Held {
            claim,
            lease,
            bound: false,
            introduction,
        };
        Ok(Selected { held, via })
    }

    /// `None`: there may be no further one.
    fn acquire_shared(
        &self,
        lease: &Lease,
        waiter: Option<&mut TaskContext<'_>>,
    ) -> Option<(Claim<Connection>, Via)> {
        let pools = &self.account.context.pools;
        let method = &self.account.head.method;
        let server = lease.server().connections();
        let acquired = match retry::resend_after_stale(method, true, self.replayable()) {
            true => pools.acquire(server, waiter),
            false => pools.acquire_for_once(server, waiter),
        };
        claimed(acquired)
    }

    /// Of a server that is told whose connection it is: one that this client's connection has had
    /// before, or a new one.
    fn acquire_introduced(
        &self,
        lease: &Lease,
        waiter: Option<&mut TaskContext<'_>>,
    ) -> Option<(Claim<Connection>, Via)> {
        if let Some(kept) = self.take_introduced(lease, waiter) {
            return Some((kept.claim, Via::Kept(kept.connection)));
        }
        let pools = &self.account.context.pools;
        claimed(pools.acquire_new(lease.server().connections()))
    }

    fn take_introduced(
        &self,
        lease: &Lease,
        waiter: Option<&mut TaskContext<'_>>,
    ) -> Option<Bound> {
        let mut introduced = self.connection.introduced.borrow_mut();
        let at = introduced
            .iter()
            .position(|kept| Arc::ptr_eq(&kept.server, lease.server()))?;
        let mut kept = introduced.swap_remove(at);
        // What a reload ended is not used again either.
        let usable = kept.claim.is_current() && kept.connection.is_usable(waiter);
        usable.then_some(kept)
    }

    pub(super) async fn wait_in_queue(
        &mut self,
        upstream: &Arc<Upstream>,
    ) -> Result<Selected, Failure> {
        let (hash, sticky) = (self.hash_key(upstream), self.stuck_to());
        let context = self.account.context.clone();
        let now = clock::now();
        let total = self.total.as_ref().map(Deadline::expires_at);
        let patience = total.map(|ends| ends.saturating_duration_since(now));
        let mut waiter = upstream
            .enqueue(&context.timers, patience)
            .map_err(failure)?;
        loop {
            let lease = self
                .within(std::future::poll_fn(|cx| {
                    let mut random = context.random.borrow_mut();
                    let carry = &*context.pools;
                    let mut pick = Pick {
                        tried: &[],
                        hash,
                        sticky,
                        carry,
                        random: &mut random,
                    };
                    waiter.poll(cx, &mut pick)
                }))
                .await?
                .map_err(failure)?;
            match self.acquire(lease, upstream, None) {
                // Another worker opened the last connection between our look and our claim.
                Err(Refused::Full) => waiter.go_on(),
                acquired => return acquired.map_err(failure),
            }
        }
    }

    /// The upstream connection that NTLM or Negotiate bound to this client, if it is still good
    /// and leads to the upstream that the request goes to.
    fn take_bound(
        &self,
        upstream: &Arc<Upstream>,
        waiter: Option<&mut TaskContext<'_>>,
    ) -> Option<Selected> {
        let mut slot = self.connection.bound.borrow_mut();
        if slot.as_ref()?.server.upstream() != upstream.name() {
            return None;
        }
        let Bound {
            server,
            mut connection,
            claim,
            ..
        } = slot.take()?;
        if !connection.is_usable(waiter) {
            return None;
        }
        let held = Held {
            claim,
            lease: upstream.claim(&server)?,
            bound: true,
            introduction: ProxyProtocol::Off,
        };
        let via = Via::Kept(connection);
        Some(Selected { held, via })
    }

    pub(super) fn hash_key(&self, upstream: &Upstream) -> Option<u64> {
        let account = &self.account;
        steps::hash_key(&upstream.config().balance, &account.head, account.client)
    }
}

fn claimed(acquired: Acquired<Connection>) -> Option<(Claim<Connection>, Via)> {
    match acquired {
        Acquired::Kept(connection, claim) => Some((claim, Via::Kept(connection))),
        Acquired::Dial(claim) => Some((claim, Via::Dial)),
        Acquired::Full => None,
    }
}

pub(super) fn failure(refused: Refused) -> Failure {
    let reason = match refused {
        Refused::Full | Refused::Overloaded { .. } => Reason::Overloaded,
        Refused::QueueTimeout { .. } => Reason::QueueTimeout,
        Refused::CircuitOpen { .. } => Reason::CircuitOpen,
        Refused::NoServer { .. } => Reason::NoServer,
    };
    Failure::new(reason).retry_after(refused.retry_after())
}
