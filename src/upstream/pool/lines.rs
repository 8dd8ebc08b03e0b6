//! Connections that carry many exchanges at once, and the dials that requests wait for together.
//!
//! A request takes a place on the first line that has room, so that lines that are not needed
//! fall idle. It opens a line of its own only when all are full, and never next to a dial whose
//! connection will have room for it: those that wait for one take their places when it is there.
//!
//! A line's own claim lies with its socket ([`Pooled::keep_until_closed`]): `max-connections` counts
//! it until that is closed, whoever held the line last. Requests have claims on places.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::upstream::connector::ConnectError;
use crate::upstream::pool::Pooled;
use crate::upstream::pool::kept::Kept;

/// One connection that many use.
pub(super) struct Line<C> {
    pub connection: C,
    pub epoch: u64,
    pub opened: Instant,
    /// Claims on places.
    pub taken: Cell<usize>,
    /// Of its last exchange's end.
    pub since: Cell<Instant>,
    /// Another worker wants a connection, and the cap leaves none: it takes nothing further for a
    /// while, so as to end. Exchanges that last keep it, and then it goes on.
    pub yields: Cell<bool>,
    /// Held a second time by the claim that lies with the socket.
    socket: Rc<()>,
}

/// Lies with the socket of a line, and counts until it is closed.
struct OpenLine<C> {
    kept: Rc<Kept<C>>,
    _socket: Rc<()>,
}

impl<C> Drop for OpenLine<C> {
    fn drop(&mut self) {
        self.kept.server.release();
    }
}

impl<C: Pooled + 'static> Line<C> {
    /// Takes over the claim on `connection`, and has one place taken.
    pub fn open(kept: &Rc<Kept<C>>, connection: C, epoch: u64, opened: Instant) -> Rc<Self> {
        let socket = Rc::new(());
        connection.keep_until_closed(Box::new(OpenLine {
            kept: kept.clone(),
            _socket: socket.clone(),
        }));
        Rc::new(Line {
            connection,
            epoch,
            opened,
            taken: Cell::new(1),
            since: Cell::new(opened),
            yields: Cell::new(false),
            socket,
        })
    }
}

impl<C: Pooled> Line<C> {
    pub fn has_room(&self) -> bool {
        !self.yields.get() && self.taken.get() < self.connection.places()
    }
}

impl<C> Line<C> {
    /// Its socket is open, and so its claim is held.
    pub fn is_open(&self) -> bool {
        Rc::strong_count(&self.socket) > 1
    }

    pub fn is_idle(&self) -> bool {
        self.taken.get() == 0
    }
}

/// A dial that may become a line, and who waits for it.
pub(super) struct Dial {
    state: RefCell<State>,
}

struct State {
    outcome: Option<Outcome>,
    /// By the number that they were given.
    waiting: Vec<(u64, Option<Waker>)>,
    next: u64,
}

/// How a dial ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// There is a connection, or nobody goes on dialling: ask the pool again.
    Over,
    Failed(Arc<ConnectError>),
}

impl Dial {
    pub fn new() -> Rc<Self> {
        Rc::new(Dial {
            state: RefCell::new(State {
                outcome: None,
                waiting: Vec::new(),
                next: 0,
            }),
        })
    }

    /// Who dials counts too.
    pub fn expected(&self) -> usize {
        self.state.borrow().waiting.len() + 1
    }

    pub fn is_over(&self) -> bool {
        self.state.borrow().outcome.is_some()
    }

    /// Tells those that wait; the first call counts.
    pub fn end(&self, outcome: Outcome) {
        let mut state = self.state.borrow_mut();
        state.outcome.get_or_insert(outcome);
        let wakers: Vec<_> = state
            .waiting
            .iter_mut()
            .filter_map(|(_, waker)| waker.take())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One that waits for a dial of another.
pub struct Wait {
    dial: Rc<Dial>,
    number: u64,
}

impl Wait {
    pub(super) fn new(dial: Rc<Dial>) -> Self {
        let mut state = dial.state.borrow_mut();
        let number = state.next;
        state.next += 1;
        state.waiting.push((number, None));
        drop(state);
        Wait { dial, number }
    }

    /// Ready when the dial has ended.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.dial.state.borrow_mut();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        let own = state
            .waiting
            .iter_mut()
            .find(|(number, _)| *number == self.number);
        if let Some((_, waker)) = own {
            match waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.dial.state.borrow_mut();
        let number = self.number;
        state.waiting.retain(|(other, _)| *other != number);
    }
}
