//! The admin listener itself: TCP or a unix socket, hyper, bounded in number and time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::api;
use super::context::Control;
use super::crowd::{Busy, Crowd, Turns};
use crate::config::model::BindAddress;
use crate::util::unix_socket;
use crate::util::unix_socket::{Identity, SocketFile};

/// From the start of a connection, or of waiting for its next request, to the end of a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// After accept failed: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two words about that.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// A bound admin listener that does not accept yet.
#[derive(Debug)]
pub struct Bound(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        file: SocketFile,
    },
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
pub fn bind(address: &BindAddress) -> io::Result<Bound> {
    Ok(Bound(match address {
        BindAddress::Tcp(address) => {
            let socket = if address.is_ipv4() {
                tokio::net::TcpSocket::new_v4()?
            } else {
                tokio::net::TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            Socket::Tcp(socket.listen(1024)?)
        }
        BindAddress::Unix(path) => {
            let (socket, file) = unix_socket::bind(path, 0o660)?;
            socket.listen(1024)?;
            let listener = std::os::unix::net::UnixListener::from(socket);
            Socket::Unix {
                listener: UnixListener::from_std(listener)?,
                file,
            }
        }
    }))
}

/// One that another process bound and listens on. `file`: of a unix socket, if it became ours. On
/// the control runtime.
pub fn adopt(
    socket: socket2::Socket,
    address: &BindAddress,
    file: Option<Identity>,
) -> io::Result<Bound> {
    socket.set_nonblocking(true)?;
    Ok(Bound(match address {
        BindAddress::Tcp(_) => Socket::Tcp(TcpListener::from_std(socket.into())?),
        BindAddress::Unix(path) => Socket::Unix {
            listener: UnixListener::from_std(socket.into())?,
            file: SocketFile::taken_over(path, file),
        },
    }))
}

impl Bound {
    /// The address in use: port 0 is resolved. `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix { .. } => None,
        }
    }

    /// A second descriptor, for another process, and the identity of the socket's file.
    pub fn lend(&self) -> io::Result<(OwnedFd, Option<Identity>)> {
        Ok(match &self.0 {
            Socket::Tcp(listener) => (listener.as_fd().try_clone_to_owned()?, None),
            Socket::Unix { listener, file } => {
                (listener.as_fd().try_clone_to_owned()?, file.identity())
            }
        })
    }

    /// The process that bound it, if that was another, has given it up.
    pub fn own(&self) {
        if let Socket::Unix { file, .. } = &self.0 {
            file.own();
        }
    }

    /// Another process answers on the socket: its file stays when this goes.
    pub fn leave(&self) {
        if let Socket::Unix { file, .. } = &self.0 {
            file.leave();
        }
    }

    /// Answers until `leaving` says so or its sender goes, and accepts nobody once this returns;
    /// connections end after their current request then, or after their first, which may be on its
    /// way. Each holds a receiver of `leaving` until it has ended.
    pub async fn serve(
        self: Arc<Self>,
        control: Arc<dyn Control>,
        mut leaving: watch::Receiver<bool>,
    ) {
        let mut crowd = Crowd::default();
        let host = Host {
            control,
            turns: Turns::new(),
            leaving: leaving.clone(),
        };
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = left(&mut leaving) => return,
                accepted = self.accept(&host, &mut crowd) => accepted,
            };
            if let Err(error) = accepted {
                if told.is_none_or(|told| told.elapsed() > TOLD_AGAIN) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "the admin listener cannot accept");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Takes one connection.
    async fn accept(&self, host: &Host, crowd: &mut Crowd) -> io::Result<()> {
        let busy = Busy::default();
        let task = match &self.0 {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let (host, busy) = (host.clone(), busy.clone());
                tokio::spawn(async move {
                    // Without an address its client has gone already.
                    if let Ok(local) = stream.local_addr() {
                        connection(stream, Local::Tcp(local), host, busy).await;
                    }
                })
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(connection(stream, Local::Unix, host.clone(), busy.clone()))
            }
        };
        crowd.enter(task.abort_handle(), busy);
        Ok(())
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Host {
    control: Arc<dyn Control>,
    turns: Turns,
    leaving: watch::Receiver<bool>,
}

/// Returns when it is time to leave.
async fn left(leaving: &mut watch::Receiver<bool>) {
    // Its sender gone says the same.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

/// Ends after the request under way once `leaving` says so. Whoever has only connected by then is
/// still answered: what he has sent would be met with a reset.
async fn connection<S>(stream: S, local: Local, host: Host, busy: Busy)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Host {
        control,
        turns,
        mut leaving,
    } = host;
    let asked = Notify::new();
    let said = leaving.clone();
    let service = service_fn(|request: Request<Incoming>| {
        asked.notify_one();
        let (control, local) = (control.clone(), local.clone());
        let (turns, busy) = (turns.clone(), busy.clone());
        let last = *said.borrow();
        async move {
            busy.set(true);
            let turn = match api::takes_time(request.uri().path()) {
                true => Some(turns.take().await),
                false => None,
            };
            let mut reply = api::answer(&control, &local, request).await;
            if last {
                let close = HeaderValue::from_static("close");
                reply.headers_mut().insert(header::CONNECTION, close);
            }
            drop(turn);
            busy.set(false);
            Ok::<_, std::convert::Infallible>(reply)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let served = tokio::select! {
        served = served.as_mut() => served,
        () = async { tokio::join!(left(&mut leaving), asked.notified()); } => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection broke off");
    }
}
