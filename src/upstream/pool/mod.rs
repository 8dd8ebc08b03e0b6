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
//! and the only way back into the pool. Where a connection carries many exchanges ([`lines`]),
//! theirs are claims on its places, and the connection's own lies with its socket.

mod hub;
mod kept;
mod lines;
mod shared;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use foldhash::HashMap;
use tokio::time::Instant;

use crate::upstream::connector::ConnectError;
use crate::upstream::pool::kept::{Kept, Worker};
use crate::upstream::pool::lines::{Dial, Line};
use crate::wire::client::Connection;

pub use hub::Hub;
pub use lines::{Outcome, Wait};
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

    /// The same connection once more, where it carries many exchanges.
    fn share(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// How many exchanges it may carry now: fewer than it does means no further one.
    fn places(&self) -> usize {
        1
    }

    /// No further exchange will ever begin on it.
    fn is_over(&self) -> bool {
        false
    }

    /// `claim` is dropped when the connection is closed.
    fn keep_until_closed(&self, _claim: Box<dyn Any>) {}
}

impl Pooled for Connection {
    fn is_usable(&mut self, waiter: Option<&mut Context<'_>>) -> bool {
        Connection::is_usable(self, waiter)
    }

    fn keep_alive_hint(&self) -> Option<Duration> {
        Connection::keep_alive_hint(self)
    }

    fn share(&self) -> Option<Self> {
        Connection::share(self)
    }

    fn places(&self) -> usize {
        Connection::places(self)
    }

    fn is_over(&self) -> bool {
        Connection::is_over(self)
    }

    fn keep_until_closed(&self, claim: Box<dyn Any>) {
        Connection::keep_until_closed(self, claim);
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
    part: Part<C>,
}

/// What a claim is on.
enum Part<C> {
    /// A connection.
    Whole,
    /// One being opened that others may wait for.
    Dialling(Rc<Dial>),
    /// A place on whatever comes of another's dial.
    Waiting(Box<Wait>),
    /// A place on a connection that others use too.
    Place(Rc<Line<C>>),
}

/// What [`Pools::acquire`] found.
pub enum Acquired<C> {
    /// A kept connection: it may turn out stale.
    Kept(C, Claim<C>),
    /// None kept: open one under this claim, or wait for whom it is that does
    /// ([`Claim::waits`]).
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
                .is_some_and(|kept| !kept.is_empty() || kept.has_place())
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
            None if server.may_share() => self.acquire_place(server),
            None => self.acquire_new(server),
        }
    }

    /// A place on a line, or on one that is being opened; else leave to open one.
    fn acquire_place(self: &Rc<Self>, server: &Arc<ServerConnections>) -> Acquired<C> {
        let kept = self.kept.borrow().get(&server.id()).cloned();
        if let Some(kept) = &kept {
            if let Some((connection, line)) = kept.take_place() {
                let claim = Claim {
                    epoch: line.epoch,
                    opened: line.opened,
                    kept: kept.clone(),
                    part: Part::Place(line),
                };
                return Acquired::Kept(connection, claim);
            }
            if let Some(dial) = kept.dial_with_room() {
                return Acquired::Dial(Claim {
                    epoch: server.epoch(),
                    opened: self.worker.now.get(),
                    kept: kept.clone(),
                    part: Part::Waiting(Box::new(Wait::new(dial))),
                });
            }
        }
        match self.acquire_new(server) {
            Acquired::Dial(mut claim) => {
                claim.part = Part::Dialling(claim.kept.begin_dial());
                Acquired::Dial(claim)
            }
            other => other,
        }
    }

    /// The same for a request that could not be sent again: a new connection, where there is room
    /// for one, as long as the server is known to end kept ones without a word.
    pub fn acquire_for_once(
        self: &Rc<Self>,
        server: &Arc<ServerConnections>,
        waiter: Option<&mut Context<'_>>,
    ) -> Acquired<C> {
        if server.may_share() {
            // Whether a line has ended is known before anything is sent on it.
            return self.acquire(server, waiter);
        }
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
            part: Part::Whole,
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
        let (mut ended, mut lines) = (Vec::new(), Vec::new());
        self.kept.borrow_mut().retain(|_, kept| {
            let orphaned = kept.is_orphaned();
            if orphaned {
                let closed = kept.close();
                ended.extend(closed.0);
                lines.extend(closed.1);
            } else {
                kept.expire(now, &mut ended);
                kept.expire_lines(now, &mut lines);
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
            kept.close_oldest();
        }
    }
}

impl<C> Pools<C> {
    /// Closes all idle connections: the worker is stopping, or needs what they hold. False where
    /// there was none.
    pub fn close_idle(&self) -> bool {
        let all = std::mem::take(&mut *self.kept.borrow_mut());
        let mut any = false;
        for kept in all.values() {
            let (idle, lines) = kept.close();
            any |= !idle.is_empty() || lines.iter().any(|line| line.is_idle());
        }
        any
    }

    /// Where there is no descriptor left: closes what is idle here, or has another worker close
    /// one. Whether there was anything to close.
    pub fn spare(&self) -> bool {
        self.close_idle() || self.worker.hub.spare()
    }
}

impl<C> Drop for Pools<C> {
    fn drop(&mut self) {
        self.close_idle();
        self.worker.hub.leave();
    }
}

impl<C: Pooled + 'static> Claim<C> {
    /// The connection served its exchange and may serve another.
    pub fn check_in(self, connection: C) {
        if let Part::Place(_) = self.part {
            // A place is given back by the claim on it; the line goes on.
            drop(connection);
            return drop(self);
        }
        let kept = self.kept.clone();
        kept.give_back(connection, self);
    }

    /// What was dialled under this claim is open. Where it carries many exchanges, the claim is on
    /// the first of its places from now on, and those that wait take the next ones.
    pub fn opened(&mut self, connection: C) -> C {
        let Part::Dialling(dial) = std::mem::replace(&mut self.part, Part::Whole) else {
            return connection;
        };
        let first = connection.share();
        let places = first.as_ref().map_or(0, C::places);
        self.kept.server.expect_places(places);
        let connection = match first {
            Some(first) => {
                self.opened = self.kept.worker.now.get();
                let line = Line::open(&self.kept, connection, self.epoch, self.opened);
                self.kept.add_line(line.clone());
                self.part = Part::Place(line);
                first
            }
            None => connection,
        };
        self.kept.dial_ended(&dial, Outcome::Over);
        connection
    }
}

impl<C> Claim<C> {
    /// The server ended the connection, a kept one, before its answer.
    pub fn was_stale(&self) {
        self.kept.doubt();
    }

    /// Others use the connection too: it can be bound to nobody.
    pub fn is_place(&self) -> bool {
        matches!(self.part, Part::Place(_))
    }

    /// Another dials, and this claim is on a place that may come of it.
    pub fn waits(&self) -> Option<&Wait> {
        match &self.part {
            Part::Waiting(wait) => Some(wait),
            _ => None,
        }
    }

    /// The dial failed, for those that waited for it too.
    pub fn failed(&mut self, error: &Arc<ConnectError>) {
        if let Part::Dialling(dial) = &self.part {
            self.kept.dial_ended(dial, Outcome::Failed(error.clone()));
        }
    }

    /// What the server's connections speak has not changed since it was opened.
    pub fn is_current(&self) -> bool {
        self.epoch == self.kept.server.epoch()
    }

    /// The server that the connection belongs to.
    pub fn server(&self) -> &Arc<ServerConnections> {
        &self.kept.server
    }
}

impl<C> Drop for Claim<C> {
    #[inline]
    fn drop(&mut self) {
        match &self.part {
            Part::Whole => self.kept.server.release(),
            Part::Dialling(dial) => {
                // Should nobody have said how it ended, somebody else goes on.
                self.kept.dial_ended(dial, Outcome::Over);
                self.kept.server.release();
            }
            Part::Waiting(_) => {}
            Part::Place(line) => self.kept.leave_place(line),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_lines;
