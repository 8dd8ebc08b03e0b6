//! The run of consecutive failures, from which a success can be taken out again.
//!
//! A success that turns into a failure when its body breaks off must not have ended the run. So it
//! remembers the length that it ended, and when it is taken out while no other success came after
//! it, the run goes on from that length plus the failures since. A later success keeps what it did:
//! a server that answers well meanwhile is not failing in a row.

use std::sync::atomic::{AtomicU64, Ordering};

/// 16 bits each of epoch, number of the last success, length that it ended, length now.
///
/// Relaxed: nothing else is published by it.
#[derive(Debug)]
pub(super) struct Run(AtomicU64);

/// What a success ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    success: u16,
    length: u16,
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    epoch: u16,
    success: u16,
    before: u16,
    length: u16,
}

impl Run {
    /// The longest run that is counted.
    pub const LONGEST: u32 = u16::MAX as u32;

    pub fn new() -> Run {
        Run(AtomicU64::new(0))
    }

    pub fn length(&self, epoch: u32) -> u32 {
        let fields = Fields::unpack(self.0.load(Ordering::Relaxed));
        if fields.epoch == epoch as u16 {
            u32::from(fields.length)
        } else {
            0
        }
    }

    /// Ends the run. Writes nothing when there is none to end, so that a healthy server's word is
    /// only read; successes then share a number, which is right since each ended nothing.
    pub fn success(&self, epoch: u32) -> Ended {
        let mut bits = self.0.load(Ordering::Relaxed);
        loop {
            let now = Fields::of_epoch(bits, epoch);
            let Some(now) = now.filter(|now| now.length != 0 || now.before != 0) else {
                return Ended {
                    success: now.map_or(0, |now| now.success),
                    length: 0,
                };
            };
            let success = now.success.wrapping_add(1);
            let next = Fields {
                success,
                before: now.length,
                length: 0,
                ..now
            };
            match self.swap(bits, next) {
                Ok(()) => {
                    return Ended {
                        success,
                        length: now.length,
                    };
                }
                Err(changed) => bits = changed,
            }
        }
    }

    pub fn failure(&self, epoch: u32) {
        self.lengthen(epoch, |now| now.length);
    }

    /// A failure that was reported as a success before.
    pub fn revoked(&self, epoch: u32, ended: Ended) {
        self.lengthen(epoch, |now| {
            let last = now.success == ended.success;
            now.length
                .saturating_add(if last { ended.length } else { 0 })
        });
    }

    fn lengthen(&self, epoch: u32, from: impl Fn(Fields) -> u16) {
        let mut bits = self.0.load(Ordering::Relaxed);
        while let Some(now) = Fields::of_epoch(bits, epoch) {
            let next = Fields {
                before: 0,
                length: from(now).saturating_add(1),
                ..now
            };
            match self.swap(bits, next) {
                Ok(()) => return,
                Err(changed) => bits = changed,
            }
        }
    }

    fn swap(&self, bits: u64, next: Fields) -> Result<(), u64> {
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0
            .compare_exchange_weak(bits, next.pack(), success, failure)
            .map(|_| ())
    }
}

impl Fields {
    /// The fields for `epoch`: empty when the word is of an older one, `None` when of a newer one.
    fn of_epoch(bits: u64, epoch: u32) -> Option<Fields> {
        let fields = Fields::unpack(bits);
        match (epoch as u16).wrapping_sub(fields.epoch) as i16 {
            0 => Some(fields),
            newer if newer > 0 => Some(Fields {
                epoch: epoch as u16,
                success: 0,
                before: 0,
                length: 0,
            }),
            _ => None,
        }
    }

    fn unpack(bits: u64) -> Fields {
        Fields {
            epoch: (bits >> 48) as u16,
            success: (bits >> 32) as u16,
            before: (bits >> 16) as u16,
            length: bits as u16,
        }
    }

    fn pack(self) -> u64 {
        (u64::from(self.epoch) << 48)
            | (u64::from(self.success) << 32)
            | (u64::from(self.before) << 16)
            | u64::from(self.length)
    }
}
