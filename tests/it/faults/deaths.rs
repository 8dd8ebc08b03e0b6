//! One of three servers killed, stopped or black-holed at any instant under load: clients that may
//! be answered by another one notice nothing, and soon not even the wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{ChildOrigin, Client, H2Origin, Origin, Proxy, Relay, eventually};

const CLIENTS: usize = 32;
/// Between two requests of one client: the load of a machine that has others to serve.
const PACE: Duration = Duration::from_millis(20);

/// Of a server that has died without a word: what a request to it costs until checks notice.
const FIRST_BYTE: Duration = Duration::from_secs(2);
/// Within this checks have noticed: two that fail, and the time between.
const NOTICED: Duration = Duration::from_millis(1750);
/// After that nobody waits for it any more. Far more than the answers take on a machine that has
/// others to serve, far less than waiting for the dead.
const NO_WAIT: Duration = Duration::from_millis(750);

/// Checks that notice, a first byte sooner than a client loses patience, retries. The times are so
/// long that a busy machine is not taken for a dead server.
fn config(addresses: &[SocketAddr], h2: bool) -> String {
    let servers: Vec<_> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
    let protocol = if h2 { "h2" } else { "http/1.1" };
    format!(
        "[upstream.app]\nservers = [{}]\nprotocol = \"{protocol}\"\nslow-start = \"1s\"\n\
         [upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n\
         timeout = \"500ms\"\nfall = 2\nrise = 2\n\
         [upstream.app.timeout]\nfirst-byte = \"{FIRST_BYTE:?}\"\n\
         [upstream.app.retry]\nattempts = 2\n\
         [upstream.app.breaker]\nopen = \"500ms\"\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        servers.join(", ")
    )
}

/// One finished request.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub at: Instant,
    pub took: Duration,
    target: String,
    /// What was wrong with it.
    pub wrong: Option<String>,
}

/// What all clients saw.
#[derive(Default)]
pub(super) struct Load {
    pub done: Mutex<Vec<Done>>,
    asked: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// One client on one connection for as long as it lasts, until the load is over.
    fn client(&self, proxy: SocketAddr, method: &str) {
        let mut client = Client::connect(proxy);
        while !self.over.load(Ordering::Relaxed) {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let target = format!("/{number}");
            let start = Instant::now();
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"
            );
            let answer = client
                .try_send(request)
                .and_then(|()| client.try_response());
            let wrong = match &answer {
                Ok(answer) if answer.status == 200 && answer.text() == "ok" => None,
                Ok(answer) => Some(format!("{} {}", answer.status, answer.text())),
                Err(error) => Some(error.to_string()),
            };
            let closed = answer.is_ok_and(|answer| answer.header("connection").is_some());
            if closed || wrong.is_some() {
                client = Client::connect(proxy);
            }
            let (at, took) = (Instant::now(), start.elapsed());
            let done = Done {
                at,
                took,
                target,
                wrong,
            };
            self.done.lock().expect("no panic").push(done);
            thread::sleep(PACE.saturating_sub(took));
        }
    }

    fn answered(&self) -> usize {
        let done = self.done.lock().expect("no panic");
        done.iter().filter(|done| done.wrong.is_none()).count()
    }

    fn wrong(&self) -> Vec<Done> {
        let done = self.done.lock().expect("no panic");
        done.iter()
            .filter(|done| done.wrong.is_some())
            .cloned()
            .collect()
    }

    /// The 99th percentile of what ended from `from` to `to`.
    fn p99(&self, from: Instant, to: Instant) -> Duration {
        let done = self.done.lock().expect("no panic");
        let within = done.iter().filter(|done| done.at >= from && done.at < to);
        let mut took: Vec<_> = within.map(|done| done.took).collect();
        took.sort_unstable();
        took.get(took.len() * 99 / 100)
            .or(took.last())
            .copied()
            .unwrap_or(Duration::MAX)
    }
}

/// `faults` happen while 32 clients ask with `method`.
pub(super) fn under_load(proxy: &Proxy, method: &str, faults: impl FnOnce(&Load)) -> Load {
    let load = Load::default();
    let address = proxy.address();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| load.client(address, method));
        }
        // Also when a fault is one too many, or nobody would hear of it.
        let _end = End(&load.over);
        eventually("the load is on", || load.answered() > 10 * CLIENTS);
        faults(&load);
    });
    load
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn three(h2: bool) -> (Vec<ChildOrigin>, Proxy) {
    let origins: Vec<_> = (0..3).map(|_| ChildOrigin::start(h2)).collect();
    let addresses: Vec<_> = origins.iter().map(ChildOrigin::address).collect();
    let proxy = Proxy::start(&config(&addresses, h2));
    all_are_healthy(&proxy);
    (origins, proxy)
}

fn all_are_healthy(proxy: &Proxy) {
    eventually("all three are in rotation", || {
        let status = proxy.app_status();
        let servers = status["servers"].as_array().expect("a list");
        servers.iter().all(|server| {
            server["health"]["verdict"] == "healthy" && server["breaker"]["state"] == "closed"
        })
    });
}

/// Waits for the moment that a fault may be in, at random.
fn any_instant() {
    thread::sleep(Duration::from_millis(fastrand::u64(0..150)));
}

pub(super) fn is_flawless(load: &Load, what: &str) {
    let wrong = load.wrong();
    assert!(
        wrong.is_empty(),
        "{what}: {} of {}: {:?}",
        wrong.len(),
        load.asked.load(Ordering::Relaxed),
        &wrong[..wrong.len().min(3)]
    );
}

#[test]
fn a_server_that_is_killed_costs_no_request() {
    for h2 in [false, true] {
        let (mut origins, proxy) = three(h2);
        let load = under_load(&proxy, "GET", |load| {
            for round in 0..10 {
                let origin = &mut origins[round % 3];
                any_instant();
                origin.kill();
                any_instant();
                origin.revive();
                all_are_healthy(&proxy);
                is_flawless(load, &format!("h2: {h2}, round {round}"));
            }
        });
        is_flawless(&load, &format!("h2: {h2}"));
    }
}

#[test]
fn a_server_that_stops_costs_no_request_and_soon_no_time() {
    for h2 in [false, true] {
        let (origins, proxy) = three(h2);
        let mut slow = Vec::new();
        let rounds = 4;
        let load = under_load(&proxy, "GET", |load| {
            for round in 0..rounds {
                let origin = &origins[round % 3];
                any_instant();
                origin.stop();
                let noticed = Instant::now() + NOTICED;
                thread::sleep(NOTICED + Duration::from_secs(1));
                let p99 = load.p99(noticed, Instant::now());
                if p99 > NO_WAIT {
                    slow.push(p99);
                }
                origin.go_on();
                all_are_healthy(&proxy);
                is_flawless(load, &format!("h2: {h2}, round {round}"));
            }
        });
        is_flawless(&load, &format!("h2: {h2}"));
        // This machine may be busy, but a wait that is too long is so every time.
        assert!(slow.len() < rounds, "h2: {h2}: p99 of {slow:?}");
    }
}

/// The connects that wait for a server which is gone (2 s, by default) end with its verdict, too.
#[test]
fn a_server_that_is_black_holed_costs_no_request_and_soon_no_time() {
    for h2 in [false, true] {
        let (h1_origin, h2_origin) = (Origin::good("ok"), H2Origin::good("ok"));
        let server = if h2 {
            h2_origin.address()
        } else {
            h1_origin.address()
        };
        let relays = [(); 3].map(|()| Relay::to(server));
        let addresses = relays.each_ref().map(Relay::address);
        let proxy = Proxy::start(&config(&addresses, h2));
        all_are_healthy(&proxy);
        let mut slow = Vec::new();
        let rounds = 4;
        let load = under_load(&proxy, "GET", |load| {
            for round in 0..rounds {
                any_instant();
                relays[round % 3].open_hole();
                let noticed = Instant::now() + NOTICED;
                thread::sleep(NOTICED + Duration::from_secs(1));
                let p99 = load.p99(noticed, Instant::now());
                if p99 > NO_WAIT {
                    slow.push(p99);
                }
                relays[round % 3].close_hole();
                all_are_healthy(&proxy);
                is_flawless(load, &format!("h2: {h2}, round {round}"));
            }
        });
        is_flawless(&load, &format!("h2: {h2}"));
        // This machine may be busy, but a wait that is too long is so every time.
        assert!(slow.len() < rounds, "h2: {h2}: p99 of {slow:?}");
    }
}

/// Of what was not sent yet, nothing can be doubled.
#[test]
fn a_post_that_waits_for_its_connection_goes_elsewhere_with_the_verdict() {
    for h2 in [false, true] {
        let (h1_origin, h2_origin) = (Origin::good("ok"), H2Origin::good("ok"));
        let server = if h2 {
            h2_origin.address()
        } else {
            h1_origin.address()
        };
        let relay = Relay::to(server);
        let config = config(&[relay.address(), server], h2).replace(
            "[upstream.app.timeout]",
            "[upstream.app.timeout]\nconnect = \"8s\"",
        );
        let proxy = Proxy::start(&config);
        all_are_healthy(&proxy);
        relay.open_hole();
        let start = Instant::now();
        for _ in 0..2 {
            let answer = proxy.client().post("/", b"order");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        assert!(start.elapsed() < Duration::from_secs(5), "it waited on");
        let labels = format!("upstream=\"app\",server=\"{}\"", relay.address());
        let ended =
            format!("evenkeel_upstream_requests_total{{{labels},code=\"connect_timeout\"}}");
        assert_eq!(proxy.metric(&ended), Some(1.0), "the first try is counted");
        relay.close_hole();
    }
}

#[test]
fn a_post_is_never_doubled_by_a_death() {
    for h2 in [false, true] {
        let (mut origins, proxy) = three(h2);
        let load = under_load(&proxy, "POST", |_| {
            for round in 0..6 {
                let origin = &mut origins[round % 3];
                any_instant();
                if round % 2 == 0 {
                    origin.kill();
                    any_instant();
                    origin.revive();
                } else {
                    origin.stop();
                    any_instant();
                    origin.go_on();
                }
                all_are_healthy(&proxy);
            }
        });
        let mut posts: HashMap<String, usize> = HashMap::new();
        for (target, times) in origins.iter().flat_map(ChildOrigin::posts) {
            *posts.entry(target).or_default() += times;
        }
        let doubled: Vec<_> = posts.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubled.is_empty(), "h2: {h2}: {doubled:?}");
        let done = load.done.lock().expect("no panic").clone();
        let lost = done
            .iter()
            .filter(|done| done.wrong.is_none() && !posts.contains_key(&done.target));
        assert_eq!(lost.count(), 0, "h2: {h2}: answered, and never there");
        let failed = done.iter().filter(|done| done.wrong.is_some()).count();
        assert!(
            failed <= 3 * CLIENTS,
            "h2: {h2}: {failed} of {} failed",
            done.len()
        );
    }
}

#[test]
fn two_of_three_and_all_three_come_back() {
    for h2 in [false, true] {
        let (mut origins, proxy) = three(h2);
        let load = under_load(&proxy, "GET", |load| {
            origins[0].kill();
            origins[1].kill();
            thread::sleep(Duration::from_millis(500));
            is_flawless(load, "two of three");
            origins[2].kill();
            thread::sleep(Duration::from_millis(1500));
            let back = Instant::now();
            for origin in &mut origins {
                origin.revive();
            }
            let up = Instant::now();
            eventually("it serves again", || {
                load.done
                    .lock()
                    .expect("no panic")
                    .iter()
                    .rev()
                    .take(100)
                    .all(|done| done.wrong.is_none())
            });
            eprintln!(
                "h2: {h2}: served again {:?} after the last was up, {:?} in all",
                up.elapsed(),
                back.elapsed()
            );
            all_are_healthy(&proxy);
            let healthy = Instant::now();
            thread::sleep(Duration::from_millis(1500));
            let late: Vec<_> = load
                .wrong()
                .into_iter()
                .filter(|done| done.at - done.took > healthy)
                .collect();
            assert!(late.is_empty(), "h2: {h2}: {late:?}");
        });
        assert!(!load.wrong().is_empty(), "nobody was there for a while");
    }
}
