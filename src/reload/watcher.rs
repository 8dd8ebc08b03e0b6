//! Follows the configuration's files: the thin shell around [`Watch`].
//!
//! The parent directories are watched, never the files: a rename replaces the file and would take
//! the watch with it, and a ConfigMap update only ever renames `..data` next to it. Reading the
//! files makes events too (open, close without a write); they are dropped, or reading would start
//! reading again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::expiry::Expiry;
use super::watch::{Change, Watch};
use super::{Handle, Trigger};
use crate::config::Sources;

const POLL: Duration = Duration::from_secs(2);
/// Events that wait to be looked at; beyond it they merge into one.
const EVENTS: usize = 1024;

/// Sets the watch at once, so that no change after a reported start is left to the poll; the future
/// follows it.
pub(super) fn run(path: PathBuf, handle: Handle) -> impl Future<Output = ()> {
    let (events, arrived) = mpsc::channel(EVENTS);
    let mut directories = Directories::new(events);
    directories.follow(&path, &handle.state.sources.load());
    follow(path, handle, directories, arrived)
}

async fn follow(
    path: PathBuf,
    handle: Handle,
    mut directories: Directories,
    mut arrived: mpsc::Receiver<Event>,
) {
    let mut watch = Watch::default();
    let mut expiry = Expiry::default();
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = watch.due();
        let wait = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
        tokio::select! {
            Some(event) = arrived.recv() => {
                let sources = handle.state.sources.load();
                note(&mut watch, &event, &path, &sources);
            }
            () = wait, if due.is_some() => {
                // Renamed away: its successor is most likely on its way. If not, the poll tells.
                if watch.take_due(Instant::now()) && path.exists() {
                    read_if_new(&handle).await;
                }
            }
            _ = poll.tick() => {
                // A directory may have been replaced, which ends its watch.
                directories.follow(&path, &handle.state.sources.load());
                expiry.look(&handle.current().snapshot);
                if let Some(content) = content(&handle).await
                    && watch.poll(content, handle.seen())
                {
                    read_if_new(&handle).await;
                }
            }
            () = handle.state.sources_changed.notified() => {
                directories.follow(&path, &handle.state.sources.load());
            }
        }
    }
}

/// Reloads when there is something that was not read yet.
async fn read_if_new(handle: &Handle) {
    if content(handle)
        .await
        .is_some_and(|content| content != handle.seen())
    {
        handle.reload(Trigger::FileChange).await;
    }
}

/// Fingerprint of what is there now. `None` while there is no descriptor left to look with: then
/// every file would seem to be gone.
async fn content(handle: &Handle) -> Option<u64> {
    let sources = handle.state.sources.load_full();
    let look = tokio::task::spawn_blocking(move || {
        let content = sources.fingerprint_now();
        std::fs::File::open("/dev/null").is_ok().then_some(content)
    });
    // A panic in there would be a mistake of ours: then nothing has changed.
    look.await.ok().flatten()
}

/// Tells `watch` what an event says about our files.
fn note(watch: &mut Watch, event: &Event, path: &Path, sources: &Sources) {
    let now = Instant::now();
    if event.need_rescan() {
        watch.note(path, Change::Complete, now);
        return;
    }
    let change = match event.kind {
        EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Access(AccessKind::Close(AccessMode::Write)) => Change::Complete,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
            Change::Begun
        }
        _ => return,
    };
    for changed in &event.paths {
        // Whoever else writes in the directory must not hold us back; a complete change of
        // anything (`..data`) may be one of ours.
        if change == Change::Complete || is_ours(changed, path, sources) {
            watch.note(changed, change, now);
        }
    }
}

/// One of the files, or what an include pattern may match. Compared by name: the same file has
/// several paths (relative, behind symlinks).
fn is_ours(changed: &Path, path: &Path, sources: &Sources) -> bool {
    let name = changed.file_name();
    name == path.file_name()
        || sources
            .files()
            .chain(sources.named())
            .any(|file| file.file_name() == name)
        || changed
            .extension()
            .is_some_and(|extension| extension == "toml")
}

/// The directories under watch.
struct Directories {
    /// `None`: the kernel gives no watch; polling remains.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
}

impl Directories {
    fn new(events: mpsc::Sender<Event>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if is_noise(&event.kind) {
                return;
            }
            // Full: plenty of events are on their way, which ends in a read as well.
            let _ = events.try_send(event);
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "files are polled every 2 s only"))
            .ok();
        Directories {
            watcher,
            watched: HashSet::new(),
        }
    }

    /// Watches the directories of what was read last, and of the main file in any case.
    fn follow(&mut self, path: &Path, sources: &Sources) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let mut wanted: HashSet<_> = sources.directories().into_iter().collect();
        wanted.insert(parent(path));
        for gone in self.watched.difference(&wanted) {
            // Fails for a directory that has been removed: that ended the watch as well.
            let _ = watcher.unwatch(gone);
        }
        // Again for those that are watched: it costs nothing, and renews what was replaced.
        self.watched = wanted
            .into_iter()
            .filter(|directory| {
                watcher
                    .watch(directory, RecursiveMode::NonRecursive)
                    .is_ok()
            })
            .collect();
    }
}

fn is_noise(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access != AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Metadata(_)) => true,
        _ => false,
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
