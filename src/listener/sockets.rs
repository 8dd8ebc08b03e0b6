//! Sockets of a listener: bound, proven ours, then listening.
//!
//! One `SO_REUSEPORT` socket per worker lets the kernel spread connections without a shared
//! queue. The same option lets a second process of the same user share the port in silence, so a
//! plain bind (`SO_REUSEADDR` only) comes first: it fails where anybody listens. It is left out
//! where a socket of ours holds or overlaps the address, because it would find that one.
//!
//! `[::]` takes IPv4 as well, as with most servers; `0.0.0.0` next to it on the same port is fine
//! too (the kernel prefers the more specific family).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Why a listener cannot have its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind {address} (listener \"{listener}\"){}", hint(cause))]
pub struct BindError {
    pub address: SocketAddr,
    pub listener: String,
    #[source]
    pub cause: io::Error,
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => ": another process listens there",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => ": no interface of this machine has this address",
        _ => "",
    }
}

/// The sockets of one listener: they own the port, but nobody can connect yet.
#[derive(Debug)]
pub struct Bound {
    /// With the port that the system chose where the configured one is 0.
    pub address: SocketAddr,
    sockets: Vec<Socket>,
}

/// Binds `count` sockets to `address`. `held`: the addresses that sockets of ours have now.
pub fn bind(address: SocketAddr, count: usize, held: &[SocketAddr]) -> io::Result<Bound> {
    if address.port() != 0 && !held.iter().any(|other| overlap(*other, address)) {
        open(address, false)?;
    }
    let first = open(address, true)?;
    let bound = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    while sockets.len() < count.max(1) {
        sockets.push(open(bound, true)?);
    }
    Ok(Bound {
        address: bound,
        sockets,
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

    pub fn into_listeners(self) -> Vec<TcpListener> {
        self.sockets.into_iter().map(TcpListener::from).collect()
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

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn port_0_is_one_port_for_all_sockets() {
        let bound = bind(loopback(), 3, &[]).expect("loopback can be bound");
        assert_ne!(bound.address.port(), 0);
        let address = bound.address;
        for listener in bound.into_listeners() {
            assert_eq!(listener.local_addr().expect("bound"), address);
        }
    }

    #[test]
    fn a_second_owner_is_refused_even_though_ports_are_shared() {
        let first = bind(loopback(), 2, &[]).expect("loopback can be bound");
        first.listen(16).expect("nothing is in the way");
        let error = bind(first.address, 2, &[]).expect_err("the port has an owner");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        bind(first.address, 2, &[first.address]).expect("the owner itself may add sockets");
    }

    #[test]
    fn an_overlapping_address_of_ours_is_no_obstacle() {
        let narrow = bind(loopback(), 1, &[]).expect("loopback can be bound");
        narrow.listen(16).expect("nothing is in the way");
        let wide = SocketAddr::from(([0, 0, 0, 0], narrow.address.port()));
        bind(wide, 1, &[]).expect_err("for a stranger it is");
        bind(wide, 1, &[narrow.address]).expect("for us it is not");
    }

    #[test]
    fn the_unspecified_v6_address_takes_v4_too() {
        let any = SocketAddr::from(([0u16; 8], 0));
        let Ok(bound) = bind(any, 1, &[]) else {
            return; // A machine without IPv6.
        };
        bound.listen(16).expect("nothing is in the way");
        let v4 = SocketAddr::from(([127, 0, 0, 1], bound.address.port()));
        std::net::TcpStream::connect(v4).expect("IPv4 arrives at [::]");
    }

    #[test]
    fn accepted_sockets_send_small_answers_at_once() {
        let bound = bind(loopback(), 1, &[]).expect("loopback can be bound");
        bound.listen(16).expect("nothing is in the way");
        let _client = std::net::TcpStream::connect(bound.address).expect("it listens");
        let socket = &bound.into_listeners()[0];
        socket.set_nonblocking(false).expect("is a socket");
        let (stream, _) = socket.accept().expect("somebody has connected");
        assert!(stream.nodelay().expect("is a socket"));
    }
}
