//! How long a request waits for what does not come, without a timer of its own.
//!
//! One sweep slot serves all the waits of a request, one after the other, and then the next
//! request of its connection: it knows the task that it wakes already.

use std::cell::OnceCell;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::context::{ConnectionInfo, Context};
use crate::util::clock;
use crate::util::timer::SweepSlot;

/// A request's sweep slot: taken from its connection when it first waits, and given back.
pub(super) struct Patience {
    pub connection: Rc<ConnectionInfo>,
    slot: OnceCell<SweepSlot>,
}

impl Patience {
    pub fn new(connection: &Rc<ConnectionInfo>) -> Self {
        Patience {
            connection: connection.clone(),
            slot: OnceCell::new(),
        }
    }

    /// Has the task woken at `next`: a tenth of `limit` later at most, up to a sweep without one.
    pub fn wake_at(
        &self,
        context: &Context,
        next: Instant,
        limit: Option<Duration>,
        cx: &mut TaskContext<'_>,
    ) {
        let slot = self.slot(context);
        match limit {
            Some(limit) => slot.set_end(next, limit),
            None => slot.set(next),
        }
        // Registers only: `next` is ahead.
        let _registered = slot.poll_expired(cx);
    }

    fn slot(&self, context: &Context) -> &SweepSlot {
        self.slot.get_or_init(|| {
            let kept = self.connection.slot.take();
            kept.unwrap_or_else(|| context.timers.slot())
        })
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.clear();
            self.connection.slot.set(Some(slot));
        }
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
    pub fn poll_expired(
        &mut self,
        patience: &Patience,
        context: &Context,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        let slot = patience.slot(context);
        if self.ends.is_none() {
            let ends = clock::now() + limit;
            self.ends = Some(ends);
            slot.set_end(ends, limit);
        }
        slot.poll_expired(cx)
    }
}
