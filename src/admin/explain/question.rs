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
        let secure = listeners[index].rules.tls.is_some();
        let note = match (url.secure, secure) {
            (true, false) => Some("it speaks no TLS, which the URL asks for".to_owned()),
            (false, true) => Some("it speaks TLS: a client writes https".to_owned()),
            _ => None,
        };
        return Ok((ListenerId(index), note));
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
    Err(match ports.as_slice() {
        [] => format!("no listener has port {port}, nor any: a path alone meets the first"),
        ports => format!(
            "no listener has port {port}; there are {}",
            ports.join(", ")
        ),
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What was typed, quoted: its beginning is enough to find it by.
fn quoted(text: &str) -> String {
    const ENOUGH: usize = 60;
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{:?}", text[..end].to_owned() + "…"),
        None => format!("{text:?}"),
    }
}

/// The same of a header that cannot be read: behind its name may be a secret.
fn quoted_name(header: &str) -> String {
    let end = header.bytes().position(|byte| !is_token(byte));
    match end {
        Some(end) => quoted(&(header[..end].to_owned() + "…")),
        None => quoted(header),
    }
}

/// The head of a request as its client would write it. Names and values that would break out of
/// their lines are mistakes of the question; all else is the proxy's to judge.
pub(super) fn head(ask: &ExplainRequest, url: &Url, address: &str) -> Result<Vec<u8>, String> {
    let token = |text: &str| !text.is_empty() && text.bytes().all(is_token);
    if !token(&ask.method) {
        return Err(format!("{} is not a method", quoted(&ask.method)));
    }
    let mut lines = String::new();
    let mut host = Some(url.authority.as_deref().unwrap_or(address));
    for header in &ask.headers {
        let Some((name, value)) = header.split_once(':') else {
            let name = quoted_name(header);
            return Err(format!("{name} is not of the form \"name: value\""));
        };
        // What the wire takes for white space, and no more.
        let value = value.trim_matches([' ', '\t']);
        if !token(name) {
            return Err(format!("{} is not a header name", quoted_name(name)));
        }
        if value
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            return Err(format!(
                "the value of {} has control characters",
                quoted(name)
            ));
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
    /// Of https.
    secure: bool,
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
        // Those beyond ASCII too: they are shown on a terminal.
        if url
            .chars()
            .any(|char| char.is_whitespace() || char.is_control())
        {
            return Err("a URL has no white space or control characters: escape them".to_owned());
        }
        if url.starts_with('/') || url == "*" {
            return Ok(Url {
                authority: None,
                port: None,
                port_written: false,
                target: url.to_owned(),
                secure: false,
            });
        }
        let (rest, secure) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (rest, false),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (rest, true),
            _ => {
                return Err(format!(
                    "{} is neither a URL of http or https nor a path",
                    quoted(url)
                ));
            }
        };
        // Clients keep it to themselves.
        let rest = rest.split('#').next().unwrap_or(rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            const INSTEAD: &str = "a URL's user is no part of a request: a client sends it as a \
                                   header, -H 'Authorization: Basic ...'";
            return Err(INSTEAD.to_owned());
        }
        let authority = without_zone(authority);
        let digits = authority.rsplit_once(':').map(|(_, port)| port);
        let digits = digits.filter(|port| !port.is_empty() && !port.ends_with(']'));
        let port = match digits {
            None if secure => 443,
            None => 80,
            Some(port) => port
                .parse()
                .map_err(|_| format!("{} is not a port", quoted(port)))?,
        };
        let port_written = digits.is_some();
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        Ok(Url {
            authority: Some(authority),
            port: Some(port),
            port_written,
            target,
            secure,
        })
    }
}

/// `[fe80::1%25eth0]`: a link means something to the client's machine alone, and is not sent (RFC
/// 6874 section 4).
fn without_zone(authority: &str) -> String {
    let zone = authority.strip_prefix('[').and_then(|rest| {
        let (address, rest) = rest.split_once('%')?;
        let (_, port) = rest.split_once(']')?;
        Some(format!("[{address}]{port}"))
    });
    zone.unwrap_or_else(|| authority.to_owned())
}
