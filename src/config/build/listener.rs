//! `[[listener]]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::build::{Building, listener_tls};
use crate::config::keys;
use crate::config::model::{
    Admin, BindAddress, Listener, ListenerLimits, Protocols, UnderscoreHeaders,
};
use crate::config::reader::Reader;
use crate::config::tree::{Span, quote};
use crate::config::values::address;
use crate::util::units::MAX_DURATION;

/// All listeners, in the order of the file; a file without one is refused.
pub(super) fn listeners(root: &Reader<'_>, building: &mut Building<'_>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut readers: Vec<Reader<'_>> = Vec::new();
    for node in root.list("listener") {
        let reader = Reader::new(node, &keys::LISTENER);
        let listener = listener(reader, building);
        distinct(&listener, reader, listeners.iter().zip(&readers), building);
        listeners.push(listener);
        readers.push(reader);
    }
    let other_type = root
        .node("listener")
        .is_some_and(|node| node.as_table().is_some());
    if listeners.is_empty() && !other_type {
        let start = if building.sources.files.is_empty() {
            Span::NONE
        } else {
            Span::new(0, 0..0)
        };
        let error = building
            .problems
            .error("no-listener", start, "the file has no [[listener]]");
        error.help("[[listener]]\naddress = \"0.0.0.0:8080\"");
    }
    listeners
}

fn listener(reader: Reader<'_>, building: &mut Building<'_>) -> Listener {
    if reader.node("address").is_none() && reader.all_known() {
        let error =
            building
                .problems
                .error("missing-key", reader.span, "a listener needs an `address`");
        error.help("address = \"0.0.0.0:8080\"");
    }
    if let Some(node) = reader.written("protocols").map(|entry| &entry.node)
        && reader.list("protocols").is_empty()
        && matches!(node.value, crate::config::tree::Value::List(_))
    {
        let error = building
            .problems
            .error("bad-value", node.span, "`protocols` is empty");
        error.help("write [\"h2\", \"http/1.1\"]");
    }
    let stand_in = BindAddress::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let text = reader.text("address");
    let name = match reader.text("name") {
        "" => text,
        name => name,
    };
    let trusted_proxies = networks(reader, "trusted-proxies", building);
    let tls = listener_tls::terms(reader, building);
    let proxy_protocol = reader.text("proxy-protocol") == "required";
    if proxy_protocol && reader.list("trusted-proxies").is_empty() {
        let place = reader.span_of("proxy-protocol");
        let message = "PROXY headers are required, and nobody is trusted to send one";
        let warning = building.problems.warning("nobody-trusted", place, message);
        warning
            .label("every connection is closed at once")
            .help("trusted-proxies = [\"10.0.0.0/8\"]");
    }
    Listener {
        name: Arc::from(name),
        address: address::bind(text).unwrap_or(stand_in),
        proxy_protocol,
        trusted_proxies,
        underscore_headers: match reader.text("underscore-headers") {
            "allow" => UnderscoreHeaders::Allow,
            "reject" => UnderscoreHeaders::Reject,
            _ => UnderscoreHeaders::Remove,
        },
        half_close: reader.switch("half-close"),
        via: reader.switch("via"),
        backlog: reader.integer("backlog"),
        tls,
        limits: limits(reader.table_or_empty("limits", &keys::LIMITS)),
        protocols: protocols(reader),
    }
}

fn protocols(reader: Reader<'_>) -> Protocols {
    let speaks = |protocol| reader.texts("protocols").any(|(_, text)| text == protocol);
    Protocols {
        http1: speaks("http/1.1"),
        h2: speaks("h2"),
    }
}

/// The networks that `key` lists.
pub(super) fn networks(reader: Reader<'_>, key: &str, building: &mut Building<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (node, text) in reader.texts(key) {
        let Ok(network) = address::network(text) else {
            continue;
        };
        if network != network.trunc() {
            let message = format!("{} has bits beyond its prefix", node.quoted());
            let warning = building
                .problems
                .warning("loose-network", node.span, message);
            warning.label(format!("taken as {}", network.trunc()));
        }
        networks.push(network.trunc());
    }
    networks
}

fn limits(reader: Reader<'_>) -> ListenerLimits {
    ListenerLimits {
        header_timeout: reader
            .optional_duration("header-timeout")
            .unwrap_or(MAX_DURATION),
        idle_timeout: reader
            .optional_duration("idle-timeout")
            .unwrap_or(MAX_DURATION),
        max_header_bytes: usize::try_from(reader.size("max-header-bytes").0).unwrap_or(usize::MAX),
        max_headers: reader.integer("max-headers"),
        max_requests_per_connection: reader.integer("max-requests-per-connection"),
        max_connections: reader.optional_integer("max-connections"),
        max_age: reader.optional_duration("max-age"),
        connection_buffer: usize::try_from(reader.size("connection-buffer").0)
            .unwrap_or(usize::MAX),
        max_concurrent_streams: reader.integer("max-concurrent-streams"),
        h2_stream_window: window(reader, "h2-stream-window"),
        h2_connection_window: window(reader, "h2-connection-window"),
    }
}

/// The key's range is that of a window (RFC 9113 section 6.9.1).
fn window(reader: Reader<'_>, key: &str) -> u32 {
    u32::try_from(reader.size(key).0).unwrap_or(u32::MAX >> 1)
}

fn distinct<'a>(
    listener: &Listener,
    reader: Reader<'_>,
    others: impl Iterator<Item = (&'a Listener, &'a Reader<'a>)>,
    building: &mut Building<'_>,
) {
    for (other, earlier) in others {
        let port_0 = listener
            .address
            .tcp()
            .is_some_and(|address| address.port() == 0);
        if listener.address == other.address && !port_0 {
            let message = format!(
                "two listeners have the address {}",
                quote(reader.text("address"))
            );
            let error =
                building
                    .problems
                    .error("duplicate-address", reader.span_of("address"), message);
            error
                .label("bound already")
                .related(earlier.span_of("address"), "by this one");
            return;
        }
        // Without a name, two addresses with port 0 are two listeners all the same.
        if listener.name == other.name && reader.node("name").is_some() {
            let message = format!("two listeners have the name {}", quote(&listener.name));
            let error = building
                .problems
                .error("duplicate-name", reader.span_of("name"), message);
            error
                .label("given again")
                .related(earlier.span_of("name"), "given here first");
            return;
        }
    }
}

/// The admin listener is never reached through a data listener's address.
pub(super) fn apart_from_admin(
    root: &Reader<'_>,
    admin: Option<&Admin>,
    listeners: &[Listener],
    building: &mut Building<'_>,
) {
    let Some(bound) = admin.map(|admin| &admin.address) else {
        return;
    };
    let reader = root.table_or_empty("admin", &keys::ADMIN);
    for (listener, node) in listeners.iter().zip(root.list("listener")) {
        if !address::overlap(&listener.address, bound) {
            continue;
        }
        let place = Reader::new(node, &keys::LISTENER).span_of("address");
        let written = reader.span_of("address");
        let message = format!("this listener takes the address of the admin listener, {bound}");
        let error = building.problems.error("duplicate-address", place, message);
        error.label("also bound for [admin]");
        match written == Span::NONE {
            true => error.help("give [admin] another address; 127.0.0.1:9900 is its default"),
            false => error.related(written, "the admin listener"),
        };
    }
}
