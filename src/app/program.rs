//! What to start when this process is to be replaced: whatever then stands where we were started
//! from.
//!
//! `/proc/self/exe` names the file that runs, not where it was found: links are resolved, so that a
//! link that was pointed at a new version would be missed, and once the file was replaced it ends
//! in ` (deleted)`. So the name that we were called by counts, if it leads to us.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    /// As we were called.
    name: OsString,
    arguments: Vec<OsString>,
}

impl Program {
    /// This process'. To be called early: what is found by the name is compared with what runs.
    pub fn this() -> std::io::Result<Self> {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let running = std::env::current_exe()?;
        let search = std::env::var_os("PATH").unwrap_or_default();
        let path =
            called(Path::new(&name), &search, &running).unwrap_or_else(|| stripped(&running));
        Ok(Program {
            path,
            name,
            arguments: arguments.collect(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ready to be started; standard input is the caller's to say.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).args(&self.arguments);
        command
    }
}

/// Where `name` leads, if that is what runs. Links are not resolved: they may lead elsewhere later.
fn called(name: &Path, search: &OsString, running: &Path) -> Option<PathBuf> {
    // Already replaced: what stands there now is no stranger for being another file.
    let replaced = stripped(running) != *running;
    let ours = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| replaced && found.is_file())
            || same_file(path, Path::new("/proc/self/exe"))
            || same_file(path, running)
    };
    let found = if name.components().count() > 1 || name.is_absolute() {
        Some(name.to_owned())
    } else {
        std::env::split_paths(search)
            .map(|directory| directory.join(name))
            .find(|path| fs::metadata(path).is_ok_and(|found| found.is_file()))
    };
    let found = std::path::absolute(found?).ok()?;
    ours(&found).then_some(found)
}

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Without what the kernel adds to the name of a file that is gone.
fn stripped(running: &Path) -> PathBuf {
    let bytes = running.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    OsString::from_vec(bytes.to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_kept_and_a_stranger_is_not_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("evenkeel-1"), "1").expect("writes");
        fs::write(path("stranger"), "2").expect("writes");
        std::os::unix::fs::symlink("evenkeel-1", path("evenkeel")).expect("links");
        let running = path("evenkeel-1");
        let search = OsString::new();
        let found = |name: &Path| called(name, &search, &running);
        assert_eq!(found(&path("evenkeel")), Some(path("evenkeel")));
        assert_eq!(
            found(&path("stranger")),
            None,
            "a name that somebody made up"
        );
        assert_eq!(found(Path::new("evenkeel")), None, "not in the path");
        let search = directory.path().as_os_str().to_owned();
        let by_search = called(Path::new("evenkeel"), &search, &running);
        assert_eq!(by_search, Some(path("evenkeel")));
    }

    #[test]
    fn what_has_replaced_us_is_found_where_we_were() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("evenkeel");
        let gone = directory.path().join("evenkeel (deleted)");
        assert_eq!(stripped(&gone), path);
        let search = OsString::new();
        assert_eq!(called(&path, &search, &gone), None, "nothing stands there");
        fs::write(&path, "new").expect("writes");
        assert_eq!(called(&path, &search, &gone), Some(path));
    }
}
