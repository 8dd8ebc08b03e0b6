//! The connections of one listener on all workers together, and how many there may be.
//!
//! As near its own `max-connections` as the process near its limits, a listener lets go of those of
//! its connections that nobody needs, and has those that come wait for a place: whoever sets such a
//! limit does it so that one listener cannot take everything, not so that a few hundred silent
//! connections keep everybody out of that one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::share::Loads;
use crate::config::model::BindAddress;
use crate::util::capacity::{Capacity, Place};

/// See the module. Known by address: a listener that is renamed keeps its connections.
#[derive(Debug)]
pub struct Room {
    loads: Arc<Loads>,
    address: BindAddress,
    capacity: Capacity,
    /// Of its connections among those of a worker.
    number: u16,
    /// Refused when the last word about it was said.
    before: AtomicU64,
}

/// A connection's places: with its listener and with the process. Given back when dropped.
#[derive(Debug)]
pub struct Admitted<'a>(Place<'a>, Place<'a>);

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Process,
    Listener,
}

impl Admitted<'_> {
    /// Whoever keeps it gives both back by [`Room::leave`].
    pub fn keep(self) {
        self.0.keep();
        self.1.keep();
    }
}

impl Room {
    pub(super) fn loads(&self) -> &Loads {
        &self.loads
    }

    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    /// Takes up what a configuration says; `None` is no limit.
    pub fn set(&self, most: Option<u64>, min_rate: u64) {
        let most = most.map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        });
        if self.capacity.most() != most || self.capacity.min_rate() != min_rate {
            self.capacity.set(most, min_rate);
        }
    }

    /// Places for one more connection.
    pub fn admit(&self) -> Result<Admitted<'_>, Full> {
        // Not taken first and given back: that would look like room to those that wait for it.
        if self.loads.capacity().is_full() {
            return Err(Full::Process);
        }
        let here = self.capacity.place().ok_or(Full::Listener)?;
        let there = self.loads.capacity().place().ok_or(Full::Process)?;
        Ok(Admitted(here, there))
    }

    pub fn leave(&self) {
        self.capacity.leave();
        self.loads.capacity().leave();
    }

    /// Says that it is full, once per episode.
    pub fn tell_of_crowd(&self, listener: &str) {
        if self.capacity.crowds() {
            let (refused, _) = self.capacity.turned_away();
            self.before.store(refused, Ordering::Relaxed);
            let most = self.capacity.most();
            tracing::warn!(
                listener,
                most,
                "connections are at the listener's max-connections: new ones wait"
            );
        }
    }

    /// Says that this is over, once.
    pub fn tell_of_relief(&self) {
        if self.capacity.is_relaxed() {
            let (refused, _) = self.capacity.turned_away();
            let refused = refused - self.before.load(Ordering::Relaxed);
            let address = &self.address;
            match self.capacity.most() {
                usize::MAX => tracing::info!(
                    %address, refused, "the listener's max-connections is off: nobody waits any more"
                ),
                most => tracing::info!(
                    %address, refused, most, "there is room for the listener's connections again"
                ),
            }
        }
    }
}

/// The rooms of all listeners, as long as somebody is in them or may come.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<HashMap<BindAddress, Weak<Room>>>);

impl Rooms {
    pub fn of(&self, address: &BindAddress, loads: &Arc<Loads>) -> Arc<Room> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(address).and_then(Weak::upgrade) {
            return room;
        }
        rooms.retain(|_, room| room.strong_count() > 0);
        let taken: Vec<_> = rooms.values().filter_map(Weak::upgrade).collect();
        let is_free = |number: &u16| taken.iter().all(|room| room.number != *number);
        let room = Arc::new(Room {
            loads: loads.clone(),
            address: address.clone(),
            capacity: Capacity::default(),
            // Where there are more listeners than numbers, some are looked at together.
            number: (1..u16::MAX).find(is_free).unwrap_or(u16::MAX),
            before: AtomicU64::new(0),
        });
        rooms.insert(address.clone(), Arc::downgrade(&room));
        room
    }

    /// All that are there; looked at once per sweep, so the lock is nobody's concern.
    pub fn all(&self) -> Vec<Arc<Room>> {
        let rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.values().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn address(port: u16) -> BindAddress {
        BindAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn a_listener_s_limit_is_its_own() {
        let process = Arc::new(Capacity::default());
        process.set(3, 240);
        let loads = Loads::new(1, process.clone());
        let rooms = Rooms::default();
        let (one, other) = (rooms.of(&address(1), &loads), rooms.of(&address(2), &loads));
        one.set(Some(1), 240);
        other.set(None, 240);
        one.admit().expect("the only one").keep();
        assert_eq!(one.admit().err(), Some(Full::Listener));
        other.admit().expect("of three").keep();
        other.admit().expect("of three").keep();
        assert_eq!(other.admit().err(), Some(Full::Process));
        assert_eq!(one.admit().err(), Some(Full::Process));
        one.leave();
        assert_eq!((one.capacity().open(), process.open()), (0, 2));
    }

    #[test]
    fn a_room_is_known_by_its_address_as_long_as_somebody_has_it() {
        let loads = Loads::new(1, Arc::default());
        let rooms = Rooms::default();
        let first = rooms.of(&address(1), &loads);
        let again = rooms.of(&address(1), &loads);
        assert!(Arc::ptr_eq(&first, &again));
        let second = rooms.of(&address(2), &loads);
        assert_eq!((first.number(), second.number()), (1, 2));
        drop((first, again));
        assert_eq!(
            rooms.of(&address(3), &loads).number(),
            1,
            "it is free again"
        );
        assert_eq!(second.number(), 2);
    }
}
