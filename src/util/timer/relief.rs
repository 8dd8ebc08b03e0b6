//! Who is let go of when there is too much: the table of slots says who waits for what.
//!
//! First those that lie idle, before all others those that have never asked for anything; the one
//! whose time is up soonest first, which of one listener is the one that has been idle for longest;
//! only as many as it takes. Then those whose peer is slow: its
//! bytes are counted over a window that begins when somebody first looks, so that nothing is
//! counted while there is no need. Their slots expire early, and everything else is as if their
//! time had passed ([`SweepSlot::is_shed`] tells the two apart).
//!
//! What waits for a server, a tunnel, a stream of events, a call of gRPC waits for nothing of the
//! kind and is never let go of here.

use std::time::Duration;

use tokio::time::Instant;

use super::{Slot, SweepSlot, Timers};

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
}

/// Younger ones may have a request on its way.
const IDLE_FOR: Duration = Duration::from_secs(1);
/// Over which bytes that come are counted.
const WINDOW: Duration = Duration::from_secs(2);
/// The share of both that is enough while somebody waits at the door.
const HASTE: u32 = 4;
/// Over which those are that go: a socket takes them in lumps.
const READER_WINDOW: Duration = Duration::from_secs(10);
/// Nobody has looked for so long: what is known is of an earlier time.
const STALE: u32 = 20_000;

impl Timers {
    /// Lets go of up to `count`, fewer those that are going already. `min_rate` is in bytes per
    /// second; 0: nobody is slow. `haste`: all places are taken.
    pub fn relieve(&self, now: Instant, count: usize, min_rate: u64, haste: bool) {
        let hurried = |time: Duration| if haste { time / HASTE } else { time };
        let mut slots = self.shared.slots.borrow_mut();
        let millis = self.shared.millis(now);
        let mut going = 0;
        let mut idle = Vec::new();
        let mut slow = Vec::new();
        for (key, slot) in slots.iter_mut() {
            if slot.shed || slot.awaits == Awaits::End {
                going += 1;
                continue;
            }
            let Some(deadline) = slot.deadline.filter(|_| !slot.expired) else {
                continue;
            };
            let window = match slot.awaits {
                Awaits::First | Awaits::Idle => {
                    let kept = slot.awaits == Awaits::Idle;
                    // Closed a moment too early, a kept connection costs its client a request.
                    let age = if kept { IDLE_FOR } else { hurried(IDLE_FOR) };
                    if slot.idle_since(deadline) + age <= now {
                        idle.push(((kept, deadline), key));
                    }
                    continue;
                }
                Awaits::Bytes => hurried(WINDOW),
                Awaits::Reader => READER_WINDOW,
                Awaits::Nothing | Awaits::End => continue,
            };
            if slot.is_slow(millis, window, min_rate) {
                slow.push((slot.moved.wrapping_sub(slot.moved_then), key));
            }
        }
        let mut count = count.saturating_sub(going);
        count -= let_go(&mut slots, idle, count);
        let_go(&mut slots, slow, count);
    }
}

/// The first `count` of them, in their order.
fn let_go<K: Ord + Copy>(
    slots: &mut slab::Slab<Slot>,
    mut these: Vec<(K, usize)>,
    count: usize,
) -> usize {
    let count = count.min(these.len());
    if count == 0 {
        return 0;
    }
    if count < these.len() {
        these.select_nth_unstable(count);
    }
    for (_, key) in &these[..count] {
        let slot = &mut slots[*key];
        (slot.shed, slot.expired) = (true, true);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
    }
    count
}

impl Slot {
    fn idle_since(&self, deadline: Instant) -> Instant {
        // Of an idle time with a fraction of a second it is less than a second too late.
        deadline
            .checked_sub(Duration::from_secs(u64::from(self.patience)))
            .unwrap_or(deadline)
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

    /// Says what is waited for, and how many bytes have moved there so far. Leaves the deadline.
    #[inline]
    pub fn awaits(&self, awaits: Awaits, moved: u64) {
        let slot = &mut self.shared.slots.borrow_mut()[self.key];
        if slot.awaits != awaits {
            slot.awaits = awaits;
            slot.watched = 0;
        }
        // Only differences count.
        slot.moved = moved as u32;
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
