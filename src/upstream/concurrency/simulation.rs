//! Services that do not exist, under requests that nobody sent: does the limit find the knee?
//!
//! `cargo test --lib simulation::prints -- --ignored --nocapture` shows the way there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::{Bounds, Concurrency, Seen};

mod cases;
mod noise;
mod outcome;
mod weather;
mod work;

use outcome::{Outcome, near_the_knee};
use weather::{Noise, Weather};
use work::{End, Work, exponential, fixed, random, work};

const SECOND: u64 = 1_000_000;
const MS: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    /// Comes to the service.
    Enters(usize),
    /// Is done there.
    Ends(usize),
    /// The proxy sees it.
    Read(usize),
    Looks,
    /// The proxy's threads stand still, and go on.
    Stalls,
    Wakes,
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
    weather: Weather,
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
            weather: Weather::new(seed),
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
                Event::Enters(id) => self.enter(id),
                Event::Ends(id) => self.ends(id),
                Event::Read(id) => self.read(id, &mut outcome),
                Event::Stalls => self.stalls(),
                Event::Wakes => {}
                Event::Looks => {
                    self.looks();
                    outcome.least = outcome.least.min(self.limit.limit());
                    outcome.most = outcome.most.max(self.limit.limit());
                    let pace = self.limit.pace() as f64;
                    outcome.limits += f64::from(self.limit.limit()) * pace;
                    outcome.weights += pace;
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

    /// From now on.
    fn noisy(&mut self, noise: Noise) {
        if self.weather.becomes(noise) {
            self.at(self.now, Event::Stalls);
        }
    }

    fn stalls(&mut self) {
        let Some(next) = self.weather.stalls(self.now) else {
            return;
        };
        if self.weather.stalled_until > self.now {
            self.at(self.weather.stalled_until, Event::Wakes);
        }
        if self.weather.is_shared() {
            self.paused_until = self.weather.stalled_until;
        }
        self.at(next, Event::Stalls);
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
        if self.now < self.weather.stalled_until {
            return;
        }
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
            let enters = self.weather.gets_to(self.now, &mut self.random);
            if enters > self.now {
                self.at(enters, Event::Enters(id));
            } else {
                self.enter(id);
            }
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

    fn ends(&mut self, id: usize) {
        // A pause stops what is under way, too.
        if self.now < self.paused_until {
            self.at(self.paused_until + 1, Event::Ends(id));
            return;
        }
        if self.requests[id].work.busy {
            self.busy -= 1;
            self.serve();
        }
        let read = self.weather.gets_to(self.now, &mut self.random);
        self.at(read, Event::Read(id));
    }

    fn read(&mut self, id: usize, outcome: &mut Outcome) {
        if self.now < self.weather.stalled_until {
            self.at(self.weather.stalled_until, Event::Read(id));
            return;
        }
        let request = &mut self.requests[id];
        let (work, admitted) = (request.work, request.admitted);
        if std::mem::take(&mut request.counts) {
            self.counted -= 1;
        }
        self.in_flight -= 1;
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
        if self.now < self.weather.stalled_until {
            self.at(self.weather.stalled_until, Event::Looks);
            return;
        }
        let mut seen = std::mem::take(&mut self.seen);
        seen.in_flight = self.counted();
        self.limit.look(self.now / MS, seen, self.bounds);
        self.at(self.now + self.limit.pace() * MS, Event::Looks);
    }

    fn pause(&mut self, micros: u64) {
        self.paused_until = self.now + micros;
    }
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

/// More were tried: `SEEDS=100 cargo test --release` says which.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    0..count.unwrap_or(1)
}
