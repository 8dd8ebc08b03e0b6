//! One accept loop per socket.
//!
//! A removed socket is closed only after `accept` returned EAGAIN: the kernel resets what still
//! waits in the queue of a closed one (of 40 queued connections 16 were seen lost). One that another
//! process has taken over is let go of with whatever is in its queue, which is the other's now.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::acceptor::{Acceptor, Detached, Listening};
use super::connection;
use super::group::{Group, Phase};
use super::share::{Fresh, Share};
use crate::config::model::BindAddress;
use crate::proxy::{Context, ListenerRules};
use crate::util::exhaustion::is_exhaustion;
use crate::wire::io::Socket;

/// Connections taken in one go: enough for a burst, few enough not to starve the open ones.
const BURST: usize = 64;

/// How long to leave connections in the backlog when there are no descriptors.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Between two words about connections that wait.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

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
        Rc::new(Door {
            address,
            port,
            rules,
            context,
            share,
            group: RefCell::new(Group::new()),
        })
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

    /// Serves an accepted connection here, or hands it over.
    fn accepted(&self, socket: Socket, peer: SocketAddr) {
        let slot = self.share.slot();
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

    fn refuse(&self, error: &io::Error) {
        let (snapshot, listener) = self.rules.current(&self.context);
        let state = snapshot.listener(listener);
        state.metrics.connection_refused();
        tracing::debug!(listener = %state.rules.name, %error, "connection not accepted");
    }
}

/// Accepts until told to stop; what is in the queue then is still accepted, unless another process
/// does that.
pub async fn run(door: Rc<Door>, socket: Rc<Acceptor>, mut stop: oneshot::Receiver<End>) {
    let mut pause = FIRST_PAUSE;
    let mut told: Option<Instant> = None;
    let end = loop {
        let step = poll_fn(|cx| {
            if let Poll::Ready(end) = std::pin::Pin::new(&mut stop).poll(cx) {
                return Poll::Ready(Step::Stop(end.ok()));
            }
            poll_burst(&door, &socket, cx)
        });
        match step.await {
            Step::Stop(end) => break end,
            Step::Burst => {
                pause = FIRST_PAUSE;
                tokio::task::yield_now().await;
            }
            Step::Full => {
                if told.is_none_or(|told| told.elapsed() > TOLD_AGAIN) {
                    told = Some(Instant::now());
                    let address = &door.address;
                    tracing::warn!(%address, "no descriptors for more connections: new ones wait");
                }
                tokio::select! {
                    end = &mut stop => break end.ok(),
                    () = door.share.room() => {}
                }
            }
            Step::Exhausted(error) => {
                if pause == FIRST_PAUSE {
                    tracing::warn!(address = %door.address, %error, "cannot accept, trying again");
                }
                door.refuse(&error);
                // Kept connections to servers are what we can give up at once.
                door.context.pools.close_idle();
                tokio::select! {
                    end = &mut stop => break end.ok(),
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                }
            }
        }
    };
    if end.as_ref().is_some_and(|end| end.left) {
        socket.leave();
    } else if let Ok(socket) = Rc::try_unwrap(socket)
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

enum Step {
    Stop(Option<End>),
    Burst,
    /// What descriptors are left is for connections to servers.
    Full,
    /// Out of descriptors or memory.
    Exhausted(io::Error),
}

fn poll_burst(door: &Door, socket: &Acceptor, cx: &mut TaskContext<'_>) -> Poll<Step> {
    for _ in 0..BURST {
        if !door.share.has_room() {
            return Poll::Ready(Step::Full);
        }
        match std::task::ready!(socket.poll_accept(cx)) {
            Ok((socket, peer)) => door.accepted(socket, peer),
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
                Ok(socket) => door.accepted(socket, peer),
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
