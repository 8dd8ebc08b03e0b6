//! How long a request waits for what does not come, without a timer of its own.
//!
//! One sweep slot serves all the waits of a request, one after the other; it is lent by the wire,
//! which waits with it for the next request, and so it knows the task that it wakes already.

use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::util::clock;
use crate::util::timer::{Awaits, SweepSlot};

/// A request's sweep slot, left clear when it is given back.
pub(super) struct Patience {
    slot: SweepSlot,
}

impl Patience {
    pub fn new(slot: SweepSlot) -> Self {
        Patience { slot }
    }

    /// Has the task woken at `next`: a tenth of `limit` later at most, up to a sweep without one.
    pub fn wake_at(&self, next: Instant, limit: Option<Duration>, cx: &mut TaskContext<'_>) {
        match limit {
            Some(limit) => self.slot.set_end(next, limit),
            None => self.slot.set(next),
        }
        // Registers only: `next` is ahead.
        let _registered = self.slot.poll_expired(cx);
    }

    /// Says what the request waits for, and how many bytes have moved there. True where it is not
    /// waited for any longer: it is slow, and its place is needed.
    pub fn awaits(&self, awaits: Awaits, moved: u64) -> bool {
        self.slot.awaits(awaits, moved);
        let over = awaits != Awaits::Nothing && self.slot.is_shed();
        if over {
            // Counted by who asked: the wire looks, too, for those that it waits for itself.
            self.slot.clear();
        }
        over
    }

    /// Has the task woken when that comes to be so, and for nothing else until [`Patience::wake_at`].
    pub fn watch(&self, cx: &mut TaskContext<'_>) {
        self.slot.watch(cx);
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.slot.clear();
    }
}

/// `timeout.idle` (or `tunnel`, for streams of events): no byte in any direction. One number that
/// the sweep reads; the clock is read when the exchange waits, not per frame.
pub(super) struct IdleClock {
    limit: Option<Duration>,
    ends: Option<Instant>,
}

impl IdleClock {
    pub fn new(limit: Option<Duration>) -> Self {
        IdleClock { limit, ends: None }
    }

    /// A byte moved.
    pub fn restart(&mut self) {
        self.ends = None;
    }

    /// Call when nothing else is ready.
    pub fn poll_expired(&mut self, patience: &Patience, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Some(limit) = self.limit else {
            // It is slow for ever, as long as its place is not needed.
            patience.watch(cx);
            return Poll::Pending;
        };
        let slot = &patience.slot;
        // What expired before its time, and is not slow any more, begins again.
        if self.ends.is_none() || slot.is_shed() {
            let ends = clock::now() + limit;
            self.ends = Some(ends);
            slot.set_end(ends, limit);
        }
        slot.poll_expired(cx)
    }
}
