//! The life of a process that serves, up to its end: readiness off, a pause for balancers in front
//! of us, no new connections, the requests under way to their end or to the end of patience. With
//! another process in its place the same without the first two.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::program::Program;
use super::signals::Replaced;
use super::systemd;
use super::systemd::Notify;
use super::upgrade::{Ended, Offer, Successor};
use crate::admin;
use crate::config::model::BindAddress;
use crate::reload;
use crate::telemetry::{Metrics, events};
use crate::upstream::Registry;
use crate::worker::Workers;

/// For the last who ask the admin listener, when nothing else is under way any more.
const ANSWERED: Duration = Duration::from_secs(1);

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Drain; a second one means [`Stop::Now`]. The text is the signal's name, for the log.
    Graceful(&'static str),
    /// Break off what is under way.
    Now,
}

/// Of a process that serves.
pub(super) struct Serving {
    pub reload: reload::Handle,
    pub workers: Arc<Workers>,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub admin: Option<AdminListener>,
    pub notify: Notify,
    /// What replaces this process, if that is possible at all.
    pub program: Option<Program>,
    pub replaced: Replaced,
}

pub(super) struct AdminListener {
    pub bound: Arc<admin::Bound>,
    /// In the file.
    pub configured: BindAddress,
    pub leaving: watch::Sender<bool>,
    /// Ends with the last connection that it accepts.
    pub accepting: JoinHandle<()>,
}

impl AdminListener {
    /// Accepts nobody once this returns and lets go of the socket: with two at one socket chance
    /// would say who answers, and in the hands of one that only drains it would be in the way of
    /// whoever is started next. `left`: another process has it.
    async fn close(self, left: bool) -> watch::Sender<bool> {
        self.leaving.send_replace(true);
        // It panics no more than it is aborted, and would accept nobody then.
        let _ = self.accepting.await;
        if left {
            self.bound.leave();
        }
        self.leaving
    }
}

impl Serving {
    /// Waits for a stop or an upgrade that succeeds and carries it out; returns when the workers
    /// have ended. Gives how many connections were cut off.
    pub async fn run(
        &mut self,
        mut stops: mpsc::UnboundedReceiver<Stop>,
        mut upgrades: mpsc::UnboundedReceiver<()>,
    ) -> usize {
        loop {
            let stop = tokio::select! {
                stop = stops.recv() => stop,
                Some(()) = upgrades.recv() => {
                    match self.upgrade(&mut stops, &mut upgrades).await {
                        Ended::HandedOver(successor) => return self.leave(successor, stops).await,
                        Ended::Failed(_) => continue,
                        Ended::Stopped(stop) => stop,
                    }
                }
            };
            // Whoever asks for one from here on is told that it is too late.
            drop(upgrades);
            return self.stop(stop, stops).await;
        }
    }

    async fn upgrade(
        &self,
        stops: &mut mpsc::UnboundedReceiver<Stop>,
        again: &mut mpsc::UnboundedReceiver<()>,
    ) -> Ended {
        let Some(program) = &self.program else {
            return Ended::Failed("this command cannot be replaced".to_owned());
        };
        self.notify.status("upgrading");
        self.replaced.begins();
        let admin = self.admin.as_ref();
        let offer = Offer {
            program,
            reload: &self.reload,
            workers: &self.workers,
            registry: &self.registry,
            admin: admin.map(|admin| (&*admin.bound, &admin.configured)),
        };
        let ended = offer.run(stops, again).await;
        if let Ended::Failed(reason) = &ended {
            events::upgrade_failed(&self.metrics, reason);
            let status = systemd::status(&self.reload, self.workers.count());
            self.notify
                .status(&format!("{status}; the upgrade failed: {reason}"));
        }
        ended
    }

    async fn stop(&self, first: Option<Stop>, mut stops: mpsc::UnboundedReceiver<Stop>) -> usize {
        self.reload.stop();
        if let Some(Stop::Graceful(signal)) = first {
            events::draining(signal);
            self.notify.stopping("draining");
            let process = self.reload.current().snapshot.config.process.clone();
            let patience = async {
                tokio::time::sleep(process.shutdown_delay).await;
                self.workers.drain();
                timeout(process.drain_timeout, self.workers.ended())
                    .await
                    .is_ok()
            };
            tokio::select! {
                drained = patience => if drained {
                    return 0;
                },
                // `None` cannot come before the end: the signals hold a sender.
                _ = stops.recv() => {}
            }
        }
        self.abort().await
    }

    /// Another process is in our place.
    async fn leave(
        &mut self,
        mut successor: Box<Successor>,
        mut stops: mpsc::UnboundedReceiver<Stop>,
    ) -> usize {
        let pid = successor.pid;
        // Before the other one begins to answer there.
        let answered = match self.admin.take() {
            None => None,
            Some(admin) => Some(admin.close(successor.admin).await),
        };
        self.notify.main_pid(pid);
        successor.released().await;
        self.replaced.by(pid, successor.heir().clone());
        self.reload.stop();
        successor.thaw();
        events::handed_over(pid);
        events::draining("USR2");
        let process = self.reload.current().snapshot.config.process.clone();
        self.workers.leave(std::mem::take(&mut successor.adopted));
        if successor.stop {
            successor.heir().signal(Signal::SIGTERM);
        }
        if self
            .drained(process.drain_timeout, &successor, &mut stops)
            .await
        {
            if let Some(answered) = answered {
                let _ = timeout(ANSWERED, answered.closed()).await;
            }
            return 0;
        }
        self.abort().await
    }

    /// Waits for the requests under way; false when patience or a second stop ends that.
    async fn drained(
        &self,
        patience: Duration,
        successor: &Successor,
        stops: &mut mpsc::UnboundedReceiver<Stop>,
    ) -> bool {
        let pid = successor.pid;
        let mut ended = pin!(timeout(patience, self.workers.ended()));
        let (mut told, mut alive) = (false, true);
        loop {
            tokio::select! {
                drained = ended.as_mut() => return drained.is_ok(),
                stop = stops.recv() => match stop {
                    // A service manager tells every process of a service to end, and this one does.
                    Some(Stop::Graceful(signal)) if !told => {
                        told = true;
                        tracing::info!(signal, "draining already");
                    }
                    _ => return false,
                },
                status = successor.heir().ended(), if alive => {
                    alive = false;
                    self.replaced.gone();
                    events::successor_ended(pid, status);
                }
            }
        }
    }

    async fn abort(&self) -> usize {
        let aborted = self.workers.abort();
        self.workers.ended().await;
        aborted
    }
}
