//! The system's way of resolving: `/etc/hosts`, then the servers of `/etc/resolv.conf`.
//!
//! Not `getaddrinfo`: it blocks a thread and tells no TTL. The price is that the two files are
//! read by us; when one changes, the resolver is built anew with the next question.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

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
    let mut builder = match TokioResolver::builder_tokio() {
        Ok(builder) => builder,
        // Without resolv.conf `/etc/hosts` and `localhost` still work.
        Err(error) => {
            tracing::warn!(%error, "cannot read the system's resolver configuration");
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), Vec::new()),
                TokioRuntimeProvider::default(),
            )
        }
    };
    let options = builder.options_mut();
    // IPv4 first: where a machine has no way out over IPv6, connects would fail before they work.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.negative_max_ttl = Some(LONGEST_NEGATIVE);
    builder.build()
}

impl Lookup for SystemResolver {
    async fn lookup(&self, name: &str) -> Result<Found, Arc<str>> {
        let answer = match self.resolver() {
            Ok(resolver) => resolver.lookup_ip(name).await,
            Err(error) => Err(error),
        };
        let answer = answer.map_err(|error| Arc::from(error.to_string()))?;
        Ok(Found {
            addresses: answer.iter().collect(),
            // The resolver's clock is the real one, whatever ours says.
            ttl: answer
                .valid_until()
                .saturating_duration_since(Instant::now()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn localhost_resolves_without_a_name_server() {
        let found = SystemResolver::new()
            .lookup("localhost")
            .await
            .expect("always resolves");
        assert_eq!(found.addresses.first(), Some(&Ipv4Addr::LOCALHOST.into()));
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
