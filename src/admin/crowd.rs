//! Who is at the admin listener at once, and how much of control's time that takes.
//!
//! Whoever floods it must not keep a probe or an operator out: at the most connections, a new one
//! takes the place of the oldest that is not being answered. And as fast as scrapes are asked for,
//! they are drawn up one at a time, with a pause as long as each took: half of one core, while the
//! other control thread stays with checks, reloads and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// At once.
const MOST: usize = 256;

/// The connections, in the order in which they came.
#[derive(Default)]
pub(super) struct Crowd(Vec<Guest>);

struct Guest {
    task: AbortHandle,
    busy: Busy,
}

/// Whether a connection's request is being answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    /// Both relaxed: too late by a moment, it costs one who floods his connection.
    pub fn set(&self, busy: bool) {
        self.0.store(busy, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Crowd {
    /// Lets one more in.
    pub fn enter(&mut self, task: AbortHandle, busy: Busy) {
        self.0.retain(|guest| !guest.task.is_finished());
        if self.0.len() >= MOST {
            let idle = self.0.iter().position(|guest| !guest.busy.get());
            self.0.remove(idle.unwrap_or(0)).task.abort();
        }
        self.0.push(Guest { task, busy });
    }
}

/// One at a time draws up what takes long.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

/// The turn of one; over some time after its drop.
pub(super) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    began: Instant,
}

impl Turns {
    pub fn new() -> Self {
        Turns(Arc::new(Semaphore::new(1)))
    }

    pub async fn take(&self) -> Turn {
        // Never closed, so this never fails; if it did, nobody would have to wait.
        let permit = self.0.clone().acquire_owned().await.ok();
        Turn {
            permit,
            began: Instant::now(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (permit, took) = (self.permit.take(), self.began.elapsed());
        tokio::spawn(async move {
            tokio::time::sleep(took).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_is_not_answered_makes_room() {
        let mut crowd = Crowd::default();
        let mut tasks = Vec::new();
        for place in 0..=MOST {
            let task = tokio::spawn(std::future::pending::<()>());
            let busy = Busy::default();
            busy.set(place == 0);
            crowd.enter(task.abort_handle(), busy);
            tasks.push(task);
        }
        let second = tasks.remove(1).await.expect_err("it was ended");
        assert!(second.is_cancelled());
        assert!(tasks.iter().all(|task| !task.is_finished()));
        assert_eq!(crowd.0.len(), MOST);
    }
}
