//! The only publisher of snapshots: trigger -> load -> check -> build -> bind -> listen -> publish.
//!
//! One task does one reload at a time. Everything that can fail comes before the swap, everything
//! after it cannot: a refused file changes nothing, an accepted one is in use as a whole. What
//! starts a reload is a file that changes ([`watch`]), a signal, or the admin API; the last two
//! read at once, the first waits until the change is complete.

mod attempt;
mod expiry;
mod status;
pub mod watch;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use attempt::load;
pub use attempt::{Parts, Rejection, Unopened, first};
pub use status::LastReload;

use crate::config::model::{Admin, BindAddress};
use crate::config::{Diagnostics, Diff, Loaded};
use crate::snapshot::Snapshot;

/// Answers for `${NAME}` in the configuration.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What asked for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    FileChange,
    Signal,
    Admin,
}

impl Trigger {
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::FileChange => "file-change",
            Trigger::Signal => "signal",
            Trigger::Admin => "admin",
        }
    }
}

/// What came of a reload.
#[derive(Debug)]
pub enum Outcome {
    /// The content is the one in use.
    Unchanged { generation: u64 },
    Accepted {
        generation: u64,
        changes: Diff,
        warnings: Diagnostics,
    },
    /// Nothing was changed.
    Rejected(Arc<Rejection>),
    /// The process is ending.
    Stopping,
}

/// The configuration in use.
pub struct Current {
    pub snapshot: Arc<Snapshot>,
    /// With its warnings, and where every value came from.
    pub loaded: Arc<Loaded>,
    /// Who may ask the admin listener. It stays where it is until a restart, so a configuration
    /// that switches it off leaves the rules of the one before: nothing opens up meanwhile.
    pub admin: Option<Admin>,
}

/// Asks for reloads, and tells what came of them. Cheap to clone; for control and admin.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    state: Arc<State>,
}

/// Written by the reload task (`stopping`: by whoever drains), read by everybody.
pub(crate) struct State {
    current: ArcSwap<Current>,
    last: ArcSwap<LastReload>,
    /// Fingerprint of what was read last, accepted or not. Read by the watcher; relaxed, because
    /// a stale value only makes it ask for a reload that finds nothing new.
    seen: AtomicU64,
    /// What was read last: where the watcher looks.
    sources: ArcSwap<crate::config::Sources>,
    /// `sources` was replaced.
    sources_changed: Notify,
    stopping: AtomicBool,
}

enum Request {
    Reload {
        trigger: Trigger,
        reply: oneshot::Sender<Outcome>,
    },
    /// Tell the listeners, and leave everything as it is until `thawed` goes.
    Freeze {
        reply: oneshot::Sender<Vec<Held>>,
        thawed: oneshot::Receiver<()>,
    },
}

/// A listener that is open.
#[derive(Debug, Clone)]
pub struct Held {
    pub name: Arc<str>,
    pub configured: BindAddress,
    pub bound: BindAddress,
}

/// Reloads wait until this is dropped.
#[derive(Debug)]
pub struct Frozen {
    pub listeners: Vec<Held>,
    _thaw: oneshot::Sender<()>,
}

impl Handle {
    /// Reads the file now and takes it over if it is valid and new.
    pub async fn reload(&self, trigger: Trigger) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Request::Reload { trigger, reply };
        if self.requests.send(request).await.is_err() {
            return Outcome::Stopping;
        }
        outcome.await.unwrap_or(Outcome::Stopping)
    }

    /// The open listeners, which stay these for as long as the answer is held. `None`: the process
    /// is ending.
    pub async fn freeze(&self) -> Option<Frozen> {
        let (reply, listeners) = oneshot::channel();
        let (thaw, thawed) = oneshot::channel();
        let request = Request::Freeze { reply, thawed };
        self.requests.send(request).await.ok()?;
        let listeners = listeners.await.ok()?;
        Some(Frozen {
            listeners,
            _thaw: thaw,
        })
    }

    pub fn current(&self) -> Arc<Current> {
        self.state.current.load_full()
    }

    /// How the last attempt went.
    pub fn last(&self) -> Arc<LastReload> {
        self.state.last.load_full()
    }

    /// Configured, bound and not draining: what `/readyz` says.
    pub fn is_ready(&self) -> bool {
        !self.state.stopping.load(Ordering::Acquire)
    }

    /// Fingerprint of what was read last.
    fn seen(&self) -> u64 {
        self.state.seen.load(Ordering::Relaxed)
    }

    /// A drain begins: not ready any more, and no reload from now on.
    pub fn stop(&self) {
        self.state.stopping.store(true, Ordering::Release);
    }
}

/// Serves reload requests, one at a time, for the life of the process.
pub struct Reloader {
    parts: Parts,
    state: Arc<State>,
    requests: mpsc::Receiver<Request>,
    live: attempt::Live,
}

impl Reloader {
    pub async fn run(mut self) {
        while let Some(request) = self.requests.recv().await {
            let (trigger, reply) = match request {
                Request::Reload { trigger, reply } => (trigger, reply),
                Request::Freeze { reply, thawed } => {
                    if reply.send(self.held()).is_ok() {
                        // Its sender only ever goes.
                        let _ = thawed.await;
                    }
                    continue;
                }
            };
            let outcome = if self.state.stopping.load(Ordering::Acquire) {
                Outcome::Stopping
            } else {
                self.reload(trigger).await
            };
            // Nobody waits for the outcome of a signal.
            let _ = reply.send(outcome);
        }
    }
}

/// Watches the file from now on; the future acts on what is seen, for as long as it is polled.
pub fn watch_file(path: PathBuf, handle: Handle) -> impl Future<Output = ()> {
    watcher::run(path, handle)
}
