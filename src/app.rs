//! Composition root: first snapshot, workers, control tasks, signals, drain; who starts us and what
//! starts in our place.
//!
//! Everything runs on threads of its own, so that [`Running`] works the same from `run`, from
//! `demo` and from tests: start, look at the addresses, shut down.

mod activation;
mod control;
mod descriptors;
mod drain;
mod launch;
mod overload;
mod program;
mod signals;
mod start;
mod systemd;
mod upgrade;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

pub use drain::Stop;
pub use launch::Launch;
pub use start::StartError;

use crate::config::model::BindAddress;
use crate::reload;
use crate::reload::Environment;
use crate::telemetry::Metrics;

/// How to start.
pub struct Options {
    pub config: PathBuf,
    pub environment: Environment,
    /// React to signals of the process.
    pub signals: bool,
    /// Set up logging for the process, as the configuration says.
    pub logging: bool,
    /// Follow the file.
    pub watch: bool,
    /// Of a process of its own: it can be replaced by a new binary, and speaks to a service manager.
    pub launch: Option<Launch>,
}

impl Options {
    /// For `config`, with the environment of the process, without signals and logging.
    pub fn new(config: &Path) -> Self {
        Options {
            config: config.to_owned(),
            environment: Arc::new(|name| std::env::var(name).ok()),
            signals: false,
            logging: false,
            watch: true,
            launch: None,
        }
    }
}

/// A proxy that serves. Dropping it stops it now.
pub struct Running {
    started: Started,
    stop: mpsc::UnboundedSender<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// What a started proxy is known by.
#[derive(Clone)]
pub struct Started {
    /// Name and bound address, in the order of the file.
    pub listeners: Vec<(Arc<str>, BindAddress)>,
    /// Where the admin listener is; port 0 resolved.
    pub admin: Option<BindAddress>,
    pub reload: reload::Handle,
    pub metrics: Arc<Metrics>,
}

impl Running {
    /// Returns once every listener accepts. Blocks; may be called within a runtime.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let (stop, stops) = mpsc::unbounded_channel();
        let (report, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn({
                let stop = stop.clone();
                move || start::control(options, stop, stops, &report)
            })
            .map_err(StartError::Thread)?;
        match started.recv() {
            Ok(Ok(started)) => Ok(Running {
                started,
                stop,
                thread: Some(thread),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Panic),
        }
    }

    pub fn listeners(&self) -> &[(Arc<str>, BindAddress)] {
        &self.started.listeners
    }

    pub fn admin(&self) -> Option<&BindAddress> {
        self.started.admin.as_ref()
    }

    pub fn reload(&self) -> &reload::Handle {
        &self.started.reload
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.started.metrics
    }

    /// Asks for the end; [`Running::wait`] waits for it.
    pub fn shut_down(&self, stop: Stop) {
        // Not running any more: nothing to stop.
        let _ = self.stop.send(stop);
    }

    /// Returns when the proxy has ended.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of control was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down(Stop::Now);
        self.join();
    }
}
