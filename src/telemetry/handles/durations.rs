//! Histograms of durations.

use std::time::Duration;

use crate::telemetry::shard::{Access, Cell64};

/// Upper bounds in seconds: OpenTelemetry's list for HTTP durations.
pub(in crate::telemetry) const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

const BUCKET_MICROS: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000,
    2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// Durations by bucket, of one worker.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Durations {
    /// The last is +Inf; not cumulative.
    pub counts: [Cell64; 15],
    pub sum_nanos: Cell64,
}

impl Durations {
    pub(in crate::telemetry) fn observe(&self, duration: Duration, access: Access) {
        let micros = duration.as_micros();
        // `le` is inclusive; a duration a fraction of a microsecond above a bound counts below it.
        let bucket = BUCKET_MICROS
            .iter()
            .position(|&bound| micros <= u128::from(bound));
        self.counts[bucket.unwrap_or(BUCKET_MICROS.len())].add(1, access);
        self.sum_nanos.add(
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            access,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_falls_into_the_first_bucket_that_holds_it(micros in 0u64..20_000_000) {
            let durations = Durations::default();
            durations.observe(Duration::from_micros(micros), Access::Shared);
            let bucket = durations.counts.iter().position(|count| count.value() == 1).unwrap_or(99);
            let seconds = micros as f64 / 1e6;
            prop_assert!(bucket == 14 || seconds <= BUCKETS[bucket]);
            prop_assert!(bucket == 0 || seconds > BUCKETS[bucket - 1]);
        }
    }
}
