//! What joins the pools of one process: how many there are, and a way to wake each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The pools of all workers: one per process.
#[derive(Debug, Default)]
pub struct Hub {
    workers: AtomicUsize,
}

impl Hub {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Workers that have pools: each keeps its share of `max-idle`.
    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    pub(super) fn join(&self) {
        self.workers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.workers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes the worker that owns it to look at its pools; a wake-up before it waits is kept.
#[derive(Debug, Default)]
pub(super) struct Mailbox(Notify);

impl Mailbox {
    pub(super) fn wake(&self) {
        self.0.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.0.notified().await;
    }
}
