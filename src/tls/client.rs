//! The terms towards the servers of an upstream: whom we trust, what we show, under which name.
//!
//! Verified unless switched off, against the system's roots unless the upstream has a CA of its
//! own. Sessions are resumed per server: a ticket of one is of no use to another that has the same
//! name, and TLS 1.3 takes each only once.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::tls::certificate::{Certificate, FileError, authorities};
use crate::tls::{Fault, provider};

/// Sessions that are kept of one server: the library keeps eight tickets under a name.
const SESSIONS: usize = 8;

/// See the module. Two are equal when they mean the same.
pub struct ClientTerms {
    /// Without resumption: each server adds its own.
    client: ClientConfig,
    name: Option<ServerName<'static>>,
    identity: u64,
}

/// What an upstream's terms are made of.
pub struct ClientDraft<'a> {
    pub trust: Trust<'a>,
    /// What certificates must be for; `None`: the server's own host name.
    pub server_name: Option<ServerName<'static>>,
    /// Shown to servers that ask for one.
    pub certificate: Option<Certificate>,
    /// In the order of preference.
    pub alpn: Vec<Vec<u8>>,
}

/// Who vouches for servers.
#[derive(Debug, Hash)]
pub enum Trust<'a> {
    System,
    /// PEM of authorities.
    Authorities(&'a [u8]),
    /// Nobody: whoever answers is taken for the server.
    Anyone,
}

/// What there is for one handshake with one server.
#[derive(Debug, Clone)]
pub struct Secure {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl ClientTerms {
    /// # Errors
    ///
    /// A wrong CA file, no roots of the system where they are needed, or what the library cannot
    /// do.
    pub fn new(draft: ClientDraft<'_>) -> Result<Self, FileError> {
        let unable = |error: &dyn fmt::Display| FileError {
            fault: Fault::Certificate,
            message: format!("TLS cannot be set up: {error}"),
            help: None,
        };
        let mut hasher = DefaultHasher::new();
        let shown = draft.certificate.as_ref().map(Certificate::content);
        (&draft.trust, &draft.server_name, shown, &draft.alpn).hash(&mut hasher);
        let verifier: Arc<dyn ServerCertVerifier> = match draft.trust {
            Trust::Anyone => Arc::new(Unverified(provider().clone())),
            Trust::System => verifier(system_roots()?.clone()).map_err(|error| unable(&error))?,
            Trust::Authorities(pem) => {
                verifier(Arc::new(authorities(pem)?)).map_err(|error| unable(&error))?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut client = match draft.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let shown = SingleCertAndKey::from((*certificate.key).clone());
                builder.with_client_cert_resolver(Arc::new(shown))
            }
        };
        client.alpn_protocols = draft.alpn;
        client.resumption = Resumption::disabled();
        Ok(ClientTerms {
            client,
            name: draft.server_name,
            identity: hasher.finish(),
        })
    }

    /// For the traffic to one server, which has the given name; sessions are kept as long as this.
    pub fn with_sessions(&self, host: &ServerName<'static>) -> Secure {
        let mut client = self.client.clone();
        client.resumption = Resumption::in_memory_sessions(SESSIONS);
        self.secure(client, host)
    }

    /// For a check of one server: each sees the certificate anew, which a resumed session does not
    /// show.
    pub fn without_sessions(&self, host: &ServerName<'static>, alpn: &[&[u8]]) -> Secure {
        let mut client = self.client.clone();
        client.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        self.secure(client, host)
    }

    fn secure(&self, client: ClientConfig, host: &ServerName<'static>) -> Secure {
        Secure {
            config: Arc::new(client),
            name: self.name.as_ref().unwrap_or(host).clone(),
        }
    }
}

impl PartialEq for ClientTerms {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl fmt::Debug for ClientTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTerms")
            .field("name", &self.name)
            .field("alpn", &self.client.alpn_protocols)
            .finish_non_exhaustive()
    }
}

fn verifier(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, impl fmt::Display> {
    WebPkiServerVerifier::builder_with_provider(roots, provider().clone()).build()
}

/// Read once in the life of the process, when they are first needed (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` say where, else the usual places). One that cannot be read is left out: a store
/// of hundreds has strange ones.
fn system_roots() -> Result<&'static Arc<RootCertStore>, FileError> {
    static ROOTS: LazyLock<Result<Arc<RootCertStore>, String>> = LazyLock::new(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(found.certs);
        match (taken, found.errors.first()) {
            (0, Some(error)) => Err(format!("the system's CA certificates: {error}")),
            (0, None) => Err("the system has no CA certificates".to_owned()),
            _ => Ok(Arc::new(roots)),
        }
    });
    ROOTS.as_ref().map_err(|message| FileError {
        fault: Fault::Certificate,
        message: message.clone(),
        help: Some("install ca-certificates, set SSL_CERT_FILE, or give `ca`"),
    })
}

/// `verify = false`: any certificate is taken; that the server has its key is still proven.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn authority() -> String {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["ca".to_owned()]).expect("a name");
        params.self_signed(&key).expect("a certificate").pem()
    }

    fn draft(pem: &str) -> ClientDraft<'_> {
        ClientDraft {
            trust: Trust::Authorities(pem.as_bytes()),
            server_name: None,
            certificate: None,
            alpn: vec![b"http/1.1".to_vec()],
        }
    }

    #[test]
    fn terms_are_equal_when_their_files_and_names_are() {
        let (one, other) = (authority(), authority());
        let terms = |draft| ClientTerms::new(draft).expect("terms");
        let name = ServerName::try_from("a.example").expect("a name");
        assert!(terms(draft(&one)) == terms(draft(&one)));
        assert!(terms(draft(&one)) != terms(draft(&other)));
        let named = ClientDraft {
            server_name: Some(name.clone()),
            ..draft(&one)
        };
        assert!(terms(named) != terms(draft(&one)));
        let h2 = ClientDraft {
            alpn: vec![b"h2".to_vec()],
            ..draft(&one)
        };
        assert!(terms(h2) != terms(draft(&one)));
        let unverified = ClientDraft {
            trust: Trust::Anyone,
            ..draft(&one)
        };
        assert!(terms(unverified) != terms(draft(&one)));
    }

    #[test]
    fn the_configured_name_is_the_one_that_is_asked_for() {
        let pem = authority();
        let host = ServerName::try_from("10.0.0.1").expect("an address");
        let terms = ClientTerms::new(draft(&pem)).expect("terms");
        assert_eq!(terms.with_sessions(&host).name, host);
        let name = ServerName::try_from("a.example").expect("a name");
        let named = ClientDraft {
            server_name: Some(name.clone()),
            ..draft(&pem)
        };
        let terms = ClientTerms::new(named).expect("terms");
        assert_eq!(terms.with_sessions(&host).name, name);
        let check = terms.without_sessions(&host, &[b"h2"]);
        assert_eq!(check.name, name);
        assert_eq!(check.config.alpn_protocols, [b"h2".to_vec()]);
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        let error = ClientTerms::new(draft("nothing")).expect_err("no certificate is in it");
        assert!(
            error.message.contains("holds no certificate"),
            "{}",
            error.message
        );
    }
}
