//! What building the snapshot of 1,000 upstreams with three servers each costs: at the start, and
//! by a reload that changes nothing, one weight, or everything.

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

use evenkeel::config;
use evenkeel::config::model::Config;
use evenkeel::snapshot;
use evenkeel::telemetry::Metrics;
use evenkeel::upstream::Registry;

const UPSTREAMS: usize = 1_000;

/// The upstreams below `changed` have a weight of 2 where the others have 5.
fn configuration(changed: usize) -> Config {
    let mut text = "[[listener]]\naddress = \"127.0.0.1:8080\"\n".to_owned();
    for i in 0..UPSTREAMS {
        let weight = if i < changed { 2 } else { 5 };
        let (a, b) = (i / 250, i % 250);
        writeln!(
            text,
            "[upstream.service{i}]\nservers = {{ \"10.{a}.{b}.1:80\" = {weight}, \
             \"10.{a}.{b}.2:80\" = 3, \"10.{a}.{b}.3:80\" = 1 }}\n\
             [[route]]\nprefix = \"/service{i}\"\nupstream = \"service{i}\""
        )
        .expect("writing to a string cannot fail");
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("the file can be written");
    config::load(file.path(), &|_| None)
        .expect("the file is valid")
        .config
}

fn benches(criterion: &mut Criterion) {
    let metrics = Metrics::new(1);
    let before = configuration(0);
    criterion.bench_function("snapshot/start", |bencher| {
        bencher.iter(|| {
            let registry = Registry::new(&metrics);
            black_box(snapshot::build(before.clone(), None, &registry, &metrics))
        });
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let registry = Registry::new(&metrics);
    let live = snapshot::build(before.clone(), None, &registry, &metrics);
    registry.publish(&live.upstreams);
    for (name, changed) in [
        ("nothing", 0),
        ("one_weight", 1),
        ("all_weights", UPSTREAMS),
    ] {
        let after = configuration(changed);
        criterion.bench_function(&format!("snapshot/reload_{name}"), |bencher| {
            bencher.iter(|| {
                black_box(snapshot::build(
                    after.clone(),
                    Some(&live),
                    &registry,
                    &metrics,
                ))
            });
        });
    }
}

criterion_group!(group, benches);
criterion_main!(group);
