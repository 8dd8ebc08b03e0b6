//! Why a handshake failed, in words that say what to do about it.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::wire::tls::socket::Broken;

/// A handshake that failed.
#[derive(Debug)]
pub enum TlsError {
    /// The peer left in the middle of it.
    Closed,
    Io(io::Error),
    /// The client speaks plain HTTP; it has been answered.
    PlainHttp,
    /// The peer sends records without end.
    Endless,
    Tls(Error),
}

/// The kinds of failure that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The peer left, or its connection broke.
    Gone,
    /// What came was no TLS.
    NotTls,
    /// No version, cipher, key exchange or application protocol in common.
    NothingInCommon,
    /// The peer showed no certificate, or one that is not accepted.
    PeerCertificate,
    /// The peer refused us by an alert: most often it does not trust our certificate.
    RefusedByPeer,
    /// It broke the protocol's rules.
    Protocol,
}

impl TlsError {
    pub fn cause(&self) -> Cause {
        let error = match self {
            TlsError::Closed | TlsError::Io(_) => return Cause::Gone,
            TlsError::PlainHttp => return Cause::NotTls,
            TlsError::Endless => return Cause::Protocol,
            TlsError::Tls(error) => error,
        };
        match error {
            Error::InvalidMessage(_) => Cause::NotTls,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Cause::NothingInCommon,
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Cause::PeerCertificate,
            Error::AlertReceived(_) => Cause::RefusedByPeer,
            _ => Cause::Protocol,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Closed => f.write_str("the peer closed the connection in the TLS handshake"),
            TlsError::Io(error) => write!(f, "the connection broke in the TLS handshake: {error}"),
            TlsError::PlainHttp => f.write_str("plain HTTP came to a TLS port"),
            TlsError::Endless => f.write_str("the TLS handshake has no end"),
            TlsError::Tls(error) => explain(error, f),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsError::Io(error) => Some(error),
            TlsError::Tls(error) => Some(error),
            TlsError::Closed | TlsError::PlainHttp | TlsError::Endless => None,
        }
    }
}

impl From<Broken> for TlsError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(error) => TlsError::Io(error),
            Broken::Tls(error) => TlsError::Tls(error),
            Broken::Truncated => TlsError::Closed,
            Broken::Barren => TlsError::Endless,
        }
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        TlsError::Tls(error)
    }
}

fn explain(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        Error::AlertReceived(alert) => match refusal(*alert) {
            Some(words) => write!(f, "the peer refused: {words} (alert {alert:?})"),
            None => write!(f, "the peer refused with alert {alert:?}"),
        },
        Error::InvalidCertificate(certificate) => match distrust(certificate) {
            Some(words) => write!(f, "the peer's certificate is not accepted: {words}"),
            None => write!(f, "the peer's certificate is not accepted: {certificate}"),
        },
        Error::NoCertificatesPresented => f.write_str("the peer showed no certificate"),
        Error::NoApplicationProtocol => {
            f.write_str("no application protocol in common (ALPN, `protocols`)")
        }
        Error::PeerIncompatible(incompatible) => match incompatible {
            PeerIncompatible::NoCipherSuitesInCommon => {
                f.write_str("no cipher suite in common with the peer")
            }
            PeerIncompatible::NoKxGroupsInCommon => {
                f.write_str("no key exchange group in common with the peer")
            }
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired => {
                f.write_str("no TLS version in common with the peer (`min-version`)")
            }
            other => write!(f, "the peer's TLS lacks what is needed: {other:?}"),
        },
        Error::InvalidMessage(message) => write!(f, "what came is no TLS: {message:?}"),
        other => write!(f, "the TLS handshake failed: {other}"),
    }
}

/// What an alert usually means to who reads the log.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "it does not trust the issuer of our certificate",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept our certificate"
        }
        AlertDescription::CertificateExpired => "our certificate has expired",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::UnsupportedCertificate => {
            "it cannot use our certificate's kind of key or signature"
        }
        AlertDescription::CertificateRequired => "it wants a certificate of ours",
        AlertDescription::AccessDenied => "it denies us access",
        AlertDescription::ProtocolVersion => "no TLS version in common",
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "no cipher or other parameter in common"
        }
        AlertDescription::UnrecognisedName => "it does not know the server name",
        AlertDescription::NoApplicationProtocol => "no application protocol in common (ALPN)",
        _ => return None,
    })
}

fn distrust(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer => "it is not issued by a CA that we trust",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet (or our clock is wrong)"
        }
        CertificateError::BadEncoding => "it cannot be read",
        CertificateError::BadSignature => "its signature is wrong",
        CertificateError::Revoked => "it is revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not made for this purpose (extended key usage)"
        }
        _ => return None,
    })
}
