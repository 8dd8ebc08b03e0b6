//! The terms of a listener: which certificates it shows, whom it lets in.
//!
//! Sessions are resumed by tickets alone, sealed with keys that all workers share and that outlive
//! reloads. A listener that demands certificates gives no tickets and takes none: a session that
//! was begun elsewhere must not come in without one (CVE-2025-23419).

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore, ServerConfig};

use crate::tls::certificate::{Certificate, FileError, authorities};
use crate::tls::hello::{self, Hello};
use crate::tls::names::Names;
use crate::tls::{Fault, provider};

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// See the module. Two are equal when they mean the same.
pub struct Terms {
    pub certificates: Vec<Arc<Certificate>>,
    pub min_version: Version,
    names: Names,
    alpn: Vec<Vec<u8>>,
    /// Of the CA's file; `None`: clients show no certificate.
    client_ca: Option<u64>,
    server: Arc<ServerConfig>,
}

/// See [`Terms::admission`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    min_version: Version,
    client_ca: Option<u64>,
}

/// What a listener's terms are made of.
pub struct Draft<'a> {
    /// At least one; the first is the default.
    pub certificates: Vec<Arc<Certificate>>,
    pub min_version: Version,
    /// PEM of the authorities whose certificates clients must show.
    pub client_ca: Option<&'a [u8]>,
    /// In the order of preference.
    pub alpn: Vec<Vec<u8>>,
}

impl Terms {
    /// # Errors
    ///
    /// The `client-ca` file is wrong, or the library cannot do what is asked.
    pub fn new(draft: Draft<'_>) -> Result<Self, FileError> {
        let unable = |error: &dyn fmt::Display| FileError {
            fault: Fault::Certificate,
            message: format!("TLS cannot be set up: {error}"),
            help: None,
        };
        let versions = match draft.min_version {
            Version::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12][..],
            Version::Tls13 => &[&rustls::version::TLS13],
        };
        let names = Names::new(draft.certificates.iter().map(|one| &one.names[..]));
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions)
            .map_err(|error| unable(&error))?;
        let builder = match draft.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots: RootCertStore = authorities(pem)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider().clone(),
                );
                let verifier = verifier.build().map_err(|error| unable(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let shown = Shown {
            keys: draft
                .certificates
                .iter()
                .map(|certificate| certificate.key.clone())
                .collect(),
            names: Names::new(draft.certificates.iter().map(|one| &one.names[..])),
        };
        let mut server = builder.with_cert_resolver(Arc::new(shown));
        server.alpn_protocols = draft.alpn.clone();
        server.max_early_data_size = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        if draft.client_ca.is_some() {
            server.send_tls13_tickets = 0;
        } else {
            server.ticketer = tickets().map_err(|error| unable(&error))?;
        }
        Ok(Terms {
            certificates: draft.certificates,
            min_version: draft.min_version,
            names,
            alpn: draft.alpn,
            client_ca: draft.client_ca.map(|pem| {
                let mut hasher = DefaultHasher::new();
                pem.hash(&mut hasher);
                hasher.finish()
            }),
            server: Arc::new(server),
        })
    }

    /// For handshakes.
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// Clients must show a certificate.
    pub fn demands_certificates(&self) -> bool {
        self.client_ca.is_some()
    }

    /// A connection on which the certificate at `shown` was shown may be asked for `name` (in lower
    /// case): a client that asks by that name would have been shown the same.
    pub fn covers(&self, shown: usize, name: &str) -> bool {
        self.names.places(Some(name)).contains(&shown)
    }

    /// The certificate that a client which asks for `name` (in lower case) is shown, as far as its
    /// keys' kinds do not decide.
    pub fn shown_to(&self, name: Option<&str>) -> Option<usize> {
        self.names.places(name).first().copied()
    }

    /// What connections were let in by: those of another admission have to end. Certificates are
    /// not part of it, they count with the next handshake.
    pub fn admission(&self) -> Admission {
        Admission {
            min_version: self.min_version,
            client_ca: self.client_ca,
        }
    }
}

impl PartialEq for Terms {
    fn eq(&self, other: &Self) -> bool {
        self.admission() == other.admission()
            && self.certificates == other.certificates
            && self.alpn == other.alpn
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("certificates", &self.certificates)
            .field("min_version", &self.min_version)
            .field("client_ca", &self.client_ca)
            .finish_non_exhaustive()
    }
}

/// One for the process: a session begun on one worker, listener or configuration goes on on
/// another.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    static TICKETS: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    if let Some(tickets) = TICKETS.get() {
        return Ok(tickets.clone());
    }
    let made = Ticketer::new()?;
    Ok(TICKETS.get_or_init(|| made).clone())
}

/// The certificates as rustls asks for them.
struct Shown {
    keys: Vec<Arc<CertifiedKey>>,
    names: Names,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = client.server_name().map(str::to_ascii_lowercase);
        let name = name.map(|name| Box::from(name.trim_end_matches('.')));
        let places = self.names.places(name.as_deref());
        let usable = |place: &&usize| {
            self.keys
                .get(**place)
                .is_some_and(|key| key.key.choose_scheme(client.signature_schemes()).is_some())
        };
        let place = places.iter().find(usable).or(places.first()).copied()?;
        hello::note(Hello {
            server_name: name,
            certificate: Some(place),
        });
        self.keys.get(place).cloned()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.names).finish()
    }
}
