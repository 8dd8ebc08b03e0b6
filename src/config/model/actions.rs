//! What a route does to requests and answers beside sending them somewhere.

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
