//! Histograms of durations.

use std::time::Duration;

use crate::telemetry::shard::{Access, Cell64};

/// Upper bounds in seconds: OpenTelemetry's list for HTTP durations.
pub(in crate::telemetry) const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

const BUCKET_NANOS: [u64; 14] = {
    let mut nanos = [0; 14];
    let mut bucket = 0;
    while bucket < nanos.len() {
        // Every bound is a whole number of microseconds, which binary fractions come close to.
        nanos[bucket] = (BUCKETS[bucket] * 1e6 + 0.5) as u64 * 1_000;
        bucket += 1;
    }
    nanos
};

/// Durations by bucket, of one worker. Sum and short durations are on one cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(in crate::telemetry) struct Durations {
    pub sum_nanos: Cell64,
    /// The last is +Inf; not cumulative.
    pub counts: [Cell64; 15],
}

impl Durations {
    pub(in crate::telemetry) fn observe(&self, duration: Duration, access: Access) {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(duration.subsec_nanos().into());
        // `le` is inclusive. Most end in the first bucket, so that a scan is as good as any search.
        let bucket = BUCKET_NANOS.iter().position(|&bound| nanos <= bound);
        self.counts[bucket.unwrap_or(BUCKET_NANOS.len())].add(1, access);
        self.sum_nanos.add(nanos, access);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_falls_into_the_first_bucket_that_holds_it(
            micros in prop_oneof![
                0u64..20_000_000,
                prop::sample::select(BUCKETS.map(|bound| (bound * 1e6).round() as u64).to_vec()),
            ],
        ) {
            let durations = Durations::default();
            durations.observe(Duration::from_micros(micros), Access::Shared);
            let bucket = durations.counts.iter().position(|count| count.value() == 1).unwrap_or(99);
            let seconds = micros as f64 / 1e6;
            prop_assert!(bucket == 14 || seconds <= BUCKETS[bucket]);
            prop_assert!(bucket == 0 || seconds > BUCKETS[bucket - 1]);
        }
    }
}
