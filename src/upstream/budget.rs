//! The retry budget of one upstream, over all workers.

use crate::config::model::RetryBudget as Settings;

/// Earned by the requests of the window, spent by retries in it.
#[derive(Debug)]
pub struct RetryBudget {}

impl RetryBudget {
    pub fn new() -> Self {
        todo!()
    }

    /// Counts a request (not an attempt).
    pub fn deposit(&self, now_ms: u64, settings: &Settings) {
        let _ = (now_ms, settings);
        todo!()
    }

    /// Takes one retry; false when the budget is spent.
    #[must_use]
    pub fn withdraw(&self, now_ms: u64, settings: &Settings) -> bool {
        let _ = (now_ms, settings);
        todo!()
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget::new()
    }
}
