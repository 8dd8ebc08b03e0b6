//! A unix socket at a path, to listen on.
//!
//! A socket's file outlives its process, so one that nobody listens on is replaced; one that
//! somebody answers on is not, nor is anything that is no socket. It is bound in place: nobody can
//! connect before `listen`, and the mode is set by then.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

/// Device and inode of a socket's file.
pub type Identity = (u64, u64);

/// The file of a bound socket. Removed when this goes, or before, unless somebody has taken its
/// place since or it was left to another process.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// `None`: it is not ours to remove.
    identity: Option<Identity>,
    left: AtomicBool,
}

/// Binds without listening; nonblocking. `AddrInUse` where somebody listens, or something else
/// stands there.
pub fn bind(path: &Path, mode: u32) -> io::Result<(Socket, SocketFile)> {
    make_way(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
        left: AtomicBool::new(false),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((socket, file))
}

/// Removes what a process that is gone left there.
fn make_way(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One whose queue is full must not be waited for.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl SocketFile {
    /// Of a socket that another process bound. `identity`: of the file that becomes ours with
    /// [`SocketFile::own`], `None` where the other one keeps it for good.
    pub fn taken_over(path: &Path, identity: Option<Identity>) -> Self {
        SocketFile {
            path: path.to_owned(),
            identity,
            left: AtomicBool::new(true),
        }
    }

    /// The other process gives it up: from here on it goes with this.
    pub fn own(&self) {
        self.left.store(false, Ordering::Relaxed);
    }

    /// `None`: it is not ours to remove.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Another process has the socket now, and the file with it.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// From here on nobody finds the socket; who has found it is not concerned.
    pub fn remove(&self) {
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Nothing is lost when it stays: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn one_that_is_left_behind_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("s.sock");
        drop(UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "left behind");
        let (socket, file) = bind(&path, 0o666).expect("replaces it");
        let mode = fs::metadata(&path).expect("is there").mode();
        assert_eq!(mode & 0o777, 0o666);
        UnixStream::connect(&path).expect_err("nobody listens yet");
        socket.listen(1).expect("listens");
        let error = bind(&path, 0o666).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("the first one still listens");
        drop(file);
        assert!(!path.exists(), "removed with its owner");
    }

    #[test]
    fn what_has_taken_its_place_stays() {
        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("s.sock");
        let (_socket, file) = bind(&path, 0o600).expect("binds");
        fs::rename(&path, directory.path().join("old")).expect("moves");
        fs::write(&path, "something else").expect("can be written");
        drop(file);
        assert!(path.exists());
        let error = bind(&path, 0o600).expect_err("no socket stands there");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_file_that_was_left_or_is_not_ours_stays() {
        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("s.sock");
        let (socket, file) = bind(&path, 0o600).expect("binds");
        let identity = file.identity();
        file.leave();
        drop(file);
        assert!(path.exists(), "left to whoever has the socket");
        drop(SocketFile::taken_over(&path, None));
        assert!(path.exists(), "not ours");
        drop(SocketFile::taken_over(&path, identity));
        assert!(path.exists(), "not given up by the other process");
        let file = SocketFile::taken_over(&path, identity);
        file.own();
        drop(file);
        assert!(!path.exists(), "ours since it was given up");
        drop(socket);
    }

    #[test]
    fn a_full_queue_is_a_living_one() {
        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("s.sock");
        let (socket, _file) = bind(&path, 0o600).expect("binds");
        socket.listen(0).expect("listens");
        let address = SockAddr::unix(&path).expect("a path");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let client = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
                client.set_nonblocking(true).expect("is a socket");
                let connected = client.connect(&address).is_ok();
                (client, connected)
            })
            .collect();
        assert!(!waiting[2].1, "the queue is full");
        let error = bind(&path, 0o600).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
