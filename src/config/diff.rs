//! What a reload changes, in meaning: names that come, go or change, weights as shares of traffic.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::config::model::{Config, Listener, Route, Server, Target, Upstream};

/// One thing that is different.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    pub kind: ChangeKind,
    /// "listener", "upstream", "server", "route" or the name of a table.
    pub subject: &'static str,
    /// Of a server "upstream/address".
    pub name: String,
    /// "weight 3 -> 1 (75% -> 50%)"; empty where there is nothing to add.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Added,
    Removed,
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => '~',
        };
        write!(f, "{sign} {} {}", self.subject, self.name)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// The difference between two configurations; `Display` writes one short line per change.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Diff {
    pub changes: Vec<Change>,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// One line for a log: what changed, the rest counted.
    pub fn summary(&self) -> String {
        const SHOWN: usize = 5;
        let mut parts: Vec<String> = self
            .changes
            .iter()
            .take(SHOWN)
            .map(Change::to_string)
            .collect();
        if self.changes.len() > SHOWN {
            parts.push(format!("and {} more", self.changes.len() - SHOWN));
        }
        if parts.is_empty() {
            "no change".to_owned()
        } else {
            parts.join("; ")
        }
    }

    fn add(
        &mut self,
        kind: ChangeKind,
        subject: &'static str,
        name: impl Into<String>,
        detail: String,
    ) {
        self.changes.push(Change {
            kind,
            subject,
            name: name.into(),
            detail,
        });
    }

    /// Compares what has names; `changed` says what is different in a pair, if anything.
    fn named<'a, T>(
        &mut self,
        subject: &'static str,
        old: impl Iterator<Item = (String, &'a T)>,
        new: impl Iterator<Item = (String, &'a T)>,
        changed: impl Fn(&T, &T) -> Option<String>,
    ) where
        T: 'a,
    {
        let mut old: BTreeMap<String, &T> = old.collect();
        for (name, item) in new {
            match old.remove(&name) {
                None => self.add(ChangeKind::Added, subject, name, String::new()),
                Some(before) => {
                    if let Some(detail) = changed(before, item) {
                        self.add(ChangeKind::Changed, subject, name, detail);
                    }
                }
            }
        }
        for name in old.into_keys() {
            self.add(ChangeKind::Removed, subject, name, String::new());
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.changes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{change}")?;
        }
        Ok(())
    }
}

/// What changes from `old` to `new`.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff::default();
    let mut table = |name: &str, same: bool, detail: &str| {
        if !same {
            diff.add(ChangeKind::Changed, "table", name, detail.to_owned());
        }
    };
    let workers = old.process.workers == new.process.workers;
    let restart = if workers {
        ""
    } else {
        "workers: needs a restart"
    };
    table("[process]", old.process == new.process, restart);
    table("[log]", old.log == new.log, "");
    table("[access-log]", old.access_log == new.access_log, "");
    table("[admin]", old.admin == new.admin, "");
    diff.named(
        "listener",
        old.listeners
            .iter()
            .map(|listener| (listener.name.to_string(), listener)),
        new.listeners
            .iter()
            .map(|listener| (listener.name.to_string(), listener)),
        |a, b| match a {
            _ if a == b => None,
            _ if a.address != b.address => Some(format!("{} -> {}", a.address, b.address)),
            _ => Some(listener_change(a, b)),
        },
    );
    upstreams(&mut diff, old, new);
    diff.named(
        "route",
        old.routes
            .iter()
            .map(|route| (route.name.to_string(), &**route)),
        new.routes
            .iter()
            .map(|route| (route.name.to_string(), &**route)),
        |a, b| route_change(a, old, b, new),
    );
    diff
}

fn listener_change(a: &Listener, b: &Listener) -> String {
    let tls = match (&a.tls, &b.tls) {
        (None, None) => None,
        (None, Some(_)) => Some("TLS"),
        (Some(_), None) => Some("no TLS any more"),
        (Some(a), Some(b)) if a.certificates != b.certificates => Some("certificates"),
        (Some(a), Some(b)) => (a != b).then_some("TLS settings"),
    };
    let without = |listener: &Listener| Listener {
        tls: None,
        ..listener.clone()
    };
    let others = without(a) != without(b);
    match (tls, others) {
        (Some(tls), false) => tls.to_owned(),
        (Some(tls), true) => format!("{tls}, settings"),
        (None, _) => "settings".to_owned(),
    }
}

fn upstreams(diff: &mut Diff, old: &Config, new: &Config) {
    fn named(config: &Config) -> impl Iterator<Item = (String, &Arc<Upstream>)> {
        config
            .upstreams
            .iter()
            .map(|upstream| (upstream.name.to_string(), upstream))
    }
    diff.named("upstream", named(old), named(new), |a, b| {
        // Servers have lines of their own.
        let without = |upstream: &Upstream| Upstream {
            servers: Vec::new(),
            ..upstream.clone()
        };
        (without(a) != without(b)).then(|| settings(a, b))
    });
    for (name, upstream) in named(new) {
        let Some(before) = old.upstreams.iter().find(|old| old.name == upstream.name) else {
            continue;
        };
        let of = |server: &Server| format!("{name}/{}", server.address);
        diff.named(
            "server",
            before.servers.iter().map(|server| (of(server), server)),
            upstream.servers.iter().map(|server| (of(server), server)),
            |a, b| server_change(a, before, b, upstream),
        );
    }
}

fn settings(a: &Upstream, b: &Upstream) -> String {
    let parts = [
        ("balance", a.balance == b.balance),
        ("slow-start", a.slow_start == b.slow_start),
        ("max-requests", a.max_requests == b.max_requests),
        ("concurrency", a.adaptive == b.adaptive),
        ("queue", a.queue == b.queue),
        ("protocol", a.protocol == b.protocol),
        ("panic-threshold", a.panic_threshold == b.panic_threshold),
        ("health", a.health == b.health),
        ("breaker", a.breaker == b.breaker),
        ("retry", a.retry == b.retry),
        ("timeout", a.timeout == b.timeout),
        ("connections", a.connections == b.connections),
        ("proxy-protocol", a.proxy_protocol == b.proxy_protocol),
        ("tls", a.tls == b.tls),
        ("sticky", a.sticky == b.sticky),
    ];
    let changed: Vec<&str> = parts
        .iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| *name)
        .collect();
    changed.join(", ")
}

fn server_change(a: &Server, before: &Upstream, b: &Server, after: &Upstream) -> Option<String> {
    let mut parts = Vec::new();
    if a.weight != b.weight {
        let (old, new) = (share(a, before), share(b, after));
        parts.push(format!(
            "weight {} -> {} ({old} -> {new} of the traffic)",
            a.weight, b.weight
        ));
    }
    if a.drain != b.drain {
        parts.push(
            if b.drain {
                "draining"
            } else {
                "no longer draining"
            }
            .to_owned(),
        );
    }
    if a.backup != b.backup {
        parts.push(
            if b.backup {
                "backup"
            } else {
                "no longer backup"
            }
            .to_owned(),
        );
    }
    if a.max_requests != b.max_requests {
        parts.push(format!(
            "max-requests {} -> {}",
            a.max_requests, b.max_requests
        ));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What a server gets when all are in rotation, as "25%".
fn share(server: &Server, upstream: &Upstream) -> String {
    let serves = |server: &&Server| !server.drain && !server.backup;
    let all: u64 = upstream
        .servers
        .iter()
        .filter(serves)
        .map(|server| u64::from(server.weight))
        .sum();
    if all == 0 || !serves(&server) {
        return "0%".to_owned();
    }
    let tenths = (f64::from(server.weight) * 1000.0 / all as f64).round();
    format!("{}%", tenths / 10.0)
}

fn route_change(a: &Route, old: &Config, b: &Route, new: &Config) -> Option<String> {
    let target = |route: &Route, config: &Config| route.target.describe(&config.upstreams);
    let (from, to) = (target(a, old), target(b, new));
    if from != to {
        let one = |route: &Route| route.target.destinations().len() == 1;
        return Some(match one(a) && one(b) {
            true => format!("upstream {from} -> {to}"),
            false => format!("{from} -> {to}"),
        });
    }
    let mirror = |route: &Route, config: &Config| {
        let mirror = route.mirror.as_ref();
        mirror.map_or("off".to_owned(), |mirror| {
            mirror.describe(&config.upstreams)
        })
    };
    let (from, to) = (mirror(a, old), mirror(b, new));
    let others = comparable(a, old) != comparable(b, new);
    match (from != to, others) {
        (true, false) => Some(format!("mirror {from} -> {to}")),
        (true, true) => Some(format!("mirror {from} -> {to}, settings")),
        (false, true) => Some("settings".to_owned()),
        (false, false) => None,
    }
}

/// A route without what may differ though it means the same: its place and the indices.
fn comparable(route: &Route, config: &Config) -> String {
    let listeners: Vec<&str> = route
        .listeners
        .iter()
        .map(|id| &*config.listeners[id.0].name)
        .collect();
    let fallback = route.fallback.as_ref().map(|fallback| {
        let upstream = fallback
            .upstream
            .map(|id| config.upstreams[id.0].name.clone());
        (fallback.status, &fallback.body, upstream)
    });
    let target = match &route.target {
        Target::Send { to, by } => {
            let rules = to.iter().map(|to| (to.weight, &to.timeout, &to.retry));
            format!("{by:?} {:?}", rules.collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    };
    format!(
        "{target} {listeners:?} {:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {fallback:?}",
        route.host,
        route.path,
        route.when,
        route.priority,
        route.upgrades,
        route.forward,
        route.max_body,
        route.path_change,
        route.access,
        route.limit,
        route.request_headers,
        route.response_headers,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.toml");
        std::fs::write(&path, text).unwrap();
        crate::config::load(&path, &|_| None).unwrap().config
    }

    const OLD: &str = r#"
        [[listener]]
        address = "127.0.0.1:8080"
        [upstream.a]
        servers = { "10.0.0.1:1" = 3, "10.0.0.2:1" = 1 }
        [upstream.b]
        servers = ["10.0.0.3:1"]
        [[route]]
        prefix = "/"
        upstream = "a"
    "#;

    #[test]
    fn weights_are_shares_of_the_traffic() {
        let new = OLD.replace("\"10.0.0.1:1\" = 3", "\"10.0.0.1:1\" = 1");
        let diff = diff(&config(OLD), &config(&new));
        assert_eq!(
            diff.to_string(),
            "~ server a/10.0.0.1:1: weight 3 -> 1 (75% -> 50% of the traffic)"
        );
    }

    #[test]
    fn names_come_go_and_change() {
        let new = OLD
            .replace("10.0.0.2", "10.0.0.9")
            .replace("upstream.b", "upstream.c")
            .replace("upstream = \"a\"", "upstream = \"c\"");
        let diff = diff(&config(OLD), &config(&new));
        let lines = diff.to_string();
        for line in [
            "+ upstream c",
            "- upstream b",
            "+ server a/10.0.0.9:1",
            "- server a/10.0.0.2:1",
            "~ route /: upstream a -> c",
        ] {
            assert!(
                lines.lines().any(|found| found == line),
                "{line} in {lines}"
            );
        }
    }

    #[test]
    fn splits_are_shares_of_the_traffic() {
        let split =
            |weights: &str| OLD.replace("upstream = \"a\"", &format!("split = {{ {weights} }}"));
        let (half, most) = (split("a = 1, b = 1"), split("b = 1, a = 19"));
        let line = |old: &str, new: &str| diff(&config(old), &config(new)).to_string();
        assert_eq!(line(OLD, &half), "~ route /: a -> a 50%, b 50%");
        assert_eq!(line(&half, &most), "~ route /: a 50%, b 50% -> a 95%, b 5%");
        assert_eq!(line(&half, &split("b = 1, a = 1")), "");
        let redirect = OLD.replace("upstream = \"a\"", "redirect = { scheme = \"https\" }");
        assert_eq!(line(OLD, &redirect), "~ route /: a -> redirect 308");
    }

    #[test]
    fn moved_lines_and_other_order_are_no_change() {
        let new = format!("# a comment\n{OLD}");
        assert!(diff(&config(OLD), &config(&new)).is_empty());
    }
}
