//! The proxy's machine is busy: its threads wait for a processor while the service works on, and
//! every latency that it measures is its own doing as well.
//!
//! `SEEDS=8 cargo test --lib noise::prints -- --ignored --nocapture` shows where the limit goes.

use super::*;

const NONE: Noise = Noise {
    every: 0.0,
    longest: 0,
    jitter: 0.0,
    gusts: 0,
    shared: false,
};
/// A third of the time, for up to 50 ms at once.
const BURSTS: Noise = Noise {
    every: 50e3,
    longest: 50_000,
    ..NONE
};
/// Half of the time, and each start and reading late besides.
const THICK: Noise = Noise {
    every: 25e3,
    longest: 50_000,
    jitter: 5e3,
    ..NONE
};

fn noises() -> [(&'static str, Noise); 9] {
    let gusts = |noise, seconds| Noise {
        gusts: seconds * SECOND,
        ..noise
    };
    [
        (
            "jitter",
            Noise {
                jitter: 3e3,
                ..NONE
            },
        ),
        ("bursts", BURSTS),
        ("thick", THICK),
        ("bursts in gusts", gusts(BURSTS, 3)),
        ("thick in short gusts", gusts(THICK, 1)),
        ("thick in gusts", gusts(THICK, 3)),
        ("thick in long gusts", gusts(THICK, 10)),
        (
            "the service suffers, too",
            Noise {
                shared: true,
                ..gusts(THICK, 3)
            },
        ),
        (
            "stalls of 200 ms",
            Noise {
                every: 60e3,
                longest: 200_000,
                ..gusts(NONE, 3)
            },
        ),
    ]
}

/// Services, by workers and milliseconds.
const SERVICES: [(usize, f64); 3] = [(8, 20.0), (16, 10.0), (4, 50.0)];

/// Of the limit that finds itself, of one that knows the knee, and of none, under the same noise.
struct Compared {
    adaptive: Outcome,
    knee: Outcome,
    unlimited: Outcome,
}

fn compare(
    seed: u64,
    (workers, ms): (usize, f64),
    clients: Option<usize>,
    noise: Noise,
) -> Compared {
    let run = |fixed_limit: Option<u32>| {
        let (mut simulation, _) = saturated(seed, workers, ms, fixed(ms));
        if let Some(clients) = clients {
            simulation = simulation.clients(clients);
        }
        if let Some(limit) = fixed_limit {
            simulation.bounds = Bounds {
                floor: limit,
                ceiling: limit,
            };
        }
        simulation.noisy(noise);
        simulation.run(5.0);
        simulation.run(20.0)
    };
    Compared {
        adaptive: run(None),
        knee: run(Some(workers as u32)),
        unlimited: run(Some(1_000)),
    }
}

#[test]
#[ignore = "it is for people: --ignored --nocapture"]
fn prints() {
    for (name, noise) in noises() {
        for service in SERVICES {
            for clients in [None, Some(36), Some(150)] {
                for seed in seeds() {
                    let them = compare(seed, service, clients, noise);
                    let clients = clients.map_or("open".into(), |count| format!("{count} ask"));
                    println!(
                        "{name:26} {:2} x {} ms, {clients:>9}: {:5.0}/s \
                         ({:5.0} at the knee, {:5.0} without) in {:5.1} ms, limit {} to {}, mean {:.1}",
                        service.0,
                        service.1,
                        them.adaptive.throughput(),
                        them.knee.throughput(),
                        them.unlimited.throughput(),
                        them.adaptive.mean_ms(),
                        them.adaptive.least,
                        them.adaptive.most,
                        them.adaptive.mean_limit(),
                    );
                }
            }
        }
    }
}

#[test]
fn a_busy_machine_does_not_take_the_limit_below_the_knee() {
    for seed in seeds() {
        for (name, noise) in noises() {
            for service in SERVICES {
                let them = compare(seed, service, Some(150), noise);
                let (got, knee) = (them.adaptive.throughput(), them.knee.throughput());
                let told = format!(
                    "{name}, {service:?}, seed {seed}: {got:.0} per second in {:.1} ms, {knee:.0} at \
                     the knee, limit {} to {}, {:.1} in the mean",
                    them.adaptive.mean_ms(),
                    them.adaptive.least,
                    them.adaptive.most,
                    them.adaptive.mean_limit(),
                );
                assert!(got >= 0.85 * knee, "{told}");
                assert!(
                    them.adaptive.mean_limit() >= 0.9 * service.0 as f64,
                    "{told}"
                );
                assert!(
                    them.adaptive.mean_ms() < them.unlimited.mean_ms() * 0.67,
                    "the queue is in the service: {told}"
                );
            }
        }
    }
}

#[test]
fn when_the_machine_is_quiet_again_the_limit_is_near_the_knee() {
    for seed in seeds() {
        for (workers, ms) in SERVICES {
            let (mut simulation, capacity) = saturated(seed, workers, ms, fixed(ms));
            simulation.run(10.0);
            simulation.noisy(THICK);
            simulation.run(15.0);
            simulation.noisy(NONE);
            simulation.run(25.0);
            near_the_knee(&simulation.run(20.0), capacity, ms);
        }
    }
}
