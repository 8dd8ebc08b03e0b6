//! Active checks: one task per server, on the control runtime, independent of traffic and of the
//! breaker.
//!
//! The task outlives reloads: new settings reach it by [`Checks::configure`] and count from the
//! next check on. What a result means is [`verdict`]'s business, how one check is made
//! [`probe`]'s; here is when.

mod grpc;
mod http2;
mod probe;
pub mod verdict;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::model::Health;
use crate::telemetry::CheckResult;
use crate::upstream::connector::Target;
use crate::upstream::health::probe::{Failure, Probe, SocketProbe};
use crate::upstream::health::verdict::{Standing, Verdict};

/// The shortest time between two checks while a verdict is being made.
const SHORTEST: Duration = Duration::from_millis(200);

/// One finished check.
#[derive(Debug, Clone)]
pub struct Report {
    /// `Err` says why, for `/status` and the log: "status 503, wanted 200-399".
    pub outcome: Result<(), Arc<str>>,
    /// What `evenkeel_upstream_health_checks_total` counts.
    pub result: CheckResult,
    /// From the start of the connect (or of the wait for its address) to the outcome.
    pub took: Duration,
    /// After this result.
    pub standing: Standing,
    /// This result changed the standing; a first result always does, but a failed one of a server
    /// that waits for its first pass.
    pub changed: bool,
}

/// The running checks of one server; dropping it stops them.
#[derive(Debug)]
pub struct Checks {
    settings: watch::Sender<Arc<Health>>,
    task: AbortHandle,
}

impl Checks {
    /// Takes over settings of a reload; counts and verdict stay.
    pub fn configure(&self, settings: Arc<Health>) {
        self.settings.send_if_modified(|current| {
            let modified = **current != *settings;
            *current = settings;
            modified
        });
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts checking `target`, the first time at once. `standing` is what holds until the first
/// result. `on_report` runs on the checking task: it must not block. Call it on the control
/// runtime.
pub fn spawn(
    target: Target,
    settings: Arc<Health>,
    standing: Standing,
    on_report: impl FnMut(Report) + Send + 'static,
) -> Checks {
    spawn_with(SocketProbe { target }, settings, standing, on_report)
}

fn spawn_with(
    probe: impl Probe,
    settings: Arc<Health>,
    standing: Standing,
    on_report: impl FnMut(Report) + Send + 'static,
) -> Checks {
    let (sender, receiver) = watch::channel(settings);
    let task = tokio::spawn(run(probe, receiver, Verdict::new(standing), on_report));
    Checks {
        settings: sender,
        task: task.abort_handle(),
    }
}

async fn run(
    probe: impl Probe,
    mut settings: watch::Receiver<Arc<Health>>,
    mut verdict: Verdict,
    mut on_report: impl FnMut(Report),
) {
    loop {
        let current = settings.borrow_and_update().clone();
        let started = Instant::now();
        let outcome = probe.check(&current).await;
        let changed = verdict.record(outcome.is_ok(), current.rise, current.fall);
        on_report(Report {
            result: match &outcome {
                Ok(()) => CheckResult::Success,
                Err(Failure::TimedOut(_)) => CheckResult::Timeout,
                Err(_) => CheckResult::Failure,
            },
            outcome: outcome.map_err(|failure| failure.to_string().into()),
            took: started.elapsed(),
            standing: verdict.standing(),
            changed,
        });
        // A tenth either way, drawn once: new settings stretch it, they do not draw again.
        let jitter = 0.9 + fastrand::f64() * 0.2;
        if !wait(started, jitter, &verdict, &mut settings).await {
            return;
        }
    }
}

/// Waits until the next check is due, by whatever settings hold by then. False when nobody holds
/// the checks any more.
async fn wait(
    started: Instant,
    jitter: f64,
    verdict: &Verdict,
    settings: &mut watch::Receiver<Arc<Health>>,
) -> bool {
    loop {
        let due = started + gap(verdict, &settings.borrow_and_update(), jitter);
        tokio::select! {
            () = sleep_until(due) => return true,
            changed = settings.changed() => if changed.is_err() { return false },
        }
    }
}

/// From the start of one check to the start of the next.
fn gap(verdict: &Verdict, settings: &Health, jitter: f64) -> Duration {
    if verdict.is_settled() {
        settings.interval.mul_f64(jitter)
    } else {
        (settings.interval / 5).max(SHORTEST).min(settings.interval)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::sync::mpsc;

    use super::*;
    use crate::config::model::HealthProbe;

    /// Passes and failures in turn, the last one for ever.
    struct Script(Mutex<VecDeque<bool>>);

    impl Probe for Script {
        async fn check(&self, _settings: &Health) -> Result<(), Failure> {
            let mut results = self.0.lock().expect("no panic holds it");
            let passed = results.front().copied().expect("a script has a result");
            if results.len() > 1 {
                results.pop_front();
            }
            if passed { Ok(()) } else { Err(Failure::Closed) }
        }
    }

    fn settings(interval: u64) -> Arc<Health> {
        Arc::new(Health {
            probe: HealthProbe::Tcp,
            interval: Duration::from_secs(interval),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            port: 0,
            plain: false,
            h2: false,
        })
    }

    struct Watched {
        checks: Checks,
        reports: mpsc::UnboundedReceiver<(Instant, Report)>,
        last: Instant,
    }

    fn watched(standing: Standing, results: &[bool]) -> Watched {
        let (sender, reports) = mpsc::unbounded_channel();
        let script = Script(Mutex::new(results.iter().copied().collect()));
        let checks = spawn_with(script, settings(5), standing, move |report| {
            // A test that has seen enough does not listen any more.
            let _ = sender.send((Instant::now(), report));
        });
        Watched {
            checks,
            reports,
            last: Instant::now(),
        }
    }

    impl Watched {
        /// The next report, and the seconds since the one before.
        async fn next(&mut self) -> (f64, Report) {
            let (at, report) = self.reports.recv().await.expect("checks go on");
            let gap = (at - self.last).as_secs_f64();
            self.last = at;
            (gap, report)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_check_runs_at_once_and_settled_ones_an_interval_apart() {
        let mut checked = watched(Standing::Untested, &[true]);
        let (gap, report) = checked.next().await;
        assert!(gap < 0.01 && report.changed);
        assert_eq!(report.standing, Standing::Healthy);
        for _ in 0..20 {
            let (gap, report) = checked.next().await;
            assert!((4.5..=5.51).contains(&gap), "settled checks {gap}s apart");
            assert!(!report.changed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_verdicts_checks_are_a_fifth_apart() {
        let results = [true, false, false, false, true, true, true];
        let mut checked = watched(Standing::Untested, &results);
        let mut seen = Vec::new();
        for _ in 0..results.len() {
            let (gap, report) = checked.next().await;
            seen.push((gap.round() as u64, report.standing.usable(), report.changed));
        }
        assert_eq!(
            seen,
            [
                (0, true, true),
                (5, true, false),
                (1, true, false),
                (1, false, true),
                (5, false, false),
                (1, true, true),
                (5, true, false),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_takes_over_the_interval_and_keeps_the_verdict() {
        let mut checked = watched(Standing::Untested, &[true, false]);
        checked.next().await;
        checked.checks.configure(settings(60));
        let (gap, report) = checked.next().await;
        assert!(
            (53.0..=67.0).contains(&gap),
            "the new interval holds, {gap}s"
        );
        assert_eq!(report.standing, Standing::Healthy, "one failure of three");
        checked.checks.configure(settings(5));
        let (gap, _) = checked.next().await;
        assert!(
            gap < 1.5,
            "a shorter interval counts from the last check, {gap}s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_checks_stops_them() {
        let mut checked = watched(Standing::Untested, &[true]);
        checked.next().await;
        let Watched {
            checks,
            mut reports,
            ..
        } = checked;
        drop(checks);
        assert!(
            reports.recv().await.is_none(),
            "the task is gone with its reporter"
        );
    }

    #[test]
    fn the_gap_between_verdicts_is_at_least_200_ms_but_never_longer_than_the_interval() {
        let verdict = Verdict::new(Standing::Waiting);
        for (interval_ms, gap_ms) in [(10_000, 2000), (500, 200), (100, 100)] {
            let mut settings = (*settings(1)).clone();
            settings.interval = Duration::from_millis(interval_ms);
            assert_eq!(gap(&verdict, &settings, 1.0), Duration::from_millis(gap_ms));
        }
    }
}
