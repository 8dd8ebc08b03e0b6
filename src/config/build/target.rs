//! Who answers the requests of a route: `upstream`, `split`, `redirect` or `respond`.

use std::sync::Arc;

use crate::config::build::Building;
use crate::config::build::one_of::{Hint, OneOf};
use crate::config::build::retry;
use crate::config::build::route::{Names, find};
use crate::config::keys;
use crate::config::model::{
    Destination, Format, Piece, Place, Redirect, Respond, SplitKey, Target, Template, Upstream,
    UpstreamId, Variable,
};
use crate::config::reader::Reader;
use crate::config::tree::{Entry, Node, Span, Value, quote};
use crate::config::values::text;

const TARGET: OneOf = OneOf {
    keys: &["upstream", "split", "redirect", "respond"],
    missing: Hint::Label("where do its requests go?"),
    second: "another answer",
    instead: None,
};

/// `moved`: the route changes the path.
pub(super) fn target(
    reader: Reader<'_>,
    names: &Names,
    upstreams: &[Arc<Upstream>],
    moved: bool,
    building: &mut Building<'_>,
) -> Target {
    let given = TARGET.given(reader, building);
    off_timeout(reader, building);
    if let (Some(entry), None) = (reader.entry("split-by"), reader.node("split"))
        && reader.written("split-by").is_some()
    {
        let message = "`split-by` means nothing without `split`";
        let problems = &mut building.problems;
        problems.error("conflicting-keys", entry.key_span, message);
    }
    match given {
        Some("split") => split(reader, names, upstreams, building),
        Some("redirect") => {
            without_effect(reader, "redirect", &UNUSED, building);
            Target::Redirect(redirect(
                reader.table_or_empty("redirect", &keys::REDIRECT),
                moved,
                building,
            ))
        }
        Some("respond") => {
            without_effect(reader, "respond", &UNUSED, building);
            without_effect(
                reader,
                "respond",
                &["strip-prefix", "replace-prefix", "rewrite"],
                building,
            );
            Target::Respond(respond(
                reader.table_or_empty("respond", &keys::RESPOND),
                building,
            ))
        }
        _ => {
            let node = reader.node("upstream");
            let found = node.and_then(|node| find(node, "upstream", &names.upstreams, building));
            Target::Send {
                to: destination(reader, found, 1, upstreams)
                    .into_iter()
                    .collect(),
                by: SplitKey::Request,
            }
        }
    }
}

/// What is about servers.
const UNUSED: [&str; 8] = [
    "timeout",
    "retry",
    "fallback",
    "mirror",
    "upgrades",
    "forward",
    "max-body",
    "request-headers",
];

/// What has no meaning where no server is asked must not look as if it counted.
fn without_effect(reader: Reader<'_>, what: &str, keys: &[&str], building: &mut Building<'_>) {
    for key in keys {
        if let Some(entry) = reader.written(key) {
            let message = format!("`{key}` means nothing with `{what}`");
            let problems = &mut building.problems;
            let warning = problems.warning("without-effect", entry.key_span, message);
            warning.label("no server is asked");
        }
    }
}

fn off_timeout(reader: Reader<'_>, building: &mut Building<'_>) {
    if let Some(node) = reader.node("timeout").filter(|node| node.is_off()) {
        let error = building.problems.error(
            "bad-value",
            node.span,
            "`timeout` has no \"off\" of its own",
        );
        error.label("\"off\" here takes away a table given in [defaults.route], and there is none");
        error.help("timeout = { total = \"off\" }");
    }
}

/// With the timeouts and retries that hold for this upstream on this route.
fn destination(
    reader: Reader<'_>,
    upstream: Option<usize>,
    weight: u32,
    upstreams: &[Arc<Upstream>],
) -> Option<Destination> {
    let index = upstream?;
    let rules = upstreams.get(index)?;
    let timeout = reader.table_or_empty("timeout", &keys::ROUTE_TIMEOUT);
    let retry = reader.table_or_empty("retry", &keys::ROUTE_RETRY);
    Some(Destination {
        upstream: UpstreamId(index),
        weight,
        timeout: retry::timeouts_over(timeout, &rules.timeout),
        retry: retry::retry_over(retry, &rules.retry),
    })
}

fn split(
    reader: Reader<'_>,
    names: &Names,
    upstreams: &[Arc<Upstream>],
    building: &mut Building<'_>,
) -> Target {
    let mut to = Vec::new();
    for entry in reader.entries("split") {
        let found = names.upstreams.iter().position(|name| **name == *entry.key);
        if found.is_none() {
            let name = Node {
                value: Value::Text(entry.key.clone()),
                span: entry.key_span,
                ..entry.node.clone()
            };
            building.unknown_name(&name, "upstream", &names.upstreams);
        }
        let weight = match entry.node.value {
            Value::Integer(weight) => u32::try_from(weight).unwrap_or(0),
            _ => 0,
        };
        to.extend(destination(reader, found, weight, upstreams));
    }
    if reader.entries("split").iter().all(weightless) {
        let message = "`split` gives nobody a share";
        let problems = &mut building.problems;
        let error = problems.error("bad-value", reader.span_of("split"), message);
        error.help("split = { users = 95, users-next = 5 }");
    }
    // So that the order in the file does not decide who of a keyed split goes where.
    to.sort_by(|a: &Destination, b: &Destination| {
        upstreams[a.upstream.0]
            .name
            .cmp(&upstreams[b.upstream.0].name)
    });
    let by = reader.node("split-by").and_then(Node::as_text);
    Target::Send {
        to,
        by: by
            .and_then(|by| text::split_key(by).ok())
            .unwrap_or(SplitKey::Request),
    }
}

fn weightless(entry: &Entry) -> bool {
    matches!(entry.node.value, Value::Integer(0))
}

fn redirect(table: Reader<'_>, moved: bool, building: &mut Building<'_>) -> Redirect {
    let status = table.integer("status");
    if matches!(status, 304..=306) {
        let message = format!("{status} does not send anybody elsewhere");
        let error = building
            .problems
            .error("bad-value", table.span_of("status"), message);
        error.label("expected 301, 302, 303, 307 or 308");
    }
    let to = match table.entry("to") {
        Some(to) => whole_url(to, table, building),
        None => parts(table, moved, building),
    };
    Redirect { status, to }
}

fn whole_url(to: &Entry, table: Reader<'_>, building: &mut Building<'_>) -> Place {
    let others = ["scheme", "host", "port", "path"]
        .into_iter()
        .filter_map(|key| table.written(key));
    for other in others {
        let message = format!("`to` is the whole URL, and `{}` a part of it", other.key);
        let problems = &mut building.problems;
        let error = problems.error("conflicting-keys", other.key_span, message);
        error.related(to.key_span, "the whole URL");
    }
    let template = to.node.template();
    if let Err(why) = check_url(&template) {
        refuse(to.node.span, &to.node, &why, building);
    }
    Place::Url(template)
}

fn parts(table: Reader<'_>, moved: bool, building: &mut Building<'_>) -> Place {
    let path = table
        .node("path")
        .map(Node::template)
        .filter(|path| *path != Template::default());
    if let Some(path) = &path
        && let Err(why) = check_path(path)
        && let Some(node) = table.node("path")
    {
        refuse(node.span, node, &why, building);
    }
    let place = Place::Parts {
        scheme: match table.text("scheme") {
            "http" => Some("http"),
            "https" => Some("https"),
            _ => None,
        },
        host: text::host_name(table.text("host")).ok(),
        port: Some(table.integer("port")).filter(|port| *port != 0),
        path,
    };
    if let Place::Parts {
        scheme: None,
        host: None,
        port: None,
        path: None,
    } = place
        && !moved
        && table.all_known()
    {
        let message = "`redirect` would send everybody where they are";
        let problems = &mut building.problems;
        let error = problems.error("bad-value", table.span, message);
        error.label("a loop");
        error.help("redirect = { scheme = \"https\" }, or { to = \"https://...\" }");
    }
    place
}

fn refuse(span: Span, node: &Node, why: &str, building: &mut Building<'_>) {
    let message = format!("{} is nowhere to go", node.quoted());
    let error = building.problems.error("bad-value", span, message);
    error.label(why);
}

/// Bytes that a URL has.
fn check_literals(template: &Template) -> Result<(), String> {
    for piece in &template.0 {
        if let Piece::Text(text) = piece
            && let Some(c) = text
                .chars()
                .find(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(*c))
        {
            let shown = quote(&c.to_string());
            return Err(format!(
                "{shown} must be escaped: `%` and two hexadecimal digits"
            ));
        }
    }
    Ok(())
}

fn check_path(template: &Template) -> Result<(), String> {
    check_literals(template)?;
    match template.0.first() {
        Some(Piece::Text(text)) if text.starts_with('/') => Ok(()),
        Some(Piece::Variable(Variable::RequestPath)) => Ok(()),
        _ => Err("a path begins with `/` or `${request.path}`".to_owned()),
    }
}

/// Nothing that a client sends but its validated Host may decide which host that is.
fn check_url(template: &Template) -> Result<(), String> {
    check_literals(template)?;
    let mut pieces = template.0.iter();
    let rest = match pieces.next() {
        Some(Piece::Text(text)) if text.starts_with('/') => {
            return match text.starts_with("//") {
                true => Err("`//` begins the name of a host: write its scheme".to_owned()),
                false => Ok(()),
            };
        }
        Some(Piece::Variable(Variable::RequestPath)) => return Ok(()),
        Some(Piece::Text(text)) => text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://")),
        Some(Piece::Variable(Variable::RequestScheme)) => match pieces.next() {
            Some(Piece::Text(text)) => text.strip_prefix("://"),
            _ => None,
        },
        _ => None,
    };
    let Some(rest) = rest else {
        return Err("it begins with `https://`, `http://` or `/`".to_owned());
    };
    authority(rest, pieces)
}

/// `rest` and what follows, up to where the path begins.
fn authority<'a>(rest: &str, pieces: impl Iterator<Item = &'a Piece>) -> Result<(), String> {
    let mut written = String::new();
    for piece in std::iter::once(Piece::Text(rest.to_owned())).chain(pieces.cloned()) {
        match &piece {
            Piece::Text(text) => {
                let end = text.find(['/', '?', '#']);
                written.push_str(&text[..end.unwrap_or(text.len())]);
                if end.is_some() {
                    break;
                }
            }
            // As good as any name.
            Piece::Variable(Variable::RequestHost) => written.push_str("host"),
            Piece::Variable(Variable::RequestPath) => break,
            Piece::Variable(variable) => {
                return Err(format!(
                    "${{{}}} cannot be part of the host: a client could choose where to go",
                    variable.name()
                ));
            }
        }
    }
    text::host_and_port(&written).map_err(|_| format!("{} is no host", quote(&written)))
}

/// Statuses whose answers end with their head (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
const BODILESS: [u16; 3] = [204, 205, 304];

fn respond(table: Reader<'_>, building: &mut Building<'_>) -> Respond {
    let status = table.integer("status");
    let body = table.node("body").map(Node::template).unwrap_or_default();
    let content_type = table.text("content-type").to_owned();
    if BODILESS.contains(&status) && body != Template::default() {
        let message = format!("an answer with status {status} has no body");
        let error = building
            .problems
            .error("bad-value", table.span_of("body"), message);
        error.label("clients would not read it");
    }
    if body.fixed().is_none() && Format::of(&content_type).is_none() {
        let message = format!(
            "no request variables in a body of type {}",
            quote(&content_type)
        );
        let error = building
            .problems
            .error("bad-value", table.span_of("body"), message);
        error.label("it has no safe way to write what a client sends");
        error.help("there are text/plain, HTML, XML and JSON");
    }
    Respond {
        status,
        body,
        content_type,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::model::Target;

    #[test]
    fn each_upstream_of_a_split_has_its_own_rules_under_the_routes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.toml");
        let text = r#"
            [[listener]]
            address = "127.0.0.1:8080"
            [upstream.b]
            servers = ["10.0.0.1:1"]
            timeout = { connect = "1s", idle = "7s" }
            retry = { attempts = 3, on = ["connect"] }
            [upstream.a]
            servers = ["10.0.0.2:1"]
            timeout = { total = "9s" }
            [[route]]
            prefix = "/"
            split = { b = 3, a = 1 }
            timeout = { connect = "5s", first-byte = "off" }
            retry = { attempts = 2 }
        "#;
        std::fs::write(&path, text).unwrap();
        let config = crate::config::load(&path, &|_| None).unwrap().config;
        let Target::Send { to, .. } = &config.routes[0].target else {
            panic!("{:?}", config.routes[0].target)
        };
        let [a, b] = to.as_slice() else {
            panic!("{to:?}")
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for to in [a, b] {
            assert_eq!(to.timeout.connect, seconds(5), "the route's");
            assert_eq!((to.timeout.first_byte, to.retry.attempts), (None, 2));
        }
        assert_eq!((a.weight, b.weight), (1, 3), "in the order of the names");
        assert_eq!((a.timeout.idle, b.timeout.idle), (seconds(60), seconds(7)));
        assert_eq!((a.timeout.total, b.timeout.total), (seconds(9), None));
        assert!(a.retry.on.reset && b.retry.on.connect && !b.retry.on.reset);
        assert_eq!(
            config.routes[0].target.describe(&config.upstreams),
            "a 25%, b 75%"
        );
    }
}
