//! The circuit breaker of one server: pure, the clock passed in.
//!
//! Closed, it counts outcomes and trips on consecutive failures, on a failure ratio with a minimum
//! volume, or on a ratio of slow answers. Open, nothing is admitted for a time that doubles with
//! each trip in a row. Then the control task makes it half-open: a few probes pass, as many
//! successes close it, any failure opens it again.
//!
//! - The state is one word (`word`), changed only by compare-and-swap, so that at most `probes`
//!   are under way whatever the concurrency and each change happens, and is reported, once.
//! - A trip begins a new epoch. A [`Ticket`] carries the epoch that it was admitted in; outcomes of
//!   another epoch change nothing. The counts (`counts`) are stamped with the epoch, so
//!   that even a thread that stalls between looking and counting cannot touch a newer one.
//! - A success is reported with the response head; when the body then fails, the same request
//!   becomes a failure: in the window it moves from one side to the other, in the run of failures
//!   it is as if the success had not been.
//! - A trip needs a place under `max-ejected` ([`Places`]), claimed in one step before the word says
//!   open.
//! - An open time can be cut short: who saw the server answer since its trip vouches for it
//!   ([`Breaker::vouch`]), and the control task makes it half-open ([`Breaker::hurry`]) when nothing
//!   else of its upstream takes requests. Trips in a row are counted on: only successes end them.
//! - Changes are returned as [`Transition`]s: the caller logs, counts, wakes who waits.

mod counts;
mod places;
mod run;
mod word;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::model::{Breaker as Settings, BreakerMode};
use crate::upstream::carried::CarriedBreaker;
use crate::upstream::rules::OfBreaker;
use crate::util::random::mix;
use crate::util::window::{At, Span};

use counts::{Counts, Success};
use word::{Phase, Word};

pub use counts::Cause;
pub use places::Places;

/// The open time is up to this share longer or shorter.
const JITTER: f64 = 0.1;

/// One server's breaker; shared by all workers and the control task. Settings are passed to each
/// call, so that new ones apply to what was counted under the old. All times are milliseconds of
/// one monotonic clock.
///
/// What every request reads and writes comes first and is close together.
#[derive(Debug)]
#[repr(C)]
pub struct Breaker {
    /// [`Word`], sequentially consistent: who frees a probe and then looks at the queue, and who
    /// enqueues and then looks for a probe, must not miss each other.
    word: AtomicU64,
    counts: Counts,
    /// A trip that did not happen has been reported for this run of failures.
    reported: AtomicBool,
    /// Whether the server is one of those that `max-ejected` is a share of.
    counted: AtomicBool,
    /// The epoch of the trip since which it was seen to answer; [`NOBODY`] is none.
    vouched: AtomicU32,
    salt: u64,
}

/// No epoch: they have 24 bits.
const NOBODY: u32 = u32::MAX;

/// What the breaker says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

/// An admitted attempt: report its outcome with it, and [`Breaker::release`] it in any case.
#[must_use = "a probe that is never released is lost to the breaker"]
#[derive(Debug)]
pub struct Ticket {
    epoch: u32,
    probe: bool,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    None,
    /// Counted while closed.
    Success(Success),
    /// Counted as a success of a probe, or not at all.
    Uncounted,
    Failure,
}

/// What [`Breaker::count_usual`] came to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Usual {
    Settled,
    /// Counted; it may complete the volume that a ratio waits for.
    ToJudge(At),
    /// Not counted: nothing that this knows.
    Other,
}

/// A change that the caller logs and counts. `Opened`, `Reopened` and `Closed` change who is in
/// rotation: they wake the control task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Closed to open.
    Opened { cause: Cause, open_for: Duration },
    /// A probe failed: half-open to open again, for the `trips`th time in a row.
    Reopened { trips: u32, open_for: Duration },
    /// The open time is over; only from [`Breaker::tick`].
    HalfOpened,
    /// The open time was cut short; only from [`Breaker::hurry`].
    Hurried,
    /// Enough probes succeeded (slow start follows), or the mode is no longer "on".
    Closed,
    /// It would have opened but for `max-ejected`; nothing changed. Once per run of failures.
    Withheld { cause: Cause },
    /// Mode "watch": it would have opened. Once per run of failures.
    WouldOpen { cause: Cause },
}

impl Breaker {
    /// `salt` is any random number: it tells this server's jitter from that of others.
    pub fn new(salt: u64) -> Self {
        Breaker {
            word: AtomicU64::new(Word::new().pack()),
            counts: Counts::new(),
            reported: AtomicBool::new(false),
            counted: AtomicBool::new(true),
            vouched: AtomicU32::new(NOBODY),
            salt,
        }
    }

    /// Closed in every mode but "on", where nothing is refused.
    pub fn state(&self, settings: &Settings) -> State {
        match self.load().phase {
            _ if settings.mode != BreakerMode::On => State::Closed,
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Then it admits everybody, in any mode.
    pub fn is_closed(&self) -> bool {
        Word::is_closed(self.word.load(Ordering::SeqCst))
    }

    /// Which trip opened it; `None` when it is not open.
    pub fn opened(&self) -> Option<u32> {
        let word = self.load();
        matches!(word.phase, Phase::Open { .. }).then_some(word.epoch)
    }

    /// The server was seen to answer while that trip held it open; whether it still does.
    pub fn vouch(&self, opened: u32) -> bool {
        let holds = self.opened() == Some(opened);
        if holds {
            self.vouched.store(opened, Ordering::SeqCst);
        }
        holds
    }

    /// Half-open, and a probe has succeeded: it is about to close.
    pub fn is_closing(&self) -> bool {
        matches!(self.load().phase, Phase::HalfOpen { successes, .. } if successes > 0)
    }

    /// It should be open and is not, by `max-ejected`.
    pub fn is_withheld(&self, now_ms: u64, settings: &Settings) -> bool {
        let word = self.load();
        let at = At {
            now_ms,
            span: Span::of(settings.window),
            epoch: word.epoch,
        };
        settings.mode == BreakerMode::On
            && word.phase == Phase::Closed
            && self.reported.load(Ordering::Relaxed)
            && self.counts.cause(at, settings).is_some()
    }

    /// Whether [`Breaker::admit`] would give a ticket now.
    pub fn would_admit(&self, settings: &Settings) -> bool {
        match self.load().phase {
            _ if settings.mode != BreakerMode::On => true,
            Phase::Closed => true,
            Phase::Open { .. } => false,
            Phase::HalfOpen { probes, .. } => probes < probe_limit(settings),
        }
    }

    /// Admits an attempt: always when closed, as a probe when half-open and one is free, never
    /// when open.
    pub fn admit(&self, settings: &Settings) -> Option<Ticket> {
        let mut word = self.load();
        loop {
            let ticket = |probe| Ticket {
                epoch: word.epoch,
                probe,
                outcome: Outcome::None,
            };
            let (probes, successes) = match word.phase {
                Phase::Closed => return Some(ticket(false)),
                _ if settings.mode != BreakerMode::On => return Some(ticket(false)),
                Phase::Open { .. } => return None,
                Phase::HalfOpen { probes, successes } => (probes, successes),
            };
            if probes >= probe_limit(settings) {
                return None;
            }
            let phase = Phase::HalfOpen {
                probes: probes + 1,
                successes,
            };
            match self.swap(word, Word { phase, ..word }) {
                Ok(()) => return Some(ticket(true)),
                Err(changed) => word = changed,
            }
        }
    }

    /// [`Breaker::report_success`] without a look at the settings: enough for nearly every answer.
    pub(super) fn count_usual(
        &self,
        ticket: &mut Ticket,
        latency: Duration,
        now_ms: u64,
        rules: OfBreaker,
    ) -> Usual {
        if rules.off {
            return Usual::Settled;
        }
        let word = self.load();
        let closed = word.phase == Phase::Closed && word.epoch == ticket.epoch;
        if !closed || latency >= rules.slow || !matches!(ticket.outcome, Outcome::None) {
            return Usual::Other;
        }
        let at = At {
            now_ms,
            span: rules.span,
            epoch: word.epoch,
        };
        ticket.outcome = Outcome::Success(self.counts.plain_success(at));
        if self.counts.troubled(at) {
            Usual::ToJudge(at)
        } else {
            Usual::Settled
        }
    }

    /// The response head came `latency` after the request and is no failure.
    pub fn report_success(
        &self,
        ticket: &mut Ticket,
        latency: Duration,
        now_ms: u64,
        settings: &Settings,
        places: &Places,
    ) -> Option<Transition> {
        if settings.mode == BreakerMode::Off || !matches!(ticket.outcome, Outcome::None) {
            return None;
        }
        ticket.outcome = Outcome::Uncounted;
        let mut word = self.load();
        while word.epoch == ticket.epoch {
            let (probes, successes) = match word.phase {
                Phase::Closed => {
                    let at = At {
                        now_ms,
                        span: Span::of(settings.window),
                        epoch: word.epoch,
                    };
                    ticket.outcome = Outcome::Success(self.counts.success(latency, at, settings));
                    return self.judge_success(at, settings, places);
                }
                Phase::HalfOpen { probes, successes } if ticket.probe => (probes, successes),
                Phase::HalfOpen { .. } | Phase::Open { .. } => return None,
            };
            let successes = successes.saturating_add(1);
            let close = successes >= probe_limit(settings);
            let phase = Phase::HalfOpen { probes, successes };
            let next = if close {
                word.closed()
            } else {
                Word { phase, ..word }
            };
            match self.swap(word, next) {
                Ok(()) => return close.then(|| self.closed(word, places)),
                Err(changed) => word = changed,
            }
        }
        None
    }

    /// The attempt failed; after [`Breaker::report_success`] it turns that success into a failure.
    pub fn report_failure(
        &self,
        ticket: &mut Ticket,
        now_ms: u64,
        settings: &Settings,
        places: &Places,
    ) -> Option<Transition> {
        if settings.mode == BreakerMode::Off || matches!(ticket.outcome, Outcome::Failure) {
            return None;
        }
        let before = std::mem::replace(&mut ticket.outcome, Outcome::Failure);
        let mut word = self.load();
        while word.epoch == ticket.epoch {
            match word.phase {
                Phase::Closed => {
                    let success = match before {
                        Outcome::Success(success) => Some(success),
                        _ => None,
                    };
                    let at = At {
                        now_ms,
                        span: Span::of(settings.window),
                        epoch: word.epoch,
                    };
                    self.counts.failure(success, at);
                    return self.judge_failure(at, settings, places);
                }
                Phase::HalfOpen { .. } if ticket.probe => {}
                Phase::HalfOpen { .. } | Phase::Open { .. } => return None,
            }
            let next = word.tripped(units(now_ms), word.placed);
            match self.swap(word, next) {
                Ok(()) => {
                    let open_for = self.open_for(next, settings);
                    return Some(Transition::Reopened {
                        trips: next.trips,
                        open_for,
                    });
                }
                Err(changed) => word = changed,
            }
        }
        None
    }

    /// The lease ended, whatever was reported. True when this freed a probe: somebody may wait.
    pub fn release(&self, ticket: Ticket) -> bool {
        if !ticket.probe {
            return false;
        }
        let mut word = self.load();
        while word.epoch == ticket.epoch {
            let Phase::HalfOpen { probes, successes } = word.phase else {
                return false;
            };
            let phase = Phase::HalfOpen {
                probes: probes.saturating_sub(1),
                successes,
            };
            match self.swap(word, Word { phase, ..word }) {
                Ok(()) => return true,
                Err(changed) => word = changed,
            }
        }
        false
    }

    /// Does what time does (open to half-open) or a change of settings; only the control task
    /// calls it, at [`Breaker::half_open_at`] and after a reload.
    pub fn tick(&self, now_ms: u64, settings: &Settings, places: &Places) -> Option<Transition> {
        let mut word = self.load();
        loop {
            let next = match word.phase {
                Phase::Closed => return None,
                _ if settings.mode != BreakerMode::On => word.closed(),
                Phase::Open { since }
                    if self.open_until(word, since, now_ms, settings) > now_ms =>
                {
                    return None;
                }
                Phase::Open { .. } => word.half_opened(),
                // `probes` was lowered meanwhile.
                Phase::HalfOpen { successes, .. } if successes >= probe_limit(settings) => {
                    word.closed()
                }
                Phase::HalfOpen { .. } => return None,
            };
            match self.swap(word, next) {
                Ok(()) if next.phase == Phase::Closed => return Some(self.closed(word, places)),
                Ok(()) => return Some(Transition::HalfOpened),
                Err(changed) => word = changed,
            }
        }
    }

    /// Open to half-open before the time is over, if somebody vouched for the server since it opened.
    /// Only the control task calls it, and only where nobody else can serve.
    pub fn hurry(&self, settings: &Settings) -> Option<Transition> {
        let mut word = self.load();
        loop {
            let vouched = self.vouched.load(Ordering::SeqCst) == word.epoch;
            let open = matches!(word.phase, Phase::Open { .. });
            if settings.mode != BreakerMode::On || !open || !vouched {
                return None;
            }
            match self.swap(word, word.half_opened()) {
                Ok(()) => return Some(Transition::Hurried),
                Err(changed) => word = changed,
            }
        }
    }

    /// When an open breaker lets probes through; `None` when it is not open.
    pub fn half_open_at(&self, settings: &Settings, now_ms: u64) -> Option<u64> {
        let word = self.load();
        match word.phase {
            Phase::Open { since } if settings.mode == BreakerMode::On => {
                Some(self.open_until(word, since, now_ms, settings))
            }
            _ => None,
        }
    }

    /// For another process; `None` when it is closed.
    pub fn carried(&self, now_ms: u64, settings: &Settings) -> Option<CarriedBreaker> {
        let word = self.load();
        let open_ms = match word.phase {
            _ if settings.mode != BreakerMode::On => return None,
            Phase::Closed => return None,
            Phase::Open { since } => {
                let until = self.open_until(word, since, now_ms, settings);
                Some(until.saturating_sub(now_ms))
            }
            Phase::HalfOpen { .. } => None,
        };
        let trips = word.trips;
        Some(CarriedBreaker { trips, open_ms })
    }

    /// Goes on as another process left it, with a place for the control task to settle. For one
    /// that nobody has used yet.
    pub fn resume(&self, carried: CarriedBreaker, now_ms: u64, settings: &Settings) {
        if settings.mode != BreakerMode::On {
            return;
        }
        let before = Word {
            trips: carried.trips.saturating_sub(1),
            ..self.load()
        };
        let word = before.tripped(0, false);
        let word = match carried.open_ms {
            None => word.half_opened(),
            Some(left) => {
                // As long ago as leaves that; no longer than these settings give.
                let whole = self.open_for(word, settings).as_millis() as i64;
                let left = i64::try_from(left).unwrap_or(i64::MAX).min(whole);
                let since_ms = (now_ms as i64).saturating_add(left) - whole;
                let since = since_ms.div_euclid(UNIT_MS as i64) + 1;
                before.tripped(since as u32, false)
            }
        };
        self.word.store(word.pack(), Ordering::SeqCst);
    }

    /// Says whether the server is one of those that `max-ejected` is a share of (with weight,
    /// neither draining nor backup) and gives its place back or takes one over; others trip
    /// without a place. The control task calls it when that changes, and with `false` when the
    /// server is removed.
    pub fn settle_place(&self, counted: bool, places: &Places) {
        self.counted.store(counted, Ordering::SeqCst);
        let mut word = self.load();
        loop {
            if word.phase == Phase::Closed || word.placed == counted {
                return;
            }
            match self.swap(
                word,
                Word {
                    placed: !word.placed,
                    ..word
                },
            ) {
                Ok(()) if word.placed => return places.give_back(),
                Ok(()) => return places.take_over(),
                Err(changed) => word = changed,
            }
        }
    }

    fn load(&self) -> Word {
        Word::unpack(self.word.load(Ordering::SeqCst))
    }

    fn swap(&self, from: Word, to: Word) -> Result<(), Word> {
        self.word
            .compare_exchange(from.pack(), to.pack(), Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| ())
            .map_err(Word::unpack)
    }

    fn closed(&self, before: Word, places: &Places) -> Transition {
        if before.placed {
            places.give_back();
        }
        Transition::Closed
    }

    /// After [`Usual::ToJudge`].
    pub(super) fn judge_success(
        &self,
        at: At,
        settings: &Settings,
        places: &Places,
    ) -> Option<Transition> {
        // A trip that found no place is tried again at the next failure, not at a success.
        if !self.counts.troubled(at) || self.reported.load(Ordering::Relaxed) {
            return None;
        }
        let cause = self.counts.cause(at, settings)?;
        self.trip(at, cause, settings, places)
    }

    fn judge_failure(&self, at: At, settings: &Settings, places: &Places) -> Option<Transition> {
        let Some(cause) = self.counts.cause(at, settings) else {
            self.reported.store(false, Ordering::Relaxed);
            return None;
        };
        self.trip(at, cause, settings, places)
    }

    fn trip(
        &self,
        at: At,
        cause: Cause,
        settings: &Settings,
        places: &Places,
    ) -> Option<Transition> {
        let first = || !self.reported.swap(true, Ordering::Relaxed);
        if settings.mode == BreakerMode::Watch {
            return first().then_some(Transition::WouldOpen { cause });
        }
        let word = self.load();
        if word.epoch != at.epoch || word.phase != Phase::Closed || word.placed {
            return None;
        }
        // Closed with a place is a trip under way: of the threads that see the cause together, one
        // claims, and the others must not take its place for somebody else's.
        let claiming = Word {
            placed: true,
            ..word
        };
        if self.swap(word, claiming).is_err() {
            return None;
        }
        let counted = self.counted.load(Ordering::SeqCst);
        if counted && !places.claim() {
            self.word.store(word.pack(), Ordering::SeqCst);
            return first().then_some(Transition::Withheld { cause });
        }
        let next = word.tripped(units(at.now_ms), counted);
        self.word.store(next.pack(), Ordering::SeqCst);
        self.reported.store(false, Ordering::Relaxed);
        Some(Transition::Opened {
            cause,
            open_for: self.open_for(next, settings),
        })
    }

    /// `open` x 2^(trips - 1), capped, and up to a tenth more or less by a hash of salt and epoch,
    /// so that it is the same whenever it is asked for.
    fn open_for(&self, word: Word, settings: &Settings) -> Duration {
        let doubled = settings
            .open
            .saturating_mul(1 << word.trips.saturating_sub(1).min(30));
        let capped = doubled.min(settings.max_open);
        let spread =
            mix(mix(self.salt).wrapping_add(u64::from(word.epoch))) as f64 / u64::MAX as f64;
        capped.mul_f64(1.0 + JITTER * (2.0 * spread - 1.0))
    }

    fn open_until(&self, word: Word, since: u32, now_ms: u64, settings: &Settings) -> u64 {
        // Signed: a worker's clock may have been read a little after the caller's.
        let units = ((now_ms / UNIT_MS) as u32).wrapping_sub(since) as i32;
        // Before the clock began, perhaps: in the process before this one.
        let since_ms = ((now_ms / UNIT_MS) as i64 - i64::from(units)) * UNIT_MS as i64;
        let open_ms = self.open_for(word, settings).as_millis() as i64;
        u64::try_from(since_ms.saturating_add(open_ms)).unwrap_or(0)
    }
}

impl Ticket {
    /// Whether it holds one of the probes of a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

/// The word keeps the time of a trip in units of 10 ms, rounded up so that no probe comes early.
const UNIT_MS: u64 = 10;

fn units(now_ms: u64) -> u32 {
    now_ms.div_ceil(UNIT_MS) as u32
}

fn probe_limit(settings: &Settings) -> u16 {
    u16::try_from(settings.probes).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests;
