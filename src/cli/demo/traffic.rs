//! A gentle client: a few requests a second, so that the page moves.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const PATHS: [&str; 5] = ["/", "/users/7", "/cart", "/search?q=tea", "/orders/42"];
/// Between two requests, on average.
const PAUSE: Duration = Duration::from_millis(150);
/// After the connection failed.
const RECONNECT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends requests for ever, whatever happens to them.
pub(super) async fn run(proxy: SocketAddr) {
    loop {
        if let Err(error) = one_connection(proxy).await {
            tracing::debug!(%error, "demo client lost its connection");
        }
        sleep(RECONNECT).await;
    }
}

/// Requests one after the other for as long as the connection lasts.
async fn one_connection(proxy: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(proxy).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    loop {
        let request = request(proxy).map_err(io::Error::other)?;
        let exchange = async {
            sender.ready().await?;
            sender
                .send_request(request)
                .await?
                .into_body()
                .collect()
                .await
        };
        timeout(PATIENCE, exchange)
            .await?
            .map_err(io::Error::other)?;
        sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
    }
}

fn request(proxy: SocketAddr) -> http::Result<Request<Empty<Bytes>>> {
    let path = PATHS[fastrand::usize(..PATHS.len())];
    let separator = if path.contains('?') { '&' } else { '?' };
    let delay = fastrand::u64(2..30);
    Request::get(format!("{path}{separator}delay={delay}ms"))
        .header(header::HOST, proxy.to_string())
        .header(header::USER_AGENT, "evenkeel-demo")
        .body(Empty::new())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_comes_back_after_a_lost_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let address = listener.local_addr().expect("has an address");
        let client = tokio::spawn(run(address));
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("it connects");
            let mut start = [0; 4];
            stream.read_exact(&mut start).await.expect("it asks");
            assert_eq!(&start, b"GET ");
        }
        client.abort();
    }
}
