//! A listening socket of one worker, TCP or unix, and what comes out of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::util::unix_socket::{Identity, SocketFile};
use crate::wire::io::Socket;

/// A listening socket that no worker has taken yet.
#[derive(Debug)]
pub enum Listening {
    Tcp(StdTcpListener),
    /// A descriptor of the socket that all workers share, and its file.
    Unix(StdUnixListener, Arc<SocketFile>),
}

/// The same as one worker polls it.
#[derive(Debug)]
pub enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<SocketFile>),
}

/// A second descriptor of a listening socket, for another process.
#[derive(Debug)]
pub struct Lent {
    pub socket: OwnedFd,
    /// Of a unix socket's file, if that is ours.
    pub file: Option<Identity>,
}

/// A connection that belongs to no event loop.
#[derive(Debug)]
pub enum Detached {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

/// A client over a unix socket has no address of its own: it is on this machine.
const UNIX_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Acceptor {
    pub fn new(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket, file) => Acceptor::Unix(UnixListener::from_std(socket)?, file),
        })
    }

    /// `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Acceptor::Tcp(socket) => Some(socket.local_addr().ok()?.port()),
            Acceptor::Unix(..) => None,
        }
    }

    /// On a listening socket this only changes the length of its queue (listen(2)).
    pub fn set_backlog(&self, backlog: u32) {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        // Fails on no listening socket.
        let _ = match self {
            Acceptor::Tcp(socket) => socket2::SockRef::from(socket).listen(backlog),
            Acceptor::Unix(socket, _) => socket2::SockRef::from(socket).listen(backlog),
        };
    }

    pub fn poll_accept(&self, cx: &mut TaskContext<'_>) -> Poll<io::Result<(Socket, SocketAddr)>> {
        match self {
            Acceptor::Tcp(socket) => socket
                .poll_accept(cx)
                .map_ok(|(stream, peer)| (Socket::Tcp(stream), peer)),
            Acceptor::Unix(socket, _) => socket
                .poll_accept(cx)
                .map_ok(|(stream, _)| (Socket::Unix(stream), UNIX_PEER)),
        }
    }

    pub fn lend(&self) -> io::Result<Lent> {
        Ok(match self {
            Acceptor::Tcp(socket) => Lent {
                socket: socket.as_fd().try_clone_to_owned()?,
                file: None,
            },
            Acceptor::Unix(socket, file) => Lent {
                socket: socket.as_fd().try_clone_to_owned()?,
                file: file.identity(),
            },
        })
    }

    /// Another process accepts on the socket as well: letting go of it closes nothing, and its
    /// file stays.
    pub fn leave(&self) {
        if let Acceptor::Unix(_, file) = self {
            file.leave();
        }
    }

    /// Out of the event loop, for a last look into the queue.
    pub fn detach(self) -> io::Result<Listening> {
        Ok(match self {
            Acceptor::Tcp(socket) => Listening::Tcp(socket.into_std()?),
            Acceptor::Unix(socket, file) => Listening::Unix(socket.into_std()?, file),
        })
    }
}

impl Listening {
    /// Nobody new finds it from here on, where that can be said.
    pub fn hide(&self) {
        if let Listening::Unix(_, file) = self {
            file.remove();
        }
    }

    /// Of a unix socket whose other workers have let go of it: refuses whoever has found it but is
    /// not in its queue yet. They would be reset when it closes, after they could connect.
    pub fn last(self) -> Option<Self> {
        let Listening::Unix(socket, file) = self else {
            return None;
        };
        let file = Arc::into_inner(file)?;
        // What is in the queue can still be accepted; a failure only leaves those others to chance.
        let _ = socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Read);
        Some(Listening::Unix(socket, Arc::new(file)))
    }

    /// `WouldBlock` when nobody waits.
    pub fn accept(&self) -> io::Result<(Detached, SocketAddr)> {
        match self {
            Listening::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Detached::Tcp(stream), peer))
            }
            Listening::Unix(socket, _) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Detached::Unix(stream), UNIX_PEER))
            }
        }
    }
}

impl Detached {
    /// Out of this worker's event loop. Plain sockets only: a fresh connection is nothing else.
    pub fn from_socket(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Socket::Unix(stream) => stream.into_std().map(Detached::Unix),
            Socket::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Into this worker's event loop.
    pub fn into_socket(self) -> io::Result<Socket> {
        Ok(match self {
            Detached::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Detached::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}
