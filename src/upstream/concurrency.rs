//! `concurrency = "adaptive"`: how many requests an upstream can work on at once before it only
//! makes them wait.
//!
//! # The idea
//!
//! Below its knee a service answers in the same time however much is asked of it; above, what is
//! added waits, and the latency grows as the concurrency does while the throughput stands still
//! (Little 1961: concurrency = throughput x latency). So a limit is judged by the latency under
//! it, against the latency without a queue, as TCP Vegas judges its window (Brakmo & Peterson
//! 1995), and as Netflix' concurrency-limits (Gradient2), Envoy's gradient controller and bRPC's
//! `auto` limiter do for requests:
//!
//! - a window of answers at most [`TOLERANCE`] slower than the base: the limit grows by half its
//!   square root, if it was reached at all;
//! - a slower one: it shrinks in proportion, to half at most;
//! - timeouts, resets and refusals for overload: a tenth less, and no growth for a while, however
//!   fast the other answers are.
//!
//! # The base
//!
//! is the weak spot of every such limiter: a minimum drifts down with noise, an average up with
//! the overload that it should tell of, and a service that has become slower for good looks
//! overloaded for ever. Here it is measured, as in Envoy and bRPC, by a *dip*: for a moment the
//! limit is halved. Little's law tells the two cases apart. If the latency falls along with the
//! limit, nothing was lost by the dip: the limit was far over the knee, it stays down there, and
//! the next dip follows. If the latency stays, so that the throughput fell, there was no queue in
//! the dip: its latency is the new base, whatever the base was before, and the limit goes back.
//! There is a dip when the limit is
//! reached for the first time (an upstream may be overloaded from its start), when growth meets the
//! first queue, when the limit has lost a quarter (is it
//! overload, or has the service changed?), and every 20 s of saturation; one lasts for about a hundred
//! answers. Without saturation the base follows the traffic.
//!
//! # What is averaged
//!
//! The *logarithm* of the time to the response head: a few slow endpoints, long polls or a pause
//! weigh by how many they are and not by how long they last, while a queue, which makes all wait,
//! moves every sample. An error answer never counts as faster than the base.
//!
//! Pure: the clock is passed in, in milliseconds. One owner, who looks every [`Concurrency::pace`].

#[cfg(test)]
mod simulation;

/// Slower than the base by this factor is not a queue yet.
const TOLERANCE: f64 = 1.3;

/// Where it begins; more for many servers.
const START: f64 = 20.0;
const START_PER_SERVER: f64 = 4.0;

/// Answers that make a window, and the least that one is made of when they come slowly.
const ENOUGH: u32 = 32;
const LEAST: u32 = 8;
/// For the throughput of a window to be compared with that of another.
const ENOUGH_TO_COMPARE: u32 = 100;
const MOST: u32 = 2_000;
/// The standard error, in powers of two, with which a mean is taken for what it says.
const EXACT: f64 = 0.12;

/// A dip that loses no more than this share of what it takes away (as powers of two) is harmless.
const LOST: f64 = 0.4;
/// Latency this much over the base, in powers of two, is far over the knee.
const FAR: f64 = 2.0;
/// Latency this little over the base: there is no queue at all.
const NO_QUEUE: f64 = 0.15;
/// A loss of this much since the last dip asks for another.
const SUSPICIOUS: f64 = 0.75;
/// A throughput that differs from the one before by more, in powers of two, has changed.
const CHANGED: f64 = 0.6;
/// Between dips, and how many times its length a dip's distance from the next is at least: it
/// costs no more than a fiftieth of the throughput.
const DIP_EVERY_MS: u64 = 20_000;
const DIP_SHARE: u64 = 25;

const DOUBT_MS: (u64, u64) = (1_000, 10_000);

/// A share of attempts that ended in a sign of overload.
const OVERLOADED: f64 = 0.05;
/// No growth after one.
const HOLD_MS: u64 = 1_000;

/// However slow the answers come.
const PATIENCE_MS: u64 = 10_000;

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
            ceiling: ceiling.clamp(floor, 1_000_000),
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
    stage: Stage,
    window: Window,
    /// Answers that still belong to an earlier limit, if the round is full.
    unsettled: u32,
    /// The limit of late.
    usual: f64,
    /// Logarithm of the latency of late, while the limit was reached.
    recent: Option<f64>,
    next_dip: u64,
    /// The earliest moment for one that a loss asks for.
    early_dip: u64,
    no_growth_before: u64,
    /// To the next dip that a loss asks for: longer when the last ones found nothing new.
    doubt_ms: u64,
    /// There was a dip: the base is not that of a service that was overloaded from the start.
    verified: bool,
    /// Windows in a row that speak of another service than the last dip found.
    doubts: u32,
    /// Windows in a row without a queue.
    clear: u32,
    /// Windows in a row that were far over the knee.
    far: u32,
    /// Of the saturated service, at the last dip.
    throughput: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Doubles until a queue is seen.
    Starting,
    Steady,
    Dip(Dip),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Dip {
    began: u64,
    /// What the limit was.
    from: f64,
    /// What it was on the level above, and the latency there.
    above: f64,
    reference: Mean,
    draining: bool,
    /// What it interrupts is the start.
    starting: bool,
    /// The lowest level that cost no throughput.
    harmless: f64,
}

/// Of the logarithms of latencies, with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mean {
    log: f64,
    error: f64,
    /// Answers per millisecond.
    rate: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    began: u64,
    samples: u32,
    logs: f64,
    squares: f64,
    drops: u32,
    held: bool,
    looks: u32,
    held_looks: u32,
    most_in_flight: u32,
}

impl Window {
    /// The limit was reached nearly all the time: the throughput is what it let through.
    fn is_saturated(&self) -> bool {
        self.held_looks * 5 >= self.looks * 4
    }

    fn mean(&self, now_ms: u64) -> Mean {
        let samples = f64::from(self.samples.max(2));
        let log = self.logs / f64::from(self.samples.max(1));
        let variance = (self.squares / samples - log.powi(2)).max(0.0);
        Mean {
            log,
            error: (variance / samples).sqrt(),
            rate: f64::from(self.samples) / (now_ms - self.began).max(1) as f64,
        }
    }
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
            stage: Stage::Starting,
            window: Window {
                began: now_ms,
                ..Window::default()
            },
            unsettled: limit as u32,
            usual: limit,
            recent: None,
            next_dip: now_ms + DIP_EVERY_MS,
            early_dip: now_ms,
            no_growth_before: now_ms,
            doubt_ms: DOUBT_MS.0,
            verified: false,
            doubts: 0,
            clear: 0,
            far: 0,
            throughput: None,
        }
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
        if self.is_draining(now_ms, &seen) || self.is_settling(now_ms, &seen) {
            return;
        }
        let window = &mut self.window;
        window.samples += seen.samples;
        window.logs += seen.logs;
        window.squares += seen.squares;
        window.drops += seen.drops;
        window.held |= seen.held;
        window.looks += 1;
        window.held_looks += u32::from(seen.held);
        window.most_in_flight = window.most_in_flight.max(seen.in_flight);
        if self.is_whole(now_ms) {
            let window = self.window;
            self.begin_window(now_ms);
            self.judge(now_ms, window);
        }
    }

    /// A dip begins when what was under way before it is done.
    fn is_draining(&mut self, now_ms: u64, seen: &Seen) -> bool {
        let Stage::Dip(dip) = &mut self.stage else {
            return false;
        };
        if !dip.draining {
            return false;
        }
        let patience = (dip.reference.log.exp2() / 1e3) as u64 * 2 + 100;
        if f64::from(seen.in_flight) <= self.limit || now_ms >= dip.began + patience {
            dip.draining = false;
            self.unsettled = self.limit as u32;
            self.begin_window(now_ms);
        }
        true
    }

    /// After a step a whole round goes by: what comes first after it was asked before it, and of
    /// what was asked after it the fastest comes first.
    fn is_settling(&mut self, now_ms: u64, seen: &Seen) -> bool {
        if self.unsettled == 0 {
            return false;
        }
        let late = now_ms >= self.window.began + PATIENCE_MS;
        self.unsettled = match late {
            true => 0,
            false => self.unsettled.saturating_sub(seen.samples + seen.drops),
        };
        if self.unsettled == 0 {
            self.begin_window(now_ms);
        }
        true
    }

    fn begin_window(&mut self, now_ms: u64) {
        self.window = Window {
            began: now_ms,
            ..Window::default()
        };
    }

    fn is_whole(&self, now_ms: u64) -> bool {
        let (window, elapsed) = (&self.window, now_ms.saturating_sub(self.window.began));
        let usual = self
            .recent
            .or(self.base)
            .map_or(0.0, |log| log.exp2() / 1e3);
        // A whole round, or the first answers are those of requests that met no queue yet.
        let enough = match self.stage {
            Stage::Steady => ENOUGH,
            Stage::Starting | Stage::Dip(_) => ENOUGH_TO_COMPARE,
        };
        let enough = enough.max(self.limit().min(MOST));
        let all = window.samples + window.drops;
        let patience = match self.stage {
            Stage::Dip(_) => usual.mul_add(10.0, 500.0),
            _ => usual.mul_add(4.0, 1_000.0),
        };
        if elapsed as f64 >= patience && (all >= LEAST || elapsed >= PATIENCE_MS) {
            return true;
        }
        all >= enough && (window.mean(now_ms).error <= EXACT || self.is_clear(now_ms, window))
    }

    /// Slower, or overloaded, whatever the error.
    fn is_clear(&self, now_ms: u64, window: &Window) -> bool {
        let dips = matches!(self.stage, Stage::Dip(_));
        let mean = window.mean(now_ms);
        let over = |base| mean.log - base > TOLERANCE.log2() + 3.0 * mean.error;
        !dips && self.base.is_some_and(over) || window.drops > window.samples / 10
    }

    fn judge(&mut self, now_ms: u64, window: Window) {
        if let Stage::Dip(dip) = self.stage {
            return self.end_dip(now_ms, dip, &window);
        }
        let all = window.samples + window.drops;
        if all < LEAST {
            return;
        }
        if f64::from(window.drops) > f64::from(all) * OVERLOADED {
            self.no_growth_before = now_ms + HOLD_MS;
            let least = (self.usual / 4.0).min(self.limit);
            return self.set((self.limit * 0.9).max(least));
        }
        if window.samples < LEAST {
            return;
        }
        let mean = window.mean(now_ms);
        let base = *self.base.get_or_insert(mean.log);
        // As good as reached: it may have to come down, but has no reason to go up.
        let near = f64::from(window.most_in_flight) > self.limit * 0.75;
        if window.held || near {
            self.judge_full(now_ms, mean, base, &window);
        } else {
            self.follow(now_ms, &window, mean, base);
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
        if let Some(base) = &mut self.base {
            *base += slower * samples / (samples + 500.0);
        }
        self.recent = None;
        self.next_dip = self.next_dip.max(now_ms + DIP_EVERY_MS);
    }

    fn judge_full(&mut self, now_ms: u64, mean: Mean, base: f64, window: &Window) {
        let exact = window.samples >= ENOUGH_TO_COMPARE || mean.error > EXACT;
        let recent = match self.recent {
            Some(recent) => recent + (mean.log - recent) * 0.5,
            None => mean.log,
        };
        self.recent = Some(recent);
        let slower = mean.log - base;
        let faster = slower < -0.5 - mean.error;
        // Down is a matter of certainty, up is not.
        let over = slower - TOLERANCE.log2() - mean.error;
        let throughput = (mean.rate / self.throughput.unwrap_or(mean.rate)).log2();
        let lost = self.limit < self.usual * SUSPICIOUS;
        let floored = over > 0.0 && self.limit <= self.bounds.floor.into();
        let changed = window.held && (faster || throughput.abs() > CHANGED);
        let doubtful = lost || floored || changed;
        self.doubts = if doubtful { self.doubts + 1 } else { 0 };
        let grows = window.held && now_ms >= self.no_growth_before;
        let starting = self.stage == Stage::Starting;
        if starting && over <= 0.0 && !faster && self.verified {
            return if grows {
                self.set(self.limit * 2.0);
            };
        }
        let from = self.limit;
        self.clear = if slower <= NO_QUEUE {
            self.clear + 1
        } else {
            0
        };
        if starting && !self.verified {
            // Neither up nor down before it is known from where.
        } else if over > 0.0 {
            self.far = if slower > FAR { self.far + 1 } else { 0 };
            let most = if self.far > 1 { 0.5 } else { 0.15 };
            self.set(from * (-over).exp2().max(1.0 - most));
        } else if grows {
            let step = (from.sqrt() / 2.0).max(1.0) * f64::from(1 << self.clear.min(4));
            self.set(from + step.min(from / 2.0).max(1.0));
        }
        let suspicious = starting || self.doubts > 1;
        self.usual += (self.limit - self.usual) * 0.1;
        let due = suspicious && now_ms >= self.early_dip || now_ms >= self.next_dip;
        if due && exact {
            self.begin_dip(now_ms, from, mean, starting);
        }
    }

    fn begin_dip(&mut self, now_ms: u64, from: f64, reference: Mean, starting: bool) {
        self.verified = true;
        self.throughput = Some(reference.rate);
        self.doubts = 0;
        let dip = Dip {
            began: now_ms,
            from,
            above: from,
            reference,
            draining: true,
            starting,
            harmless: from,
        };
        if !self.descend(dip) {
            // Nowhere to go: what is seen here is as good as it gets.
            self.settle_base(reference.log);
            self.schedule(now_ms, now_ms);
            self.stage = Stage::Steady;
        }
    }

    /// To the next level down, if there is one.
    fn descend(&mut self, dip: Dip) -> bool {
        let low = (dip.above / 2.0).max(self.bounds.floor.into()).round();
        if low > dip.above * 0.8 {
            return false;
        }
        self.limit = low;
        self.stage = Stage::Dip(dip);
        true
    }

    fn end_dip(&mut self, now_ms: u64, dip: Dip, window: &Window) {
        let mean = window.mean(now_ms);
        if window.samples >= LEAST && window.is_saturated() {
            let (lost, whole) = (dip.reference.rate / mean.rate, dip.above / self.limit);
            let next = Dip {
                above: self.limit,
                reference: mean,
                draining: true,
                starting: false,
                harmless: self.limit,
                ..dip
            };
            if lost.log2() <= whole.log2() * LOST && self.descend(next) {
                return;
            }
        }
        self.recent = None;
        self.stage = Stage::Steady;
        let mut back = dip.from;
        if window.samples >= LEAST {
            let base = self.settle_base(mean.log);
            if dip.starting && dip.reference.log - base <= TOLERANCE.log2() {
                self.stage = Stage::Starting;
            }
            back = back.min(dip.harmless * TOLERANCE);
        }
        self.schedule(now_ms, dip.began);
        self.set(back);
        self.usual = self.limit;
    }

    /// What a dip has found: if it is what was known, doubts may wait longer for the next one.
    fn settle_base(&mut self, found: f64) -> f64 {
        let known = self.base.filter(|base| (base - found).abs() < 0.25);
        self.doubt_ms = match known {
            Some(_) => (self.doubt_ms * 2).min(DOUBT_MS.1),
            None => DOUBT_MS.0,
        };
        let base = known.map_or(found, |base| (base + found) / 2.0);
        self.base = Some(base);
        base
    }

    fn schedule(&mut self, now_ms: u64, began: u64) {
        let took = now_ms.saturating_sub(began);
        // A base that is new is asked for again before long.
        let unconfirmed = self.doubt_ms <= DOUBT_MS.0;
        let distance = if unconfirmed { 4 } else { 20 };
        self.early_dip = now_ms + self.doubt_ms.max(took * distance);
        self.next_dip = match unconfirmed {
            true => self.early_dip,
            false => now_ms + DIP_EVERY_MS.max(took * DIP_SHARE),
        };
    }

    fn set(&mut self, limit: f64) {
        let limit = limit.clamp(self.bounds.floor.into(), self.bounds.ceiling.into());
        if limit < self.limit * 0.9 || limit > self.limit * 1.3 {
            self.unsettled = limit as u32;
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
