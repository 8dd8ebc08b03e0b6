//! The access log: one line per request, written when it ends.

mod record;

pub use record::{Attempt, Record};

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::config::model;

use super::Metrics;

/// The process' access log: owns the target and the thread that writes to it.
pub struct AccessLogWriter {}

/// A worker's way to the access log; formats on the worker and never blocks it.
pub struct AccessLog {}

/// A target that was opened, not yet in use: opening can fail, using it cannot.
pub struct Prepared {}

impl AccessLogWriter {
    /// Starts without a target: lines go nowhere until [`AccessLogWriter::apply`].
    pub fn start(_metrics: Arc<Metrics>) -> io::Result<Arc<Self>> {
        todo!()
    }

    /// Opens what `config` names (`None`: no access log).
    pub fn prepare(&self, _config: Option<&model::AccessLog>) -> io::Result<Prepared> {
        todo!()
    }

    /// Lines from now on go to `prepared`, in its format.
    pub fn apply(&self, _prepared: Prepared) {
        todo!()
    }

    /// The handle for one worker, to be made on any thread and used on one.
    pub fn worker(self: &Arc<Self>) -> AccessLog {
        todo!()
    }

    /// Opens the file anew (USR1, after a rotation).
    pub fn reopen(&self) {
        todo!()
    }

    /// Waits until every line so far is written, at most `limit`. Blocks: not for a worker.
    pub fn flush(&self, _limit: Duration) -> bool {
        todo!()
    }
}

impl AccessLog {
    /// False where no line would be written: the record need not be made.
    pub fn enabled(&self) -> bool {
        todo!()
    }

    /// Writes the line of a request, unless it falls to sampling or the log is full.
    pub fn write(&self, _record: &Record<'_>) {
        todo!()
    }
}
