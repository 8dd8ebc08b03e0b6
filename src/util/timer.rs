//! Deadlines without a timer per request (DESIGN.md section 7).

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

/// Every deadline of one worker. Cheap to clone.
#[derive(Clone, Default)]
pub struct Timers {
    _shared: Rc<()>,
}

impl Timers {
    pub fn new() -> Self {
        Timers::default()
    }

    /// Wakes whatever is due; one task per worker runs it.
    pub async fn run(&self) {
        todo!()
    }

    /// A deadline that is kept to within a sweep (250 ms), at the price of one store.
    pub fn slot(&self) -> SweepSlot {
        todo!()
    }

    /// A precise deadline from now on.
    pub fn after(&self, _duration: Duration) -> Deadline {
        todo!()
    }
}

/// One coarse deadline that can be moved at any time.
pub struct SweepSlot {}

impl SweepSlot {
    pub fn set(&self, _deadline: Instant) {
        todo!()
    }

    pub fn clear(&self) {
        todo!()
    }

    /// Ready once the deadline has passed; stays so until `set` or `clear`.
    pub fn poll_expired(&self, _cx: &mut Context<'_>) -> Poll<()> {
        todo!()
    }
}

/// One precise deadline. Dropping it cancels it.
pub struct Deadline {}

impl Deadline {
    pub fn poll_expired(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        todo!()
    }

    pub fn expires_at(&self) -> Instant {
        todo!()
    }
}
