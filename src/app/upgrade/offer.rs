//! The old process' side.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::heir::Heir;
use super::link::{FromNew, FromOld, Link, Passed};
use super::{ACCEPTING, HELLO, READY};
use crate::admin;
use crate::app::Stop;
use crate::app::launch::REPLACES;
use crate::app::program::Program;
use crate::app::signals;
use crate::config::model::BindAddress;
use crate::listener::Lent;
use crate::reload;
use crate::reload::{Frozen, Held};
use crate::telemetry::events;
use crate::upstream::Registry;
use crate::worker::Workers;

/// A worker that has not come round by then hangs.
const LENDING: Duration = Duration::from_secs(5);
/// For a process that was killed to be gone, and for one whose socket closed to end.
const DYING: Duration = Duration::from_secs(5);
/// For what a process wrote before it ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// What an admin socket is called among the others.
const ADMIN: &str = "admin";

/// What an upgrade needs of the process.
pub(in crate::app) struct Offer<'a> {
    pub program: &'a Program,
    pub reload: &'a reload::Handle,
    pub workers: &'a Workers,
    pub registry: &'a Registry,
    /// With its address in the file.
    pub admin: Option<(&'a admin::Bound, &'a BindAddress)>,
}

/// What came of it.
pub(in crate::app) enum Ended {
    /// The new process accepts. Ours is to end.
    HandedOver(Box<Successor>),
    /// Everything is as before; the reason.
    Failed(String),
    /// Told to stop meanwhile; `None`: whoever could tell is gone.
    Stopped(Option<Stop>),
}

/// The process in our place.
pub(in crate::app) struct Successor {
    pub pid: u32,
    heir: Heir,
    link: Link,
    /// Configured addresses of the listeners whose sockets it has; the others are ours to close.
    pub adopted: HashSet<BindAddress>,
    pub admin: bool,
    frozen: Option<Frozen>,
    /// Somebody asked us for the end when it was too late to go back, and meant the service.
    pub stop: bool,
}

impl Successor {
    /// It is on its own from here on.
    pub async fn released(&mut self) {
        // If it has ended in this moment nobody can be told.
        let _ = self.link.say(&FromOld::Yours).await;
    }

    /// Reloads go on from here: to be called when there are none any more.
    pub fn thaw(&mut self) {
        self.frozen = None;
    }

    /// To be signalled, and to be waited for: it should not end while we drain.
    pub fn heir(&self) -> &Heir {
        &self.heir
    }
}

/// Why it came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("this is process 1: what it runs in would end with it; replace the container instead")]
    First,
    #[error("the process is ending")]
    Ending,
    #[error("a worker does not answer")]
    Worker,
    #[error("cannot pass the sockets: {0}")]
    Sockets(io::Error),
    #[error("cannot start {path}: {cause}")]
    Start { path: String, cause: io::Error },
    #[error("it refused: {0}")]
    Refused(String),
    #[error("it ended: {0}")]
    Ended(String),
    #[error("it was not {what} within {limit:?}")]
    Silent { what: &'static str, limit: Duration },
    #[error("it does not speak as it should: {0}")]
    Nonsense(io::Error),
}

/// What is passed: lists of equal length.
struct Goods {
    sockets: Vec<Lent>,
    /// Of each; `None` for the admin listener's.
    listeners: Vec<Option<BindAddress>>,
    words: Vec<Passed>,
    /// Reloads wait.
    frozen: Frozen,
}

/// What a conversation that went well ends with.
struct Agreed {
    link: Link,
    adopted: HashSet<BindAddress>,
    admin: bool,
    frozen: Frozen,
}

impl Offer<'_> {
    /// Tries once. `again`: further requests meanwhile, which are refused.
    pub async fn run(
        &self,
        stops: &mut mpsc::UnboundedReceiver<Stop>,
        again: &mut mpsc::UnboundedReceiver<()>,
    ) -> Ended {
        let ended = self.once(stops, again).await;
        if !matches!(ended, Ended::HandedOver(_)) {
            self.registry.take_back();
        }
        ended
    }

    async fn once(
        &self,
        stops: &mut mpsc::UnboundedReceiver<Stop>,
        again: &mut mpsc::UnboundedReceiver<()>,
    ) -> Ended {
        let committed = Cell::new(false);
        let (mut started, mut late) = (None, None);
        let attempt = self.attempt(&mut started, &committed);
        let outcome = {
            let mut attempt = pin!(attempt);
            loop {
                tokio::select! {
                    biased;
                    outcome = attempt.as_mut() => break Ok(outcome),
                    stop = stops.recv(), if late.is_none() => match committed.get() {
                        false => break Err(stop),
                        // The other may accept already: we must know before one of us goes.
                        true => late = Some(stop),
                    },
                    Some(()) = again.recv() => events::upgrade_is_under_way(),
                }
            }
        };
        match (outcome, started) {
            (Ok(Ok(agreed)), Some((child, pid))) => Ended::HandedOver(Box::new(Successor {
                pid,
                heir: Heir::new(child),
                link: agreed.link,
                adopted: agreed.adopted,
                admin: agreed.admin,
                frozen: Some(agreed.frozen),
                stop: late.is_some(),
            })),
            (Ok(Ok(_)), None) => Ended::Failed("nothing was started".to_owned()),
            (Ok(Err(failure)), child) => {
                let failure = end(child, failure).await;
                match late {
                    None => Ended::Failed(failure.to_string()),
                    Some(stop) => Ended::Stopped(stop),
                }
            }
            (Err(stop), child) => {
                end(child, Failure::Ending).await;
                Ended::Stopped(stop)
            }
        }
    }

    async fn attempt(
        &self,
        started: &mut Option<(Child, u32)>,
        committed: &Cell<bool>,
    ) -> Result<Agreed, Failure> {
        if std::process::id() == 1 {
            return Err(Failure::First);
        }
        let goods = self.goods().await?;
        let (ours, theirs) = UnixStream::pair().map_err(Failure::Sockets)?;
        ours.set_nonblocking(true).map_err(Failure::Sockets)?;
        let link = Link::new(ours).map_err(Failure::Sockets)?;
        let child = self.start(theirs).await?;
        let pid = child.id().unwrap_or_default();
        events::upgrade_started(pid, self.program.path());
        let (child, _) = started.insert((child, pid));
        // A process can end while somebody that it started still holds its end of the socket.
        let (link, adopted) = {
            let mut talk = pin!(talk(link, &goods, self.registry, committed));
            tokio::select! {
                biased;
                outcome = talk.as_mut() => outcome,
                status = child.wait() => {
                    // Its last words may be waiting to be read.
                    match timeout(LAST_WORDS, talk).await {
                        Ok(Err(failure @ Failure::Refused(_))) => Err(failure),
                        _ => Err(Failure::Ended(describe(status))),
                    }
                }
            }?
        };
        // There is still somebody to go on.
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Failure::Ended(describe(Ok(status))));
        }
        let used = adopted
            .iter()
            .filter_map(|index| goods.listeners.get(*index));
        Ok(Agreed {
            link,
            admin: used.clone().any(Option::is_none),
            adopted: used.flatten().cloned().collect(),
            frozen: goods.frozen,
        })
    }

    /// Reloads wait from here on until these are dropped.
    async fn goods(&self) -> Result<Goods, Failure> {
        let frozen = self.reload.freeze().await.ok_or(Failure::Ending)?;
        let lent = timeout(LENDING, self.workers.lend()).await;
        let lent = lent
            .map_err(|_| Failure::Worker)?
            .map_err(Failure::Sockets)?;
        let mut goods = Goods {
            sockets: Vec::new(),
            listeners: Vec::new(),
            words: Vec::new(),
            frozen,
        };
        let mut seen = HashSet::new();
        for (address, lent) in lent {
            // Workers that share a socket all lend it.
            let stat = nix::sys::stat::fstat(&lent.socket);
            let stat = stat.map_err(|error| Failure::Sockets(error.into()))?;
            let mut held = goods.frozen.listeners.iter();
            let Some(held) = held.find(|held| held.configured == address) else {
                continue;
            };
            if seen.insert(stat.st_ino) {
                goods.words.push(passed(held, &lent, false));
                goods.listeners.push(Some(address));
                goods.sockets.push(lent);
            }
        }
        if let Some((bound, configured)) = self.admin {
            let (socket, file) = bound.lend().map_err(Failure::Sockets)?;
            let lent = Lent { socket, file };
            let held = Held {
                name: ADMIN.into(),
                configured: configured.clone(),
                bound: bound
                    .local_addr()
                    .map_or_else(|| configured.clone(), BindAddress::Tcp),
            };
            goods.words.push(passed(&held, &lent, true));
            goods.listeners.push(None);
            goods.sockets.push(lent);
        }
        Ok(goods)
    }

    /// `theirs` becomes its standard input.
    async fn start(&self, theirs: UnixStream) -> Result<Child, Failure> {
        let mut command = self.program.command();
        command
            .stdin(std::os::fd::OwnedFd::from(theirs))
            .env(REPLACES, "1")
            // What was meant for this process only.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID");
        // Reads the file, which may be far away.
        let spawn = move || signals::held(|| command.spawn());
        let spawned = tokio::task::spawn_blocking(spawn).await;
        let spawned = spawned.unwrap_or_else(|error| Err(io::Error::other(error)));
        spawned.map_err(|cause| Failure::Start {
            path: self.program.path().display().to_string(),
            cause,
        })
    }
}

fn passed(held: &Held, lent: &Lent, admin: bool) -> Passed {
    Passed {
        name: held.name.to_string(),
        admin,
        configured: held.configured.to_string(),
        bound: held.bound.to_string(),
        file: lent.file,
    }
}

/// The conversation, up to the list of sockets that the new process accepts on.
async fn talk(
    mut link: Link,
    goods: &Goods,
    registry: &Registry,
    committed: &Cell<bool>,
) -> Result<(Link, Vec<usize>), Failure> {
    let sockets = FromOld::Sockets {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        sockets: goods.words.clone(),
    };
    let descriptors: Vec<_> = goods
        .sockets
        .iter()
        .map(|lent| lent.socket.as_fd())
        .collect();
    within("speaking", HELLO, async {
        // The number is of what it can speak at most.
        while !matches!(hear(&mut link).await?, FromNew::Hello { .. }) {}
        link.say(&sockets).await.map_err(Failure::Nonsense)?;
        link.pass(&descriptors).await.map_err(Failure::Sockets)
    })
    .await?;
    within("ready", READY, async {
        while !matches!(hear(&mut link).await?, FromNew::Ready) {}
        Ok(())
    })
    .await?;
    committed.set(true);
    let adopted = within("accepting", ACCEPTING, async {
        // As late as can be: what happens from here on nobody tells it.
        let state = serde_json::to_value(registry.hand_over());
        let state = state.map_err(|error| Failure::Nonsense(error.into()))?;
        if let Err(error) = link.say(&FromOld::State { state }).await {
            // If nobody is there, the next word will say so.
            events::carried_too_much(&error);
        }
        link.say(&FromOld::Begin).await.map_err(Failure::Nonsense)?;
        loop {
            if let FromNew::Accepting { adopted } = hear(&mut link).await? {
                return Ok(adopted);
            }
        }
    })
    .await?;
    Ok((link, adopted))
}

async fn hear(link: &mut Link) -> Result<FromNew, Failure> {
    match link.hear().await {
        Ok(FromNew::Failed { reason }) => Err(Failure::Refused(reason)),
        Ok(message) => Ok(message),
        Err(error) => Err(Failure::Nonsense(error)),
    }
}

async fn within<T>(
    what: &'static str,
    limit: Duration,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let silent = |_| Err(Failure::Silent { what, limit });
    timeout(limit, step).await.unwrap_or_else(silent)
}

/// Ends the new process, if there is one, and waits until its descriptors of our sockets are gone.
/// One that went by itself says more by how it went than by the socket that broke.
async fn end(child: Option<(Child, u32)>, failure: Failure) -> Failure {
    let Some((mut child, pid)) = child else {
        return failure;
    };
    if let Failure::Nonsense(error) = &failure
        && !matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::Other
        )
        && let Ok(status) = timeout(DYING, child.wait()).await
    {
        return Failure::Ended(describe(status));
    }
    let _ = child.start_kill();
    if timeout(DYING, child.wait()).await.is_err() {
        tracing::warn!(pid, "upgrade: the new process was killed, but does not go");
    }
    failure
}

fn describe(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}
