//! `[upstream.NAME.health]`.

use crate::config::build::Building;
use crate::config::model::{Health, HealthProbe};
use crate::config::reader::Reader;
use crate::config::tree::{Entry, Node, Value, Via, quote};
use crate::config::values::{status, text};

pub(super) fn health(reader: Reader<'_>, h2: bool, building: &mut Building<'_>) -> Health {
    Health {
        probe: probe(reader, building),
        interval: reader.duration("interval"),
        timeout: reader.duration("timeout"),
        rise: reader.integer("rise"),
        fall: reader.integer("fall"),
        port: reader.integer("port"),
        plain: reader.text("tls") == "off",
        h2,
    }
}

fn probe(reader: Reader<'_>, building: &mut Building<'_>) -> HealthProbe {
    if let Some(tcp) = reader.entry("tcp").filter(|_| reader.switch("tcp")) {
        let unused = ["path", "status", "body", "method", "headers", "host"];
        without_effect(reader, &unused, (tcp, "tcp = true"), building);
        return HealthProbe::Tcp;
    }
    if let Some(grpc) = reader.entry("grpc") {
        let unused = ["path", "status", "body", "method"];
        without_effect(reader, &unused, (grpc, "grpc"), building);
        return HealthProbe::Grpc {
            service: reader.text("grpc").to_owned(),
            headers: headers(reader, building),
            host: reader.text("host").to_owned(),
        };
    }
    HealthProbe::Http {
        path: reader.text("path").to_owned(),
        method: reader.text("method").to_owned(),
        headers: headers(reader, building),
        host: reader.text("host").to_owned(),
        status: statuses(reader, building),
        body: reader.text("body").to_owned(),
    }
}

/// What belongs to another kind of check must not look as if it counted.
fn without_effect(
    reader: Reader<'_>,
    keys: &[&str],
    (kind, name): (&Entry, &str),
    building: &mut Building<'_>,
) {
    for key in keys {
        if let Some(entry) = reader.written(key) {
            let message = format!("`{key}` means nothing with `{name}`");
            let error = building
                .problems
                .error("conflicting-keys", entry.key_span, message);
            error
                .label("only an HTTP check uses it")
                .related(kind.key_span, "another kind of check");
        }
    }
}

fn statuses(
    reader: Reader<'_>,
    building: &mut Building<'_>,
) -> Vec<crate::config::model::StatusRange> {
    let empty = |node: &&Node| matches!(&node.value, Value::List(nodes) if nodes.is_empty());
    if let Some(node) = reader.node("status").filter(empty) {
        building.problems.error(
            "bad-value",
            node.span,
            "`status` is empty: no check could pass",
        );
    }
    reader
        .texts("status")
        .filter_map(|(_, text)| status::range(text).ok())
        .collect()
}

/// Set by the check itself or by the connection.
const OURS: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "upgrade",
    "expect",
    "keep-alive",
];

fn headers(reader: Reader<'_>, building: &mut Building<'_>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for entry in reader.entries("headers") {
        let name = entry.key.to_ascii_lowercase();
        if entry.node.via == Via::BuiltIn {
            continue;
        }
        if !text::is_token(&name) {
            let message = format!("{} is not the name of a header", quote(&entry.key));
            building
                .problems
                .error("bad-value", entry.key_span, message);
        } else if OURS.contains(&name.as_str()) {
            let message = format!("{} cannot be set for a check", quote(&entry.key));
            let error = building
                .problems
                .error("bad-value", entry.key_span, message);
            if name == "host" {
                error.help("there is the key `host`");
            }
        } else if headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(&name))
        {
            let message = format!("the header {} is given twice", quote(&entry.key));
            building
                .problems
                .error("duplicate-key", entry.key_span, message);
        }
        headers.push((
            entry.key.clone(),
            entry.node.as_text().unwrap_or_default().to_owned(),
        ));
    }
    headers
}
