//! What each signal does (contract, section 2).

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Stop;
use crate::reload::{Handle, Trigger};
use crate::telemetry::AccessLogWriter;

/// The handlers, in place from construction on. (SIGPIPE is ignored by Rust's runtime.)
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
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
        })
    }

    pub async fn run(
        mut self,
        reload: Handle,
        access: Arc<AccessLogWriter>,
        stop: mpsc::UnboundedSender<Stop>,
    ) {
        loop {
            let signal = tokio::select! {
                _ = self.hangup.recv() => {
                    let reload = reload.clone();
                    // Aside: a stop must be heard while a file is read.
                    tokio::spawn(async move { reload.reload(Trigger::Signal).await });
                    continue;
                }
                _ = self.user1.recv() => {
                    access.reopen();
                    continue;
                }
                _ = self.user2.recv() => {
                    // Left alone it would end the process and every request in it.
                    tracing::warn!("USR2 is not supported yet: nothing is handed over");
                    continue;
                }
                _ = self.terminate.recv() => "TERM",
                _ = self.interrupt.recv() => "INT",
                _ = self.quit.recv() => "QUIT",
            };
            // Fails when the end has come already.
            let _ = stop.send(Stop::Graceful(signal));
        }
    }
}
