//! The retry budget of one upstream, over all workers.
//!
//! What may be retried is a share of the requests of the window, plus a few for upstreams with
//! little traffic (Finagle's `RetryBudget`): when every request fails, retries add a fifth to the
//! load, not a multiple of it. Requests and retries are counted in the same sliding window, so the
//! budget is never saved up for longer than that.

use crate::config::model::RetryBudget as Settings;
use crate::util::window::{At, Window};

const REQUESTS: usize = 0;
const RETRIES: usize = 1;

/// Earned by the requests of the window, spent by retries in it. Survives reloads; settings are
/// passed to each call. Times are milliseconds of one monotonic clock.
#[derive(Debug, Default)]
pub struct RetryBudget {
    window: Window<2>,
}

impl RetryBudget {
    pub fn new() -> Self {
        RetryBudget::default()
    }

    /// Counts a request (not an attempt).
    pub fn deposit(&self, now_ms: u64, settings: &Settings) {
        self.window.add(REQUESTS, at(now_ms, settings));
    }

    /// Takes one retry; false when the budget is spent.
    ///
    /// It counts first and looks then, so that workers that race may refuse each other the last
    /// retry but never both take it.
    #[must_use]
    pub fn withdraw(&self, now_ms: u64, settings: &Settings) -> bool {
        let at = at(now_ms, settings);
        let mark = self.window.add(RETRIES, at);
        let [requests, retries] = self.window.sums(at);
        let reserve = f64::from(settings.min_per_second) * settings.window.as_secs_f64();
        let earned = settings.ratio.fraction() * requests as f64 + reserve;
        // 0.29 * 100 is 28.999999999999996.
        let granted = retries as f64 <= earned + 1e-9;
        if !granted {
            self.window.take_back(RETRIES, mark, at.epoch);
        }
        granted
    }
}

fn at(now_ms: u64, settings: &Settings) -> At {
    At {
        now_ms,
        window: settings.window,
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
        assert_eq!(withdrawn(&RetryBudget::new(), 0, &settings), 30);
    }

    #[test]
    fn requests_earn_their_share() {
        let (budget, settings) = (RetryBudget::new(), settings(0.2, 0));
        assert_eq!(withdrawn(&budget, 0, &settings), 0);
        for _ in 0..100 {
            budget.deposit(0, &settings);
        }
        assert_eq!(withdrawn(&budget, 0, &settings), 20);
    }

    #[test]
    fn what_was_earned_and_spent_leaves_with_the_window() {
        let (budget, settings) = (RetryBudget::new(), settings(0.5, 1));
        for _ in 0..10 {
            budget.deposit(0, &settings);
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
        let budget = RetryBudget::new();
        for _ in 0..100 {
            budget.deposit(0, &settings(0.0, 0));
        }
        assert_eq!(withdrawn(&budget, 0, &settings(0.1, 0)), 10);
    }

    #[test]
    fn racing_workers_never_spend_more_than_was_earned() {
        let (budget, settings) = (RetryBudget::new(), settings(0.2, 0));
        for _ in 0..1_000 {
            budget.deposit(0, &settings);
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
