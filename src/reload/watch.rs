//! When a changed file is read: the rules, without any I/O.
//!
//! A file must not be read half-written, and must not wait long. What the kernel reports tells
//! complete changes (a rename, a close after a write) from incomplete ones (a write):
//!
//! - a complete change is read after a short quiet, at the latest 300 ms after the first of a burst;
//! - a write that is not closed holds everything back until it is closed, or until nobody has
//!   written for 1 s;
//! - a poll takes what two polls in a row have seen: where the kernel reports nothing (network
//!   file systems, some container mounts) nothing tells complete from incomplete.
//!
//! Whether there is something new is decided by content, not here: a needless read is harmless.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// Without a further complete change for this long, a burst is over.
const QUIET: Duration = Duration::from_millis(50);
/// A burst is read at the latest this long after its first change.
const BURST: Duration = Duration::from_millis(300);
/// An open file counts as written when nobody has written to it for this long.
const UNCLOSED: Duration = Duration::from_secs(1);

/// What the kernel reported of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A rename, a close after a write.
    Complete,
    /// Created, or written and not closed yet.
    Begun,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Watch {
    /// First and last complete change that was not read yet.
    burst: Option<(Instant, Instant)>,
    /// Last write to files that are not closed.
    unclosed: HashMap<PathBuf, Instant>,
    /// What the last poll saw, if it was not what was read last.
    polled: Option<u64>,
}

impl Watch {
    pub fn note(&mut self, path: &Path, change: Change, now: Instant) {
        match change {
            Change::Begun => {
                self.unclosed.insert(path.to_owned(), now);
            }
            Change::Complete => {
                self.unclosed.remove(path);
                let first = self.burst.map_or(now, |(first, _)| first);
                self.burst = Some((first, now));
            }
        }
    }

    /// When to read, if nothing else happens. `None`: nothing to read.
    pub fn due(&self) -> Option<Instant> {
        let written = self.unclosed.values().max().map(|last| *last + UNCLOSED);
        let complete = self
            .burst
            .map(|(first, last)| (first + BURST).min(last + QUIET));
        written.max(complete)
    }

    /// True once per due time that has come: read now.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.burst = None;
            self.unclosed.clear();
        }
        due
    }

    /// A look at the content, whatever was reported. True: read now. `seen`: what was read last.
    pub fn poll(&mut self, content: u64, seen: u64) -> bool {
        if content == seen {
            self.polled = None;
            return false;
        }
        let twice = self.polled == Some(content);
        self.polled = if twice { None } else { Some(content) };
        // While something is due the events know better when it is complete.
        twice && self.due().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/evenkeel/evenkeel.toml";

    struct Scene {
        watch: Watch,
        start: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Scene {
                watch: Watch::default(),
                start: Instant::now(),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn note(&mut self, path: &str, change: Change, millis: u64) {
            let now = self.at(millis);
            self.watch.note(Path::new(path), change, now);
        }

        /// Milliseconds from the start to the read.
        fn due(&self) -> Option<u128> {
            self.watch.due().map(|due| (due - self.start).as_millis())
        }
    }

    #[test]
    fn nothing_is_due_without_a_change() {
        let mut scene = Scene::new();
        assert_eq!(scene.due(), None);
        let now = scene.at(5000);
        assert!(!scene.watch.take_due(now));
    }

    #[test]
    fn a_rename_is_read_after_a_short_quiet_and_once() {
        let mut scene = Scene::new();
        scene.note(FILE, Change::Complete, 0);
        assert_eq!(scene.due(), Some(50));
        let (early, late) = (scene.at(49), scene.at(50));
        assert!(!scene.watch.take_due(early));
        assert!(scene.watch.take_due(late));
        assert!(!scene.watch.take_due(late), "read once");
    }

    #[test]
    fn a_burst_is_read_at_the_latest_300_ms_after_its_first_change() {
        let mut scene = Scene::new();
        for millis in (0..=280).step_by(40) {
            scene.note(FILE, Change::Complete, millis);
        }
        assert_eq!(scene.due(), Some(300));
    }

    #[test]
    fn truncate_and_write_waits_for_the_close() {
        let mut scene = Scene::new();
        scene.note(FILE, Change::Begun, 0);
        scene.note(FILE, Change::Begun, 10);
        assert_eq!(
            scene.due(),
            Some(1010),
            "half-written: not before 1 s of quiet"
        );
        scene.note(FILE, Change::Complete, 400);
        assert_eq!(scene.due(), Some(450));
    }

    #[test]
    fn an_open_file_holds_back_the_others() {
        let mut scene = Scene::new();
        scene.note("/etc/evenkeel/routes.d/a.toml", Change::Begun, 0);
        scene.note(FILE, Change::Complete, 100);
        assert_eq!(scene.due(), Some(1000));
        scene.note("/etc/evenkeel/routes.d/a.toml", Change::Complete, 200);
        assert_eq!(scene.due(), Some(250));
    }

    #[test]
    fn a_file_that_is_never_closed_is_read_after_a_second_of_quiet() {
        let mut scene = Scene::new();
        scene.note(FILE, Change::Begun, 0);
        scene.note(FILE, Change::Begun, 900);
        assert_eq!(scene.due(), Some(1900));
        let due = scene.at(1900);
        assert!(scene.watch.take_due(due));
        assert_eq!(scene.due(), None);
    }

    #[test]
    fn polls_take_what_two_in_a_row_have_seen() {
        let mut watch = Watch::default();
        assert!(!watch.poll(1, 1));
        assert!(!watch.poll(2, 1), "the first sight may be half of a write");
        assert!(!watch.poll(3, 1), "it was");
        assert!(watch.poll(3, 1));
        assert!(!watch.poll(3, 3), "read meanwhile");
        assert!(!watch.poll(1, 3), "back again, seen once");
        assert!(watch.poll(1, 3));
    }

    #[test]
    fn a_poll_does_not_overtake_an_open_write() {
        let mut scene = Scene::new();
        assert!(!scene.watch.poll(2, 1));
        scene.note(FILE, Change::Begun, 0);
        assert!(!scene.watch.poll(2, 1));
    }
}
