//! Too few descriptors: in a process of its own, which has no more than it is told.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::{config, holding, status};
use crate::support::h2::{H2, block_on};
use crate::support::{Client, Origin, Process, app, eventually};

/// A crowd that lies idle: whoever is in is served, whoever comes gets a place, nothing spins, and
/// afterwards everything is as it was.
#[test]
fn a_crowd_costs_nobody_a_request_at_any_limit() {
    for descriptors in [64, 128, 256] {
        // Never keeps a connection: each request needs a new one.
        let origin = Origin::closing_after(1);
        let process = Process::start_with_descriptors(&app(&[&origin], ""), descriptors);
        let mut good = Client::connect(process.listener);
        assert_eq!(good.get("/").status, 200);
        let before = process.descriptors();
        let most = status(&process)["max_connections"]
            .as_u64()
            .expect("a number");
        assert!(most >= 8 && most < descriptors as u64 / 2, "{most}");
        let crowd: Vec<_> = (0..400)
            .map(|_| TcpStream::connect(process.listener).expect("the backlog has room"))
            .collect();
        let (begin, cpu) = (Instant::now(), process.cpu());
        let mut slowest = Duration::ZERO;
        while begin.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            let answer = good.get("/");
            assert_eq!(answer.status, 200, "{}", answer.text());
            slowest = slowest.max(asked.elapsed());
            assert_eq!(process.ready(), 200);
            std::thread::sleep(Duration::from_millis(20));
        }
        let spent = process.cpu() - cpu;
        assert!(spent < Duration::from_secs(1), "{spent:?} of CPU time");
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        drop(crowd);
        assert_eq!(Client::connect(process.listener).get("/").status, 200);
        eventually("no descriptor is lost", || {
            process.descriptors() <= before + 1
        });
    }
}

/// Servers take the descriptors: streams of HTTP/2 are no connections of clients. Those that come
/// meanwhile wait or are closed, and are served afterwards; nothing spins.
#[test]
fn requests_that_find_none_wait_and_are_told_and_the_admin_listener_answers() {
    for descriptors in [64, 96, 256] {
        exhaust(descriptors);
    }
}

fn exhaust(descriptors: usize) {
    let origin = holding();
    let health = "[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"";
    let process = Process::start_with_descriptors(&app(&[&origin], health), descriptors);
    let before = process.descriptors();
    block_on(async {
        let mut clients = Vec::new();
        let mut held = Vec::new();
        for _ in 0..descriptors.div_ceil(90) {
            let mut client = H2::connect(process.listener).await;
            for _ in 0..90 {
                let request = client.request("GET", "/held").body(()).expect("a request");
                held.push(client.send(request, true).await.0);
            }
            clients.push(client);
        }
        let mut held: FuturesUnordered<_> = held.into_iter().collect();
        let mut refused = 0;
        loop {
            // Those that are refused are answered within a second each, the others not at all.
            let patience = match refused {
                0..10 => Duration::from_secs(15),
                _ => Duration::from_millis(1500),
            };
            let Ok(Some(answer)) = tokio::time::timeout(patience, held.next()).await else {
                break;
            };
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()["x-evenkeel-reason"], "overloaded");
            assert!(answer.headers().contains_key("retry-after"));
            refused += 1;
            assert_eq!(process.ready(), 200, "the admin listener has its own");
        }
        assert!(refused >= 10, "{refused}");
        // It stays exhausted while more of them come.
        let late: Vec<_> = (0..50)
            .map(|_| TcpStream::connect(process.listener).expect("the backlog has room"))
            .collect();
        let (begin, cpu) = (Instant::now(), process.cpu());
        let checked = |process: &Process| {
            let server = &status(process)["upstreams"][0]["servers"][0];
            server["health"]["seconds_since_check"].as_f64()
        };
        while begin.elapsed() < Duration::from_secs(2) {
            assert_eq!(process.ready(), 200, "the admin listener has its own");
            assert!(
                checked(&process).is_some_and(|since| since < 2.0),
                "checks go on"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let spent = process.cpu() - cpu;
        println!(
            "{descriptors} descriptors: {spent:?} of CPU time in {:?}",
            begin.elapsed()
        );
        assert!(spent < begin.elapsed() / 2, "{spent:?} of CPU time");
        let server = status(&process)["upstreams"][0]["servers"][0].clone();
        assert_eq!(server["breaker"]["state"], "closed", "{server}");
        assert_eq!(server["health"]["verdict"], "healthy", "{server}");
        drop(late);
    });
    eventually("no descriptor is lost", || {
        process.descriptors() <= before + 2
    });
    assert_eq!(Client::connect(process.listener).get("/").status, 200);
}

/// More than the limit carries is what it carries, with a word about it.
#[test]
fn a_number_beyond_the_descriptors_is_cut_down_and_warned_about() {
    let origin = holding();
    let process = Process::start_with_descriptors(&config(&origin, 10_000, ""), 128);
    let log = process.log();
    assert!(
        log.contains("is more than the descriptor limit carries"),
        "{log}"
    );
    let most = status(&process)["max_connections"]
        .as_u64()
        .expect("a number");
    assert!((40..100).contains(&most), "{most}");
}

/// So few that hardly anybody can be served: it says so, and serves him.
#[test]
fn hardly_any_descriptors_are_told_of() {
    let origin = Origin::good("ok");
    let config = format!("[process]\nworkers = 1\n{}", app(&[&origin], ""));
    let process = Process::start_with_descriptors(&config, 40);
    let log = process.log();
    assert!(log.contains("the limit on descriptors is too low"), "{log}");
    assert_eq!(Client::connect(process.listener).get("/").status, 200);
}

/// All places are taken by clients who are waiting for a server, and many more wait at the door:
/// they are told in the end, counted, and served as soon as somebody leaves. Each that is in has a
/// descriptor for its server as well.
#[test]
fn a_door_that_stays_shut_costs_nothing_and_opens_again() {
    for descriptors in [64, 256] {
        let origin = holding();
        let more = "timeout = { first-byte = \"off\" }\n\
                    [upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"";
        let process = Process::start_with_descriptors(&app(&[&origin], more), descriptors);
        let most = status(&process)["max_connections"]
            .as_u64()
            .expect("a number");
        let ask = || {
            let mut client = Client::connect(process.listener);
            let _ = client.try_send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
            client
        };
        let mut busy: Vec<Client> = (0..most).map(|_| ask()).collect();
        eventually("each has its server", || {
            let server = status(&process)["upstreams"][0]["servers"][0].clone();
            server["connections"]["active"] == most
        });
        let mut late: Vec<Client> = (0..100).map(|_| ask()).collect();
        let (begin, cpu) = (Instant::now(), process.cpu());
        for client in &mut late {
            let answer = String::from_utf8_lossy(&client.rest()).into_owned();
            assert_eq!(answer, "", "closed without a word");
            assert_eq!(process.ready(), 200);
        }
        let (spent, took) = (process.cpu() - cpu, begin.elapsed());
        assert!(spent < took / 2, "{spent:?} of CPU time in {took:?}");
        let refused = "evenkeel_connections_refused_total{listener=\"web\"}";
        assert_eq!(process.metric(refused), Some(100.0));
        let server = status(&process)["upstreams"][0]["servers"][0].clone();
        assert_eq!(server["health"]["verdict"], "healthy", "{server}");
        for client in &mut busy {
            assert!(client.is_silent_for(Duration::from_millis(1)), "it waits");
        }
        drop(busy);
        eventually("no place is lost", || status(&process)["connections"] == 0);
        assert_eq!(Client::connect(process.listener).get("/").status, 200);
    }
}
