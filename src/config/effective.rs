//! What holds: the merged file with its `[defaults]`, the built-in defaults and what routes have
//! from their upstream, every value with where it came from.
//!
//! The model is built from this tree alone and `config show --effective` prints it, so that the
//! two cannot disagree.

use toml::de::DeValue;

use crate::config::keys::{self, Kind, Section};
use crate::config::tree::{Entry, Node, Span, Table, Value, Via, from_toml};

/// Applies all defaults to the merged file.
pub(super) fn effective(merged: &Table) -> Table {
    let mut root = merged.clone();
    let defaults = |name| {
        merged
            .table("defaults")
            .and_then(|defaults| defaults.table(name))
            .cloned()
    };
    let for_upstreams = defaults("upstream").unwrap_or_default();
    let for_routes = defaults("route").unwrap_or_default();
    root.remove("defaults");
    remove_if_off(&mut root, "access-log");
    if let Some(admin) = root.get_mut("admin").and_then(Node::as_table_mut)
        && admin.get("address").is_some_and(Node::is_off)
    {
        // Nothing else of it means anything then.
        admin.entries.retain(|entry| entry.key == "address");
    }
    for upstream in members(&mut root, "upstream") {
        merge(
            upstream,
            &for_upstreams,
            &keys::UPSTREAM,
            Via::Defaults("defaults.upstream"),
        );
        settle_upstream(upstream);
    }
    for route in members(&mut root, "route") {
        merge(
            route,
            &for_routes,
            &keys::ROUTE,
            Via::Defaults("defaults.route"),
        );
        settle(route, "retry", "attempts", Value::Integer(0));
        for key in [
            "fallback",
            "mirror",
            "request-headers",
            "response-headers",
            "rewrite",
        ] {
            remove_if_off(route, key);
        }
    }
    fill(&mut root, &keys::ROOT);
    inherit(&mut root);
    root
}

/// The tables of an array of tables or of a table of tables.
fn members<'a>(root: &'a mut Table, key: &str) -> Vec<&'a mut Table> {
    match root.get_mut(key).map(|node| &mut node.value) {
        Some(Value::List(nodes)) => nodes.iter_mut().filter_map(Node::as_table_mut).collect(),
        Some(Value::Table(table)) => table
            .entries
            .iter_mut()
            .filter_map(|entry| entry.node.as_table_mut())
            .collect(),
        _ => Vec::new(),
    }
}

/// Puts `base` under `own`: tables key by key, anything else only where `own` has nothing.
fn merge(own: &mut Table, base: &Table, section: &'static Section, via: Via) {
    for entry in &base.entries {
        if rival(own, section, &entry.key) {
            continue;
        }
        let kind = section.key(&entry.key).map(|key| &key.kind);
        match own.get_mut(&entry.key) {
            None => own.entries.push(derived(entry, via)),
            Some(node) => match (&mut node.value, &entry.node.value) {
                (Value::Table(own), Value::Table(base)) => match kind.and_then(Kind::section) {
                    Some(section) => merge(own, base, section, via),
                    None => merge_names(own, base, via),
                },
                // "off" takes away the table given there; where it also means "switched off"
                // (breaker, retry, ...) it stays for `settle`.
                (Value::Text(text), Value::Table(_))
                    if text == "off" && ["timeout", "connections"].contains(&&*entry.key) =>
                {
                    own.remove(&entry.key);
                }
                _ => {}
            },
        }
    }
}

/// Of tables with names of the user's: servers, headers.
fn merge_names(own: &mut Table, base: &Table, via: Via) {
    let missing: Vec<Entry> = base
        .entries
        .iter()
        .filter(|entry| own.get(&entry.key).is_none())
        .map(|entry| derived(entry, via))
        .collect();
    own.entries.extend(missing);
}

fn derived(entry: &Entry, via: Via) -> Entry {
    let mut entry = entry.clone();
    entry.node.visit_mut(&mut |node| node.via = via);
    entry
}

/// Whether `table` has another key of an exclusive group that `key` is in.
fn rival(table: &Table, section: &Section, key: &str) -> bool {
    let groups = section
        .exclusive
        .iter()
        .filter(|group| group.contains(&key));
    let mut others = groups
        .flat_map(|group| group.iter())
        .filter(|other| **other != key);
    table.get(key).is_none() && others.any(|other| table.get(other).is_some())
}

fn settle_upstream(upstream: &mut Table) {
    settle(upstream, "breaker", "mode", Value::Text("off".to_owned()));
    settle(upstream, "retry", "attempts", Value::Integer(0));
    remove_if_off(upstream, "health");
    remove_if_off(upstream, "hash");
    remove_if_off(upstream, "sticky");
    if let Some(health) = upstream.get_mut("health").and_then(Node::as_table_mut) {
        // As if it were not there, so that it does not hide the defaults of an HTTP check.
        health.entries.retain(|entry| {
            entry.key != "tcp" || !matches!(entry.node.value, Value::Switch(false))
        });
    }
    if let Some(breaker) = upstream.get_mut("breaker").and_then(Node::as_table_mut) {
        settle(breaker, "slow", "threshold", Value::Text("off".to_owned()));
    }
    if let Some(servers) = upstream.get_mut("servers") {
        expand_servers(servers);
    }
}

/// `key = "off"` becomes the table in which `inner` says so.
fn settle(table: &mut Table, key: &str, inner: &str, value: Value) {
    if let Some(node) = table.get_mut(key).filter(|node| node.is_off()) {
        let off = Node {
            value,
            span: node.span,
            via: node.via,
            masked: None,
            variables: Vec::new(),
        };
        let mut settled = Table::default();
        settled.push(inner, off);
        node.value = Value::Table(settled);
    }
}

fn remove_if_off(table: &mut Table, key: &str) {
    if table.get(key).is_some_and(Node::is_off) {
        table.remove(key);
    }
}

/// Every way to write servers becomes a table from address to settings. What is no server stays as
/// it is: the checker has said so.
fn expand_servers(servers: &mut Node) {
    if let Value::List(nodes) = &servers.value {
        let mut table = Table::default();
        for node in nodes {
            if let Value::Text(text) = &node.value {
                let entry = Node {
                    value: Value::Table(Table::default()),
                    ..node.clone()
                };
                table.push(text, entry);
            }
        }
        servers.value = Value::Table(table);
        return;
    }
    let Some(table) = servers.as_table_mut() else {
        return;
    };
    for entry in &mut table.entries {
        if let Value::Integer(_) = entry.node.value {
            let mut settings = Table::default();
            settings.push("weight", entry.node.clone());
            entry.node.value = Value::Table(settings);
        }
    }
}

fn fill(table: &mut Table, section: &'static Section) {
    for key in section.keys {
        if let Some(default) = key.default
            && table.get(key.name).is_none()
            && !rival(table, section, key.name)
        {
            table.push(key.name, built_in(default));
        }
        if let Some(node) = table.get_mut(key.name) {
            fill_value(node, &key.kind);
        }
    }
}

fn fill_value(node: &mut Node, kind: &'static Kind) {
    match (kind, &mut node.value) {
        (Kind::Table(section), Value::Table(table)) => fill(table, section),
        (Kind::Tables(section), Value::List(nodes)) => {
            nodes
                .iter_mut()
                .filter_map(Node::as_table_mut)
                .for_each(|table| fill(table, section));
        }
        (Kind::Map(of), Value::Table(table)) => {
            table
                .entries
                .iter_mut()
                .for_each(|entry| fill_value(&mut entry.node, of));
        }
        (Kind::OneOf(kinds), Value::Table(_)) => {
            kinds.iter().for_each(|kind| fill_value(node, kind));
        }
        _ => {}
    }
}

fn built_in(toml: &str) -> Node {
    // The tables of `keys` are constants, and a test parses every default in them.
    let text = format!("default = {toml}");
    let (document, _) = toml::de::DeTable::parse_recoverable(&text);
    let table = from_toml(document.get_ref(), Span::NONE.file, &mut |_| {});
    let mut node = table.entries.into_iter().next().map_or_else(
        || Node {
            value: Value::Unknown,
            span: Span::NONE,
            via: Via::BuiltIn,
            masked: None,
            variables: Vec::new(),
        },
        |entry| entry.node,
    );
    node.visit_mut(&mut |node| {
        node.via = Via::BuiltIn;
        node.span = Span::NONE;
    });
    debug_assert!(!matches!(
        document.get_ref().get("default").map(|v| v.get_ref()),
        None | Some(DeValue::Datetime(_))
    ));
    node
}

/// Servers have `max-requests`, and routes timeouts and retries, from their upstream.
fn inherit(root: &mut Table) {
    let upstreams = root.table("upstream").cloned().unwrap_or_default();
    for upstream in members(root, "upstream") {
        let most = upstream.get("max-requests").cloned();
        for server in members(upstream, "servers") {
            if let (None, Some(most)) = (server.get("max-requests"), &most) {
                server.push("max-requests", most.clone());
            }
        }
    }
    for route in members(root, "route") {
        let name = route.get("upstream").and_then(Node::as_text);
        let Some(upstream) = name.and_then(|name| upstreams.table(name)) else {
            continue;
        };
        for (key, section) in [
            ("timeout", &keys::ROUTE_TIMEOUT),
            ("retry", &keys::ROUTE_RETRY),
        ] {
            let Some(base) = upstream.table(key) else {
                continue;
            };
            let mut base = base.clone();
            base.remove("budget");
            base.entries.iter_mut().for_each(|entry| {
                entry.node.visit_mut(&mut |node| {
                    if node.via == Via::Written {
                        node.via = Via::Upstream;
                    }
                });
            });
            if let Some(own) = route.get_mut(key).and_then(Node::as_table_mut) {
                inherit_into(own, &base, section);
            }
        }
    }
}

fn inherit_into(own: &mut Table, base: &Table, section: &'static Section) {
    for entry in &base.entries {
        if own.get(&entry.key).is_none() && section.key(&entry.key).is_some() {
            own.entries.push(entry.clone());
        }
    }
}
