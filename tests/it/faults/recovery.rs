//! Servers that come back: how soon clients are served again after nobody was there, and how gently
//! the one that came back is taken in.

use std::thread;
use std::time::{Duration, Instant};

use super::load::{Load, is_flawless, under_load};
use crate::support::{ChildOrigin, Origin, Proxy, app, eventually, value_within};

const CHECKS: &str =
    "[upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\n";

/// One try more, a queue, a breaker that opens for 10 s: as they are by default.
fn start(origins: &[ChildOrigin], max_ejected: &str, checks: bool) -> Proxy {
    let servers: Vec<_> = origins
        .iter()
        .map(|origin| format!("\"{}\"", origin.address()))
        .collect();
    let (servers, checks) = (servers.join(", "), if checks { CHECKS } else { "" });
    Proxy::start(&format!(
        "[upstream.app]\nservers = [{servers}]\nslow-start = \"1s\"\n\
         [upstream.app.breaker]\nmax-ejected = \"{max_ejected}\"\n{checks}\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    ))
}

fn servers(count: usize) -> Vec<ChildOrigin> {
    (0..count).map(|_| ChildOrigin::start(false)).collect()
}

/// The servers of `app` whose breaker is in this state.
fn with_breaker(proxy: &Proxy, state: &str) -> Vec<String> {
    let status = proxy.app_status();
    let servers = status["servers"].as_array().expect("a list");
    let found = servers
        .iter()
        .filter(|server| server["breaker"]["state"] == state);
    let address = |server: &serde_json::Value| server["address"].as_str().map(str::to_owned);
    found.filter_map(address).collect()
}

/// When the first request that ended after `from` was answered.
fn first_success(load: &Load, from: Instant) -> Instant {
    value_within(Duration::from_secs(30), "somebody is served", || {
        let done = load.done.lock().expect("no panic");
        let served = done.iter().filter(|done| done.wrong.is_none());
        served.map(|done| done.at).filter(|at| *at > from).min()
    })
}

/// What began after `from` and went wrong.
#[track_caller]
fn no_error_after(load: &Load, from: Instant, what: &str) {
    let done = load.done.lock().expect("no panic").clone();
    let begun = done.iter().filter(|done| done.at - done.took > from);
    let wrong: Vec<_> = begun.filter(|done| done.wrong.is_some()).collect();
    let (count, shown) = (wrong.len(), wrong.first());
    assert!(wrong.is_empty(), "{what}: {count}, first {shown:?}");
}

/// This machine may be busy: within 1 s, and somewhat.
#[track_caller]
fn is_soon(back: Instant, first: Instant, what: &str) {
    let waited = first - back;
    eprintln!("{what}: served {waited:?} after the first was back");
    assert!(waited <= Duration::from_millis(1200), "{what}: {waited:?}");
}

/// All of them gone for a while under load, then back: all at once, or one after the other.
fn outage(count: usize, max_ejected: &str, checks: bool, pause: Duration) {
    let what = format!("{count}, {max_ejected}, checks {checks}, pause {pause:?}");
    let mut origins = servers(count);
    let proxy = start(&origins, max_ejected, checks);
    under_load(&proxy, "GET", |load| {
        origins.iter_mut().for_each(ChildOrigin::kill);
        thread::sleep(Duration::from_millis(2500));
        let mut back = None;
        for origin in &mut origins {
            origin.revive();
            back.get_or_insert_with(Instant::now);
            thread::sleep(pause);
        }
        let back = back.expect("one at least");
        let first = first_success(load, back);
        is_soon(back, first, &what);
        let from = match pause.is_zero() {
            true => first.max(Instant::now()),
            false => first,
        };
        thread::sleep(Duration::from_millis(1500));
        no_error_after(load, from, &what);
    });
}

#[test]
fn the_only_server_is_back_at_once() {
    for checks in [false, true] {
        outage(1, "50%", checks, Duration::ZERO);
    }
}

#[test]
fn three_servers_that_come_back_together_serve_at_once() {
    for checks in [false, true] {
        for max_ejected in ["50%", "100%"] {
            outage(3, max_ejected, checks, Duration::ZERO);
        }
    }
}

#[test]
fn the_first_of_three_that_comes_back_serves_at_once_and_alone() {
    for checks in [false, true] {
        outage(3, "100%", checks, Duration::from_millis(600));
    }
}

/// `max-ejected` leaves two dead servers in rotation: they are no reason to wait for the third.
#[test]
fn the_one_that_was_ejected_may_be_the_first_that_is_back() {
    for checks in [false, true] {
        let mut origins = servers(3);
        let proxy = start(&origins, "50%", checks);
        under_load(&proxy, "GET", |load| {
            origins.iter_mut().for_each(ChildOrigin::kill);
            thread::sleep(Duration::from_millis(1500));
            let ejected = value_within(Duration::from_secs(5), "one is open", || {
                with_breaker(&proxy, "open").pop()
            });
            let is_it = |origin: &&mut ChildOrigin| origin.address().to_string() == ejected;
            let origin = origins.iter_mut().find(is_it).expect("it is one of them");
            origin.revive();
            let back = Instant::now();
            let first = first_success(load, back);
            is_soon(back, first, &format!("the ejected, checks {checks}"));
            eventually("it closes", || {
                with_breaker(&proxy, "closed").contains(&ejected)
            });
        });
    }
}

/// A server that takes connections and fails what it is asked waits out its time: no knock speaks
/// for it.
#[test]
fn a_server_that_is_there_and_broken_is_not_asked_more_often() {
    let broken = Origin::answering("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Proxy::start(&app(&[&broken], ""));
    eventually("it opens", || {
        proxy.get("/").evenkeel_reason() == Some("circuit_open")
    });
    let asked = broken.request_count();
    let knocks = broken.connections();
    eventually("somebody knocks", || broken.connections() >= knocks + 3);
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("circuit_open"));
    assert_eq!(broken.request_count(), asked);
}

/// Counts of the third server over the ten steps of its slow start, next to two whole ones.
fn taken_back(balance: &str, checks: bool) {
    let what = format!("{balance}, checks {checks}");
    let origins = [(); 3].map(|()| Origin::good("ok"));
    let all: Vec<_> = origins.iter().collect();
    let checks = if checks { CHECKS } else { "" };
    let more = format!(
        "balance = \"{balance}\"\nslow-start = \"3s\"\n\
         [upstream.app.breaker]\nopen = \"500ms\"\n{checks}"
    );
    let proxy = Proxy::start(&app(&all, &more));
    let third = &origins[2];
    // Checks are few, and go to each alike.
    let counts = || [0, 1, 2].map(|index: usize| origins[index].request_count());
    let percent = || proxy.server_status(third)["slow_start_percent"].as_f64();
    let load = under_load(&proxy, "GET", |_| {
        third.stop();
        thread::sleep(Duration::from_millis(1200));
        third.resume();
        let first = value_within(Duration::from_secs(8), "it ramps", percent);
        assert!(first <= 20.0, "{what}: begins with {first} %");
        let mut steps = Vec::new();
        let mut before = counts();
        while let Some(from) = percent() {
            thread::sleep(Duration::from_millis(300));
            let now = counts();
            let taken = now[2] - before[2];
            let total = (0..3)
                .map(|index| now[index] - before[index])
                .sum::<usize>();
            let to = percent().unwrap_or(100.0);
            steps.push((from, to, taken, total));
            // Its share of the weights, and room for chance and for what checks add.
            let share = total as f64 * to / (200.0 + to);
            let most = share + 3.0 * share.sqrt() + 6.0;
            assert!((taken as f64) < most, "{what}: {steps:?}");
            before = now;
        }
        eprintln!("{what}: (from %, to %, taken, of) {steps:?}");
        assert!(steps.len() >= 7, "{what}: {steps:?}");
        let part = |steps: &[(f64, f64, usize, usize)]| {
            let taken = steps.iter().map(|step| step.2).sum::<usize>() as f64;
            taken / steps.iter().map(|step| step.3).sum::<usize>() as f64
        };
        let parts = [
            &steps[..3],
            &steps[3..steps.len() - 3],
            &steps[steps.len() - 3..],
        ]
        .map(part);
        assert!(parts.is_sorted(), "{what}: it rises: {parts:?}");
        assert!(parts[0] < 0.17 && parts[2] > 0.22, "{what}: {parts:?}");
    });
    is_flawless(&load, &what);
}

#[test]
fn a_server_that_comes_back_is_taken_in_by_ten_steps_and_no_client_notices() {
    for balance in ["smooth-weighted", "least-requests"] {
        for checks in [false, true] {
            taken_back(balance, checks);
        }
    }
}
