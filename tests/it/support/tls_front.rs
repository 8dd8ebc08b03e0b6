//! TLS in front of a server that speaks without: what the server does to its connection is done to
//! the client's, an end as `close_notify` and FIN, a reset as a reset. So every script of a plain
//! server is one of a server behind TLS, too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncWriteExt, copy, sink, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Gone when dropped, with its connections.
pub struct TlsFront {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl TlsFront {
    pub fn before(server: SocketAddr, tls: ServerConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, acceptor, server) => {}
                    _ = stopped => {}
                }
            });
        });
        TlsFront {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, tls: TlsAcceptor, server: SocketAddr) {
    let listener = TcpListener::from_std(listener).expect("a socket");
    while let Ok((client, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            client.set_nodelay(true).expect("a socket");
            let Ok(client) = tls.accept(client).await else {
                return;
            };
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            server.set_nodelay(true).expect("a socket");
            pass_on(client, server).await;
        });
    }
}

async fn pass_on(client: tokio_rustls::server::TlsStream<TcpStream>, server: TcpStream) {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        // A client that ends and one that breaks off are the same to these servers.
        let _ = copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = copy(&mut from_server, &mut to_client) => ended,
        () = up => Ok(0),
    };
    if ended.is_ok() {
        let _ = to_client.shutdown().await;
        // Until the client has gone: unread bytes would turn the end into a reset.
        let _ = copy(&mut from_client, &mut sink()).await;
    } else {
        let client = from_client.unsplit(to_client);
        SockRef::from(client.get_ref().0)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket");
    }
}
