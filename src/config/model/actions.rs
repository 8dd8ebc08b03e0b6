//! What a route does to requests and answers and where it sends them.

use std::sync::Arc;

use regex::bytes::Regex;

use crate::config::model::{Retry, Timeouts, Upstream, UpstreamId};

/// A text with parts that are of the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(pub Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Variable(Variable),
}

impl Template {
    /// The whole text where it is the same for every request.
    pub fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Pieces of the text as configured.
    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Variable(variable) => Some(*variable),
            Piece::Text(_) => None,
        })
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Variable(variable) => write!(f, "${{{}}}", variable.name())?,
            }
        }
        Ok(())
    }
}

/// `${client.ip}` and its like: the closed list of what a template may say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    RequestId,
    RequestMethod,
    RequestScheme,
    RequestHost,
    RequestPath,
    RequestQuery,
    RouteName,
    ListenerName,
}

impl Variable {
    pub const ALL: [Variable; 9] = [
        Variable::ClientIp,
        Variable::RequestId,
        Variable::RequestMethod,
        Variable::RequestScheme,
        Variable::RequestHost,
        Variable::RequestPath,
        Variable::RequestQuery,
        Variable::RouteName,
        Variable::ListenerName,
    ];

    /// As it stands between the braces.
    pub fn name(self) -> &'static str {
        match self {
            // The client address, as rules and logs use it.
            Variable::ClientIp => "client.ip",
            // As in `X-Request-Id` and the log.
            Variable::RequestId => "request.id",
            Variable::RequestMethod => "request.method",
            // As the client speaks it: of a trusted proxy its `X-Forwarded-Proto`.
            Variable::RequestScheme => "request.scheme",
            // Lower case, without port.
            Variable::RequestHost => "request.host",
            // In normal form, as routes match it, before a rewrite.
            Variable::RequestPath => "request.path",
            // As sent, without its `?`.
            Variable::RequestQuery => "request.query",
            Variable::RouteName => "route.name",
            Variable::ListenerName => "listener.name",
        }
    }

    pub fn find(name: &str) -> Option<Variable> {
        Variable::ALL
            .into_iter()
            .find(|variable| variable.name() == name)
    }
}

/// `request-headers` or `response-headers`: removed first, then set, then added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// Names as written.
    pub remove: Vec<String>,
    pub set: Vec<(String, Template)>,
    pub add: Vec<(String, Template)>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.set.iter().chain(&self.add).map(|(_, value)| value)
    }
}

/// What the path becomes before it goes on; the query is never touched.
#[derive(Debug, Clone)]
pub enum PathChange {
    /// `strip-prefix` or `replace-prefix`: the route's prefix becomes another.
    Prefix {
        /// In normal form, without trailing slash.
        from: String,
        /// The same; empty: taken away.
        to: String,
        /// `X-Forwarded-Prefix` says what was taken away.
        told: bool,
    },
    /// `rewrite`: a path that matches as a whole becomes another.
    Rewrite {
        source: String,
        /// As compiled: `^(?:source)$`.
        regex: Regex,
        to: Vec<Part>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    /// What this group of the regular expression took; 0 is all of it.
    Group(usize),
}

/// Who answers.
#[derive(Debug, Clone)]
pub enum Target {
    /// Servers: of one upstream, or of several by their shares.
    Send {
        /// In the order of the names; one alone where there is no `split`.
        to: Vec<Destination>,
        by: SplitKey,
    },
    Redirect(Redirect),
    Respond(Respond),
}

impl Target {
    /// Where requests may go.
    pub fn destinations(&self) -> &[Destination] {
        match self {
            Target::Send { to, .. } => to,
            Target::Redirect(_) | Target::Respond(_) => &[],
        }
    }

    /// "users", "users 95%, users-next 5%", "redirect 308" or "respond 503".
    pub fn describe(&self, upstreams: &[Arc<Upstream>]) -> String {
        let name = |to: &Destination| &*upstreams[to.upstream.0].name;
        match self {
            Target::Redirect(redirect) => format!("redirect {}", redirect.status),
            Target::Respond(respond) => format!("respond {}", respond.status),
            Target::Send { to, .. } => match to.as_slice() {
                [one] => name(one).to_owned(),
                several => {
                    let share = |to| {
                        let tenths = (self.share(to) * 1000.0).round();
                        format!("{} {}%", name(to), tenths / 10.0)
                    };
                    several.iter().map(share).collect::<Vec<_>>().join(", ")
                }
            },
        }
    }

    /// Of the requests, 0 to 1.
    pub fn share(&self, to: &Destination) -> f64 {
        let all: u32 = self.destinations().iter().map(|to| to.weight).sum();
        f64::from(to.weight) / f64::from(all.max(1))
    }
}

/// One upstream of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    pub upstream: UpstreamId,
    /// 0..=1000.
    pub weight: u32,
    /// The upstream's, with the route's overrides already applied.
    pub timeout: Timeouts,
    /// The same. The budget is the upstream's.
    pub retry: Retry,
}

/// What decides which upstream of a `split` takes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitKey {
    /// Its turn.
    Request,
    ClientIp,
    /// Lower case.
    Header(String),
    Cookie(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub status: u16,
    pub to: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// As it is.
    Url(Template),
    /// What is `None` stays as asked.
    Parts {
        scheme: Option<&'static str>,
        /// Without port.
        host: Option<String>,
        port: Option<u16>,
        /// With a query where it has a `?`.
        path: Option<Template>,
    },
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    pub status: u16,
    pub body: Template,
    pub content_type: String,
}

/// What stands around a request variable in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Header values, URIs and plain text.
    Plain,
    /// HTML and XML.
    Markup,
    Json,
}

impl Format {
    /// Of a body of that type; `None` where there is no safe way to write what a client sends.
    pub fn of(content_type: &str) -> Option<Format> {
        let essence = content_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "text/plain" => Some(Format::Plain),
            "text/html" | "application/xml" | "text/xml" => Some(Format::Markup),
            "application/json" => Some(Format::Json),
            other if other.ends_with("+xml") => Some(Format::Markup),
            other if other.ends_with("+json") => Some(Format::Json),
            _ => None,
        }
    }
}
