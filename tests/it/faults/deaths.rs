//! One of three servers killed, stopped or black-holed at any instant under load: clients that may
//! be answered by another one notice nothing, and soon not even the wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::load::{CLIENTS, is_flawless, under_load};
use crate::support::{ChildOrigin, H2Origin, Origin, Proxy, Relay, eventually};

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

/// A server is gone by `fault`, without a word, and is back by `mend`: round by round.
fn costs_no_request_and_soon_no_time(
    proxy: &Proxy,
    what: &str,
    fault: impl Fn(usize),
    mend: impl Fn(usize),
) {
    let mut slow = Vec::new();
    let rounds = 4;
    let load = under_load(proxy, "GET", |load| {
        for round in 0..rounds {
            any_instant();
            fault(round);
            let noticed = Instant::now() + NOTICED;
            thread::sleep(NOTICED + Duration::from_secs(1));
            let p99 = load.p99(noticed, Instant::now());
            if p99 > NO_WAIT {
                slow.push(p99);
            }
            mend(round);
            all_are_healthy(proxy);
            is_flawless(load, &format!("{what}, round {round}"));
        }
    });
    is_flawless(&load, what);
    // This machine may be busy, but a wait that is too long is so every time.
    assert!(slow.len() < rounds, "{what}: p99 of {slow:?}");
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
        costs_no_request_and_soon_no_time(
            &proxy,
            &format!("h2: {h2}"),
            |round| origins[round % 3].stop(),
            |round| origins[round % 3].go_on(),
        );
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
        costs_no_request_and_soon_no_time(
            &proxy,
            &format!("h2: {h2}"),
            |round| relays[round % 3].open_hole(),
            |round| relays[round % 3].close_hole(),
        );
    }
}

/// Whatever becomes of which server at whatever instant. With checks as often as somebody sets them
/// who wants it over within a second, it is.
#[test]
fn whatever_happens_to_one_of_three_costs_no_request() {
    for h2 in [false, true] {
        let mut origins: Vec<_> = (0..3).map(|_| ChildOrigin::start(h2)).collect();
        let relays: Vec<_> = origins
            .iter()
            .map(|origin| Relay::to(origin.address()))
            .collect();
        let addresses: Vec<_> = relays.iter().map(Relay::address).collect();
        let eager = config(&addresses, h2)
            .replace("interval = \"200ms\"", "interval = \"100ms\"")
            .replace("timeout = \"500ms\"", "timeout = \"300ms\"");
        let proxy = Proxy::start(&eager);
        all_are_healthy(&proxy);
        let (mut slow, rounds) = (Vec::new(), 6);
        let load = under_load(&proxy, "GET", |load| {
            for round in 0..rounds {
                let (which, how) = (fastrand::usize(0..3), round % 3);
                let before = Instant::now();
                thread::sleep(Duration::from_millis(fastrand::u64(500..700)));
                let undisturbed = load.p99(before, Instant::now());
                let fault = Instant::now();
                match how {
                    0 => origins[which].kill(),
                    1 => origins[which].stop(),
                    _ => relays[which].open_hole(),
                }
                thread::sleep(Duration::from_secs(2));
                let p99 = load.p99(fault + Duration::from_secs(1), Instant::now());
                // Beyond what this machine costs all of them anyway.
                if p99 > Duration::from_millis(50) + 3 * undisturbed {
                    slow.push((how, p99, undisturbed));
                }
                match how {
                    0 => origins[which].revive(),
                    1 => origins[which].go_on(),
                    _ => relays[which].close_hole(),
                }
                all_are_healthy(&proxy);
                is_flawless(load, &format!("h2: {h2}, round {round}, {how} of {which}"));
            }
        });
        is_flawless(&load, &format!("h2: {h2}"));
        assert!(slow.len() <= rounds / 2, "h2: {h2}: {slow:?}");
    }
}

/// Nobody asks how it is: what clients waited for in vain, and the breaker, are all there is.
#[test]
fn a_server_that_stops_without_checks_costs_no_request_and_comes_back() {
    for h2 in [false, true] {
        let origins: Vec<_> = (0..3).map(|_| ChildOrigin::start(h2)).collect();
        let addresses: Vec<_> = origins.iter().map(ChildOrigin::address).collect();
        let config = config(&addresses, h2).replace(
            "[upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n\
             timeout = \"500ms\"\nfall = 2\nrise = 2\n",
            "",
        );
        assert!(!config.contains("health"), "{config}");
        let proxy = Proxy::start(&config);
        let breaker = |wanted: &str| {
            let status = proxy.app_status();
            status["servers"][0]["breaker"]["state"] == wanted
        };
        let served = || {
            let address = origins[0].address();
            let labels = format!("upstream=\"app\",server=\"{address}\",code=\"200\"");
            proxy
                .metric(&format!("evenkeel_upstream_requests_total{{{labels}}}"))
                .unwrap_or_default()
        };
        let load = under_load(&proxy, "GET", |load| {
            any_instant();
            origins[0].stop();
            eventually("its breaker opens", || breaker("open"));
            // What had been sent to it before is over.
            thread::sleep(FIRST_BYTE);
            let ejected = Instant::now();
            // Trials of the breaker go on, at the cost of one request each.
            thread::sleep(2 * FIRST_BYTE);
            let p90 = load.percentile(90, ejected, Instant::now());
            assert!(p90 < FIRST_BYTE / 2, "h2: {h2}: it is asked on, {p90:?}");
            is_flawless(load, &format!("h2: {h2}, stopped"));
            origins[0].go_on();
            eventually("its breaker closes", || breaker("closed"));
            let before = served();
            eventually("it serves again", || served() > before + 20.0);
        });
        is_flawless(&load, &format!("h2: {h2}"));
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
