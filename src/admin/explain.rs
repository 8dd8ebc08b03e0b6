//! `explain`: which listener, route, upstream and servers a request would meet, and why each other
//! one would not be chosen. The same router and sanitiser as the data plane, with a trace.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::admin::ExplainRequest;
use crate::config::model::{
    Balance, Forward, HashKey, HostPattern, ListenerId, PathMatch, RouteId, SplitKey,
};
use crate::filter::answer::Own;
use crate::filter::template::Values;
use crate::message::{Known, Method, RequestHead, Version};
use crate::proxy::sanitise::{self, Refused, Sanitised};
use crate::proxy::sticky;
use crate::router::{Outcome, Query, Rank};
use crate::snapshot::{DestinationState, ListenerState, RouteState, Snapshot};

/// What would become of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    pub method: String,
    pub url: String,
    pub listener: String,
    /// Why this listener, where the URL did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_note: Option<String>,
    pub host: Option<String>,
    /// In normal form: what is matched and forwarded.
    pub path: Option<String>,
    /// Set when the request would be refused before routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub route: Option<String>,
    /// With shares where there are several.
    pub upstream: Option<String>,
    /// Where copies go: "shadow 1%".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// What the route answers by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The path that goes on, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<String>,
    /// Too few servers are healthy: what the checks say is ignored.
    #[serde(default)]
    pub panic: bool,
    /// Of an upstream that is at it: new requests wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_limit: Option<u32>,
    pub routes: Vec<RouteVerdict>,
    pub servers: Vec<ServerVerdict>,
}

/// How likely a server is to take the request, and why not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerVerdict {
    /// Where the route has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    pub address: String,
    /// As configured, where that leads to the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// 0 to 1, of a first attempt now.
    pub chance: f64,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

impl ServerVerdict {
    /// With its upstream where there are several.
    fn name(&self) -> String {
        let address = match &self.upstream {
            Some(upstream) => format!("{upstream}/{}", self.address),
            None => self.address.clone(),
        };
        match self.names.as_slice() {
            [] => address,
            names => format!("{address} ({})", names.join(", ")),
        }
    }
}

/// What became of one route.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteVerdict {
    pub name: String,
    /// `file:line`.
    pub origin: String,
    pub chosen: bool,
    pub why: String,
}

/// Explains `ask` by `snapshot`. The error is a sentence about `ask` itself.
pub fn explain(snapshot: &Snapshot, ask: &ExplainRequest) -> Result<Explanation, String> {
    let url = Url::parse(&ask.url)?;
    let (listener, listener_note) = choose_listener(snapshot, &url)?;
    let rules = &snapshot.listener(listener).rules;
    let mut head = request_head(ask, &url, &rules.address.to_string())?;
    let mut explanation = Explanation {
        method: ask.method.clone(),
        url: ask.url.clone(),
        listener: rules.name.to_string(),
        listener_note,
        host: None,
        path: None,
        refused: None,
        route: None,
        upstream: None,
        mirror: None,
        answer: None,
        forwarded: None,
        panic: false,
        concurrency_limit: None,
        routes: Vec::new(),
        servers: Vec::new(),
    };
    match sanitise::sanitise(&mut head) {
        Err(refused) => explanation.refused = Some(describe_refusal(refused)),
        Ok(sanitised) => route(snapshot, listener, &head, &sanitised, &mut explanation),
    }
    Ok(explanation)
}

fn route(
    snapshot: &Snapshot,
    listener: ListenerId,
    head: &RequestHead,
    sanitised: &Sanitised,
    explanation: &mut Explanation,
) {
    let path = sanitised.path(head);
    explanation.host = sanitised.host(head).map(text);
    explanation.path = Some(text(path));
    let query = Query {
        listener,
        host: sanitised.host(head),
        path,
        query: sanitised.query(head),
        method: &head.method,
        fields: &head.fields,
    };
    let mut trace: Vec<(RouteId, Outcome)> = Vec::new();
    let found = snapshot.router.find(&query, &mut trace);
    explanation.routes = trace
        .into_iter()
        .map(|(route, outcome)| verdict(snapshot, route, outcome))
        .collect();
    let Some(found) = found else { return };
    let state = snapshot.route(found);
    if state.rules.forward == Forward::Raw
        && let Err(refused) = sanitised.raw_target(head)
    {
        explanation.refused = Some(describe_refusal(refused));
        return;
    }
    let new = match &state.rules.path_change {
        None => Cow::Borrowed(path),
        Some(change) => match crate::filter::path::change(change, path) {
            Ok(new) => new,
            Err(_) => {
                let why = "400 bad_request: what the path is rewritten to is no path";
                explanation.refused = Some(why.to_owned());
                return;
            }
        },
    };
    explanation.forwarded = (*new != *path).then(|| text(&new));
    explanation.route = Some(state.rules.name.to_string());
    if let Some(own) = &state.own {
        explanation.answer = Some(own_answer(
            own,
            snapshot,
            state,
            &new,
            (head, sanitised, listener),
        ));
        return;
    }
    let mirror = state.rules.mirror.as_ref();
    explanation.mirror = mirror.map(|mirror| mirror.describe(&snapshot.config.upstreams));
    let target = &state.rules.target;
    explanation.upstream = Some(target.describe(&snapshot.config.upstreams));
    let chosen = state.split.as_ref().and_then(|split| {
        let key = match &split.by {
            SplitKey::Request | SplitKey::ClientIp => None,
            SplitKey::Header(name) => head.fields.get_text(name),
            SplitKey::Cookie(name) => {
                crate::router::cookie_values(&head.fields, name.as_bytes()).next()
            }
        };
        Some(usize::from(split.of_key(key?)))
    });
    let forwarded = Query {
        path: &new,
        ..query
    };
    for (index, to) in state.destinations.iter().enumerate() {
        let share = match chosen {
            None => target.share(&to.rules),
            Some(chosen) if chosen == index => 1.0,
            Some(_) => 0.0,
        };
        let split = state.destinations.len() > 1;
        servers(to, share, split, &forwarded, explanation);
    }
}

/// Those of one upstream, which takes `share` of the requests.
fn servers(
    to: &DestinationState,
    share: f64,
    split: bool,
    query: &Query<'_>,
    explanation: &mut Explanation,
) {
    let upstream = to.upstream.latest();
    explanation.panic |= upstream.is_panicking() && share > 0.0;
    if let Some(concurrency) = upstream.concurrency()
        && concurrency.in_flight >= concurrency.limit
        && share > 0.0
    {
        explanation.concurrency_limit = Some(concurrency.limit);
    }
    let hash = hash_key(&upstream.config().balance, query);
    let sticky = sticky::named(query.fields, &upstream);
    let servers = upstream.explain(hash, sticky, Instant::now()).into_iter();
    explanation
        .servers
        .extend(servers.map(|server| ServerVerdict {
            upstream: split.then(|| upstream.name().to_string()),
            address: server.address,
            names: server.names,
            chance: server.chance * share,
            state: server.state.to_owned(),
            why_not: server.reason,
        }));
}

/// "308 to https://example.org/a".
fn own_answer(
    own: &Own,
    snapshot: &Snapshot,
    state: &RouteState,
    path: &[u8],
    (head, sanitised, listener): (&RequestHead, &Sanitised, ListenerId),
) -> String {
    let rules = &snapshot.listener(listener).rules;
    let host = head.fields.get(Known::Host).unwrap_or_default();
    let port = memchr::memrchr(b':', host).map(|colon| text(&host[colon + 1..]));
    let values = Values {
        client: IpAddr::from([127, 0, 0, 1]),
        id: SmallVec::from_slice(b"..."),
        method: head.method.clone(),
        scheme: if rules.tls.is_some() { "https" } else { "http" },
        host: sanitised.host(head).unwrap_or_default().into(),
        port: port.and_then(|port| port.parse().ok()),
        path: sanitised.path(head).into(),
        query: sanitised.query(head).map(Into::into),
        route: state.rules.name.clone(),
        listener: rules.name.clone(),
    };
    match own.answer(&values, path) {
        Ok((head, _)) => match head.fields.get(Known::Location) {
            Some(location) => format!("{} to {}", head.status, text(location)),
            None => head.status.to_string(),
        },
        Err(_) => "400 bad_request: no Host".to_owned(),
    }
}

/// The hash of the request, where the policy asks for one that the request itself carries.
fn hash_key(balance: &Balance, query: &Query<'_>) -> Option<u64> {
    let Balance::Hash(key) = balance else {
        return None;
    };
    let bytes = match key {
        HashKey::ClientIp => None,
        HashKey::Path => Some(query.path),
        HashKey::Header(name) => query.fields.get_text(name),
        HashKey::Cookie(name) => crate::router::cookie_values(query.fields, name.as_bytes()).next(),
        HashKey::Query(name) => {
            crate::router::query_values(query.query.unwrap_or_default(), name.as_bytes()).next()
        }
    };
    bytes.map(crate::balance::hash_key)
}

fn verdict(snapshot: &Snapshot, route: RouteId, outcome: Outcome) -> RouteVerdict {
    let rules = &snapshot.route(route).rules;
    let why = match outcome {
        Outcome::Chosen => "chosen".to_owned(),
        Outcome::OtherListener => "it names other listeners".to_owned(),
        Outcome::OtherHost => match &rules.host {
            Some(HostPattern::Exact(host)) => format!("its host is {host}"),
            Some(HostPattern::Wildcard(suffix)) => format!("its host is *.{suffix}"),
            None => "its host is another".to_owned(),
        },
        Outcome::OtherPath => match &rules.path {
            PathMatch::Exact(path) => format!("its path is exactly {path}"),
            PathMatch::Prefix(prefix) => format!("its prefix is {prefix}"),
            PathMatch::Regex(regex) => format!("its regex {} does not match", regex.source),
        },
        Outcome::Condition(index) => match rules.when.get(index) {
            Some(condition) => format!("its condition on {condition} does not hold"),
            None => "a condition does not hold".to_owned(),
        },
        Outcome::Outranked { by, rank } => {
            let winner = &snapshot.route(by).rules.name;
            format!("it matches, but {winner} {}", advantage(rank))
        }
    };
    RouteVerdict {
        name: rules.name.to_string(),
        origin: rules.origin.clone(),
        chosen: outcome == Outcome::Chosen,
        why,
    }
}

fn advantage(rank: Rank) -> &'static str {
    match rank {
        Rank::Listener => "names the listener",
        Rank::Host => "has the more specific host",
        Rank::Path => "has the more specific path",
        Rank::Regex => "has a regex, which goes before a plain prefix of that length",
        Rank::Conditions => "has more conditions",
        Rank::Priority => "has the higher priority",
    }
}

fn describe_refusal(refused: Refused) -> String {
    match refused {
        Refused::BadRequest(detail) => format!("400 bad_request: {detail}"),
        Refused::MethodNotAllowed => "405 method_not_allowed".to_owned(),
        Refused::ExpectationFailed => "417 expectation_failed".to_owned(),
    }
}

fn choose_listener(snapshot: &Snapshot, url: &Url) -> Result<(ListenerId, Option<String>), String> {
    let listeners = &snapshot.listeners;
    let tcp = |one: &ListenerState| one.rules.address.tcp();
    let wanted = |one: &ListenerState| tcp(one).is_some_and(|at| Some(at.port()) == url.port);
    // Several may share a port on addresses of their own.
    let named = |one: &ListenerState| wanted(one) && url.ip() == tcp(one).map(|at| at.ip());
    let found = listeners.iter().position(named);
    if let Some(index) = found.or_else(|| listeners.iter().position(wanted)) {
        return Ok((ListenerId(index), None));
    }
    let Some(first) = listeners.first() else {
        return Err("there is no listener".to_owned());
    };
    let Some(port) = url.port else {
        let note = (listeners.len() > 1).then(|| "the first; a URL with a port chooses".to_owned());
        return Ok((ListenerId(0), note));
    };
    if listeners.len() == 1 {
        let address = &first.rules.address;
        let note = format!("the only one; it is on {address}, not on port {port}");
        return Ok((ListenerId(0), Some(note)));
    }
    if !url.port_written {
        // As the public writes it, where something maps the port.
        let note = format!("the first; none is on port {port}, a URL with a port chooses");
        return Ok((ListenerId(0), Some(note)));
    }
    let ports: Vec<_> = listeners
        .iter()
        .filter_map(|one| Some(tcp(one)?.port().to_string()))
        .collect();
    Err(format!(
        "no listener has port {port}; there are {}",
        ports.join(", ")
    ))
}

fn request_head(ask: &ExplainRequest, url: &Url, address: &str) -> Result<RequestHead, String> {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if ask.method.is_empty() || !ask.method.as_bytes().iter().all(token) {
        return Err(format!("{:?} is not a method", ask.method));
    }
    let method = Method::from_token(ask.method.as_bytes());
    let mut head = RequestHead::new(method, Version::Http11, url.target.as_bytes());
    head.fields.set(
        Known::Host,
        url.authority.as_deref().unwrap_or(address).as_bytes(),
    );
    for header in &ask.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("{header:?} is not of the form \"name: value\""))?;
        let value = value.trim();
        if name.is_empty() || !name.as_bytes().iter().all(token) {
            return Err(format!("{name:?} is not a header name"));
        }
        if value
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            return Err(format!("the value of {name} has control characters"));
        }
        if name.eq_ignore_ascii_case("host") {
            head.fields.set(Known::Host, value.as_bytes());
        } else {
            head.fields.append_text(name, value.as_bytes());
        }
    }
    Ok(head)
}

/// As much of a URL as a request needs; its path is judged by the sanitiser.
struct Url {
    /// `None`: a path alone, sent to the first listener's address.
    authority: Option<String>,
    port: Option<u16>,
    /// Written, and not only meant by the scheme.
    port_written: bool,
    target: String,
}

impl Url {
    /// Where the host is an address.
    fn ip(&self) -> Option<IpAddr> {
        let authority = self.authority.as_deref()?;
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?.0,
            None => authority
                .split_once(':')
                .map_or(authority, |(host, _)| host),
        };
        host.parse().ok()
    }

    fn parse(url: &str) -> Result<Url, String> {
        if url.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err("a URL has no white space or control characters: escape them".to_owned());
        }
        if url.starts_with('/') || url == "*" {
            return Ok(Url {
                authority: None,
                port: None,
                port_written: false,
                target: url.to_owned(),
            });
        }
        let (rest, default_port) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, 80),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, 443),
            _ => {
                return Err(format!(
                    "{url:?} is neither a URL of http or https nor a path"
                ));
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let digits = authority.rsplit_once(':').map(|(_, port)| port);
        let digits = digits.filter(|port| !port.ends_with(']'));
        let port = match digits {
            None => default_port,
            Some(port) => port
                .parse()
                .map_err(|_| format!("{port:?} is not a port"))?,
        };
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        Ok(Url {
            authority: Some(authority.to_owned()),
            port: Some(port),
            port_written: digits.is_some(),
            target,
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Explanation {
    /// True when a route takes the request.
    pub fn is_routed(&self) -> bool {
        self.route.is_some()
    }

    /// For a terminal.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{} {}", self.method, self.url)?;
        write!(out, "  listener  {}", self.listener)?;
        match &self.listener_note {
            Some(note) => writeln!(out, "  ({note})")?,
            None => writeln!(out)?,
        }
        if let Some(host) = &self.host {
            writeln!(out, "  host      {host}")?;
        }
        if let Some(path) = &self.path {
            writeln!(out, "  path      {path}")?;
        }
        if let Some(path) = &self.forwarded {
            writeln!(out, "  goes on   {path}")?;
        }
        if let Some(refused) = &self.refused {
            return writeln!(out, "  refused   {refused}");
        }
        match (&self.route, &self.upstream) {
            (Some(route), Some(upstream)) => {
                write!(out, "  route     {route}\n  upstream  {upstream}")?;
                let note = if self.panic {
                    "  (panic: failed checks are ignored)"
                } else {
                    ""
                };
                writeln!(out, "{note}")?;
                if let Some(limit) = self.concurrency_limit {
                    writeln!(
                        out,
                        "  waits     {limit} requests are in flight, its limit now: new ones queue"
                    )?;
                }
            }
            (Some(route), None) => {
                let answer = self.answer.as_deref().unwrap_or_default();
                writeln!(out, "  route     {route}\n  answer    {answer}")?;
            }
            _ => writeln!(out, "  route     none: 404 no_route")?,
        }
        self.write_servers(out)?;
        if let Some(mirror) = &self.mirror {
            writeln!(out, "  mirror    {mirror}")?;
        }
        self.write_routes(out)
    }

    fn write_servers(&self, out: &mut String) -> std::fmt::Result {
        let width = self
            .servers
            .iter()
            .map(|server| server.name().len())
            .max()
            .unwrap_or(0);
        for server in &self.servers {
            let chance = server.chance * 100.0;
            write!(out, "    {:width$}  {chance:5.1}%", server.name())?;
            match &server.why_not {
                Some(why) => writeln!(out, "  {why}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    fn write_routes(&self, out: &mut String) -> std::fmt::Result {
        let others: Vec<_> = self.routes.iter().filter(|route| !route.chosen).collect();
        if others.is_empty() {
            return Ok(());
        }
        writeln!(out, "  not chosen")?;
        let width = others
            .iter()
            .map(|route| route.name.len())
            .max()
            .unwrap_or(0);
        for route in others {
            writeln!(
                out,
                "    {:width$}  {}  ({})",
                route.name, route.why, route.origin
            )?;
        }
        Ok(())
    }
}
