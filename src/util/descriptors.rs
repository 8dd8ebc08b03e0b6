//! How many clients the limit on descriptors carries.
//!
//! A client that is proxied has two: its own connection and one to a server. Half of what is left
//! after the process's own is what HAProxy makes of it too. What traffic never gets ([`is_last`]) is
//! none of it, or those who came last would be let in and find nothing to be served with.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit};

/// Standard streams, files, the control runtime, the admin listener and a few of its clients.
const OWN: usize = 20;
/// An event loop, its wakers and its signals, and a connection that is closed at the door.
const PER_WORKER: usize = 5;
/// Even with hardly a descriptor somebody is served.
const FEWEST: usize = 8;
/// Below it nothing works as it should.
pub const LEAST: u64 = 64;

/// Kept from traffic for the admin listener, health checks and files: one of 32, but two at least
/// and eight at most.
const RESERVE: usize = 8;
const RESERVED: usize = 32;

/// Whether `descriptor`, which was just opened, is one of the last. The system gives the lowest that
/// is free, so its number says how many there are without a count.
pub fn is_last(descriptor: RawFd) -> bool {
    static LAST: OnceLock<usize> = OnceLock::new();
    let last = LAST.get_or_init(|| {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        limit.saturating_sub(reserve(limit))
    });
    usize::try_from(descriptor).is_ok_and(|descriptor| descriptor >= *last)
}

fn reserve(limit: usize) -> usize {
    (limit / RESERVED).clamp(2, RESERVE)
}

/// The most that this process may have open: it raises its limit to that when it starts. As many
/// as can be counted where there is no limit, or none that can be read.
pub fn limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many clients a process takes at once; `wanted`: as written, `None` is "auto".
pub fn clients(wanted: Option<usize>, workers: usize, listeners: usize) -> usize {
    match wanted {
        Some(wanted) => wanted.min(most_clients(limit(), workers, listeners)),
        None => for_clients(limit(), workers, listeners),
    }
}

/// What "auto" means for `max-connections`.
pub fn for_clients(limit: usize, workers: usize, listeners: usize) -> usize {
    (left(limit, workers, listeners) / 2).max(FEWEST)
}

/// What a written `max-connections` may reach: a quarter of the rest is never given to clients.
pub fn most_clients(limit: usize, workers: usize, listeners: usize) -> usize {
    let left = left(limit, workers, listeners);
    (left - left / 4).max(FEWEST)
}

fn left(limit: usize, workers: usize, listeners: usize) -> usize {
    // One listening socket per worker and listener.
    let own = OWN + workers * (PER_WORKER + listeners);
    limit.saturating_sub(own + reserve(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_left_is_for_clients() {
        assert_eq!(for_clients(64, 2, 1), 15);
        assert_eq!(for_clients(256, 2, 1), 108);
        assert_eq!(for_clients(1024, 4, 2), 484);
        assert_eq!(for_clients(32, 2, 1), FEWEST);
        assert!(for_clients(usize::MAX, 2, 1) > 1 << 40);
        assert_eq!(most_clients(1024, 4, 2), 726);
    }
}
