//! `[[route]]`.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::build::listener::networks;
use crate::config::build::one_of::{Hint, OneOf};
use crate::config::build::{Building, headers, rewrite, target, when};
use crate::config::keys;
use crate::config::model::{
    Access, Condition, Destination, Expected, Fallback, Forward, HostPattern, Limit, Listener,
    ListenerId, Mirror, PathMatch, PathRegex, Route, Target, Upstream, UpstreamId,
};
use crate::config::reader::Reader;
use crate::config::routes::literal_prefix;
use crate::config::tree::{Node, Span, Value, quote};
use crate::config::values::{path, text};

/// What routes refer to.
pub(super) struct Names {
    listeners: Vec<Arc<str>>,
    pub upstreams: Vec<Arc<str>>,
}

/// All routes, in the order of the file.
pub(super) fn routes(
    root: &Reader<'_>,
    listeners: &[Listener],
    upstreams: &[Arc<Upstream>],
    building: &mut Building<'_>,
) -> Vec<Arc<Route>> {
    let names = Names {
        listeners: listeners
            .iter()
            .map(|listener| listener.name.clone())
            .collect(),
        upstreams: upstreams
            .iter()
            .map(|upstream| upstream.name.clone())
            .collect(),
    };
    let nodes = root.list("route");
    let mut routes: Vec<Route> = nodes
        .iter()
        .map(|node| route(Reader::new(node, &keys::ROUTE), &names, upstreams, building))
        .collect();
    name_all(&mut routes, nodes, building);
    routes.into_iter().map(Arc::new).collect()
}

fn route(
    reader: Reader<'_>,
    names: &Names,
    upstreams: &[Arc<Upstream>],
    building: &mut Building<'_>,
) -> Route {
    let path = path_match(reader, building);
    let path_change = rewrite::path_change(reader, &path, building);
    let moved = path_change.is_some();
    let target = target::target(reader, names, upstreams, moved, building);
    let mirror = mirror(reader, names, &target, building);
    Route {
        name: Arc::from(reader.text("name")),
        origin: building.origin(reader.span),
        listeners: listeners(reader, names, building),
        host: reader
            .node("host")
            .and_then(|node| text::host_pattern(node.as_text()?).ok()),
        path_change,
        path,
        when: when::conditions(reader.table_or_empty("when", &keys::WHEN), building),
        priority: reader.integer("priority"),
        target,
        upgrades: reader
            .texts("upgrades")
            .map(|(_, token)| token.to_ascii_lowercase())
            .collect(),
        forward: match reader.text("forward") {
            "raw" => Forward::Raw,
            _ => Forward::Normalized,
        },
        max_body: reader.optional_size("max-body"),
        fallback: fallback(reader, names, building),
        mirror,
        access: access(reader, building),
        limit: limit(reader, building),
        request_headers: headers::edits(reader, headers::Side::Request, building),
        response_headers: headers::edits(reader, headers::Side::Response, building),
    }
}

/// The index of the name in `node`; an unknown one is reported.
pub(super) fn find(
    node: &Node,
    what: &str,
    known: &[Arc<str>],
    building: &mut Building<'_>,
) -> Option<usize> {
    let name = node.as_text().filter(|name| !name.is_empty())?;
    let found = known.iter().position(|known| **known == *name);
    if found.is_none() {
        building.unknown_name(node, what, known);
    }
    found
}

fn listeners(reader: Reader<'_>, names: &Names, building: &mut Building<'_>) -> Vec<ListenerId> {
    let nodes = reader.texts("listener").map(|(node, _)| node);
    let mut found: Vec<ListenerId> = nodes
        .filter_map(|node| find(node, "listener", &names.listeners, building).map(ListenerId))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn path_match(reader: Reader<'_>, building: &mut Building<'_>) -> PathMatch {
    const MATCH: OneOf = OneOf {
        keys: &["path", "prefix", "regex"],
        missing: Hint::Help("prefix = \"/\" takes every path"),
        second: "a second match",
        instead: Some("write a route for each"),
    };
    MATCH.given(reader, building);
    if let Some(text) = reader.node("regex").and_then(Node::as_text) {
        return regex(text);
    }
    let exact = reader.node("path").is_some();
    let key = if exact { "path" } else { "prefix" };
    let normal = path::normal_form(reader.text(key)).unwrap_or_default();
    if normal.contains('*') {
        let message = format!("`*` in a `{key}` is the character itself");
        let warning = building
            .problems
            .warning("literal-star", reader.span_of(key), message);
        warning
            .label("not a wildcard")
            .help("a prefix takes whatever follows; for more there is `regex`");
    }
    match exact {
        true => PathMatch::Exact(normal),
        false => PathMatch::Prefix(normal.trim_end_matches('/').to_owned()),
    }
}

fn regex(source: &str) -> PathMatch {
    match path::regex(source) {
        Ok(regex) => PathMatch::Regex(PathRegex {
            source: source.to_owned(),
            regex,
            literal_prefix: literal_prefix(source),
        }),
        // The checker has shown why.
        Err(_) => PathMatch::Prefix(String::new()),
    }
}

fn fallback(reader: Reader<'_>, names: &Names, building: &mut Building<'_>) -> Option<Fallback> {
    let table = reader.table("fallback", &keys::FALLBACK)?;
    let upstream = table
        .node("upstream")
        .and_then(|node| find(node, "upstream", &names.upstreams, building))
        .map(UpstreamId);
    if upstream.is_some() && table.text("upstream") == reader.text("upstream") {
        let message = "a fallback to the same upstream asks the same servers again";
        building
            .problems
            .warning("useless-fallback", table.span_of("upstream"), message);
    }
    Some(Fallback {
        status: table.integer("status"),
        body: table.node("body").map(Node::template).unwrap_or_default(),
        upstream,
    })
}

fn mirror(
    reader: Reader<'_>,
    names: &Names,
    target: &Target,
    building: &mut Building<'_>,
) -> Option<Mirror> {
    let table = reader.table("mirror", &keys::MIRROR)?;
    let Some(node) = table.node("upstream") else {
        if table.all_known() {
            let message = "a mirror needs an `upstream`";
            let error = building
                .problems
                .error("missing-key", reader.span_of("mirror"), message);
            error.help("mirror = { upstream = \"shadow\", percent = \"1%\" }");
        }
        return None;
    };
    let upstream = UpstreamId(find(node, "upstream", &names.upstreams, building)?);
    let asked = |to: &Destination| to.upstream == upstream;
    if target.destinations().iter().any(asked) {
        let message = "a mirror to an upstream that answers the route asks its servers twice";
        let problems = &mut building.problems;
        let error = problems.error("mirror-loop", node.span, message);
        error
            .label("the route sends there itself")
            .help("name an upstream of its own for the copies");
    }
    Some(Mirror {
        upstream,
        percent: table.share("percent"),
    })
}

fn limit(reader: Reader<'_>, building: &mut Building<'_>) -> Option<Limit> {
    let table = reader.table("limit", &keys::LIMIT)?;
    let Some(node) = table.node("rate") else {
        if table.all_known() {
            let message = "a limit needs a `rate`";
            let error = building
                .problems
                .error("missing-key", reader.span_of("limit"), message);
            error.help("limit = { rate = \"100/s\" }");
        }
        return None;
    };
    Some(Limit {
        rate: node.as_text()?.parse().ok()?,
        burst: table.integer("burst"),
        by: text::limit_key(table.text("by")).ok()?,
    })
}

fn access(reader: Reader<'_>, building: &mut Building<'_>) -> Access {
    let deny = networks(reader, "deny", building);
    let allow = networks(reader, "allow", building);
    let closed = |network: &IpNet| deny.iter().any(|denied| denied.contains(network));
    if !allow.is_empty() && allow.iter().all(closed) {
        let message = "everybody that `allow` admits is denied by `deny`";
        let warning = building
            .problems
            .warning("nobody-allowed", reader.span_of("allow"), message);
        warning.label("`deny` is tested first");
    }
    Access { allow, deny }
}

/// Refuses a name that is given twice, and names the routes without one after their match.
fn name_all(routes: &mut [Route], nodes: &[Node], building: &mut Building<'_>) {
    let mut taken: HashMap<Arc<str>, Span> = HashMap::new();
    for (route, node) in routes
        .iter()
        .zip(nodes)
        .filter(|(route, _)| !route.name.is_empty())
    {
        let span = Reader::new(node, &keys::ROUTE).span_of("name");
        if let Some(first) = taken.insert(route.name.clone(), span) {
            let message = format!("two routes have the name {}", quote(&route.name));
            let error = building.problems.error("duplicate-name", span, message);
            error
                .label("given again")
                .related(first, "given here first");
        }
    }
    for (route, node) in routes.iter_mut().zip(nodes) {
        let unnamed = route.name.is_empty() && matches!(node.value, Value::Table(_));
        if !unnamed {
            continue;
        }
        let base = match_as_written(route, Reader::new(node, &keys::ROUTE));
        let mut candidates = std::iter::once(base.clone())
            .chain(std::iter::once(format!("{base} ({})", kind(&route.path))))
            .chain((2..).map(|number| format!("{base} #{number}")));
        let name = candidates
            .find(|name| !taken.contains_key(name.as_str()))
            .unwrap_or(base);
        route.name = Arc::from(name);
        taken.insert(route.name.clone(), node.span);
    }
}

fn kind(path: &PathMatch) -> &'static str {
    match path {
        PathMatch::Exact(_) => "path",
        PathMatch::Prefix(_) => "prefix",
        PathMatch::Regex(_) => "regex",
    }
}

/// "api.example.org/users method=GET": distinct for routes that differ in what they match.
fn match_as_written(route: &Route, reader: Reader<'_>) -> String {
    let mut name = match &route.host {
        Some(HostPattern::Exact(host)) => host.clone(),
        Some(HostPattern::Wildcard(suffix)) => format!("*.{suffix}"),
        None => String::new(),
    };
    name.push_str(
        ["path", "prefix", "regex"]
            .iter()
            .map(|key| reader.text(key))
            .find(|text| !text.is_empty())
            .unwrap_or("/"),
    );
    for condition in &route.when {
        let (sort, key, expected) = match condition {
            Condition::Method(methods) => {
                name.push_str(&format!(" method={}", methods.join(",")));
                continue;
            }
            Condition::Header(key, expected) => ("header", key, expected),
            Condition::Query(key, expected) => ("query", key, expected),
            Condition::Cookie(key, expected) => ("cookie", key, expected),
        };
        // Values may be secrets; the name of a route is a label that everybody sees.
        let present = if *expected == Expected::Present {
            "=*"
        } else {
            ""
        };
        name.push_str(&format!(" {sort}.{key}{present}"));
    }
    if !route.listeners.is_empty() {
        let listeners: Vec<&str> = reader.texts("listener").map(|(_, name)| name).collect();
        name.push_str(&format!(" @{}", listeners.join(",")));
    }
    name
}
