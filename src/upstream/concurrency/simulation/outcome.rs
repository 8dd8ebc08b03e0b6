//! What came of a span of time.

/// Of a span.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub answered: u64,
    /// Of the answered, in the service.
    pub micros: Vec<u64>,
    /// The limits, and their sum over the looks, weighed by how far these are apart.
    pub least: u32,
    pub most: u32,
    pub limits: f64,
    pub weights: f64,
    pub seconds: f64,
}

impl Outcome {
    pub fn throughput(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    pub fn mean_limit(&self) -> f64 {
        self.limits / self.weights
    }

    pub fn mean_ms(&self) -> f64 {
        self.micros.iter().sum::<u64>() as f64 / self.micros.len().max(1) as f64 / 1e3
    }

    pub fn p99_ms(&mut self) -> f64 {
        self.micros.sort_unstable();
        let at = self.micros.len() * 99 / 100;
        self.micros.get(at).copied().unwrap_or(0) as f64 / 1e3
    }
}

/// Throughput of a share of the capacity, latency of a multiple of the service time.
#[track_caller]
pub(super) fn near_the_knee(outcome: &Outcome, capacity: f64, unloaded_ms: f64) {
    assert!(
        outcome.throughput() >= 0.95 * capacity,
        "{:.0} of {capacity:.0} per second, limit {} to {}",
        outcome.throughput(),
        outcome.least,
        outcome.most
    );
    assert!(
        outcome.mean_ms() <= 2.0 * unloaded_ms,
        "{:.1} ms, {unloaded_ms:.1} ms unloaded, limit {} to {}",
        outcome.mean_ms(),
        outcome.least,
        outcome.most
    );
}
