//! The idle connections of one worker to one server.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::pool::hub::{Hub, Mailbox};
use crate::upstream::pool::lines::{Dial, Line, Outcome};
use crate::upstream::pool::shared::{ServerConnections, Shard};
use crate::upstream::pool::{Claim, Pooled};

/// The server closes an idle connection this much after we do: a request that we send on it in
/// our last moment still arrives in time.
const MARGIN: Duration = Duration::from_secs(1);

/// What the lists of one worker have in common.
pub(super) struct Worker {
    pub hub: Arc<Hub>,
    pub mailbox: Arc<Mailbox>,
    /// As of the last sweep: a coarse clock that costs nothing to read.
    pub now: Cell<Instant>,
}

/// A connection between two exchanges. The order of fields matters: closed, then released.
///
/// It holds its claim, which leads back to the list, so that taking and giving back move both
/// and count nothing; [`Kept::close`] ends that circle.
pub(super) struct Idle<C> {
    pub connection: C,
    pub claim: Claim<C>,
    since: Instant,
}

/// Idle connections, and what is known of the server as one that keeps them.
pub(super) struct Kept<C> {
    pub server: Arc<ServerConnections>,
    pub shard: Arc<Shard>,
    pub worker: Rc<Worker>,
    state: RefCell<State<C>>,
}

struct State<C> {
    /// Newest last.
    idle: VecDeque<Idle<C>>,
    /// Those that carry many exchanges and take further ones; oldest first.
    lines: Vec<Rc<Line<C>>>,
    /// How many of them carry none.
    idle_lines: usize,
    /// Those that others may wait for.
    dials: Vec<Rc<Dial>>,
    /// How far the server is suspected of ending kept connections without a word: grows with each
    /// that it ended, wears off with each that still worked.
    doubt: u32,
    /// The worker stops, or the server is gone: nothing is kept any more.
    closed: bool,
}

/// What one connection that the server ended says about the next ones.
const DOUBT: u32 = 32;

/// A restart ends all of them at once, and means nothing for those to come: forgotten after so
/// many requests.
const MOST_DOUBT: u32 = 256;

impl<C: Pooled> Kept<C> {
    /// The newest usable one.
    pub fn take(&self, mut waiter: Option<&mut Context<'_>>) -> Option<Idle<C>> {
        let epoch = self.server.epoch();
        let mut ended = Vec::new();
        let mut state = self.state.borrow_mut();
        let mut found = None;
        while let Some(mut idle) = state.idle.pop_back() {
            if idle.claim.epoch == epoch {
                if idle.connection.is_usable(waiter.as_deref_mut()) {
                    state.doubt = state.doubt.saturating_sub(1);
                    found = Some(idle);
                    break;
                }
                state.doubt();
            }
            ended.push(idle);
        }
        // Relaxed: who asks for one of too many finds none, and is told of the next.
        let left = state.idle.len() + state.idle_lines;
        self.shard.idle.store(left, Ordering::Relaxed);
        drop(state);
        // Only now: to end them may call the queue.
        drop(ended);
        found
    }

    /// Keeps one more, the oldest making room for it where there are too many, or closes it.
    pub fn give_back(&self, connection: C, claim: Claim<C>) {
        if !self.may_keep(&connection, &claim) {
            drop(connection);
            return drop(claim);
        }
        let idle = Idle {
            connection,
            claim,
            since: self.worker.now.get(),
        };
        let excess = self.push(idle);
        drop(excess);
        if self.server.is_wanted() {
            self.server.tell_room();
        }
    }

    fn push(&self, idle: Idle<C>) -> Option<Idle<C>> {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return Some(idle);
        }
        let workers = self.worker.hub.workers();
        let idle_ones = state.idle.len() + state.idle_lines;
        let excess = if self.server.is_share(idle_ones, workers) {
            state.idle.pop_front()
        } else {
            None
        };
        state.idle.push_back(idle);
        self.count(&state);
        excess
    }

    fn may_keep(&self, connection: &C, claim: &Claim<C>) -> bool {
        claim.epoch == self.server.epoch()
            && self.server.idle_timeout() != Some(Duration::ZERO)
            && connection
                .keep_alive_hint()
                .is_none_or(|hint| hint > MARGIN)
            && !self.has_outlived(claim, self.worker.now.get())
    }

    fn has_outlived(&self, claim: &Claim<C>, now: Instant) -> bool {
        self.is_too_old(claim.opened, now)
    }

    /// Ends those whose time is over, that are no longer wanted, or that the server ended.
    pub fn expire(&self, now: Instant, ended: &mut Vec<Idle<C>>) {
        let (epoch, timeout) = (self.server.epoch(), self.server.idle_timeout());
        let mut state = self.state.borrow_mut();
        let mut index = 0;
        while let Some(idle) = state.idle.get_mut(index) {
            let hint = idle.connection.keep_alive_hint();
            let hint = hint.map(|hint| hint.saturating_sub(MARGIN));
            let most = [timeout, hint].into_iter().flatten().min();
            let idle_for = now.saturating_duration_since(idle.since);
            let over =
                most.is_some_and(|most| idle_for >= most) || self.has_outlived(&idle.claim, now);
            let wanted = !over && idle.claim.epoch == epoch;
            if wanted && idle.connection.is_usable(None) {
                index += 1;
                continue;
            }
            ended.extend(state.idle.remove(index));
            if wanted {
                state.doubt();
            }
        }
        self.count(&state);
    }

    /// A further exchange on a line that has room for it.
    pub fn take_place(&self) -> Option<(C, Rc<Line<C>>)> {
        let (epoch, now) = (self.server.epoch(), self.worker.now.get());
        let mut ended = Vec::new();
        let mut state = self.state.borrow_mut();
        state.lines.retain(|line| {
            let over = self.is_done_with(line, epoch, now);
            if over {
                ended.push(line.clone());
            }
            !over
        });
        let found = state.lines.iter().find_map(|line| {
            let connection = line.has_room().then(|| line.connection.share())?;
            Some((connection?, line.clone()))
        });
        if let Some((_, line)) = &found {
            line.taken.set(line.taken.get() + 1);
        }
        self.recount(&mut state);
        drop(state);
        drop(ended);
        found
    }

    /// A line, or a dial, has room for a further exchange.
    pub fn has_place(&self) -> bool {
        let state = self.state.borrow();
        let epoch = self.server.epoch();
        let room = |line: &Rc<Line<C>>| line.epoch == epoch && line.has_room();
        state.lines.iter().any(room) || self.find_dial(&state).is_some()
    }

    /// Takes no further exchange.
    fn is_done_with(&self, line: &Line<C>, epoch: u64, now: Instant) -> bool {
        line.epoch != epoch
            || !line.is_open()
            || line.connection.is_over()
            || self.is_too_old(line.opened, now)
    }

    /// Ends lines whose time is over; those that carry something do so until its end.
    pub fn expire_lines(&self, now: Instant, ended: &mut Vec<Rc<Line<C>>>) {
        let (epoch, timeout) = (self.server.epoch(), self.server.idle_timeout());
        let mut state = self.state.borrow_mut();
        if state.lines.is_empty() {
            return;
        }
        state.lines.retain(|line| {
            let idle_for = now.saturating_duration_since(line.since.get());
            let idle_too_long = line.is_idle() && timeout.is_some_and(|most| idle_for >= most);
            // What it carries lasts: others have waited in vain.
            line.yields.set(false);
            let over = idle_too_long || self.is_done_with(line, epoch, now);
            if over {
                ended.push(line.clone());
            }
            !over
        });
        self.recount(&mut state);
    }
}

impl<C> Kept<C> {
    fn is_too_old(&self, opened: Instant, now: Instant) -> bool {
        let reached = |lifetime| now.saturating_duration_since(opened) >= lifetime;
        self.server.max_lifetime().is_some_and(reached)
    }

    pub fn add_line(&self, line: Rc<Line<C>>) {
        let mut state = self.state.borrow_mut();
        if !state.closed {
            state.lines.push(line);
            self.recount(&mut state);
        }
    }

    /// An exchange on a line has ended.
    pub fn leave_place(&self, line: &Rc<Line<C>>) {
        line.taken.set(line.taken.get() - 1);
        let mut excess = None;
        if line.is_idle() {
            line.since.set(self.worker.now.get());
            let mut state = self.state.borrow_mut();
            let others = state.idle.len() + state.idle_lines;
            if line.yields.get()
                || self.server.idle_timeout() == Some(Duration::ZERO)
                || self.server.is_share(others, self.worker.hub.workers())
            {
                let place = state.lines.iter().position(|other| Rc::ptr_eq(other, line));
                excess = place.map(|place| state.lines.remove(place));
            }
            self.recount(&mut state);
        }
        // Only now: to end it may call the queue.
        drop(excess);
        if self.server.is_wanted() {
            self.server.tell_room();
        }
    }

    pub fn begin_dial(&self) -> Rc<Dial> {
        let dial = Dial::new();
        self.state.borrow_mut().dials.push(dial.clone());
        dial
    }

    pub fn dial_ended(&self, dial: &Rc<Dial>, outcome: Outcome) {
        let mut state = self.state.borrow_mut();
        state.dials.retain(|other| !Rc::ptr_eq(other, dial));
        drop(state);
        dial.end(outcome);
    }

    /// A dial whose connection will have room for one more, as far as the server is known.
    pub fn dial_with_room(&self) -> Option<Rc<Dial>> {
        self.find_dial(&self.state.borrow()).cloned()
    }

    fn find_dial<'a>(&self, state: &'a State<C>) -> Option<&'a Rc<Dial>> {
        let most = self.server.places_expected();
        let mut dials = state.dials.iter();
        dials.find(|dial| !dial.is_over() && dial.expected() < most)
    }

    /// Closes the one that has been idle for the longest; else has one yield that carries little.
    pub fn close_oldest(&self) {
        let mut state = self.state.borrow_mut();
        let oldest = state.idle.pop_front();
        let mut line = None;
        if oldest.is_none() {
            match state.lines.iter().position(|line| line.is_idle()) {
                Some(place) => line = Some(state.lines.remove(place)),
                None => {
                    let least = state.lines.iter().min_by_key(|line| line.taken.get());
                    least.inspect(|line| line.yields.set(true));
                }
            }
        }
        self.recount(&mut state);
        drop(state);
        drop((oldest, line));
    }

    fn recount(&self, state: &mut State<C>) {
        state.idle_lines = state.lines.iter().filter(|line| line.is_idle()).count();
        let busy = state.lines.len() - state.idle_lines;
        self.shard.busy_lines.store(busy, Ordering::SeqCst);
        self.count(state);
    }

    pub fn new(server: &Arc<ServerConnections>, worker: &Rc<Worker>) -> Rc<Self> {
        let shard = server.add_shard(&worker.mailbox);
        worker.hub.add_shard(&shard);
        Rc::new(Kept {
            server: server.clone(),
            shard,
            worker: worker.clone(),
            state: RefCell::new(State {
                idle: VecDeque::new(),
                lines: Vec::new(),
                idle_lines: 0,
                dials: Vec::new(),
                doubt: 0,
                closed: false,
            }),
        })
    }

    /// The server ended a kept connection by itself.
    pub fn doubt(&self) {
        self.state.borrow_mut().doubt();
    }

    /// A kept connection may well be ended by the time a request arrives on it. Asking wears the
    /// doubt off.
    pub fn is_doubted(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let doubted = state.doubt > 0;
        state.doubt = state.doubt.saturating_sub(1);
        doubted
    }

    pub fn is_empty(&self) -> bool {
        self.state.borrow().idle.is_empty()
    }

    /// The server was removed, and no request holds it any more.
    pub fn is_orphaned(self: &Rc<Self>) -> bool {
        let state = self.state.borrow();
        let unused = |line: &&Rc<Line<C>>| line.is_idle() && line.is_open();
        let idle = state.idle.len() + state.lines.iter().filter(unused).count();
        Arc::strong_count(&self.server) == 1 && Rc::strong_count(self) == 1 + idle
    }

    /// Keeps nothing from now on; what was kept is for the caller to drop.
    #[must_use]
    pub fn close(&self) -> (VecDeque<Idle<C>>, Vec<Rc<Line<C>>>) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        let lines = std::mem::take(&mut state.lines);
        self.recount(&mut state);
        (idle, lines)
    }

    /// Sequentially consistent with `wanted`, see [`super::shared`].
    fn count(&self, state: &State<C>) {
        let idle = state.idle.len() + state.idle_lines;
        self.shard.idle.store(idle, Ordering::SeqCst);
    }
}

impl<C> State<C> {
    fn doubt(&mut self) {
        self.doubt = (self.doubt + DOUBT).min(MOST_DOUBT);
    }
}

impl<C> Drop for Kept<C> {
    fn drop(&mut self) {
        self.server.remove_shard(&self.shard);
    }
}
