//! The state of a breaker as one word, so that a change of it is one compare-and-swap.

/// Trips in a row beyond this make no difference: the open time is at its cap long before.
const TRIPS_MAX: u32 = 31;
const EPOCH_MASK: u32 = 0x00ff_ffff;

/// 2 bits phase, 1 bit place, 5 bits trips, 24 bits epoch, 32 bits of the phase's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub phase: Phase,
    /// It holds a place under `max-ejected`; while closed: somebody is claiming one.
    pub placed: bool,
    /// Trips in a row: 0 when closed.
    pub trips: u32,
    /// Trips ever, wrapping: what was admitted under another epoch does not count.
    pub epoch: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    /// `since` in units of 10 ms, wrapping.
    Open {
        since: u32,
    },
    HalfOpen {
        /// Probes under way.
        probes: u16,
        successes: u16,
    },
}

impl Word {
    pub fn new() -> Word {
        Word {
            phase: Phase::Closed,
            placed: false,
            trips: 0,
            epoch: 0,
        }
    }

    /// Of a packed word.
    pub fn is_closed(bits: u64) -> bool {
        bits >> 62 == 0
    }

    /// The word after a trip.
    pub fn tripped(self, since: u32, placed: bool) -> Word {
        Word {
            phase: Phase::Open { since },
            placed,
            trips: (self.trips + 1).min(TRIPS_MAX),
            epoch: self.epoch.wrapping_add(1) & EPOCH_MASK,
        }
    }

    pub fn half_opened(self) -> Word {
        let phase = Phase::HalfOpen {
            probes: 0,
            successes: 0,
        };
        Word { phase, ..self }
    }

    pub fn closed(self) -> Word {
        Word {
            phase: Phase::Closed,
            placed: false,
            trips: 0,
            epoch: self.epoch,
        }
    }

    pub fn pack(self) -> u64 {
        let (phase, own) = match self.phase {
            Phase::Closed => (0, 0),
            Phase::Open { since } => (1, since),
            Phase::HalfOpen { probes, successes } => {
                (2, (u32::from(probes) << 16) | u32::from(successes))
            }
        };
        (phase << 62)
            | (u64::from(self.placed) << 61)
            | (u64::from(self.trips.min(TRIPS_MAX)) << 56)
            | (u64::from(self.epoch & EPOCH_MASK) << 32)
            | u64::from(own)
    }

    pub fn unpack(bits: u64) -> Word {
        let own = bits as u32;
        let phase = match bits >> 62 {
            0 => Phase::Closed,
            1 => Phase::Open { since: own },
            _ => Phase::HalfOpen {
                probes: (own >> 16) as u16,
                successes: own as u16,
            },
        };
        Word {
            phase,
            placed: bits >> 61 & 1 == 1,
            trips: (bits >> 56) as u32 & TRIPS_MAX,
            epoch: (bits >> 32) as u32 & EPOCH_MASK,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_word_survives_packing(
            kind in 0..3, a in any::<u16>(), since in any::<u32>(), placed in any::<bool>(),
            trips in 0..=TRIPS_MAX, epoch in 0..=EPOCH_MASK,
        ) {
            let phase = match kind {
                0 => Phase::Closed,
                1 => Phase::Open { since },
                _ => Phase::HalfOpen { probes: a, successes: since as u16 },
            };
            let word = Word { phase, placed, trips, epoch };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }

    #[test]
    fn epochs_and_trips_do_not_spill() {
        let word = Word {
            trips: TRIPS_MAX,
            epoch: EPOCH_MASK,
            ..Word::new()
        };
        let next = Word::unpack(word.tripped(u32::MAX, true).pack());
        assert_eq!((next.trips, next.epoch, next.placed), (TRIPS_MAX, 0, true));
        assert_eq!(next.phase, Phase::Open { since: u32::MAX });
    }
}
