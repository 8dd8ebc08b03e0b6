//! Counts over the last seconds, in ten buckets, written by all workers without a lock.
//!
//! A bucket is one word per counter: what it counts for (an epoch and the time it began) and the
//! count. Because both are swapped together, a bucket is recycled, and a whole epoch forgotten,
//! without anybody clearing anything: who finds a word of another time or an older epoch begins it
//! anew, who finds one of a newer epoch leaves it alone.
//!
//! The begin of a bucket is kept as a time, not as a number of buckets, so that counts stay
//! meaningful when the length of the window is changed while it is in use.
//!
//! Which bucket is the present one is remembered, so that counting needs no division.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BUCKETS: usize = 10;
/// Time is kept in units of 10 ms, so that 32 bits last for more than a year; they wrap round.
const UNIT_MS: u64 = 10;
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// `COUNTERS` counts that slide together.
///
/// All accesses are relaxed: each word stands for itself, and nothing else is published by it.
#[derive(Debug)]
#[repr(C)]
pub struct Window<const COUNTERS: usize> {
    /// [`Latest`]: a guess that each user checks.
    latest: AtomicU64,
    words: [[AtomicU64; BUCKETS]; COUNTERS],
}

/// How far back counts go, in tenths: at least ten milliseconds each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Units of a bucket; fits [`Span::BITS`].
    bucket: u32,
}

impl Span {
    /// Of [`Span::to_bits`].
    pub const BITS: u32 = 27;

    pub fn of(window: Duration) -> Self {
        let units = window.as_millis() / u128::from(UNIT_MS) / BUCKETS as u128;
        Span {
            bucket: units.clamp(1, (1 << Self::BITS) - 1) as u32,
        }
    }

    /// Milliseconds of the whole.
    pub fn as_millis(self) -> u64 {
        u64::from(self.bucket) * BUCKETS as u64 * UNIT_MS
    }

    /// To keep it in a part of a word.
    pub fn to_bits(self) -> u32 {
        self.bucket
    }

    /// The span of [`Span::to_bits`].
    pub fn from_bits(bits: u32) -> Self {
        Span {
            bucket: bits.clamp(1, (1 << Self::BITS) - 1),
        }
    }
}

/// Now, as seen by one call.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Milliseconds of a monotonic clock, the same for all callers.
    pub now_ms: u64,
    pub span: Span,
    /// Counts of other epochs are not seen; only its low 8 bits tell epochs apart.
    pub epoch: u32,
}

/// The bucket that a count went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    slot: u8,
    begin: u32,
}

impl<const COUNTERS: usize> Window<COUNTERS> {
    pub fn new() -> Self {
        Window {
            latest: AtomicU64::new(0),
            words: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    /// Counts one now.
    pub fn add(&self, counter: usize, at: At) -> Mark {
        let mark = self.present(at);
        self.add_in(counter, mark, at);
        mark
    }

    /// Counts one in an earlier bucket; false when that bucket has left the window.
    pub fn add_at(&self, counter: usize, mark: Mark, at: At) -> bool {
        at.covers(mark.begin) && self.add_in(counter, mark, at)
    }

    /// Takes back one that was counted in `mark`, if the bucket is still there.
    pub fn take_back(&self, counter: usize, mark: Mark, epoch: u32) {
        let _ =
            self.word(counter, mark)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                    let word = Word::unpack(bits);
                    let same = word.begin == mark.begin && word.epoch == epoch as u8;
                    (same && word.count > 0).then(|| {
                        Word {
                            count: word.count - 1,
                            ..word
                        }
                        .pack()
                    })
                });
    }

    /// What each counter has seen in the window.
    pub fn sums(&self, at: At) -> [u64; COUNTERS] {
        std::array::from_fn(|counter| {
            self.words[counter]
                .iter()
                .map(|bits| Word::unpack(bits.load(Ordering::Relaxed)))
                .filter(|word| word.epoch == at.epoch as u8 && at.covers(word.begin))
                .map(|word| word.count)
                .sum()
        })
    }

    fn present(&self, at: At) -> Mark {
        let latest = Latest(self.latest.load(Ordering::Relaxed));
        if let Some(mark) = latest.holds(at) {
            return mark;
        }
        let bucket = u64::from(at.span.bucket);
        let number = at.now_ms / UNIT_MS / bucket;
        let mark = Mark {
            slot: (number % BUCKETS as u64) as u8,
            begin: (number * bucket) as u32,
        };
        self.latest
            .store(Latest::of(mark, at.span).0, Ordering::Relaxed);
        mark
    }

    fn word(&self, counter: usize, mark: Mark) -> &AtomicU64 {
        &self.words[counter][usize::from(mark.slot) % BUCKETS]
    }

    fn add_in(&self, counter: usize, mark: Mark, at: At) -> bool {
        let begun = Word {
            epoch: at.epoch as u8,
            begin: mark.begin,
            count: 0,
        };
        let add = |bits: u64| {
            // Nearly always the word is of this time and has room.
            let count = match bits.wrapping_sub(begun.pack()) {
                count @ 1..COUNT_MAX => count,
                _ => Word::unpack(bits).count_for(mark.begin, at)?,
            };
            Some(begun.pack() + (count + 1).min(COUNT_MAX))
        };
        self.word(counter, mark)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }
}

impl<const COUNTERS: usize> Default for Window<COUNTERS> {
    fn default() -> Self {
        Window::new()
    }
}

impl At {
    /// Whether a bucket that began at `begin` belongs to the window. One that begins a little later
    /// than now (another worker read its clock after us) does.
    fn covers(self, begin: u32) -> bool {
        let age = ((self.now_ms / UNIT_MS) as u32).wrapping_sub(begin) as i32;
        u64::from(age.unsigned_abs()) < u64::from(self.span.bucket) * BUCKETS as u64
    }
}

/// The last mark that was made: 4 bits slot, 27 bits span, 32 bits begin; a span of 0 is none.
#[derive(Clone, Copy)]
struct Latest(u64);

impl Latest {
    fn of(mark: Mark, span: Span) -> Latest {
        Latest(u64::from(mark.slot) << 60 | u64::from(span.bucket) << 32 | u64::from(mark.begin))
    }

    /// The mark, if `at` is in its bucket.
    fn holds(self, at: At) -> Option<Mark> {
        let (slot, begin) = ((self.0 >> 60) as u8, self.0 as u32);
        let of_span = (self.0 >> 32) as u32 & ((1 << Span::BITS) - 1) == at.span.bucket;
        let age = ((at.now_ms / UNIT_MS) as u32).wrapping_sub(begin);
        (of_span && age < at.span.bucket).then_some(Mark { slot, begin })
    }
}

#[derive(Debug, Clone, Copy)]
struct Word {
    epoch: u8,
    begin: u32,
    count: u64,
}

impl Word {
    fn unpack(bits: u64) -> Word {
        let begin = (bits >> COUNT_BITS) as u32;
        Word {
            epoch: (bits >> (COUNT_BITS + 32)) as u8,
            begin,
            count: bits & COUNT_MAX,
        }
    }

    fn pack(self) -> u64 {
        (u64::from(self.epoch) << (COUNT_BITS + 32))
            | (u64::from(self.begin) << COUNT_BITS)
            | self.count
    }

    /// The count to go on from for a bucket that begins at `begin`: 0 when this word holds
    /// something older, `None` when it already serves something newer.
    fn count_for(self, begin: u32, at: At) -> Option<u64> {
        let ahead = self.begin.wrapping_sub(begin) as i32;
        if self.count == 0 || !at.covers(self.begin) {
            return Some(0);
        }
        match (at.epoch as u8).wrapping_sub(self.epoch) as i8 {
            0 if ahead == 0 => Some(self.count),
            0 if ahead > 0 => None,
            newer if newer >= 0 => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(now_ms: u64) -> At {
        At {
            now_ms,
            span: Span::of(Duration::from_secs(10)),
            epoch: 0,
        }
    }

    #[test]
    fn counts_leave_after_the_window() {
        let window = Window::<2>::new();
        window.add(0, at(500));
        window.add(1, at(5_000));
        assert_eq!(window.sums(at(9_990)), [1, 1]);
        assert_eq!(window.sums(at(10_000)), [0, 1]);
        assert_eq!(window.sums(at(15_000)), [0, 0]);
    }

    #[test]
    fn a_new_epoch_sees_nothing_of_the_old_and_the_old_cannot_add() {
        let window = Window::<1>::new();
        let old = window.add(0, at(1_000));
        let new = At {
            epoch: 1,
            ..at(1_000)
        };
        assert_eq!(window.sums(new), [0]);
        window.add(0, new);
        window.add(0, at(1_000));
        assert!(
            !window.add_at(0, old, at(1_001)),
            "an old epoch must not come back"
        );
        assert_eq!(window.sums(new), [1]);
    }

    #[test]
    fn epochs_wrap_round() {
        let window = Window::<1>::new();
        for epoch in 250..600 {
            let at = At { epoch, ..at(1_000) };
            assert_eq!(window.sums(at), [0], "epoch {epoch}");
            window.add(0, at);
            assert_eq!(window.sums(at), [1], "epoch {epoch}");
        }
    }

    #[test]
    fn a_mark_adds_to_its_own_bucket_until_it_has_left() {
        let window = Window::<2>::new();
        let mark = window.add(0, at(1_000));
        assert!(window.add_at(1, mark, at(9_000)));
        assert_eq!(window.sums(at(10_990)), [1, 1]);
        assert_eq!(window.sums(at(11_000)), [0, 0], "both leave together");
        assert!(!window.add_at(1, mark, at(11_000)));
    }

    #[test]
    fn counts_survive_a_change_of_the_length() {
        let window = Window::<1>::new();
        for second in 0..10 {
            window.add(0, at(second * 1_000));
        }
        let longer = At {
            span: Span::of(Duration::from_secs(100)),
            ..at(9_999)
        };
        assert_eq!(window.sums(longer), [10]);
        let shorter = At {
            span: Span::of(Duration::from_secs(5)),
            ..at(9_999)
        };
        assert_eq!(window.sums(shorter), [5]);
    }

    #[test]
    fn a_bucket_untouched_for_more_than_a_year_is_used_again() {
        let window = Window::<1>::new();
        window.add(0, at(1_000));
        let wrapped = at(1_000 + 300 * 24 * 3_600_000);
        window.add(0, wrapped);
        window.add(0, wrapped);
        assert_eq!(window.sums(wrapped), [2]);
    }

    #[test]
    fn nothing_is_lost_between_racing_threads() {
        let window = Window::<1>::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for step in 0..5_000_u64 {
                        window.add(0, at(step));
                    }
                });
            }
        });
        assert_eq!(window.sums(at(5_000)), [40_000]);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_nine_to_ten_buckets(
            steps in prop::collection::vec(0_u64..3_000, 1..200), length in 1_u64..40,
        ) {
            let window = Window::<1>::new();
            let length = Duration::from_millis(length * 500);
            let mut times = Vec::new();
            let mut now_ms = 0;
            for step in steps {
                now_ms += step;
                times.push(now_ms);
                let at = At { now_ms, span: Span::of(length), epoch: 0 };
                window.add(0, at);
                let [sum] = window.sums(at);
                let whole = length.as_millis() as u64;
                let younger = |age: u64| times.iter().filter(|time| now_ms - **time < age).count();
                prop_assert!(sum as usize >= younger(whole - whole / 10 - 20), "too few");
                prop_assert!(sum as usize <= younger(whole + 20), "too many");
            }
        }

        #[test]
        fn taking_back_undoes_exactly_one(adds in 1_u64..50, now_ms in 0_u64..100_000) {
            let window = Window::<1>::new();
            let mut mark = window.add(0, at(now_ms));
            for _ in 0..adds {
                mark = window.add(0, at(now_ms));
            }
            window.take_back(0, mark, 0);
            prop_assert_eq!(window.sums(at(now_ms)), [adds]);
        }
    }
}
