//! Live state that is read when it is scraped, and kept nowhere else.

use std::sync::{Mutex, PoisonError};

/// Reads live state at a scrape; `None` when its owner is gone.
pub(in crate::telemetry) type Reading<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// Where a handle gets readings from; replaced when the owner of the live state is.
pub(in crate::telemetry) struct Source<T>(Mutex<Option<Reading<T>>>);

impl<T> Source<T> {
    pub(in crate::telemetry) fn empty() -> Self {
        Source(Mutex::new(None))
    }

    pub(in crate::telemetry) fn set(&self, read: Reading<T>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    }

    pub(in crate::telemetry) fn read(&self) -> Option<T> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|read| read())
    }
}

impl<T> std::fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}
