//! How a command speaks to a running proxy: one request to its admin listener.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config;
use crate::config::model::{Admin, BindAddress, Secret};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Options of every command that speaks to a running proxy.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Admin address of the running proxy (HOST:PORT or unix:PATH), instead of the file's
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
}

/// A running proxy, as its operator reaches it.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    address: Address,
    token: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// Host and port, not resolved.
    Tcp(String),
    Unix(PathBuf),
}

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot tell the admin address from {0}: give the file with -c or the address with --admin"
    )]
    NoFile(PathBuf),
    #[error("the admin listener is off in {0}")]
    Off(PathBuf),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("cannot connect to {0} in time")]
    ConnectTimeout(String),
    #[error("the token holds characters that no header can carry")]
    Token,
    #[error("{0} does not answer in time")]
    Timeout(String),
    #[error("the connection to {0} broke off")]
    Broken(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Target {
    /// Address and token from `[admin]` of the file; `--admin` and `EVENKEEL_ADMIN_TOKEN` override.
    pub fn find(file: &Path, options: &Options) -> Result<Self, ClientError> {
        let env = |name: &str| std::env::var(name).ok();
        Self::find_with(file, options, &env)
    }

    fn find_with(
        file: &Path,
        options: &Options,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ClientError> {
        let token = env("EVENKEEL_ADMIN_TOKEN")
            .filter(|token| !token.is_empty())
            .map(Secret);
        // A file with mistakes elsewhere must not keep its operator from asking about it.
        let admin = match config::load(file, env) {
            Ok(loaded) => Some(loaded.config.admin),
            Err(_) => config::admin::of_file(file, env),
        };
        match (&options.admin, admin) {
            (Some(address), admin) => {
                let of_file = admin.flatten().and_then(|admin| admin.token);
                Ok(Target {
                    address: Address::parse(address),
                    token: token.or(of_file),
                })
            }
            (None, Some(Some(admin))) => Ok(Target {
                address: Address::of(&admin),
                token: token.or(admin.token),
            }),
            (None, Some(None)) => Err(ClientError::Off(file.to_owned())),
            (None, None) => Err(ClientError::NoFile(file.to_owned())),
        }
    }

    /// One request, and the whole answer within `limit`. Blocks; not to be called within a runtime.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let request = self.request(method, path, body)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::Runtime)?;
        runtime.block_on(async {
            match tokio::time::timeout(limit, self.send(request)).await {
                Ok(answered) => answered,
                Err(_) => Err(ClientError::Timeout(self.address.to_string())),
            }
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let body = body.map(serde_json::Value::to_string).unwrap_or_default();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let host = match &self.address {
            Address::Tcp(address) => HeaderValue::from_str(address).ok(),
            Address::Unix(_) => None,
        };
        headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(Secret(token)) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            headers.insert(AUTHORIZATION, value.map_err(|_| ClientError::Token)?);
        }
        Ok(request)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
        let name = || self.address.to_string();
        let connect = async {
            match &self.address {
                Address::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
                Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(Stream::Tcp(stream))) => exchange(stream, request).await,
            Ok(Ok(Stream::Unix(stream))) => exchange(stream, request).await,
            Ok(Err(error)) => return Err(ClientError::Connect(name(), error)),
            Err(_) => return Err(ClientError::ConnectTimeout(name())),
        }
        .map_err(|error| ClientError::Broken(name(), error))
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its error comes out of the request as well.
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await?
        .to_bytes();
    driver.abort();
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

impl Address {
    fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => {
                let address = text.strip_prefix("http://").unwrap_or(text);
                Address::Tcp(address.trim_end_matches('/').to_owned())
            }
        }
    }

    /// An address that means "all of this machine" is reached over loopback.
    fn of(admin: &Admin) -> Self {
        match &admin.address {
            BindAddress::Unix(path) => Address::Unix(path.to_path_buf()),
            BindAddress::Tcp(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                Address::Tcp(SocketAddr::new(ip, address.port()).to_string())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Answer {
    /// The `error` of an answer that is none, or its text.
    pub fn error(&self) -> String {
        let value: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        let error = value.as_ref().and_then(|value| value["error"].as_str());
        error.map_or_else(
            || format!("{}: {}", self.status, self.body.trim()),
            ToOwned::to_owned,
        )
    }
}

/// Says an error with its causes, in one line on stderr.
pub fn complain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    anstream::eprintln!("evenkeel: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(admin: &str) -> Options {
        Options {
            admin: Some(admin.into()),
        }
    }

    #[test]
    fn an_address_given_needs_no_file() {
        let missing = Path::new("/nonexistent/evenkeel.toml");
        let token = |name: &str| (name == "EVENKEEL_ADMIN_TOKEN").then(|| "t".to_string());
        let target = Target::find_with(missing, &options("unix:/run/x"), &token);
        let target = target.expect("the address is enough");
        assert_eq!(target.address, Address::Unix("/run/x".into()));
        assert_eq!(target.token, Some(Secret("t".into())));
        let none = Target::find_with(missing, &Options { admin: None }, &|_| None);
        assert!(matches!(none, Err(ClientError::NoFile(_))));
    }

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        let tcp = |text: &str| Address::Tcp(text.into());
        assert_eq!(Address::parse("localhost:9900"), tcp("localhost:9900"));
        assert_eq!(Address::parse("http://[::1]:9900/"), tcp("[::1]:9900"));
        let admin = |address: &str| Admin {
            address: BindAddress::Tcp(address.parse().expect("an address")),
            token: None,
            hosts: Vec::new(),
        };
        assert_eq!(Address::of(&admin("0.0.0.0:9900")), tcp("127.0.0.1:9900"));
        assert_eq!(Address::of(&admin("[::]:9900")), tcp("[::1]:9900"));
        assert_eq!(Address::of(&admin("192.0.2.1:1")), tcp("192.0.2.1:1"));
    }
}
