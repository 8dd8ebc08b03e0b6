//! Timeouts where they are easily lost: many at once, on a kept connection, behind half of
//! something, and while the other side does not read.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{ONE_WORKER, Origin, Proxy, app, eventually};

const LIMIT: Duration = Duration::from_millis(500);

fn timeouts(values: &str) -> String {
    format!(
        "[upstream.app.breaker]\nmode = \"off\"\n[upstream.app.retry]\nattempts = 0\n\
         [upstream.app.timeout]\n{values}\n"
    )
}

const LISTENER: &str = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";

/// Each of these takes `LIMIT`, and a tenth more at most, beyond what this machine is late to wake
/// anybody: on its way are four wake-ups, of threads with more to do than one that only sleeps.
#[track_caller]
fn takes_the_limit(mut measured: impl FnMut() -> Vec<Duration>) {
    let mut tries = Vec::new();
    for _ in 0..4 {
        let (took, lateness) = meanwhile_late(&mut measured);
        let early = took.iter().find(|took| **took < LIMIT);
        assert!(early.is_none(), "too early: {took:?}");
        let most = LIMIT + LIMIT / 10 + 8 * lateness;
        if took.iter().all(|took| *took <= most) {
            return;
        }
        tries.push((most, took));
    }
    panic!("always too late: {tries:?}");
}

/// What was measured, and how late a thread that only sleeps was at the worst meanwhile.
fn meanwhile_late<T>(measured: impl FnOnce() -> T) -> (T, Duration) {
    const NAP: Duration = Duration::from_millis(10);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                thread::sleep(NAP);
                worst = worst.max(start.elapsed().saturating_sub(NAP));
            }
            worst
        });
        // Ended even where a measurement fails.
        let measured = catch_unwind(AssertUnwindSafe(measured));
        over.store(true, Ordering::Relaxed);
        let worst = sleeper.join().expect("it only sleeps");
        match measured {
            Ok(measured) => (measured, worst),
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// What `each` measures on so many connections at the same time, begun a little apart.
fn many(proxy: &Proxy, each: impl Fn(&Proxy) -> Duration + Sync) -> Vec<Duration> {
    thread::scope(|scope| {
        let each = &each;
        let clients: Vec<_> = (0..40)
            .map(|number| {
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(5 * number));
                    each(proxy)
                })
            })
            .collect();
        let ends = clients
            .into_iter()
            .map(|client| client.join().expect("no panic"));
        ends.collect()
    })
}

#[test]
fn each_of_many_first_bytes_is_waited_for_as_long() {
    let origin = Origin::stalling();
    let limits = timeouts("first-byte = \"500ms\"");
    let proxy = Proxy::start(&(app(&[&origin], &limits) + ONE_WORKER));
    takes_the_limit(|| {
        many(&proxy, |proxy| {
            let mut client = proxy.client();
            let start = Instant::now();
            assert_eq!(client.get("/").evenkeel_reason(), Some("response_timeout"));
            start.elapsed()
        })
    });
}

#[test]
fn each_of_many_heads_is_waited_for_as_long() {
    let origin = Origin::good("ok");
    let listener = format!("{LISTENER}limits = {{ header-timeout = \"500ms\" }}\n");
    let proxy = Proxy::start(&(app(&[&origin], "") + ONE_WORKER + &listener));
    // On a connection of its own, and behind another request.
    for before in [false, true] {
        takes_the_limit(|| {
            many(&proxy, |proxy| {
                // The first head has its time from the connection's first moment.
                let mut start = Instant::now();
                let mut client = proxy.client();
                if before {
                    assert_eq!(client.get("/").status, 200);
                    start = Instant::now();
                }
                client.send("GET / HTTP/1.1\r\nHo");
                assert_eq!(client.response().status, 408);
                start.elapsed()
            })
        });
    }
}

#[test]
fn each_of_many_that_wait_for_a_place_waits_as_long() {
    let origin = Origin::stalling();
    let more = "max-requests = 1\nqueue = { size = 100, timeout = \"500ms\" }\n";
    let proxy = Proxy::start(&(app(&[&origin], &format!("{more}{}", timeouts(""))) + ONE_WORKER));
    let mut holding = proxy.client();
    holding.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the server is full", || origin.request_count() == 1);
    takes_the_limit(|| {
        many(&proxy, |proxy| {
            let mut client = proxy.client();
            let start = Instant::now();
            assert_eq!(client.get("/").evenkeel_reason(), Some("queue_timeout"));
            start.elapsed()
        })
    });
}

/// To within a second, as the contract has it. `start` is before whatever the time runs from.
#[track_caller]
fn about_the_limit(start: Instant) {
    let took = start.elapsed();
    assert!(
        took >= LIMIT - Duration::from_millis(5),
        "too early: {took:?}"
    );
    assert!(took < LIMIT + Duration::from_secs(1), "too late: {took:?}");
}

#[test]
fn a_body_that_stops_is_given_up_wherever_it_stops() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"500ms\"")));
    for (framing, part) in [
        ("Content-Length: 9", ""),
        ("Content-Length: 9", "half"),
        ("Transfer-Encoding: chunked", ""),
        ("Transfer-Encoding: chunked", "4"),
        ("Transfer-Encoding: chunked", "4\r\nha"),
        ("Transfer-Encoding: chunked", "4\r\nhalf"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n0\r\n"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n0\r\nX: y\r\n"),
    ] {
        let mut client = proxy.client();
        let start = Instant::now();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{part}"
        ));
        let answer = client.response();
        about_the_limit(start);
        let told = (answer.status, answer.evenkeel_reason());
        assert_eq!(told, (408, Some("request_timeout")), "{framing} {part:?}");
        assert!(client.rest().is_empty());
    }
    eventually("no half request is left", || origin.open() == 0);
    assert_eq!(origin.request_count(), 0, "and none was whole");
}

#[test]
fn an_answer_that_stops_is_given_up_wherever_it_stops() {
    let parts = [
        "Content-Length: 9\r\n\r\n",
        "Content-Length: 9\r\n\r\nhalf",
        "\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nha",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ];
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let number: usize = request.target()[1..].parse().expect("a number");
            connection.send(format!("HTTP/1.1 200 OK\r\n{}", parts[number]));
        }
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"500ms\"")));
    for (number, part) in parts.iter().enumerate() {
        let mut client = proxy.client();
        let start = Instant::now();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(
            client.try_response().is_err(),
            "{part:?} is passed off as whole"
        );
        about_the_limit(start);
    }
    eventually("no half answer is left", || origin.open() == 0);
}

#[test]
fn a_server_that_does_not_take_the_body_is_given_up() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        while !connection.is_broken() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"500ms\"")));
    let mut client = proxy.client();
    let mut stream = client.stream().try_clone().expect("descriptors are left");
    // Made before the head goes: a client that is slow to begin would be the one that is idle.
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n";
    let bytes = [head.as_bytes(), &[b'x'; 1 << 16].repeat(500)].concat();
    let upload = thread::spawn(move || drop(stream.write_all(&bytes)));
    let answer = client.response();
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (504, Some("response_timeout"))
    );
    upload.join().expect("no panic");
    eventually("the server's side has ended", || origin.open() == 0);
}

#[test]
fn a_total_is_kept_in_every_phase() {
    // The request's body, the wait, the answer's body.
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/drip" {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
                connection.drip(&["x"; 1000], Duration::from_millis(10));
            }
        }
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("total = \"500ms\"")));
    for (request, status) in [
        ("GET /stall HTTP/1.1\r\nHost: h\r\n\r\n", Some(504)),
        ("GET /drip HTTP/1.1\r\nHost: h\r\n\r\n", None),
        (
            "PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhalf",
            Some(504),
        ),
    ] {
        let mut client = proxy.client();
        let start = Instant::now();
        client.send(request);
        let answer = client.try_response();
        about_the_limit(start);
        assert_eq!(
            answer.ok().map(|answer| answer.status),
            status,
            "{request:?}"
        );
    }
}

#[test]
fn an_idle_connection_that_is_kept_ends_in_its_time_on_both_sides() {
    let origin = Origin::good("ok");
    let listener = format!("{LISTENER}limits = {{ idle-timeout = \"500ms\" }}\n");
    let more = "[upstream.app.connections]\nidle-timeout = \"500ms\"\n";
    let proxy = Proxy::start(&(app(&[&origin], more) + &listener));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
        let start = Instant::now();
        assert!(client.is_silent_for(LIMIT / 2), "its time begins anew");
        assert!(start.elapsed() < LIMIT, "this machine is too slow");
    }
    let start = Instant::now();
    assert_eq!(client.get("/").status, 200);
    assert!(client.is_closed());
    about_the_limit(start);
    eventually("the server's side is closed too", || origin.open() == 0);
    about_the_limit(start);
}
