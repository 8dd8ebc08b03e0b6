//! The thread of one worker.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use ipnet::IpNet;
use tokio::runtime::{LocalOptions, RuntimeMetrics};
use tokio::sync::{mpsc, oneshot};

use super::{Change, Command, Shared};
use crate::config::model::{BindAddress, Listener};
use crate::listener::accept::{self, Closed, End};
use crate::listener::group::Phase;
use crate::listener::{Acceptor, Door, Fresh, Group, Lent, Listening, Loads, Share};
use crate::proxy::{Context, ListenerRules};
use crate::snapshot::Reader;
use crate::telemetry::shard;
use crate::tls::Admission;
use crate::upstream::pool::Pools;
use crate::util::timer::Timers;

/// What a worker's thread starts with.
pub(super) struct Start {
    pub index: usize,
    pub shared: Shared,
    pub share: Share,
    pub loads: Arc<Loads>,
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub handed: mpsc::UnboundedReceiver<Fresh>,
    /// Dropped when the worker ends.
    pub running: mpsc::Sender<()>,
}

/// The body of the thread. It owns its event loop, which never leaves it: tasks are queued without a
/// lock and need no second scheduler around them. `built` hears whether there is one.
pub(super) fn run(start: Start, built: &SyncSender<io::Result<RuntimeMetrics>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return drop(built.send(Err(error))),
    };
    let _ = built.send(Ok(runtime.metrics()));
    shard::enter_worker(start.index);
    let running = start.running.clone();
    runtime.block_on(work(start));
    // What is left of its tasks goes before the worker counts as ended.
    drop(runtime);
    drop(running);
}

async fn work(start: Start) {
    let Start {
        index,
        shared,
        share,
        loads,
        mut commands,
        mut handed,
        ..
    } = start;
    let context = Rc::new(Context {
        snapshots: Reader::new(shared.snapshots),
        timers: Timers::new(),
        pools: Pools::new(&shared.hub),
        random: RefCell::default(),
        introductions: RefCell::default(),
        access: shared.access.worker(),
        metrics: shared.metrics,
        capacity: shared.capacity,
    });
    let (timers, share) = (context.timers.clone(), Rc::new(share));
    tokio::task::spawn_local({
        let share = share.clone();
        async move { timers.run_with(|now| share.relieve(&timers, now)).await }
    });
    tokio::task::spawn_local(context.pools.clone().run());

    let mut worker = Worker::new(context, share);
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Follow(change)) => worker.follow(change),
                Some(Command::Closed) => {
                    while let Ok(fresh) = handed.try_recv() {
                        worker.enter(fresh);
                    }
                    worker.retired.clear();
                }
                Some(Command::Drain(left)) => worker.drain(&left),
                Some(Command::Abort) => worker.abort(),
                Some(Command::Lend(lender)) => worker.lend(&lender),
                Some(Command::Beat(alive)) => drop(alive),
                // Control has gone without a word: only a panic there does that.
                None => { worker.drain(&HashSet::new()); worker.abort(); break }
            },
            Some(fresh) = handed.recv() => worker.enter(fresh),
            () = finished(&mut worker.closing, &loads, index), if worker.draining => {
                // The last look: what was sent before the mailbox closed is still served.
                handed.close();
                match handed.recv().await {
                    Some(fresh) => worker.enter(fresh),
                    None => break,
                }
            }
        }
    }
}

/// Returns when nobody is served and nobody can come: an accept loop that has not run since it was
/// told to end may have a queue to take, and a runtime that goes takes the loop with it.
async fn finished(closing: &mut Option<mpsc::Receiver<()>>, loads: &Loads, index: usize) {
    if let Some(closing) = closing {
        closing.recv().await;
    }
    loads.empty(index).await;
}

/// What forwarding fields say where clients use no port: a unix socket.
const HTTP_PORT: u16 = 80;

struct Worker {
    context: Rc<Context>,
    share: Rc<Share>,
    open: HashMap<BindAddress, Open>,
    /// Listeners that went with the last reload, until no accept loop is left that could hand over
    /// a connection of theirs. No longer: each holds the last snapshot that it was in.
    retired: HashMap<BindAddress, Rc<Door>>,
    /// Of listeners that are new: their worker heard of the reload before this one.
    early: Vec<Fresh>,
    /// Groups that no new connection joins.
    ending: Vec<Rc<Group>>,
    draining: bool,
    /// Closed when no accept loop is left after a drain began.
    closing: Option<mpsc::Receiver<()>>,
}

/// One listener as this worker accepts for it.
struct Open {
    door: Rc<Door>,
    /// One, unless there were more workers when they were bound (by another process). With the end
    /// of each one's accept loop.
    sockets: Vec<(Rc<Acceptor>, oneshot::Sender<End>)>,
    backlog: u32,
    belief: Belief,
}

/// What a listener takes as true about where a connection comes from, and by what it was let in: one
/// that entered under another belief ends.
#[derive(PartialEq)]
struct Belief {
    proxy_protocol: bool,
    trusted_proxies: Vec<IpNet>,
    tls: Option<Admission>,
}

impl Belief {
    fn of(rules: &Listener) -> Self {
        Belief {
            proxy_protocol: rules.proxy_protocol,
            trusted_proxies: rules.trusted_proxies.clone(),
            tls: rules.tls.as_ref().map(|terms| terms.admission()),
        }
    }
}

impl Worker {
    fn new(context: Rc<Context>, share: Rc<Share>) -> Self {
        Worker {
            context,
            share,
            open: HashMap::new(),
            retired: HashMap::new(),
            early: Vec::new(),
            ending: Vec::new(),
            draining: false,
            closing: None,
        }
    }

    fn follow(&mut self, change: Change) {
        if self.draining {
            return;
        }
        self.retired.clear();
        self.ending.retain(|group| !group.is_empty());
        let snapshot = self.context.snapshots.pin();
        let gone: Vec<_> = self
            .open
            .keys()
            .filter(|address| snapshot.listener_at(address).is_none())
            .cloned()
            .collect();
        for address in &gone {
            self.close(address, &change.closed, false);
        }
        for open in self.open.values_mut() {
            self.ending.extend(open.refresh(&self.context));
        }
        for (address, sockets) in change.added {
            self.listen(address, sockets);
        }
        for fresh in std::mem::take(&mut self.early) {
            self.enter(fresh);
        }
    }

    fn listen(&mut self, address: BindAddress, sockets: Vec<Listening>) {
        let Some(rules) = ListenerRules::new(&self.context, address.clone()) else {
            return; // A reload that is already overtaken by the next one.
        };
        let mut acceptors = Vec::with_capacity(sockets.len());
        for socket in sockets {
            match Acceptor::new(socket) {
                Ok(socket) => acceptors.push(Rc::new(socket)),
                // Only a lack of memory does that; the other workers' sockets still accept.
                Err(error) => {
                    tracing::error!(%address, %error, "a worker cannot use its socket");
                }
            }
        }
        let Some(first) = acceptors.first() else {
            return;
        };
        let (pin, listener) = rules.current(&self.context);
        let config = &pin.listener(listener).rules;
        let port = first.port().unwrap_or(HTTP_PORT);
        let context = self.context.clone();
        let door = Door::new(address.clone(), port, rules, context, self.share.clone());
        let backlog = config.backlog;
        let belief = Belief::of(config);
        let sockets = acceptors.into_iter().map(|socket| {
            let (stop, stopped) = oneshot::channel();
            tokio::task::spawn_local(accept::run(door.clone(), socket.clone(), stopped));
            (socket, stop)
        });
        let open = Open {
            sockets: sockets.collect(),
            door: door.clone(),
            backlog,
            belief,
        };
        self.open.insert(address, open);
    }

    /// Stops accepting at `address`; its connections end after their current request. `left`: what
    /// waits there is another process' now.
    fn close(&mut self, address: &BindAddress, closed: &Closed, left: bool) {
        let Some(Open { door, sockets, .. }) = self.open.remove(address) else {
            return;
        };
        let group = door.group();
        group.advance(Phase::Ending);
        self.ending.push(group);
        for (socket, stop) in sockets {
            if left {
                socket.leave();
            }
            // The accept loop must be the last owner: it closes the socket.
            drop(socket);
            let closed = closed.clone();
            // The loop only ends by this message.
            let _ = stop.send(End { closed, left });
        }
        self.retired.insert(address.clone(), door);
    }

    fn enter(&mut self, fresh: Fresh) {
        let door = match self.open.get(&fresh.listener) {
            Some(open) => Some(&open.door),
            None => self.retired.get(&fresh.listener),
        };
        match door {
            Some(door) => door.enter(fresh),
            None if self.draining => {}
            None => self.early.push(fresh),
        }
    }

    /// Says what it has; stops at the first that fails.
    fn lend(&self, lender: &mpsc::UnboundedSender<io::Result<(BindAddress, Lent)>>) {
        for (address, open) in &self.open {
            for (socket, _) in &open.sockets {
                let lent = socket.lend();
                let failed = lent.is_err();
                // Who asked may have given up.
                if lender
                    .send(lent.map(|lent| (address.clone(), lent)))
                    .is_err()
                    || failed
                {
                    return;
                }
            }
        }
    }

    fn drain(&mut self, left: &HashSet<BindAddress>) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.early.clear();
        let (closed, closing) = mpsc::channel(1);
        self.closing = Some(closing);
        let addresses: Vec<_> = self.open.keys().cloned().collect();
        for address in &addresses {
            self.close(address, &closed, left.contains(address));
        }
    }

    fn abort(&mut self) {
        for group in &self.ending {
            group.advance(Phase::Aborted);
        }
    }
}

impl Open {
    /// Takes over what the current snapshot says. Gives the connections that must end by it.
    fn refresh(&mut self, context: &Context) -> Option<Rc<Group>> {
        self.door.refresh();
        // Also lets go of the snapshot before.
        let (pin, listener) = self.door.rules.current(context);
        let config = &pin.listener(listener).rules;
        if self.backlog != config.backlog {
            self.backlog = config.backlog;
            for (socket, _) in &self.sockets {
                socket.set_backlog(config.backlog);
            }
        }
        let belief = Belief::of(config);
        if self.belief == belief {
            return None;
        }
        self.belief = belief;
        Some(self.door.renew())
    }
}
