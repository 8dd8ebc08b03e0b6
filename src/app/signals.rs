//! What each signal does (contract, section 2).

use std::io;
use std::sync::{Arc, OnceLock};

use nix::sys::signal::Signal::SIGXFSZ;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Stop;
use super::systemd::{self, Notify};
use super::upgrade::signal_to;
use crate::reload::{Handle, Outcome, Trigger};
use crate::telemetry::AccessLogWriter;

/// The handlers, in place from construction on. (SIGPIPE is ignored by Rust's runtime.) A file that
/// may not grow any more (RLIMIT_FSIZE) is a write that fails, not the end: SIGXFSZ is taken, too.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    _file_size: Signal,
}

/// The process that has taken our place, if one has. Set once, by whoever hands over; read to tell
/// it what still comes to us.
#[derive(Debug, Clone, Default)]
pub(super) struct Replaced(Arc<OnceLock<u32>>);

impl Replaced {
    pub fn by(&self, pid: u32) {
        // There is no second one.
        let _ = self.0.set(pid);
    }

    pub fn pid(&self) -> Option<u32> {
        self.0.get().copied()
    }
}

/// What signals act on.
pub(super) struct Targets {
    pub reload: Handle,
    pub access: Arc<AccessLogWriter>,
    pub stop: mpsc::UnboundedSender<Stop>,
    pub upgrade: mpsc::UnboundedSender<()>,
    pub notify: Notify,
    pub workers: usize,
    pub replaced: Replaced,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ as i32))?,
        })
    }

    /// The name of a signal that asks for the end. The others stay where they are meanwhile.
    pub async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "TERM",
            _ = self.interrupt.recv() => "INT",
            _ = self.quit.recv() => "QUIT",
        }
    }

    pub async fn run(mut self, targets: Targets) {
        let targets = Arc::new(targets);
        loop {
            let signal = tokio::select! {
                _ = self.hangup.recv() => {
                    // Aside: a stop must be heard while a file is read.
                    tokio::spawn(reload(targets.clone()));
                    continue;
                }
                _ = self.user1.recv() => {
                    targets.access.reopen();
                    continue;
                }
                _ = self.user2.recv() => {
                    match targets.replaced.pid() {
                        Some(pid) => tracing::warn!(pid, "upgrade: done already, this process ends"),
                        // Fails when the end has come already.
                        None => drop(targets.upgrade.send(())),
                    }
                    continue;
                }
                _ = self.terminate.recv() => "TERM",
                _ = self.interrupt.recv() => "INT",
                _ = self.quit.recv() => "QUIT",
            };
            // Fails when the end has come already.
            let _ = targets.stop.send(Stop::Graceful(signal));
        }
    }
}

async fn reload(targets: Arc<Targets>) {
    let notify = &targets.notify;
    if let Some(pid) = targets.replaced.pid() {
        return signal_to(pid, nix::sys::signal::Signal::SIGHUP);
    }
    notify.reloading();
    match targets.reload.reload(Trigger::Signal).await {
        // It waited for an upgrade: the file is the other process' business now.
        Outcome::Stopping => {
            if let Some(pid) = targets.replaced.pid() {
                signal_to(pid, nix::sys::signal::Signal::SIGHUP);
            }
        }
        _ => notify.ready(&systemd::status(&targets.reload, targets.workers)),
    }
}
