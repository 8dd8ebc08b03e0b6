//! What a connection holds of answers that its client does not take.
//!
//! Windows bound what may be under way, not what was pulled from a server and waits for a window,
//! nor what waits for a socket that nobody reads (CVE-2025-53020): with a hundred streams on each
//! of many connections both are large. So a stream pulls only while its connection holds little.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

/// Of either kind, per connection; a stream may exceed it by one piece.
const MOST: usize = 256 * 1024;

/// Bytes of a piece that fit into any window that is open at all.
pub(super) const PIECE: usize = 32 * 1024;

/// One connection's.
#[derive(Default)]
pub(super) struct Stock {
    /// Given to `h2` and not written yet.
    queued: Cell<usize>,
    /// Waiting for a window.
    held: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
    /// Streams that go on once `h2` has written what they said.
    after_writing: RefCell<Vec<Waker>>,
}

impl Stock {
    /// Wakes the task when `h2` has written what was given to it until now, as far as it could.
    pub(super) fn after_writing(&self, cx: &Context<'_>) {
        self.after_writing.borrow_mut().push(cx.waker().clone());
    }

    /// `h2` has written what it had.
    pub(super) fn written(&self) {
        for waker in self.after_writing.take() {
            waker.wake();
        }
    }

    /// Whether somebody waits for [`Stock::written`].
    pub(super) fn is_awaited(&self) -> bool {
        !self.after_writing.borrow().is_empty()
    }

    /// Whether a stream may pull that can send `capacity` bytes at once; else it is woken when it
    /// is worth asking again.
    pub(super) fn admits(&self, capacity: usize, cx: &Context<'_>) -> bool {
        let room = self.held.get() < MOST || capacity >= PIECE;
        if room && self.queued.get() < MOST {
            return true;
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        false
    }

    /// More is held than is good: a stream that wants to pull needs a window for it.
    pub(super) fn is_full(&self) -> bool {
        self.held.get() >= MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.get() == 0
    }

    /// `from` bytes of a piece waited, `to` do now.
    pub(super) fn holds(&self, from: usize, to: usize) {
        self.held.set(self.held.get() + to - from);
        self.call();
    }

    fn left(&self, count: usize) {
        self.queued.set(self.queued.get() - count);
        self.call();
    }

    fn call(&self) {
        if self.queued.get() < MOST && self.held.get() < MOST {
            // Woken streams ask for their place in the list again.
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// Bytes that `h2` has and the socket has not.
pub(super) struct Chunk {
    bytes: Bytes,
    stock: Rc<Stock>,
}

impl Chunk {
    pub(super) fn new(bytes: Bytes, stock: &Rc<Stock>) -> Self {
        stock.queued.set(stock.queued.get() + bytes.len());
        Chunk {
            bytes,
            stock: stock.clone(),
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.stock.left(count);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.stock.left(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_leaves_room_when_it_goes() {
        let stock = Rc::new(Stock::default());
        let cx = Context::from_waker(Waker::noop());
        assert!(stock.admits(0, &cx));
        let mut chunk = Chunk::new(Bytes::from(vec![0; MOST]), &stock);
        assert!(!stock.admits(PIECE, &cx), "the socket takes nothing");
        chunk.advance(1);
        assert!(stock.admits(0, &cx) && stock.waiting.borrow().is_empty());
        drop(chunk);
        assert_eq!(stock.queued.get(), 0);
        stock.holds(0, MOST);
        assert!(!stock.admits(1, &cx));
        assert!(stock.admits(PIECE, &cx), "it goes out at once");
        stock.holds(MOST, 0);
        assert!(stock.admits(0, &cx) && stock.is_empty());
    }
}
