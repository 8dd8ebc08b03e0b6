//! `request-headers` and `response-headers` of a route.
//!
//! Refused is what would break the framing of a message, which only the wire can know, and what
//! servers or clients believe because nobody but the proxy can say it.

use crate::config::build::Building;
use crate::config::keys;
use crate::config::model::{HeaderEdits, Template};
use crate::config::reader::Reader;
use crate::config::tree::{Entry, Span, Via, quote};
use crate::config::values::text;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

impl Side {
    fn key(self) -> &'static str {
        match self {
            Side::Request => "request-headers",
            Side::Response => "response-headers",
        }
    }
}

/// Framing and the connection, in both directions.
const WIRE: [&str; 10] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "expect",
];

/// Whether the field is removed, set or added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Remove,
    Set,
    Add,
}

/// Why `name` (lower case) may not be changed that way.
fn objection(name: &str, side: Side, change: Change) -> Option<&'static str> {
    if WIRE.contains(&name) {
        return Some(
            "it belongs to the connection and the framing, which the proxy settles itself",
        );
    }
    match (side, name, change) {
        (Side::Request, "host", Change::Remove) => Some("a request has one Host; `set` changes it"),
        (Side::Request, "host", Change::Add) => Some("a request has one Host; use `set`"),
        (Side::Request, "client-cert" | "client-cert-chain", Change::Set | Change::Add) => {
            Some("servers believe it: only a verified certificate of the client goes there")
        }
        (Side::Request, "x-request-id", _) => {
            Some("it is the id in the log; as a value there is `${request.id}`")
        }
        (
            Side::Request,
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port"
            | "x-forwarded-prefix" | "x-real-ip" | "forwarded" | "authorization" | "content-type"
            | "max-forwards",
            Change::Add,
        ) => Some("a second one is read differently by different servers; use `set`"),
        (Side::Response, "x-evenkeel-reason", _) => Some("it marks the refusals of the proxy"),
        (
            Side::Response,
            "sec-websocket-accept"
            | "sec-websocket-protocol"
            | "grpc-status"
            | "grpc-message"
            | "grpc-status-details-bin",
            _,
        ) => Some("it is part of the protocol between client and server"),
        (
            Side::Response,
            "content-type" | "location" | "content-encoding" | "date",
            Change::Add,
        ) => Some("an answer has one at most; use `set`"),
        _ => None,
    }
}

pub(super) fn edits(reader: Reader<'_>, side: Side, building: &mut Building<'_>) -> HeaderEdits {
    let Some(table) = reader.table(side.key(), &keys::EDITS) else {
        return HeaderEdits::default();
    };
    let mut remove = Vec::new();
    for (node, name) in table.texts("remove") {
        judge(name, node.span, side, Change::Remove, building);
        remove.push(name.to_owned());
    }
    let edits = HeaderEdits {
        remove,
        set: values(table.entries("set"), side, Change::Set, building),
        add: values(table.entries("add"), side, Change::Add, building),
    };
    check_host(table, side, building);
    edits
}

fn values(
    entries: &[Entry],
    side: Side,
    change: Change,
    building: &mut Building<'_>,
) -> Vec<(String, Template)> {
    let mut seen: Vec<(String, Span)> = Vec::new();
    let mut values = Vec::new();
    for entry in entries
        .iter()
        .filter(|entry| entry.node.via != Via::BuiltIn)
    {
        let name = entry.key.to_ascii_lowercase();
        let first = seen.iter().find(|(other, _)| *other == name);
        if !text::is_token(&name) {
            let message = format!("{} is not the name of a header", quote(&entry.key));
            let problems = &mut building.problems;
            problems.error("bad-value", entry.key_span, message);
        } else if let Some((_, first)) = first {
            let message = format!("the header {} is given twice", quote(&entry.key));
            let problems = &mut building.problems;
            let error = problems.error("duplicate-key", entry.key_span, message);
            error
                .label("given again")
                .related(*first, "given here first");
        } else {
            judge(&entry.key, entry.key_span, side, change, building);
        }
        seen.push((name, entry.key_span));
        values.push((entry.key.clone(), entry.node.template()));
    }
    values
}

fn judge(name: &str, span: Span, side: Side, change: Change, building: &mut Building<'_>) {
    let Some(why) = objection(&name.to_ascii_lowercase(), side, change) else {
        return;
    };
    let what = match change {
        Change::Remove => "removed",
        Change::Set => "set",
        Change::Add => "added",
    };
    let message = format!("{} cannot be {what} here", quote(name));
    let error = building.problems.error("bad-value", span, message);
    error.label(why);
}

/// What a request asks for must stay one name: no variable but the host, and nothing around it.
fn check_host(table: Reader<'_>, side: Side, building: &mut Building<'_>) {
    let host = |entry: &&Entry| side == Side::Request && entry.key.eq_ignore_ascii_case("host");
    for entry in table.entries("set").iter().filter(host) {
        let node = &entry.node;
        let Some(value) = node.as_text() else {
            continue;
        };
        let good = match node.variables.as_slice() {
            [] => text::host_and_port(value).is_ok(),
            _ => false,
        };
        if !good {
            let message = format!("{} is no Host", node.quoted());
            let error = building.problems.error("bad-value", node.span, message);
            error.label("a name or an address, and a port if it must be; no request variable");
        }
    }
}
