//! Whether the process has more memory than it should.
//!
//! What counts is what the kernel counts, resident bytes. But memory that was freed often stays
//! with the process: the allocator keeps it for what comes next, and gives back only what lies at
//! the end of a heap. A number that does not fall must not mean that nobody is served for ever. So
//! an episode ends in one of three ways:
//! - resident memory has fallen to 95% of the limit;
//! - half of the connections have gone since it began: what they held is there to be used again;
//! - resident memory has neither grown nor fallen for a while: what can be freed was freed.
//!
//! After either of the last two the process is taken to be *settled* where it is: new work fills
//! what is there first, and only when memory grows beyond that the next episode begins. Each such
//! attempt waits twice as long as the one before, and none is made above 125% of the limit, so
//! what really is in use cannot climb in small steps.
//!
//! The second and the third way are slower than the first. glibc takes the first only where buffers
//! are mappings of their own: it begins with those of 128 KiB and moves that up as they are freed.
//! With `MALLOC_MMAP_THRESHOLD_=32768 MALLOC_TRIM_THRESHOLD_=65536 MALLOC_TOP_PAD_=65536` in the
//! environment (mallopt(3)) resident memory falls when a crowd goes: three crowds in a row, at a limit
//! of 52 MiB, left 40 to 48 MiB behind them instead of 52 to 57, and each episode was over after 3
//! seconds instead of 3, 6 and 12. Other thresholds (64 and 128 KiB) and fewer arenas changed little.
//! Built with the feature `jemalloc`, freed memory goes back by itself within 10 seconds: three
//! crowds of 1,200 connections, half of them HTTP/2, left 23 MB behind them instead of 60. What it
//! costs or saves in processor time is within the noise of two shared cores.

use std::time::Duration;

use tokio::time::Instant;

use super::capacity::Memory;

/// Without a change of resident memory, before it is taken to be settled.
const FLAT: Duration = Duration::from_secs(3);
const LONGEST_FLAT: Duration = Duration::from_secs(60);

/// Judges one measurement after the other.
#[derive(Debug)]
pub struct Watch {
    state: Memory,
    /// Connections when the state was entered.
    open: usize,
    /// Resident bytes when they last changed, and since when they have not.
    flat: u64,
    since: Instant,
    patience: Duration,
    /// Where it was found that no more can be freed; 0: nowhere.
    settled: u64,
}

impl Watch {
    pub fn new(now: Instant) -> Self {
        Watch {
            state: Memory::Enough,
            open: 0,
            flat: 0,
            since: now,
            patience: FLAT,
            settled: 0,
        }
    }

    /// `open`: connections of clients.
    pub fn judge(&mut self, now: Instant, resident: u64, limit: u64, open: usize) -> Memory {
        let slack = slack(limit);
        if resident.abs_diff(self.flat) > slack / 2 {
            (self.flat, self.since) = (resident, now);
        }
        if resident < limit / 10 * 9 {
            (self.settled, self.patience) = (0, FLAT);
        }
        let measured = if resident > limit.max(above(self.settled, slack)) {
            Memory::Over
        } else if resident >= limit / 10 * 9 && resident > above(self.settled, slack) {
            Memory::Near
        } else {
            Memory::Enough
        };
        // Once over, that is not enough.
        let measured = match (self.state, measured) {
            (Memory::Over, Memory::Near) if resident > limit / 20 * 19 => Memory::Over,
            _ => measured,
        };
        if measured > self.state {
            (self.state, self.open, self.since) = (measured, open, now);
            return self.state;
        }
        self.state = measured;
        if measured > Memory::Enough && self.is_settled(now, resident, limit, open) {
            self.settled = resident;
            self.state = Memory::Enough;
        }
        self.state
    }

    fn is_settled(&mut self, now: Instant, resident: u64, limit: u64, open: usize) -> bool {
        if self.state == Memory::Over && open <= self.open / 2 {
            return true;
        }
        if now - self.since < self.patience || resident > limit / 4 * 5 {
            return false;
        }
        self.patience = (self.patience * 2).min(LONGEST_FLAT);
        true
    }
}

/// Changes up to here are none.
fn slack(limit: u64) -> u64 {
    (limit / 64).max(1 << 20)
}

fn above(settled: u64, slack: u64) -> u64 {
    match settled {
        0 => 0,
        settled => settled + slack,
    }
}

/// Resident bytes of this process; `None` where procfs is not mounted.
pub fn resident(page_bytes: u64) -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_bytes)
}

/// What the container may have (cgroup v2 `memory.max`, of this group and those around it).
pub fn container_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut path = std::path::Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    let mut least: Option<u64> = None;
    while path.starts_with("/sys/fs/cgroup") {
        let max = std::fs::read_to_string(path.join("memory.max")).ok();
        let max = max.and_then(|max| max.trim().parse().ok());
        least = least.into_iter().chain(max).min();
        if !path.pop() {
            break;
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 1000 * MIB;

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn memory_that_falls_ends_it_with_some_distance() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        let mut judge = |seconds, mib| watch.judge(after(now, seconds), mib * MIB, LIMIT, 100);
        assert_eq!(judge(0, 800), Memory::Enough);
        assert_eq!(judge(1, 920), Memory::Near);
        assert_eq!(judge(2, 1010), Memory::Over);
        assert_eq!(judge(3, 990), Memory::Over, "just below is not enough");
        assert_eq!(judge(4, 940), Memory::Near);
        assert_eq!(judge(5, 880), Memory::Enough);
    }

    #[test]
    fn memory_that_stays_is_used_again_once_half_of_the_clients_have_gone() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        let mut judge =
            |seconds, mib, open| watch.judge(after(now, seconds), mib * MIB, LIMIT, open);
        assert_eq!(judge(0, 1100, 100), Memory::Over);
        assert_eq!(judge(1, 1100, 60), Memory::Over);
        assert_eq!(judge(2, 1100, 50), Memory::Enough);
        assert_eq!(judge(3, 1105, 100), Memory::Enough, "noise is no growth");
        assert_eq!(judge(4, 1130, 100), Memory::Over, "it grows");
        assert_eq!(judge(5, 700, 100), Memory::Enough);
        assert_eq!(
            judge(6, 1001, 100),
            Memory::Over,
            "back at the limit itself"
        );
    }

    #[test]
    fn memory_that_neither_grows_nor_falls_is_settled_ever_more_slowly() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        let mut judge = |seconds, mib| watch.judge(after(now, seconds), mib * MIB, LIMIT, 100);
        assert_eq!(judge(0, 1100), Memory::Over);
        assert_eq!(judge(2, 1100), Memory::Over);
        assert_eq!(judge(3, 1100), Memory::Enough);
        assert_eq!(judge(4, 1150), Memory::Over);
        assert_eq!(judge(8, 1150), Memory::Over);
        assert_eq!(judge(10, 1150), Memory::Enough);
        assert_eq!(judge(11, 1300), Memory::Over);
        assert_eq!(judge(1000, 1300), Memory::Over, "that is far too much");
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident(4096).is_some_and(|bytes| bytes > MIB));
    }
}
