//! Idle connections to servers: one set per worker, one count over all workers.
//!
//! A worker keeps its own idle connections, newest on top, so that a request takes the one least
//! likely to be stale without a lock or a system call; a sweep closes those that have been idle
//! too long, have lived too long, or on which the server sent something or went away.
//!
//! `max-connections` counts over all workers, idle ones included. A worker at the cap that keeps
//! none of its own has another one close one ([`Pools::want`]) while the request waits in the
//! upstream's queue; whoever makes room calls the queue ([`ServerConnections::on_room`]).
//!
//! A [`Claim`] lives as long as its connection, from before the dial: it is what the cap counts,
//! and the only way back into the pool.

mod hub;
mod kept;
mod shared;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use crate::upstream::pool::kept::{Kept, Worker};
use crate::wire::client::Connection;

pub use hub::Hub;
pub use shared::{HandOn, ServerConnections};

/// How often idle connections are looked at: well under the second that is kept between our end
/// of an idle connection and the server's.
const SWEEP: Duration = Duration::from_millis(500);

/// What the pool needs to know of a connection.
pub trait Pooled {
    /// Neither bytes, nor FIN, nor an error are waiting: a request may be sent. No system call.
    /// If so, `waiter` is woken when something comes.
    fn is_usable(&mut self, waiter: Option<&mut Context<'_>>) -> bool;

    /// The server's `Keep-Alive: timeout=`.
    fn keep_alive_hint(&self) -> Option<Duration>;
}

impl Pooled for Connection {
    fn is_usable(&mut self, waiter: Option<&mut Context<'_>>) -> bool {
        Connection::is_usable(self, waiter)
    }

    fn keep_alive_hint(&self) -> Option<Duration> {
        Connection::keep_alive_hint(self)
    }
}

/// The connection pools of one worker, by server. Not `Send`; shared by `Rc`.
pub struct Pools<C> {
    worker: Rc<Worker>,
    kept: RefCell<HashMap<u64, Rc<Kept<C>>>>,
}

/// The claim on one connection of a server, from before its dial to its end. Dropping it says
/// that the connection is closed: drop the connection first.
#[must_use = "dropping a claim gives up the connection"]
pub struct Claim<C> {
    kept: Rc<Kept<C>>,
    epoch: u64,
    opened: Instant,
}

/// What [`Pools::acquire`] found.
pub enum Acquired<C> {
    /// A kept connection: it may turn out stale.
    Kept(C, Claim<C>),
    /// None kept: open one under this claim.
    Dial(Claim<C>),
    /// At `max-connections`. Another worker has been asked to close an idle one where there is
    /// one; the queue hears of it.
    Full,
}

impl<C: Pooled + 'static> Pools<C> {
    /// Of one worker.
    pub fn new(hub: &Arc<Hub>) -> Rc<Self> {
        hub.join();
        Rc::new(Pools {
            worker: Rc::new(Worker {
                hub: hub.clone(),
                mailbox: Arc::default(),
                now: Cell::new(Instant::now()),
            }),
            kept: RefCell::default(),
        })
    }

    /// Sweeps, and closes what other workers want closed; the worker runs it next to its
    /// connections, for its life.
    pub async fn run(self: Rc<Self>) {
        let mut next_sweep = Instant::now() + SWEEP;
        loop {
            tokio::select! {
                () = self.worker.mailbox.woken() => self.answer_wishes(),
                () = tokio::time::sleep_until(next_sweep) => {
                    next_sweep = Instant::now() + SWEEP;
                }
            }
            self.sweep();
        }
    }

    /// This worker has an idle connection to the server or may open one.
    pub fn can_carry(&self, server: &Arc<ServerConnections>) -> bool {
        server.has_room()
            || self
                .kept
                .borrow()
                .get(&server.id())
                .is_some_and(|kept| !kept.is_empty())
    }

    /// The newest usable kept connection, or leave to open one. `waiter` is the task that starts
    /// an exchange on it in this wake-up: it waits for the answer already.
    pub fn acquire(
        self: &Rc<Self>,
        server: &Arc<ServerConnections>,
        waiter: Option<&mut Context<'_>>,
    ) -> Acquired<C> {
        let found = self
            .kept
            .borrow()
            .get(&server.id())
            .map(|kept| kept.take(waiter));
        match found.flatten() {
            Some(idle) => Acquired::Kept(idle.connection, idle.claim),
            None => self.acquire_new(server),
        }
    }

    /// The same for a request that could not be sent again: a new connection, where there is room
    /// for one, as long as the server is known to end kept ones without a word.
    pub fn acquire_for_once(
        self: &Rc<Self>,
        server: &Arc<ServerConnections>,
        waiter: Option<&mut Context<'_>>,
    ) -> Acquired<C> {
        let doubted = match self.kept.borrow().get(&server.id()) {
            Some(kept) => kept.is_doubted(),
            None => false,
        };
        match doubted.then(|| self.claim(server)).flatten() {
            Some(claim) => Acquired::Dial(claim),
            None => self.acquire(server, waiter),
        }
    }

    /// Leave to open a connection, whatever is kept: to send again what a stale one lost.
    pub fn acquire_new(self: &Rc<Self>, server: &Arc<ServerConnections>) -> Acquired<C> {
        match self.claim(server) {
            Some(claim) => Acquired::Dial(claim),
            None => {
                server.want();
                Acquired::Full
            }
        }
    }

    /// `None` at `max-connections`.
    fn claim(&self, server: &Arc<ServerConnections>) -> Option<Claim<C>> {
        if !server.claim() {
            return None;
        }
        let mut all = self.kept.borrow_mut();
        let kept = all
            .entry(server.id())
            .or_insert_with(|| Kept::new(server, &self.worker));
        Some(Claim {
            kept: kept.clone(),
            epoch: server.epoch(),
            opened: self.worker.now.get(),
        })
    }

    /// A request waits for a connection to a server that [`Pools::can_carry`] refused: asks
    /// another worker to close an idle one. Call it after entering the queue, then look at
    /// [`Pools::can_carry`] once more: room made in between is then seen by one side or the other.
    pub fn want(&self, server: &ServerConnections) {
        server.want();
    }

    /// Ends what is over, and forgets servers that nobody else knows any more.
    fn sweep(&self) {
        let now = Instant::now();
        self.worker.now.set(now);
        let mut ended = Vec::new();
        self.kept.borrow_mut().retain(|_, kept| {
            let orphaned = kept.is_orphaned();
            if orphaned {
                ended.extend(kept.close());
            } else {
                kept.expire(now, &mut ended);
            }
            !orphaned
        });
    }

    /// Closes one idle connection for each wish.
    fn answer_wishes(&self) {
        let asked: Vec<Rc<Kept<C>>> = self
            .kept
            .borrow()
            .values()
            .filter(|kept| kept.shard.take_asked())
            .cloned()
            .collect();
        for kept in asked {
            // One only: whoever takes its place wakes the next one that waits, who asks again.
            drop(kept.oldest());
        }
    }
}

impl<C> Pools<C> {
    /// Closes all idle connections: the worker is stopping.
    pub fn close_idle(&self) {
        let all = std::mem::take(&mut *self.kept.borrow_mut());
        for kept in all.values() {
            drop(kept.close());
        }
    }
}

impl<C> Drop for Pools<C> {
    fn drop(&mut self) {
        self.close_idle();
        self.worker.hub.leave();
    }
}

impl<C: Pooled> Claim<C> {
    /// The connection served its exchange and may serve another.
    pub fn check_in(self, connection: C) {
        let kept = self.kept.clone();
        kept.give_back(connection, self);
    }
}

impl<C> Claim<C> {
    /// The server ended the connection, a kept one, before its answer.
    pub fn was_stale(&self) {
        self.kept.doubt();
    }

    /// The server that the connection belongs to.
    pub fn server(&self) -> &Arc<ServerConnections> {
        &self.kept.server
    }
}

impl<C> Drop for Claim<C> {
    fn drop(&mut self) {
        self.kept.server.release();
    }
}

#[cfg(test)]
mod tests;
