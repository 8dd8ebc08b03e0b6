//! The system's way of resolving: `/etc/hosts`, then the servers of `/etc/resolv.conf`.
//!
//! Not `getaddrinfo`: it blocks a thread and tells no TTL. The price is that the two files are
//! read by us; when one changes, the resolver is built anew with the next question.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

use crate::upstream::resolve::{Found, Lookup};

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// A name that appears is found soon, whatever its zone says about names that do not exist.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(5);

/// Asks as the system would. One per process, shared by all names.
#[derive(Default)]
pub struct SystemResolver {
    built: Mutex<Option<Built>>,
}

struct Built {
    resolver: Arc<TokioResolver>,
    stamps: Stamps,
}

/// When the files of the system's configuration were last changed.
type Stamps = [Option<SystemTime>; FILES.len()];

impl SystemResolver {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, NetError> {
        let stamps = FILES.map(|file| {
            std::fs::metadata(file)
                .and_then(|data| data.modified())
                .ok()
        });
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*built
            && current.stamps == stamps
        {
            return Ok(current.resolver.clone());
        }
        let resolver = Arc::new(build()?);
        *built = Some(Built {
            resolver: resolver.clone(),
            stamps,
        });
        Ok(resolver)
    }
}

fn build() -> Result<TokioResolver, NetError> {
    let builder = match TokioResolver::builder_tokio() {
        Ok(builder) => builder,
        // Without resolv.conf `/etc/hosts` and `localhost` still work.
        Err(error) => {
            tracing::warn!(%error, "cannot read the system's resolver configuration");
            with_servers(Vec::new())
        }
    };
    finish(builder)
}

fn with_servers(servers: Vec<NameServerConfig>) -> ResolverBuilder<TokioRuntimeProvider> {
    TokioResolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), servers),
        TokioRuntimeProvider::default(),
    )
}

fn finish(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    let options = builder.options_mut();
    // IPv4 first: where a machine has no way out over IPv6, connects would fail before they work.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.negative_max_ttl = Some(LONGEST_NEGATIVE);
    builder.build()
}

impl Lookup for SystemResolver {
    async fn lookup(&self, name: &str) -> Result<Found, Arc<str>> {
        match self.resolver() {
            Ok(resolver) => ask(&resolver, name).await,
            Err(error) => Err(error.to_string().into()),
        }
    }
}

async fn ask(resolver: &TokioResolver, name: &str) -> Result<Found, Arc<str>> {
    let answer = resolver.lookup_ip(name).await;
    let answer = answer.map_err(|error| cause(&error))?;
    Ok(Found {
        addresses: answer.iter().collect(),
        // The resolver's clock is the real one, whatever ours says.
        ttl: answer
            .valid_until()
            .saturating_duration_since(Instant::now()),
    })
}

/// For people; the library's own text of the first two is a debug print.
fn cause(error: &NetError) -> Arc<str> {
    if error.is_nx_domain() {
        "no such name".into()
    } else if error.is_no_records_found() {
        "the name has no address".into()
    } else {
        error.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_resolver::config::ConnectionConfig;
    use tokio::net::UdpSocket;
    use tokio::sync::watch;

    use super::*;

    /// What the name server says about every name: an address with a TTL, or that it is not there.
    type Zone = watch::Sender<Option<(Ipv4Addr, u32)>>;

    /// A name server that knows one thing, and a resolver that asks it.
    async fn served() -> (Zone, TokioResolver) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().expect("has an address").port();
        let server =
            NameServerConfig::new(IpAddr::from(Ipv4Addr::LOCALHOST), true, vec![connection]);
        let resolver = finish(with_servers(vec![server])).expect("builds");
        let (zone, known) = watch::channel(None);
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let known = *known.borrow();
                let reply = reply(&buffer[..length], known);
                // The test may have ended.
                let _ = socket.send_to(&reply, from).await;
            }
        });
        (zone, resolver)
    }

    /// RFC 1035 section 4.1: header, the question as it came, at most one A record.
    fn reply(query: &[u8], known: Option<(Ipv4Addr, u32)>) -> Vec<u8> {
        let name_end = 12
            + query[12..]
                .iter()
                .position(|byte| *byte == 0)
                .expect("has a name");
        let question = &query[12..name_end + 5];
        let is_a = query[name_end + 1..name_end + 3] == [0, 1];
        let answer = known.filter(|_| is_a);
        let code = if known.is_some() { 0 } else { 3 };
        let mut reply = query[..2].to_vec();
        reply.extend([
            0x81,
            0x80 | code,
            0,
            1,
            0,
            u8::from(answer.is_some()),
            0,
            0,
            0,
            0,
        ]);
        reply.extend(question);
        if let Some((address, ttl)) = answer {
            // The name at offset 12, type A, class IN.
            reply.extend([0xc0, 12, 0, 1, 0, 1]);
            reply.extend(ttl.to_be_bytes());
            reply.extend([0, 4]);
            reply.extend(address.octets());
        }
        reply
    }

    #[tokio::test]
    async fn an_answer_brings_its_address_and_ttl() {
        let (zone, resolver) = served().await;
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 7), 20)));
        let found = ask(&resolver, "app.internal").await.expect("is known");
        assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 7])]);
        let ttl = found.ttl.as_secs_f64();
        assert!((18.0..=20.0).contains(&ttl), "TTL of 20s came as {ttl}s");
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_again_once_its_ttl_has_passed() {
        let (zone, resolver) = served().await;
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 7), 0)));
        ask(&resolver, "app.internal").await.expect("is known");
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 8), 0)));
        let found = ask(&resolver, "app.internal").await.expect("is known");
        assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 8])]);
    }

    #[tokio::test]
    async fn a_name_that_appears_is_found() {
        let (zone, resolver) = served().await;
        let cause = ask(&resolver, "app.internal")
            .await
            .expect_err("is not known");
        assert_eq!(&*cause, "no such name");
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 7), 20)));
        ask(&resolver, "app.internal").await.expect("is known now");
    }

    #[tokio::test]
    async fn localhost_resolves_without_a_name_server() {
        let found = SystemResolver::new()
            .lookup("localhost")
            .await
            .expect("always resolves");
        assert_eq!(found.addresses.first(), Some(&Ipv4Addr::LOCALHOST.into()));
        let alone = finish(with_servers(Vec::new())).expect("builds");
        ask(&alone, "localhost").await.expect("always resolves");
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error() {
        let cause = SystemResolver::new()
            .lookup("..")
            .await
            .expect_err("is no name");
        assert!(!cause.is_empty());
    }
}
