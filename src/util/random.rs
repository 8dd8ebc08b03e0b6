//! Random numbers for choices that nobody must be able to rely on: picks, jitter, sampling.
//!
//! Not for secrets. One generator per worker, so that drawing shares nothing; tests seed it.

use std::time::Duration;

/// A small, fast generator (wyrand); one per worker or task.
#[derive(Debug, Clone)]
pub struct Random(fastrand::Rng);

impl Random {
    /// Seeded from the system.
    pub fn new() -> Self {
        Random(fastrand::Rng::new())
    }

    /// The same seed gives the same numbers.
    pub fn seeded(seed: u64) -> Self {
        Random(fastrand::Rng::with_seed(seed))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Any number of 128 bits.
    pub fn long_number(&mut self) -> u128 {
        self.0.u128(..)
    }

    /// A number in `0..bound`, each equally likely; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.u64(..bound) }
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// `duration` made longer or shorter by at most `share` of itself.
    pub fn jitter(&mut self, duration: Duration, share: f64) -> Duration {
        let factor = 1.0 + share.clamp(0.0, 1.0) * (2.0 * self.unit() - 1.0);
        duration.mul_f64(factor)
    }
}

impl Default for Random {
    fn default() -> Self {
        Random::new()
    }
}

/// Spreads the bits of `value` over the whole word (the finaliser of MurmurHash3, 64 bits).
///
/// A bijection, and part of the hash that all instances must agree on: never change it.
pub fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut first, mut second) = (Random::seeded(7), Random::seeded(7));
        for _ in 0..100 {
            assert_eq!(first.number(), second.number());
        }
    }

    #[test]
    fn below_zero_is_zero_and_never_panics() {
        assert_eq!(Random::seeded(1).below(0), 0);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let mut random = Random::seeded(3);
        let ten = Duration::from_secs(10);
        for _ in 0..1_000 {
            let jittered = random.jitter(ten, 0.1);
            assert!(jittered >= Duration::from_secs(9) && jittered <= Duration::from_secs(11));
        }
        assert_eq!(random.jitter(ten, 0.0), ten);
    }
}
