//! What joins the pools of one process: how many there are, and a way to wake each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::upstream::pool::shared::Shard;

/// The pools of all workers: one per process.
#[derive(Debug, Default)]
pub struct Hub {
    workers: AtomicUsize,
    /// What each worker keeps of each server. Locked where a worker meets a server, and where
    /// there is no descriptor left.
    shards: Mutex<Vec<Weak<Shard>>>,
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

    pub(super) fn add_shard(&self, shard: &Arc<Shard>) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|shard| shard.strong_count() > 0);
        shards.push(Arc::downgrade(shard));
    }

    /// Has one idle connection closed, to whatever server and of whatever worker. False where there
    /// is none, or none that is not asked for already.
    pub(super) fn spare(&self) -> bool {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = shards.iter().filter_map(Weak::upgrade);
        known.any(|shard| shard.ask_idle())
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
