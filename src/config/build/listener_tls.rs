//! `[listener.tls]`: the files are read and made ready for handshakes here, so that an accepted
//! configuration has nothing left in it that could fail later.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::build::Building;
use crate::config::build::files::NamedFile;
use crate::config::keys;
use crate::config::reader::Reader;
use crate::config::tree::quote;
use crate::tls::{Certificate, Draft, Fault, Terms, Version};

/// `None` without TLS, and where something is wrong.
pub(super) fn terms(listener: Reader<'_>, building: &mut Building<'_>) -> Option<Arc<Terms>> {
    let reader = listener.table("tls", &keys::LISTENER_TLS)?;
    let certificates: Vec<_> = reader
        .list("certificates")
        .iter()
        .filter_map(|node| certificate(Reader::new(node, &keys::CERTIFICATE), building))
        .collect();
    if reader.list("certificates").is_empty() {
        if reader.all_known() {
            let place = reader.span_of("certificates");
            let message = "TLS needs a certificate";
            let error = building.problems.error("missing-key", place, message);
            error.help("certificates = [{ cert = \"site.pem\", key = \"site.key\" }]");
        }
        return None;
    }
    let client_ca = building.named_file(reader, "client-ca");
    if certificates.is_empty() || (client_ca.is_none() && !reader.text("client-ca").is_empty()) {
        return None;
    }
    let terms = Terms::new(Draft {
        certificates,
        min_version: match reader.text("min-version") {
            "1.3" => Version::Tls13,
            _ => Version::Tls12,
        },
        client_ca: client_ca.as_ref().map(|file| &file.bytes[..]),
        alpn: listener
            .texts("protocols")
            .map(|(_, name)| name.as_bytes().to_vec())
            .collect(),
    });
    match terms {
        Ok(terms) => Some(Arc::new(terms)),
        Err(found) => {
            let file = client_ca.unwrap_or(NamedFile {
                name: "[listener.tls]",
                span: reader.span,
                bytes: Vec::new(),
            });
            building.bad_file(&file, &found);
            None
        }
    }
}

fn certificate(reader: Reader<'_>, building: &mut Building<'_>) -> Option<Arc<Certificate>> {
    for (key, other) in [("cert", "key"), ("key", "cert")] {
        if reader.node(key).is_none() && reader.all_known() {
            let message = format!("a certificate needs a `{key}`");
            let error = building.problems.error("missing-key", reader.span, message);
            let given = reader.text(other);
            error.help(match key {
                "key" => format!("{{ cert = \"{given}\", key = \"site.key\" }}"),
                _ => format!("{{ cert = \"site.pem\", key = \"{given}\" }}"),
            });
        }
    }
    let cert = building.named_file(reader, "cert");
    let key = building.named_file(reader, "key");
    let (cert, key) = (cert?, key?);
    match Certificate::from_pem(cert.name, &cert.bytes, &key.bytes) {
        Ok(certificate) => {
            judge_time(&certificate, &cert, building);
            Some(Arc::new(certificate))
        }
        Err(found) => {
            match found.fault {
                Fault::Certificate => building.bad_file(&cert, &found),
                Fault::Key => building.bad_file(&key, &found),
                Fault::Pair => mismatch(&cert, &key, found.help, building),
            }
            None
        }
    }
}

fn mismatch(
    cert: &NamedFile<'_>,
    key: &NamedFile<'_>,
    help: Option<&str>,
    building: &mut Building<'_>,
) {
    let message = format!(
        "the key in {} does not belong to the certificate in {}",
        quote(key.name),
        quote(cert.name)
    );
    let error = building
        .problems
        .error("bad-certificate", key.span, message);
    error
        .label("another one's key")
        .related(cert.span, "the certificate");
    if let Some(help) = help {
        error.help(help);
    }
}

/// A certificate whose time is over or has not begun is in use nevertheless: refusing the file for
/// it would refuse every other change, too.
fn judge_time(certificate: &Certificate, cert: &NamedFile<'_>, building: &mut Building<'_>) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since_epoch.map_or(0, |since| since.as_secs() as i64);
    let (words, at) = if certificate.not_after < now {
        ("has expired", certificate.not_after)
    } else if certificate.not_before > now {
        ("is not valid yet", certificate.not_before)
    } else {
        return;
    };
    let message = format!("the certificate in {} {words}", quote(cert.name));
    let when =
        jiff::Timestamp::from_second(at).map_or_else(|_| at.to_string(), |at| at.to_string());
    let warning = building
        .problems
        .warning("certificate-time", cert.span, message);
    warning.label(match words {
        "has expired" => format!("valid until {when}: clients refuse it"),
        _ => format!("valid from {when}: clients refuse it until then"),
    });
}
