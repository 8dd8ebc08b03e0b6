//! From a server's address to a connected socket, within one deadline.

use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};

use crate::config::model::ServerAddress;
use crate::upstream::resolve::Addresses;

/// What to connect to.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: ServerAddress,
    /// Of an IP address or a name; not used for `unix:`.
    pub addresses: Arc<Addresses>,
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
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
    Unreachable(#[source] std::io::Error),
    /// The name has no address.
    #[error("does not resolve: {0}")]
    Resolve(Arc<str>),
    #[error("cannot connect")]
    Other(#[source] std::io::Error),
}

impl ConnectError {
    /// Label value of `evenkeel_upstream_connects_total{result}`.
    pub fn label(&self) -> &'static str {
        match self {
            ConnectError::Refused => "refused",
            ConnectError::Timeout => "timeout",
            ConnectError::Unreachable(_) => "unreachable",
            ConnectError::Resolve(_) => "resolve",
            ConnectError::Other(_) => "error",
        }
    }
}

/// Connects to `target`, giving up when `deadline` is ready. Small writes go out at once
/// (`TCP_NODELAY`).
pub async fn connect(
    _target: &Target,
    _deadline: impl Future<Output = ()>,
) -> Result<Stream, ConnectError> {
    todo!()
}
