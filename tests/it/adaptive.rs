//! `concurrency = "adaptive"`: a service at three times what it can do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Origin, Proxy, app, eventually};

/// A service with so many workers that take a fixed time for each request: what is asked of it
/// beyond that waits inside.
#[derive(Clone)]
struct Service {
    free: Arc<(Mutex<usize>, Condvar)>,
    micros: Arc<AtomicU64>,
}

impl Service {
    fn new(workers: usize, time: Duration) -> Self {
        Service {
            free: Arc::new((Mutex::new(workers), Condvar::new())),
            micros: Arc::new(AtomicU64::new(time.as_micros() as u64)),
        }
    }

    fn work(&self) {
        let (free, given_back) = &*self.free;
        let mut count = free.lock().expect("no panic");
        while *count == 0 {
            count = given_back.wait(count).expect("no panic");
        }
        *count -= 1;
        drop(count);
        thread::sleep(Duration::from_micros(self.micros.load(Ordering::Relaxed)));
        *free.lock().expect("no panic") += 1;
        given_back.notify_one();
    }

    fn origin(&self) -> Origin {
        let service = self.clone();
        Origin::scripted(move |connection| {
            while connection.request_head().is_some() {
                service.work();
                if connection
                    .try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .is_err()
                {
                    return;
                }
            }
        })
    }
}

/// What clients saw.
#[derive(Default, Debug)]
struct Seen {
    /// Of the answered, in order.
    took: Vec<Duration>,
    /// Of those refused with `overloaded`.
    refused: Vec<Duration>,
    /// Everything else, by its reason.
    other: Vec<String>,
}

/// `clients` that ask again as soon as they are answered, and after a moment when refused.
fn drive(proxy: &Proxy, clients: usize, time: Duration) -> Seen {
    let seen = Mutex::new(Seen::default());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = proxy.client();
                while !over.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    let answer = client.get("/");
                    let took = started.elapsed();
                    let mut seen = seen.lock().expect("no panic");
                    match (answer.status, answer.evenkeel_reason()) {
                        (200, None) => seen.took.push(took),
                        (503, Some("overloaded")) => {
                            let after = answer.header("retry-after").expect("says when");
                            assert!(after.parse::<u64>().expect("seconds") >= 1);
                            seen.refused.push(took);
                            drop(seen);
                            thread::sleep(Duration::from_millis(30));
                        }
                        other => seen.other.push(format!("{other:?}")),
                    }
                }
            });
        }
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
    });
    let mut seen = seen.into_inner().expect("no panic");
    seen.took.sort();
    seen.refused.sort();
    seen
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share) as usize;
    sorted
        .get(at)
        .or(sorted.last())
        .copied()
        .unwrap_or_default()
}

const SHORT: &str = "concurrency = \"adaptive\"\nqueue = { size = 8, timeout = \"1s\" }\n";

fn limit(proxy: &Proxy) -> f64 {
    let series = "evenkeel_upstream_concurrency_limit{upstream=\"app\"}";
    proxy.metric(series).expect("there is a limit")
}

#[test]
fn at_three_times_its_capacity_a_service_works_at_its_knee() {
    let service = Service::new(8, Duration::from_millis(20));
    let origin = service.origin();
    let proxy = Proxy::start(&app(&[&origin], SHORT));
    drive(&proxy, 36, Duration::from_secs(4));
    let (seconds, capacity) = (4.0, 8.0 / 0.020);
    let seen = drive(&proxy, 36, Duration::from_secs_f64(seconds));
    let goodput = seen.took.len() as f64 / seconds;
    println!(
        "{goodput:.0} of {capacity:.0} per second, limit {}, p50 {:?}, p99 {:?}, {} refused (p99 {:?}), other {:?}",
        limit(&proxy),
        quantile(&seen.took, 0.5),
        quantile(&seen.took, 0.99),
        seen.refused.len(),
        quantile(&seen.refused, 0.99),
        seen.other,
    );
    assert!(goodput >= 0.9 * capacity, "{goodput:.0} of {capacity:.0}");
    assert!(seen.other.is_empty(), "{:?}", seen.other);
    // A queue of eight and the knee of eight: three service times, and the machine's own.
    assert!(quantile(&seen.took, 0.99) < Duration::from_millis(250));
    assert!(
        !seen.refused.is_empty(),
        "three times the capacity is not served"
    );
    assert!(quantile(&seen.refused, 0.99) < Duration::from_millis(100));
    let seen = drive(&proxy, 4, Duration::from_secs(1));
    assert!(seen.refused.is_empty() && seen.other.is_empty(), "{seen:?}");
}

#[test]
fn two_servers_of_different_speed_share_one_limit() {
    let fast = Service::new(8, Duration::from_millis(10));
    let slow = Service::new(8, Duration::from_millis(40));
    let (a, b) = (fast.origin(), slow.origin());
    let more = format!("balance = \"least-requests\"\n{SHORT}");
    let proxy = Proxy::start(&app(&[&a, &b], &more));
    drive(&proxy, 60, Duration::from_secs(4));
    let seen = drive(&proxy, 60, Duration::from_secs(3));
    let (goodput, capacity) = (seen.took.len() as f64 / 3.0, 800.0 + 200.0);
    println!("{goodput:.0} of {capacity:.0}, limit {}", limit(&proxy));
    assert!(goodput >= 0.7 * capacity, "{goodput:.0} of {capacity:.0}");
    assert!(seen.other.is_empty(), "{:?}", seen.other);
    assert!(quantile(&seen.took, 0.99) < Duration::from_millis(400));
}

#[test]
fn a_server_that_goes_silent_does_not_keep_the_places_of_the_others() {
    let service = Service::new(8, Duration::from_millis(10));
    let (good, silent) = (service.origin(), Origin::stalling());
    let more = "concurrency = \"adaptive\"\nbreaker = { mode = \"off\" }\n\
                queue = { size = 1024, timeout = \"10s\" }\ntimeout = { first-byte = \"30s\" }\n";
    let proxy = Proxy::start(&app(&[&good, &silent], more));
    // As many as start the limit, and twice that: half of them are never answered.
    let mut clients: Vec<_> = (0..60).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    eventually("the good one answers its half", || {
        good.request_count() == 30
    });
    eventually("the other has its half", || silent.request_count() == 30);
}

#[test]
fn a_breaker_that_opens_and_slow_start_do_not_starve_each_other() {
    let service = Service::new(8, Duration::from_millis(10));
    let (a, b) = (
        service.origin(),
        Service::new(8, Duration::from_millis(10)).origin(),
    );
    let more = format!(
        "{SHORT}slow-start = \"2s\"\n[upstream.app.breaker]\nopen = \"500ms\"\nmax-open = \"500ms\"\n"
    );
    let proxy = Proxy::start(&app(&[&a, &b], &more));
    drive(&proxy, 24, Duration::from_secs(2));
    b.stop();
    let down = drive(&proxy, 12, Duration::from_secs(2));
    assert!(down.other.is_empty(), "{:?}", down.other);
    b.resume();
    eventually("it has its full share again", || {
        proxy.get("/");
        let status = proxy.server_status(&b);
        status["state"] == "in rotation" && status["slow_start_percent"].is_null()
    });
    let before = b.request_count();
    let up = drive(&proxy, 24, Duration::from_secs(2));
    assert!(up.other.is_empty(), "{:?}", up.other);
    assert!(
        up.took.len() as f64 / 2.0 >= 0.6 * 1_600.0,
        "{}",
        up.took.len()
    );
    assert!(b.request_count() - before >= up.took.len() / 3);
}

#[test]
fn it_is_switched_on_and_off_by_a_reload_and_keeps_what_it_learnt() {
    let service = Service::new(4, Duration::from_millis(10));
    let origin = service.origin();
    let proxy = Proxy::start(&app(&[&origin], ""));
    let series = "evenkeel_upstream_concurrency_limit{upstream=\"app\"}";
    assert_eq!(proxy.metric(series), None);
    assert!(proxy.app_status()["concurrency"].is_null());
    proxy.reconfigure(&app(&[&origin], SHORT));
    assert_eq!(limit(&proxy), 20.0, "where it starts");
    drive(&proxy, 40, Duration::from_secs(3));
    let learnt = limit(&proxy);
    assert!(learnt < 20.0, "{learnt}");
    let base = proxy.app_status()["concurrency"]["unloaded_latency_seconds"].clone();
    assert!(base.as_f64().is_some_and(|base| base < 0.1), "{base}");
    proxy.reconfigure(&app(&[&origin], &format!("{SHORT}max-requests = 100\n")));
    assert_eq!(limit(&proxy), learnt, "over a reload");
    proxy.reconfigure(&app(&[&origin], ""));
    assert_eq!(proxy.metric(series), None);
    assert_eq!(proxy.get("/").status, 200);
}
