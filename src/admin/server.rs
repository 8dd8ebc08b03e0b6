//! The admin listener itself: TCP or a unix socket, hyper, bounded in number and time.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::api;
use super::context::Control;
use crate::config::model::AdminAddress;

/// From the start of a connection, or of waiting for its next request, to the end of a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// More wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 256;
/// After accept failed: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound admin listener that does not accept yet.
#[derive(Debug)]
pub struct Bound(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Held for its drop.
        _file: SocketFile,
    },
}

/// Removes the socket's file when the listener goes, unless another one has taken the path since.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

/// Where a connection came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Local {
    Tcp(SocketAddr),
    /// Reached by file permission, never by a browser under a foreign name.
    Unix,
}

impl Local {
    pub fn is_loopback(&self) -> bool {
        match self {
            Local::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Local::Unix => true,
        }
    }

    /// Whether `name`, of a Host without its port, is this address.
    pub fn is_named(&self, name: &str) -> bool {
        match self {
            Local::Tcp(address) => {
                let name = name.trim_start_matches('[').trim_end_matches(']');
                let own = address.ip().to_canonical();
                name.parse::<IpAddr>()
                    .is_ok_and(|named| named.to_canonical() == own)
            }
            Local::Unix => true,
        }
    }
}

/// Binds without accepting. On the control runtime.
pub fn bind(address: &AdminAddress) -> io::Result<Bound> {
    Ok(Bound(match address {
        AdminAddress::Tcp(address) => {
            let socket = if address.is_ipv4() {
                tokio::net::TcpSocket::new_v4()?
            } else {
                tokio::net::TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            Socket::Tcp(socket.listen(1024)?)
        }
        AdminAddress::Unix(path) => {
            let listener = bind_unix(path)?;
            let inode = inode(path);
            Socket::Unix {
                listener,
                _file: SocketFile {
                    path: path.clone(),
                    inode,
                },
            }
        }
    }))
}

/// Binds under another name, sets the mode, and moves into place: nobody can connect before the
/// mode is right, and a socket left behind by a process that is gone is replaced. A living one
/// is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        let taken = !metadata.file_type().is_socket();
        if taken || std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660))
        .and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = placed {
        // The first error says more than one from cleaning up.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(listener)
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path)
        .ok()
        .map(|metadata| metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            // Nothing is lost when it stays: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// The address in use: port 0 is resolved. `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix { .. } => None,
        }
    }

    /// Answers until the future is dropped, which closes the listener and lets the requests under
    /// way end by themselves.
    pub async fn serve(self, control: Arc<dyn Control>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Never closed, so this never fails; if it did, there would be nothing to wait for.
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let control = control.clone();
            let accepted = match &self.0 {
                Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    let local = stream.local_addr().map(Local::Tcp);
                    tokio::spawn(async move {
                        // Without an address its client has gone already.
                        if let Ok(local) = local {
                            connection(stream, local, control).await;
                        }
                        drop(permit);
                    });
                }),
                Socket::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        connection(stream, Local::Unix, control).await;
                        drop(permit);
                    });
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S>(stream: S, local: Local, control: Arc<dyn Control>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let (control, local) = (control.clone(), local.clone());
        async move { Ok::<_, std::convert::Infallible>(api::answer(&control, &local, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection broke off");
    }
}
