//! What all workers know of the connections to one server.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::config::model::Connections as Settings;

/// The connections of all workers to one server: idle, in use, or being dialled. Part of the
/// server's live state; survives reloads.
#[derive(Debug)]
pub struct ServerConnections {
    open: AtomicUsize,
}

impl ServerConnections {
    pub fn new(_settings: &Settings) -> Arc<Self> {
        todo!()
    }

    /// Takes over settings of a reload.
    pub fn configure(&self, _settings: &Settings) {
        todo!()
    }

    /// Called (on whatever thread) when a connection to this server has become free or may be
    /// opened while a worker wanted one in vain: hand the slot to the queue. Set once.
    pub fn on_room(&self, _hand_on: Box<dyn Fn() + Send + Sync>) {
        todo!()
    }

    /// The server was removed, or what its connections speak has changed: idle ones close, those
    /// in use close after their exchange. New ones may still be opened.
    pub fn reset(&self) {
        todo!()
    }

    /// Claims of all workers: idle, in use and being dialled.
    pub fn open(&self) -> usize {
        self.open.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Idle ones of all workers.
    pub fn idle(&self) -> usize {
        todo!()
    }
}
