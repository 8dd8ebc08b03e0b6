//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

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
