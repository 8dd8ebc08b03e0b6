//! Servers of HTTP/2 by prior knowledge, of the library's own server: well-behaved ones. Hostile
//! ones speak raw frames ([`super::frames`]).

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio_rustls::TlsAcceptor;

/// A server on a port of its own; gone when dropped.
pub struct H2Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    open: AtomicUsize,
    calls: Mutex<Vec<Received>>,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Connections end gracefully from now on.
    leaving: AtomicBool,
    leave: Notify,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: String,
    pub uri: String,
    pub fields: HeaderMap,
    pub protocol: Option<String>,
    /// Which connection of this origin it came on, from 0.
    pub connection: usize,
}

/// One request to answer.
pub struct Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    /// From 0.
    pub connection: usize,
    shared: Arc<Shared>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Call {
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// A final head; a body follows unless `end`.
    pub fn head(&mut self, response: http::response::Builder, end: bool) -> SendStream<Bytes> {
        let response = response.body(()).expect("a head");
        self.respond
            .send_response(response, end)
            .expect("the stream is open")
    }

    /// The same; `None` where the client has left.
    pub fn try_head(&mut self, response: http::response::Builder) -> Option<SendStream<Bytes>> {
        let response = response.body(()).expect("a head");
        self.respond.send_response(response, false).ok()
    }

    pub fn ok(&mut self, body: impl Into<Bytes>) {
        let body = body.into();
        let head = Response::builder().header("content-length", body.len());
        // Whoever asked may have left.
        let Some(mut stream) = self.try_head(head) else {
            return;
        };
        // The library keeps it until the window allows.
        let _ = stream.send_data(body, true);
    }

    /// Reads the whole request body; `None` where it broke off.
    pub async fn body(&mut self) -> Option<(Vec<u8>, Option<HeaderMap>)> {
        let body = self.request.body_mut();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.ok()?;
            let _ = body.flow_control().release_capacity(data.len());
            bytes.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.ok()?;
        Some((bytes, trailers))
    }
}

/// Sends all of `bytes` as the window opens; false where the stream ended before.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> bool {
    if bytes.is_empty() && end {
        return stream.send_data(bytes, true).is_ok();
    }
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else { return false };
        let piece = bytes.split_to(room.min(bytes.len()));
        let last = end && bytes.is_empty();
        if stream.send_data(piece, last).is_err() {
            return false;
        }
    }
    true
}

impl H2Origin {
    /// Answers every call with `script`, each on a task of its own.
    pub fn scripted<F, A>(script: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), script)
    }

    /// The same with settings of its own.
    pub fn with<F, A>(builder: Builder, script: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0)), builder, None, script)
    }

    /// The same at an address that was chosen.
    pub fn at<F, A>(address: SocketAddr, script: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::start(address, Builder::new(), None, script)
    }

    /// The same behind TLS; with clients that choose HTTP/1.1 it speaks that, and says so.
    pub fn secure<F, A>(tls: rustls::ServerConfig, script: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        Self::start(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            Builder::new(),
            Some(TlsAcceptor::from(Arc::new(tls))),
            script,
        )
    }

    fn start<F, A>(
        address: SocketAddr,
        builder: Builder,
        tls: Option<TlsAcceptor>,
        script: F,
    ) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(address).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let shared: Arc<Shared> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let own = shared.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let accepting = accept(listener, (builder, tls), own, Arc::new(script));
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        H2Origin {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Answers every call with 200 and `body`.
    pub fn good(body: &'static str) -> Self {
        Self::scripted(move |mut call| async move { call.ok(body) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Calls that are being answered.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// The most calls that were answered at once.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> Vec<Received> {
        self.shared.calls.lock().expect("no panic").clone()
    }

    /// Has every connection end gracefully: the two GOAWAY frames of RFC 9113 section 6.8.
    pub fn leave(&self) {
        self.shared.leaving.store(true, Ordering::SeqCst);
        self.shared.leave.notify_waiters();
    }

    /// New connections stay from now on.
    pub fn stay(&self) {
        self.shared.leaving.store(false, Ordering::SeqCst);
    }

    /// Every connection breaks, and none is accepted any more.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept<F, A>(
    listener: std::net::TcpListener,
    (builder, tls): (Builder, Option<TlsAcceptor>),
    shared: Arc<Shared>,
    script: Arc<F>,
) where
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener).expect("a socket");
    while let Ok((stream, _)) = listener.accept().await {
        let index = shared.accepted.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true).expect("a socket");
        let (shared, script, builder) = (shared.clone(), script.clone(), builder.clone());
        let tls = tls.clone();
        tokio::spawn(async move {
            shared.open.fetch_add(1, Ordering::SeqCst);
            match tls {
                None => {
                    if let Ok(connection) = builder.handshake::<_, Bytes>(stream).await {
                        serve(connection, index, &shared, &*script).await;
                    }
                }
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                            serve_http1(stream).await;
                        } else if let Ok(connection) = builder.handshake::<_, Bytes>(stream).await {
                            serve(connection, index, &shared, &*script).await;
                        }
                    }
                }
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut bytes = [0; 4096];
    while let Ok(1..) = stream.read(&mut bytes).await {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhttp1";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn serve<S, F, A>(
    mut connection: Connection<S, Bytes>,
    index: usize,
    shared: &Arc<Shared>,
    script: &F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Call) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let mut left = false;
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = shared.leave.notified(), if !left => {
                left = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = next else {
            return;
        };
        let received = Received {
            method: request.method().to_string(),
            uri: request.uri().to_string(),
            fields: request.headers().clone(),
            protocol: request
                .extensions()
                .get::<h2::ext::Protocol>()
                .map(|protocol| protocol.as_str().to_owned()),
            connection: index,
        };
        shared.calls.lock().expect("no panic").push(received);
        let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most.fetch_max(running, Ordering::SeqCst);
        let call = Call {
            request,
            respond,
            connection: index,
            shared: shared.clone(),
        };
        tokio::spawn(script(call));
    }
}
