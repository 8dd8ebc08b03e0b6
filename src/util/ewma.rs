//! The moving average of a server's latency that peaks at once and decays with time.
//!
//! Peak-EWMA as Finagle has it (`com.twitter.finagle.loadbalancer.p2c`): a sample over the average
//! becomes the average, one under it pulls it down by as much as time has passed, and without
//! samples it fades, so that a server that was slow once is tried again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time after which a sample counts for 1/e.
pub const DECAY: Duration = Duration::from_secs(10);

/// Without a sample for this long nothing is known any more (under 0.3% of it would be left).
const FORGOTTEN_MS: u64 = 60_000;

/// A failed attempt counts as at least this slow, however fast the failure came.
const FAILURE: Duration = Duration::from_secs(1);

/// A latency that all workers write and read.
///
/// Both words are relaxed: each update takes the time since the one before for itself (`swap`), so
/// concurrent samples decay the average once, and a reader between the two words is off by at
/// most one sample.
#[derive(Debug)]
pub struct PeakEwma {
    /// Seconds as the bits of an `f64`.
    seconds: AtomicU64,
    /// Milliseconds of the monotonic clock plus one; 0: no sample yet.
    stamp: AtomicU64,
}

impl PeakEwma {
    pub fn new() -> Self {
        PeakEwma {
            seconds: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
        }
    }

    /// Adds a sample that ended at `now_ms` (any monotonic clock, the same for all calls).
    pub fn observe(&self, sample: Duration, now_ms: u64) {
        let sample = sample.as_secs_f64();
        // Within a millisecond nothing decays: most samples of a busy server are only compared.
        let before = match self.stamp.load(Ordering::Relaxed) {
            same if same == now_ms + 1 => same,
            _ => self.stamp.swap(now_ms + 1, Ordering::Relaxed),
        };
        let kept = match before {
            0 => 0.0,
            stamp => decay(now_ms.saturating_sub(stamp - 1)),
        };
        let _ = self
            .seconds
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                let average = f64::from_bits(bits);
                let next = if sample >= average {
                    sample
                } else {
                    average * kept + sample * (1.0 - kept)
                };
                (next.to_bits() != bits).then_some(next.to_bits())
            });
    }

    /// Adds a failed attempt: a fast error counts as slow, never as faster than the average.
    pub fn observe_failure(&self, elapsed: Duration, now_ms: u64) {
        let average = Duration::try_from_secs_f64(self.latest().unwrap_or(0.0));
        self.observe(elapsed.max(FAILURE).max(average.unwrap_or(FAILURE)), now_ms);
    }

    /// What the policy compares: the average faded by the time since the last sample, in seconds;
    /// `None` when nothing is known.
    pub fn faded(&self, now_ms: u64) -> Option<f64> {
        let stamp = self.stamp.load(Ordering::Relaxed);
        let age = now_ms.saturating_sub(stamp.checked_sub(1)?);
        if age > FORGOTTEN_MS {
            return None;
        }
        Some(f64::from_bits(self.seconds.load(Ordering::Relaxed)) * decay(age))
    }

    /// The average as of its last sample, in seconds, for the gauge; `None` before the first.
    pub fn latest(&self) -> Option<f64> {
        let known = self.stamp.load(Ordering::Relaxed) != 0;
        known.then(|| f64::from_bits(self.seconds.load(Ordering::Relaxed)))
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        PeakEwma::new()
    }
}

fn decay(elapsed_ms: u64) -> f64 {
    let x = elapsed_ms as f64 / DECAY.as_millis() as f64;
    // The beginning of the series is off by less than x^4 / 24.
    if elapsed_ms <= 100 {
        return 1.0 - x * (1.0 - x / 2.0 * (1.0 - x / 3.0));
    }
    (-x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn nothing_is_known_before_the_first_sample() {
        let ewma = PeakEwma::new();
        assert_eq!(ewma.faded(5), None);
        assert_eq!(ewma.latest(), None);
    }

    #[test]
    fn a_slower_sample_counts_at_once() {
        let ewma = PeakEwma::new();
        ewma.observe(ms(10), 0);
        ewma.observe(ms(500), 1);
        assert_eq!(ewma.latest(), Some(0.5));
    }

    #[test]
    fn a_faster_sample_counts_as_much_as_time_has_passed() {
        let ewma = PeakEwma::new();
        ewma.observe(ms(1_000), 0);
        ewma.observe(ms(0), 10_000);
        let average = ewma.latest().unwrap();
        assert!((average - (-1.0_f64).exp()).abs() < 1e-9, "{average}");
    }

    #[test]
    fn short_times_decay_as_long_ones_do() {
        for ms in [0, 1, 7, 50, 99, 100, 101, 1_000, 60_000] {
            let exact = (-(ms as f64) / 10_000.0).exp();
            assert!((decay(ms) - exact).abs() < 1e-9, "{ms} ms");
        }
        assert_eq!(decay(0), 1.0);
    }

    #[test]
    fn the_average_fades_without_samples_and_is_forgotten() {
        let ewma = PeakEwma::new();
        ewma.observe(ms(1_000), 0);
        let faded = ewma.faded(20_000).unwrap();
        assert!((faded - (-2.0_f64).exp()).abs() < 1e-9, "{faded}");
        assert_eq!(ewma.latest(), Some(1.0));
        assert_eq!(ewma.faded(60_001), None);
    }

    #[test]
    fn a_fast_failure_counts_as_slow() {
        let ewma = PeakEwma::new();
        ewma.observe(ms(5), 0);
        ewma.observe_failure(ms(1), 1);
        assert_eq!(ewma.latest(), Some(1.0));
        ewma.observe_failure(ms(2_000), 2);
        assert_eq!(ewma.latest(), Some(2.0));
        ewma.observe_failure(ms(1), 5_000);
        assert_eq!(
            ewma.latest(),
            Some(2.0),
            "an error must not make it look faster"
        );
    }

    #[test]
    fn racing_samples_stay_within_the_samples() {
        let ewma = PeakEwma::new();
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let ewma = &ewma;
                scope.spawn(move || {
                    for step in 0..2_000 {
                        ewma.observe(ms(10 + (thread + step) % 10), step);
                    }
                });
            }
        });
        let average = ewma.latest().unwrap();
        assert!((0.010..=0.019).contains(&average), "{average}");
    }
}
