//! Watches how near the process is to its limits, and says so once per episode.

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use tokio::time::{Instant, MissedTickBehavior};

use crate::reload::Handle;
use crate::telemetry::Metrics;
use crate::util::capacity::{Capacity, Memory};
use crate::util::memory;
use crate::util::memory::Watch;
use crate::util::units::ByteSize;

/// Between two measurements of memory: a read of one line of procfs.
const LOOK: Duration = Duration::from_millis(200);
/// Between two words about memory.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Overload {
    pub reload: Handle,
    pub capacity: Arc<Capacity>,
    pub metrics: Arc<Metrics>,
}

/// What was said of memory.
#[derive(Default)]
struct Told {
    /// Of an episode that goes on.
    shedding: bool,
    at: Option<Instant>,
    /// Refused and shed when it began.
    before: (u64, u64),
}

impl Overload {
    /// Never ends.
    pub async fn run(self) {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page_bytes = page_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let page_bytes = page_bytes.unwrap_or(4096);
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(Instant::now());
        let mut told = Told::default();
        let mut readable = true;
        let mut limit = None;
        let mut refused = 0;
        loop {
            let now = ticks.tick().await;
            self.connections(&mut refused);
            let configured = self.reload.current().snapshot.config.process.memory_limit;
            if configured != limit {
                limit = configured;
                watch = Watch::new(now);
            }
            let measured = limit.map(|limit| (limit, memory::resident(page_bytes)));
            let state = match measured {
                None => {
                    self.end(&mut told);
                    Memory::Enough
                }
                Some((limit, Some(resident))) => {
                    let state = watch.judge(now, resident, limit.0, self.capacity.open());
                    self.tell(&mut told, now, state, resident, limit);
                    state
                }
                Some((_, None)) => {
                    if std::mem::take(&mut readable) {
                        tracing::warn!(
                            "memory-limit is without effect: /proc/self/statm cannot be read"
                        );
                    }
                    Memory::Enough
                }
            };
            self.capacity.set_memory(state);
            self.metrics
                .set_overload(self.capacity.most(), state == Memory::Over);
        }
    }

    /// The end of a time in which all places were taken.
    fn connections(&self, before: &mut u64) {
        let (refused, _) = self.capacity.turned_away();
        if self.capacity.is_relaxed() {
            let refused = refused - *before;
            let most = self.capacity.most();
            tracing::info!(refused, most, "there is room for connections again");
        }
        if !self.capacity.is_crowded() {
            *before = refused;
        }
    }

    /// There is no limit any more: the next one begins an episode of its own.
    fn end(&self, told: &mut Told) {
        if std::mem::take(&mut told.shedding) {
            told.at = None;
            let (refused, shed) = self.capacity.turned_away();
            let (refused, shed) = (refused - told.before.0, shed - told.before.1);
            tracing::info!(
                refused,
                shed,
                "memory-limit is off: nothing is shed any more"
            );
        }
    }

    fn tell(&self, told: &mut Told, now: Instant, state: Memory, resident: u64, limit: ByteSize) {
        let resident = ByteSize(resident / 1024 * 1024);
        if state == Memory::Over && !told.shedding {
            told.shedding = true;
            if told.at.is_none_or(|at| now - at > TOLD_AGAIN) {
                (told.at, told.before) = (Some(now), self.capacity.turned_away());
                tracing::warn!(%resident, %limit, "over memory-limit: new connections and requests are shed");
            }
        } else if state == Memory::Enough
            && told.shedding
            && told.at.is_none_or(|at| now - at > LOOK * 5)
        {
            told.shedding = false;
            let (refused, shed) = self.capacity.turned_away();
            let (refused, shed) = (refused - told.before.0, shed - told.before.1);
            tracing::info!(%resident, %limit, refused, shed, "memory is no concern any more");
        }
    }
}
