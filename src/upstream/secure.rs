//! TLS towards one server: its terms with the server's own sessions, and what went wrong.
//!
//! Part of the server's live state: a reload that leaves the terms as they are leaves the sessions,
//! and what has been said of failures is not said again.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::ServerName;

use crate::config::model::ServerAddress;
use crate::tls::{ClientTerms, Secure};
use crate::upstream::common::lock;
use crate::wire::tls::TlsError;

/// Kinds of failure that are told apart; more of them are one.
const MOST_TOLD: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Security {
    terms: Arc<ClientTerms>,
    host: ServerName<'static>,
    traffic: Secure,
    upstream: Arc<str>,
    server: Arc<str>,
    /// Since the last handshake that went well. Locked by a handshake that failed, and by the
    /// first that went well after it.
    told: Mutex<Vec<String>>,
}

impl Security {
    pub fn new(
        terms: &Arc<ClientTerms>,
        address: &ServerAddress,
        upstream: &Arc<str>,
        server: &Arc<str>,
    ) -> Arc<Self> {
        let host = host(address);
        Arc::new(Security {
            traffic: terms.with_sessions(&host),
            terms: terms.clone(),
            host,
            upstream: upstream.clone(),
            server: server.clone(),
            told: Mutex::default(),
        })
    }

    pub fn terms(&self) -> &Arc<ClientTerms> {
        &self.terms
    }

    /// The certificate of that address is what it asks for.
    pub fn is_for(&self, address: &ServerAddress) -> bool {
        self.host == host(address)
    }

    pub fn traffic(&self) -> &Secure {
        &self.traffic
    }

    /// For a check, which offers these protocols.
    pub fn check(&self, alpn: &[&[u8]]) -> Secure {
        self.terms.without_sessions(&self.host, alpn)
    }

    /// Says why a handshake failed, each cause once until one goes well: somebody has to repair
    /// something, and requests by the thousand would only hide it.
    pub fn failed(&self, error: &TlsError) {
        let cause = error.to_string();
        let mut told = lock(&self.told);
        if told.contains(&cause) || told.len() >= MOST_TOLD {
            drop(told);
            let (upstream, server) = (&*self.upstream, &*self.server);
            tracing::debug!(upstream, server, %cause, "TLS with a server failed");
            return;
        }
        told.push(cause.clone());
        drop(told);
        let (upstream, server) = (&*self.upstream, &*self.server);
        tracing::warn!(upstream, server, %cause, "TLS with a server failed");
    }

    pub fn went_well(&self) {
        lock(&self.told).clear();
    }
}

/// What a server's certificate is for unless `server-name` says otherwise.
fn host(address: &ServerAddress) -> ServerName<'static> {
    match address {
        ServerAddress::Ip(address) => ServerName::from(address.ip().to_canonical()),
        // The checker lets no name through that is none; no certificate is for this address.
        ServerAddress::Name(name, _) | ServerAddress::Srv(name) => {
            ServerName::try_from(name.to_string())
                .unwrap_or(ServerName::from(IpAddr::from([0, 0, 0, 0])))
        }
        ServerAddress::Unix(_) => ServerName::try_from("localhost")
            .unwrap_or(ServerName::from(IpAddr::from([127, 0, 0, 1]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_asked_for_by_their_own_name() {
        let name = |text: &str| ServerName::try_from(text.to_owned()).expect("a name");
        for (address, expected) in [
            (
                ServerAddress::Ip(([10, 0, 0, 1], 443).into()),
                name("10.0.0.1"),
            ),
            (
                ServerAddress::Name("app.internal".into(), 443),
                name("app.internal"),
            ),
            (ServerAddress::Name("app_1".into(), 443), name("app_1")),
            (
                ServerAddress::Unix(std::path::Path::new("/run/app.sock").into()),
                name("localhost"),
            ),
        ] {
            assert_eq!(host(&address), expected);
        }
    }
}
