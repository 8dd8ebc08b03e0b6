//! Active checks: one task per server, on the control runtime, independent of traffic and breaker.

pub mod verdict;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::config::model::Health;
use crate::upstream::connector::Target;
use crate::upstream::health::verdict::Standing;

/// One finished check.
#[derive(Debug, Clone)]
pub struct Report {
    /// `Err` says why, for `/status` and the log: "status 503, wanted 200-399".
    pub outcome: Result<(), Arc<str>>,
    pub took: Duration,
    /// After this result.
    pub standing: Standing,
    /// This result changed whether the server is usable, or was its first.
    pub changed: bool,
}

/// The running checks of one server; dropping it stops them.
#[derive(Debug)]
pub struct Checks {
    settings: tokio::sync::watch::Sender<Arc<Health>>,
    task: AbortHandle,
}

impl Checks {
    /// Takes over settings of a reload; counts and verdict stay.
    pub fn configure(&self, settings: Arc<Health>) {
        self.settings.send_if_modified(|current| {
            let modified = **current != *settings;
            *current = settings;
            modified
        });
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts checking `target`, the first time at once. `standing` is what holds until the first
/// result. `on_report` runs on the checking task: it must not block. Call it on the control
/// runtime.
pub fn spawn(
    _target: Target,
    _settings: Arc<Health>,
    _standing: Standing,
    _on_report: impl FnMut(Report) + Send + 'static,
) -> Checks {
    todo!()
}
