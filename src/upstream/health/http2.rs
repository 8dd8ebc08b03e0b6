//! An HTTP check of a server whose traffic is HTTP/2: one request on a connection of its own.

use bytes::Bytes;
use h2::RecvStream;
use http::header::{CONNECTION, HOST};
use http::{Request, Uri};
use http_body_util::Empty;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::config::model::StatusRange;
use crate::upstream::health::probe::{Failure, Search};

/// Asks what `request` asks in the words of HTTP/1; passes on a status of `wanted` and a body that
/// contains `contains`.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    scheme: &str,
    wanted: &[StatusRange],
    contains: &str,
) -> Result<(), Failure> {
    let request = translated(request, scheme).map_err(Failure::Request)?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    // Ends with this function, on whatever way out.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut sender = sender.ready().await.map_err(failed)?;
    let (answer, _) = sender.send_request(request, true).map_err(failed)?;
    let answer = answer.await.map_err(failed)?;
    let status = answer.status().as_u16();
    if !wanted.iter().any(|range| range.contains(status)) {
        return Err(Failure::Status {
            status,
            wanted: wanted.to_vec(),
        });
    }
    if contains.is_empty() {
        return Ok(());
    }
    search(answer.into_body(), contains).await
}

fn translated(request: Request<Empty<Bytes>>, scheme: &str) -> Result<Request<()>, http::Error> {
    let (mut parts, _) = request.into_parts();
    // Host is `:authority`, and of the connection nothing is said (RFC 9113 section 8.2.2).
    let host = parts.headers.remove(HOST);
    parts.headers.remove(CONNECTION);
    let mut uri = Uri::builder().scheme(scheme);
    if let Some(host) = &host {
        uri = uri.authority(host.as_bytes());
    }
    if let Some(path) = parts.uri.path_and_query() {
        uri = uri.path_and_query(path.as_str());
    }
    parts.uri = uri.build()?;
    parts.version = http::Version::HTTP_2;
    Ok(Request::from_parts(parts, ()))
}

async fn search(mut body: RecvStream, wanted: &str) -> Result<(), Failure> {
    let mut search = Search::new(wanted);
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        // Fails only for more than came.
        let _ = body.flow_control().release_capacity(data.len());
        if search.finds_in(&data) {
            return Ok(());
        }
        if search.is_over() {
            break;
        }
    }
    Err(search.in_vain())
}

fn failed(error: h2::Error) -> Failure {
    if error.is_io() {
        Failure::Closed
    } else {
        Failure::Http2(error)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::{Request, Response};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Answers every request with `status` and a body in two pieces; says what it was asked.
    async fn server(
        status: u16,
    ) -> (
        SocketAddr,
        tokio::sync::mpsc::UnboundedReceiver<Request<()>>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (asked, questions) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a check");
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let _ = asked.send(request.map(|_| ()));
                let head = Response::builder().status(status).body(()).expect("a head");
                let mut body = respond.send_response(head, false).expect("open");
                body.send_data(Bytes::from_static(b"all is we"), false)
                    .expect("open");
                body.send_data(Bytes::from_static(b"ll"), true)
                    .expect("open");
            }
        });
        (address, questions)
    }

    async fn checked(address: SocketAddr, contains: &str) -> Result<(), Failure> {
        let request = Request::builder()
            .uri("/healthz?full")
            .header(HOST, "app:80")
            .header(CONNECTION, "close")
            .header("x-check", "yes")
            .body(Empty::new())
            .expect("a request");
        let wanted = [StatusRange {
            first: 200,
            last: 399,
        }];
        let stream = TcpStream::connect(address).await.expect("it listens");
        exchange(stream, request, "http", &wanted, contains).await
    }

    #[tokio::test]
    async fn a_good_answer_passes() {
        let (address, mut questions) = server(204 + 2).await;
        checked(address, "is well").await.expect("all is well");
        let question = questions.recv().await.expect("it was asked");
        assert_eq!(question.uri(), "http://app:80/healthz?full");
        assert_eq!(question.headers()["x-check"], "yes");
        assert!(!question.headers().contains_key(CONNECTION));
    }

    #[tokio::test]
    async fn another_status_or_body_fails() {
        let (address, _questions) = server(503).await;
        let failure = checked(address, "").await.expect_err("503");
        assert_eq!(failure.to_string(), "status 503, wanted 200-399");
        let (address, _questions) = server(200).await;
        let failure = checked(address, "ill").await.expect_err("it is well");
        assert!(matches!(failure, Failure::Body { .. }), "{failure}");
    }

    #[tokio::test]
    async fn what_is_no_http2_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a check");
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        });
        let failure = checked(address, "").await.expect_err("HTTP/1");
        assert!(
            matches!(failure, Failure::Http2(_) | Failure::Closed),
            "{failure}"
        );
    }
}
