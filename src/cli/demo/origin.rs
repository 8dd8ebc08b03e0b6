//! A small HTTP server that says who answered, and that can be broken on purpose.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// However long a request asks us to wait.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// After an accept that failed: descriptors may be short, and trying again at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One origin.
#[derive(Debug)]
pub(super) struct Origin {
    name: Arc<str>,
    broken: AtomicBool,
}

/// What a request's query asks for: `?delay=200ms&status=503`.
#[derive(Debug, PartialEq, Eq)]
struct Wishes {
    delay: Duration,
    status: StatusCode,
}

impl Origin {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Origin {
            name: name.into(),
            broken: AtomicBool::new(false),
        })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The answer to one request; what it sends is read first, so that the connection goes on.
    async fn answer(&self, mut request: Request<impl Body + Unpin>) -> Response<Full<Bytes>> {
        while let Some(Ok(_)) = request.body_mut().frame().await {}
        let name = &self.name;
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/break") => {
                self.broken.store(true, Ordering::Relaxed);
                text(
                    StatusCode::OK,
                    format!("{name} is broken until POST /mend\n"),
                )
            }
            (&Method::POST, "/mend") => {
                self.broken.store(false, Ordering::Relaxed);
                text(StatusCode::OK, format!("{name} works again\n"))
            }
            _ if self.broken.load(Ordering::Relaxed) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{name} is broken\n"),
            ),
            (_, "/healthz") => text(StatusCode::OK, format!("{name} is well\n")),
            (method, _) => {
                let wishes = Wishes::of(request.uri().query().unwrap_or_default());
                tokio::time::sleep(wishes.delay).await;
                let uri = request.uri();
                text(wishes.status, format!("{name} answered {method} {uri}\n"))
            }
        }
    }
}

impl Wishes {
    fn of(query: &str) -> Self {
        let mut wishes = Wishes {
            delay: Duration::ZERO,
            status: StatusCode::OK,
        };
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "delay" => wishes.delay = delay(value).unwrap_or_default().min(LONGEST_DELAY),
                "status" => {
                    wishes.status = value
                        .parse()
                        .ok()
                        // A server must not end an exchange with 1xx.
                        .filter(|status: &StatusCode| !status.is_informational())
                        .unwrap_or(StatusCode::OK);
                }
                _ => {}
            }
        }
        wishes
    }
}

/// `200ms`, `2s`, or a number of milliseconds.
fn delay(value: &str) -> Option<Duration> {
    if let Some(milliseconds) = value.strip_suffix("ms") {
        return milliseconds.parse().ok().map(Duration::from_millis);
    }
    match value.strip_suffix('s') {
        Some(seconds) => seconds.parse().ok().map(Duration::from_secs),
        None => value.parse().ok().map(Duration::from_millis),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Answers on `listener` for ever.
pub(super) async fn serve(listener: TcpListener, origin: Arc<Origin>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(origin = %origin.name, %error, "demo origin cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Only slower without it.
        let _ = stream.set_nodelay(true);
        let origin = origin.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let origin = origin.clone();
                async move { Ok::<_, Infallible>(origin.answer(request).await) }
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "connection to a demo origin broke");
            }
        });
    }
}

/// Runs one origin in the foreground until TERM or INT.
pub(super) fn run_alone(name: &str, address: SocketAddr) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // As the first process of a container it ends by no signal that it does not handle.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = TcpListener::bind(address).await?;
        anstream::eprintln!("origin {name} listens on {}", listener.local_addr()?);
        tokio::select! {
            () = serve(listener, Origin::new(name)) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(origin: &Origin, method: Method, uri: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(uri);
        let request = request
            .body(Full::new(Bytes::from("body")))
            .expect("is a request");
        let response = origin.answer(request).await;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("cannot fail")
            .to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("is text"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_names_the_origin_and_what_was_asked() {
        let origin = Origin::new("apple");
        assert_eq!(
            ask(&origin, Method::PUT, "/a/b?c=d").await,
            (200, "apple answered PUT /a/b?c=d\n".into())
        );
        let started = tokio::time::Instant::now();
        let (status, _) = ask(&origin, Method::GET, "/?delay=2s&status=418").await;
        assert_eq!((status, started.elapsed().as_secs()), (418, 2));
    }

    #[tokio::test]
    async fn a_broken_origin_fails_everything_until_it_is_mended() {
        let origin = Origin::new("apple");
        assert_eq!(ask(&origin, Method::GET, "/healthz").await.0, 200);
        assert_eq!(ask(&origin, Method::POST, "/break").await.0, 200);
        assert_eq!(ask(&origin, Method::GET, "/healthz").await.0, 503);
        assert_eq!(ask(&origin, Method::GET, "/").await.0, 503);
        assert_eq!(ask(&origin, Method::POST, "/mend").await.0, 200);
        assert_eq!(ask(&origin, Method::GET, "/healthz").await.0, 200);
    }

    #[test]
    fn wishes_that_make_no_sense_are_ignored() {
        let none = Wishes {
            delay: Duration::ZERO,
            status: StatusCode::OK,
        };
        for query in [
            "",
            "delay",
            "delay=soon",
            "status=7",
            "status=100",
            "delay=-1s&x=y",
        ] {
            assert_eq!(Wishes::of(query), none, "of {query:?}");
        }
        let wishes = Wishes::of("delay=90s&status=503");
        assert_eq!(
            wishes,
            Wishes {
                delay: LONGEST_DELAY,
                status: StatusCode::SERVICE_UNAVAILABLE
            }
        );
        assert_eq!(Wishes::of("delay=5").delay, Duration::from_millis(5));
    }
}
