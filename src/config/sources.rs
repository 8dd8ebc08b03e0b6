//! The files that a configuration is read from: which, and how to find out that they changed.
//!
//! Whatever the path leads to, reading it must not block and must not take more memory than any
//! sensible file needs: a FIFO is refused before a byte is awaited, a huge file after 16 MiB.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::diagnostics::within;
use crate::config::glob;
use crate::config::tree::Span;

/// No hand-written file is larger; a log file given by mistake is.
const MAX_FILE: u64 = 16 << 20;

/// One file as it was read.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    /// As named: on the command line, or by an include relative to the including file.
    pub path: PathBuf,
    /// Behind symlinks.
    pub canonical: PathBuf,
    pub text: Arc<str>,
    /// Offsets at which lines begin: looked up for every message and every value that is shown.
    line_starts: Arc<[usize]>,
    /// Of the bytes, which need not be text.
    pub hash: u64,
}

impl SourceFile {
    pub fn new(path: PathBuf, canonical: PathBuf, bytes: &[u8]) -> Self {
        let text: Arc<str> = Arc::from(String::from_utf8_lossy(bytes).as_ref());
        let after_newline = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        SourceFile {
            path,
            canonical,
            line_starts: std::iter::once(0).chain(after_newline).collect(),
            text,
            hash: content_hash(bytes),
        }
    }

    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// From 1, columns in characters.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let at = within(&self.text, offset..offset, &(0..self.text.len())).start;
        let line = self.line(at);
        let before = &self.text[self.line_starts[line - 1]..at];
        (line, before.chars().count() + 1)
    }

    /// The number of the line that holds the byte at `offset`, from 1.
    fn line(&self, offset: usize) -> usize {
        self.line_starts
            .partition_point(|start| *start <= offset)
            .max(1)
    }

    /// The text of a line, from 1; empty where there is none.
    pub fn line_text(&self, line: usize) -> &str {
        let start = line.checked_sub(1).and_then(|at| self.line_starts.get(at));
        let end = self.line_starts.get(line).copied();
        let text = start.and_then(|start| self.text.get(*start..end.unwrap_or(self.text.len())));
        text.unwrap_or_default()
    }

    /// The whole lines around `spans`, and the number of the first.
    pub fn window<'a>(
        &self,
        spans: impl Iterator<Item = &'a Span>,
    ) -> Option<(Range<usize>, usize)> {
        let whole = 0..self.text.len();
        let ranges = spans.map(|span| within(&self.text, span.start..span.end, &whole));
        let all = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
        let (first, last) = (self.line(all.start), self.line(all.end));
        let next = self
            .line_starts
            .get(last)
            .copied()
            .unwrap_or(self.text.len() + 1);
        let start = self.line_starts[first - 1];
        let end = (next - 1).min(self.text.len());
        let end = start + self.text[start..end].trim_end_matches('\r').len();
        Some((start..end, first))
    }

    pub fn clamp(&self, span: Span, window: &Range<usize>) -> Range<usize> {
        within(&self.text, span.start..span.end, window)
    }
}

/// One `include` pattern and what it matched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    /// Relative to the including file already.
    pub path: PathBuf,
    pub matched: Vec<PathBuf>,
    pub span: Span,
}

/// A file that a value names (a certificate), as it was read.
#[derive(Debug, Clone)]
pub(super) struct NamedFile {
    pub path: PathBuf,
    /// Behind symlinks.
    pub canonical: PathBuf,
    hash: u64,
}

/// Everything that was read for one load, whether it succeeded or not: what a watcher watches.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub(super) files: Vec<SourceFile>,
    pub(super) patterns: Vec<Pattern>,
    /// What values name; part of the configuration like what it is written in.
    named: Vec<NamedFile>,
    /// Named but not readable.
    pub(super) missing: Vec<PathBuf>,
}

impl Sources {
    /// Reads a file that a value in the file at `place` names: relative to that one. From now on a
    /// change of it is a change of the configuration.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, as a sentence without its name.
    pub(super) fn read_named(&mut self, name: &str, place: Span) -> Result<Vec<u8>, String> {
        let beside = self.file(place.file).and_then(|file| file.path.parent());
        let path = beside.map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
        let bytes = match read_bytes(&path) {
            Ok(bytes) => bytes,
            Err(cause) => {
                if !self.missing.contains(&path) {
                    self.missing.push(path);
                }
                return Err(cause);
            }
        };
        if !self.named.iter().any(|file| file.path == path) {
            let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
            let hash = content_hash(&bytes);
            self.named.push(NamedFile {
                path,
                canonical,
                hash,
            });
        }
        Ok(bytes)
    }

    /// The files that values name.
    pub fn named(&self) -> impl Iterator<Item = &Path> {
        self.named.iter().map(|file| file.path.as_path())
    }

    pub(super) fn file(&self, index: u32) -> Option<&SourceFile> {
        self.files.get(index as usize)
    }

    pub(super) fn main_name(&self) -> String {
        let first = self
            .files
            .first()
            .map(|file| &file.path)
            .or(self.missing.first());
        first.map_or_else(String::new, |path| path.display().to_string())
    }

    /// The files that were read, the main one first, as named (relative to the working directory).
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The directories in which a change may matter: of the files (before and behind symlinks) and
    /// of the include patterns.
    pub fn directories(&self) -> Vec<PathBuf> {
        let named = self.files.iter().map(|file| &file.path);
        let behind = self.files.iter().map(|file| &file.canonical);
        let included = self.patterns.iter().map(|pattern| &pattern.path);
        let by_values = self
            .named
            .iter()
            .flat_map(|file| [&file.path, &file.canonical]);
        let all = named
            .chain(behind)
            .chain(included)
            .chain(&self.missing)
            .chain(by_values);
        let parents = all.filter_map(|path| {
            Some(match path.parent()? {
                parent if parent.as_os_str().is_empty() => PathBuf::from("."),
                parent => glob::literal_base(parent),
            })
        });
        parents.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The include patterns that matched in `previous` and match nothing here.
    pub(super) fn emptied_since<'a>(&'a self, previous: &'a Sources) -> Vec<&'a Pattern> {
        let had = |pattern: &&Pattern| {
            previous
                .patterns
                .iter()
                .any(|old| old.path == pattern.path && !old.matched.is_empty())
        };
        self.patterns
            .iter()
            .filter(|pattern| pattern.matched.is_empty())
            .filter(had)
            .collect()
    }

    /// Hash of what was read: the files, their bytes, and what the patterns matched.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for file in &self.files {
            (&file.path, Some(file.hash)).hash(&mut hasher);
        }
        for file in &self.named {
            (&file.path, Some(file.hash)).hash(&mut hasher);
        }
        for path in &self.missing {
            (path, None::<u64>).hash(&mut hasher);
        }
        for pattern in &self.patterns {
            (&pattern.path, &pattern.matched).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The same hash of what is there now (patterns expanded again); differs from
    /// [`Sources::fingerprint`] when a load would read something else.
    pub fn fingerprint_now(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for path in self
            .files
            .iter()
            .map(|file| &file.path)
            .chain(self.named.iter().map(|file| &file.path))
            .chain(&self.missing)
        {
            (
                path,
                read_bytes(path).ok().map(|bytes| content_hash(&bytes)),
            )
                .hash(&mut hasher);
        }
        for pattern in &self.patterns {
            (&pattern.path, glob::expand(&pattern.path)).hash(&mut hasher);
        }
        hasher.finish()
    }
}

pub(super) fn content_hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Why a file cannot be read, as a sentence without its name.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let file = open(path).map_err(|error| plain(&error))?;
    let metadata = file.metadata().map_err(|error| plain(&error))?;
    if metadata.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let too_large = || "it is larger than 16 MiB".to_owned();
    // Not a byte of it, then: it is looked at again and again.
    if metadata.len() > MAX_FILE {
        return Err(too_large());
    }
    // `take` hides the size of the file from the vector, which would feel its way in small steps.
    let size = usize::try_from(metadata.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| plain(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Non-blocking, because opening a FIFO waits for a writer otherwise.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}

/// "no such file or directory" without Rust's "(os error 2)".
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let cut = text.find(" (os error").unwrap_or(text.len());
    text[..cut].to_lowercase()
}
