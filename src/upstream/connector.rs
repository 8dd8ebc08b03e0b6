//! From a server's address to a connected socket, within one deadline.
//!
//! A name with several addresses is tried address by address, from the one in use on, as long as
//! they refuse or cannot be reached; the one that answers is in use from then on. An address that
//! does not answer at all takes the deadline, and the next connect begins with another.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};

use crate::config::model::ServerAddress;
use crate::telemetry::ConnectResult;
use crate::upstream::resolve::Addresses;
use crate::util::exhaustion::is_exhaustion;
use crate::wire::client::HandshakeError;
use crate::wire::io::Socket;

/// What to connect to.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: ServerAddress,
    /// Of an IP address or a name; not used for `unix:`.
    pub addresses: Arc<Addresses>,
}

impl Target {
    /// Of `address`; a name is pending until [`super::resolve::spawn`] answers it.
    pub fn new(address: ServerAddress) -> Self {
        let addresses = match &address {
            ServerAddress::Ip(ip) => Addresses::fixed(*ip),
            ServerAddress::Name(..) | ServerAddress::Unix(_) => Addresses::pending(),
        };
        Target { address, addresses }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("connection refused")]
    Refused,
    /// The connect deadline passed, or the system's own.
    #[error("connecting timed out")]
    Timeout,
    #[error("unreachable")]
    Unreachable(#[source] Error),
    /// The name has no address.
    #[error("does not resolve: {0}")]
    Resolve(Arc<str>),
    /// Not the server's doing: we have no descriptor, port or memory left.
    #[error("nothing left to connect with")]
    Exhausted(#[source] Error),
    #[error("cannot connect")]
    Other(#[source] Error),
    /// Connected, and then no HTTP/2 where that is what is spoken.
    #[error("no HTTP/2")]
    Protocol(#[source] HandshakeError),
}

impl ConnectError {
    /// What `evenkeel_upstream_connects_total` counts.
    pub fn result(&self) -> ConnectResult {
        match self {
            ConnectError::Refused => ConnectResult::Refused,
            ConnectError::Timeout => ConnectResult::Timeout,
            ConnectError::Unreachable(_)
            | ConnectError::Resolve(_)
            | ConnectError::Exhausted(_)
            | ConnectError::Other(_)
            | ConnectError::Protocol(_) => ConnectResult::Failed,
        }
    }
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => ConnectError::Refused,
            ErrorKind::TimedOut => ConnectError::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                ConnectError::Unreachable(error)
            }
            _ if is_exhaustion(&error) => ConnectError::Exhausted(error),
            _ => ConnectError::Other(error),
        }
    }
}

/// Connects to `target`, giving up when `deadline` is ready. `port` overrides the target's own
/// where it has one (checks may have a port of their own). Small writes go out at once
/// (`TCP_NODELAY`).
pub async fn connect(
    target: &Target,
    port: Option<u16>,
    deadline: impl Future<Output = ()>,
) -> Result<Socket, ConnectError> {
    tokio::select! {
        biased;
        dialled = dial(target, port) => dialled,
        () = deadline => {
            if let Some(next) = target.addresses.list().get(1) {
                target.addresses.prefer(*next);
            }
            Err(ConnectError::Timeout)
        }
    }
}

async fn dial(target: &Target, port: Option<u16>) -> Result<Socket, ConnectError> {
    if let ServerAddress::Unix(path) = &target.address {
        return Ok(Socket::Unix(UnixStream::connect(path).await?));
    }
    target
        .addresses
        .ready()
        .await
        .map_err(ConnectError::Resolve)?;
    let addresses = target.addresses.list();
    let mut failure = ConnectError::Resolve("no address".into());
    for (index, address) in addresses.iter().enumerate() {
        match dial_tcp(*address, port).await {
            Ok(stream) => {
                if index > 0 {
                    target.addresses.prefer(*address);
                }
                return Ok(Socket::Tcp(stream));
            }
            // The first address's failure is the one to tell: it is the one in use.
            Err(error) if index == 0 => failure = error.into(),
            Err(_) => {}
        }
    }
    Err(failure)
}

async fn dial_tcp(mut address: SocketAddr, port: Option<u16>) -> Result<TcpStream, Error> {
    if let Some(port) = port {
        address.set_port(port);
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let address = listener.local_addr().expect("has an address");
        (listener, address)
    }

    async fn nobody() -> SocketAddr {
        listening().await.1
    }

    fn named(addresses: &[SocketAddr]) -> Target {
        let target = Target::new(ServerAddress::Name("app".into(), 80));
        target.addresses.publish(addresses);
        target
    }

    #[tokio::test]
    async fn tcp_and_unix_servers_are_connected_to() {
        let (_listener, address) = listening().await;
        let target = Target::new(ServerAddress::Ip(address));
        let stream = connect(&target, None, pending()).await.expect("connects");
        assert!(matches!(&stream, Socket::Tcp(tcp) if tcp.nodelay().expect("is a socket")));

        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("server.sock");
        let _listener = UnixListener::bind(&path).expect("binds");
        let target = Target::new(ServerAddress::Unix(path.into()));
        let stream = connect(&target, None, pending()).await.expect("connects");
        assert!(matches!(stream, Socket::Unix(_)));
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let refused = Target::new(ServerAddress::Ip(nobody().await));
        let error = connect(&refused, None, pending())
            .await
            .expect_err("nobody listens");
        assert_eq!(error.result(), ConnectResult::Refused);

        let unresolved = Target::new(ServerAddress::Name("app".into(), 80));
        unresolved.addresses.fail("no such name".into());
        let error = connect(&unresolved, None, pending())
            .await
            .expect_err("has no address");
        assert_eq!(error.to_string(), "does not resolve: no such name");

        let pending_name = Target::new(ServerAddress::Name("app".into(), 80));
        let error = connect(&pending_name, None, ready(()))
            .await
            .expect_err("is not resolved");
        assert_eq!(error.result(), ConnectResult::Timeout);

        let missing = Target::new(ServerAddress::Unix(
            std::path::Path::new("/nonexistent").into(),
        ));
        let error = connect(&missing, None, pending())
            .await
            .expect_err("is not there");
        assert_eq!(error.result(), ConnectResult::Failed);
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses_and_stays_in_use() {
        let (_listener, open) = listening().await;
        let target = named(&[
            nobody().await,
            SocketAddr::from((Ipv6Addr::LOCALHOST, 1)),
            open,
        ]);
        connect(&target, None, pending())
            .await
            .expect("the third answers");
        assert_eq!(target.addresses.preferred(), Some(open));
    }

    #[tokio::test]
    async fn a_connect_that_times_out_leaves_the_next_address_to_the_next_one() {
        let (_first, first) = listening().await;
        let (_second, second) = listening().await;
        let target = named(&[first, second]);
        // Even a loopback connect is told by the reactor, which has not run at the first poll.
        let error = connect(&target, None, ready(()))
            .await
            .expect_err("no time is given");
        assert!(matches!(error, ConnectError::Timeout), "not {error}");
        assert_eq!(target.addresses.preferred(), Some(second));
    }

    #[tokio::test]
    async fn an_own_port_overrides_the_targets() {
        let (_listener, open) = listening().await;
        let target = Target::new(ServerAddress::Ip(nobody().await));
        connect(&target, Some(open.port()), pending())
            .await
            .expect("its own port listens");
    }
}
