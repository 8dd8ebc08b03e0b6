//! The adaptive limit of one upstream, as requests meet it: a few words that all workers share.
//!
//! An upstream without a limit costs a request one relaxed load of a word that nobody writes. With
//! one, a request moves one word when it is let through and when it ends, and adds its latency to
//! two. What these words say together is folded by the control task ([`Limit::look`]), which owns
//! the state machine ([`Concurrency`]).
//!
//! # What counts
//!
//! Requests count by age in two generations, young and old; a generation lasts as long as
//! [`Concurrency::lingers_ms`]. One that outlives both is no part of the load any more: a long
//! poll, a stream, or a request to a server that has gone silent, which would otherwise keep the
//! others from the servers that work. A lease remembers its generation and leaves the right count,
//! or none.
//!
//! Outside the limit, but counted: retries, which waited once and are bounded by their budget, and
//! requests on a connection that is bound to a client. Outside and not counted: active checks.
//! Probes of half-open breakers and mirrored requests are inside.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::model;
use crate::upstream::carried::CarriedLimit;
use crate::upstream::common::lock;
use crate::upstream::concurrency::{Bounds, Concurrency, Seen};
use crate::upstream::lease::FailureKind;

/// No limit.
const OFF: u32 = u32::MAX;

/// Between looks at an upstream without traffic.
const IDLE_MS: u64 = 250;

/// A place under a limit; to be given back with [`Limit::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission(u32);

impl Admission {
    /// Of a request that no limit counts.
    pub const NONE: Admission = Admission(u32::MAX);
}

#[derive(Debug)]
pub struct Limit {
    /// [`OFF`] or how many. Written by the control task and reloads; relaxed, a request that meets
    /// the one before came a moment earlier.
    limit: AtomicU32,
    /// It kept a request waiting since the last look.
    held: AtomicBool,
    /// [`Count`]. Sequentially consistent with the queue's length when a place is given back, as a
    /// slot of a server is.
    count: AtomicU64,
    /// Number and sum of the logarithms of latencies since the last look: [`SAMPLE_BITS`].
    samples: AtomicU64,
    /// Sum of their squares.
    squares: AtomicU64,
    drops: AtomicU32,
    /// Logarithm of the latency without a queue; 0 is not known.
    base: AtomicU32,
    control: Mutex<Option<Control>>,
}

#[derive(Debug)]
struct Control {
    concurrency: Concurrency,
    due_ms: u64,
    rotates_ms: u64,
}

/// What `/status` shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub limit: u32,
    pub in_flight: u32,
    pub base_seconds: Option<f64>,
}

impl Limit {
    pub(super) fn new() -> Self {
        Limit {
            limit: AtomicU32::new(OFF),
            held: AtomicBool::new(false),
            count: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            squares: AtomicU64::new(0),
            drops: AtomicU32::new(0),
            base: AtomicU32::new(0),
            control: Mutex::default(),
        }
    }

    /// Takes over a published configuration: what was learnt stays while it is adaptive.
    pub(super) fn follow(&self, config: &model::Upstream, now_ms: u64) {
        let mut control = lock(&self.control);
        if !config.adaptive {
            *control = None;
            self.limit.store(OFF, Ordering::SeqCst);
            return;
        }
        let control = control.get_or_insert_with(|| Control {
            concurrency: Concurrency::new(Bounds::of(config.servers.len(), u64::MAX), now_ms),
            due_ms: now_ms,
            rotates_ms: now_ms,
        });
        self.limit
            .store(control.concurrency.limit(), Ordering::SeqCst);
    }

    /// For another process; `None` without a limit.
    pub(super) fn carried(&self) -> Option<CarriedLimit> {
        let control = lock(&self.control);
        control
            .as_ref()
            .map(|control| control.concurrency.carried())
    }

    /// Goes on as another process left it. After [`Limit::follow`].
    pub(super) fn resume(&self, carried: CarriedLimit, now_ms: u64) {
        if let Some(control) = &mut *lock(&self.control) {
            control.concurrency.resume(carried, now_ms);
            let base = control.concurrency.base_seconds();
            let base = base.and_then(|base| Duration::try_from_secs_f64(base).ok());
            let base = base.map_or(0, |base| logarithm(base) as u32);
            self.base.store(base, Ordering::Relaxed);
            self.limit
                .store(control.concurrency.limit(), Ordering::SeqCst);
        }
    }

    /// A place for a request, and one over the limit if it goes `past` it. `None`: it is full.
    pub(super) fn enter(&self, past: bool) -> Option<Admission> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == OFF {
            return Some(Admission::NONE);
        }
        let mut word = self.count.load(Ordering::Relaxed);
        loop {
            let count = Count::of(word);
            if count.all() >= limit && !past {
                self.held.store(true, Ordering::Relaxed);
                return None;
            }
            let Some(next) = count.entered() else {
                return Some(Admission::NONE);
            };
            // Relaxed: the count orders nothing; what a place that is free again means is ordered
            // by `leave`.
            let moved = self.count.compare_exchange_weak(
                word,
                next.word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match moved {
                Ok(_) => return Some(Admission(count.generation)),
                Err(now) => word = now,
            }
        }
    }

    /// Gives a place back. The caller looks at the queue afterwards.
    pub(super) fn leave(&self, admission: Admission) {
        if admission == Admission::NONE {
            return;
        }
        let mut word = self.count.load(Ordering::Relaxed);
        while let Some(next) = Count::of(word).left(admission.0) {
            let moved = self.count.compare_exchange_weak(
                word,
                next.word(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            match moved {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Whether a request would have to wait. Sequentially consistent: see the queue.
    pub(super) fn is_full(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit != OFF && Count::of(self.count.load(Ordering::SeqCst)).all() >= limit
    }

    /// A request waits for it.
    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// A response head came after `latency`.
    pub(super) fn answered(&self, latency: Duration, status: u16) {
        match status {
            503 => return self.dropped(),
            // The time of a tunnel's switch says nothing about work.
            ..200 => return,
            _ => {}
        }
        let mut log = logarithm(latency);
        if status >= 400 {
            // An error may come fast because nothing was done for it.
            let base = u64::from(self.base.load(Ordering::Relaxed));
            if base == 0 && status >= 500 {
                return;
            }
            log = log.max(base);
        }
        self.samples
            .fetch_add(log << SAMPLE_BITS | 1, Ordering::Relaxed);
        self.squares.fetch_add(log * log, Ordering::Relaxed);
    }

    /// An attempt ended in a sign of overload.
    pub(super) fn dropped(&self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt failed. That a server cannot be reached or speaks nonsense is no overload.
    pub(super) fn failed(&self, kind: FailureKind) {
        if matches!(kind, FailureKind::Timeout | FailureKind::Reset) {
            self.dropped();
        }
    }

    /// On the control task: when to come again, and whether there may be more room now. Without a
    /// limit, nothing.
    pub(super) fn look(&self, now_ms: u64, bounds: impl FnOnce() -> Bounds) -> Option<(u64, bool)> {
        if self.limit.load(Ordering::Relaxed) == OFF {
            return None;
        }
        let mut control = lock(&self.control);
        let control = control.as_mut()?;
        if now_ms < control.due_ms {
            return Some((control.due_ms, false));
        }
        let rotates = now_ms >= control.rotates_ms;
        if rotates {
            self.rotate();
            control.rotates_ms = now_ms + control.concurrency.lingers_ms();
        }
        let seen = self.seen();
        control.concurrency.look(now_ms, seen, bounds());
        let limit = control.concurrency.limit();
        let before = self.limit.swap(limit, Ordering::SeqCst);
        let base = control.concurrency.base_seconds();
        let base = base.and_then(|base| Duration::try_from_secs_f64(base).ok());
        self.base.store(
            base.map_or(0, |base| logarithm(base) as u32),
            Ordering::Relaxed,
        );
        let idle = seen.samples == 0 && seen.in_flight == 0;
        let pace = if idle {
            IDLE_MS
        } else {
            control.concurrency.pace()
        };
        control.due_ms = now_ms + pace;
        Some((control.due_ms, limit > before || rotates))
    }

    fn seen(&self) -> Seen {
        let samples = self.samples.swap(0, Ordering::Relaxed);
        let squares = self.squares.swap(0, Ordering::Relaxed);
        let unit = f64::from(1 << FRACTION_BITS);
        Seen {
            samples: (samples & ((1 << SAMPLE_BITS) - 1)) as u32,
            logs: (samples >> SAMPLE_BITS) as f64 / unit,
            squares: squares as f64 / (unit * unit),
            drops: self.drops.swap(0, Ordering::Relaxed),
            held: self.held.swap(false, Ordering::Relaxed),
            in_flight: Count::of(self.count.load(Ordering::Relaxed)).all(),
        }
    }

    fn rotate(&self) {
        let turn = |word| Some(Count::of(word).rotated().word());
        let _always = self
            .count
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, turn);
    }

    /// `None`: no limit.
    pub fn reading(&self) -> Option<Reading> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == OFF {
            return None;
        }
        let control = lock(&self.control);
        Some(Reading {
            limit,
            in_flight: Count::of(self.count.load(Ordering::Relaxed)).all(),
            base_seconds: control
                .as_ref()
                .and_then(|it| it.concurrency.base_seconds()),
        })
    }
}

/// Requests under way: 20 bits young, 20 bits old, 24 bits the generation of the young.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Count {
    young: u32,
    old: u32,
    generation: u32,
}

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;
const GENERATION_MAX: u32 = (1 << 24) - 1;

impl Count {
    fn of(word: u64) -> Self {
        Count {
            young: word as u32 & COUNT_MAX,
            old: (word >> COUNT_BITS) as u32 & COUNT_MAX,
            generation: (word >> (2 * COUNT_BITS)) as u32,
        }
    }

    fn word(self) -> u64 {
        u64::from(self.generation) << (2 * COUNT_BITS)
            | u64::from(self.old) << COUNT_BITS
            | u64::from(self.young)
    }

    fn all(self) -> u32 {
        self.young + self.old
    }

    /// `None`: more than can be counted.
    fn entered(self) -> Option<Self> {
        let young = self.young + 1;
        (young <= COUNT_MAX).then_some(Count { young, ..self })
    }

    /// `None`: it is no longer counted.
    fn left(self, generation: u32) -> Option<Self> {
        match self.generation.wrapping_sub(generation) & GENERATION_MAX {
            0 => Some(Count {
                young: self.young.saturating_sub(1),
                ..self
            }),
            1 => Some(Count {
                old: self.old.saturating_sub(1),
                ..self
            }),
            _ => None,
        }
    }

    fn rotated(self) -> Self {
        Count {
            young: 0,
            old: self.young,
            generation: self.generation.wrapping_add(1) & GENERATION_MAX,
        }
    }
}

/// Of a word of samples, for their number: sixteen million between two looks, which on a busy
/// machine may be seconds apart.
const SAMPLE_BITS: u32 = 24;
const FRACTION_BITS: u32 = 8;

/// The binary logarithm of microseconds, in 1/256. Between powers of two it is a straight line
/// (the mantissa as it is): continuous and rising, which is all that a comparison needs.
fn logarithm(latency: Duration) -> u64 {
    let micros = latency.as_micros().clamp(1, u128::from(u32::MAX)) as f32;
    u64::from(micros.to_bits() >> (23 - FRACTION_BITS)) - (127 << FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::config;

    fn adaptive() -> Limit {
        let limit = Limit::new();
        let mut config = config(&[(1, 1)]);
        config.adaptive = true;
        limit.follow(&config, 0);
        limit
    }

    fn bounds() -> Bounds {
        Bounds::of(1, 1_024)
    }

    fn counted(limit: &Limit) -> u32 {
        limit.reading().expect("a limit").in_flight
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let limit = Limit::new();
        assert_eq!(limit.enter(false), Some(Admission::NONE));
        assert!(!limit.is_full());
        assert_eq!(limit.reading(), None);
        assert_eq!(limit.look(0, bounds), None);
    }

    #[test]
    fn it_is_full_at_the_limit_and_retries_go_past_it() {
        let limit = adaptive();
        let most = limit.reading().expect("a limit").limit;
        let places: Vec<_> = (0..most).map(|_| limit.enter(false)).collect();
        assert!(places.iter().all(Option::is_some) && limit.is_full());
        assert_eq!(limit.enter(false), None);
        let retry = limit.enter(true).expect("a retry is not kept waiting");
        assert_eq!(counted(&limit), most + 1);
        limit.leave(retry);
        limit.leave(places[0].expect("a place"));
        assert!(!limit.is_full() && limit.enter(false).is_some());
    }

    #[test]
    fn who_outlives_two_generations_counts_no_more() {
        let limit = adaptive();
        let place = limit.enter(false).expect("room");
        limit.look(0, bounds);
        limit.look(1_000, bounds);
        assert_eq!(counted(&limit), 0, "it lingers");
        let young = limit.enter(false).expect("room");
        limit.leave(place);
        assert_eq!(counted(&limit), 1, "it takes nobody else's place with it");
        limit.look(2_000, bounds);
        assert_eq!(counted(&limit), 1);
        limit.leave(young);
        assert_eq!(counted(&limit), 0);
    }

    #[test]
    fn places_survive_a_switch_off_and_on() {
        let limit = adaptive();
        let before = limit.enter(false).expect("room");
        limit.follow(&config(&[(1, 1)]), 0);
        let between = limit.enter(false).expect("no limit");
        let mut on = config(&[(1, 1)]);
        on.adaptive = true;
        limit.follow(&on, 0);
        let after = limit.enter(false).expect("room");
        assert_eq!(counted(&limit), 2, "what was let through without a limit");
        for place in [before, between, after] {
            limit.leave(place);
        }
        assert_eq!(counted(&limit), 0);
    }

    #[test]
    fn no_place_is_lost_or_doubled_whatever_the_concurrency() {
        let limit = adaptive();
        let most = limit.reading().expect("a limit").limit;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let Some(place) = limit.enter(false) else {
                            continue;
                        };
                        assert!(Count::of(limit.count.load(Ordering::SeqCst)).young <= most);
                        limit.leave(place);
                    }
                });
            }
            scope.spawn(|| (0..200).for_each(|_| limit.rotate()));
        });
        limit.rotate();
        limit.rotate();
        assert_eq!(counted(&limit), 0);
    }

    #[test]
    fn a_look_that_comes_late_finds_all_answers_counted() {
        let limit = adaptive();
        let answers = (1 << 20) + 5;
        for _ in 0..answers {
            limit.answered(Duration::from_micros(1_024), 200);
        }
        let seen = limit.seen();
        assert_eq!(
            (seen.samples, seen.logs),
            (answers, 10.0 * f64::from(answers))
        );
    }

    #[test]
    fn logarithms_rise_with_the_latency() {
        assert_eq!(logarithm(Duration::ZERO), 0);
        assert_eq!(logarithm(Duration::from_micros(1_024)), 10 << FRACTION_BITS);
        let logs = (1..5_000).map(|micros| logarithm(Duration::from_micros(micros)));
        assert!(logs.is_sorted());
    }

    #[test]
    fn an_error_is_never_faster_than_the_base_and_a_refusal_is_no_answer() {
        let limit = adaptive();
        let (fast, usual) = (Duration::from_micros(2), Duration::from_micros(4_096));
        limit.answered(fast, 500);
        assert_eq!(
            limit.seen().samples,
            0,
            "nothing is known to compare it with"
        );
        limit.base.store(logarithm(usual) as u32, Ordering::Relaxed);
        limit.answered(fast, 500);
        limit.answered(fast, 404);
        limit.answered(fast, 503);
        limit.failed(FailureKind::Timeout);
        limit.failed(FailureKind::Connect);
        let seen = limit.seen();
        assert_eq!((seen.samples, seen.drops), (2, 2));
        assert_eq!(seen.logs, 24.0);
        assert_eq!(seen.squares, 288.0);
    }
}
