//! The system's way of resolving: `/etc/hosts`, then the servers of `/etc/resolv.conf`.
//!
//! Not `getaddrinfo`: it blocks a thread and tells no TTL. The price is that the two files are
//! read by us; when one changes, the resolver is built anew with the next question. A
//! `resolv.conf` that is gone or caught half-written changes nothing; without one at the start the
//! name server is the one on this machine, as for the C library (resolv.conf(5)).
//!
//! *One family.* The two families of a name are nearly always the same machines, and one machine
//! that is two servers would have twice its share, twice its limits and two breakers. So a name is
//! its IPv4 addresses, and the IPv6 ones only where there are no others, or this machine has no
//! way to them (what RFC 6724 section 5, rule 1, decides by).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, ResolverBuilder, TokioResolver};

use crate::config::model::ServerAddress;
use crate::telemetry::ResolveResult;
use crate::upstream::resolve::srv::{self, Targets};
use crate::upstream::resolve::{Answer, Lookup, Told, Trouble};

/// A name that appears is found soon, whatever its zone says about names that do not exist.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(5);
/// What one name server is given for one try, unless `resolv.conf` gives it less.
const LONGEST_TRY: Duration = Duration::from_secs(2);
/// Of one question, after its first try.
const MOST_REPEATS: usize = 1;
/// What is from `/etc/hosts` has no TTL: it is looked at that often.
const FILES_TTL: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

/// Asks as the system would. One per process, shared by all names.
pub struct SystemResolver {
    files: Files,
    /// Asked instead of those in `resolv.conf`.
    servers: Vec<SocketAddr>,
    built: Mutex<Option<Built>>,
    targets: Targets,
}

/// Of the system's configuration.
struct Files {
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

struct Built {
    resolver: Arc<TokioResolver>,
    stamps: [Stamp; 2],
}

/// A file's inode, length and time: what is written or put in its place differs in one of them.
type Stamp = Option<(u64, u64, SystemTime)>;

impl SystemResolver {
    /// `servers`: asked instead of those of the system, if there are any.
    pub fn new(servers: Vec<SocketAddr>) -> Arc<Self> {
        let files = Files {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        };
        Self::with(files, servers)
    }

    fn with(files: Files, servers: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(SystemResolver {
            files,
            servers,
            built: Mutex::default(),
            targets: Targets::default(),
        })
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, NetError> {
        let stamps = [stamp(&self.files.resolv_conf), stamp(&self.files.hosts)];
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &mut *built {
            if current.stamps == stamps {
                return Ok(current.resolver.clone());
            }
            // Looked at once per change, whatever comes of it.
            current.stamps = stamps;
        }
        let resolver = match (self.build(), &*built) {
            (Ok(resolver), _) => Arc::new(resolver),
            (Err(error), Some(current)) => {
                tracing::warn!(%error, "the system's resolver configuration cannot be read, the last one stays");
                return Ok(current.resolver.clone());
            }
            (Err(error), None) => {
                tracing::warn!(%error, "the system's resolver configuration cannot be read, the name server is taken to be on this machine");
                let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
                Arc::new(self.finish(with_servers(&[local]))?)
            }
        };
        *built = Some(Built {
            resolver: resolver.clone(),
            stamps,
        });
        Ok(resolver)
    }

    fn build(&self) -> Result<TokioResolver, NetError> {
        if !self.servers.is_empty() {
            return self.finish(with_servers(&self.servers));
        }
        let (config, options) = parse_resolv_conf(std::fs::read(&self.files.resolv_conf)?)?;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        self.finish(builder)
    }

    fn finish(
        &self,
        mut builder: ResolverBuilder<TokioRuntimeProvider>,
    ) -> Result<TokioResolver, NetError> {
        let options = builder.options_mut();
        options.negative_max_ttl = Some(LONGEST_NEGATIVE);
        options.timeout = options.timeout.min(LONGEST_TRY);
        // A question that fails is asked again by us, with the files of then.
        options.attempts = options.attempts.min(MOST_REPEATS);
        let mut resolver = builder.build()?;
        let mut hosts = Hosts::default();
        // Not to have one is fine.
        if let Ok(file) = std::fs::File::open(&self.files.hosts)
            && let Err(error) = hosts.read_hosts_conf(file)
        {
            tracing::warn!(%error, file = %self.files.hosts.display(), "cannot be read");
        }
        resolver.set_hosts(Arc::new(hosts));
        Ok(resolver)
    }
}

fn stamp(file: &Path) -> Stamp {
    let data = std::fs::metadata(file).ok()?;
    Some((data.ino(), data.len(), data.modified().ok()?))
}

fn with_servers(servers: &[SocketAddr]) -> ResolverBuilder<TokioRuntimeProvider> {
    let server = |at: &SocketAddr| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = at.port();
        }
        NameServerConfig::new(at.ip(), true, connections)
    };
    let servers = servers.iter().map(server).collect();
    TokioResolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), servers),
        TokioRuntimeProvider::default(),
    )
}

impl Lookup for SystemResolver {
    async fn lookup(&self, name: &ServerAddress) -> Result<Answer, Trouble> {
        let resolver = self.resolver().map_err(|error| trouble(&error))?;
        match name {
            ServerAddress::Name(host, port) => {
                let found = addresses(&resolver, host).await?;
                let told = |ip: &IpAddr| Told::plain(SocketAddr::new(*ip, *port));
                Ok(Answer {
                    told: found.ips.iter().map(told).collect(),
                    ttl: found.ttl(),
                })
            }
            ServerAddress::Srv(service) => srv::lookup(&resolver, service, &self.targets).await,
            // Nothing has to be asked.
            ServerAddress::Ip(at) => Ok(Answer {
                told: vec![Told::plain(*at)],
                ttl: DAY,
            }),
            ServerAddress::Unix(_) => Err(Trouble {
                result: ResolveResult::Empty,
                cause: "a socket has no address".into(),
            }),
        }
    }
}

/// Addresses of one family.
pub(super) struct Found {
    pub ips: Vec<IpAddr>,
    /// Of the resolver's clock, which is the real one, whatever ours says.
    pub valid_until: Instant,
}

impl Found {
    pub fn ttl(&self) -> Duration {
        ttl(self.valid_until)
    }
}

pub(super) fn ttl(valid_until: Instant) -> Duration {
    match valid_until.saturating_duration_since(Instant::now()) {
        // What the library gives to what is from a file. A real one is in its cache.
        long if long >= DAY - Duration::from_secs(60) => FILES_TTL,
        ttl => ttl,
    }
}

pub(super) async fn addresses(resolver: &TokioResolver, host: &str) -> Result<Found, Trouble> {
    let four = family(resolver, host, RecordType::A).await;
    let lost = match &four {
        Ok(found) if !found.ips.is_empty() => {
            if found.ips.iter().any(|ip| reachable(*ip)) {
                return four;
            }
            true
        }
        Ok(_) => false,
        // Not to know is no reason to move to the other family.
        Err(trouble) if !trouble.result.is_definite() => return four,
        Err(_) => false,
    };
    let six = family(resolver, host, RecordType::AAAA).await;
    match &six {
        Ok(found) if lost && !found.ips.iter().any(|ip| reachable(*ip)) => four,
        Err(_) if lost => four,
        _ => six,
    }
}

async fn family(
    resolver: &TokioResolver,
    host: &str,
    record: RecordType,
) -> Result<Found, Trouble> {
    let answer = resolver.lookup(host, record).await;
    let answer = answer.map_err(|error| trouble(&error))?;
    let ips = answer.answers().iter().filter_map(|record| {
        let ip = record.data.ip_addr()?;
        usable(ip)
    });
    Ok(Found {
        ips: ips.collect(),
        valid_until: answer.valid_until(),
    })
}

/// What can be one server. `0.0.0.0` is how blocking name servers say that there is none, and to
/// connect to it would be to connect to ourselves.
pub(super) fn usable(ip: IpAddr) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    let none = ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
    (!none).then_some(ip)
}

/// This machine has a way there. Nothing is sent.
fn reachable(ip: IpAddr) -> bool {
    let own: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0));
    socket.is_ok_and(|socket| socket.connect((ip, 9)).is_ok())
}

/// For people and for the count; the library's own text is often a debug print.
pub(super) fn trouble(error: &NetError) -> Trouble {
    let (result, cause): (_, Arc<str>) = match error {
        error if error.is_nx_domain() => (ResolveResult::NotFound, "no such name".into()),
        error if error.is_no_records_found() => {
            (ResolveResult::Empty, "the name has no address".into())
        }
        NetError::Timeout => (
            ResolveResult::Timeout,
            "no answer from the name server".into(),
        ),
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => (
            ResolveResult::Refused,
            "the name server refuses the question".into(),
        ),
        NetError::Dns(DnsError::ResponseCode(code)) => (
            ResolveResult::Failure,
            format!("the name server failed: {code}").into(),
        ),
        NetError::Io(error) => (
            ResolveResult::Failure,
            format!("cannot ask the name server: {error}").into(),
        ),
        NetError::NoConnections => (ResolveResult::Failure, "no name server can be asked".into()),
        error => (ResolveResult::Failure, error.to_string().into()),
    };
    Trouble { result, cause }
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;
    use tokio::sync::watch;

    use super::*;

    /// What the name server says about every name: an address with a TTL, or that it is not there.
    type Zone = watch::Sender<Option<(Ipv4Addr, u32)>>;

    /// A name server that knows one thing, and a resolver that asks it.
    async fn served() -> (Zone, Arc<SystemResolver>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("binds");
        let server = socket.local_addr().expect("has an address");
        let resolver = SystemResolver::new(vec![server]);
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

    async fn ask(resolver: &SystemResolver) -> Result<Answer, Trouble> {
        let name = ServerAddress::Name("app.internal".into(), 80);
        resolver.lookup(&name).await
    }

    fn told(last: u8) -> [Told; 1] {
        [Told::plain(([10, 0, 0, last], 80).into())]
    }

    #[tokio::test]
    async fn an_answer_brings_its_address_and_ttl() {
        let (zone, resolver) = served().await;
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 7), 20)));
        let found = ask(&resolver).await.expect("is known");
        assert_eq!(found.told, told(7));
        let ttl = found.ttl.as_secs_f64();
        assert!((18.0..=20.0).contains(&ttl), "TTL of 20s came as {ttl}s");
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_again_once_its_ttl_has_passed() {
        let (zone, resolver) = served().await;
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 7), 0)));
        ask(&resolver).await.expect("is known");
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 8), 0)));
        let found = ask(&resolver).await.expect("is known");
        assert_eq!(found.told, told(8));
    }

    #[tokio::test]
    async fn a_name_that_appears_is_found() {
        let (zone, resolver) = served().await;
        let trouble = ask(&resolver).await.expect_err("is not known");
        assert_eq!(trouble.result, ResolveResult::NotFound);
        assert_eq!(&*trouble.cause, "no such name");
        zone.send_replace(Some((Ipv4Addr::new(10, 0, 0, 7), 20)));
        ask(&resolver).await.expect("is known now");
    }

    /// Files of the system's configuration that a test writes.
    fn files(resolv_conf: &str) -> (tempfile::TempDir, Arc<SystemResolver>) {
        let directory = tempfile::tempdir().expect("can be made");
        let files = Files {
            resolv_conf: directory.path().join("resolv.conf"),
            hosts: directory.path().join("hosts"),
        };
        std::fs::write(&files.resolv_conf, resolv_conf).expect("can be written");
        (directory, SystemResolver::with(files, Vec::new()))
    }

    #[tokio::test]
    async fn localhost_resolves_without_a_name_server() {
        let name = ServerAddress::Name("localhost".into(), 80);
        let local = [Told::plain(([127, 0, 0, 1], 80).into())];
        let found = SystemResolver::new(Vec::new()).lookup(&name).await;
        assert_eq!(found.expect("always resolves").told, local);
        let (directory, alone) = files("");
        std::fs::remove_file(directory.path().join("resolv.conf")).expect("was there");
        let found = alone.lookup(&name).await;
        assert_eq!(found.expect("always resolves").told, local);
    }

    #[tokio::test]
    async fn a_change_of_the_hosts_file_is_seen() {
        let (directory, resolver) = files("nameserver 127.0.0.1\n");
        let hosts = directory.path().join("hosts");
        for last in [7, 8] {
            let lines = format!("10.0.0.{last} app.internal\nfe80::1 app.internal\n");
            std::fs::write(&hosts, lines).expect("can be written");
            let found = ask(&resolver).await.expect("is in the file");
            assert_eq!(found.told, told(last));
            assert_eq!(found.ttl, FILES_TTL);
        }
    }

    #[tokio::test]
    async fn a_configuration_that_is_gone_or_half_written_changes_nothing() {
        let (directory, resolver) = files("nameserver 127.0.0.1\n");
        let first = resolver.resolver().expect("builds");
        let path = directory.path().join("resolv.conf");
        for broken in [Some(""), Some("name"), None] {
            match broken {
                Some(text) => std::fs::write(&path, text).expect("can be written"),
                None => std::fs::remove_file(&path).expect("was there"),
            }
            let now = resolver.resolver().expect("there is one");
            assert!(Arc::ptr_eq(&first, &now), "after {broken:?}");
        }
        std::fs::write(&path, "nameserver 127.0.0.2\n").expect("can be written");
        let now = resolver.resolver().expect("there is one");
        assert!(!Arc::ptr_eq(&first, &now));
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error() {
        let name = ServerAddress::Name("..".into(), 80);
        let found = SystemResolver::new(Vec::new()).lookup(&name).await;
        assert!(!found.expect_err("is no name").cause.is_empty());
    }

    #[test]
    fn no_server_is_everywhere_or_nowhere() {
        for ip in [
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "::ffff:0.0.0.0",
        ] {
            assert_eq!(usable(ip.parse().expect("an address")), None, "{ip}");
        }
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(usable(mapped), Some([10, 0, 0, 1].into()));
    }
}
