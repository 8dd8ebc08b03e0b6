//! Slow start: a server that comes back, or joins others, takes its weight in ten steps.
//!
//! Pure arithmetic; the control task keeps when it began and rebuilds the order at each step.

use std::time::Duration;

/// The share of its weight that a server has `elapsed` after its start, in tenths: 1 at once, 10
/// (all of it) from nine tenths of `whole` on. Zero `whole` is off.
pub fn tenths(elapsed: Duration, whole: Duration) -> u32 {
    if whole.is_zero() {
        return 10;
    }
    let steps = elapsed.as_nanos() * 10 / whole.as_nanos();
    u32::try_from(steps).map_or(10, |steps| steps.saturating_add(1).min(10))
}

/// How long until the next step; `None` when there is none left.
pub fn until_next_step(elapsed: Duration, whole: Duration) -> Option<Duration> {
    let now = tenths(elapsed, whole);
    if now >= 10 {
        return None;
    }
    // Rounded up, so that the step has been reached when this time is over.
    let at = (whole.as_nanos() * u128::from(now)).div_ceil(10);
    let left = at.saturating_sub(elapsed.as_nanos());
    Some(Duration::from_nanos(
        u64::try_from(left).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn ten_steps_of_a_tenth_each() {
        for second in 0..20_u32 {
            let elapsed = Duration::from_secs(u64::from(second));
            assert_eq!(tenths(elapsed, TEN), (second + 1).min(10));
        }
        assert_eq!(tenths(Duration::from_millis(999), TEN), 1);
    }

    #[test]
    fn off_is_the_whole_weight() {
        assert_eq!(tenths(Duration::ZERO, Duration::ZERO), 10);
        assert_eq!(until_next_step(Duration::ZERO, Duration::ZERO), None);
    }

    proptest! {
        #[test]
        fn waiting_for_the_next_step_reaches_exactly_the_next_step(
            whole in 10_u64..10_000_000_000, share in 0.0_f64..1.5,
        ) {
            let whole = Duration::from_nanos(whole);
            let elapsed = whole.mul_f64(share);
            let now = tenths(elapsed, whole);
            match until_next_step(elapsed, whole) {
                None => prop_assert_eq!(now, 10),
                Some(wait) => {
                    prop_assert!(!wait.is_zero());
                    prop_assert_eq!(tenths(elapsed + wait, whole), now + 1);
                }
            }
        }
    }
}
