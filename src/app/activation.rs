//! Sockets that the service manager opened for us: systemd's socket activation (`sd_listen_fds(3)`).
//!
//! They are there before us and stay when we crash, so clients wait instead of being refused; and
//! ports below 1024 need no capability. All workers share each of them.

use std::env;
use std::os::fd::AsFd;
use std::path::Path;

use listenfd::ListenFd;
use rustix::net::sockopt;
use socket2::Socket;

use crate::config::model::BindAddress;
use crate::listener::inherited::Handed;

/// What was passed to this process.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub sockets: Vec<Handed>,
    /// Why others are not used, for the log.
    pub refused: Vec<String>,
}

/// Takes them. To be called before any thread is started: it clears the environment.
pub(super) fn take() -> Passed {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    // Without it anybody's descriptors could be meant, and one of them may be ours already.
    let meant = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !meant {
        return Passed::default();
    }
    let mut passed = Passed::default();
    let mut descriptors = ListenFd::from_env();
    for index in 0..descriptors.len() {
        let name = names.get(index).filter(|name| !name.is_empty());
        let name = name.map(|name| (*name).to_owned());
        match one(&mut descriptors, index, name.clone()) {
            Ok(handed) => passed.sockets.push(handed),
            Err(why) => {
                let name = name.unwrap_or_else(|| "no name".to_owned());
                let number = 3 + index;
                passed
                    .refused
                    .push(format!("descriptor {number} ({name}): {why}"));
            }
        }
    }
    passed
}

fn one(
    descriptors: &mut ListenFd,
    index: usize,
    name: Option<String>,
) -> Result<Handed, &'static str> {
    let socket = match descriptors.take_tcp_listener(index) {
        Ok(Some(socket)) => Socket::from(socket),
        _ => match descriptors.take_unix_listener(index) {
            Ok(Some(socket)) => Socket::from(socket),
            _ => {
                // Closed: nobody answers there either way.
                drop(descriptors.take_udp_socket(index));
                drop(descriptors.take_unix_datagram(index));
                return Err("is no stream socket");
            }
        },
    };
    if !sockopt::socket_acceptconn(socket.as_fd()).unwrap_or(false) {
        return Err("does not listen (Accept=no is what is needed)");
    }
    let bound = bound(&socket).ok_or("has no address that a listener can have")?;
    Ok(Handed {
        name,
        configured: None,
        bound,
        // The file is the service manager's.
        file: None,
        socket,
    })
}

/// Where a listening socket is.
pub(super) fn bound(socket: &Socket) -> Option<BindAddress> {
    let address = socket.local_addr().ok()?;
    if let Some(address) = address.as_socket() {
        return Some(BindAddress::Tcp(address));
    }
    // One in the abstract namespace has only its name.
    let path = address.as_pathname().unwrap_or(Path::new("@"));
    address.is_unix().then(|| BindAddress::Unix(path.into()))
}
