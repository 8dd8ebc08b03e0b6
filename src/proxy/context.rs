//! What a request finds around it: its worker, and the downstream connection it came on.

use std::cell::{RefCell, RefMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::{BindAddress, Listener, ListenerId, ProxyProtocol};
use crate::proxy::forwarding::Introductions;
use crate::snapshot::{Pin, Reader};
use crate::telemetry::{AccessLog, Metrics};
use crate::tls::Terms;
use crate::upstream::Server;
use crate::upstream::pool::{Claim, Pools};
use crate::util::capacity::Capacity;
use crate::util::clock;
use crate::util::random::Random;
use crate::util::timer::Timers;
use crate::wire::Limits;
use crate::wire::client::Connection;
use crate::wire::proxy_protocol;

/// One per worker; never leaves its thread.
pub struct Context {
    pub snapshots: Reader,
    pub timers: Timers,
    pub pools: Rc<Pools<Connection>>,
    pub random: RefCell<Random>,
    pub introductions: RefCell<Introductions>,
    pub access: AccessLog,
    pub metrics: Arc<Metrics>,
    pub capacity: Arc<Capacity>,
}

/// One listener as this worker sees it; shared by the listener's connections here, so that an idle
/// connection pins no snapshot.
pub struct ListenerRules {
    /// As configured: the listener's identity over reloads.
    address: BindAddress,
    current: RefCell<Current>,
}

struct Current {
    pin: Pin,
    listener: ListenerId,
    limits: Limits,
    max_age: Option<Duration>,
}

/// One downstream connection.
pub struct ConnectionInfo {
    /// Where it comes from: the TCP peer, or whom its PROXY header names.
    pub peer: SocketAddr,
    /// The port it came in on.
    pub port: u16,
    pub listener: Rc<ListenerRules>,
    /// What TLS said of it; `None` without.
    pub secured: Option<Box<Secured>>,
    /// `max-age` is over.
    ends: Option<Instant>,
    /// The upstream connection that NTLM or Negotiate bound to this one.
    pub(super) bound: RefCell<Option<Bound>>,
    /// Idle upstream connections that were told of this one by a PROXY header, one per server.
    pub(super) introduced: RefCell<Vec<Bound>>,
    /// What the client connected to, where that is not the listener's own address.
    pub(super) destination: Option<Box<SocketAddr>>,
}

/// A downstream connection's handshake, as far as its requests depend on it.
pub struct Secured {
    /// The name that the client asked for (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// Which certificate of `terms` was shown.
    pub certificate: Option<usize>,
    /// The client's own certificate as the value of `Client-Cert` (RFC 9440 section 2.1).
    pub client_certificate: Option<Box<[u8]>>,
    /// The listener's terms at the handshake.
    pub terms: Arc<Terms>,
}

impl Secured {
    /// Whether a request for `host` (normal form, without port) may come on this connection (RFC
    /// 9110 section 7.4): what let the client in, and what it was shown, must be meant for that
    /// host.
    pub fn is_for(&self, host: Option<&[u8]>) -> bool {
        let (Some(host), name) = (host, self.server_name.as_deref()) else {
            return true; // HTTP/1.0: for whatever it was connected to.
        };
        match name {
            Some(name) if name.as_bytes() == host => true,
            Some(_) if self.terms.demands_certificates() => false,
            // An address is never named in SNI (RFC 6066 section 3).
            None => !self.terms.demands_certificates() || is_address(host),
            Some(_) => match (self.certificate, std::str::from_utf8(host)) {
                (Some(shown), Ok(host)) => self.terms.covers(shown, host),
                _ => false,
            },
        }
    }
}

fn is_address(host: &[u8]) -> bool {
    let text = std::str::from_utf8(host).unwrap_or_default();
    text.starts_with('[') || text.parse::<Ipv4Addr>().is_ok()
}

/// An upstream connection that carries one client's identity: never pooled.
pub(super) struct Bound {
    pub server: Arc<Server>,
    pub connection: Connection,
    pub claim: Claim<Connection>,
}

impl ListenerRules {
    /// `None` when the current snapshot has no listener with `address`.
    pub fn new(context: &Context, address: BindAddress) -> Option<Rc<Self>> {
        let current = Current::of(context.snapshots.pin(), &address)?;
        Some(Rc::new(ListenerRules {
            address,
            current: RefCell::new(current),
        }))
    }

    /// The snapshot for the next request and this listener in it: the current one, or the last
    /// that had the listener. The worker calls it after each reload too, so that an old snapshot
    /// goes when its last request ends.
    pub fn current(&self, context: &Context) -> (Pin, ListenerId) {
        let current = self.refreshed(context);
        (current.pin.clone(), current.listener)
    }

    /// What the wire may take in for the next request.
    pub fn limits(&self, context: &Context) -> Limits {
        self.refreshed(context).limits
    }

    fn refreshed(&self, context: &Context) -> RefMut<'_, Current> {
        let mut current = self.current.borrow_mut();
        if !context.snapshots.is_current(&current.pin)
            && let Some(next) = Current::of(context.snapshots.pin(), &self.address)
        {
            *current = next;
        }
        current
    }
}

impl Current {
    fn of(pin: Pin, address: &BindAddress) -> Option<Self> {
        let listener = pin.listener_at(address)?;
        let rules = &pin.listener(listener).rules;
        let limits = limits(rules);
        let max_age = rules.limits.max_age;
        Some(Current {
            pin,
            listener,
            limits,
            max_age,
        })
    }
}

/// What the wire of a listener may take in.
pub(super) fn limits(rules: &Listener) -> Limits {
    Limits {
        header_timeout: rules.limits.header_timeout,
        idle_timeout: rules.limits.idle_timeout,
        max_header_bytes: rules.limits.max_header_bytes,
        max_headers: rules.limits.max_headers,
        max_requests: rules.limits.max_requests_per_connection,
        underscore_headers: rules.underscore_headers,
        half_close: rules.half_close,
        connection_buffer: rules.limits.connection_buffer,
        http1: rules.protocols.http1,
        h2: rules.protocols.h2,
        max_concurrent_streams: rules.limits.max_concurrent_streams,
        h2_stream_window: rules.limits.h2_stream_window,
        h2_connection_window: rules.limits.h2_connection_window,
    }
}

impl ConnectionInfo {
    pub fn new(
        context: &Context,
        peer: SocketAddr,
        port: u16,
        listener: Rc<ListenerRules>,
        secured: Option<Box<Secured>>,
    ) -> Self {
        let max_age = listener.refreshed(context).max_age;
        let ends = max_age.map(|age| {
            // Those that came together must not all come again together.
            clock::now() + context.random.borrow_mut().jitter(age, AGE_JITTER)
        });
        ConnectionInfo {
            peer,
            port,
            listener,
            secured,
            ends,
            bound: RefCell::new(None),
            introduced: RefCell::default(),
            destination: None,
        }
    }

    /// With what the client connected to, as a PROXY header said it or the system.
    pub fn to(self, destination: Option<Box<SocketAddr>>) -> Self {
        ConnectionInfo {
            destination,
            ..self
        }
    }

    /// The PROXY header for a server; a client over a unix socket has no address to tell.
    pub(super) fn introduce(&self, version: ProxyProtocol) -> Vec<u8> {
        let own = self.listener.address.tcp();
        let own = own.map(|own| SocketAddr::new(own.ip(), self.port));
        match (version, self.destination.as_deref().copied().or(own)) {
            (ProxyProtocol::Off, _) => Vec::new(),
            (ProxyProtocol::V1, None) => proxy_protocol::unknown_v1().to_vec(),
            (ProxyProtocol::V2, None) => proxy_protocol::local_v2().to_vec(),
            (ProxyProtocol::V1, Some(to)) => proxy_protocol::proxied_v1(self.peer, to),
            (ProxyProtocol::V2, Some(to)) => proxy_protocol::proxied_v2(self.peer, to),
        }
    }

    /// It has had its time: no request after the next.
    pub fn is_old(&self) -> bool {
        self.ends.is_some_and(|ends| clock::now() >= ends)
    }
}

/// The share by which `max-age` varies.
const AGE_JITTER: f64 = 0.1;
