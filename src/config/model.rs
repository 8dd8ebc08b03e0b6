//! The checked configuration: complete, defaults applied, names resolved to indices.
//!
//! Only [`super::load`] builds it, so an invalid configuration cannot be constructed. Values that
//! a later feature brings are absent here: the checker refuses their keys as "not supported yet".

mod actions;
mod wanted;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use regex::bytes::Regex;

use crate::tls::ClientTerms;
use crate::tls::Terms;
use crate::util::rate::{ByteRate, Rate};
use crate::util::units::{ByteSize, Percent};

pub use self::actions::{
    Destination, Format, HeaderEdits, Part, PathChange, Piece, Place, Redirect, Respond, SplitKey,
    Target, Template, Variable,
};
pub use self::wanted::Wanted;

/// Index of an upstream in [`Config::upstreams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub usize);

/// Index of a listener in [`Config::listeners`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub usize);

/// Index of a route in [`Config::routes`], in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub usize);

/// One accepted configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub process: Process,
    pub log: Log,
    pub access_log: Option<AccessLog>,
    /// `None` when `admin.address = "off"`.
    pub admin: Option<Admin>,
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub routes: Vec<Arc<Route>>,
}

impl Config {
    /// Where the admin listener is, unless it is off.
    pub fn admin_address(&self) -> Option<&BindAddress> {
        self.admin.as_ref().map(|admin| &admin.address)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// `None` is "auto": one per core that this process may use.
    pub workers: Option<usize>,
    pub drain_timeout: Duration,
    pub shutdown_delay: Duration,
    /// Of clients; `None` is "auto": what the descriptor limit carries.
    pub max_connections: Option<usize>,
    /// Resident bytes; `None` is "off".
    pub memory_limit: Option<ByteSize>,
    /// `None` is "off".
    pub min_rate: Option<ByteRate>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// An `EnvFilter` directive: "info", "debug", "evenkeel=debug,hyper=warn".
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: AccessLogFormat,
    pub sample: Percent,
    pub buffer: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    Combined,
    Json,
    Ecs,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    pub address: BindAddress,
    /// Empty string in the file means none.
    pub token: Option<Secret>,
    pub hosts: Vec<String>,
}

/// Where something of ours listens. As configured, it is a listener's identity over reloads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BindAddress {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl BindAddress {
    /// `None` for a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            BindAddress::Tcp(address) => Some(*address),
            BindAddress::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for BindAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BindAddress::Tcp(address) => write!(f, "{address}"),
            BindAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A value that is never shown: `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: BindAddress,
    /// Each connection begins with a PROXY header of a trusted proxy.
    pub proxy_protocol: bool,
    pub trusted_proxies: Vec<IpNet>,
    pub underscore_headers: UnderscoreHeaders,
    /// A client's FIN after its request is not an abort.
    pub half_close: bool,
    pub via: bool,
    pub backlog: u32,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<Terms>>,
    pub limits: ListenerLimits,
    pub protocols: Protocols,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderscoreHeaders {
    Remove,
    Allow,
    Reject,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListenerLimits {
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// 0 is unlimited.
    pub max_requests_per_connection: u64,
    /// `None` is "off".
    pub max_connections: Option<u64>,
    /// `None` is "off".
    pub max_age: Option<Duration>,
    /// Bytes.
    pub connection_buffer: usize,
    pub max_concurrent_streams: u32,
    /// Bytes.
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
}

/// What clients of a listener may speak; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    pub http1: bool,
    pub h2: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: Arc<str>,
    pub balance: Balance,
    /// Zero is off.
    pub slow_start: Duration,
    /// In flight per server, over all workers; a server's own value is in [`Server`].
    pub max_requests: u32,
    /// `concurrency = "adaptive"`.
    pub adaptive: bool,
    /// `None`: `queue = "off"`.
    pub queue: Option<Queue>,
    /// `None` is "off": never panic.
    pub panic_threshold: Option<Percent>,
    pub protocol: Protocol,
    pub servers: Vec<Server>,
    pub health: Option<Health>,
    pub breaker: Breaker,
    pub retry: Retry,
    pub timeout: Timeouts,
    pub connections: Connections,
    /// The header that connections begin with.
    pub proxy_protocol: ProxyProtocol,
    /// `None`: plain.
    pub tls: Option<Arc<ClientTerms>>,
    /// `None`: each request alone.
    pub sticky: Option<Arc<Sticky>>,
}

/// The cookie by which clients stay with a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    pub cookie: String,
    /// `None`: until the browser is closed.
    pub ttl: Option<Duration>,
    pub path: String,
    /// `None`: as the client's connection is.
    pub secure: Option<bool>,
    pub http_only: bool,
    /// `None`: not said.
    pub same_site: Option<&'static str>,
    /// Empty: none.
    pub key: String,
}

/// All but its key.
impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky")
            .field("cookie", &self.cookie)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// A version of the PROXY protocol, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ProxyProtocol {
    Off,
    V1,
    V2,
}

/// What is spoken to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    Http1,
    /// Without TLS by prior knowledge.
    H2,
    /// What the server chooses in its TLS handshake; without TLS there is nothing to choose by.
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    Random,
    RoundRobin,
    SmoothWeighted,
    LeastRequests,
    PeakEwma,
    Hash(HashKey),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    ClientIp,
    Path,
    /// Lower case.
    Header(String),
    Cookie(String),
    Query(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    pub size: usize,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub address: ServerAddress,
    /// 0..=1000.
    pub weight: u32,
    pub max_requests: u32,
    pub backup: bool,
    pub drain: bool,
}

/// Where a server is, or the servers are, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    Ip(SocketAddr),
    /// A name to resolve, lower case, and its port: a server for each of its addresses.
    Name(Arc<str>, u16),
    /// The name of SRV records, lower case: a server for each address of their targets.
    Srv(Arc<str>),
    Unix(Arc<std::path::Path>),
}

impl ServerAddress {
    /// It says where to ask, not where the servers are.
    pub fn is_name(&self) -> bool {
        matches!(self, ServerAddress::Name(..) | ServerAddress::Srv(_))
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerAddress::Ip(address) => write!(f, "{address}"),
            ServerAddress::Name(name, port) => write!(f, "{name}:{port}"),
            ServerAddress::Srv(name) => write!(f, "srv:{name}"),
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub probe: HealthProbe,
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
    /// 0 is the server's own.
    pub port: u16,
    /// Plain, also where the traffic is not.
    pub plain: bool,
    /// HTTP checks speak HTTP/2, as the traffic does.
    pub h2: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum HealthProbe {
    Tcp,
    /// By the gRPC health protocol.
    Grpc {
        /// Empty: the server as a whole.
        service: String,
        headers: Vec<(String, String)>,
        /// Empty: the server's address.
        host: String,
    },
    Http {
        path: String,
        method: String,
        headers: Vec<(String, String)>,
        /// Empty: the server's address.
        host: String,
        status: Vec<StatusRange>,
        /// Empty: anything.
        body: String,
    },
}

/// Inclusive, 100..=999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl StatusRange {
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

/// A set of gRPC statuses, of those that a configuration can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrpcStatuses(u32);

impl GrpcStatuses {
    /// The names in the file, and the codes (gRPC's `statuscodes.md`).
    pub const NAMED: [(&str, u8); 4] = [
        ("grpc-unavailable", 14),
        ("grpc-resource-exhausted", 8),
        ("grpc-deadline-exceeded", 4),
        ("grpc-internal", 13),
    ];

    /// `code`: below 32.
    pub fn insert(&mut self, code: u8) {
        self.0 |= 1 << code;
    }

    pub fn contains(self, code: u8) -> bool {
        code < 32 && self.0 >> code & 1 != 0
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    pub mode: BreakerMode,
    /// 0: `"off"`.
    pub consecutive_failures: u32,
    /// `None`: `"off"`.
    pub failure_ratio: Option<Percent>,
    pub min_requests: u32,
    pub window: Duration,
    pub slow: Option<Slow>,
    pub open: Duration,
    pub max_open: Duration,
    pub probes: u32,
    pub max_ejected: Percent,
    pub failure_status: Vec<StatusRange>,
    pub failure_grpc: GrpcStatuses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerMode {
    On,
    Watch,
    Off,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    pub threshold: Duration,
    pub ratio: Percent,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    pub attempts: u32,
    pub on: RetryOn,
    /// Upper case, as sent.
    pub methods: Vec<String>,
    pub budget: RetryBudget,
    pub max_replay_body: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RetryOn {
    pub connect: bool,
    pub reset: bool,
    pub timeout: bool,
    pub bad_response: bool,
    pub status: Vec<StatusRange>,
    pub grpc: GrpcStatuses,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    pub ratio: Percent,
    pub min_per_second: u32,
    pub window: Duration,
}

/// `None` is `"off"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub idle: Option<Duration>,
    pub tunnel: Option<Duration>,
    pub total: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Connections {
    pub max_idle: usize,
    /// `None` is `"off"`.
    pub max_connections: Option<usize>,
    pub idle_timeout: Option<Duration>,
    pub max_lifetime: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Route {
    pub name: Arc<str>,
    /// `file:line` of its `[[route]]`, for messages.
    pub origin: String,
    /// Empty: all.
    pub listeners: Vec<ListenerId>,
    pub host: Option<HostPattern>,
    pub path: PathMatch,
    pub when: Vec<Condition>,
    pub priority: i64,
    pub target: Target,
    /// Lower case tokens.
    pub upgrades: Vec<String>,
    pub forward: Forward,
    pub max_body: Option<ByteSize>,
    pub fallback: Option<Fallback>,
    pub mirror: Option<Mirror>,
    pub access: Access,
    pub limit: Option<Limit>,
    pub path_change: Option<PathChange>,
    pub request_headers: HeaderEdits,
    /// Of answers that are no refusals of ours.
    pub response_headers: HeaderEdits,
}

/// Requests of one key, by the generic cell rate algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub rate: Rate,
    pub burst: u32,
    pub by: LimitKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitKey {
    ClientIp,
    /// In lower case.
    Header(String),
    /// All requests together.
    Route,
}

/// Which client addresses may ask; both empty: all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Not empty: only these.
    pub allow: Vec<IpNet>,
    /// Tested first.
    pub deny: Vec<IpNet>,
}

/// Lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.org` is kept as `example.org`.
    Wildcard(String),
}

#[derive(Debug, Clone)]
pub enum PathMatch {
    /// In normal form (section 4 of the contract).
    Exact(String),
    /// In normal form, without trailing slash; empty is `/`.
    Prefix(String),
    Regex(PathRegex),
}

/// A fully anchored regex and the literal prefix that ranks it.
#[derive(Debug, Clone)]
pub struct PathRegex {
    pub source: String,
    /// As compiled: `^(?:source)$`.
    pub regex: Regex,
    /// The part before the first metacharacter cut back to the last `/`, without trailing slash.
    pub literal_prefix: String,
}

/// One key of `when`; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// One of these methods, upper case.
    Method(Vec<String>),
    /// Name in lower case.
    Header(String, Expected),
    Query(String, Expected),
    Cookie(String, Expected),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// `"*"`.
    Present,
    Value(Wanted),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    Normalized,
    Raw,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    pub status: u16,
    pub body: Template,
    pub upstream: Option<UpstreamId>,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    pub upstream: UpstreamId,
    /// Of the requests.
    pub percent: Percent,
}

impl Mirror {
    /// "shadow 1%".
    pub fn describe(&self, upstreams: &[Arc<Upstream>]) -> String {
        format!("{} {}", upstreams[self.upstream.0].name, self.percent)
    }
}

/// What `config show` needs beside the model: every value with where it came from.
pub type Origins = BTreeMap<String, String>;

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name, expected) = match self {
            Condition::Method(methods) => return write!(f, "method ({})", methods.join(", ")),
            Condition::Header(name, expected) => ("header", name, expected),
            Condition::Query(name, expected) => ("query", name, expected),
            Condition::Cookie(name, expected) => ("cookie", name, expected),
        };
        match expected {
            Expected::Present => write!(f, "{kind}.{name} (present)"),
            Expected::Value(value) => write!(f, "{kind}.{name} = {:?}", value.shown()),
        }
    }
}
