//! The servers of an upstream.

use crate::config::build::Building;
use crate::config::diagnostics::Diagnostic;
use crate::config::keys;
use crate::config::model::{Balance, Server};
use crate::config::reader::Reader;
use crate::config::tree::{Entry, Span, Value, quote};
use crate::config::values::address;

/// Nginx's order has as many places as the weights' sum over their greatest common divisor.
const LONGEST_PERIOD: u64 = 65_536;

pub(super) fn servers(
    upstream: &Entry,
    reader: Reader<'_>,
    balance: &Balance,
    building: &mut Building<'_>,
) -> Vec<Server> {
    let Some(node) = reader.node("servers") else {
        if !reader.all_known() {
            return Vec::new();
        }
        let message = format!("the upstream {} has no `servers`", quote(&upstream.key));
        let error = building
            .problems
            .error("missing-key", upstream.key_span, message);
        error.help("servers = [\"10.0.0.1:9000\", \"10.0.0.2:9000\"]");
        return Vec::new();
    };
    let entries = reader.entries("servers");
    if entries.is_empty() && matches!(node.value, Value::Table(_)) {
        // Servers whose addresses cannot be known have been complained about one by one.
        let said = |found: &Diagnostic| node.span.covers(found.span);
        if building.problems.iter().any(said) {
            return Vec::new();
        }
        let message = format!("the upstream {} has no servers", quote(&upstream.key));
        building.problems.error("no-server", node.span, message);
        return Vec::new();
    }
    let mut found: Vec<(Server, &Entry)> = Vec::new();
    for entry in entries {
        let Some(server) = server(entry, building) else {
            continue;
        };
        if let Some((_, first)) = found
            .iter()
            .find(|(other, _)| other.address == server.address)
        {
            let message = format!("the server {} is given twice", shown(entry));
            let error = building
                .problems
                .error("duplicate-server", entry.key_span, message);
            error
                .label("given again")
                .related(first.key_span, "given here first");
            error.help("a server that shall get more has a higher weight");
            continue;
        }
        found.push((server, entry));
    }
    weights(&found, node.span, balance, building);
    found.into_iter().map(|(server, _)| server).collect()
}

fn shown(entry: &Entry) -> String {
    quote(entry.node.masked.as_deref().unwrap_or(&entry.key))
}

fn server(entry: &Entry, building: &mut Building<'_>) -> Option<Server> {
    let address = match address::server(&entry.key) {
        Ok(address) => address,
        // Of a list the checker has said so; the keys of a table come to be addresses only here.
        Err(_)
            if building
                .problems
                .iter()
                .any(|found| found.span == entry.key_span) =>
        {
            return None;
        }
        Err(complaint) => {
            let message = format!("bad address {}", quote(&entry.key));
            let error = building
                .problems
                .error("bad-address", entry.key_span, message);
            error.label(complaint.cause);
            if entry.key.contains("${") {
                error.help(
                    "variables are replaced in values, not in keys: write a list of addresses",
                );
            } else if let Some(help) = complaint.help {
                error.help(help);
            }
            return None;
        }
    };
    let reader = Reader::new(&entry.node, &keys::SERVER);
    Some(Server {
        address,
        weight: reader.optional_integer("weight").unwrap_or(1),
        max_requests: reader.optional_integer("max-requests").unwrap_or(u32::MAX),
        backup: reader.switch("backup"),
        drain: reader.switch("drain"),
    })
}

fn weights(found: &[(Server, &Entry)], all: Span, balance: &Balance, building: &mut Building<'_>) {
    let usable = || found.iter().filter(|(server, _)| server.weight > 0);
    if !found.is_empty() && usable().next().is_none() {
        let warning = building
            .problems
            .warning("no-weight", all, "every server has weight 0");
        warning.label("no request can go anywhere");
    } else if !found.is_empty() && usable().all(|(server, _)| server.drain) {
        building
            .problems
            .warning("all-draining", all, "every server is draining");
    }
    match balance {
        Balance::RoundRobin => equal(found, building),
        Balance::SmoothWeighted => period(found, all, building),
        _ => {}
    }
}

fn equal(found: &[(Server, &Entry)], building: &mut Building<'_>) {
    let mut weighted = found.iter().filter(|(server, _)| server.weight > 0);
    let Some((first, first_entry)) = weighted.next() else {
        return;
    };
    if let Some((other, entry)) = weighted.find(|(server, _)| server.weight != first.weight) {
        let message = "round-robin takes each server in turn, but their weights differ";
        let span = weight_span(entry);
        let error = building.problems.error("unequal-weights", span, message);
        error.label(format!("weight {}", other.weight));
        error.related(weight_span(first_entry), format!("weight {}", first.weight));
        error.help("write balance = \"smooth-weighted\", which honours weights");
    }
}

fn weight_span(entry: &Entry) -> Span {
    let weight = entry.node.as_table().and_then(|table| table.get("weight"));
    weight
        .map(|node| node.span)
        .filter(|span| *span != Span::NONE)
        .unwrap_or(entry.key_span)
}

fn period(found: &[(Server, &Entry)], all: Span, building: &mut Building<'_>) {
    for backup in [false, true] {
        let group = || found.iter().filter(|(server, _)| server.backup == backup);
        let weights = || {
            group()
                .map(|(server, _)| u64::from(server.weight))
                .filter(|weight| *weight > 0)
        };
        let divisor = weights().fold(0, gcd);
        if divisor == 0 {
            continue;
        }
        let period = weights().sum::<u64>() / divisor;
        if period > LONGEST_PERIOD {
            let message = format!(
                "the order of these weights has {period} places, more than {LONGEST_PERIOD}"
            );
            let warning = building.problems.warning("long-period", all, message);
            warning.label("built from scaled weights");
            warning.help("use smaller weights, or weights with a common divisor");
        }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
