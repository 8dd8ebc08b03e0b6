//! Deadlines without a timer per request.
//!
//! Two kinds. A [`SweepSlot`] is one number in a table that a sweep visits every 250 ms: idle,
//! header and body deadlines, which move with every byte and almost never pass. A sweep would make
//! a short one late by more than a tenth, so these have sweeps of their own. A [`Deadline`] is
//! kept precisely: connect, first-byte, total and queue. Their durations are few, so the
//! deadlines of one duration pass in the order in which they were made: one linked list per
//! duration, and one timer of the runtime armed for the earliest head. The timer is left armed
//! when its deadline is cancelled, so a stream of short requests arms it about once per duration,
//! not once per request.
//!
//! [`Timers::run`] must be polled by a task of the same thread; nothing expires without it.
//!
//! A process that was stopped and goes on (a debugger, a suspended machine, a freezer) finds every
//! timer due at once, and the first look at its sockets is interrupted and finds nothing: all that
//! was awaited would be given up although it has come. So a timer that is [`LATE`] lets the sockets
//! be heard first ([`GRACE`]). It may do so a few times in a row ([`MOST_GRACES`]): where a thread
//! always comes late (a share of a processor that is used up in each period) time must still pass.

mod relief;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::relief::{Awaits, Candidates, Rule};

/// How late a [`SweepSlot`] may be.
pub const SWEEP: Duration = Duration::from_millis(250);

/// Durations from here on can wait for a sweep: it is no more than a tenth of them.
const LONG: Duration = SWEEP.saturating_mul(10);

/// Between two sweeps for short durations, however many there are.
const APART: Duration = Duration::from_millis(10);

/// Every deadline of one worker. Cheap to clone.
#[derive(Clone, Default)]
pub struct Timers {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    slots: RefCell<Slab<Slot>>,
    queues: RefCell<Queues>,
    /// For what the runtime's timer is armed; `None` while it is not.
    armed: Cell<Option<Instant>>,
    /// The next sweep for slots of short durations.
    early: Cell<Option<Instant>>,
    swept: Cell<Option<Instant>>,
    /// From here slots count their milliseconds.
    epoch: Cell<Option<Instant>>,
    /// Nothing expires before, because the thread stood still.
    graced: Cell<Option<Instant>>,
    driver: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Slot {
    /// Handles on it but one: its owner's, its request's.
    shared: u16,
    /// Whose it is among those that are let go of together; 0: nobody's.
    crowd: u16,
    deadline: Option<Instant>,
    /// Of a duration that cannot wait for the regular sweep.
    short: bool,
    expired: bool,
    /// Expired before its time.
    shed: bool,
    awaits: Awaits,
    /// Of somebody idle, in seconds.
    patience: u32,
    /// Bytes that the client has moved, and had when it was first looked at; only differences count.
    moved: u32,
    moved_then: u32,
    /// When that was, in milliseconds; 0: not yet.
    watched: u32,
    waker: Option<Waker>,
}

/// One list per duration; a list that ran empty is used again for the next new duration.
#[derive(Default)]
struct Queues {
    lists: Vec<List>,
    nodes: Slab<Node>,
}

struct List {
    duration: Duration,
    first: usize,
    last: usize,
}

struct Node {
    list: usize,
    previous: usize,
    next: usize,
    expires_at: Instant,
    /// Taken out of its list by the driver.
    expired: bool,
    waker: Option<Waker>,
}

/// So late comes no timer of a thread that runs.
const LATE: Duration = Duration::from_millis(100);

/// For what has come meanwhile.
const GRACE: Duration = Duration::from_millis(20);

/// Of one wait: a process may be stopped again before it has come to hear anything.
const MOST_GRACES: u8 = 3;

/// Graces in a row.
#[derive(Default)]
struct Graces(u8);

impl Graces {
    /// Whether what was due at `due` and is looked at `now` has to let others go first.
    fn lets_wait(&mut self, due: Instant, now: Instant) -> bool {
        let again = now - due > LATE && self.0 < MOST_GRACES;
        self.0 = if again { self.0 + 1 } else { 0 };
        again
    }
}

const NONE: usize = usize::MAX;

/// As the runtime's, but that what comes late lets others go first: for what is waited for besides.
pub async fn patiently_until(deadline: Instant) {
    sleep_until(deadline).await;
    if deadline.elapsed() > LATE {
        sleep_until(Instant::now() + GRACE).await;
    }
}

impl Timers {
    pub fn new() -> Self {
        Timers::default()
    }

    /// Wakes whatever is due; one task per worker runs it, forever.
    pub async fn run(&self) {
        self.run_with(|_| {}).await;
    }

    /// The same; calls `each_sweep` every 250 ms.
    pub async fn run_with(&self, each_sweep: impl Fn(Instant)) {
        let start = Instant::now();
        let mut sweep = Box::pin(sleep_until(start + SWEEP));
        let mut precise = Box::pin(sleep_until(start));
        let (mut sweeps, mut expiries) = (Graces::default(), Graces::default());
        poll_fn(|cx| {
            store_waker(&mut self.shared.driver.borrow_mut(), cx);
            while sweep.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                if sweeps.lets_wait(sweep.deadline(), now) {
                    sweep.as_mut().reset(now + GRACE);
                    continue;
                }
                self.shared.sweep(now);
                each_sweep(now);
                sweep.as_mut().reset(now + SWEEP);
            }
            self.poll_precise(cx, &mut precise, &mut expiries)
        })
        .await
    }

    /// A deadline that is kept to within a sweep (250 ms), at the price of one store.
    pub fn slot(&self) -> SweepSlot {
        self.slot_of(0)
    }

    /// The same, of a crowd (a listener's connections) that may be too many by itself.
    pub fn slot_of(&self, crowd: u16) -> SweepSlot {
        let slot = Slot {
            crowd,
            ..Slot::default()
        };
        let key = self.shared.slots.borrow_mut().insert(slot);
        SweepSlot {
            shared: Rc::clone(&self.shared),
            key,
        }
    }

    /// A precise deadline from now on.
    pub fn after(&self, duration: Duration) -> Deadline {
        let expires_at = Instant::now() + duration;
        let key = self.shared.queues.borrow_mut().push(duration, expires_at);
        if self
            .shared
            .armed
            .get()
            .is_none_or(|armed| expires_at < armed)
        {
            self.shared.wake_driver();
        }
        Deadline {
            shared: Rc::clone(&self.shared),
            key,
            expires_at,
        }
    }

    fn poll_precise(
        &self,
        cx: &mut Context<'_>,
        precise: &mut Pin<Box<Sleep>>,
        graces: &mut Graces,
    ) -> Poll<()> {
        loop {
            let precise_ones = self.shared.queues.borrow().earliest();
            let earliest = [precise_ones, self.shared.early.get()]
                .into_iter()
                .flatten()
                .min();
            self.shared.armed.set(earliest);
            let Some(earliest) = earliest else {
                return Poll::Pending;
            };
            let due = self
                .shared
                .graced
                .get()
                .map_or(earliest, |end| earliest.max(end));
            if precise.deadline() != due {
                precise.as_mut().reset(due);
            }
            if precise.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if graces.lets_wait(due, now) {
                self.shared.graced.set(Some(now + GRACE));
                continue;
            }
            self.shared.expire(now);
            if self.shared.early.get().is_some_and(|early| early <= now) {
                self.shared.sweep(now);
            }
        }
    }
}

impl Shared {
    /// Since somebody asked first.
    fn millis(&self, now: Instant) -> u32 {
        let begin = now.checked_sub(APART).unwrap_or(now);
        let epoch = self.epoch.get().unwrap_or(begin);
        self.epoch.set(Some(epoch));
        // 0 means that nobody has looked.
        (now.saturating_duration_since(epoch).as_millis() as u32).max(1)
    }

    fn wake_driver(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    fn sweep(&self, now: Instant) {
        self.early.set(None);
        self.swept.set(Some(now));
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            let Some(deadline) = slot.deadline.filter(|_| !slot.expired) else {
                continue;
            };
            if deadline <= now {
                slot.expired = true;
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            } else if slot.short {
                self.sweep_at(deadline);
            }
        }
    }

    /// Sweeps at `deadline` too; whether that is earlier than before.
    fn sweep_at(&self, deadline: Instant) -> bool {
        let soonest = self.swept.get().map(|swept| swept + APART);
        let at = soonest.map_or(deadline, |soonest| deadline.max(soonest));
        let earlier = self.early.get().is_none_or(|early| at < early);
        if earlier {
            self.early.set(Some(at));
        }
        earlier
    }

    fn expire(&self, now: Instant) {
        let mut queues = self.queues.borrow_mut();
        for list in 0..queues.lists.len() {
            loop {
                let first = queues.lists[list].first;
                if first == NONE || queues.nodes[first].expires_at > now {
                    break;
                }
                queues.unlink(first);
                queues.nodes[first].expired = true;
                if let Some(waker) = queues.nodes[first].waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl Queues {
    fn push(&mut self, duration: Duration, expires_at: Instant) -> usize {
        let list = self.list(duration);
        let previous = self.lists[list].last;
        let key = self.nodes.insert(Node {
            list,
            previous,
            next: NONE,
            expires_at,
            expired: false,
            waker: None,
        });
        match previous {
            NONE => self.lists[list].first = key,
            previous => self.nodes[previous].next = key,
        }
        self.lists[list].last = key;
        key
    }

    fn list(&mut self, duration: Duration) -> usize {
        if let Some(list) = self.lists.iter().position(|list| list.duration == duration) {
            return list;
        }
        match self.lists.iter().position(|list| list.first == NONE) {
            Some(list) => {
                self.lists[list].duration = duration;
                list
            }
            None => {
                self.lists.push(List {
                    duration,
                    first: NONE,
                    last: NONE,
                });
                self.lists.len() - 1
            }
        }
    }

    fn unlink(&mut self, key: usize) {
        let Node {
            list,
            previous,
            next,
            ..
        } = self.nodes[key];
        match previous {
            NONE => self.lists[list].first = next,
            previous => self.nodes[previous].next = next,
        }
        match next {
            NONE => self.lists[list].last = previous,
            next => self.nodes[next].previous = previous,
        }
    }

    fn earliest(&self) -> Option<Instant> {
        let first = |list: &List| self.nodes.get(list.first).map(|node| node.expires_at);
        self.lists.iter().filter_map(first).min()
    }
}

fn store_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// One coarse deadline that can be moved at any time. A clone is another handle on the same one, for
/// those who wait in turns.
pub struct SweepSlot {
    shared: Rc<Shared>,
    key: usize,
}

impl SweepSlot {
    /// One more deadline of the same crowd.
    pub fn another(&self) -> SweepSlot {
        let crowd = self.shared.slots.borrow()[self.key].crowd;
        Timers {
            shared: Rc::clone(&self.shared),
        }
        .slot_of(crowd)
    }

    /// Up to a sweep late.
    pub fn set(&self, deadline: Instant) {
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        slot.deadline = Some(deadline);
        slot.short = false;
        (slot.expired, slot.shed) = (false, false);
    }

    /// The end of a `duration`: no more than a tenth of it late.
    pub fn set_end(&self, deadline: Instant, duration: Duration) {
        self.set(deadline);
        if duration >= LONG {
            return;
        }
        self.shared.slots.borrow_mut()[self.key].short = true;
        if self.shared.sweep_at(deadline) {
            self.shared.wake_driver();
        }
    }

    pub fn clear(&self) {
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        slot.deadline = None;
        (slot.expired, slot.shed) = (false, false);
        slot.awaits = Awaits::Nothing;
    }

    /// Ready once the deadline has passed; stays so until `set` or `clear`.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        if slot.expired {
            return Poll::Ready(());
        }
        store_waker(&mut slot.waker, cx);
        Poll::Pending
    }
}

impl Clone for SweepSlot {
    fn clone(&self) -> Self {
        self.shared.slots.borrow_mut()[self.key].shared += 1;
        SweepSlot {
            shared: Rc::clone(&self.shared),
            key: self.key,
        }
    }
}

impl Drop for SweepSlot {
    fn drop(&mut self) {
        let mut slots = self.shared.slots.borrow_mut();
        match &mut slots[self.key].shared {
            0 => drop(slots.remove(self.key)),
            shared => *shared -= 1,
        }
    }
}

/// One precise deadline. Dropping it cancels it.
pub struct Deadline {
    shared: Rc<Shared>,
    key: usize,
    expires_at: Instant,
}

impl Deadline {
    /// Ready once it has passed, and from then on.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        let node = &mut self.shared.queues.borrow_mut().nodes[self.key];
        if node.expired {
            return Poll::Ready(());
        }
        store_waker(&mut node.waker, cx);
        Poll::Pending
    }

    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut queues = self.shared.queues.borrow_mut();
        if !queues.nodes[self.key].expired {
            queues.unlink(self.key);
        }
        queues.nodes.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use std::pin::pin;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn with_driver<F: Future<Output = ()>>(test: impl FnOnce(Timers) -> F) {
        let timers = Timers::new();
        let driver = timers.clone();
        let local = LocalSet::new();
        local.spawn_local(async move { driver.run().await });
        local.run_until(test(timers)).await;
    }

    async fn expired(deadline: &mut Deadline) {
        poll_fn(|cx| deadline.poll_expired(cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_pass_precisely_and_in_their_own_order() {
        with_driver(|timers| async move {
            let start = Instant::now();
            let mut late = timers.after(3 * SECOND);
            let mut early = timers.after(SECOND);
            expired(&mut early).await;
            assert!(start.elapsed() - SECOND < Duration::from_millis(5));
            expired(&mut late).await;
            assert!(start.elapsed() - 3 * SECOND < Duration::from_millis(5));
            expired(&mut late).await;
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_standstill_what_came_meanwhile_goes_first() {
        with_driver(|timers| async move {
            let start = Instant::now();
            let (mut deadline, slot) = (timers.after(SECOND), timers.slot());
            slot.set_end(start + SECOND, SECOND);
            tokio::task::yield_now().await;
            tokio::time::advance(5 * SECOND).await;
            expired(&mut deadline).await;
            let came = start.elapsed() - 5 * SECOND;
            assert!(came >= GRACE && came < 2 * GRACE, "after {came:?}");
            poll_fn(|cx| slot.poll_expired(cx)).await;
            assert!(start.elapsed() - 5 * SECOND < 2 * GRACE);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_passes_for_a_thread_that_always_comes_late() {
        with_driver(|timers| async move {
            let start = Instant::now();
            let (deadline, slot) = (timers.after(SECOND), timers.slot());
            slot.set_end(start + SECOND, SECOND);
            tokio::task::yield_now().await;
            let mut both = pin!(async {
                poll_fn(|cx| deadline.poll_expired(cx)).await;
                poll_fn(|cx| slot.poll_expired(cx)).await;
            });
            let looks = |cx: &mut Context<'_>| Poll::Ready(both.as_mut().poll(cx).is_ready());
            let mut looks = looks;
            let mut standstills = 0;
            while !poll_fn(&mut looks).await {
                standstills += 1;
                assert!(standstills < 12, "never in {:?}", start.elapsed());
                tokio::time::advance(2 * SECOND).await;
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_deadlines_leave_the_others_alone() {
        with_driver(|timers| async move {
            let start = Instant::now();
            let mut deadlines: Vec<_> = (0..5).map(|_| timers.after(SECOND)).collect();
            deadlines.remove(2);
            deadlines.remove(3);
            deadlines.remove(0);
            for deadline in &mut deadlines {
                expired(deadline).await;
            }
            drop(deadlines);
            let mut again = timers.after(SECOND / 2);
            expired(&mut again).await;
            assert!(start.elapsed() - SECOND * 3 / 2 < Duration::from_millis(5));
            assert_eq!(timers.shared.queues.borrow().nodes.len(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn slots_expire_within_a_sweep_and_can_be_moved() {
        with_driver(|timers| async move {
            let start = Instant::now();
            let (moved, cleared) = (timers.slot(), timers.slot());
            cleared.set(start + SECOND);
            moved.set(start + SECOND);
            cleared.clear();
            moved.set(start + 2 * SECOND);
            poll_fn(|cx| moved.poll_expired(cx)).await;
            assert!(start.elapsed() >= 2 * SECOND && start.elapsed() <= 2 * SECOND + SWEEP * 2);
            moved.clear();
            let mut cx = Context::from_waker(Waker::noop());
            assert!(
                moved.poll_expired(&mut cx).is_pending(),
                "clearing takes the expiry back"
            );
            assert!(cleared.poll_expired(&mut cx).is_pending());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_lives_as_long_as_the_last_handle_on_it() {
        with_driver(|timers| async move {
            let start = Instant::now();
            let (slot, other) = (timers.slot(), timers.slot());
            let handles = [slot.clone(), slot.clone()];
            drop(slot);
            handles[0].set(start + SECOND);
            poll_fn(|cx| handles[1].poll_expired(cx)).await;
            drop(handles);
            assert_eq!(timers.shared.slots.borrow().len(), 1);
            drop(other);
            assert!(timers.shared.slots.borrow().is_empty());
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_short_duration_is_a_tenth_late_at_most() {
        with_driver(|timers| async move {
            let (first, second) = (timers.slot(), timers.slot());
            for millis in [100, 130, 300, 999, 2_400] {
                let start = Instant::now();
                let duration = Duration::from_millis(millis);
                second.set_end(start + 2 * duration, 2 * duration);
                first.set_end(start + duration / 2, duration / 2);
                first.set_end(start + duration, duration);
                poll_fn(|cx| first.poll_expired(cx)).await;
                let took = start.elapsed();
                assert!(took >= duration && took <= duration * 11 / 10, "{took:?}");
                poll_fn(|cx| second.poll_expired(cx)).await;
                let took = start.elapsed();
                assert!(
                    took >= 2 * duration && took <= duration * 22 / 10,
                    "{took:?}"
                );
            }
            assert_eq!(
                timers.shared.early.get(),
                None,
                "nothing is left to sweep for"
            );
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_durations_reuse_lists_that_ran_empty() {
        with_driver(|timers| async move {
            for millis in 1..200 {
                let mut deadline = timers.after(Duration::from_millis(millis));
                expired(&mut deadline).await;
            }
            assert_eq!(timers.shared.queues.borrow().lists.len(), 1);
        })
        .await;
    }
}
