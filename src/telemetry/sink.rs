//! Standard error as a place for events that nobody waits for.
//!
//! Whoever reads standard error may stop reading (a pipe fills up), end (EPIPE) or run out of disk
//! (ENOSPC). A worker that logs an event must neither wait for that nor fail by it, so events go
//! into bounded memory and one thread writes them. What finds no room there, or cannot be written,
//! is lost, which is said once writing works again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of events that may wait.
const ROOM: usize = 256 * 1024;
/// Between two attempts while the target takes nothing for now.
const PAUSE: Duration = Duration::from_millis(20);
/// No byte taken for this long: what waits is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// After events were lost, before it is said: an episode is told once.
const QUIET: Duration = Duration::from_secs(1);

static SINK: Sink = Sink {
    state: Mutex::new(State {
        waiting: Vec::new(),
        writing: false,
        lost: 0,
        last_lost: None,
    }),
    changed: Condvar::new(),
};

/// For the process: it has one standard error.
pub(super) struct Sink {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<u8>,
    /// The thread writes what it has taken.
    writing: bool,
    /// Events since the last word about them.
    lost: u64,
    last_lost: Option<Instant>,
}

/// Takes whole events, one per call of `write`.
pub(super) struct Entrance;

impl Write for Entrance {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut state = SINK.state();
        if state.waiting.len() + event.len() > ROOM {
            state.lose(1);
        } else {
            state.waiting.extend_from_slice(event);
            drop(state);
            SINK.changed.notify_all();
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the thread, once. Without one (no memory for it) events are lost.
pub(super) fn start() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let target = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let Ok(target) = target else { return };
        // Nobody is left to be told.
        let _ = thread::Builder::new()
            .name("events".into())
            .spawn(move || SINK.run(target));
    });
}

/// Waits until everything so far is written, at most `limit`.
pub fn flush(limit: Duration) {
    let state = SINK.state();
    let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
    drop(SINK.changed.wait_timeout_while(state, limit, busy));
}

impl Sink {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut target: File) {
        loop {
            let mut state = self.state();
            state.writing = false;
            self.changed.notify_all();
            let idle = |state: &mut State| state.waiting.is_empty();
            state = match self.changed.wait_while(state, idle) {
                Ok(state) => state,
                Err(poisoned) => poisoned.into_inner(),
            };
            state.writing = true;
            let events = std::mem::take(&mut state.waiting);
            drop(state);
            match write_all(&mut target, &events) {
                Ok(()) => self.tell(),
                Err(written) => {
                    let lost = events[written..].iter().filter(|byte| **byte == b'\n');
                    self.state().lose(lost.count() as u64);
                }
            }
        }
    }

    /// Writing works: says what was lost, as an event like any other.
    fn tell(&self) {
        let mut state = self.state();
        let over = state.last_lost.is_some_and(|last| last.elapsed() >= QUIET);
        if !over {
            return;
        }
        state.last_lost = None;
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        tracing::warn!(lost, "events were lost: standard error did not take them");
    }
}

impl State {
    fn lose(&mut self, events: u64) {
        self.lost += events;
        self.last_lost = Some(Instant::now());
    }
}

/// `Err` has how many bytes went out.
fn write_all(target: &mut File, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    let mut stuck: Option<Instant> = None;
    while written < bytes.len() {
        match target.write(&bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(count) => (written, stuck) = (written + count, None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever gave it to us made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stuck.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(written);
                }
                thread::sleep(PAUSE);
            }
            Err(_) => return Err(written),
        }
    }
    Ok(())
}
