//! Clients that keep asking, and what each of them saw.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Proxy, eventually};

pub const CLIENTS: usize = 32;
/// Between two requests of one client: the load of a machine that has others to serve.
const PACE: Duration = Duration::from_millis(20);

/// One finished request.
#[derive(Debug, Clone)]
pub struct Done {
    pub at: Instant,
    pub took: Duration,
    pub target: String,
    /// What was wrong with it.
    pub wrong: Option<String>,
}

/// What all clients saw.
#[derive(Default)]
pub struct Load {
    pub done: Mutex<Vec<Done>>,
    pub asked: AtomicUsize,
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

    pub fn wrong(&self) -> Vec<Done> {
        let done = self.done.lock().expect("no panic");
        done.iter()
            .filter(|done| done.wrong.is_some())
            .cloned()
            .collect()
    }

    /// The 99th percentile of what ended from `from` to `to`.
    pub fn p99(&self, from: Instant, to: Instant) -> Duration {
        self.percentile(99, from, to)
    }

    pub fn percentile(&self, percent: usize, from: Instant, to: Instant) -> Duration {
        let done = self.done.lock().expect("no panic");
        let within = done.iter().filter(|done| done.at >= from && done.at < to);
        let mut took: Vec<_> = within.map(|done| done.took).collect();
        took.sort_unstable();
        took.get(took.len() * percent / 100)
            .copied()
            .unwrap_or(Duration::MAX)
    }
}

/// `faults` happen while 32 clients ask with `method`.
pub fn under_load(proxy: &Proxy, method: &str, faults: impl FnOnce(&Load)) -> Load {
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

pub fn is_flawless(load: &Load, what: &str) {
    let wrong = load.wrong();
    assert!(
        wrong.is_empty(),
        "{what}: {} of {}: {:?}",
        wrong.len(),
        load.asked.load(Ordering::Relaxed),
        &wrong[..wrong.len().min(3)]
    );
}
