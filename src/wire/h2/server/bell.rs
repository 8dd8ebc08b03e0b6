//! The waker of a connection's task, for everything inside it.
//!
//! `h2` wakes the connection whenever a stream has something to say, which mostly happens while
//! the task runs and is about to look anyway. What rings then is only remembered: no second
//! wake-up comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

pub(super) struct Bell {
    state: Arc<State>,
    waker: Waker,
}

#[derive(Default)]
struct State {
    task: AtomicWaker,
    /// The task runs.
    inside: AtomicBool,
    rung: AtomicBool,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        if !self.inside.load(Ordering::Acquire) {
            self.task.wake();
        }
    }
}

impl Bell {
    pub(super) fn new() -> Self {
        let state = Arc::new(State::default());
        let waker = Waker::from(state.clone());
        Bell { state, waker }
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The task begins to run.
    pub(super) fn enter(&self, cx: &Context<'_>) {
        self.state.inside.store(true, Ordering::Release);
        self.state.task.register(cx.waker());
    }

    /// Whether it rang since it was asked last.
    pub(super) fn has_rung(&self) -> bool {
        self.state.rung.swap(false, Ordering::AcqRel)
    }

    /// The task waits from here on.
    pub(super) fn leave(&self) {
        self.state.inside.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_wakes_only_a_task_that_waits() {
        let count = Arc::new(Count(Default::default()));
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let bell = Bell::new();
        bell.enter(&cx);
        bell.waker().wake_by_ref();
        assert!(bell.has_rung() && !bell.has_rung());
        bell.leave();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        bell.waker().wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
