//! Durations, sizes, ratios and rates as they are written in the configuration.

use std::fmt;

/// A share between 0 and 100 percent, kept as a fraction of one.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// `fraction` is clamped to 0.0..=1.0.
    pub fn from_fraction(fraction: f64) -> Self {
        Percent(fraction.clamp(0.0, 1.0))
    }

    /// The share as a fraction, 0.0..=1.0.
    pub fn fraction(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);
