//! From a server's address to a connected socket, within one deadline.
//!
//! A name with several addresses is tried address by address, from the one in use on, as long as
//! they refuse or cannot be reached; the one that answers is in use from then on. An address that
//! does not answer at all takes the deadline, and the next connect begins with another.
//!
//! A PROXY header goes first, then comes the handshake of TLS: both belong to the connect, and so
//! does its deadline. Of a server that speaks TLS not a byte is taken before that.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::config::model::{ProxyProtocol, ServerAddress};
use crate::telemetry::ConnectResult;
use crate::tls::Secure;
use crate::upstream::resolve::Addresses;
use crate::upstream::secure::Security;
use crate::util::descriptors;
use crate::util::exhaustion::is_exhaustion;
use crate::wire::client::HandshakeError;
use crate::wire::io::Socket;
use crate::wire::proxy_protocol;
use crate::wire::tls::{self, TlsError};

/// A peer that vanished without a word (a host that lost power, a firewall that forgot) is found out
/// within 90 s where nothing else would: tunnels and streams of events may be silent for an hour.
///
/// TCP_USER_TIMEOUT would be quicker where bytes are on their way, but it also ends connections to
/// peers that only do not read for a while, and that is for `timeout.idle` and `tunnel` to judge.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// What to connect to.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: ServerAddress,
    /// Where that is; not used for `unix:`.
    pub addresses: Arc<Addresses>,
    /// What is spoken there now, if it is TLS.
    pub security: Arc<ArcSwapOption<Security>>,
    /// [`ProxyProtocol`] as a number, as it is now.
    pub introduction: Arc<AtomicU8>,
}

/// Reads such a number.
fn introduction(version: &AtomicU8) -> ProxyProtocol {
    match version.load(Relaxed) {
        n if n == ProxyProtocol::V1 as u8 => ProxyProtocol::V1,
        n if n == ProxyProtocol::V2 as u8 => ProxyProtocol::V2,
        _ => ProxyProtocol::Off,
    }
}

/// A connection that is ready for its first request.
#[derive(Debug)]
pub struct Connected {
    pub socket: Socket,
    /// The protocol that the server chose in the handshake of TLS.
    pub alpn: Option<Box<[u8]>>,
}

impl Target {
    /// Of `address`; a name is pending until somebody publishes its addresses.
    pub fn new(address: ServerAddress) -> Self {
        let addresses = match &address {
            ServerAddress::Ip(ip) => Addresses::fixed(*ip),
            _ => Addresses::pending(),
        };
        Target {
            address,
            addresses,
            security: Arc::default(),
            introduction: Arc::default(),
        }
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
    #[error("TLS failed")]
    Tls(#[source] TlsError),
}

impl ConnectError {
    /// What `evenkeel_upstream_connects_total` counts.
    pub fn result(&self) -> ConnectResult {
        match self {
            ConnectError::Refused => ConnectResult::Refused,
            ConnectError::Timeout => ConnectResult::Timeout,
            ConnectError::Tls(_) => ConnectResult::TlsFailed,
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

/// Connects to `target` for traffic, giving up when `deadline` is ready. `introduction`: a PROXY
/// header, or nothing. Small writes go out at once (`TCP_NODELAY`).
pub async fn connect(
    target: &Target,
    introduction: &[u8],
    deadline: impl Future<Output = ()>,
) -> Result<Connected, ConnectError> {
    let opening = async {
        let socket = dial(target, None, For::Traffic).await?;
        // Looked at now: a reload may have come while the dial went on.
        let security = target.security.load_full();
        let secure = security.as_ref().map(|security| security.traffic());
        let connected = open(socket, introduction, secure).await;
        if let Some(security) = security {
            match &connected {
                Ok(_) => security.went_well(),
                Err(ConnectError::Tls(error)) => security.failed(error),
                Err(_) => {}
            }
        }
        connected
    };
    within(target, opening, deadline).await
}

/// The same for a check, which may have a `port` and a way to speak (`secure`) of its own.
pub async fn connect_for_check(
    target: &Target,
    port: Option<u16>,
    secure: Option<&Secure>,
    deadline: impl Future<Output = ()>,
) -> Result<Socket, ConnectError> {
    // It is no client's connection.
    let introduction: &[u8] = match introduction(&target.introduction) {
        ProxyProtocol::Off => &[],
        ProxyProtocol::V1 => proxy_protocol::unknown_v1(),
        ProxyProtocol::V2 => proxy_protocol::local_v2(),
    };
    let opening = async {
        let socket = dial(target, port, For::Check).await?;
        open(socket, introduction, secure).await
    };
    Ok(within(target, opening, deadline).await?.socket)
}

async fn within<T>(
    target: &Target,
    opening: impl Future<Output = Result<T, ConnectError>>,
    deadline: impl Future<Output = ()>,
) -> Result<T, ConnectError> {
    tokio::select! {
        biased;
        opened = opening => opened,
        () = deadline => {
            Err(match target.addresses.list().is_empty() && target.address.is_name() {
                true => ConnectError::Resolve("no answer from the name server yet".into()),
                false => ConnectError::Timeout,
            })
        }
    }
}

/// What comes before the first request.
async fn open(
    mut socket: Socket,
    introduction: &[u8],
    secure: Option<&Secure>,
) -> Result<Connected, ConnectError> {
    if !introduction.is_empty() {
        socket.write_all(introduction).await?;
    }
    let Some(secure) = secure else {
        return Ok(Connected { socket, alpn: None });
    };
    let (socket, handshaken) = tls::connect(socket, secure.config.clone(), secure.name.clone())
        .await
        .map_err(ConnectError::Tls)?;
    Ok(Connected {
        socket,
        alpn: handshaken.alpn,
    })
}

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// The last descriptors are not for it, nor while it connects.
    Traffic,
    Check,
}

impl For {
    fn may_have(self, socket: &impl AsRawFd) -> Result<(), Error> {
        match self == For::Traffic && descriptors::is_last(socket.as_raw_fd()) {
            true => Err(Errno::EMFILE.into()),
            false => Ok(()),
        }
    }
}

async fn dial(target: &Target, port: Option<u16>, who: For) -> Result<Socket, ConnectError> {
    if let ServerAddress::Unix(path) = &target.address {
        let stream = UnixStream::connect(path).await?;
        who.may_have(&stream)?;
        return Ok(Socket::Unix(stream));
    }
    let addresses = target
        .addresses
        .ready()
        .await
        .map_err(ConnectError::Resolve)?;
    // More than one only for those that waited for the first answer of a name: each of them
    // begins somewhere else, so that not all of them go to one server.
    let first = fastrand::usize(..addresses.len().max(1));
    let (later, earlier) = addresses.split_at(first);
    let mut failure = ConnectError::Resolve("no address".into());
    for (index, address) in earlier.iter().chain(later).enumerate() {
        match dial_tcp(*address, port, who).await {
            Ok(stream) => return Ok(Socket::Tcp(stream)),
            Err(error) if index == 0 => failure = error.into(),
            Err(_) => {}
        }
    }
    Err(failure)
}

async fn dial_tcp(
    mut address: SocketAddr,
    port: Option<u16>,
    who: For,
) -> Result<TcpStream, Error> {
    if let Some(port) = port {
        address.set_port(port);
    }
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    who.may_have(&socket)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
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
        let stream = connect(&target, &[], pending())
            .await
            .expect("connects")
            .socket;
        assert!(matches!(&stream, Socket::Tcp(tcp) if tcp.nodelay().expect("is a socket")));
        assert!(matches!(&stream, Socket::Tcp(tcp)
            if SockRef::from(tcp).keepalive().expect("is a socket")));

        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("server.sock");
        let _listener = UnixListener::bind(&path).expect("binds");
        let target = Target::new(ServerAddress::Unix(path.into()));
        let stream = connect(&target, &[], pending())
            .await
            .expect("connects")
            .socket;
        assert!(matches!(stream, Socket::Unix(_)));
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let refused = Target::new(ServerAddress::Ip(nobody().await));
        let error = connect(&refused, &[], pending())
            .await
            .expect_err("nobody listens");
        assert_eq!(error.result(), ConnectResult::Refused);

        let unresolved = Target::new(ServerAddress::Name("app".into(), 80));
        unresolved.addresses.fail("no such name".into());
        let error = connect(&unresolved, &[], pending())
            .await
            .expect_err("has no address");
        assert_eq!(error.to_string(), "does not resolve: no such name");

        let pending_name = Target::new(ServerAddress::Name("app".into(), 80));
        let error = connect(&pending_name, &[], ready(()))
            .await
            .expect_err("is not resolved");
        assert!(matches!(error, ConnectError::Resolve(_)), "not {error}");

        let missing = Target::new(ServerAddress::Unix(
            std::path::Path::new("/nonexistent").into(),
        ));
        let error = connect(&missing, &[], pending())
            .await
            .expect_err("is not there");
        assert_eq!(error.result(), ConnectResult::Failed);
    }

    #[tokio::test]
    async fn who_waited_for_a_name_tries_all_of_its_addresses() {
        let (_listener, open) = listening().await;
        let target = named(&[
            nobody().await,
            SocketAddr::from((Ipv6Addr::LOCALHOST, 1)),
            open,
        ]);
        for _ in 0..10 {
            connect(&target, &[], pending())
                .await
                .expect("the third answers");
        }
    }

    #[tokio::test]
    async fn an_own_port_overrides_the_targets() {
        let (_listener, open) = listening().await;
        let target = Target::new(ServerAddress::Ip(nobody().await));
        connect_for_check(&target, Some(open.port()), None, pending())
            .await
            .expect("its own port listens");
    }
}
