//! Which live servers an upstream has: those of its seats, kept by address.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Inner, Registry};
use crate::config::model::{self, ServerAddress};
use crate::upstream::common::{Common, lock};
use crate::upstream::control;
use crate::upstream::resolve::Addresses;
use crate::upstream::roster::Roster;
use crate::upstream::seats::{Place, Seat, Seats};
use crate::upstream::server::Server;
use crate::upstream::tasks;
use crate::upstream::upstream::Upstream;

impl Registry {
    /// The live servers for these seats; those that are not there are made, and nobody sees them.
    pub(super) fn roster(
        &self,
        inner: &mut Inner,
        config: &Arc<model::Upstream>,
        common: &Arc<Common>,
        seats: Seats,
        before: Option<&Roster>,
    ) -> Arc<Roster> {
        let weight = |entry: usize| config.servers.get(entry).map_or(0, |server| server.weight);
        let beside_others = before.is_some_and(|before| before.stays_in(&seats, weight));
        let server = |seat: &Seat| {
            if let Some(known) = common.server(&seat.key) {
                return known;
            }
            let addresses = match &seat.key {
                ServerAddress::Ip(address) => Addresses::fixed(*address),
                ServerAddress::Unix(_) => Addresses::pending(),
                name => inner.names.first(name),
            };
            // The first answer of a name that was there from the start is the start.
            let name = config.servers.get(seat.owner()).map(|entry| &entry.address);
            let waited = before.zip(name).is_some_and(|(before, name)| {
                let seat = |(seat, server): &(&Seat, &Arc<Server>)| {
                    seat.key == *name && seat.place == Place::Pending && !server.joined()
                };
                before.members().any(|member| seat(&member))
            });
            let joins = beside_others && !waited;
            Server::new(seat, addresses, common, config, joins, &self.metrics)
        };
        let servers = seats.list.iter().map(server).collect();
        Arc::new(Roster { seats, servers })
    }

    /// Names may have moved since it was prepared: what was learnt meanwhile is not taken back.
    pub(super) fn catch_up(&self, inner: &mut Inner, next: &Arc<Upstream>) {
        let (config, common) = (next.config(), next.common());
        let before = (*common.current()).clone();
        if before
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(before, next))
        {
            // It stays as it is: the control task, which is woken, gives it its servers.
            return;
        }
        // The same answer may have come to the generation before while ours was prepared.
        let another = |server: &Arc<Server>| {
            let known = common.server(server.address());
            known.is_some_and(|known| !Arc::ptr_eq(&known, server))
        };
        if !next.seated_at(inner.names.changes()) && !next.servers().iter().any(another) {
            return;
        }
        let before = before.map(|before| before.roster());
        let seats = inner.names.seats(config);
        let overrides = inner.overrides.of(config, &seats);
        let roster = self.roster(inner, config, common, seats, before.as_deref());
        next.reseat(&roster, overrides);
    }

    /// Gives an upstream the servers that its names lead to now: the smaller loop of the same kind
    /// as a reload. On the control runtime.
    pub(super) fn reseat(&self, upstream: &Arc<Upstream>, now: Instant) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        // A reload was faster: what it published is looked at by itself.
        let current = |current: &Arc<Upstream>| Arc::ptr_eq(current, upstream);
        if !inner.current.iter().any(current) {
            return;
        }
        upstream.seated_at(inner.names.changes());
        let (config, common) = (upstream.config(), upstream.common());
        let seats = inner.names.seats(config);
        let before = upstream.roster();
        if before.seats == seats {
            return;
        }
        let roster = self.roster(inner, config, common, seats, Some(&before));
        for (seat, server) in roster.members() {
            common.adopt(server);
            tasks::attach(server, seat, config);
        }
        let overrides = inner.overrides.of(config, &roster.seats);
        {
            let _stepping = lock(&common.stepping);
            upstream.reseat(&roster, overrides);
        }
        control::step(upstream, now);
        remove(&before, &roster, common);
    }
}

/// Lets go of the servers that are in `before` only: their requests finish.
pub(super) fn remove(before: &Roster, next: &Roster, common: &Common) {
    for server in before.removed(next) {
        server.breaker().settle_place(false, common.places());
        tasks::detach(server);
    }
}
