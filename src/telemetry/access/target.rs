//! Where the access log goes, and how it fails.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::writer::PAUSE;
use crate::config::model::LogTarget;

/// How long a pipe may take nothing before a batch is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Without a failure for so long, an episode of them is over: a disk on the brink fails and works
/// by turns, and says so once.
const QUIET: Duration = Duration::from_secs(1);

/// Between two attempts to open a file that could not be opened anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug)]
pub(super) struct Target {
    /// Of a file that can be opened anew.
    path: Option<PathBuf>,
    /// The writer's thread holds it while it writes, which may take long.
    output: Mutex<Output>,
    /// Could not be opened anew: to be tried again.
    reopen: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Output {
    file: File,
    path: Option<PathBuf>,
    /// The last write ended inside a line.
    torn: bool,
    /// Writing fails; said once until it works again.
    failing: Option<Episode>,
    /// The file is to be opened anew, and could not be: when it was tried last.
    reopening: Option<Instant>,
}

#[derive(Debug)]
struct Episode {
    last: Instant,
    lost: u64,
}

impl Target {
    pub fn open(target: &LogTarget) -> io::Result<Self> {
        let (file, path) = match target {
            LogTarget::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            LogTarget::Stderr => (io::stderr().as_fd().try_clone_to_owned()?.into(), None),
            LogTarget::File(path) => (append_to(path)?, Some(path.clone())),
        };
        Ok(Target {
            path: path.clone(),
            output: Mutex::new(Output {
                file,
                path,
                torn: false,
                failing: None,
                reopening: None,
            }),
            reopen: AtomicBool::new(false),
        })
    }

    /// What is written to this file, too; not so for streams, which are never opened anew.
    pub fn is(&self, target: &LogTarget) -> bool {
        match (target, &self.path) {
            (LogTarget::File(path), Some(own)) => path == own,
            _ => false,
        }
    }

    /// As after an attempt to open it anew that failed; waits for nobody.
    pub fn reopen_later(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    pub fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whole lines; how many were lost.
    pub fn write(&self, bytes: &[u8]) -> u64 {
        let mut output = self.output();
        if self.reopen.swap(false, Ordering::Relaxed) {
            output.reopening.get_or_insert_with(Instant::now);
        }
        output.write(bytes)
    }
}

/// Non-blocking, which matters for a named pipe only: without a reader it cannot be opened, instead
/// of stopping a reload until somebody reads it.
fn append_to(path: &PathBuf) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK.bits();
    OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(flags)
        .open(path)
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> u64 {
        if self.reopening.is_some_and(|last| last.elapsed() >= AGAIN) {
            self.reopen();
        }
        let (written, result) = write_some(&mut self.file, bytes, self.torn);
        if written > 0 {
            self.torn = bytes[written - 1] != b'\n';
        }
        let rest = bytes[written..].iter();
        let lost = rest.filter(|&&byte| byte == b'\n').count() as u64;
        match result {
            Ok(()) => self.went_well(),
            Err(error) => self.failed(&error, lost),
        }
        lost
    }

    fn failed(&mut self, error: &io::Error, lost: u64) {
        if self.failing.is_none() {
            tracing::error!(%error, "the access log cannot be written, lines are dropped");
        }
        let before = self.failing.as_ref().map_or(0, |episode| episode.lost);
        self.failing = Some(Episode {
            last: Instant::now(),
            lost: before + lost,
        });
    }

    fn went_well(&mut self) {
        let over = |episode: &mut Episode| episode.last.elapsed() >= QUIET;
        if let Some(Episode { lost, .. }) = self.failing.take_if(over) {
            tracing::info!(lost, "the access log is written again");
        }
    }

    /// Where that fails the file stays the one that is open, and it is tried again.
    pub fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append_to(path) {
            Ok(file) => {
                tracing::info!(path = %path.display(), "access log reopened");
                (self.file, self.torn, self.reopening) = (file, false, None);
            }
            Err(error) => {
                if self.reopening.is_none() {
                    tracing::error!(
                        path = %path.display(), %error,
                        "access log cannot be reopened, the open one is written on"
                    );
                }
                self.reopening = Some(Instant::now());
            }
        }
    }
}

/// Writes `bytes`, after a line break where the target ends in a torn line; how many went out.
fn write_some(file: &mut File, bytes: &[u8], torn: bool) -> (usize, io::Result<()>) {
    if torn && let Err(error) = file.write_all(b"\n") {
        return (0, Err(error));
    }
    let mut written = 0;
    let mut stuck: Option<Instant> = None;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => (written, stuck) = (written + n, None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A named pipe, or one that somebody else made non-blocking before we inherited it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stuck.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return (written, Err(error));
                }
                thread::sleep(PAUSE);
            }
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
