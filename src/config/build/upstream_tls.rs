//! `[upstream.NAME.tls]`: files are read and made ready for handshakes here, as those of listeners
//! are.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::config::build::Building;
use crate::config::build::files::NamedFile;
use crate::config::keys;
use crate::config::model::{Server, ServerAddress};
use crate::config::reader::Reader;
use crate::config::tree::quote;
use crate::tls::{Certificate, ClientDraft, ClientTerms, Fault, Trust};

/// `None` without TLS, and where something is wrong.
pub(super) fn terms(
    upstream: Reader<'_>,
    servers: &[Server],
    building: &mut Building<'_>,
) -> Option<Arc<ClientTerms>> {
    let reader = upstream.table("tls", &keys::UPSTREAM_TLS)?;
    let server_name = name(reader, servers, building);
    let certificate = certificate(reader, building);
    let ca = building.named_file(reader, "ca");
    let unreadable = ca.is_none() && !reader.text("ca").is_empty();
    let verify = reader.switch("verify");
    if !verify {
        unverified(reader, building);
    }
    let (Ok(server_name), Ok(certificate), false) = (server_name, certificate, unreadable) else {
        return None;
    };
    let terms = ClientTerms::new(ClientDraft {
        trust: match &ca {
            _ if !verify => Trust::Anyone,
            Some(file) => Trust::Authorities(&file.bytes),
            None => Trust::System,
        },
        server_name,
        certificate,
        alpn: alpn(upstream.text("protocol")),
    });
    match terms {
        Ok(terms) => Some(Arc::new(terms)),
        Err(found) => {
            let file = ca.unwrap_or(NamedFile {
                name: "[upstream.NAME.tls]",
                span: reader.span,
                bytes: Vec::new(),
            });
            building.bad_file(&file, &found);
            None
        }
    }
}

/// What is offered to servers, in the order of preference.
fn alpn(protocol: &str) -> Vec<Vec<u8>> {
    let names: &[&[u8]] = match protocol {
        "h2" => &[b"h2"],
        "auto" => &[b"h2", b"http/1.1"],
        _ => &[b"http/1.1"],
    };
    names.iter().map(|name| name.to_vec()).collect()
}

/// The name that certificates must be for: the configured one, else each server's own, which must
/// be one then.
fn name(
    reader: Reader<'_>,
    servers: &[Server],
    building: &mut Building<'_>,
) -> Result<Option<ServerName<'static>>, ()> {
    let text = reader.text("server-name");
    if !text.is_empty() {
        return match ServerName::try_from(text.to_owned()) {
            Ok(name) => Ok(Some(name)),
            Err(_) => {
                let message = format!("{} is no name of a server", quote(text));
                let place = reader.span_of("server-name");
                let error = building.problems.error("bad-value", place, message);
                error.label("a host name or an IP address, without a port");
                Err(())
            }
        };
    }
    for server in servers {
        let host = match &server.address {
            ServerAddress::Name(host, _) => &**host,
            // The service's domain, behind `_http._tcp.`.
            ServerAddress::Srv(name) => name.splitn(3, '.').nth(2).unwrap_or(name),
            ServerAddress::Ip(_) | ServerAddress::Unix(_) => continue,
        };
        if ServerName::try_from(host).is_err() {
            let message = format!("no certificate can be for {}", quote(host));
            let error = building.problems.error("bad-value", reader.span, message);
            error
                .label("it is what the certificate of that server must be for")
                .help("server-name = \"app.internal\"");
            return Err(());
        }
    }
    Ok(None)
}

fn certificate(reader: Reader<'_>, building: &mut Building<'_>) -> Result<Option<Certificate>, ()> {
    let given = |key: &str| !reader.text(key).is_empty();
    let (has_cert, has_key) = (given("client-cert"), given("client-key"));
    if has_cert != has_key {
        let (there, missing) = match has_cert {
            true => ("client-cert", "client-key"),
            false => ("client-key", "client-cert"),
        };
        let message = format!("`{there}` without `{missing}`");
        let place = reader.span_of(there);
        let error = building.problems.error("missing-key", place, message);
        error.help(match has_cert {
            true => "client-key = \"client.key\"",
            false => "client-cert = \"client.pem\"",
        });
        return Err(());
    }
    let cert = building.named_file(reader, "client-cert");
    let key = building.named_file(reader, "client-key");
    let (cert, key) = match (cert, key) {
        (Some(cert), Some(key)) => (cert, key),
        _ if has_cert => return Err(()),
        _ => return Ok(None),
    };
    match Certificate::from_pem(cert.name, &cert.bytes, &key.bytes) {
        Ok(certificate) => {
            building.judge_time(&certificate, &cert, "servers");
            Ok(Some(certificate))
        }
        Err(found) => {
            match found.fault {
                Fault::Certificate => building.bad_file(&cert, &found),
                Fault::Key => building.bad_file(&key, &found),
                Fault::Pair => building.mismatched_files(&cert, &key, found.help),
            }
            Err(())
        }
    }
}

fn unverified(reader: Reader<'_>, building: &mut Building<'_>) {
    let place = reader.span_of("verify");
    let message = "the servers' certificates are not verified";
    let warning = building.problems.warning("unverified", place, message);
    warning
        .label("whoever is on the way to them can read and change everything")
        .help("leave `verify` out, and name their CA by `ca`");
    if let Some(entry) = reader
        .written("ca")
        .filter(|_| !reader.text("ca").is_empty())
    {
        let message = "`ca` means nothing with `verify = false`";
        let error = building
            .problems
            .error("conflicting-keys", entry.key_span, message);
        error.label("nothing is checked against it");
    }
}
