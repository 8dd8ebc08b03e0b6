//! What a look-up costs by number of routes, and what bringing a path into normal form costs.
//!
//! A tenth of the routes has a host, a tenth a regex, a tenth a condition; the rest is prefixes
//! below shared parents, as in front of microservices.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use evenkeel::config::model::{
    Condition, Expected, Forward, HostPattern, ListenerId, PathMatch, PathRegex, Place, Redirect,
    Route, Target, Template,
};
use evenkeel::config::routes;
use evenkeel::message::{Fields, Known, Method};
use evenkeel::router::{NoTrace, Query, Router, path};

const COUNTS: [usize; 3] = [10, 1_000, 10_000];

fn route(i: usize) -> Arc<Route> {
    let path = match i % 10 {
        1 => {
            let source = format!("/team{}/service{i}/[0-9]+/[a-z]+", i % 50);
            PathMatch::Regex(PathRegex {
                regex: regex::bytes::Regex::new(&format!("^(?:{source})$")).expect("a regex"),
                literal_prefix: routes::literal_prefix(&source),
                source,
            })
        }
        2 => PathMatch::Exact(format!("/team{}/service{i}/status", i % 50)),
        _ => PathMatch::Prefix(format!("/team{}/service{i}", i % 50)),
    };
    Arc::new(Route {
        name: format!("route-{i}").into(),
        origin: String::new(),
        listeners: Vec::new(),
        host: (i % 10 == 3).then(|| HostPattern::Exact(format!("host{i}.example.org"))),
        path,
        when: match i % 10 {
            4 => vec![Condition::Header("x-beta".to_owned(), Expected::Present)],
            _ => Vec::new(),
        },
        priority: 0,
        target: Target::Redirect(Redirect {
            status: 308,
            to: Place::Url(Template::default()),
        }),
        upgrades: Vec::new(),
        forward: Forward::Normalized,
        max_body: None,
        fallback: None,
        mirror: None,
        access: Default::default(),
        limit: None,
        path_change: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
    })
}

fn look_up(criterion: &mut Criterion) {
    let mut fields = Fields::new();
    fields.append(Known::Host, b"api.example.org");
    fields.append(Known::Accept, b"*/*");
    for (kind, suffix) in [("prefix", "/orders/17"), ("miss", "x")] {
        let mut group = criterion.benchmark_group(format!("route/{kind}"));
        for count in COUNTS {
            let routes: Vec<_> = (0..count).map(route).collect();
            let router = Router::from_routes(&routes);
            // Of the plain prefixes, a different one each time: caches are as cold as in traffic.
            let paths: Vec<String> = (0..count)
                .filter(|i| i % 10 > 4)
                .map(|i| format!("/team{}/service{i}{suffix}", i % 50))
                .collect();
            let mut next = 0;
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| {
                    next = (next + 7) % paths.len();
                    let query = Query {
                        listener: ListenerId(0),
                        host: Some(b"api.example.org"),
                        path: black_box(paths[next].as_bytes()),
                        query: None,
                        method: &Method::Get,
                        fields: &fields,
                    };
                    router.find(&query, &mut NoTrace)
                });
            });
        }
        group.finish();
    }
}

fn analysis(criterion: &mut Criterion) {
    let routes: Vec<_> = (0..10_000).map(route).collect();
    let mut group = criterion.benchmark_group("route");
    group.sample_size(10);
    group.bench_function("build/10000", |bencher| {
        bencher.iter(|| Router::from_routes(black_box(&routes)));
    });
    group.bench_function("conflicts/10000", |bencher| {
        bencher.iter(|| routes::conflicts(black_box(&routes), 1));
    });
    group.finish();
}

fn normalize(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normalize");
    for (name, raw) in [
        ("normal", "/team17/service17/orders/17"),
        ("escapes", "/team17/caf%C3%A9/orders%20of%20today"),
        ("rewritten", "/team17/./service17//orders/%31%37"),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| path::normalize(black_box(raw.as_bytes())).map(|path| path.len()));
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, analysis, normalize);
criterion_main!(benches);
