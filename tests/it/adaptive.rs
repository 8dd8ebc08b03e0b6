//! `concurrency = "adaptive"`: a service at three times what it can do.
//!
//! What a service serves per second, and how soon, is the machine's doing as much as ours, and the
//! machine works on other tests meanwhile. So figures are held against those of a twin without a
//! limit that is driven at the same time; exact ones are those of the simulation.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Origin, Proxy, app, eventually, value_within};

/// For what takes seconds on a quiet machine; a busy one serves a tenth of that.
const LONG: Duration = Duration::from_secs(60);

/// A service with so many workers that take a fixed time for each request: what is asked of it
/// beyond that waits inside.
#[derive(Clone)]
struct Service {
    free: Arc<(Mutex<usize>, Condvar)>,
    micros: Arc<AtomicU64>,
    /// The fewest workers that were free at once.
    least_free: Arc<AtomicUsize>,
}

impl Service {
    fn new(workers: usize, time: Duration) -> Self {
        Service {
            free: Arc::new((Mutex::new(workers), Condvar::new())),
            micros: Arc::new(AtomicU64::new(time.as_micros() as u64)),
            least_free: Arc::new(AtomicUsize::new(workers)),
        }
    }

    fn work(&self) {
        let (free, given_back) = &*self.free;
        let mut count = free.lock().expect("no panic");
        while *count == 0 {
            count = given_back.wait(count).expect("no panic");
        }
        *count -= 1;
        self.least_free.fetch_min(*count, Ordering::Relaxed);
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
#[derive(Debug)]
struct Seen {
    /// Of the answered, in order.
    took: Vec<Duration>,
    /// Of those refused with `overloaded`.
    refused: Vec<Duration>,
    /// Everything else, by its reason.
    other: Vec<String>,
}

impl Seen {
    const fn new() -> Self {
        Seen {
            took: Vec::new(),
            refused: Vec::new(),
            other: Vec::new(),
        }
    }

    fn sorted(mut self) -> Self {
        self.took.sort();
        self.refused.sort();
        self
    }
}

/// Ends the load on every way out: a condition that is not met in time, too.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `clients` that ask again as soon as they are answered, and after a moment when refused, until
/// they have seen enough.
#[track_caller]
fn drive(proxy: &Proxy, clients: usize, what: &str, mut enough: impl FnMut(&Seen) -> bool) -> Seen {
    let [seen, _] = drive_both([proxy, proxy], [clients, 0], what, |seen, _| enough(seen));
    seen
}

/// Both at the same time, on the same machine.
#[track_caller]
fn drive_both(
    proxies: [&Proxy; 2],
    clients: [usize; 2],
    what: &str,
    mut enough: impl FnMut(&Seen, &Seen) -> bool,
) -> [Seen; 2] {
    let seen = [const { Mutex::new(Seen::new()) }; 2];
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        for ((proxy, seen), clients) in proxies.into_iter().zip(&seen).zip(clients) {
            for _ in 0..clients {
                scope.spawn(|| ask(proxy, seen, &over));
            }
        }
        value_within(LONG, what, || {
            let [one, other] = seen.each_ref().map(|seen| seen.lock().expect("no panic"));
            enough(&one, &other).then_some(())
        });
    });
    seen.map(|seen| seen.into_inner().expect("no panic").sorted())
}

fn ask(proxy: &Proxy, seen: &Mutex<Seen>, over: &AtomicBool) {
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
                // Nobody waits for longer than a second in the queues of these tests.
                let honest = 1..=2;
                assert!(honest.contains(&after.parse().expect("seconds")), "{after}");
                seen.refused.push(took);
                drop(seen);
                thread::sleep(Duration::from_millis(30));
            }
            other => seen.other.push(format!("{other:?}")),
        }
    }
}

/// So many answers.
fn answers(count: usize) -> impl FnMut(&Seen) -> bool {
    move |seen| seen.took.len() >= count
}

fn mean(times: &[Duration]) -> Duration {
    times.iter().sum::<Duration>() / times.len().max(1) as u32
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

/// Of the adaptive one and its twin without a limit: whatever the machine's noise does to the limit,
/// nobody is starved, and nobody is refused but for overload. Where exactly the limit comes to rest is
/// the simulation's: over sockets the noise of two busy cores moves it up to a multiple of the knee.
fn serves_under_its_limit(limit: f64, adaptive: &Seen, twin: &Seen) {
    let told = format!(
        "limit {limit}: {} answered in {:?} (p99 {:?}), {} refused (p50 {:?}); \
         without a limit {} answered in {:?} (p99 {:?})",
        adaptive.took.len(),
        mean(&adaptive.took),
        quantile(&adaptive.took, 0.99),
        adaptive.refused.len(),
        quantile(&adaptive.refused, 0.5),
        twin.took.len(),
        mean(&twin.took),
        quantile(&twin.took, 0.99),
    );
    println!("{told}");
    assert!(adaptive.other.is_empty(), "{:?}", adaptive.other);
    assert!(
        twin.other.is_empty() && twin.refused.is_empty(),
        "the twin has no limit: {told}"
    );
    // At the floor of one per server it would be an eighth.
    assert!(
        adaptive.took.len() * 5 >= twin.took.len(),
        "too little is done: {told}"
    );
    assert!(
        adaptive.refused.is_empty()
            || quantile(&adaptive.refused, 0.5) < quantile(&adaptive.took, 0.5),
        "who is refused waits: {told}"
    );
}

#[test]
fn at_three_times_its_capacity_nobody_is_starved() {
    let origin = Service::new(8, Duration::from_millis(20)).origin();
    let twin_origin = Service::new(8, Duration::from_millis(20)).origin();
    let proxy = Proxy::start(&app(&[&origin], SHORT));
    let twin = Proxy::start(&app(&[&twin_origin], ""));
    drive(&proxy, 36, "it serves", answers(800));
    let both = [&proxy, &twin];
    let served = |_: &Seen, twin: &Seen| twin.took.len() >= 800;
    let [seen, unlimited] = drive_both(both, [36, 36], "the twin serves", served);
    serves_under_its_limit(limit(&proxy), &seen, &unlimited);
    let seen = drive(&proxy, 4, "what fits is served", answers(100));
    assert!(seen.refused.is_empty() && seen.other.is_empty(), "{seen:?}");
}

#[test]
fn on_a_busy_machine_the_knee_is_found_and_the_rest_refused_early() {
    let origin = Service::new(8, Duration::from_millis(20)).origin();
    let twin_origin = Service::new(8, Duration::from_millis(20)).origin();
    let proxy = Proxy::start(&app(&[&origin], SHORT));
    let twin = Proxy::start(&app(&[&twin_origin], ""));
    let quiet = AtomicBool::new(false);
    let [seen, unlimited] = thread::scope(|scope| {
        let _over = Over(&quiet);
        for _ in 0..2 {
            scope.spawn(|| {
                while !quiet.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        // A limit that has collapsed, or is none, never is there for so many answers: 60 clients
        // ask, and a dip from the knee goes down to half of it.
        let mut left_at = 0;
        drive_both(
            [&proxy, &twin],
            [60, 60],
            "it stays near the knee",
            |seen, twin| {
                if !(4.0..=40.0).contains(&limit(&proxy)) || seen.refused.is_empty() {
                    left_at = seen.took.len();
                }
                seen.took.len() - left_at >= 200 && twin.took.len() >= 200
            },
        )
    });
    serves_under_its_limit(limit(&proxy), &seen, &unlimited);
}

#[test]
fn two_servers_of_different_speed_share_one_limit() {
    let pair = || {
        let fast = Service::new(8, Duration::from_millis(20));
        let slow = Service::new(8, Duration::from_millis(80));
        [fast.origin(), slow.origin()]
    };
    let (origins, twins) = (pair(), pair());
    let balance = "balance = \"least-requests\"\n";
    let more = format!("{balance}{SHORT}");
    let proxy = Proxy::start(&app(&[&origins[0], &origins[1]], &more));
    let twin = Proxy::start(&app(&[&twins[0], &twins[1]], balance));
    drive(&proxy, 60, "it serves", answers(800));
    let both = [&proxy, &twin];
    let served = |_: &Seen, twin: &Seen| twin.took.len() >= 600;
    let [seen, unlimited] = drive_both(both, [60, 60], "the twin serves", served);
    serves_under_its_limit(limit(&proxy), &seen, &unlimited);
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
    let resumed = Service::new(8, Duration::from_millis(10));
    let (a, b) = (service.origin(), resumed.origin());
    let more = format!(
        "{SHORT}slow-start = \"2s\"\n[upstream.app.breaker]\nopen = \"500ms\"\nmax-open = \"500ms\"\n"
    );
    let proxy = Proxy::start(&app(&[&a, &b], &more));
    drive(&proxy, 24, "both serve", answers(400));
    b.stop();
    let down = drive(&proxy, 12, "one serves", answers(400));
    assert!(down.other.is_empty(), "{:?}", down.other);
    b.resume();
    eventually("it has its full share again", || {
        proxy.get("/");
        let status = proxy.server_status(&b);
        status["state"] == "in rotation" && status["slow_start_percent"].is_null()
    });
    let before = b.request_count();
    resumed.least_free.store(8, Ordering::Relaxed);
    let up = drive(&proxy, 24, "all of its workers are used", |seen| {
        seen.took.len() >= 400 && resumed.least_free.load(Ordering::Relaxed) == 0
    });
    assert!(up.other.is_empty(), "{:?}", up.other);
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
    let base = || proxy.app_status()["concurrency"]["unloaded_latency_seconds"].as_f64();
    assert_eq!(base(), None, "nothing is known yet");
    drive(&proxy, 40, "it comes down to the knee", |_| {
        limit(&proxy) < 15.0 && base().is_some()
    });
    proxy.reconfigure(&app(&[&origin], &format!("{SHORT}max-requests = 100\n")));
    assert!(base().is_some_and(|base| base < 1.0), "over a reload");
    proxy.reconfigure(&app(&[&origin], ""));
    assert_eq!(proxy.metric(series), None);
    assert_eq!(proxy.get("/").status, 200);
}
