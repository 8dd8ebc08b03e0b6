//! `evenkeel config show`: the tree as TOML again, the origin of each value behind it.

use std::fmt::Write;

use crate::config::sources::Sources;
use crate::config::tree::{Entry, Node, Span, Table, Value, Via};
use crate::config::{Config, Loaded};
use crate::util::descriptors;

/// The configuration as TOML, each value with its origin as a comment, secrets and values from the
/// environment as `***`. `effective` adds the defaults that apply; without it the file is shown as
/// written, after includes.
pub fn show(loaded: &Loaded, effective: bool) -> String {
    let root = if effective {
        &loaded.effective
    } else {
        &loaded.merged
    };
    let mut printer = Printer {
        sources: &loaded.sources,
        max_connections: effective.then(|| max_connections(&loaded.config)),
        out: String::new(),
    };
    printer.table(root, &mut Vec::new());
    printer.out
}

struct Printer<'a> {
    sources: &'a Sources,
    /// What the process would take where this is printed.
    max_connections: Option<usize>,
    out: String,
}

/// As a process of this configuration would have it here and now.
fn max_connections(config: &Config) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = config.process.workers.unwrap_or_else(available);
    let wanted = config.process.max_connections;
    descriptors::clients(wanted, workers, config.listeners.len())
}

impl Printer<'_> {
    /// Values first, then tables, as TOML needs it.
    fn table(&mut self, table: &Table, path: &mut Vec<String>) {
        for entry in table
            .entries
            .iter()
            .filter(|entry| !is_section(&entry.node))
        {
            let mut origin = self.origin(&entry.node);
            if let (Some(most), "max-connections", ["process"]) = (
                self.max_connections,
                &*entry.key,
                &path.iter().map(String::as_str).collect::<Vec<_>>()[..],
            ) {
                let _ = write!(origin, "; {most} by the descriptor limit here");
            }
            let value = if is_credential(path.last(), &entry.key) {
                secret(&entry.node)
            } else {
                inline(&entry.node)
            };
            let _ = writeln!(self.out, "{} = {value}  # {origin}", key(&entry.key));
        }
        for entry in table.entries.iter().filter(|entry| is_section(&entry.node)) {
            path.push(shown_key(entry));
            match &entry.node.value {
                Value::Table(inner) => {
                    // A header only where something follows it, or where its presence says it all.
                    let only_tables = !inner.entries.is_empty()
                        && inner.entries.iter().all(|entry| is_section(&entry.node));
                    if !only_tables {
                        let origin = self.origin(&entry.node);
                        let _ = writeln!(self.out, "\n[{}]  # {origin}", header(path));
                    }
                    self.table(inner, path);
                }
                Value::List(nodes) => {
                    for node in nodes {
                        let origin = self.origin(node);
                        let _ = writeln!(self.out, "\n[[{}]]  # {origin}", header(path));
                        if let Some(inner) = node.as_table() {
                            self.table(inner, path);
                        }
                    }
                }
                _ => {}
            }
            path.pop();
        }
    }

    fn origin(&self, node: &Node) -> String {
        let place = match self.sources.file(node.span.file) {
            Some(file) if node.span != Span::NONE => {
                format!(
                    "{}:{}",
                    file.name(),
                    file.line_and_column(node.span.start).0
                )
            }
            _ => "default".to_owned(),
        };
        match node.via {
            Via::Written => place,
            Via::BuiltIn => "default".to_owned(),
            Via::Defaults(section) => format!("{section} {place}"),
            Via::Upstream => format!("upstream {place}"),
        }
    }
}

/// Whether it is printed under a header of its own.
fn is_section(node: &Node) -> bool {
    match &node.value {
        Value::Table(_) => true,
        Value::List(nodes) => nodes.first().is_some_and(|node| node.as_table().is_some()),
        _ => false,
    }
}

/// A server whose address is from the environment has it as its key.
fn shown_key(entry: &Entry) -> String {
    entry
        .node
        .masked
        .clone()
        .unwrap_or_else(|| entry.key.clone())
}

fn header(path: &[String]) -> String {
    path.iter()
        .map(|part| key(part))
        .collect::<Vec<_>>()
        .join(".")
}

fn key(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { name.to_owned() } else { string(name) }
}

/// Whether what stands under `key` of `table` lets somebody in: the token, and headers that carry
/// such, for which we have to go by their names.
fn is_credential(table: Option<&String>, key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let names = [
        "authorization",
        "cookie",
        "token",
        "secret",
        "password",
        "api-key",
        "apikey",
    ];
    match table.map(String::as_str) {
        Some("admin") => key == "token",
        Some("sticky") => key == "key",
        Some("headers" | "set" | "add") => names.iter().any(|name| key.contains(name)),
        _ => false,
    }
}

fn secret(node: &Node) -> String {
    match node.as_text() {
        Some("") => string(""),
        _ => string("***"),
    }
}

fn inline(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => string(node.masked.as_deref().unwrap_or(text)),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Switch(on) => on.to_string(),
        Value::Date(date) => date.clone(),
        Value::List(nodes) => {
            format!(
                "[{}]",
                nodes.iter().map(inline).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Table(table) => {
            let pair =
                |entry: &Entry| format!("{} = {}", key(&shown_key(entry)), inline(&entry.node));
            format!(
                "{{ {} }}",
                table
                    .entries
                    .iter()
                    .map(pair)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Value::Unknown => string("***"),
    }
}

/// A basic string of TOML.
fn string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Loaded {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.toml");
        std::fs::write(&path, text).unwrap();
        let env = |name: &str| (name == "SECRET").then(|| "hunter2:80".to_owned());
        crate::config::load(&path, &env).unwrap()
    }

    const FILE: &str = r#"
[admin]
token = "plain-token"
[[listener]]
address = "127.0.0.1:0"
[defaults.upstream]
slow-start = "3s"
[upstream.a]
servers = ["${SECRET}", "unix:/a b\"c"]
health = { headers = { x-key = "k", Authorization = "plain-credential" } }
[upstream."b.c"]
servers = { "10.0.0.1:1" = 2 }
timeout.connect = "1s"
[[route]]
prefix = "/"
upstream = "b.c"
"#;

    #[test]
    fn both_forms_are_toml_and_hide_secrets() {
        let loaded = load(FILE);
        for effective in [false, true] {
            let shown = show(&loaded, effective);
            assert!(toml::from_str::<toml::Table>(&shown).is_ok(), "{shown}");
            assert!(
                !shown.contains("hunter2") && !shown.contains("plain-"),
                "{shown}"
            );
        }
    }

    #[test]
    fn every_value_has_its_origin() {
        let shown = show(&load(FILE), true);
        let line = |start: &str| {
            shown
                .lines()
                .find(|line| line.starts_with(start))
                .unwrap_or(start)
                .to_owned()
        };
        assert!(
            line("slow-start").contains("# defaults.upstream ")
                && line("slow-start").ends_with(":7"),
            "{shown}"
        );
        assert!(line("max-requests").ends_with("# default"), "{shown}");
        let route = shown.split("[[route]]").nth(1).unwrap();
        assert!(route.contains("connect = \"1s\"  # upstream "), "{route}");
        let commented = shown
            .lines()
            .filter(|line| line.contains(" = "))
            .all(|line| line.contains("  # "));
        assert!(commented, "{shown}");
    }

    #[test]
    fn what_is_shown_without_secrets_loads_to_the_same() {
        let file = FILE
            .replace("${SECRET}", "10.0.0.9:1")
            .replace("plain-token", "")
            .replace("plain-credential", "");
        let loaded = load(&file);
        let again = load(&show(&loaded, true));
        assert!(crate::config::diff(&loaded.config, &again.config).is_empty());
    }
}
