//! One check: connect, and for HTTP ask and judge the answer, all within one timeout.
//!
//! Each check opens a connection of its own: a kept one would say that a connection works, not
//! that the server takes new ones.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::model::{Health, HealthProbe, ServerAddress, StatusRange};
use crate::tls::Secure;
use crate::upstream::connector::{ConnectError, Target, connect_for_check};
use crate::upstream::health::grpc::{self, Question};
use crate::upstream::health::http2;
use crate::util::timer::patiently_until;

/// As much of a body is searched.
const BODY_LIMIT: usize = 256 * 1024;
pub(super) const AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " (health check)");

/// Makes one check; a seam for tests of the schedule.
pub(super) trait Probe: Send + Sync + 'static {
    fn check(&self, settings: &Health) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Why a check failed. `Display` is for people: `/status` and the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    #[error("connect refused")]
    Refused,
    #[error("{}", chain(.0))]
    Connect(#[source] ConnectError),
    #[error("closed before an answer")]
    Closed,
    #[error("malformed answer: {0}")]
    Malformed(#[source] hyper::Error),
    #[error("status {status}, wanted {}", Ranges(.wanted))]
    Status {
        status: u16,
        wanted: Vec<StatusRange>,
    },
    #[error("body does not contain {wanted:?}")]
    Body { wanted: String },
    #[error("body broke off: {0}")]
    BodyBroken(#[source] hyper::Error),
    #[error("malformed answer: {0}")]
    Http2(#[source] h2::Error),
    #[error("malformed answer: {0}")]
    Protocol(&'static str),
    #[error("status {status}, not an answer of gRPC")]
    NotGrpc { status: u16 },
    #[error("grpc-status {status}{}", in_brackets(.message))]
    Grpc { status: String, message: String },
    #[error("the service is {0}")]
    NotServing(grpc::Health),
    /// The checker lets no such settings through.
    #[error("cannot be sent: {0}")]
    Request(#[source] http::Error),
}

fn in_brackets(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(" ({})", message.escape_debug()),
    }
}

fn chain(error: &ConnectError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

struct Ranges<'a>(&'a [StatusRange]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            if range.first == range.last {
                write!(f, "{comma}{}", range.first)?;
            } else {
                write!(f, "{comma}{}-{}", range.first, range.last)?;
            }
        }
        Ok(())
    }
}

/// Checks over a real socket.
pub(super) struct SocketProbe {
    pub(super) target: Target,
}

impl Probe for SocketProbe {
    async fn check(&self, settings: &Health) -> Result<(), Failure> {
        let deadline = Instant::now() + settings.timeout;
        let port = (settings.port != 0).then_some(settings.port);
        let secure = self.secure(settings);
        let expired = patiently_until(deadline);
        let connected = connect_for_check(&self.target, port, secure.as_ref(), expired);
        let socket = match connected.await {
            Ok(socket) => socket,
            Err(ConnectError::Refused) => return Err(Failure::Refused),
            Err(ConnectError::Timeout) => return Err(Failure::TimedOut(settings.timeout)),
            Err(error) => return Err(Failure::Connect(error)),
        };
        let asked = self.ask(socket, settings);
        tokio::select! {
            biased;
            outcome = asked => outcome,
            () = patiently_until(deadline) => Err(Failure::TimedOut(settings.timeout)),
        }
    }
}

impl SocketProbe {
    /// As the traffic does it, but for sessions and the protocol that this check speaks.
    fn secure(&self, settings: &Health) -> Option<Secure> {
        let security = self.target.security.load_full()?;
        let alpn: &[&[u8]] = match &settings.probe {
            _ if settings.plain => return None,
            HealthProbe::Tcp => &[],
            HealthProbe::Http { .. } if settings.h2 => &[b"h2"],
            HealthProbe::Http { .. } => &[b"http/1.1"],
            HealthProbe::Grpc { .. } => &[b"h2"],
        };
        Some(security.check(alpn))
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        settings: &Health,
    ) -> Result<(), Failure> {
        match &settings.probe {
            HealthProbe::Tcp => Ok(()),
            HealthProbe::Http { status, body, .. } => {
                let request = self.request(settings).map_err(Failure::Request)?;
                if settings.h2 {
                    let scheme = self.scheme(settings);
                    return http2::exchange(stream, request, scheme, status, body).await;
                }
                exchange(stream, request, status, body).await
            }
            HealthProbe::Grpc {
                service,
                headers,
                host,
            } => {
                let question = Question {
                    service,
                    host: &self.host(host, settings.port),
                    scheme: self.scheme(settings),
                    headers,
                };
                grpc::check(stream, &question).await
            }
        }
    }

    fn scheme(&self, settings: &Health) -> &'static str {
        match settings.plain || self.target.security.load().is_none() {
            true => "http",
            false => "https",
        }
    }

    fn request(&self, settings: &Health) -> Result<Request<Empty<Bytes>>, http::Error> {
        let HealthProbe::Http {
            path,
            method,
            headers,
            host,
            ..
        } = &settings.probe
        else {
            return Ok(Request::new(Empty::new()));
        };
        let host = self.host(host, settings.port);
        let mut request = Request::builder()
            .method(method.as_str())
            .uri(path.as_str())
            .header(HOST, host)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*")
            .body(Empty::new())?;
        for (name, value) in headers {
            let name = HeaderName::try_from(name)?;
            request
                .headers_mut()
                .insert(name, HeaderValue::try_from(value)?);
        }
        // Last: it tells the truth, whatever `headers` says.
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }

    /// As configured, else the server's address.
    fn host(&self, configured: &str, port: u16) -> String {
        if !configured.is_empty() {
            return configured.to_owned();
        }
        match &self.target.address {
            ServerAddress::Ip(address) if port == 0 => address.to_string(),
            ServerAddress::Ip(address) => std::net::SocketAddr::new(address.ip(), port).to_string(),
            ServerAddress::Name(name, own) => {
                format!("{name}:{}", if port == 0 { *own } else { port })
            }
            // Never checked: it only stands for its servers.
            ServerAddress::Srv(_) | ServerAddress::Unix(_) => "localhost".into(),
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    wanted: &[StatusRange],
    contains: &str,
) -> Result<(), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::Malformed)?;
    // Ends with this function, on whatever way out.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Failure::Closed
        } else if error.is_parse() {
            Failure::Malformed(error)
        } else {
            // A reset while we wait, most of all.
            Failure::Closed
        }
    })?;
    let status = answer.status().as_u16();
    if !wanted.iter().any(|range| range.contains(status)) {
        return Err(Failure::Status {
            status,
            wanted: wanted.to_vec(),
        });
    }
    if contains.is_empty() {
        Ok(())
    } else {
        search(answer, contains).await
    }
}

async fn search(answer: Response<Incoming>, wanted: &str) -> Result<(), Failure> {
    let mut search = Search::new(wanted);
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Failure::BodyBroken)?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if search.finds_in(data) {
            return Ok(());
        }
        if search.is_over() {
            break;
        }
    }
    Err(search.in_vain())
}

/// Looks for a text in a body that comes in pieces.
pub(super) struct Search<'a> {
    wanted: &'a str,
    finder: memmem::Finder<'a>,
    read: Vec<u8>,
}

impl<'a> Search<'a> {
    pub fn new(wanted: &'a str) -> Self {
        Search {
            wanted,
            finder: memmem::Finder::new(wanted),
            read: Vec::new(),
        }
    }

    /// It is in what came so far, `data` included.
    pub fn finds_in(&mut self, data: &[u8]) -> bool {
        // The match may begin in what came before.
        let from = self.read.len().saturating_sub(self.wanted.len());
        let room = BODY_LIMIT.saturating_sub(self.read.len());
        self.read
            .extend_from_slice(data.get(..room).unwrap_or(data));
        self.finder.find(&self.read[from..]).is_some()
    }

    /// No more is searched.
    pub fn is_over(&self) -> bool {
        self.read.len() >= BODY_LIMIT
    }

    pub fn in_vain(self) -> Failure {
        Failure::Body {
            wanted: self.wanted.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn http() -> Health {
        Health {
            probe: HealthProbe::Http {
                path: "/healthz?full".into(),
                method: "GET".into(),
                headers: vec![("x-check".into(), "yes".into())],
                host: String::new(),
                status: vec![StatusRange {
                    first: 200,
                    last: 399,
                }],
                body: String::new(),
            },
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            port: 0,
            plain: false,
            h2: false,
        }
    }

    fn wanting(wanted: &str) -> Health {
        let mut settings = http();
        if let HealthProbe::Http { body, .. } = &mut settings.probe {
            *body = wanted.into();
        }
        settings
    }

    /// Reads one head, answers with `answer`, closes; gives the head.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("sends a whole head"));
        }
        // The check may have seen enough and gone.
        let _ = stream.write_all(answer).await;
        String::from_utf8(head).expect("is text")
    }

    /// Checks a TCP server that gives this answer: the outcome's text, and what was asked.
    async fn check(settings: Health, answer: &'static [u8]) -> (Result<(), String>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let address = listener.local_addr().expect("has an address");
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("the check connects");
            serve(stream, answer).await
        });
        let probe = SocketProbe {
            target: Target::new(ServerAddress::Ip(address)),
        };
        let outcome = probe
            .check(&settings)
            .await
            .map_err(|failure| failure.to_string());
        let head = server.await.expect("does not panic");
        (outcome, head.replace(&address.to_string(), "ADDRESS"))
    }

    #[tokio::test]
    async fn an_http_check_asks_as_configured_and_takes_a_status_in_range() {
        let (outcome, head) = check(http(), b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some("GET /healthz?full HTTP/1.1"));
        let fields: Vec<&str> = lines.collect();
        for field in ["host: ADDRESS", "x-check: yes", "connection: close"] {
            assert!(
                fields.contains(&field),
                "{field:?} is missing in {fields:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_an_answer_is_told() {
        let answers: [(&'static [u8], &str); 4] = [
            (
                b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                "status 503, wanted 200-399",
            ),
            (b"", "closed before an answer"),
            (b"HTTP/1.1 200", "closed before an answer"),
            (
                b"nonsense\r\n\r\n",
                "malformed answer: invalid HTTP version parsed",
            ),
        ];
        for (answer, text) in answers {
            assert_eq!(check(http(), answer).await.0, Err(text.into()));
        }
    }

    #[tokio::test]
    async fn the_body_must_contain_what_is_wanted() {
        let good = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nall\r\n3\r\n ok\r\n0\r\n\r\n";
        assert_eq!(check(wanting("all ok"), good).await.0, Ok(()));
        let other = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";
        assert_eq!(
            check(wanting("all ok"), other).await.0,
            Err("body does not contain \"all ok\"".into())
        );
        let short = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall";
        let text = check(wanting("all ok"), short)
            .await
            .0
            .expect_err("breaks off");
        assert!(text.starts_with("body broke off"), "not {text:?}");
    }

    #[tokio::test]
    async fn unix_servers_are_asked_over_their_socket() {
        let directory = tempfile::tempdir().expect("can be made");
        let path = directory.path().join("server.sock");
        let listener = UnixListener::bind(&path).expect("binds");
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("the check connects");
            serve(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        });
        let probe = SocketProbe {
            target: Target::new(ServerAddress::Unix(path.into())),
        };
        probe.check(&http()).await.expect("passes");
        let head = server.await.expect("does not panic");
        assert!(head.contains("host: localhost\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_stays_silent_times_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let address = listener.local_addr().expect("has an address");
        let probe = SocketProbe {
            target: Target::new(ServerAddress::Ip(address)),
        };
        let mut settings = http();
        settings.timeout = Duration::from_millis(20);
        let failure = probe.check(&settings).await.expect_err("nobody answers");
        assert_eq!(failure.to_string(), "timed out after 20ms");
        settings.probe = HealthProbe::Tcp;
        probe.check(&settings).await.expect("it does accept");
    }

    #[tokio::test]
    async fn a_check_may_have_a_port_of_its_own() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let target = Target::new(ServerAddress::Ip(SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            1,
        ))));
        let probe = SocketProbe { target };
        let mut settings = http();
        settings.probe = HealthProbe::Tcp;
        let failure = probe.check(&settings).await.expect_err("port 1 is closed");
        assert_eq!(failure.to_string(), "connect refused");
        settings.port = port;
        probe.check(&settings).await.expect("its own port listens");
    }

    #[tokio::test]
    async fn names_are_checked_at_their_resolved_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let address = listener.local_addr().expect("has an address");
        let target = Target::new(ServerAddress::Name("app.internal".into(), address.port()));
        target.addresses.publish(&[address]);
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("the check connects");
            serve(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        });
        SocketProbe { target }.check(&http()).await.expect("passes");
        let head = server.await.expect("does not panic");
        assert!(
            head.contains(&format!("host: app.internal:{}\r\n", address.port())),
            "{head}"
        );
    }
}
