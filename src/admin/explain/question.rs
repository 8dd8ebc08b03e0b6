//! From what is typed to what a client would send, and where to.

use std::net::IpAddr;

use crate::admin::ExplainRequest;
use crate::config::model::ListenerId;
use crate::snapshot::{ListenerState, Snapshot};

pub(super) fn choose_listener(
    snapshot: &Snapshot,
    url: &Url,
) -> Result<(ListenerId, Option<String>), String> {
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

/// The head of a request as its client would write it. Names and values that would break out of
/// their lines are mistakes of the question; all else is the proxy's to judge.
pub(super) fn head(ask: &ExplainRequest, url: &Url, address: &str) -> Result<Vec<u8>, String> {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if ask.method.is_empty() || !ask.method.as_bytes().iter().all(token) {
        return Err(format!("{:?} is not a method", ask.method));
    }
    let mut lines = String::new();
    let mut host = Some(url.authority.as_deref().unwrap_or(address));
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
            host = None;
        }
        lines += &format!("{name}: {value}\r\n");
    }
    let host = host.map(|host| format!("Host: {host}\r\n"));
    let (method, target, host) = (&ask.method, &url.target, host.unwrap_or_default());
    Ok(format!("{method} {target} HTTP/1.1\r\n{host}{lines}\r\n").into_bytes())
}

/// As much of a URL as a request needs; its path is judged by the sanitiser.
pub(super) struct Url {
    /// `None`: a path alone, sent to the first listener's address.
    pub(super) authority: Option<String>,
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

    /// As a client puts it into SNI: never an address (RFC 6066 section 3).
    pub(super) fn name(&self) -> Option<String> {
        let authority = self.authority.as_deref()?;
        let host = authority.split(':').next()?.trim_end_matches('.');
        (self.ip().is_none() && !host.is_empty()).then(|| host.to_ascii_lowercase())
    }

    pub(super) fn parse(url: &str) -> Result<Url, String> {
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
