//! One task per name: ask, publish, wait for the TTL, ask again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::upstream::resolve::{Addresses, Change};

/// Also how often a name with a TTL of 0 is asked for.
const SHORTEST: Duration = Duration::from_secs(1);
/// A TTL of days is no reason to miss a move for days.
const LONGEST: Duration = Duration::from_secs(300);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Asks for a name; [`super::SystemResolver`] or a test's script.
pub trait Lookup: Send + Sync + 'static {
    /// `Err` is the cause, for people.
    fn lookup(&self, name: &str) -> impl Future<Output = Result<Found, Arc<str>>> + Send;
}

/// Keeps `addresses` at what `name` resolves to, from now on, until aborted. `on_moved` runs when
/// the address in use is gone. Call it on the control runtime.
pub fn spawn<L: Lookup>(
    lookup: Arc<L>,
    name: Arc<str>,
    port: u16,
    addresses: Arc<Addresses>,
    on_moved: impl Fn() + Send + 'static,
) -> AbortHandle {
    tokio::spawn(async move {
        let mut failures = 0;
        loop {
            let wait = match lookup.lookup(&name).await {
                Ok(found) => {
                    failures = 0;
                    publish(&name, port, &found, &addresses, &on_moved);
                    found.ttl.clamp(SHORTEST, LONGEST)
                }
                Err(cause) => {
                    // Once per run of failures; the retries would say the same each time.
                    if failures == 0 {
                        tracing::warn!(name = %name, %cause, "name does not resolve");
                    }
                    addresses.fail(cause);
                    failures += 1;
                    backoff(failures)
                }
            };
            tokio::time::sleep(jittered(wait)).await;
        }
    })
    .abort_handle()
}

fn publish(name: &str, port: u16, found: &Found, addresses: &Addresses, on_moved: &impl Fn()) {
    let answer: Vec<SocketAddr> = found
        .addresses
        .iter()
        .map(|address| SocketAddr::new(*address, port))
        .collect();
    let change = addresses.publish(&answer);
    if change != Change::Same {
        tracing::info!(name, addresses = ?answer, "name resolved");
    }
    if change == Change::Moved {
        on_moved();
    }
}

fn backoff(failures: u32) -> Duration {
    (SHORTEST * 2u32.saturating_pow(failures.saturating_sub(1).min(5))).min(LONGEST_BACKOFF)
}

/// Up to a tenth later, never earlier: an answer is asked for again when it has run out, and
/// many names not at the same moment.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::*;

    /// Answers in turn, the last one for ever; notes when it was asked.
    struct Script {
        answers: Mutex<VecDeque<Result<Found, Arc<str>>>>,
        asked: Mutex<Vec<Instant>>,
    }

    impl Script {
        fn new(answers: impl IntoIterator<Item = Result<Found, Arc<str>>>) -> Arc<Self> {
            Arc::new(Script {
                answers: Mutex::new(answers.into_iter().collect()),
                asked: Mutex::new(Vec::new()),
            })
        }

        fn asked(&self) -> Vec<Instant> {
            self.asked.lock().expect("no panic holds it").clone()
        }
    }

    impl Lookup for Script {
        async fn lookup(&self, _name: &str) -> Result<Found, Arc<str>> {
            self.asked
                .lock()
                .expect("no panic holds it")
                .push(Instant::now());
            let mut answers = self.answers.lock().expect("no panic holds it");
            let answer = answers.front().cloned().expect("a script has an answer");
            if answers.len() > 1 {
                answers.pop_front();
            }
            answer
        }
    }

    fn found(last: u8, ttl: u64) -> Result<Found, Arc<str>> {
        Ok(Found {
            addresses: vec![[10, 0, 0, last].into()],
            ttl: Duration::from_secs(ttl),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_again_when_its_ttl_has_passed() {
        let script = Script::new([found(1, 20), found(2, 20)]);
        let addresses = Addresses::pending();
        let moved = Arc::new(AtomicUsize::new(0));
        let task = spawn(script.clone(), "app".into(), 80, addresses.clone(), {
            let moved = moved.clone();
            move || {
                moved.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::time::sleep(Duration::from_secs(19)).await;
        assert_eq!(script.asked().len(), 1);
        assert_eq!(addresses.list(), [SocketAddr::from(([10, 0, 0, 1], 80))]);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(script.asked().len(), 2);
        assert_eq!(addresses.list(), [SocketAddr::from(([10, 0, 0, 2], 80))]);
        assert_eq!(moved.load(Ordering::Relaxed), 1);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_of_zero_or_days_is_bounded() {
        for (ttl, gap) in [(0, 1..2), (86_400, 300..331)] {
            let script = Script::new([found(1, ttl)]);
            let task = spawn(
                script.clone(),
                "app".into(),
                80,
                Addresses::pending(),
                || {},
            );
            tokio::time::sleep(Duration::from_secs(1000)).await;
            let asked = script.asked();
            for pair in asked.windows(2) {
                let apart = (pair[1] - pair[0]).as_secs();
                assert!(
                    gap.contains(&apart),
                    "asked again after {apart}s with a TTL of {ttl}s"
                );
            }
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_keep_the_last_answer() {
        let script = Script::new([found(1, 1), Err("no such name".into())]);
        let addresses = Addresses::pending();
        let task = spawn(script.clone(), "app".into(), 80, addresses.clone(), || {});
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(addresses.list(), [SocketAddr::from(([10, 0, 0, 1], 80))]);
        let asked = script.asked();
        assert!(
            (10..=18).contains(&asked.len()),
            "asked {} times in 300s",
            asked.len()
        );
        task.abort();
    }
}
