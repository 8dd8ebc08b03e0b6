//! Services that do not exist, under requests that nobody sent: does the limit find the knee?
//!
//! `cargo test --lib simulation::prints -- --ignored --nocapture` shows the way there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::{Bounds, Concurrency, Seen};

const SECOND: u64 = 1_000_000;
const MS: u64 = 1_000;

/// What one request asks of the service.
#[derive(Debug, Clone, Copy)]
struct Work {
    micros: u64,
    /// Done by a worker; a long poll only waits, a fast error is refused at the door.
    busy: bool,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Answer,
    Error,
    Overload,
}

fn work(micros: f64) -> Work {
    Work {
        micros: micros as u64,
        busy: true,
        end: End::Answer,
    }
}

fn exponential(random: &mut fastrand::Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Ends(usize),
    Looks,
}

struct Request {
    work: Work,
    admitted: u64,
    counts: bool,
}

/// A service with so many workers behind an adaptive limit and a queue of one second.
struct Simulation {
    now: u64,
    random: fastrand::Rng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    limit: Concurrency,
    requests: Vec<Request>,
    in_flight: usize,
    /// Those that count, and when each was admitted.
    counted: u32,
    admissions: VecDeque<usize>,
    waiting: VecDeque<u64>,
    /// In the service.
    workers: usize,
    busy: usize,
    line: VecDeque<usize>,
    paused_until: u64,
    /// The service refuses what is over so many.
    refuses_over: usize,
    seen: Seen,
    next: Box<dyn FnMut(&mut fastrand::Rng) -> Work>,
    /// Per second.
    rate: f64,
    /// Clients ask again when they are answered; nobody else comes.
    closed: bool,
    bounds: Bounds,
    prints: bool,
}

/// Of a span.
#[derive(Debug, Default)]
struct Outcome {
    answered: u64,
    /// Of the answered, in the service.
    micros: Vec<u64>,
    /// Least limit, and its mean over time.
    least: u32,
    most: u32,
    seconds: f64,
}

impl Outcome {
    fn throughput(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    fn mean_ms(&self) -> f64 {
        self.micros.iter().sum::<u64>() as f64 / self.micros.len().max(1) as f64 / 1e3
    }

    fn p99_ms(&mut self) -> f64 {
        self.micros.sort_unstable();
        let at = self.micros.len() * 99 / 100;
        self.micros.get(at).copied().unwrap_or(0) as f64 / 1e3
    }
}

impl Simulation {
    fn new(
        seed: u64,
        workers: usize,
        rate: f64,
        next: impl FnMut(&mut fastrand::Rng) -> Work + 'static,
    ) -> Self {
        let bounds = Bounds::of(1, 10_000);
        let mut simulation = Simulation {
            now: 0,
            random: fastrand::Rng::with_seed(seed),
            events: BinaryHeap::new(),
            serial: 0,
            limit: Concurrency::new(bounds, 0),
            requests: Vec::new(),
            in_flight: 0,
            counted: 0,
            admissions: VecDeque::new(),
            waiting: VecDeque::new(),
            workers,
            busy: 0,
            line: VecDeque::new(),
            paused_until: 0,
            refuses_over: usize::MAX,
            seen: Seen::default(),
            next: Box::new(next),
            rate,
            closed: false,
            bounds,
            prints: false,
        };
        simulation.at(0, Event::Looks);
        simulation.at(0, Event::Arrives);
        simulation
    }

    fn at(&mut self, when: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((when, self.serial, event)));
    }

    /// Requests that linger count no more.
    fn counted(&mut self) -> u32 {
        let before = self
            .now
            .saturating_sub(self.limit.lingers_ms() * MS * 3 / 2);
        while let Some(&id) = self.admissions.front() {
            let request = &mut self.requests[id];
            if request.counts && request.admitted >= before {
                break;
            }
            if std::mem::take(&mut request.counts) {
                self.counted -= 1;
            }
            self.admissions.pop_front();
        }
        self.counted
    }

    fn run(&mut self, seconds: f64) -> Outcome {
        let end = self.now + (seconds * SECOND as f64) as u64;
        let mut outcome = Outcome {
            least: u32::MAX,
            seconds,
            ..Outcome::default()
        };
        let mut tell = self.now;
        while let Some(&Reverse((when, _, event))) = self.events.peek() {
            if when > end {
                break;
            }
            self.events.pop();
            self.now = when;
            match event {
                Event::Arrives => self.arrives(),
                Event::Ends(id) => self.ends(id, &mut outcome),
                Event::Looks => {
                    self.looks();
                    outcome.least = outcome.least.min(self.limit.limit());
                    outcome.most = outcome.most.max(self.limit.limit());
                }
            }
            self.admit();
            if self.prints && self.now >= tell {
                tell += SECOND / 4;
                println!(
                    "{:7.2} s  limit {:4}  in flight {:4}  waiting {:4}  base {:6.2} ms",
                    self.now as f64 / 1e6,
                    self.limit.limit(),
                    self.in_flight,
                    self.waiting.len(),
                    self.limit.base_seconds().unwrap_or(0.0) * 1e3,
                );
            }
        }
        self.now = end;
        outcome
    }

    /// So many clients that ask as soon as they are answered.
    fn clients(mut self, count: usize) -> Self {
        self.closed = true;
        self.waiting = std::iter::repeat_n(0, count).collect();
        self
    }

    fn arrives(&mut self) {
        if self.closed {
            return;
        }
        let wait = exponential(&mut self.random, 1e6 / self.rate);
        self.at(self.now + wait as u64 + 1, Event::Arrives);
        if self.waiting.len() < 1_024 {
            self.waiting.push_back(self.now);
        }
    }

    fn admit(&mut self) {
        while let Some(&since) = self.waiting.front() {
            if since + SECOND < self.now && !self.closed {
                self.waiting.pop_front();
                continue;
            }
            if self.counted() >= self.limit.limit() {
                self.seen.held = true;
                return;
            }
            self.waiting.pop_front();
            let work = (self.next)(&mut self.random);
            let id = self.requests.len();
            self.requests.push(Request {
                work,
                admitted: self.now,
                counts: true,
            });
            self.in_flight += 1;
            self.counted += 1;
            self.admissions.push_back(id);
            self.enter(id);
        }
    }

    fn enter(&mut self, id: usize) {
        if self.line.len() + self.busy >= self.refuses_over {
            self.requests[id].work = Work {
                micros: 300,
                busy: false,
                end: End::Overload,
            };
        }
        if self.requests[id].work.busy {
            self.line.push_back(id);
            self.serve();
        } else {
            let micros = self.requests[id].work.micros;
            self.at(self.now + micros, Event::Ends(id));
        }
    }

    fn serve(&mut self) {
        while self.busy < self.workers {
            let Some(id) = self.line.pop_front() else {
                return;
            };
            self.busy += 1;
            let begins = self.now.max(self.paused_until);
            self.at(begins + self.requests[id].work.micros, Event::Ends(id));
        }
    }

    fn ends(&mut self, id: usize, outcome: &mut Outcome) {
        // A pause stops what is under way, too.
        if self.now < self.paused_until {
            self.at(self.paused_until + 1, Event::Ends(id));
            return;
        }
        let request = &mut self.requests[id];
        let (work, admitted) = (request.work, request.admitted);
        if std::mem::take(&mut request.counts) {
            self.counted -= 1;
        }
        self.in_flight -= 1;
        if work.busy {
            self.busy -= 1;
            self.serve();
        }
        let took = (self.now - admitted).max(1);
        if self.closed {
            self.waiting.push_back(self.now);
        }
        match work.end {
            End::Overload => {
                self.seen.drops += 1;
            }
            End::Error => {
                let Some(base) = self.limit.base_seconds() else {
                    return;
                };
                self.sample((took as f64).max(base * 1e6));
            }
            End::Answer => {
                outcome.answered += 1;
                outcome.micros.push(took);
                self.sample(took as f64);
            }
        }
    }

    fn sample(&mut self, micros: f64) {
        let log = micros.log2();
        self.seen.samples += 1;
        self.seen.logs += log;
        self.seen.squares += log * log;
    }

    fn looks(&mut self) {
        let mut seen = std::mem::take(&mut self.seen);
        seen.in_flight = self.counted();
        self.limit.look(self.now / MS, seen, self.bounds);
        self.at(self.now + self.limit.pace() * MS, Event::Looks);
    }

    fn pause(&mut self, micros: u64) {
        self.paused_until = self.now + micros;
    }
}

/// Throughput of a share of the capacity, latency of a multiple of the service time.
#[track_caller]
fn near_the_knee(outcome: &Outcome, capacity: f64, unloaded_ms: f64) {
    assert!(
        outcome.throughput() >= 0.95 * capacity,
        "{:.0} of {capacity:.0} per second, limit {} to {}",
        outcome.throughput(),
        outcome.least,
        outcome.most
    );
    assert!(
        outcome.mean_ms() <= 2.0 * unloaded_ms,
        "{:.1} ms, {unloaded_ms:.1} ms unloaded, limit {} to {}",
        outcome.mean_ms(),
        outcome.least,
        outcome.most
    );
}

/// At three times the capacity.
fn saturated(
    seed: u64,
    workers: usize,
    mean_ms: f64,
    next: impl FnMut(&mut fastrand::Rng) -> Work + 'static,
) -> (Simulation, f64) {
    let capacity = workers as f64 * 1e3 / mean_ms;
    (
        Simulation::new(seed, workers, capacity * 3.0, next),
        capacity,
    )
}

#[test]
#[ignore = "it is for people: --ignored --nocapture"]
fn prints() {
    let table = |name: &str, mut simulation: Simulation, capacity: f64| {
        for span in [5.0, 30.0] {
            let mut outcome = simulation.run(span);
            println!(
                "{name:28} {span:4} s  {:5.1} % of capacity  mean {:7.1} ms  p99 {:7.1} ms  limit {:4} to {:4}, now {:4}",
                100.0 * outcome.throughput() / capacity,
                outcome.mean_ms(),
                outcome.p99_ms(),
                outcome.least,
                outcome.most,
                simulation.limit.limit(),
            );
        }
    };
    for (workers, ms) in [
        (1, 10.0),
        (4, 10.0),
        (16, 5.0),
        (16, 50.0),
        (100, 20.0),
        (400, 100.0),
        (8, 500.0),
    ] {
        let (simulation, capacity) = saturated(1, workers, ms, move |_| work(ms * 1e3));
        table(&format!("{workers} x {ms} ms, fixed"), simulation, capacity);
        let random = move |random: &mut fastrand::Rng| work(exponential(random, ms * 1e3));
        let (simulation, capacity) = saturated(2, workers, ms, random);
        table(
            &format!("{workers} x {ms} ms, exponential"),
            simulation,
            capacity,
        );
    }
}

fn random(mean_ms: f64) -> impl FnMut(&mut fastrand::Rng) -> Work {
    move |random| work(exponential(random, mean_ms * 1e3))
}

fn fixed(ms: f64) -> impl FnMut(&mut fastrand::Rng) -> Work {
    move |_| work(ms * 1e3)
}

/// More were tried: `SEEDS=100 cargo test --release` says which.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    0..count.unwrap_or(1)
}

#[test]
fn it_settles_near_the_knee() {
    for seed in seeds() {
        for (workers, ms) in [
            (1, 5.0),
            (4, 10.0),
            (16, 5.0),
            (16, 50.0),
            (100, 20.0),
            (300, 100.0),
        ] {
            // One worker: a place more is twice as much.
            let allowed = if workers == 1 { ms * 1.4 } else { ms };
            let (mut simulation, capacity) = saturated(seed, workers, ms, fixed(ms));
            simulation.run(10.0);
            near_the_knee(&simulation.run(30.0), capacity, allowed);
            let (mut simulation, capacity) = saturated(seed, workers, ms, random(ms));
            simulation.run(10.0);
            near_the_knee(&simulation.run(30.0), capacity, allowed);
        }
    }
}

#[test]
fn it_recovers_upward_when_the_capacity_grows_and_downward_when_it_falls() {
    for seed in seeds() {
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, random(10.0));
        simulation.rate *= 4.0;
        simulation.run(20.0);
        simulation.workers = 64;
        simulation.run(5.0);
        near_the_knee(&simulation.run(20.0), capacity * 4.0, 10.0);
        simulation.workers = 8;
        simulation.run(10.0);
        near_the_knee(&simulation.run(20.0), capacity / 2.0, 10.0);
    }
}

#[test]
fn it_follows_a_service_that_becomes_slower_or_faster_for_good() {
    for seed in seeds() {
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, random(10.0));
        simulation.run(20.0);
        simulation.next = Box::new(random(40.0));
        simulation.run(10.0);
        near_the_knee(&simulation.run(20.0), capacity / 4.2, 40.0);
        simulation.next = Box::new(random(10.0));
        simulation.run(20.0);
        near_the_knee(&simulation.run(20.0), capacity, 10.0);
    }
}

#[test]
fn a_pause_costs_no_more_than_the_pause() {
    for seed in seeds() {
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, random(10.0));
        simulation.run(20.0);
        let mut answered = 0;
        for _ in 0..5 {
            simulation.pause(SECOND / 2);
            let outcome = simulation.run(4.0);
            answered += outcome.answered;
        }
        let possible = capacity * 20.0 * 3.5 / 4.0;
        assert!(
            answered as f64 > possible * 0.9,
            "{answered} of {possible:.0} answered around five pauses"
        );
    }
}

#[test]
fn one_slow_endpoint_takes_nothing_from_the_others() {
    for seed in seeds() {
        // One in twenty takes a hundred times as long, without work: it waits for another service.
        let next = |random: &mut fastrand::Rng| match random.u8(0..20) {
            0 => Work {
                busy: false,
                ..work(1e6)
            },
            _ => work(exponential(random, 1e4)),
        };
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, next);
        simulation.run(20.0);
        let outcome = simulation.run(20.0);
        assert!(
            outcome.throughput() > 0.6 * capacity,
            "{:.0} of {capacity:.0} per second, limit {} to {}",
            outcome.throughput(),
            outcome.least,
            outcome.most
        );
    }
}

#[test]
fn fast_and_slow_requests_share_one_limit() {
    for seed in seeds() {
        let next = |random: &mut fastrand::Rng| match random.bool() {
            true => work(exponential(random, 2e3)),
            false => work(exponential(random, 38e3)),
        };
        let (mut simulation, capacity) = saturated(seed, 16, 20.0, next);
        simulation.run(20.0);
        near_the_knee(&simulation.run(30.0), capacity * 0.95, 20.0);
    }
}

#[test]
fn long_polls_do_not_starve_the_rest() {
    for seed in seeds() {
        let next = |random: &mut fastrand::Rng| match random.u16(0..200) {
            0 => Work {
                busy: false,
                ..work(20e6)
            },
            _ => work(exponential(random, 1e4)),
        };
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, next);
        simulation.run(20.0);
        let outcome = simulation.run(40.0);
        assert!(
            outcome.throughput() > 0.6 * capacity,
            "{:.0} of {capacity:.0} per second, limit {} to {}",
            outcome.throughput(),
            outcome.least,
            outcome.most
        );
    }
}

#[test]
fn fast_errors_do_not_make_the_others_look_slow() {
    for seed in seeds() {
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, random(10.0));
        simulation.run(20.0);
        // Half of the requests fail at once: their places are free again at once, too.
        simulation.next = Box::new(|random| match random.bool() {
            true => Work {
                micros: 100,
                busy: false,
                end: End::Error,
            },
            false => work(exponential(random, 1e4)),
        });
        simulation.rate *= 2.0;
        simulation.run(10.0);
        let outcome = simulation.run(20.0);
        near_the_knee(&outcome, capacity, 10.0);
        simulation.next = Box::new(random(10.0));
        simulation.run(3.0);
        near_the_knee(&simulation.run(20.0), capacity, 10.0);
    }
}

#[test]
fn refusals_keep_the_limit_near_what_the_service_takes() {
    for seed in seeds() {
        let (mut simulation, capacity) = saturated(seed, 16, 10.0, random(10.0));
        simulation.refuses_over = 20;
        simulation.run(10.0);
        let outcome = simulation.run(20.0);
        near_the_knee(&outcome, capacity, 10.0);
    }
}

#[test]
fn what_is_not_used_does_not_grow() {
    for seed in seeds() {
        let mut simulation = Simulation::new(seed, 100, 1_000.0, random(5.0));
        let outcome = simulation.run(60.0);
        assert!(
            outcome.most <= 20,
            "five at once need no more than the start"
        );
        assert!(outcome.throughput() > 950.0);
    }
}

#[test]
fn a_load_below_the_capacity_is_served_whole() {
    for seed in seeds() {
        let mut simulation = Simulation::new(seed, 16, 1_280.0, random(10.0));
        simulation.run(5.0);
        let outcome = simulation.run(60.0);
        assert!(
            outcome.throughput() > 1_260.0,
            "{:.0} per second of 1280, limit {} to {}",
            outcome.throughput(),
            outcome.least,
            outcome.most
        );
    }
}

#[test]
fn clients_that_wait_for_their_answers_do_not_hide_an_overload() {
    for seed in seeds() {
        for clients in [30, 36, 60] {
            let mut simulation = Simulation::new(seed, 4, 1.0, random(20.0)).clients(clients);
            simulation.run(60.0);
            near_the_knee(&simulation.run(20.0), 190.0, 20.0);
        }
    }
}
