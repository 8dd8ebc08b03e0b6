//! A well-behaved HTTP/2 client: the crate's, by prior knowledge.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing in a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection, driven by a task of its own.
pub struct H2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    scheme: &'static str,
    authority: String,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Runs an asynchronous test against a proxy that has threads of its own.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async { timeout(4 * PATIENCE, test).await.expect("the test ends") })
}

impl H2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &h2::client::Builder::new()).await
    }

    pub async fn connect_with(address: SocketAddr, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self::over(stream, "http", &address.to_string(), builder).await
    }

    /// Over any stream, for `authority`.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
        authority: &str,
        builder: &h2::client::Builder,
    ) -> Self {
        let (send, connection) = builder.handshake(stream).await.expect("it speaks HTTP/2");
        H2 {
            send,
            driver: tokio::spawn(connection),
            scheme,
            authority: authority.to_owned(),
        }
    }

    pub fn uri(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.authority)
    }

    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(self.uri(path))
    }

    /// Sends a head; the answer to come, and the way for its body.
    pub async fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let ready = self.send.clone().ready().await;
        let mut send = ready.expect("the connection is open");
        send.send_request(request, end).expect("it can be sent")
    }

    /// One request without a body.
    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.request("GET", path).body(()).expect("a request");
        let (answer, _) = self.send(request, true).await;
        whole(
            timeout(PATIENCE, answer)
                .await
                .expect("in time")
                .expect("an answer"),
        )
        .await
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = self.request("POST", path).body(()).expect("a request");
        let (answer, mut stream) = self.send(request, false).await;
        send_all(&mut stream, body.into(), true).await;
        whole(
            timeout(PATIENCE, answer)
                .await
                .expect("in time")
                .expect("an answer"),
        )
        .await
    }

    /// Another handle on the same connection.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }

    /// How the connection ended.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        let ended = timeout(PATIENCE, self.driver)
            .await
            .expect("it ends in time");
        ended.expect("the driver does not panic")
    }

    /// The same while the connection could still be used.
    pub async fn is_ended(&mut self) -> Result<(), h2::Error> {
        let ended = timeout(PATIENCE, &mut self.driver).await;
        ended
            .expect("it ends in time")
            .expect("the driver does not panic")
    }
}

/// Sends within the windows.
pub async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes, end: bool) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let capacity = timeout(
            PATIENCE,
            std::future::poll_fn(|cx| stream.poll_capacity(cx)),
        )
        .await
        .expect("the window opens in time");
        let Some(Ok(capacity)) = capacity else { return };
        let piece = body.split_to(capacity.min(body.len()));
        stream.send_data(piece, false).expect("the stream is open");
    }
    if end {
        stream
            .send_data(Bytes::new(), true)
            .expect("the stream is open");
    }
}

/// Reads an answer to its end.
pub async fn whole(response: Response<RecvStream>) -> Answer {
    match try_whole(response).await {
        Ok(answer) => answer,
        Err((_, error)) => panic!("the answer breaks off: {error}"),
    }
}

/// The same, with what came where it broke off.
pub async fn try_whole(response: Response<RecvStream>) -> Result<Answer, (Vec<u8>, h2::Error)> {
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = timeout(PATIENCE, stream.data()).await.expect("in time") {
        match piece {
            Ok(piece) => {
                let _ = stream.flow_control().release_capacity(piece.len());
                body.extend_from_slice(&piece);
            }
            Err(error) => return Err((body, error)),
        }
    }
    let trailers = stream
        .trailers()
        .await
        .map_err(|error| (body.clone(), error))?;
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
        trailers,
    })
}
