//! One accept loop per socket.
//!
//! A removed socket is closed only after `accept` returned EAGAIN: the kernel resets what still
//! waits in the queue of a closed one (of 40 queued connections 16 were seen lost). One that another
//! process has taken over is let go of with whatever is in its queue, which is the other's now.
//!
//! At `max-connections`, of the process or of the listener, new connections are left in the backlog
//! as long as there is hope: somebody leaves, or is let go of because nobody needs him. When no
//! place was free for [`HOPE`], those that wait and those that come are accepted and closed at once,
//! so that they hear of it, until there is a place again. Short of memory they are closed without
//! waiting.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::acceptor::{Acceptor, Detached, Listening};
use super::connection;
use super::group::{Group, Phase};
use super::room::{Admitted, Full, Room};
use super::share::{Fresh, Share};
use crate::config::model::BindAddress;
use crate::proxy::{Context, ListenerRules};
use crate::util::descriptors;
use crate::util::exhaustion::is_exhaustion;
use crate::util::timer::SweepSlot;
use crate::wire::io::Socket;

/// Connections taken in one go: enough for a burst, few enough not to starve the open ones.
const BURST: usize = 64;

/// How long to leave connections in the backlog when there are no descriptors.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Between two words about that.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// As long as it takes to find who is idle or slow, and a little more.
const HOPE: Duration = Duration::from_secs(3);
/// Between two looks of one worker for those that are idle while somebody waits.
const RELIEF: Duration = Duration::from_millis(50);

/// Where one listener's connections enter one worker.
pub struct Door {
    /// As configured.
    pub address: BindAddress,
    /// Where clients connect to; not that of the address where the system chose it. That of the
    /// scheme for a unix socket.
    pub(super) port: u16,
    pub rules: Rc<ListenerRules>,
    pub(super) context: Rc<Context>,
    share: Rc<Share>,
    room: Arc<Room>,
    /// Of connections that enter now.
    group: RefCell<Rc<Group>>,
}

/// Held until a stopped loop has closed its socket.
pub type Closed = tokio::sync::mpsc::Sender<()>;

/// Tells a loop to end.
#[derive(Debug)]
pub struct End {
    /// Dropped once the socket is closed.
    pub closed: Closed,
    /// Another process accepts on the same socket.
    pub left: bool,
}

impl Door {
    pub fn new(
        address: BindAddress,
        port: u16,
        rules: Rc<ListenerRules>,
        context: Rc<Context>,
        share: Rc<Share>,
    ) -> Rc<Self> {
        let room = share.room(&address);
        let door = Door {
            address,
            port,
            rules,
            context,
            share,
            room,
            group: RefCell::new(Group::new()),
        };
        door.refresh();
        Rc::new(door)
    }

    /// Takes up the limits of the current snapshot.
    pub fn refresh(&self) {
        let (snapshot, listener) = self.rules.current(&self.context);
        let most = snapshot.listener(listener).rules.limits.max_connections;
        let min_rate = snapshot.config.process.min_rate;
        self.room
            .set(most, min_rate.map_or(0, |rate| rate.bytes_per_second));
    }

    /// One more deadline for a connection of this listener.
    pub(super) fn slot(&self) -> SweepSlot {
        self.context.timers.slot_of(self.room.number())
    }

    pub fn group(&self) -> Rc<Group> {
        self.group.borrow().clone()
    }

    /// Ends the connections that entered so far; those to come form a new group. Gives the old.
    pub fn renew(&self) -> Rc<Group> {
        let old = self.group.replace(Group::new());
        old.advance(Phase::Ending);
        old
    }

    /// Lets a connection in that another worker accepted.
    pub fn enter(&self, fresh: Fresh) {
        match fresh.stream.into_socket() {
            Ok(socket) => {
                connection::spawn(self, socket, fresh.peer, fresh.slot);
            }
            Err(error) => self.refuse(&error),
        }
    }

    /// Serves an accepted connection here, or hands it over. One without a place is closed.
    fn accepted(&self, socket: Socket, peer: SocketAddr, place: Result<Admitted<'_>, Full>) {
        let admitted = match place {
            Ok(admitted) => admitted,
            Err(full) => return self.turn_away(full),
        };
        let slot = self.share.slot(&self.room, admitted);
        let better = match self.group.borrow().phase() {
            Phase::Serving => self.share.better(),
            Phase::Ending | Phase::Aborted => None,
        };
        let Some(worker) = better else {
            return connection::spawn(self, socket, peer, slot);
        };
        match Detached::from_socket(socket) {
            Ok(stream) => {
                let fresh = Fresh {
                    stream,
                    peer,
                    listener: self.address.clone(),
                    slot,
                };
                if let Err(fresh) = self.share.hand_over(worker, fresh) {
                    self.enter(fresh);
                }
            }
            Err(error) => self.refuse(&error),
        }
    }

    /// Counts one that is closed because there is no place for it.
    fn turn_away(&self, full: Full) {
        match full {
            Full::Process => self.share.capacity().refused(),
            Full::Listener => self.room.capacity().refused(),
        }
        let (snapshot, listener) = self.rules.current(&self.context);
        snapshot.listener(listener).metrics.connection_refused();
    }

    /// Connections are left in the backlog for a while.
    fn pauses(&self) {
        let (snapshot, listener) = self.rules.current(&self.context);
        snapshot.listener(listener).metrics.accept_paused();
    }

    fn refuse(&self, error: &io::Error) {
        let (snapshot, listener) = self.rules.current(&self.context);
        let state = snapshot.listener(listener);
        state.metrics.connection_refused();
        tracing::debug!(listener = %state.rules.name, %error, "connection not accepted");
    }
}

/// How an accept loop fares.
struct Mood {
    pause: Duration,
    told: Option<Instant>,
    /// Since when there is no place.
    full: Option<Instant>,
    relieved: Option<Instant>,
}

impl Mood {
    /// There was no place for too long.
    fn refuses(&self) -> bool {
        self.full.is_some_and(|since| since.elapsed() >= HOPE)
    }

    fn is_time_to_tell(&mut self) -> bool {
        let now = Instant::now();
        let due = self.told.is_none_or(|told| now - told > TOLD_AGAIN);
        if due {
            self.told = Some(now);
        }
        due
    }

    fn is_time_to_relieve(&mut self) -> bool {
        let now = Instant::now();
        let due = self.relieved.is_none_or(|then| now - then >= RELIEF);
        if due {
            self.relieved = Some(now);
        }
        due
    }
}

/// Accepts until told to stop; what is in the queue then is still accepted, unless another process
/// does that.
pub async fn run(door: Rc<Door>, socket: Rc<Acceptor>, mut stop: oneshot::Receiver<End>) {
    let mut mood = Mood {
        pause: FIRST_PAUSE,
        told: None,
        full: None,
        relieved: None,
    };
    let end = loop {
        let step = poll_fn(|cx| {
            if let Poll::Ready(end) = std::pin::Pin::new(&mut stop).poll(cx) {
                return Poll::Ready(Step::Stop(end.ok()));
            }
            poll_burst(&door, &socket, &mut mood, cx)
        });
        let step = step.await;
        let pause = async {
            match step {
                Step::Stop(end) => return Some(end),
                Step::Burst => tokio::task::yield_now().await,
                Step::Full(of) => full(&door, &mut mood, of).await,
                Step::Exhausted(error) => exhausted(&door, &mut mood, &error).await,
            }
            None
        };
        // A stop that was heard is not asked for again.
        tokio::select! {
            biased;
            stopped = pause => if let Some(end) = stopped {
                break end;
            },
            end = &mut stop => break end.ok(),
        }
    };
    let left = end.as_ref().is_some_and(|end| end.left);
    if !left
        && let Ok(socket) = Rc::try_unwrap(socket)
        && let Ok(socket) = socket.detach()
    {
        socket.hide();
        take_queued(&door, &socket);
        if let Some(socket) = socket.last() {
            take_queued(&door, &socket);
        }
    }
    drop(end);
}

/// All places are taken: waits for one.
async fn full(door: &Door, mood: &mut Mood, full: Full) {
    if mood.full.is_none() {
        mood.full = Some(Instant::now());
        door.pauses();
    }
    let (timers, now) = (&door.context.timers, Instant::now());
    let relieves = mood.is_time_to_relieve();
    match full {
        Full::Process => {
            let capacity = door.share.capacity();
            if capacity.crowds() {
                let most = capacity.most();
                tracing::warn!(
                    most,
                    "connections are at process.max-connections: new ones wait"
                );
            }
            if relieves {
                door.share.relieve_all(timers, now);
            }
            capacity.room().await;
        }
        Full::Listener => {
            let (snapshot, listener) = door.rules.current(&door.context);
            door.room
                .tell_of_crowd(&snapshot.listener(listener).rules.name);
            drop(snapshot);
            if relieves {
                door.share.relieve_room(timers, now, &door.room);
            }
            door.room.capacity().room().await;
        }
    }
}

/// Nothing left to accept with: waits until something was freed.
async fn exhausted(door: &Door, mood: &mut Mood, error: &io::Error) {
    if mood.is_time_to_tell() {
        tracing::warn!(address = %door.address, %error, "cannot accept for now: new connections wait");
    }
    door.pauses();
    // Kept connections to servers are what we can give up.
    door.context.pools.spare();
    let pause = mood.pause;
    mood.pause = (pause * 2).min(LONGEST_PAUSE);
    door.share.capacity().left(pause).await;
}

enum Step {
    Stop(Option<End>),
    Burst,
    /// There is no place for one more.
    Full(Full),
    /// Out of descriptors or memory.
    Exhausted(io::Error),
}

fn poll_burst(
    door: &Door,
    socket: &Acceptor,
    mood: &mut Mood,
    cx: &mut TaskContext<'_>,
) -> Poll<Step> {
    let capacity = door.share.capacity();
    for _ in 0..BURST {
        // Before anybody is accepted: whoever is must be served.
        let lacks_memory = capacity.lacks_memory();
        let place = match lacks_memory {
            true => Err(Full::Process),
            false => door.room.admit(),
        };
        if let Err(full) = place
            && !lacks_memory
            && !mood.refuses()
        {
            return Poll::Ready(Step::Full(full));
        }
        if place.is_ok() {
            // Whether anybody comes for it or not: the next time without one begins anew.
            mood.full = None;
        }
        match std::task::ready!(socket.poll_accept(cx)) {
            Ok((socket, peer)) => {
                mood.pause = FIRST_PAUSE;
                if descriptors::is_last(socket.descriptor())
                    // Kept connections to servers are given up for a client who has a place.
                    && !(place.is_ok() && door.context.pools.spare())
                {
                    // Servers have taken what was left: whoever is in needs the rest.
                    drop(place);
                    door.accepted(socket, peer, Err(Full::Process));
                    return Poll::Ready(Step::Exhausted(Errno::EMFILE.into()));
                }
                door.accepted(socket, peer, place);
            }
            Err(error) if is_exhaustion(&error) => return Poll::Ready(Step::Exhausted(error)),
            // A client that left while it was queued; a firewall's verdict: accept(2) names a
            // dozen that concern that connection only.
            Err(error) => door.refuse(&error),
        }
    }
    Poll::Ready(Step::Burst)
}

/// Accepts directly, because the runtime's readiness may not know yet of the last arrivals.
fn take_queued(door: &Door, socket: &Listening) {
    loop {
        match socket.accept() {
            Ok((stream, peer)) => match stream.into_socket() {
                Ok(socket) => door.accepted(socket, peer, door.room.admit()),
                Err(error) => door.refuse(&error),
            },
            // One that was shut is invalid where another only has nobody waiting.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::InvalidInput
                ) =>
            {
                return;
            }
            Err(error) if is_exhaustion(&error) => return door.refuse(&error),
            Err(_) => {}
        }
    }
}
