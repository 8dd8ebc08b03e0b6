//! What each signal does (contract, section 2).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sys::signal::Signal::{SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ};
use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Stop;
use super::systemd::{self, Notify};
use super::upgrade::Heir;
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
pub(super) struct Replaced(Arc<Successor>);

#[derive(Debug, Default)]
struct Successor {
    heir: OnceLock<(u32, Heir)>,
    /// It has ended. Relaxed: nothing else is read by it.
    gone: AtomicBool,
    /// USR1 came to us while it was getting ready, its files open perhaps.
    rotated: AtomicBool,
}

impl Replaced {
    /// One begins to: what its files are is not known from here on.
    pub fn begins(&self) {
        self.0.rotated.store(false, Ordering::Relaxed);
    }

    pub fn by(&self, pid: u32, heir: Heir) {
        // There is no second one.
        let _ = self.0.heir.set((pid, heir));
        // Of this swap and that of `rotate` the later one sees what the other has done.
        if self.0.rotated.swap(false, Ordering::AcqRel) {
            self.signal(SIGUSR1);
        }
    }

    /// Files are to be opened anew: by it too, if there is one, or once there is.
    fn rotate(&self) {
        self.0.rotated.swap(true, Ordering::AcqRel);
        self.signal(SIGUSR1);
    }

    /// It has ended.
    pub fn gone(&self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }

    pub fn pid(&self) -> Option<u32> {
        self.0.heir.get().map(|(pid, _)| *pid)
    }

    /// It serves in our place.
    pub fn serves(&self) -> bool {
        self.pid().is_some() && !self.0.gone.load(Ordering::Relaxed)
    }

    /// Passes a signal on, if there is somebody still.
    fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Some((_, heir)) = self.0.heir.get() {
            heir.signal(signal);
        }
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

/// Signals that ask a process for something else than its end.
fn requests() -> SigSet {
    SigSet::from_iter([SIGHUP, SIGUSR1, SIGUSR2])
}

/// Requests wait from here on until [`Signals`] are there; in every thread that this one starts
/// they wait for ever. A process that replaces another one begins like that.
pub(super) fn hold() -> io::Result<()> {
    Ok(requests().thread_block()?)
}

/// In a process that `start` starts they wait from before its first instruction.
pub(super) fn held<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mask = requests().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    mask.thread_set_mask()?;
    started
}

impl Signals {
    /// To be called in a thread that lasts as long as the process.
    pub fn new() -> io::Result<Self> {
        let signals = Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ as i32))?,
        };
        // In this thread: one that takes them is enough.
        requests().thread_unblock()?;
        Ok(signals)
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
                    targets.replaced.rotate();
                    targets.access.reopen();
                    continue;
                }
                _ = self.user2.recv() => {
                    match targets.replaced.pid() {
                        Some(pid) => tracing::warn!(pid, "upgrade: done already, this process ends"),
                        None => if targets.upgrade.send(()).is_err() {
                            tracing::warn!("upgrade: this process is ending, the signal is ignored");
                        }
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
    if targets.replaced.pid().is_some() {
        return targets.replaced.signal(SIGHUP);
    }
    notify.reloading();
    match targets.reload.reload(Trigger::Signal).await {
        // It waited for an upgrade: the file is the other process' business now.
        Outcome::Stopping => targets.replaced.signal(SIGHUP),
        _ => notify.ready(&systemd::status(&targets.reload, targets.workers)),
    }
}
