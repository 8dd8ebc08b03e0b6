//! Checks that mislead: traffic is what counts, and a check costs no more than it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Connection, Origin, Proxy, app, eventually};

const CHECKS: &str = "slow-start = \"off\"\n\
    [upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\n";

fn checked(
    check: impl Fn(&mut Connection) + Send + Sync + 'static,
    traffic: &'static str,
) -> Origin {
    Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/healthz" {
                return check(connection);
            }
            connection.send(traffic);
        }
    })
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BAD: &str = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";

fn verdict(proxy: &Proxy, origin: &Origin) -> String {
    let status = proxy.server_status(origin);
    status["health"]["verdict"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_server_that_passes_its_checks_and_fails_its_traffic_is_ejected() {
    let (liar, good) = (checked(|c| c.send(GOOD), BAD), Origin::answering(GOOD));
    let proxy = Proxy::start(&app(&[&liar, &good], CHECKS));
    for _ in 0..40 {
        assert_eq!(
            proxy.get("/").status,
            200,
            "tried again, then sent elsewhere"
        );
    }
    assert_eq!(verdict(&proxy, &liar), "healthy");
    assert_eq!(proxy.breaker_state(&liar), "open");
    let traffic = liar.requests().iter().filter(|r| r.target() == "/").count();
    assert_eq!(traffic, 5, "as many as the breaker takes");
}

/// Verdicts that change with every other check, at worst: retries carry the traffic, and nobody is
/// told.
#[test]
fn checks_that_flap_at_their_interval_cost_no_request() {
    let number = Arc::new(AtomicUsize::new(0));
    let flapping = {
        let number = number.clone();
        checked(
            move |connection| {
                let passes = number.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
                connection.send(if passes { GOOD } else { BAD });
            },
            GOOD,
        )
    };
    let good = Origin::answering(GOOD);
    let rise_and_fall = format!("{CHECKS}rise = 1\nfall = 1\n");
    let proxy = Proxy::start(&app(&[&flapping, &good], &rise_and_fall));
    let mut client = proxy.client();
    eventually("it has flapped", || {
        assert_eq!(client.get("/").status, 200);
        number.load(Ordering::SeqCst) > 8
    });
}

type Answer = fn(&mut Connection);

/// Garbage, a flood, a head without end, a body without end, silence, an end: each is a failed check
/// (or one that has seen enough), in its time, and the next one comes when it is due.
#[test]
fn whatever_a_check_is_answered_it_ends_in_its_time() {
    let answers: [(&str, Answer, &str); 7] = [
        ("garbage", |c| c.send("garbage\r\n\r\n"), "unhealthy"),
        ("nothing", |_| {}, "unhealthy"),
        ("a reset", Connection::reset, "unhealthy"),
        ("silence", Connection::wait_for_close, "unhealthy"),
        (
            "a slow head",
            |c| {
                c.send("HTTP/1.1 200 OK\r\n");
                while c.try_send("A: b\r\n").is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            },
            "unhealthy",
        ),
        (
            "a head without end",
            |c| {
                c.send("HTTP/1.1 200 OK\r\n");
                while c.try_send("X-A: b\r\n".repeat(1000)).is_ok() {}
            },
            "unhealthy",
        ),
        (
            "a body without end",
            |c| {
                c.send("HTTP/1.1 200 OK\r\n\r\n");
                while c.try_send([b'x'; 65536]).is_ok() {}
            },
            "healthy",
        ),
    ];
    for (what, answer, expected) in answers {
        let (origin, good) = (checked(answer, GOOD), Origin::answering(GOOD));
        let proxy = Proxy::start(&app(&[&origin, &good], CHECKS));
        eventually(&format!("{what}: {expected}"), || {
            verdict(&proxy, &origin) == expected
        });
        let checks = || {
            origin
                .requests()
                .iter()
                .filter(|r| r.target() == "/healthz")
                .count()
        };
        let (before, start) = (checks(), Instant::now());
        eventually(&format!("{what}: checks go on"), || checks() >= before + 3);
        assert!(start.elapsed() < Duration::from_secs(3), "{what}");
        eventually(&format!("{what}: none is left hanging"), || {
            origin.open() <= 2
        });
        assert_eq!(proxy.get("/").status, 200, "{what}");
    }
}

/// One connection in ten ends in a reset: retries hide it, the breaker is not tripped by it.
#[test]
fn a_server_that_resets_one_in_ten_costs_no_request() {
    let shaky = || {
        Origin::scripted(|connection| {
            while connection.request().is_some() {
                if connection.index % 10 == 9 {
                    return connection.reset();
                }
                connection.send(GOOD);
                if connection.served == 5 {
                    return;
                }
            }
        })
    };
    // One never does: where three can at once, now and then three do.
    let origins = [shaky(), shaky(), Origin::good("good")];
    let more = "[upstream.app.retry]\nattempts = 2\n";
    let proxy = Proxy::start(&app(&origins.each_ref(), more));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..60 {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
    });
    for origin in &origins {
        assert_eq!(proxy.breaker_state(origin), "closed");
    }
}

/// A fifth of all answers is 503, everywhere: the budget lets retries hide nearly all of them, and
/// never lets them become a storm.
#[test]
fn retries_add_no_more_than_their_budget() {
    for (share, most_failed) in [(5, 60), (1, 1000)] {
        let number = Arc::new(AtomicUsize::new(0));
        let origins: Vec<_> = (0..3)
            .map(|_| {
                let number = number.clone();
                Origin::scripted(move |connection| {
                    while connection.request().is_some() {
                        let fails = number.fetch_add(1, Ordering::SeqCst).is_multiple_of(share);
                        connection.send(if fails { BAD } else { GOOD });
                    }
                })
            })
            .collect();
        let more = "[upstream.app.breaker]\nmode = \"off\"\n\
                    [upstream.app.retry]\nattempts = 2\nbudget = { min-per-second = 0 }\n";
        let all: Vec<_> = origins.iter().collect();
        let proxy = Proxy::start(&app(&all, more));
        let mut client = proxy.client();
        let failed = (0..1000).filter(|_| client.get("/").status != 200).count();
        let attempts: usize = origins.iter().map(Origin::request_count).sum();
        assert!(
            attempts <= 1201,
            "one in {share}: {attempts} attempts for 1000"
        );
        assert!(failed <= most_failed, "one in {share}: {failed} failed");
    }
}
