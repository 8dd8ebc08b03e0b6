//! One generation of one upstream: its settings over the live state of its servers.

use std::sync::Arc;
use std::time::Duration;

use crate::config::model;
use crate::upstream::lease::Lease;
use crate::upstream::pick::{Pick, Refused};
use crate::upstream::queue::Waiter;

/// A named group of servers under one accepted configuration.
#[derive(Debug)]
pub struct Upstream {
    config: Arc<model::Upstream>,
}

impl Upstream {
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    pub fn config(&self) -> &Arc<model::Upstream> {
        &self.config
    }

    /// The upstream of that name now; itself when there is none any more.
    pub fn latest(self: &Arc<Self>) -> Arc<Upstream> {
        todo!()
    }

    /// Picks a server and claims a slot of it, among the servers that the upstream of this name
    /// has now. Never allocates, never waits.
    ///
    /// [`Refused::Full`] on a first attempt: stand in the queue.
    pub fn pick(self: &Arc<Self>, _pick: &mut Pick<'_>) -> Result<Lease, Refused> {
        todo!()
    }

    /// Takes a place at the end of the queue, or [`Refused::Overloaded`]. The place is given up
    /// after the queue's timeout.
    pub fn enqueue(self: &Arc<Self>) -> Result<Waiter, Refused> {
        todo!()
    }

    /// The queue's timeout as configured.
    pub fn queue_timeout(&self) -> Option<Duration> {
        self.config.queue.as_ref().map(|queue| queue.timeout)
    }
}
