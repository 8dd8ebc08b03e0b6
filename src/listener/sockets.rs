//! Sockets of a listener: bound, proven ours, then listening.
//!
//! One `SO_REUSEPORT` socket per worker lets the kernel spread connections without a shared
//! queue. The same option lets a second process of the same user share the port in silence, so a
//! plain bind (`SO_REUSEADDR` only) comes first: it fails where anybody listens. It is left out
//! where a socket of ours holds or overlaps the address, because it would find that one.
//!
//! `[::]` takes IPv4 as well, as with most servers; `0.0.0.0` next to it on the same port is fine
//! too (the kernel prefers the more specific family).
//!
//! Sockets that come from elsewhere ([`super::inherited`]) are all kept: closing one of them, or not
//! accepting on it, loses the connections that the kernel has put into its queue. Where they are
//! fewer than the workers more are bound next to them, or, where that is not possible, workers share.
//!
//! A unix socket is one for all workers, because `SO_REUSEPORT` means nothing there: each has its
//! own descriptor of it. Like nginx's it has mode 0666: who may enter its directory may connect.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::acceptor::Listening;
use super::inherited::Handed;
use crate::config::model::BindAddress;
use crate::util::unix_socket;
use crate::util::unix_socket::SocketFile;

/// Why a listener cannot have its address.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot bind {address} (listener \"{listener}\"){}",
    hint(address, cause)
)]
pub struct BindError {
    pub address: BindAddress,
    pub listener: String,
    #[source]
    pub cause: io::Error,
}

fn hint(address: &BindAddress, cause: &io::Error) -> &'static str {
    match (address, cause.kind()) {
        (BindAddress::Tcp(_), io::ErrorKind::AddrInUse) => ": another process listens there",
        (BindAddress::Tcp(_), io::ErrorKind::PermissionDenied) => {
            ": ports below 1024 need CAP_NET_BIND_SERVICE"
        }
        (BindAddress::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            ": no interface of this machine has this address"
        }
        (BindAddress::Unix(_), io::ErrorKind::AddrInUse) => {
            ": another process listens there, or a file that is no socket is in the way"
        }
        (BindAddress::Unix(_), io::ErrorKind::NotFound) => ": its directory does not exist",
        _ => "",
    }
}

/// Whoever may enter the directory may connect.
const UNIX_MODE: u32 = 0o666;

/// The sockets of one listener: they own the port, but nobody can connect yet.
#[derive(Debug)]
pub struct Bound {
    /// With the port that the system chose where the configured one is 0.
    pub address: BindAddress,
    sockets: Vec<Socket>,
    /// Of a unix socket.
    file: Option<Arc<SocketFile>>,
}

/// Binds `count` sockets to `address`. `held`: the addresses that sockets of ours have now.
pub fn bind(address: &BindAddress, count: usize, held: &[BindAddress]) -> io::Result<Bound> {
    match address {
        BindAddress::Tcp(address) => bind_tcp(*address, count, held),
        BindAddress::Unix(path) => {
            let (first, file) = unix_socket::bind(path, UNIX_MODE)?;
            let mut sockets = vec![first];
            while sockets.len() < count.max(1) {
                sockets.push(sockets[0].try_clone()?);
            }
            Ok(Bound {
                address: address.clone(),
                sockets,
                file: Some(Arc::new(file)),
            })
        }
    }
}

/// What was handed to us for one listener, at least `count` sockets of it. `address`: as configured.
/// Those that are added do not listen before [`Bound::listen`].
pub fn adopt(address: &BindAddress, handed: Vec<Handed>, count: usize) -> io::Result<Bound> {
    let bound = handed
        .first()
        .map_or_else(|| address.clone(), |first| first.bound.clone());
    let file = match &bound {
        BindAddress::Unix(path) => {
            let identity = handed.iter().find_map(|handed| handed.file);
            Some(Arc::new(SocketFile::taken_over(path, identity)))
        }
        BindAddress::Tcp(_) => None,
    };
    let mut sockets: Vec<Socket> = handed.into_iter().map(|handed| handed.socket).collect();
    let given = sockets.len();
    for socket in &sockets {
        socket.set_nonblocking(true)?;
        if file.is_none() {
            socket.set_tcp_nodelay(true)?;
        }
    }
    let shares_port = file.is_none() && sockets.iter().all(|s| s.reuse_port().unwrap_or(false));
    while sockets.len() < count.max(1) {
        let another = match &bound {
            // Another user's sockets cannot be joined.
            BindAddress::Tcp(address) if shares_port => open(*address, true).ok(),
            _ => None,
        };
        let next = match another {
            Some(socket) => socket,
            None => sockets[sockets.len() % given.max(1)].try_clone()?,
        };
        sockets.push(next);
    }
    Ok(Bound {
        address: bound,
        sockets,
        file,
    })
}

fn bind_tcp(address: SocketAddr, count: usize, held: &[BindAddress]) -> io::Result<Bound> {
    let mut held = held.iter().filter_map(BindAddress::tcp);
    if address.port() != 0 && !held.any(|other| overlap(other, address)) {
        open(address, false)?;
    }
    let first = open(address, true)?;
    let bound = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    while sockets.len() < count.max(1) {
        sockets.push(open(bound, true)?);
    }
    Ok(Bound {
        address: BindAddress::Tcp(bound),
        sockets,
        file: None,
    })
}

impl Bound {
    /// From here on clients can connect: they wait in the backlog until a worker accepts.
    pub fn listen(&self, backlog: u32) -> io::Result<()> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        self.sockets
            .iter()
            .try_for_each(|socket| socket.listen(backlog))
    }

    /// The process that bound it, if that was another, has given it up.
    pub fn own(&self) {
        if let Some(file) = &self.file {
            file.own();
        }
    }

    /// As many as workers, or more.
    pub fn into_listeners(self) -> Vec<Listening> {
        let file = self.file;
        self.sockets
            .into_iter()
            .map(|socket| match &file {
                None => Listening::Tcp(socket.into()),
                Some(file) => Listening::Unix(socket.into(), file.clone()),
            })
            .collect()
    }
}

fn open(address: SocketAddr, share_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it (a copy of the listening one): no call per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_address(true)?;
    if share_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // Said explicitly: the default is a setting of the system.
        socket.set_only_v6(address.ip() != IpAddr::from([0u16; 8]))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// True when a socket at one of the two would be found in the way of one at the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> BindAddress {
        BindAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn tcp(bound: &Bound) -> SocketAddr {
        bound.address.tcp().expect("an IP address")
    }

    fn taken(bound: Bound) -> Vec<std::net::TcpListener> {
        let listeners = bound.into_listeners().into_iter();
        let socket = |listening| match listening {
            Listening::Tcp(socket) => socket,
            Listening::Unix(..) => panic!("is no unix socket"),
        };
        listeners.map(socket).collect()
    }

    #[test]
    fn port_0_is_one_port_for_all_sockets() {
        let bound = bind(&loopback(), 3, &[]).expect("loopback can be bound");
        let address = tcp(&bound);
        assert_ne!(address.port(), 0);
        for listener in taken(bound) {
            assert_eq!(listener.local_addr().expect("bound"), address);
        }
    }

    #[test]
    fn a_second_owner_is_refused_even_though_ports_are_shared() {
        let first = bind(&loopback(), 2, &[]).expect("loopback can be bound");
        first.listen(16).expect("nothing is in the way");
        let error = bind(&first.address, 2, &[]).expect_err("the port has an owner");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        bind(&first.address, 2, std::slice::from_ref(&first.address))
            .expect("the owner itself may add sockets");
    }

    #[test]
    fn an_overlapping_address_of_ours_is_no_obstacle() {
        let narrow = bind(&loopback(), 1, &[]).expect("loopback can be bound");
        narrow.listen(16).expect("nothing is in the way");
        let wide = SocketAddr::from(([0, 0, 0, 0], tcp(&narrow).port()));
        let wide = BindAddress::Tcp(wide);
        bind(&wide, 1, &[]).expect_err("for a stranger it is");
        bind(&wide, 1, &[narrow.address]).expect("for us it is not");
    }

    #[test]
    fn the_unspecified_v6_address_takes_v4_too() {
        let any = BindAddress::Tcp(SocketAddr::from(([0u16; 8], 0)));
        let Ok(bound) = bind(&any, 1, &[]) else {
            return; // A machine without IPv6.
        };
        bound.listen(16).expect("nothing is in the way");
        let v4 = SocketAddr::from(([127, 0, 0, 1], tcp(&bound).port()));
        std::net::TcpStream::connect(v4).expect("IPv4 arrives at [::]");
    }

    #[test]
    fn accepted_sockets_send_small_answers_at_once() {
        let bound = bind(&loopback(), 1, &[]).expect("loopback can be bound");
        bound.listen(16).expect("nothing is in the way");
        let _client = std::net::TcpStream::connect(tcp(&bound)).expect("it listens");
        let socket = &taken(bound)[0];
        socket.set_nonblocking(false).expect("is a socket");
        let (stream, _) = socket.accept().expect("somebody has connected");
        assert!(stream.nodelay().expect("is a socket"));
    }
}
