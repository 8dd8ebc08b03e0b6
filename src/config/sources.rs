//! The files that a configuration was read from.

use std::path::{Path, PathBuf};

/// Everything that was read for one load, whether it succeeded or not: what a watcher watches.
#[derive(Debug, Clone, Default)]
pub struct Sources {}

impl Sources {
    /// The files that were read, the main one first, as named (relative to the working directory).
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::empty()
    }

    /// The directories in which a change may matter: of the files (before and behind symlinks) and
    /// of the include patterns.
    pub fn directories(&self) -> Vec<PathBuf> {
        todo!()
    }

    /// Hash of what was read: the set of files and their bytes.
    pub fn fingerprint(&self) -> u64 {
        todo!()
    }

    /// The same hash of what is there now (patterns expanded again); differs from
    /// [`Sources::fingerprint`] when a load would read something else.
    pub fn fingerprint_now(&self) -> u64 {
        todo!()
    }
}
