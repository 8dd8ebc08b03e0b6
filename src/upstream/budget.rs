//! The retry budget of one upstream, over all workers.
//!
//! What may be retried is a share of the requests of the window, plus a few for upstreams with
//! little traffic (Finagle's `RetryBudget`): when every request fails, retries add a fifth to the
//! load, not a multiple of it. Requests and retries are counted in the same sliding window, so the
//! budget is never saved up for longer than that.
//!
//! Every request is counted and few are retried: each worker counts into a window of its own, and a
//! retry adds them up.

use crate::config::model::RetryBudget as Settings;
use crate::telemetry::shard::Sharded;
use crate::util::window::{At, Span, Window};

/// Earned by the requests of the window, spent by retries in it. Survives reloads; settings are
/// passed to each call. Times are milliseconds of one monotonic clock.
#[derive(Debug)]
#[repr(C)]
pub struct RetryBudget {
    requests: Sharded<Window<1>>,
    retries: Window<1>,
}

impl RetryBudget {
    /// `workers`: of the metrics, which say what a worker is.
    pub fn new(workers: usize) -> Self {
        RetryBudget {
            requests: Sharded::new(workers),
            retries: Window::new(),
        }
    }

    /// Counts a request (not an attempt).
    pub fn deposit(&self, now_ms: u64, span: Span) {
        let (requests, _) = self.requests.local();
        requests.add(0, at(now_ms, span));
    }

    /// Takes one retry; false when the budget is spent.
    ///
    /// It counts first and looks then, so that workers that race may refuse each other the last
    /// retry but never both take it.
    #[must_use]
    pub fn withdraw(&self, now_ms: u64, settings: &Settings) -> bool {
        let at = at(now_ms, Span::of(settings.window));
        let mark = self.retries.add(0, at);
        let [retries] = self.retries.sums(at);
        let requests: u64 = self.requests.iter().flat_map(|shard| shard.sums(at)).sum();
        let reserve = f64::from(settings.min_per_second) * settings.window.as_secs_f64();
        let earned = settings.ratio.fraction() * requests as f64 + reserve;
        // 0.29 * 100 is 28.999999999999996.
        let granted = retries as f64 <= earned + 1e-9;
        if !granted {
            self.retries.take_back(0, mark, at.epoch);
        }
        granted
    }
}

fn at(now_ms: u64, span: Span) -> At {
    At {
        now_ms,
        span,
        epoch: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::util::units::Percent;

    fn settings(ratio: f64, min_per_second: u32) -> Settings {
        let ratio = Percent::from_fraction(ratio);
        Settings {
            ratio,
            min_per_second,
            window: Duration::from_secs(10),
        }
    }

    fn withdrawn(budget: &RetryBudget, now_ms: u64, settings: &Settings) -> usize {
        (0..1_000)
            .filter(|_| budget.withdraw(now_ms, settings))
            .count()
    }

    #[test]
    fn a_quiet_upstream_has_its_reserve() {
        let settings = settings(0.2, 3);
        assert_eq!(withdrawn(&RetryBudget::new(2), 0, &settings), 30);
    }

    #[test]
    fn requests_earn_their_share() {
        let (budget, settings) = (RetryBudget::new(2), settings(0.2, 0));
        assert_eq!(withdrawn(&budget, 0, &settings), 0);
        for _ in 0..100 {
            budget.deposit(0, Span::of(settings.window));
        }
        assert_eq!(withdrawn(&budget, 0, &settings), 20);
    }

    #[test]
    fn what_was_earned_and_spent_leaves_with_the_window() {
        let (budget, settings) = (RetryBudget::new(2), settings(0.5, 1));
        for _ in 0..10 {
            budget.deposit(0, Span::of(settings.window));
        }
        assert_eq!(withdrawn(&budget, 0, &settings), 15);
        assert_eq!(withdrawn(&budget, 9_000, &settings), 0);
        assert_eq!(
            withdrawn(&budget, 10_000, &settings),
            10,
            "only the reserve is left"
        );
    }

    #[test]
    fn new_settings_apply_to_what_was_counted() {
        let budget = RetryBudget::new(2);
        for _ in 0..100 {
            budget.deposit(0, Span::of(settings(0.0, 0).window));
        }
        assert_eq!(withdrawn(&budget, 0, &settings(0.1, 0)), 10);
    }

    #[test]
    fn racing_workers_never_spend_more_than_was_earned() {
        let (budget, settings) = (RetryBudget::new(2), settings(0.2, 0));
        for _ in 0..1_000 {
            budget.deposit(0, Span::of(settings.window));
        }
        let spent: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| withdrawn(&budget, 0, &settings)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert!((1..=200).contains(&spent), "{spent}");
    }
}
