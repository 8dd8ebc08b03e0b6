//! Who is let go of when there is too much: the table of slots says who waits for what.
//!
//! First those that lie idle, before all others those that have never asked for anything; the one
//! that has been idle for longest first; only as many as it takes. Then those whose peer is slow: its
//! bytes are counted over a window that begins when somebody first looks, so that nothing is
//! counted while there is no need. How many go of each worker's is agreed on among them
//! ([`census`](crate::util::census)). Their slots expire early, and everything else is as if their
//! time had passed ([`SweepSlot::is_shed`] tells the two apart).
//!
//! What waits for a server, a tunnel, a stream of events, a call of gRPC waits for nothing of the
//! kind and is never let go of here.

use std::cmp::Reverse;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::{Slot, SweepSlot, Timers, store_waker};
use crate::util::census::{Class, Count};

/// What a slot's owner waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Awaits {
    /// Nothing that its client owes.
    #[default]
    Nothing,
    /// The first byte of the first request.
    First,
    /// A client that has nothing to do: the next request.
    Idle,
    /// The rest of a request's head or body.
    Bytes,
    /// A client that does not take its answer.
    Reader,
    /// Only for the end.
    End,
    /// A client that has had its last answer to close.
    Close,
}

/// Younger ones may have a request on its way.
const IDLE_FOR: Duration = Duration::from_secs(1);
/// Over which bytes that come are counted.
const WINDOW: Duration = Duration::from_secs(2);
/// For a client to take the last words.
const LINGERS_FOR: Duration = Duration::from_millis(100);
/// The share of both that is enough while somebody waits at the door.
const HASTE: u32 = 4;
/// Over which those are that go: a socket takes them in lumps.
const READER_WINDOW: Duration = Duration::from_secs(10);
/// Nobody has looked for so long: what is known is of an earlier time.
const STALE: u32 = 20_000;

/// Whose connections are looked at, and what is slow.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Of one crowd only ([`Timers::slot_of`]).
    pub crowd: Option<u16>,
    /// In bytes per second; 0: nobody is slow.
    pub min_rate: u64,
    /// All places are taken.
    pub haste: bool,
}

/// Whom one worker could let go of, as of now.
pub struct Candidates {
    these: Vec<Candidate>,
    going: usize,
}

struct Candidate {
    class: Class,
    /// Within a class: the longest idle, the slowest first.
    order: Reverse<u64>,
    key: usize,
}

impl Candidates {
    pub fn count(&self) -> Count {
        let mut classes: Vec<_> = self.these.iter().map(|one| one.class).collect();
        classes.sort_unstable();
        let alike = classes.chunk_by(|one, next| one == next);
        Count {
            classes: alike.map(|alike| (alike[0], alike.len())).collect(),
            going: self.going,
        }
    }
}

impl Timers {
    /// Looks at all that wait; whose bytes are not counted yet is counted from here on.
    pub fn candidates(&self, now: Instant, rule: Rule) -> Candidates {
        let hurried = |time: Duration| match rule.haste {
            true => time / HASTE,
            false => time,
        };
        let mut slots = self.shared.slots.borrow_mut();
        let millis = self.shared.millis(now);
        let (mut these, mut going) = (Vec::new(), 0);
        for (key, slot) in slots.iter_mut() {
            if rule.crowd.is_some_and(|crowd| crowd != slot.crowd) {
                continue;
            }
            let lingers = slot.awaits == Awaits::Close;
            let lingers_long = lingers && slot.idle_for(now).is_some_and(|age| age >= LINGERS_FOR);
            // Whoever waits at the door needs the place more than who has had his answer.
            let may_close = rule.haste && lingers_long;
            if slot.shed || slot.awaits == Awaits::End || (lingers && !may_close) {
                going += 1;
                continue;
            }
            if slot.expired {
                continue;
            }
            let window = match slot.awaits {
                Awaits::Close => {
                    these.push(Candidate {
                        class: Class::OVER,
                        order: Reverse(0),
                        key,
                    });
                    continue;
                }
                Awaits::First | Awaits::Idle => {
                    let kept = slot.awaits == Awaits::Idle;
                    // Closed a moment too early, a kept connection costs its client a request.
                    let least = if kept { IDLE_FOR } else { hurried(IDLE_FOR) };
                    let Some(age) = slot.idle_for(now).filter(|age| *age >= least) else {
                        continue;
                    };
                    let class = if kept { Class::idle } else { Class::first };
                    these.push(Candidate {
                        class: class(age),
                        order: Reverse(age.as_nanos() as u64),
                        key,
                    });
                    continue;
                }
                Awaits::Bytes => hurried(WINDOW),
                Awaits::Reader => READER_WINDOW,
                Awaits::Nothing | Awaits::End => continue,
            };
            if slot.is_slow(millis, window, rule.min_rate) {
                let moved = slot.moved.wrapping_sub(slot.moved_then);
                these.push(Candidate {
                    class: Class::slow(moved),
                    order: Reverse(u64::from(u32::MAX - moved)),
                    key,
                });
            }
        }
        Candidates { these, going }
    }

    /// Of those the first `count`.
    pub fn let_go(&self, candidates: Candidates, count: usize) {
        let mut these = candidates.these;
        let count = count.min(these.len());
        if count == 0 {
            return;
        }
        if count < these.len() {
            these.select_nth_unstable_by_key(count, |one| (one.class, one.order));
        }
        let mut slots = self.shared.slots.borrow_mut();
        for one in &these[..count] {
            let slot = &mut slots[one.key];
            (slot.shed, slot.expired) = (true, true);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Slot {
    fn idle_for(&self, now: Instant) -> Option<Duration> {
        // Of an idle time with a fraction of a second it is less than a second too little.
        let since = self
            .deadline?
            .checked_sub(Duration::from_secs(u64::from(self.patience)))?;
        now.checked_duration_since(since)
    }

    fn is_slow(&mut self, now: u32, window: Duration, min_rate: u64) -> bool {
        let passed = now.wrapping_sub(self.watched);
        if self.watched == 0 || passed > STALE {
            (self.watched, self.moved_then) = (now, self.moved);
            return false;
        }
        let passed = u64::from(passed);
        if passed < window.as_millis() as u64 {
            return false;
        }
        let moved = u64::from(self.moved.wrapping_sub(self.moved_then));
        if moved * 1000 < min_rate * passed {
            return true;
        }
        (self.watched, self.moved_then) = (now, self.moved);
        false
    }
}

impl SweepSlot {
    /// Says that its client has sent nothing yet, and until when it may.
    pub fn set_first(&self, deadline: Instant, patience: Duration) {
        self.set_idle(deadline, patience);
        self.awaits(Awaits::First, 0);
    }

    /// Says that its client has nothing to do until `deadline`, the end of `patience`.
    #[inline]
    pub fn set_idle(&self, deadline: Instant, patience: Duration) {
        self.set_end(deadline, patience);
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        slot.awaits = Awaits::Idle;
        slot.watched = 0;
        slot.patience = u32::try_from(patience.as_secs()).unwrap_or(u32::MAX);
    }

    /// Says that all is said, and until when its client may take it and close.
    pub fn set_close(&self, deadline: Instant, patience: Duration) {
        self.set_idle(deadline, patience);
        self.awaits(Awaits::Close, 0);
    }

    /// Says what is waited for, and how many bytes have moved there so far. Leaves the deadline.
    #[inline]
    pub fn awaits(&self, awaits: Awaits, moved: u64) {
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        if slot.awaits != awaits {
            slot.awaits = awaits;
            slot.watched = 0;
            if slot.shed && slot.moved != moved as u32 {
                // For another wait than this one.
                (slot.shed, slot.expired) = (false, false);
            }
        }
        // Only differences count.
        slot.moved = moved as u32;
    }

    /// Waits for nothing but to be let go of: no deadline.
    pub fn watch(&self, cx: &mut Context<'_>) {
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        slot.deadline = None;
        slot.expired = slot.shed;
        if !slot.shed {
            store_waker(&mut slot.waker, cx);
        }
    }

    /// It expired before its time: there is too much of everything.
    pub fn is_shed(&self) -> bool {
        self.shared.slots.borrow()[self.key].shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl Timers {
        /// As the only worker.
        fn relieve(&self, now: Instant, count: usize, min_rate: u64, haste: bool) {
            let rule = Rule {
                crowd: None,
                min_rate,
                haste,
            };
            let candidates = self.candidates(now, rule);
            let going = candidates.going;
            self.let_go(candidates, count.saturating_sub(going));
        }
    }

    fn shed(slots: &[SweepSlot]) -> Vec<bool> {
        slots.iter().map(SweepSlot::is_shed).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_go_first_and_no_more_than_asked_for() {
        let timers = Timers::new();
        let slots: Vec<_> = (0..4).map(|_| timers.slot()).collect();
        for slot in [&slots[2], &slots[0], &slots[1]] {
            let now = Instant::now();
            slot.set_idle(now + 75 * SECOND, 75 * SECOND);
            tokio::time::advance(SECOND).await;
        }
        slots[3].set(Instant::now() + SECOND);
        timers.relieve(Instant::now(), 1, 240, false);
        assert_eq!(shed(&slots), [false, false, true, false]);
        timers.relieve(Instant::now(), 1, 240, false);
        assert_eq!(
            shed(&slots),
            [false, false, true, false],
            "one is going already"
        );
        timers.relieve(Instant::now(), 9, 240, false);
        assert_eq!(shed(&slots), [true, true, true, false], "that one is busy");
        slots[0].clear();
        assert!(!slots[0].is_shed(), "another wait, another chance");
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_ones_may_have_a_request_on_its_way() {
        let timers = Timers::new();
        let slots = [timers.slot()];
        slots[0].set_idle(Instant::now() + 75 * SECOND, 75 * SECOND);
        tokio::time::advance(SECOND - Duration::from_millis(1)).await;
        timers.relieve(Instant::now(), 1, 240, false);
        assert_eq!(shed(&slots), [false]);
        tokio::time::advance(Duration::from_millis(1)).await;
        timers.relieve(Instant::now(), 1, 240, false);
        assert_eq!(shed(&slots), [true]);
        slots[0].set_first(Instant::now() + 75 * SECOND, 75 * SECOND);
        tokio::time::advance(SECOND / 4).await;
        timers.relieve(Instant::now(), 1, 240, true);
        assert_eq!(shed(&slots), [true], "somebody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_is_who_moves_less_than_the_rate_over_a_window() {
        let timers = Timers::new();
        let slots: Vec<_> = (0..4).map(|_| timers.slot()).collect();
        let waits = [
            Awaits::Bytes,
            Awaits::Bytes,
            Awaits::Reader,
            Awaits::Nothing,
        ];
        let far = Instant::now() + 600 * SECOND;
        let mut moved = 0;
        let mut seen = Vec::new();
        for _ in 0..45 {
            for (slot, awaits) in slots.iter().zip(waits) {
                slot.set(far);
                slot.awaits(awaits, if awaits == Awaits::Reader { 0 } else { moved });
            }
            // The first is as fast as it must be, the second stands still.
            slots[1].awaits(Awaits::Bytes, 7);
            timers.relieve(Instant::now(), 9, 240, false);
            seen.push(shed(&slots));
            moved += 60;
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        assert_eq!(seen[7], [false; 4], "not before two seconds have passed");
        assert!(seen[8][1], "{seen:?}");
        assert!(!seen[39][2] && seen[40][2], "{seen:?}");
        assert!(seen.iter().all(|shed| !shed[0] && !shed[3]), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_slow_while_nobody_minded_has_a_window_of_its_own_again() {
        let timers = Timers::new();
        let slots = [timers.slot()];
        slots[0].set(Instant::now() + 6_000 * SECOND);
        slots[0].awaits(Awaits::Bytes, 0);
        timers.relieve(Instant::now(), 1, 240, false);
        tokio::time::advance(600 * SECOND).await;
        for second in 0..10 {
            slots[0].awaits(Awaits::Bytes, 300 * second);
            timers.relieve(Instant::now(), 1, 240, false);
            assert_eq!(shed(&slots), [false], "after {second} s");
            tokio::time::advance(SECOND).await;
        }
        tokio::time::advance(2 * SECOND).await;
        timers.relieve(Instant::now(), 1, 240, false);
        assert_eq!(shed(&slots), [true], "now it stands still");
    }
}
