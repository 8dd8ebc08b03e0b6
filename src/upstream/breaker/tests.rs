use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use proptest::prelude::*;

use super::*;
use crate::config::model::Slow;
use crate::util::random::Random;
use crate::util::units::Percent;
use crate::util::window::Span;

const QUICK: Duration = Duration::from_millis(1);

fn percent(value: f64) -> Percent {
    Percent::from_fraction(value / 100.0)
}

fn settings() -> Settings {
    Settings {
        mode: BreakerMode::On,
        consecutive_failures: 5,
        failure_ratio: Some(percent(50.0)),
        min_requests: 20,
        window: Duration::from_secs(10),
        slow: None,
        open: Duration::from_secs(10),
        max_open: Duration::from_secs(300),
        probes: 3,
        max_ejected: percent(50.0),
        failure_grpc: Default::default(),
        failure_status: Vec::new(),
    }
}

/// A breaker with its surroundings, and a clock that a test moves.
struct Bench {
    breaker: Breaker,
    settings: Settings,
    places: Places,
    now_ms: u64,
}

impl Bench {
    fn new(settings: Settings) -> Bench {
        Bench {
            breaker: Breaker::new(1),
            settings,
            places: Places::new(1),
            now_ms: 1_000,
        }
    }

    fn admit(&self) -> Option<Ticket> {
        self.breaker.admit(&self.settings)
    }

    fn success(&self, ticket: &mut Ticket) -> Option<Transition> {
        self.answer(ticket, QUICK)
    }

    fn answer(&self, ticket: &mut Ticket, latency: Duration) -> Option<Transition> {
        self.breaker
            .report_success(ticket, latency, self.now_ms, &self.settings, &self.places)
    }

    fn failure(&self, ticket: &mut Ticket) -> Option<Transition> {
        self.breaker
            .report_failure(ticket, self.now_ms, &self.settings, &self.places)
    }

    fn tick(&self) -> Option<Transition> {
        self.breaker.tick(self.now_ms, &self.settings, &self.places)
    }

    fn state(&self) -> State {
        self.breaker.state(&self.settings)
    }

    fn run(&self, epoch: u32) -> u32 {
        let at = At {
            now_ms: self.now_ms,
            span: Span::of(self.settings.window),
            epoch,
        };
        self.breaker.counts.seen(at).0
    }

    fn fail(&self) -> Option<Transition> {
        let mut ticket = self.admit().expect("a closed breaker admits");
        let transition = self.failure(&mut ticket);
        self.breaker.release(ticket);
        transition
    }

    fn succeed(&self) -> Option<Transition> {
        let mut ticket = self.admit().expect("a closed breaker admits");
        let transition = self.success(&mut ticket);
        self.breaker.release(ticket);
        transition
    }

    fn trip(&self) {
        for _ in 0..self.settings.consecutive_failures {
            self.fail();
        }
        assert_eq!(self.state(), State::Open);
    }

    fn half_open(&mut self) {
        self.now_ms = self
            .breaker
            .half_open_at(&self.settings, self.now_ms)
            .expect("it is open");
        assert_eq!(self.tick(), Some(Transition::HalfOpened));
    }
}

fn opened(cause: Cause) -> impl Fn(Option<Transition>) -> bool {
    move |transition| matches!(transition, Some(Transition::Opened { cause: c, .. }) if c == cause)
}

fn within_a_tenth(open_for: Duration, seconds: u64) -> bool {
    let exact = Duration::from_secs(seconds);
    open_for >= exact.mul_f64(0.9) && open_for <= exact.mul_f64(1.1)
}

#[test]
fn consecutive_failures_open_it() {
    let bench = Bench::new(settings());
    for _ in 0..4 {
        assert_eq!(bench.fail(), None);
    }
    assert!(opened(Cause::ConsecutiveFailures)(bench.fail()));
    assert!(bench.admit().is_none(), "an open breaker must refuse");
    assert!(!bench.breaker.would_admit(&bench.settings));
    assert_eq!(bench.places.taken(), 1);
}

#[test]
fn a_success_ends_the_run() {
    let bench = Bench::new(settings());
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(bench.fail(), None);
        }
        assert_eq!(bench.succeed(), None);
    }
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn the_failure_ratio_opens_at_its_value_once_the_volume_is_there() {
    let bench = Bench::new(settings());
    for _ in 0..9 {
        assert_eq!(bench.fail(), None);
        assert_eq!(bench.succeed(), None);
    }
    assert_eq!(bench.fail(), None, "19 requests are under the minimum");
    assert!(
        opened(Cause::FailureRatio)(bench.succeed()),
        "10 of 20 is half"
    );
}

#[test]
fn failures_under_the_ratio_never_open_it() {
    let bench = Bench::new(settings());
    for _ in 0..50 {
        assert_eq!(bench.succeed(), None);
        assert_eq!(bench.succeed(), None);
        assert_eq!(bench.fail(), None);
    }
}

#[test]
fn failures_leave_the_window() {
    let mut bench = Bench::new(Settings {
        consecutive_failures: 0,
        ..settings()
    });
    for _ in 0..19 {
        assert_eq!(bench.fail(), None);
    }
    bench.now_ms += 11_000;
    assert_eq!(bench.fail(), None);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn the_slow_ratio_opens_at_its_value() {
    let slow = Slow {
        threshold: Duration::from_secs(1),
        ratio: percent(25.0),
    };
    let bench = Bench::new(Settings {
        slow: Some(slow),
        ..settings()
    });
    for _ in 0..15 {
        assert_eq!(bench.succeed(), None);
    }
    for number in 1..=5 {
        let mut ticket = bench.admit().unwrap();
        let transition = bench.answer(&mut ticket, Duration::from_secs(1));
        assert_eq!(
            opened(Cause::SlowRatio)(transition),
            number == 5,
            "slow answer {number}"
        );
        bench.breaker.release(ticket);
    }
}

#[test]
fn a_body_that_fails_takes_its_success_back() {
    let bench = Bench::new(settings());
    for _ in 0..4 {
        bench.fail();
    }
    let mut ticket = bench.admit().unwrap();
    assert_eq!(bench.success(&mut ticket), None);
    assert!(
        opened(Cause::ConsecutiveFailures)(bench.failure(&mut ticket)),
        "the run goes on from four"
    );
}

#[test]
fn a_body_that_fails_is_counted_once_in_the_window() {
    let never = Settings {
        consecutive_failures: 0,
        failure_ratio: None,
        ..settings()
    };
    let mut bench = Bench::new(never);
    let at = |bench: &Bench| At {
        now_ms: bench.now_ms,
        span: Span::of(bench.settings.window),
        epoch: 0,
    };
    let mut ticket = bench.admit().unwrap();
    bench.success(&mut ticket);
    bench.failure(&mut ticket);
    bench.failure(&mut ticket);
    assert_eq!(bench.breaker.counts.seen(at(&bench)).1, [1, 1, 0]);

    let mut long = bench.admit().unwrap();
    bench.success(&mut long);
    bench.now_ms += 60_000;
    bench.failure(&mut long);
    assert_eq!(
        bench.breaker.counts.seen(at(&bench)).1,
        [1, 1, 0],
        "it is a request of now"
    );
}

#[test]
fn a_later_success_keeps_the_run_ended() {
    let bench = Bench::new(settings());
    for _ in 0..4 {
        bench.fail();
    }
    let mut download = bench.admit().unwrap();
    bench.success(&mut download);
    bench.succeed();
    assert_eq!(
        bench.failure(&mut download),
        None,
        "four failures were long ago"
    );
    assert_eq!(bench.run(0), 1);
}

#[test]
fn bodies_that_fail_in_a_row_open_it() {
    let bench = Bench::new(settings());
    for number in 1..=5 {
        let mut ticket = bench.admit().unwrap();
        assert_eq!(bench.success(&mut ticket), None);
        let transition = bench.failure(&mut ticket);
        assert_eq!(opened(Cause::ConsecutiveFailures)(transition), number == 5);
    }
}

#[test]
fn it_half_opens_when_its_time_is_over_and_closes_after_the_probes() {
    let mut bench = Bench::new(settings());
    bench.trip();
    assert_eq!(bench.tick(), None);
    let at = bench
        .breaker
        .half_open_at(&bench.settings, bench.now_ms)
        .unwrap();
    assert!(within_a_tenth(Duration::from_millis(at - bench.now_ms), 10));
    bench.now_ms = at - 1;
    assert_eq!(bench.tick(), None, "a probe must not come early");
    bench.half_open();
    assert_eq!(bench.state(), State::HalfOpen);

    let mut probes: Vec<Ticket> = (0..3).map(|_| bench.admit().unwrap()).collect();
    assert!(bench.admit().is_none(), "only three probes at once");
    assert_eq!(bench.success(&mut probes[0]), None);
    assert_eq!(bench.success(&mut probes[1]), None);
    assert_eq!(bench.success(&mut probes[2]), Some(Transition::Closed));
    assert_eq!(bench.places.taken(), 0, "its place is free again");
    assert_eq!(bench.tick(), None);
}

#[test]
fn a_failed_probe_opens_it_for_twice_as_long_up_to_the_cap() {
    let mut bench = Bench::new(settings());
    bench.trip();
    for (trips, seconds) in [(2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300)] {
        bench.half_open();
        let mut probe = bench.admit().unwrap();
        let Some(Transition::Reopened {
            trips: got,
            open_for,
        }) = bench.failure(&mut probe)
        else {
            panic!("a failed probe must open it again");
        };
        assert_eq!(got, trips);
        assert!(
            within_a_tenth(open_for, seconds),
            "{open_for:?} for trip {trips}"
        );
        assert_eq!(bench.places.taken(), 1, "it keeps its one place");
    }
}

#[test]
fn closing_ends_the_row_of_trips() {
    let mut bench = Bench::new(settings());
    bench.trip();
    bench.half_open();
    let mut probe = bench.admit().unwrap();
    bench.failure(&mut probe);
    bench.half_open();
    for _ in 0..3 {
        bench.succeed();
    }
    assert_eq!(bench.state(), State::Closed);
    for _ in 0..4 {
        assert_eq!(bench.fail(), None, "old failures are forgotten");
    }
    let Some(Transition::Opened { open_for, .. }) = bench.fail() else {
        panic!("five failures must open it");
    };
    assert!(within_a_tenth(open_for, 10));
}

#[test]
fn a_success_whose_body_fails_half_open_opens_it_again() {
    let mut bench = Bench::new(settings());
    bench.trip();
    bench.half_open();
    let mut probe = bench.admit().unwrap();
    assert_eq!(bench.success(&mut probe), None);
    assert!(matches!(
        bench.failure(&mut probe),
        Some(Transition::Reopened { trips: 2, .. })
    ));
}

#[test]
fn a_probe_whose_body_fails_after_closing_counts_as_one_failure() {
    let mut bench = Bench::new(settings());
    bench.trip();
    bench.half_open();
    let mut probe = bench.admit().unwrap();
    bench.success(&mut probe);
    bench.succeed();
    assert_eq!(bench.succeed(), Some(Transition::Closed));
    assert_eq!(bench.failure(&mut probe), None);
    let at = At {
        now_ms: bench.now_ms,
        span: Span::of(bench.settings.window),
        epoch: 1,
    };
    assert_eq!(bench.breaker.counts.seen(at).1, [1, 1, 0]);
    assert!(!bench.breaker.release(probe), "no probe is left to free");
}

#[test]
fn a_straggler_changes_nothing() {
    let mut bench = Bench::new(settings());
    let mut stragglers: Vec<Ticket> = (0..12).map(|_| bench.admit().unwrap()).collect();
    let mut answered = bench.admit().unwrap();
    bench.success(&mut answered);
    bench.trip();
    let open = bench.breaker.load();
    assert_eq!(bench.failure(&mut stragglers[0]), None);
    assert_eq!(bench.success(&mut stragglers[1]), None);
    assert_eq!(bench.breaker.load(), open);

    bench.half_open();
    let half_open = bench.breaker.load();
    for straggler in &mut stragglers[2..6] {
        assert_eq!(bench.success(straggler), None, "only probes close it");
    }
    assert_eq!(
        bench.failure(&mut stragglers[6]),
        None,
        "only probes open it"
    );
    assert_eq!(bench.failure(&mut answered), None);
    assert!(!bench.breaker.release(stragglers.pop().unwrap()));
    assert_eq!(bench.breaker.load(), half_open);

    for _ in 0..3 {
        bench.succeed();
    }
    for straggler in &mut stragglers[7..] {
        assert_eq!(bench.failure(straggler), None);
    }
    assert_eq!(bench.run(1), 0);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_lease_without_an_outcome_frees_its_probe_and_counts_for_nothing() {
    let mut bench = Bench::new(settings());
    bench.trip();
    bench.half_open();
    for _ in 0..10 {
        let probes: Vec<Ticket> = (0..3).map(|_| bench.admit().unwrap()).collect();
        for probe in probes {
            assert!(bench.breaker.release(probe));
        }
    }
    assert_eq!(bench.state(), State::HalfOpen);
}

#[test]
fn without_a_place_nothing_changes_and_the_next_failure_tries_again() {
    let bench = Bench::new(settings());
    assert!(bench.places.claim());
    for _ in 0..4 {
        bench.fail();
    }
    assert_eq!(
        bench.fail(),
        Some(Transition::Withheld {
            cause: Cause::ConsecutiveFailures
        })
    );
    assert_eq!(bench.fail(), None, "reported once");
    assert_eq!(bench.state(), State::Closed);
    bench.places.give_back();
    assert!(opened(Cause::ConsecutiveFailures)(bench.fail()));
    assert_eq!(bench.places.taken(), 1);
}

#[test]
fn a_withheld_trip_is_reported_again_for_another_run() {
    let bench = Bench::new(Settings {
        failure_ratio: None,
        ..settings()
    });
    assert!(bench.places.claim());
    for _ in 0..2 {
        let reports = (0..8).filter(|_| bench.fail().is_some()).count();
        assert_eq!(reports, 1);
        bench.succeed();
    }
}

#[test]
fn a_server_that_is_not_counted_trips_without_a_place() {
    let bench = Bench::new(settings());
    assert!(bench.places.claim());
    bench.breaker.settle_place(false, &bench.places);
    bench.trip();
    assert_eq!(bench.places.taken(), 1);
    bench.breaker.settle_place(true, &bench.places);
    assert_eq!(
        bench.places.taken(),
        2,
        "it joined those that count while ejected"
    );
    bench.breaker.settle_place(false, &bench.places);
    bench.breaker.settle_place(false, &bench.places);
    assert_eq!(bench.places.taken(), 1, "it left them while ejected");
}

#[test]
fn watching_reports_once_per_run_and_refuses_nothing() {
    let settings = Settings {
        mode: BreakerMode::Watch,
        failure_ratio: None,
        ..settings()
    };
    let bench = Bench::new(settings);
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(bench.fail(), None);
        }
        let cause = Cause::ConsecutiveFailures;
        assert_eq!(bench.fail(), Some(Transition::WouldOpen { cause }));
        assert_eq!(bench.fail(), None);
        assert_eq!(bench.succeed(), None);
    }
    assert_eq!((bench.state(), bench.places.taken()), (State::Closed, 0));
}

#[test]
fn off_counts_nothing() {
    let bench = Bench::new(Settings {
        mode: BreakerMode::Off,
        ..settings()
    });
    for _ in 0..100 {
        assert_eq!(bench.fail(), None);
    }
    let at = At {
        now_ms: bench.now_ms,
        span: Span::of(bench.settings.window),
        epoch: 0,
    };
    assert_eq!(bench.breaker.counts.seen(at).1, [0, 0, 0]);
}

#[test]
fn switching_it_off_closes_an_open_one() {
    for mode in [BreakerMode::Off, BreakerMode::Watch] {
        let mut bench = Bench::new(settings());
        bench.trip();
        bench.settings.mode = mode;
        assert!(
            bench.breaker.would_admit(&bench.settings),
            "the new mode applies at once"
        );
        assert_eq!(bench.tick(), Some(Transition::Closed));
        assert_eq!(bench.places.taken(), 0);
        bench.settings.mode = BreakerMode::On;
        assert_eq!(bench.state(), State::Closed);
    }
}

#[test]
fn new_settings_apply_to_what_was_counted() {
    let mut bench = Bench::new(settings());
    for _ in 0..3 {
        bench.fail();
    }
    bench.settings.consecutive_failures = 4;
    assert!(opened(Cause::ConsecutiveFailures)(bench.fail()));
    bench.settings.open = Duration::from_secs(1);
    let at = bench
        .breaker
        .half_open_at(&bench.settings, bench.now_ms)
        .unwrap();
    assert!(within_a_tenth(Duration::from_millis(at - bench.now_ms), 1));
    bench.half_open();
    bench.succeed();
    bench.settings.probes = 1;
    assert_eq!(
        bench.tick(),
        Some(Transition::Closed),
        "one success is enough now"
    );
}

#[test]
fn servers_that_trip_together_are_not_probed_together() {
    let times: std::collections::HashSet<u64> = (0..20)
        .map(|salt| {
            let bench = Bench {
                breaker: Breaker::new(salt),
                ..Bench::new(settings())
            };
            bench.trip();
            bench
                .breaker
                .half_open_at(&bench.settings, bench.now_ms)
                .unwrap()
        })
        .collect();
    assert!(times.len() > 15, "{times:?}");
}

#[test]
fn racing_threads_never_have_more_than_the_probes_under_way() {
    let mut bench = Bench::new(Settings {
        probes: 4,
        ..settings()
    });
    bench.trip();
    bench.half_open();
    let (under_way, most, admitted) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    std::thread::scope(|scope| {
        for seed in 0..16 {
            let (bench, under_way, most, admitted) = (&bench, &under_way, &most, &admitted);
            scope.spawn(move || {
                let mut random = Random::seeded(seed);
                for _ in 0..3_000 {
                    // No probe is answered, or the race would be over.
                    let Some(ticket) = bench.admit() else {
                        continue;
                    };
                    most.fetch_max(under_way.fetch_add(1, SeqCst) + 1, SeqCst);
                    admitted.fetch_add(1, SeqCst);
                    if random.below(4) == 0 {
                        std::thread::yield_now();
                    }
                    under_way.fetch_sub(1, SeqCst);
                    assert!(bench.breaker.release(ticket));
                }
            });
        }
    });
    assert!(admitted.load(SeqCst) > 100);
    assert!(
        most.load(SeqCst) <= 4,
        "{} probes at once",
        most.load(SeqCst)
    );
}

#[test]
fn a_racing_trip_happens_once_and_leaks_no_place() {
    for round in 0..200 {
        let bench = Bench {
            breaker: Breaker::new(round),
            ..Bench::new(settings())
        };
        let trips: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..5)
                            .filter_map(|_| bench.admit())
                            .filter_map(|mut ticket| bench.failure(&mut ticket))
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!((trips, bench.places.taken()), (1, 1), "round {round}");
    }
}

#[test]
fn slots_never_leak_under_random_cancellation() {
    let quick = Settings {
        open: QUICK,
        max_open: QUICK,
        probes: 3,
        ..settings()
    };
    let mut bench = Bench::new(quick);
    let (clock, shared) = (AtomicU64::new(bench.now_ms), &bench);
    std::thread::scope(|scope| {
        for seed in 0..16 {
            let clock = &clock;
            scope.spawn(move || {
                let mut random = Random::seeded(seed);
                for _ in 0..2_000 {
                    let now_ms = clock.fetch_add(1, SeqCst);
                    let (settings, places) = (&shared.settings, &shared.places);
                    if seed == 0 {
                        shared.breaker.tick(now_ms, settings, places);
                    }
                    let Some(mut ticket) = shared.admit() else {
                        continue;
                    };
                    let breaker = &shared.breaker;
                    match random.below(6) {
                        0 => {}
                        1 | 2 => {
                            breaker.report_failure(&mut ticket, now_ms, settings, places);
                        }
                        choice => {
                            breaker.report_success(&mut ticket, QUICK, now_ms, settings, places);
                            if choice == 5 {
                                breaker.report_failure(&mut ticket, now_ms, settings, places);
                            }
                        }
                    }
                    breaker.release(ticket);
                }
            });
        }
    });
    bench.now_ms = clock.load(SeqCst);
    if bench.state() == State::Closed {
        assert_eq!(bench.places.taken(), 0, "a closed breaker holds no place");
        // The last outcomes may have been failures: it need not take a whole run.
        while bench.state() == State::Closed {
            bench.fail();
        }
    }
    assert_eq!(bench.places.taken(), 1);
    if bench.state() == State::Open {
        bench.half_open();
    }
    let probes: Vec<Ticket> = std::iter::from_fn(|| bench.admit()).collect();
    assert_eq!(probes.len(), 3, "every probe must be free again");
}

/// What SPEC section 5 says, for one thread and a window in which nothing expires.
#[derive(Debug)]
struct Model {
    state: State,
    epoch: u32,
    probes: usize,
    successes: usize,
    /// `Some(id)` a success, `None` a failure, in the order in which they were reported.
    outcomes: Vec<Option<usize>>,
    last_success: Option<usize>,
    total: usize,
    failures: usize,
}

struct Held {
    ticket: Ticket,
    id: usize,
    epoch: u32,
    probe: bool,
    succeeded: bool,
    /// Its success is in the window.
    in_window: bool,
    failed: bool,
}

impl Model {
    fn new() -> Model {
        Model {
            state: State::Closed,
            epoch: 0,
            probes: 0,
            successes: 0,
            outcomes: Vec::new(),
            last_success: None,
            total: 0,
            failures: 0,
        }
    }

    fn forget(&mut self) {
        (self.total, self.failures, self.last_success) = (0, 0, None);
        self.outcomes.clear();
    }

    fn open(&mut self) {
        (self.state, self.epoch) = (State::Open, self.epoch + 1);
        self.forget();
    }

    fn judge(&mut self, settings: &Settings) {
        let run = self
            .outcomes
            .iter()
            .rev()
            .take_while(|outcome| outcome.is_none())
            .count();
        let volume = self.total >= settings.min_requests as usize;
        let ratio = self.failures > 0 && self.failures * 2 >= self.total;
        if run >= settings.consecutive_failures as usize || (volume && ratio) {
            self.open();
        }
    }

    fn success(&mut self, held: &mut Held, settings: &Settings) {
        if held.succeeded || held.failed {
            return;
        }
        held.succeeded = true;
        if held.epoch != self.epoch {
            return;
        }
        match self.state {
            State::Closed => {
                held.in_window = true;
                self.total += 1;
                self.outcomes.push(Some(held.id));
                self.last_success = Some(held.id);
                self.judge(settings);
            }
            State::HalfOpen if held.probe => {
                self.successes += 1;
                if self.successes >= settings.probes as usize {
                    self.state = State::Closed;
                }
            }
            _ => {}
        }
    }

    fn failure(&mut self, held: &mut Held, settings: &Settings) {
        if std::mem::replace(&mut held.failed, true) || held.epoch != self.epoch {
            return;
        }
        match self.state {
            State::Closed => {
                if held.in_window && self.last_success == Some(held.id) {
                    self.outcomes.retain(|outcome| *outcome != Some(held.id));
                }
                self.total += usize::from(!held.in_window);
                self.failures += 1;
                self.outcomes.push(None);
                self.judge(settings);
            }
            State::HalfOpen if held.probe => self.open(),
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(steps in prop::collection::vec((0_u8..8, 0_usize..6), 1..300)) {
        let settings = Settings {
            window: Duration::from_secs(100_000),
            min_requests: 8,
            consecutive_failures: 4,
            ..settings()
        };
        let mut bench = Bench::new(settings.clone());
        let mut model = Model::new();
        let mut held: Vec<Held> = Vec::new();
        for (id, (step, which)) in steps.into_iter().enumerate() {
            let which = which.min(held.len().saturating_sub(1));
            match step {
                0 | 1 => {
                    let probe = model.state == State::HalfOpen;
                    let admits = match model.state {
                        State::Closed => true,
                        State::HalfOpen => model.probes < settings.probes as usize,
                        State::Open => false,
                    };
                    prop_assert_eq!(bench.breaker.would_admit(&settings), admits);
                    let ticket = bench.admit();
                    prop_assert_eq!(ticket.is_some(), admits);
                    if let Some(ticket) = ticket {
                        model.probes += usize::from(probe);
                        let epoch = model.epoch;
                        let (succeeded, in_window, failed) = (false, false, false);
                        held.push(Held { ticket, id, epoch, probe, succeeded, in_window, failed });
                    }
                }
                2 | 3 if !held.is_empty() => {
                    bench.success(&mut held[which].ticket);
                    model.success(&mut held[which], &settings);
                }
                4 | 5 if !held.is_empty() => {
                    bench.failure(&mut held[which].ticket);
                    model.failure(&mut held[which], &settings);
                }
                6 if !held.is_empty() => {
                    let gone = held.swap_remove(which);
                    let frees = gone.probe && gone.epoch == model.epoch
                        && model.state == State::HalfOpen;
                    model.probes -= usize::from(frees);
                    prop_assert_eq!(bench.breaker.release(gone.ticket), frees);
                }
                7 if model.state == State::Open => {
                    bench.half_open();
                    (model.state, model.probes, model.successes) = (State::HalfOpen, 0, 0);
                }
                _ => {}
            }
            prop_assert_eq!(bench.state(), model.state);
            prop_assert_eq!(bench.places.taken(), u32::from(model.state != State::Closed));
        }
    }
}

#[test]
fn who_is_vouched_for_since_its_trip_is_half_open_before_its_time() {
    let bench = Bench::new(settings());
    bench.trip();
    assert_eq!(bench.breaker.hurry(&bench.settings), None, "nobody vouched");
    let first = bench.breaker.opened().expect("it is open");
    assert!(bench.breaker.vouch(first));
    assert_eq!(
        bench.breaker.hurry(&bench.settings),
        Some(Transition::Hurried)
    );
    assert_eq!(bench.state(), State::HalfOpen);
    assert_eq!(bench.breaker.hurry(&bench.settings), None);
    assert!(!bench.breaker.vouch(first), "it is not open");

    let mut probe = bench.admit().expect("a probe");
    let reopened = bench.failure(&mut probe);
    bench.breaker.release(probe);
    let Some(Transition::Reopened { trips: 2, open_for }) = reopened else {
        panic!("trips in a row go on: {reopened:?}");
    };
    assert!(open_for > Duration::from_secs(15), "{open_for:?}");
    assert!(!bench.breaker.vouch(first), "that was another trip");
    assert_eq!(bench.breaker.hurry(&bench.settings), None);

    let second = bench.breaker.opened().expect("it is open");
    assert!(bench.breaker.vouch(second));
    for mode in [BreakerMode::Watch, BreakerMode::Off] {
        let mode = Settings { mode, ..settings() };
        assert_eq!(bench.breaker.hurry(&mode), None);
    }
    assert!(bench.breaker.hurry(&bench.settings).is_some());
    for left in (0..3).rev() {
        assert_eq!(bench.breaker.is_closing(), left < 2);
        let closed = bench.succeed();
        assert_eq!(closed.is_some(), left == 0, "as many successes as ever");
    }
    assert!(!bench.breaker.is_closing());
}

#[test]
fn a_withheld_trip_is_one_until_a_success() {
    let bench = Bench::new(Settings {
        failure_ratio: None,
        ..settings()
    });
    let withheld = || bench.breaker.is_withheld(bench.now_ms, &bench.settings);
    assert!(bench.places.claim());
    for failures in 1..=5 {
        assert!(!withheld());
        let transition = bench.fail();
        assert_eq!(transition.is_some(), failures == 5);
    }
    assert!(withheld());
    bench.succeed();
    assert!(!withheld());
}
