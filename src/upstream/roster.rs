//! The live servers of an upstream in their seats.

use std::sync::Arc;

use crate::config::model::ServerAddress;
use crate::upstream::seats::{Place, Seat, Seats};
use crate::upstream::server::Server;

/// Immutable; a reload or an answer brings another one.
#[derive(Debug)]
pub struct Roster {
    pub seats: Seats,
    /// In the order of the seats, as many.
    pub servers: Arc<[Arc<Server>]>,
}

impl Roster {
    pub fn members(&self) -> impl Iterator<Item = (&Seat, &Arc<Server>)> {
        self.seats.list.iter().zip(&*self.servers)
    }

    pub fn server(&self, key: &ServerAddress) -> Option<&Arc<Server>> {
        self.servers.iter().find(|server| server.address() == key)
    }

    /// A server of it that takes new requests is in `seats` too: what is new there joins others.
    pub fn stays_in(&self, seats: &Seats, weight: impl Fn(usize) -> u32) -> bool {
        seats.list.iter().any(|seat| {
            seat.place == Place::Known
                && seat.weight(&weight) > 0
                && !seat.drain
                && self.server(&seat.key).is_some()
        })
    }

    /// Those that are not in `next`.
    pub fn removed<'a>(&'a self, next: &'a Roster) -> impl Iterator<Item = &'a Arc<Server>> {
        let stays =
            |server: &Arc<Server>| next.servers.iter().any(|next| Arc::ptr_eq(next, server));
        self.servers.iter().filter(move |server| !stays(server))
    }
}
