//! The standard `process_*` values from procfs.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// Reads the process that it runs in.
#[derive(Debug)]
pub(super) struct Reader {
    ticks_per_second: f64,
    page_bytes: u64,
    /// Unix time of the machine's start.
    boot_seconds: f64,
}

#[derive(Debug)]
pub(super) struct Usage {
    pub cpu_seconds: f64,
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    pub start_seconds: f64,
    pub threads: u64,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
}

impl Reader {
    pub fn new() -> Self {
        let variable = |name, default| sysconf(name).ok().flatten().unwrap_or(default);
        Reader {
            ticks_per_second: variable(SysconfVar::CLK_TCK, 100) as f64,
            page_bytes: u64::try_from(variable(SysconfVar::PAGE_SIZE, 4096)).unwrap_or(4096),
            boot_seconds: boot_seconds().unwrap_or(0.0),
        }
    }

    /// `None` where procfs is not mounted.
    pub fn read(&self) -> Option<Usage> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let mut usage = self.parse(&stat)?;
        // One of them is the directory that is being read.
        usage.open_fds = fs::read_dir("/proc/self/fd")
            .ok()
            .map(|fds| (fds.count() as u64).saturating_sub(1));
        usage.max_fds = getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(soft, _)| soft);
        Some(usage)
    }

    /// proc_pid_stat(5). The command name may hold anything, so fields count from the last `)`.
    fn parse(&self, stat: &str) -> Option<Usage> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of them is field 3 of the manual.
        let number = |manual: usize| fields.get(manual - 3)?.parse::<u64>().ok();
        Some(Usage {
            cpu_seconds: (number(14)? + number(15)?) as f64 / self.ticks_per_second,
            threads: number(20)?,
            start_seconds: self.boot_seconds + number(22)? as f64 / self.ticks_per_second,
            virtual_bytes: number(23)?,
            resident_bytes: number(24)? * self.page_bytes,
            open_fds: None,
            max_fds: None,
        })
    }
}

fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_and_spaces_moves_no_field() {
        let reader = Reader {
            ticks_per_second: 100.0,
            page_bytes: 4096,
            boot_seconds: 1000.0,
        };
        let stat = "42 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 7 0 500 8192 3 20";
        let usage = reader.parse(stat).expect("a whole line parses");
        assert_eq!(usage.cpu_seconds, 3.0);
        assert_eq!(
            (usage.threads, usage.virtual_bytes, usage.resident_bytes),
            (7, 8192, 12288)
        );
        assert_eq!(usage.start_seconds, 1005.0);
        assert!(reader.parse("42 (x) S 1 2").is_none());
    }

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let usage = Reader::new().read().expect("procfs is mounted here");
        assert!(usage.resident_bytes > 100_000 && usage.threads >= 1);
        assert!(usage.open_fds.is_some_and(|open| open >= 3));
        assert!(usage.max_fds >= usage.open_fds);
    }
}
