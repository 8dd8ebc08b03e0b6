//! What the rewriting of one request head costs, in time and in allocations: target and Host
//! judged, hop-by-hop fields removed, forwarding fields and a request id set.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use evenkeel::message::{Known, Method, RequestHead, Version};
use evenkeel::proxy::forwarding::{self, Arrival, Introductions};
use evenkeel::proxy::{hop_by_hop, sanitise};
use evenkeel::util::random::Random;

/// As a browser sends them.
const TYPICAL: &[(&str, &str)] = &[
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Cache-Control", "no-cache"),
    ("Pragma", "no-cache"),
    ("Connection", "keep-alive"),
    (
        "Referer",
        "https://shop.example.org/catalogue?page=2&sort=price",
    ),
    (
        "Cookie",
        "session=4f9a1c77e0c94d1d9a2b7f3f6f1f2a90; theme=dark; consent=all",
    ),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Upgrade-Insecure-Requests", "1"),
];

fn head(fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(Method::Get, Version::Http11, b"/catalogue/items?page=3");
    head.fields.set(Known::Host, b"shop.example.org");
    for (name, value) in fields {
        head.fields.append_text(name, value.as_bytes());
    }
    head
}

fn rewrite(head: &mut RequestHead, introductions: &mut Introductions, random: &mut Random) {
    let judged = sanitise::sanitise(head).expect("the head is a good one");
    black_box(&judged);
    let requested = hop_by_hop::clean_request(&mut head.fields, head.version, &[]);
    black_box(&requested);
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let arrival = Arrival {
        source: client,
        trusted: false,
        client,
        scheme: "http",
        port: 8080,
        version: head.version,
        via: true,
    };
    let id = forwarding::set_forwarding(&mut head.fields, &arrival, introductions, random);
    black_box(&id);
}

fn benches(criterion: &mut Criterion) {
    let mut random = Random::seeded(7);
    let mut known = Introductions::default();
    for (name, fields) in [("small", &[][..]), ("typical", TYPICAL)] {
        let fresh = head(fields);
        let mut once = fresh.clone();
        let counted = allocation_counter::measure(|| rewrite(&mut once, &mut known, &mut random));
        println!("header_rewrite/{name}: {} allocations", counted.count_total);
        criterion.bench_function(&format!("header_rewrite/{name}"), |bencher| {
            bencher.iter_batched_ref(
                || fresh.clone(),
                |head| rewrite(head, &mut known, &mut random),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(group, benches);
criterion_main!(group);
