//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use super::{Client, Proxy};

/// Longer than anything here takes on a busy machine, shorter than patience.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Returns once `condition` holds; fails with `what` when it does not within [`DEADLINE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    value_within(DEADLINE, what, || condition().then_some(()));
}

/// The first value that `look` gives within `limit`.
#[track_caller]
pub fn value_within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lets the one worker of a proxy go round: what it could read before, it has read.
///
/// A request on a connection of its own is read in the same round as what came before it, or in a
/// later one; a connection that is to be accepted takes a round more, and the task behind it.
pub struct Rounds(Client);

impl Rounds {
    /// `proxy` has one worker.
    pub fn of(proxy: &Proxy) -> Self {
        Rounds(proxy.client())
    }

    #[track_caller]
    pub fn pass(&mut self) {
        for _ in 0..3 {
            // Answered by the proxy itself.
            let answer = self.0.request("OPTIONS", "*", "Max-Forwards: 0\r\n");
            assert_eq!(answer.status, 200);
        }
    }
}
