//! One reading of the clock per wake-up.
//!
//! A connection's task runs for microseconds and asks for the time in many places: when a request
//! began, when its attempt did, when its head came. Inside a [`turn`] they all get the same
//! instant, read when the first one asks; outside of one the clock is read each time.

use std::cell::Cell;

use tokio::time::Instant;

#[derive(Clone, Copy)]
enum Reading {
    /// Nobody's turn: every question is a reading.
    Free,
    /// In a turn that has not asked yet.
    Open,
    At(Instant),
}

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::Free) };
}

/// The time; the same for the whole of a turn.
pub fn now() -> Instant {
    match READING.get() {
        Reading::At(now) => now,
        Reading::Open => {
            let now = Instant::now();
            READING.set(Reading::At(now));
            now
        }
        Reading::Free => Instant::now(),
    }
}

/// Begins a turn on this thread; it ends with the guard. Not for work that waits: a poll, no more.
pub fn turn() -> Turn {
    READING.set(Reading::Open);
    Turn(())
}

/// A turn; the next question after it reads the clock again.
pub struct Turn(());

impl Drop for Turn {
    fn drop(&mut self) {
        READING.set(Reading::Free);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_has_one_time() {
        let first = now();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now() - first, Duration::from_secs(1));
        let turn = turn();
        let asked = now();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(now(), asked);
        drop(turn);
        assert_eq!(now() - asked, Duration::from_secs(1));
    }
}
