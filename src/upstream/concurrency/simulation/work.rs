//! What requests ask of a service.

/// What one request asks of the service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub micros: u64,
    /// Done by a worker; a long poll only waits, a fast error is refused at the door.
    pub busy: bool,
    pub end: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Answer,
    Error,
    Overload,
}

pub(super) fn work(micros: f64) -> Work {
    Work {
        micros: micros as u64,
        busy: true,
        end: End::Answer,
    }
}

pub(super) fn exponential(random: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

pub(super) fn random(mean_ms: f64) -> impl FnMut(&mut fastrand::Rng) -> Work {
    move |random| work(exponential(random, mean_ms * 1e3))
}

pub(super) fn fixed(ms: f64) -> impl FnMut(&mut fastrand::Rng) -> Work {
    move |_| work(ms * 1e3)
}
