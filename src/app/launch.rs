//! How this process was started, and by whom: everything that must be taken before the first
//! thread runs.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use socket2::{Domain, SockRef, Type};

use super::activation;
use super::activation::Passed;
use super::program::Program;
use super::signals;
use super::systemd::Notify;

/// Set for a process that is to replace the one that started it; its standard input is a socket
/// to that one.
pub(super) const REPLACES: &str = "EVENKEEL_UPGRADE";

/// See the module. Only a process of its own has one: `demo` and tests have none, and neither
/// replace themselves nor speak to a service manager.
#[derive(Debug)]
pub struct Launch {
    pub(super) program: Program,
    pub(super) passed: Passed,
    pub(super) notify: Notify,
    /// To the process that this one replaces.
    pub(super) predecessor: Option<UnixStream>,
}

impl Launch {
    /// To be called once, before any thread is started.
    pub fn take() -> io::Result<Self> {
        signals::hold()?;
        Ok(Launch {
            program: Program::this()?,
            passed: activation::take(),
            notify: Notify::from_environment(),
            predecessor: predecessor()?,
        })
    }
}

/// Standard input, if we were started to replace somebody. Afterwards there is nothing to read on
/// it, so that the other end sees the end of ours.
fn predecessor() -> io::Result<Option<UnixStream>> {
    if std::env::var_os(REPLACES).is_none() {
        return Ok(None);
    }
    let stdin = io::stdin();
    // The variable may have come down to a shell, and from there to us.
    let socket = SockRef::from(&stdin);
    let meant = socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
        && socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    if !meant {
        return Ok(None);
    }
    let stream = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    stream.set_nonblocking(true)?;
    Ok(Some(stream))
}
