//! Where the access log goes, and how it fails.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::writer::PAUSE;
use crate::config::model::LogTarget;

/// How long a pipe may take nothing before a batch is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines go. Only the writer's thread touches what is inside.
#[derive(Debug)]
pub(super) struct Target(Mutex<Output>);

#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// Of a file that can be opened anew.
    path: Option<PathBuf>,
    /// The last write ended inside a line.
    torn: bool,
    /// Writing fails; said once until it works again.
    failing: bool,
}

impl Target {
    pub fn open(target: &LogTarget) -> io::Result<Self> {
        let (file, path) = match target {
            LogTarget::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            LogTarget::Stderr => (io::stderr().as_fd().try_clone_to_owned()?.into(), None),
            LogTarget::File(path) => (append_to(path)?, Some(path.clone())),
        };
        Ok(Target(Mutex::new(Output {
            file,
            path,
            torn: false,
            failing: false,
        })))
    }

    pub fn output(&self) -> MutexGuard<'_, Output> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Writes whole lines; how many were lost.
    pub fn write(&mut self, bytes: &[u8]) -> u64 {
        let (written, result) = write_some(&mut self.file, bytes, self.torn);
        if written > 0 {
            self.torn = bytes[written - 1] != b'\n';
        }
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, "the access log cannot be written, lines are dropped");
                }
                self.failing = true;
            }
        }
        bytes[written..]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count() as u64
    }

    pub fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append_to(path) {
            Ok(file) => {
                tracing::info!(path = %path.display(), "access log reopened");
                (self.file, self.torn) = (file, false);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "access log cannot be reopened");
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
