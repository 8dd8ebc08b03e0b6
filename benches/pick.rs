//! What a pick costs, per policy and number of servers, and what building an order or a table costs.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use evenkeel::balance::{Entry, Pick, Picker, Servers, Standing, Start, hash_key};
use evenkeel::config::model::{Balance, HashKey};
use evenkeel::util::random::Random;

const COUNTS: [usize; 3] = [3, 50, 500];

/// State as a worker finds it: one atomic per server.
struct Live(Vec<AtomicU32>);

impl Servers for Live {
    fn admits(&self, index: usize) -> bool {
        self.0[index].load(Ordering::Relaxed) < 1_024
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.0[index].load(Ordering::Relaxed)
    }

    fn latency(&self, index: usize) -> Option<f64> {
        Some(0.001 * (1 + index % 7) as f64)
    }
}

fn policies() -> [(&'static str, Balance); 6] {
    [
        ("random", Balance::Random),
        ("round-robin", Balance::RoundRobin),
        ("smooth-weighted", Balance::SmoothWeighted),
        ("least-requests", Balance::LeastRequests),
        ("peak-ewma", Balance::PeakEwma),
        ("hash", Balance::Hash(HashKey::ClientIp)),
    ]
}

fn entries(count: usize) -> Vec<Entry> {
    let entry = |number: usize| Entry {
        key: Arc::from(format!("10.0.{}.{}:9000", number / 256, number % 256)),
        weight: 1 + (number * 37 % 100) as u32,
        tenths: 10,
        backup: false,
        standing: Standing::InRotation,
    };
    (0..count).map(entry).collect()
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for (name, policy) in policies() {
        for count in COUNTS {
            let picker = Picker::build(&policy, &entries(count), Start::Beginning);
            let servers = Live(
                (0..count)
                    .map(|index| AtomicU32::new(index as u32 % 5))
                    .collect(),
            );
            let mut random = Random::seeded(1);
            let mut key = 0_u32;
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    key = key.wrapping_add(1);
                    let hash = (name == "hash").then(|| hash_key(&key.to_be_bytes()));
                    let pick = Pick {
                        servers: &servers,
                        first_attempt: true,
                        hash,
                    };
                    black_box(picker.pick(&pick, &mut random))
                });
            });
        }
    }
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.sample_size(20);
    for (name, policy) in policies() {
        for count in COUNTS {
            let entries = entries(count);
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| Picker::build(&policy, black_box(&entries), Start::Beginning));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick, build);
criterion_main!(benches);
