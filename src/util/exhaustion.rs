//! Which failures of a system call say that this process or machine has nothing left to give.

use std::io;

use nix::errno::Errno;

/// No descriptor, no memory, no free local port: nothing that the other side did.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let ours = [
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOBUFS,
        Errno::ENOMEM,
        Errno::EADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| ours.contains(&Errno::from_raw(code)))
}
