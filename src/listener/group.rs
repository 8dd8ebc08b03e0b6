//! The connections of one listener on one worker that are told to end together.
//!
//! A drain, a removed listener and changed `trusted-proxies` end connections after their current
//! request. There are many connections and such moments are rare, so nothing is registered per
//! request: each connection's task leaves its waker here once, and is woken to look at one flag.

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::task::Waker;

use slab::Slab;

/// How far the connections of a group may go on. Only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Idle ones close now, the others after their current request.
    Ending,
    /// All close now, whatever they are doing.
    Aborted,
}

/// See the module.
#[derive(Debug)]
pub struct Group {
    phase: Cell<Phase>,
    members: RefCell<Slab<Waker>>,
}

/// A connection's place in its group; left on drop.
#[derive(Debug)]
pub struct Member {
    group: Rc<Group>,
    /// Of its waker; `None` before the task has run.
    key: Cell<Option<NonZeroUsize>>,
}

impl Group {
    pub fn new() -> Rc<Self> {
        Rc::new(Group {
            phase: Cell::new(Phase::Serving),
            members: RefCell::default(),
        })
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn is_empty(&self) -> bool {
        self.members.borrow().is_empty()
    }

    /// Moves on to `phase` and wakes every connection; never goes back.
    pub fn advance(&self, phase: Phase) {
        if phase <= self.phase.get() {
            return;
        }
        self.phase.set(phase);
        for (_, waker) in self.members.borrow().iter() {
            waker.wake_by_ref();
        }
    }
}

impl Member {
    pub fn new(group: Rc<Group>) -> Self {
        Member {
            group,
            key: Cell::new(None),
        }
    }

    pub fn phase(&self) -> Phase {
        self.group.phase()
    }

    /// `waker`: of the connection's task, the same for its whole life; the first one is kept.
    pub fn join(&self, waker: &Waker) {
        if self.key.get().is_none() {
            let key = self.group.members.borrow_mut().insert(waker.clone());
            self.key.set(NonZeroUsize::new(key + 1));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(key) = self.key.get() {
            self.group.members.borrow_mut().remove(key.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn members_are_woken_once_per_step_down() {
        let woken = Arc::new(Counting::default());
        let group = Group::new();
        let member = Member::new(group.clone());
        member.join(&woken.clone().into());
        member.join(&woken.clone().into());
        group.advance(Phase::Ending);
        group.advance(Phase::Ending);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        group.advance(Phase::Aborted);
        group.advance(Phase::Ending);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert_eq!(group.phase(), Phase::Aborted, "a group never goes back");
        drop(member);
        assert!(group.is_empty());
    }
}
