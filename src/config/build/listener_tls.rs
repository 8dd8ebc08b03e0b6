//! `[listener.tls]`: the files are read and made ready for handshakes here, so that an accepted
//! configuration has nothing left in it that could fail later.

use std::sync::Arc;

use crate::config::build::Building;
use crate::config::build::files::NamedFile;
use crate::config::keys;
use crate::config::reader::Reader;
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
            building.judge_time(&certificate, &cert, "clients");
            let certificate = Arc::new(certificate);
            let place = (certificate.clone(), cert.name.to_owned(), cert.span);
            building.certificates.push(place);
            Some(certificate)
        }
        Err(found) => {
            match found.fault {
                Fault::Certificate => building.bad_file(&cert, &found),
                Fault::Key => building.bad_file(&key, &found),
                Fault::Pair => building.mismatched_files(&cert, &key, found.help),
            }
            None
        }
    }
}
