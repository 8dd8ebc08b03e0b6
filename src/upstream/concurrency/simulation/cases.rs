//! What the limit is expected to do.

use super::super::Stage;
use super::*;

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
fn a_service_that_begins_to_refuse_is_not_pushed_back_over_what_it_takes() {
    for seed in seeds() {
        let (mut simulation, capacity) = saturated(seed, 64, 10.0, random(10.0));
        simulation.run(20.0);
        (simulation.workers, simulation.refuses_over) = (8, 12);
        simulation.run(20.0);
        let outcome = simulation.run(20.0);
        assert!(
            outcome.most <= 24,
            "limit {} to {}",
            outcome.least,
            outcome.most
        );
        near_the_knee(&outcome, capacity / 8.0, 10.0);
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

/// Clocks that stand still, go back or miss a day, windows of nothing and of millions, bounds that
/// every look moves.
#[test]
fn whatever_is_seen_the_limit_stays_within_its_bounds_and_no_dip_goes_on_for_ever() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut now = 1_000_000;
        let mut limit = Concurrency::new(Bounds::of(1, 1), now);
        for _ in 0..300 {
            now = match random.u8(0..20) {
                0..10 => now + 20,
                10..15 => now,
                15..18 => now + 10_000,
                18 => now - 5,
                _ => now + 86_400_000,
            };
            let most = [0, 1, 7, 1_000, u64::MAX][random.usize(..5)];
            let bounds = Bounds::of(random.usize(..4), most);
            let mut count = || [0, 1, 8, 100, 1 << 24][random.usize(..5)];
            let (samples, drops) = (count(), count());
            let (log, spread) = (random.f64() * 20.0, random.f64());
            let seen = Seen {
                samples,
                logs: f64::from(samples) * log,
                squares: f64::from(samples) * (log * log + spread),
                drops,
                held: random.bool(),
                in_flight: random.u32(..2_000_000),
            };
            limit.look(now, seen, bounds);
            let allowed = bounds.floor..=bounds.ceiling;
            assert!(allowed.contains(&limit.limit()), "{limit:?}");
            if random.u8(..50) == 0 {
                let carried = limit.carried();
                limit.resume(carried, now);
            }
        }
        for _ in 0..2_000 {
            now += 100;
            limit.look(now, Seen::default(), Bounds::of(1, 1_000));
        }
        assert!(!matches!(limit.stage, Stage::Dip(_)), "{limit:?}");
    }
}
