//! A worker: one thread, one event loop, its own sockets and its own connections to servers.
//!
//! Nothing that a request uses here is `Send` or locked. Control speaks to a worker through one
//! channel, other workers through another (connections handed over); a worker itself finds out
//! what a reload means to it by comparing the new snapshot with what it has.

mod run;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use tokio::runtime::RuntimeMetrics;
use tokio::sync::mpsc;

use crate::config::model::BindAddress;
use crate::listener::accept::Closed;
use crate::listener::{Lent, Listening, Loads, Share};
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLogWriter, Metrics};
use crate::upstream::pool::Hub;
use crate::util::capacity::Capacity;

/// What control tells a worker.
#[derive(Debug)]
enum Command {
    /// A snapshot was published: take up its listeners and let go of the others.
    Follow(Change),
    /// The sockets of removed listeners are closed on every worker: nothing comes of them any more.
    Closed,
    /// Stop accepting, end every connection after its current request, then end. The sockets of
    /// these listeners another process has as well: what waits there is its.
    Drain(Arc<HashSet<BindAddress>>),
    /// End every connection now.
    Abort,
    /// Give a second descriptor of every listening socket, with its configured address.
    Lend(mpsc::UnboundedSender<io::Result<(BindAddress, Lent)>>),
    /// Drop this: a sign of life.
    Beat(mpsc::Sender<()>),
}

/// The sockets that come with a snapshot; everything else is in the snapshot.
#[derive(Debug)]
struct Change {
    /// Listening, by configured address.
    added: Vec<(BindAddress, Vec<Listening>)>,
    /// Dropped when removed sockets are closed.
    closed: Closed,
}

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub access: Arc<AccessLogWriter>,
    pub hub: Arc<Hub>,
    pub capacity: Arc<Capacity>,
}

/// All workers, as control sees them.
#[derive(Debug)]
pub struct Workers {
    commands: Vec<mpsc::UnboundedSender<Command>>,
    loads: Arc<Loads>,
    loops: Vec<RuntimeMetrics>,
    /// Nothing is sent: closed when the last worker has ended.
    running: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Workers {
    /// Starts `count` threads. They accept nothing before the first [`Workers::follow`].
    pub fn start(count: usize, shared: &Shared) -> std::io::Result<Self> {
        let loads = Loads::new(count, shared.capacity.clone());
        let (running, all_ended) = mpsc::channel(1);
        let (mailboxes, mut handed): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let mut commands = Vec::with_capacity(count);
        let mut loops = Vec::with_capacity(count);
        for (index, handed) in handed.drain(..).enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            commands.push(sender);
            let share = Share::new(loads.clone(), index, mailboxes.clone());
            let start = run::Start {
                index,
                shared: shared.clone(),
                share,
                loads: loads.clone(),
                commands: receiver,
                handed,
                running: running.clone(),
            };
            let (built, runtime) = std::sync::mpsc::sync_channel(1);
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run::run(start, &built))?;
            // A thread that ended without a word is as good as one that could not begin.
            loops.push(runtime.recv().map_err(std::io::Error::other)??);
        }
        let running = tokio::sync::Mutex::new(all_ended);
        Ok(Workers {
            commands,
            loads,
            loops,
            running,
        })
    }

    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// How many tasks each worker's event loop has now.
    pub fn tasks(&self) -> Vec<usize> {
        let alive = RuntimeMetrics::num_alive_tasks;
        self.loops.iter().map(alive).collect()
    }

    /// Lets every worker take up the published snapshot, and deals out the sockets of every added
    /// listener, of which there are as many as workers or more. Returns once the sockets of removed
    /// listeners are closed.
    pub async fn follow(&self, added: Vec<(BindAddress, Vec<Listening>)>) {
        let (closed, mut all_closed) = mpsc::channel(1);
        let mut dealt: Vec<_> = self.commands.iter().map(|_| Vec::new()).collect();
        for (address, sockets) in added {
            let mut hands: Vec<_> = self.commands.iter().map(|_| Vec::new()).collect();
            for (index, socket) in sockets.into_iter().enumerate() {
                hands[index % self.commands.len()].push(socket);
            }
            for (dealt, hand) in dealt.iter_mut().zip(hands) {
                dealt.push((address.clone(), hand));
            }
        }
        for (worker, added) in self.commands.iter().zip(dealt) {
            // A worker that has ended (a drain overtook the reload) needs nothing.
            let _ = worker.send(Command::Follow(Change {
                added,
                closed: closed.clone(),
            }));
        }
        drop(closed);
        all_closed.recv().await;
        self.tell(|| Command::Closed);
    }

    /// A second descriptor of every listening socket of every worker, by configured address. Waits
    /// for the slowest worker.
    pub async fn lend(&self) -> io::Result<Vec<(BindAddress, Lent)>> {
        let (lender, mut lent) = mpsc::unbounded_channel();
        self.tell(|| Command::Lend(lender.clone()));
        drop(lender);
        let mut sockets = Vec::new();
        while let Some(socket) = lent.recv().await {
            sockets.push(socket?);
        }
        Ok(sockets)
    }

    /// Returns once every worker has come round to what it is told. One that has ended owes nothing.
    pub async fn beat(&self) {
        let (alive, mut all_alive) = mpsc::channel(1);
        self.tell(|| Command::Beat(alive.clone()));
        drop(alive);
        all_alive.recv().await;
    }

    /// Every worker stops accepting and ends with its last connection.
    pub fn drain(&self) {
        self.leave(HashSet::new());
    }

    /// The same, where another process accepts on the sockets of the listeners `left`.
    pub fn leave(&self, left: HashSet<BindAddress>) {
        let left = Arc::new(left);
        self.tell(|| Command::Drain(left.clone()));
    }

    /// Every worker closes its connections and ends. Gives how many there were.
    pub fn abort(&self) -> usize {
        let open = self.loads.total();
        self.drain();
        self.tell(|| Command::Abort);
        open
    }

    /// Waits until every worker has ended.
    pub async fn ended(&self) {
        self.running.lock().await.recv().await;
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.commands {
            // One that has ended has done what it is told.
            let _ = worker.send(command());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_worker_that_hangs_is_no_sign_of_life() {
        let (first, mut healthy) = mpsc::unbounded_channel();
        let (second, mut hanging) = mpsc::unbounded_channel();
        let (_running, all_ended) = mpsc::channel(1);
        let workers = Workers {
            commands: vec![first, second],
            loops: Vec::new(),
            loads: Loads::new(2, Arc::default()),
            running: tokio::sync::Mutex::new(all_ended),
        };
        tokio::spawn(async move { while healthy.recv().await.is_some() {} });
        let patience = Duration::from_secs(60);
        timeout(patience, workers.beat())
            .await
            .expect_err("the second one has not come round");
        let lent = timeout(patience, workers.lend()).await;
        assert!(lent.is_err(), "nor has it lent its sockets");
        while hanging.try_recv().is_ok() {}
        let beat = timeout(patience, workers.beat());
        let both = async {
            // Comes round once more.
            hanging.recv().await
        };
        let (beat, _) = tokio::join!(beat, async { drop(both.await) });
        beat.expect("both have come round");
        drop(hanging);
        timeout(patience, workers.beat())
            .await
            .expect("one that has ended owes nothing");
    }
}
