//! What the proxy's own machine does to it.

use super::MS;
use super::work::exponential;

/// The proxy's threads wait for a processor, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Noise {
    /// Mean time between two stalls, and how long one lasts at most (a thousand at least).
    pub every: f64,
    pub longest: u64,
    /// Mean delay of each start and each reading.
    pub jitter: f64,
    /// It comes and goes: each span of weather lasts up to so long.
    pub gusts: u64,
    /// The service stands on the same machine.
    pub shared: bool,
}

/// The same for the same seed, whatever the limit does.
pub(super) struct Weather {
    random: fastrand::Rng,
    noise: Noise,
    calm: bool,
    turns: u64,
    pub stalled_until: u64,
}

impl Weather {
    pub fn new(seed: u64) -> Self {
        Weather {
            random: fastrand::Rng::with_seed(seed + 1),
            noise: Noise::default(),
            calm: false,
            turns: 0,
            stalled_until: 0,
        }
    }

    /// Whether stalls begin with it.
    pub fn becomes(&mut self, noise: Noise) -> bool {
        let begins = self.noise.every == 0.0 && noise.every > 0.0;
        self.noise = noise;
        self.calm = false;
        begins
    }

    pub fn is_shared(&self) -> bool {
        self.noise.shared && !self.calm
    }

    /// The threads stand still from now on, unless it is calm; when the next stall begins.
    pub fn stalls(&mut self, now: u64) -> Option<u64> {
        let Noise {
            every,
            longest,
            gusts,
            ..
        } = self.noise;
        if every == 0.0 {
            return None;
        }
        if gusts > 0 && now >= self.turns {
            self.calm = !self.calm;
            self.turns = now + self.random.u64(100 * MS..=gusts);
        }
        if self.calm {
            return Some(self.turns);
        }
        self.stalled_until = now + self.random.u64(MS..=longest);
        Some(self.stalled_until + exponential(&mut self.random, every) as u64 + 1)
    }

    /// When the proxy gets round to something.
    pub fn gets_to(&self, now: u64, random: &mut fastrand::Rng) -> u64 {
        let jitter = match self.noise.jitter {
            mean if mean > 0.0 && !self.calm => exponential(random, mean) as u64,
            _ => 0,
        };
        (now + jitter).max(self.stalled_until)
    }
}
