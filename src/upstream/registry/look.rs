//! The control task: everything that needs a clock, of all upstreams.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::Registry;
use crate::upstream::common::lock;
use crate::upstream::control;
use crate::upstream::upstream::Upstream;

impl Registry {
    /// The control task: run it once on the control runtime, for the life of the process.
    pub async fn run(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            let due = self
                .look(now)
                .into_iter()
                .chain(self.look_at_limits(now))
                .min();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Steps what was touched or is due; when the next one is due.
    pub(in crate::upstream) fn look(&self, now: Instant) -> Option<Instant> {
        let (upstreams, changes) = {
            let inner = lock(&self.inner);
            let changes = inner.names.changes();
            let gone = inner.gone.iter().filter_map(Weak::upgrade);
            let all = inner.current.iter().cloned().chain(gone);
            (all.collect::<Vec<_>>(), changes)
        };
        let of_each = |upstream: Arc<Upstream>| {
            if upstream.seated_at(changes) {
                self.reseat(&upstream, now);
            }
            let due = upstream.common().due();
            if upstream.common().take_touched() || due.is_some_and(|due| due <= now) {
                return control::step(&upstream, now);
            }
            due
        };
        upstreams.into_iter().filter_map(of_each).min()
    }

    /// Moves the adaptive limits; when the next one is due.
    pub(super) fn look_at_limits(&self, now: Instant) -> Option<Instant> {
        let inner = lock(&self.inner);
        let of_each = |upstream: &Arc<Upstream>| {
            let common = upstream.common();
            let (due, room) = common.limit().look(common.ms(now), || upstream.bounds())?;
            if room {
                common.room_made();
            }
            Some(common.at_ms(due))
        };
        inner.current.iter().filter_map(of_each).min()
    }
}
