//! A certificate with its key, out of two PEM files.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::tls::provider;

/// Which of the two files is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Certificate,
    Key,
    /// Each is fine, but they do not belong together.
    Pair,
}

/// What is wrong with a file, as a sentence without its name, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    pub fault: Fault,
    pub message: String,
    pub help: Option<&'static str>,
}

/// One certificate with its chain and its key. Two are equal when the files hold the same.
pub struct Certificate {
    /// The first of its names, else what it was loaded as.
    pub name: Arc<str>,
    pub key: Arc<CertifiedKey>,
    /// The DNS names that it is for, in lower case; `*.` in front of some.
    pub names: Vec<Box<str>>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    content: u64,
}

impl Certificate {
    /// `label` names it where it has no name of its own.
    ///
    /// # Errors
    ///
    /// Files without a certificate or a key, or whose key is another one's.
    pub fn from_pem(label: &str, certificate: &[u8], key: &[u8]) -> Result<Self, FileError> {
        let chain = certificates(certificate)?;
        let private = private_key(key)?;
        let mut hasher = DefaultHasher::new();
        (&chain, private.secret_der()).hash(&mut hasher);
        let facts = facts(&chain[0])?;
        let signing = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|error| FileError {
                fault: Fault::Key,
                message: format!("holds a private key that cannot be used: {error}"),
                help: Some("RSA of 2048 to 8192 bits, ECDSA P-256, P-384, P-521 and Ed25519 can"),
            })?;
        let key = CertifiedKey::new(chain, signing);
        match key.keys_match() {
            // Some keys cannot say which certificate is theirs.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(FileError {
                    fault: Fault::Pair,
                    message: "the key does not belong to the certificate".to_owned(),
                    help: Some(
                        "both must be of the same issuance; the server's own certificate \
                                stands first in its file",
                    ),
                });
            }
        }
        Ok(Certificate {
            name: Arc::from(facts.names.first().map_or(label, |name| &**name)),
            key: Arc::new(key),
            names: facts.names,
            not_before: facts.not_before,
            not_after: facts.not_after,
            content: hasher.finish(),
        })
    }
}

impl Certificate {
    /// Stands for what the two files hold.
    pub(in crate::tls) fn content(&self) -> u64 {
        self.content
    }

    /// `now`: seconds since 1970.
    pub fn is_valid_at(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

/// Nothing of the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
///
/// A file without any, or with one that cannot be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let wrong = |message: String, help| FileError {
        fault: Fault::Certificate,
        message,
        help,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("is broken PEM: {}", words(&error)), None))?;
    if chain.is_empty() {
        let is_key = PrivateKeyDer::from_pem_slice(pem).is_ok();
        let help = match is_key {
            true => "it holds a private key: are `cert` and `key` the wrong way round?",
            false => "a PEM file is needed, with -----BEGIN CERTIFICATE-----",
        };
        return Err(wrong("holds no certificate".to_owned(), Some(help)));
    }
    for (place, certificate) in chain.iter().enumerate() {
        if X509Certificate::from_der(certificate).is_err() {
            let which = place + 1;
            return Err(wrong(
                format!("holds a certificate (number {which}) that cannot be read"),
                None,
            ));
        }
    }
    Ok(chain)
}

/// The certificates of a PEM file as what others' certificates are checked against.
///
/// # Errors
///
/// As [`certificates`], and one that cannot be an authority.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| FileError {
            fault: Fault::Certificate,
            message: format!("holds a certificate that cannot be a CA: {error}"),
            help: None,
        })?;
    }
    Ok(roots)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let has = |text: &[u8]| memchr::memmem::find(pem, text).is_some();
        let (message, help) = match error {
            pem::Error::NoItemsFound if has(b"BEGIN ENCRYPTED PRIVATE KEY") => (
                "holds a private key that is encrypted".to_owned(),
                "decrypt it: openssl pkey -in FILE -out NEW",
            ),
            pem::Error::NoItemsFound if has(b"BEGIN CERTIFICATE") => (
                "holds no private key".to_owned(),
                "it holds a certificate: are `cert` and `key` the wrong way round?",
            ),
            pem::Error::NoItemsFound => (
                "holds no private key".to_owned(),
                "a PEM file is needed, with -----BEGIN PRIVATE KEY-----",
            ),
            error => (
                format!("is broken PEM: {}", words(&error)),
                "it may have been read while it was being written",
            ),
        };
        FileError {
            fault: Fault::Key,
            message,
            help: Some(help),
        }
    })
}

/// The library quotes the bytes that it stumbled on: of a key, too.
fn words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section begins wrongly",
        pem::Error::Base64Decode(_) => "it is not base64",
        pem::Error::NoItemsFound => "there is nothing in it",
        _ => "it cannot be read",
    }
}

struct Facts {
    names: Vec<Box<str>>,
    not_before: i64,
    not_after: i64,
}

fn facts(leaf: &CertificateDer<'_>) -> Result<Facts, FileError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| FileError {
        fault: Fault::Certificate,
        message: "holds a certificate that cannot be read".to_owned(),
        help: None,
    })?;
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension.parsed_extension()
        else {
            continue;
        };
        for name in &alternatives.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.trim_end_matches('.').to_ascii_lowercase().into());
            }
        }
    }
    let validity = certificate.validity();
    Ok(Facts {
        names,
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}
