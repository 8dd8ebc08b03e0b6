//! `[upstream.NAME]`.

use std::sync::Arc;

use crate::config::build::{Building, breaker, health, retry, servers, upstream_tls};
use crate::config::keys;
use crate::config::model::{
    Balance, Connections, HashKey, Protocol, ProxyProtocol, Queue, Sticky, Upstream,
};
use crate::config::reader::Reader;
use crate::config::tree::{Entry, Via, quote};
use crate::config::values::text;

/// All upstreams, in the order of the file.
pub(super) fn upstreams(root: &Reader<'_>, building: &mut Building<'_>) -> Vec<Arc<Upstream>> {
    let entries = root.entries("upstream");
    entries
        .iter()
        .map(|entry| Arc::new(upstream(entry, building)))
        .collect()
}

fn upstream(entry: &Entry, building: &mut Building<'_>) -> Upstream {
    if let Err(complaint) = text::upstream_name(&entry.key) {
        let message = format!("bad name {} for an upstream", quote(&entry.key));
        building
            .problems
            .error("bad-value", entry.key_span, message)
            .label(complaint.cause);
    }
    let reader = Reader::new(&entry.node, &keys::UPSTREAM).at(entry.key_span);
    if entry.node.as_table().is_none() {
        // The checker has said what it is instead.
        return blank(entry, reader, building);
    }
    let balance = balance(reader, building);
    let servers = servers::servers(entry, reader, &balance, building);
    for key in ["timeout", "connections"] {
        if let Some(node) = reader.node(key).filter(|node| node.is_off()) {
            let message = format!("`{key}` has no \"off\" of its own");
            let error = building.problems.error("bad-value", node.span, message);
            error.label(
                "\"off\" here takes away a table given in [defaults.upstream], and there is none",
            );
            error.help(format!(
                "switch off its keys one by one, in [upstream.{}.{key}]",
                entry.key
            ));
        }
    }
    compile(entry, reader, balance, servers, building)
}

fn blank(entry: &Entry, reader: Reader<'_>, building: &mut Building<'_>) -> Upstream {
    compile(entry, reader, Balance::SmoothWeighted, Vec::new(), building)
}

fn compile(
    entry: &Entry,
    reader: Reader<'_>,
    balance: Balance,
    servers: Vec<crate::config::model::Server>,
    building: &mut Building<'_>,
) -> Upstream {
    let tls = upstream_tls::terms(reader, &servers, building);
    let proxy_protocol = proxy_protocol(reader, building);
    Upstream {
        name: Arc::from(entry.key.as_str()),
        balance,
        slow_start: reader.duration("slow-start"),
        max_requests: reader.optional_integer("max-requests").unwrap_or(u32::MAX),
        adaptive: reader.text("concurrency") == "adaptive",
        queue: reader.table("queue", &keys::QUEUE).map(|queue| Queue {
            size: queue.integer("size"),
            timeout: queue.duration("timeout"),
        }),
        panic_threshold: reader.optional_share("panic-threshold"),
        protocol: match reader.text("protocol") {
            "h2" => Protocol::H2,
            "auto" => Protocol::Auto,
            _ => Protocol::Http1,
        },
        servers,
        health: reader
            .table("health", &keys::HEALTH)
            .map(|table| health::health(table, reader.text("protocol") == "h2", building)),
        breaker: breaker::breaker(reader.table_or_empty("breaker", &keys::BREAKER), building),
        retry: retry::retry(reader.table_or_empty("retry", &keys::RETRY)),
        timeout: retry::timeouts(reader.table_or_empty("timeout", &keys::TIMEOUT)),
        connections: connections(reader.table_or_empty("connections", &keys::CONNECTIONS)),
        proxy_protocol,
        tls,
        sticky: sticky(reader, building),
    }
}

fn sticky(reader: Reader<'_>, building: &mut Building<'_>) -> Option<Arc<Sticky>> {
    let table = reader.table("sticky", &keys::STICKY)?;
    let secure = match table.text("secure") {
        "auto" => None,
        _ => Some(table.switch("secure")),
    };
    let same_site = match table.text("same-site") {
        "Lax" => Some("Lax"),
        "Strict" => Some("Strict"),
        "None" => Some("None"),
        _ => None,
    };
    if (same_site, secure) == (Some("None"), Some(false)) {
        let message = "browsers refuse a cookie with SameSite=None that is not Secure";
        let problems = &mut building.problems;
        let error = problems.error("conflicting-keys", table.span_of("same-site"), message);
        error.help("secure = true, or same-site = \"Lax\"");
    }
    Some(Arc::new(Sticky {
        cookie: table.text("cookie").to_owned(),
        ttl: table.optional_duration("ttl"),
        path: table.text("path").to_owned(),
        secure,
        http_only: table.switch("http-only"),
        same_site,
        key: table.text("key").to_owned(),
    }))
}

fn proxy_protocol(reader: Reader<'_>, building: &mut Building<'_>) -> ProxyProtocol {
    let version = match reader.text("proxy-protocol") {
        "v1" => ProxyProtocol::V1,
        "v2" => ProxyProtocol::V2,
        _ => return ProxyProtocol::Off,
    };
    let protocol = reader.text("protocol");
    if protocol != "http/1.1" {
        let message =
            format!("`proxy-protocol` with protocol = \"{protocol}\" is not supported yet");
        let place = reader.span_of("proxy-protocol");
        let error = building.problems.error("not-supported-yet", place, message);
        error
            .label("an HTTP/2 connection is shared by clients, and the header names one")
            .help("protocol = \"http/1.1\"");
    }
    version
}

fn balance(reader: Reader<'_>, building: &mut Building<'_>) -> Balance {
    let name = reader.text("balance");
    if name == "hash" {
        let by = reader
            .table("hash", &keys::HASH)
            .map(|hash| hash.text("by"));
        let Some(by) = by else {
            if reader.node("hash").is_none() {
                let message = "balance = \"hash\" needs to know what to hash";
                let error =
                    building
                        .problems
                        .error("missing-key", reader.span_of("balance"), message);
                error
                    .label("`hash` is missing")
                    .help("hash = { by = \"client-ip\" }");
            }
            return Balance::Hash(HashKey::ClientIp);
        };
        return Balance::Hash(text::hash_key(by).unwrap_or(HashKey::ClientIp));
    }
    // One that [defaults.upstream] gives is for the upstreams that hash.
    if let Some(entry) = reader
        .entry("hash")
        .filter(|entry| entry.node.via == Via::Written)
    {
        let message = format!("`hash` means nothing with balance = \"{name}\"");
        let error = building
            .problems
            .error("conflicting-keys", entry.key_span, message);
        error.label("only balance = \"hash\" uses it");
        if reader.written("balance").is_some() {
            error.related(reader.span_of("balance"), "the policy");
        }
        error.help("write balance = \"hash\", or leave `hash` out");
    }
    match name {
        "random" => Balance::Random,
        "round-robin" => Balance::RoundRobin,
        "least-requests" => Balance::LeastRequests,
        "peak-ewma" => Balance::PeakEwma,
        _ => Balance::SmoothWeighted,
    }
}

fn connections(reader: Reader<'_>) -> Connections {
    Connections {
        max_idle: reader.integer("max-idle"),
        max_connections: reader.optional_integer("max-connections"),
        idle_timeout: reader.optional_duration("idle-timeout"),
        max_lifetime: reader.optional_duration("max-lifetime"),
    }
}
