//! `concurrency = "adaptive"`: how many requests an upstream can work on at once before it only
//! makes them wait.
//!
//! # The idea
//!
//! Below its knee a service answers in the same time however much is asked of it; above, what is
//! added waits, and the latency grows as the concurrency does while the throughput stands still
//! (Little 1961: concurrency = throughput x latency). So between dips a limit is judged by the
//! latency under it, against the latency without a queue, as TCP Vegas judges its window (Brakmo &
//! Peterson 1995), and as Netflix' concurrency-limits (Gradient2), Envoy's gradient controller and
//! bRPC's `auto` limiter do for requests ([`trend`]):
//!
//! - a window of answers at most [`TOLERANCE`] slower than the base: the limit grows by half its
//!   square root, if it was reached at all;
//! - a slower one: it shrinks in proportion, to half at most, and never below the knee;
//! - timeouts, resets and refusals for overload: a tenth less, and no growth for a while, however
//!   fast the other answers are.
//!
//! # The base and the knee
//!
//! The base is the weak spot of every such limiter: a minimum drifts down with noise, an average up
//! with the overload that it should tell of, and a service that has become slower for good looks
//! overloaded for ever. Here it is measured, as in Envoy and bRPC, by a *dip* ([`dip`]): for a
//! moment the limit is halved. If the throughput stays, nothing was lost: the limit was far over
//! the knee, and the next dip follows from down there. If the throughput falls along with the
//! limit, there was no queue in the dip: its latency is the new base, whatever the base was
//! before. And what the throughput lost says where the knee is, as TCP BBR's product of delivery
//! rate and round trip does (Cardwell et al. 2016).
//!
//! The knee is needed because latency lies on a busy machine. There the proxy's own threads wait
//! for a processor, requests start and answers are read late, all of them by the same moment, and
//! the base is that of a quieter moment: to the latency this is a queue, and each step down that it
//! asks for looks as justified as the one before, down to one request at a time. The throughput
//! does not lie: it is what a limit is there to keep. So only a dip takes the limit below the knee,
//! having compared throughputs at moments next to each other.
//!
//! There is a dip when the limit is reached for the first time (an upstream may be overloaded from
//! its start), when growth meets the first queue, when the limit has lost a quarter or latency
//! presses it against the knee (is it overload, or has the service changed?), and every 20 s of
//! saturation; one lasts for about a hundred answers. Without saturation the base follows the
//! traffic.
//!
//! # What is averaged
//!
//! The *logarithm* of the time to the response head: a few slow endpoints, long polls or a pause
//! weigh by how many they are and not by how long they last, while a queue, which makes all wait,
//! moves every sample. An error answer never counts as faster than the base.
//!
//! Pure: the clock is passed in, in milliseconds. One owner, who looks every [`Concurrency::pace`].

mod dip;
mod round;
#[cfg(test)]
mod simulation;
mod trend;

use dip::{Calendar, Dip, Found, From, Next};
use round::{EXACT, LEAST, Mean, Round, Wants, Window};
use trend::{Reached, Trend};

use crate::upstream::carried::CarriedLimit;

/// Slower than the base by this factor is not a queue yet.
const TOLERANCE: f64 = 1.3;

/// Where it begins; more for many servers.
const START: f64 = 20.0;
const START_PER_SERVER: f64 = 4.0;

/// Answers that make a window.
const ENOUGH: u32 = 32;
/// For the throughput of a window to be compared with that of another.
const ENOUGH_TO_COMPARE: u32 = 100;
const MOST: u32 = 2_000;

/// A share of attempts that ended in a sign of overload.
const OVERLOADED: f64 = 0.05;
/// No growth after one.
const HOLD_MS: u64 = 1_000;

const PACE_MS: u64 = 100;
const FAST_PACE_MS: u64 = 20;

/// A request that has been under way for as long as so many answers usually take is no part of
/// the load any more: it polls, streams, or its server is gone.
const LINGERS: f64 = 8.0;
const LINGERS_MS: (f64, f64) = (1_000.0, 30_000.0);

/// What requests reported since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Answers.
    pub samples: u32,
    /// Sum of the binary logarithms of their times in microseconds.
    pub logs: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// Attempts that ended in a sign of overload instead.
    pub drops: u32,
    /// The limit kept a request waiting.
    pub held: bool,
    /// Requests under the limit now.
    pub in_flight: u32,
}

/// However many may be asked for.
const MOST_AT_ONCE: u32 = 1_000_000;

/// Between what the limit stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub floor: u32,
    pub ceiling: u32,
}

impl Bounds {
    /// Every server may work on something; nothing is gained over what they may take together.
    pub fn of(servers: usize, max_requests: u64) -> Self {
        let floor = u32::try_from(servers).unwrap_or(u32::MAX).clamp(1, 10_000);
        let ceiling = u32::try_from(max_requests).unwrap_or(u32::MAX);
        Bounds {
            floor,
            ceiling: ceiling.clamp(floor, MOST_AT_ONCE),
        }
    }
}

/// The limit of one upstream.
#[derive(Debug, Clone)]
pub struct Concurrency {
    limit: f64,
    bounds: Bounds,
    /// Logarithm of the latency without a queue.
    base: Option<f64>,
    /// Less than that cost throughput in a dip: latency alone takes the limit no lower.
    knee: Option<f64>,
    stage: Stage,
    round: Round,
    trend: Trend,
    calendar: Calendar,
    no_growth_before: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Doubles until a queue is seen.
    Starting,
    Steady,
    Dip(Dip),
}

impl Concurrency {
    /// At `now_ms`, of any monotonic clock.
    pub fn new(bounds: Bounds, now_ms: u64) -> Self {
        let start = f64::from(bounds.floor) * START_PER_SERVER;
        let limit = start.max(START).min(bounds.ceiling.into());
        Concurrency {
            limit,
            bounds,
            base: None,
            knee: None,
            stage: Stage::Starting,
            round: Round::new(now_ms, limit),
            trend: Trend::new(limit),
            calendar: Calendar::new(now_ms),
            no_growth_before: now_ms,
        }
    }

    /// What another process is to begin with: of a dip, what it interrupts.
    pub fn carried(&self) -> CarriedLimit {
        let (limit, found) = match self.stage {
            Stage::Starting => (self.limit, false),
            Stage::Steady => (self.limit, true),
            Stage::Dip(dip) => dip.interrupts(),
        };
        CarriedLimit {
            limit,
            base_us: self.base.map(f64::exp2),
            knee: self.knee,
            found,
        }
    }

    /// Goes on as another process left it. The bounds are the next look's to keep.
    pub fn resume(&mut self, carried: CarriedLimit, now_ms: u64) {
        let limit = carried.limit.clamp(1.0, f64::from(MOST_AT_ONCE));
        let base = carried.base_us.filter(|base| *base >= 1.0);
        let found = carried.found && base.is_some();
        let begun = Concurrency::new(self.bounds, now_ms);
        *self = Concurrency {
            limit,
            base: base.map(f64::log2),
            knee: carried
                .knee
                .filter(|knee| found && (1.0..=limit).contains(knee)),
            round: Round::new(now_ms, limit),
            trend: Trend::new(limit),
            stage: match found {
                true => Stage::Steady,
                false => Stage::Starting,
            },
            ..begun
        };
    }

    /// Requests that may be under way at once.
    pub fn limit(&self) -> u32 {
        self.limit.round() as u32
    }

    /// The time to the response head without a queue, in seconds, once it is known.
    pub fn base_seconds(&self) -> Option<f64> {
        self.base.map(|log| log.exp2() / 1e6)
    }

    /// Milliseconds to the next look.
    pub fn pace(&self) -> u64 {
        match self.stage {
            Stage::Steady => PACE_MS,
            Stage::Starting | Stage::Dip(_) => FAST_PACE_MS,
        }
    }

    /// Milliseconds after which a request is no part of the load any more.
    pub fn lingers_ms(&self) -> u64 {
        let base = self.base_seconds().unwrap_or(0.0) * 1_000.0;
        (base * LINGERS).clamp(LINGERS_MS.0, LINGERS_MS.1) as u64
    }

    /// Takes what was seen since the last look.
    pub fn look(&mut self, now_ms: u64, seen: Seen, bounds: Bounds) {
        self.bounds = bounds;
        self.set(self.limit);
        let (limit, wants) = (self.limit, self.wants());
        let Some(window) = self.round.take(now_ms, &seen, limit, &wants) else {
            return;
        };
        match self.stage {
            Stage::Dip(mut dip) => {
                let next = dip.judge(now_ms, &window);
                self.proceed(now_ms, dip, next);
            }
            Stage::Starting | Stage::Steady => self.judge(now_ms, &window),
        }
    }

    fn wants(&self) -> Wants {
        let dips = matches!(self.stage, Stage::Dip(_));
        let usual = self.trend.recent.or(self.base);
        let usual_ms = usual.map_or(0.0, |log| log.exp2() / 1e3);
        let answers = match self.stage {
            Stage::Steady => ENOUGH,
            Stage::Starting | Stage::Dip(_) => ENOUGH_TO_COMPARE,
        };
        Wants {
            // A whole round, or the first answers are those of requests that met no queue yet.
            answers: answers.max(self.limit().min(MOST)),
            patience_ms: match dips {
                true => usual_ms.mul_add(10.0, 500.0),
                false => usual_ms.mul_add(4.0, 1_000.0),
            },
            clear_over: self
                .base
                .filter(|_| !dips)
                .map(|base| base + TOLERANCE.log2()),
        }
    }

    fn judge(&mut self, now_ms: u64, window: &Window) {
        let all = window.all();
        if all < LEAST {
            return;
        }
        if f64::from(window.drops) > f64::from(all) * OVERLOADED {
            self.no_growth_before = now_ms + HOLD_MS;
            let least = self.trend.least_under_drops().min(self.limit);
            self.set((self.limit * 0.9).max(least));
            // What is refused is not needed, and not to be tried again by a dip.
            self.knee = self.knee.map(|knee| knee.min(self.limit));
            return;
        }
        if window.samples < LEAST {
            return;
        }
        let mean = window.mean(now_ms);
        let base = *self.base.get_or_insert(mean.log);
        // As good as reached: it may have to come down, but has no reason to go up.
        let near = f64::from(window.most_in_flight) > self.limit * 0.75;
        if window.held || near {
            self.judge_reached(now_ms, window, mean, base);
        } else {
            self.follow(now_ms, window, mean, base);
        }
    }

    /// The limit is out of reach: nothing is known about it. Below half of it there is no queue,
    /// so the base follows, over some 500 answers.
    fn follow(&mut self, now_ms: u64, window: &Window, mean: Mean, base: f64) {
        let slower = mean.log - base;
        if slower > 1.0 + 2.0 * mean.error {
            // A queue, or another service? Coming down to what is in use refuses nobody, and has
            // a dip tell.
            let used = f64::from(window.most_in_flight).max(START);
            return self.set(self.limit.min(used));
        }
        if f64::from(window.most_in_flight) > self.limit / 2.0 {
            return;
        }
        let samples = f64::from(window.samples);
        self.base = Some(base + slower * samples / (samples + 500.0));
        self.trend.recent = None;
        self.calendar.postpone(now_ms);
    }

    fn judge_reached(&mut self, now_ms: u64, window: &Window, mean: Mean, base: f64) {
        let (limit, floor) = (self.limit, f64::from(self.bounds.floor));
        let starting = self.stage == Stage::Starting;
        let verdict = self.trend.judge(&Reached {
            mean,
            base,
            limit,
            least: self.knee.unwrap_or(0.0).max(floor),
            held: window.held,
            may_grow: now_ms >= self.no_growth_before,
            starting,
        });
        self.set(verdict.limit);
        let is_due = |reason| self.calendar.is_due(now_ms, reason);
        if !verdict.dip.is_some_and(is_due) {
            return;
        }
        self.trend.dip_begins(mean);
        let (dip, next) = Dip::begin(&From {
            now_ms,
            limit,
            mean,
            exact: window.samples >= ENOUGH_TO_COMPARE || mean.error > EXACT,
            starting,
            known: self.knee,
            floor,
            ceiling: self.bounds.ceiling.into(),
        });
        self.proceed(now_ms, dip, next);
    }

    fn proceed(&mut self, now_ms: u64, dip: Dip, next: Next) {
        let level = match next {
            Next::Up(level) | Next::Down(level) => level,
            Next::Over(found) => return self.end_dip(now_ms, &dip, &found),
        };
        // A reload may have moved them since the dip began.
        let level = level.clamp(self.bounds.floor.into(), self.bounds.ceiling.into());
        self.stage = Stage::Dip(dip);
        self.limit = level;
        self.round = Round::new(now_ms, level);
        if matches!(next, Next::Down(_)) {
            let latency_ms = dip.latency().exp2() / 1e3;
            self.round.drain(now_ms + latency_ms as u64 * 2 + 100);
        }
    }

    fn end_dip(&mut self, now_ms: u64, dip: &Dip, found: &Found) {
        self.stage = match found.starts {
            true => Stage::Starting,
            false => Stage::Steady,
        };
        self.knee = found.knee.or(self.knee);
        if let Some(base) = found.base {
            self.settle_base(base);
        }
        self.calendar.ended(now_ms, dip.began);
        self.set(found.limit);
        self.trend.dip_ended(self.limit, found.rate);
    }

    /// If it is what was known, doubts may wait longer for the next dip.
    fn settle_base(&mut self, found: f64) {
        let known = self.base.filter(|base| (base - found).abs() < 0.25);
        self.calendar.learnt(known.is_some());
        self.base = Some(known.map_or(found, |base| (base + found) / 2.0));
    }

    fn set(&mut self, limit: f64) {
        let limit = limit.clamp(self.bounds.floor.into(), self.bounds.ceiling.into());
        if limit < self.limit * 0.9 || limit > self.limit * 1.3 {
            self.round.settle(limit);
        }
        self.limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen() -> impl Strategy<Value = Seen> {
        let counts = (
            0_u32..3_000,
            0.0_f64..30.0,
            0_u32..100,
            any::<bool>(),
            0_u32..5_000,
        );
        counts.prop_map(|(samples, log, drops, held, in_flight)| Seen {
            samples,
            logs: f64::from(samples) * log,
            squares: f64::from(samples) * log * log * 1.01,
            drops,
            held,
            in_flight,
        })
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_whatever_is_seen(
            looks in prop::collection::vec((0_u64..20_000, seen(), 1_usize..50, 1_u64..3_000), 1..300),
        ) {
            let mut now = 0;
            let mut limit = Concurrency::new(Bounds::of(1, 100), now);
            for (passes, seen, servers, slots) in looks {
                now += passes;
                let bounds = Bounds::of(servers, slots);
                limit.look(now, seen, bounds);
                prop_assert!(limit.limit() >= bounds.floor.min(bounds.ceiling));
                prop_assert!(limit.limit() <= bounds.ceiling);
                prop_assert!(limit.base_seconds().is_none_or(|base| base.is_finite() && base > 0.0));
                prop_assert!((1_000..=30_000).contains(&limit.lingers_ms()));
            }
        }

        #[test]
        fn it_grows_only_when_it_is_reached(
            looks in prop::collection::vec((1_u64..2_000, seen()), 1..300),
        ) {
            let (mut now, bounds) = (0, Bounds::of(1, 10_000));
            let mut limit = Concurrency::new(bounds, now);
            for (passes, seen) in looks {
                now += passes;
                limit.look(now, Seen { held: false, ..seen }, bounds);
                prop_assert!(limit.limit() <= START as u32);
            }
        }
    }
}
