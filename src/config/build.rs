//! The effective tree -> the model: names resolved, relations between keys checked.
//!
//! Goes on after each mistake with a stand-in, so that all of them are found; the model is used
//! only when there was none.

mod breaker;
mod files;
mod headers;
mod health;
mod listener;
mod listener_tls;
mod one_of;
mod process;
mod retry;
mod rewrite;
mod route;
mod servers;
mod target;
mod upstream;
mod upstream_tls;
mod when;

use std::sync::Arc;

use crate::config::diagnostics::Problems;
use crate::config::keys;
use crate::config::model::Config;
use crate::config::reader::Reader;
use crate::config::routes::{ConflictKind, conflicts};
use crate::config::sources::Sources;
use crate::config::suggest::closest;
use crate::config::tree::{Node, Span, Table, quote};
use crate::tls::Certificate;

/// What building needs everywhere.
pub(super) struct Building<'a> {
    pub problems: &'a mut Problems,
    pub sources: &'a mut Sources,
    /// The certificates that were found to be in order, each with its file and the key naming it.
    pub certificates: Vec<(Arc<Certificate>, String, Span)>,
}

/// What building gives.
pub(super) struct Built {
    pub config: Config,
    pub certificates: Vec<(Arc<Certificate>, String, Span)>,
}

impl Building<'_> {
    /// "file:line".
    fn origin(&self, span: Span) -> String {
        match self.sources.file(span.file) {
            Some(file) => format!("{}:{}", file.name(), file.line_and_column(span.start).0),
            None => "default".to_owned(),
        }
    }

    /// `name` is none of the known ones.
    fn unknown_name(&mut self, node: &Node, what: &str, known: &[Arc<str>]) {
        let name = node.as_text().unwrap_or_default();
        let message = format!("there is no {what} {}", node.quoted());
        let near = closest(name, known.iter().map(|known| &**known));
        let error = self.problems.error("unknown-name", node.span, message);
        error.label(format!("no such {what}"));
        match near {
            Some(near) => error.help(format!("did you mean \"{near}\"?")),
            None if known.is_empty() => error.help(format!("the file has no {what}")),
            None => {
                let names: Vec<String> = known.iter().take(8).map(|name| quote(name)).collect();
                error.help(format!("there are {}", names.join(", ")))
            }
        };
    }
}

/// Builds the model of `effective`.
pub(super) fn build(effective: &Table, problems: &mut Problems, sources: &mut Sources) -> Built {
    let mut building = Building {
        problems,
        sources,
        certificates: Vec::new(),
    };
    let root = Reader::root(effective, &keys::ROOT);
    let process = process::process(root.table_or_empty("process", &keys::PROCESS));
    let log = process::log(root.table_or_empty("log", &keys::LOG));
    let access_log = root
        .table("access-log", &keys::ACCESS_LOG)
        .map(process::access_log);
    let admin = process::admin(root.table_or_empty("admin", &keys::ADMIN));
    let listeners = listener::listeners(&root, &mut building);
    listener::apart_from_admin(&root, admin.as_ref(), &listeners, &mut building);
    let upstreams = upstream::upstreams(&root, &mut building);
    let routes = route::routes(&root, &listeners, &upstreams, &mut building);
    let config = Config {
        process,
        log,
        access_log,
        admin,
        listeners,
        upstreams,
        routes,
    };
    process::limits(&config, &root, &mut building);
    if !building.problems.has_errors() {
        rivals(&config, root.list("route"), &mut building);
        unused(&config, &root, &mut building);
    }
    Built {
        config,
        certificates: building.certificates,
    }
}

/// Routes that are ambiguous, and routes that can never match.
fn rivals(config: &Config, nodes: &[Node], building: &mut Building<'_>) {
    for conflict in conflicts(&config.routes, config.listeners.len()) {
        let [first, second] =
            [conflict.first, conflict.second].map(|id| (&config.routes[id.0], nodes[id.0].span));
        match conflict.kind {
            ConflictKind::Ambiguous => {
                let message = format!(
                    "two routes are equal: nothing decides between {} and {}",
                    quote(&first.0.name),
                    quote(&second.0.name)
                );
                let other = format!("the other one ({})", first.0.origin);
                let error = building
                    .problems
                    .error("ambiguous-route", second.1, message);
                error
                    .label(match &conflict.example {
                        Some(path) => format!("{path} matches this and {}", first.0.origin),
                        None => format!("takes the same requests as {}", first.0.origin),
                    })
                    .related(first.1, other);
                error.help(
                    "remove one, or give one of them a condition in `when` or a higher `priority`",
                );
            }
            ConflictKind::Unreachable => {
                let message = format!("the route {} can never match", quote(&second.0.name));
                let other = format!("this one takes all of its requests ({})", first.0.origin);
                let warning = building
                    .problems
                    .warning("unreachable-route", second.1, message);
                warning
                    .label(format!("hidden by {}", first.0.origin))
                    .related(first.1, other);
            }
        }
    }
}

fn unused(config: &Config, root: &Reader<'_>, building: &mut Building<'_>) {
    if config.routes.is_empty() {
        let span = root
            .list("listener")
            .first()
            .map_or(Span::NONE, |node| node.span);
        let warning = building
            .problems
            .warning("no-route", span, "the file has no [[route]]");
        warning.label("every request here is answered with 404");
        return;
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let used = config.routes.iter().any(|route| {
            let mirror = route.mirror.as_ref();
            let fallback = route
                .fallback
                .as_ref()
                .and_then(|fallback| fallback.upstream);
            let mut destinations = route.target.destinations().iter();
            destinations.any(|to| to.upstream.0 == index)
                || fallback.is_some_and(|id| id.0 == index)
                || mirror.is_some_and(|mirror| mirror.upstream.0 == index)
        });
        if let (false, Some(entry)) = (used, root.entries("upstream").get(index)) {
            let message = format!("no route uses the upstream {}", quote(&upstream.name));
            building
                .problems
                .warning("unused-upstream", entry.key_span, message);
        }
    }
}
