//! One FIFO per upstream over all workers for requests that found every server full.
//!
//! A free slot belongs to the first waiter. Nobody reserves it: while somebody waits, newcomers go
//! to the end of the queue without looking at the servers, so whoever is woken finds the slot still
//! there. Handing over is three rules:
//!
//! 1. Whoever makes room wakes the first waiter that was not woken yet.
//! 2. A waiter that got a lease wakes the next one, if there is still room.
//! 3. A waiter that was woken and cannot use the room (its worker has no connection to that
//!    server), is dropped, or runs out of time, passes the wake-up to the one behind it.
//!
//! No wake-up is lost: a waiter first enters the queue (`length`), then looks at the servers; who
//! makes room first changes the server, then looks at `length`. Both are sequentially consistent,
//! so at least one of the two sees the other.
//!
//! Who would only wait in vain is not let in: [`drain`](super::drain).
//!
//! The mutex guards the list only and is taken by nobody while the queue is empty.

mod list;

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

pub(super) use list::Late;
pub use list::Queue;

use crate::upstream::common::Common;
use crate::upstream::drain::Newcomer;
use crate::upstream::lease::Lease;
use crate::upstream::pick::{Pick, Refused};
use crate::upstream::upstream::Upstream;
use crate::util::clock;
use crate::util::timer::Deadline;

/// A place in an upstream's queue. Dropping it leaves the queue and passes on what it was handed.
pub struct Waiter {
    /// Of the generation that the request started under; the pick goes to its successor.
    upstream: Arc<Upstream>,
    common: Arc<Common>,
    /// `None` once it has left.
    place: Option<usize>,
    since_ms: u64,
    /// It came back after a lost claim, and lets others run before it looks again.
    returned: bool,
    deadline: Deadline,
}

impl Waiter {
    /// Takes a place at the end, unless the queue is full or it would be in vain.
    pub(super) fn enter(
        upstream: &Arc<Upstream>,
        newcomer: &Newcomer,
        deadline: impl FnOnce() -> Deadline,
    ) -> Result<Waiter, Late> {
        let common = upstream.common().clone();
        let place = common.queue().enter(newcomer)?;
        Ok(Waiter {
            upstream: upstream.clone(),
            common,
            place: Some(place),
            since_ms: newcomer.now_ms,
            returned: false,
            deadline: deadline(),
        })
    }

    /// Goes on waiting in front of everybody: the lease turned out to be of no use, because
    /// another worker opened the last connection that its server may have.
    pub fn go_on(&mut self) {
        if self.place.is_none() {
            self.place = Some(self.common.queue().return_to_front(self.since_ms));
            self.returned = true;
        }
    }

    /// Ready with a lease, or with why not: [`Refused::QueueTimeout`], or what changed meanwhile
    /// ([`Refused::CircuitOpen`], [`Refused::NoServer`]).
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pick: &mut Pick<'_>,
    ) -> Poll<Result<Lease, Refused>> {
        let Some(place) = self.place else {
            return Poll::Ready(Err(Refused::QueueTimeout { retry_after: 1 }));
        };
        let (woken, first) = self.common.queue().look(place, cx.waker());
        if std::mem::take(&mut self.returned) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if (woken || first)
            && let Poll::Ready(result) = self.look(place, woken, pick)
        {
            return Poll::Ready(result);
        }
        if self.deadline.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        self.give_up();
        Poll::Ready(Err(Refused::QueueTimeout {
            retry_after: self.upstream.retry_after(Instant::now()),
        }))
    }

    fn look(
        &mut self,
        place: usize,
        woken: bool,
        pick: &mut Pick<'_>,
    ) -> Poll<Result<Lease, Refused>> {
        match self.upstream.pick_for_waiter(pick) {
            Ok(lease) => {
                self.place = None;
                let now = self.common.ms(clock::now());
                self.common.queue().serve(place, now);
                if self.upstream.has_room() {
                    self.common.queue().wake_first();
                }
                Poll::Ready(Ok(lease))
            }
            Err(Refused::Full) => {
                // Full for everybody, or only for this worker's connections?
                if woken && self.upstream.has_room() {
                    self.common.queue().pass_on(place);
                }
                Poll::Pending
            }
            Err(refused) => {
                self.leave();
                // What refuses this one refuses those behind it: let them know one by one.
                self.common.queue().wake_first();
                Poll::Ready(Err(refused))
            }
        }
    }

    /// Leaves; whether a wake-up was left over.
    fn leave(&mut self) -> bool {
        match self.place.take() {
            Some(place) => self.common.queue().leave(place),
            None => false,
        }
    }

    fn give_up(&mut self) {
        if self.leave() {
            self.common.queue().wake_first();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests;
