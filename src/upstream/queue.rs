//! One FIFO per upstream over all workers for requests that found every server full.

use std::task::{Context, Poll};

use crate::upstream::lease::Lease;
use crate::upstream::pick::{Pick, Refused};

/// A place in an upstream's queue. Dropping it leaves the queue and passes on what it was handed.
#[derive(Debug)]
pub struct Waiter {}

impl Waiter {
    /// Ready with a lease, or with why not: [`Refused::QueueTimeout`], or what changed meanwhile
    /// ([`Refused::CircuitOpen`], [`Refused::NoServer`]).
    pub fn poll(
        &mut self,
        _cx: &mut Context<'_>,
        _pick: &mut Pick<'_>,
    ) -> Poll<Result<Lease, Refused>> {
        todo!()
    }
}
