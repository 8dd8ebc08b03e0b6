//! Names, hosts, methods and header values.

use crate::config::model::{HashKey, HostPattern, LimitKey, SplitKey};
use crate::config::suggest::closest;
use crate::config::tree::quote;
use crate::config::values::Complaint;

pub(in crate::config) fn not_empty(text: &str) -> Result<(), Complaint> {
    if text.is_empty() {
        Err(Complaint::new("it is empty"))
    } else {
        Ok(())
    }
}

/// A name becomes a label of metrics and a field of logs.
pub(in crate::config) fn name(text: &str) -> Result<(), Complaint> {
    not_empty(text)?;
    if text.chars().count() > 128 {
        return Err(Complaint::new("a name has at most 128 characters"));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(Complaint::new(format!(
            "{} cannot be in a name",
            quote(&c.to_string())
        ))),
        None => Ok(()),
    }
}

/// Names of upstreams also stand in the admin listener's paths.
pub(in crate::config) fn upstream_name(text: &str) -> Result<(), Complaint> {
    name(text)?;
    match text.chars().find(|c| *c == '/' || c.is_whitespace()) {
        Some(c) => Err(Complaint::new(format!(
            "{} cannot be in the name of an upstream",
            quote(&c.to_string())
        ))),
        None => Ok(()),
    }
}

/// Says nothing of the value: it is a secret.
pub(in crate::config) fn token_value(text: &str) -> Result<(), Complaint> {
    match text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Complaint::new(
            "a token has no spaces and only visible ASCII characters",
        )),
    }
}

pub(in crate::config) fn log_level(text: &str) -> Result<(), Complaint> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        // A bare word that is no level would be taken for the name of a module.
        if !part.contains('=') && !LEVELS.contains(&part.trim().to_ascii_lowercase().as_str()) {
            let complaint = Complaint::new(format!("{} is not a level", quote(part)));
            return Err(match closest(part, LEVELS.into_iter()) {
                Some(level) => complaint.help(format!("did you mean \"{level}\"?")),
                None => complaint.help("there are error, warn, info, debug, trace and off; \"info,evenkeel::upstream=debug\" sets one module apart"),
            });
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Complaint::new(error.to_string())),
    }
}

/// Lower case, without port.
pub(in crate::config) fn host_name(text: &str) -> Result<String, Complaint> {
    not_empty(text)?;
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or(rest);
        return Err(Complaint::new("a host has no scheme and no path").suggest(host));
    }
    if let Some((host, _)) = text.split_once('/') {
        return Err(Complaint::new("a host has no path").suggest(host));
    }
    if text.starts_with('[') && text.ends_with(']') {
        return match text[1..text.len() - 1].parse::<std::net::Ipv6Addr>() {
            Ok(address) => Ok(format!("[{address}]")),
            Err(_) => Err(Complaint::new("not an IPv6 address")),
        };
    }
    if let Some((host, _)) = text.split_once(':') {
        return Err(
            Complaint::new("the port of a Host is ignored, so none may be given").suggest(host),
        );
    }
    if !text.is_ascii() {
        return Err(
            Complaint::new("clients send such names in their ASCII form")
                .help("write the name as it is in DNS, with `xn--`"),
        );
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(Complaint::new(
            "not a host name: letters, digits and `-` between dots",
        ));
    }
    Ok(text.to_ascii_lowercase())
}

/// What a request may have as its Host: a name or an address, with or without a port.
pub(in crate::config) fn host_and_port(text: &str) -> Result<(), Complaint> {
    let end = text.rfind(']').unwrap_or_default();
    let (host, port) = match text.rfind(':').filter(|at| *at >= end) {
        Some(at) if end > 0 || text.find(':') == Some(at) => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    };
    host_name(host)?;
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => {
            Err(Complaint::new("not a port"))
        }
        _ => Ok(()),
    }
}

pub(in crate::config) fn host_pattern(text: &str) -> Result<HostPattern, Complaint> {
    if text == "*" {
        return Err(
            Complaint::new("any host is what a route without `host` takes")
                .help("leave `host` out"),
        );
    }
    let (suffix, wild) = match text.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (text, false),
    };
    if suffix.contains('*') {
        return Err(
            Complaint::new("`*` stands only for whole labels at the beginning")
                .help("write \"*.example.org\", or a route for each name"),
        );
    }
    let name = host_name(suffix).map_err(|complaint| match (&complaint.help, wild) {
        (Some(help), true) => {
            let help = help.replacen("write \"", "write \"*.", 1);
            complaint.help(help)
        }
        _ => complaint,
    })?;
    Ok(if wild {
        HostPattern::Wildcard(name)
    } else {
        HostPattern::Exact(name)
    })
}

/// Empty, or what may stand in a Host header.
pub(in crate::config) fn host_header(text: &str) -> Result<(), Complaint> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]%".contains(&b);
    if text.bytes().all(allowed) {
        return Ok(());
    }
    Err(Complaint::new(
        "a Host header is a name or an address, and may have a port",
    ))
}

/// RFC 9110 section 5.6.2.
pub(in crate::config) fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

pub(in crate::config) fn method(text: &str) -> Result<(), Complaint> {
    if text == "*" {
        return Err(
            Complaint::new("every method is what no `method` means").help("leave `method` out")
        );
    }
    if !is_token(text) {
        return Err(Complaint::new("not a method"));
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return Err(Complaint::new("methods are case-sensitive").suggest(&upper));
    }
    if upper == "CONNECT" || upper == "TRACE" {
        return Err(Complaint::new(format!(
            "{upper} is always answered with 405"
        )));
    }
    Ok(())
}

pub(in crate::config) fn upgrade(text: &str) -> Result<(), Complaint> {
    match text {
        "h2c" => Err(Complaint::new(
            "an upgrade to h2c is never passed on: it would hide requests from the proxy",
        )),
        text if text.split('/').count() <= 2 && text.split('/').all(is_token) => Ok(()),
        _ => Err(Complaint::new("not a protocol token")),
    }
}

/// RFC 9110 section 5.5, without the leading and trailing blanks that would be lost.
pub(in crate::config) fn header_name(text: &str) -> Result<(), Complaint> {
    if is_token(text) {
        return Ok(());
    }
    let complaint = Complaint::new("not the name of a header");
    Err(match text.strip_suffix(':').filter(|name| is_token(name)) {
        Some(name) => complaint.suggest(name),
        None => complaint,
    })
}

pub(in crate::config) fn header_value(text: &str) -> Result<(), Complaint> {
    if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\t') {
        return Err(Complaint::new(format!(
            "{} cannot be in a value",
            quote(&c.to_string())
        )));
    }
    if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return Err(Complaint::new(
            "blanks at the beginning and the end are not part of a value",
        ));
    }
    Ok(())
}

/// `limit.by`.
pub(in crate::config) fn limit_key(text: &str) -> Result<LimitKey, Complaint> {
    match text.split_once(':') {
        None if text == "client-ip" => Ok(LimitKey::ClientIp),
        None if text == "route" => Ok(LimitKey::Route),
        Some(("header", name)) if is_token(name) => Ok(LimitKey::Header(name.to_ascii_lowercase())),
        Some(("header", _)) => Err(Complaint::new(
            "the name behind the colon is missing or not valid",
        )),
        _ => {
            let complaint = Complaint::new("not something that can be limited");
            let words = ["client-ip", "header:NAME", "route"];
            Err(match closest(text, words.into_iter()) {
                Some(word) => complaint.help(format!("did you mean \"{word}\"?")),
                None => complaint.help(format!("there are {}", words.join(", "))),
            })
        }
    }
}

pub(in crate::config) fn hash_key(text: &str) -> Result<HashKey, Complaint> {
    let named = |name: &str, key: fn(String) -> HashKey| match is_token(name) {
        true => Ok(key(name.to_owned())),
        false => Err(Complaint::new(
            "the name behind the colon is missing or not valid",
        )),
    };
    match text.split_once(':') {
        None if text == "client-ip" => Ok(HashKey::ClientIp),
        None if text == "path" => Ok(HashKey::Path),
        Some(("header", name)) => named(&name.to_ascii_lowercase(), HashKey::Header),
        Some(("cookie", name)) => named(name, HashKey::Cookie),
        Some(("query", "")) => Err(Complaint::new(
            "the name behind the colon is missing or not valid",
        )),
        Some(("query", name)) => Ok(HashKey::Query(name.to_owned())),
        _ => {
            let complaint = Complaint::new("not something that can be hashed");
            let words = [
                "client-ip",
                "path",
                "header:NAME",
                "cookie:NAME",
                "query:NAME",
            ];
            Err(match closest(text, words.into_iter()) {
                Some(word) => complaint.help(format!("did you mean \"{word}\"?")),
                None => complaint
                    .help("there are client-ip, path, header:NAME, cookie:NAME and query:NAME"),
            })
        }
    }
}

/// What decides about a `split`.
pub(in crate::config) fn split_key(text: &str) -> Result<SplitKey, Complaint> {
    match hash_key(text) {
        Ok(HashKey::ClientIp) => Ok(SplitKey::ClientIp),
        Ok(HashKey::Header(name)) => Ok(SplitKey::Header(name)),
        Ok(HashKey::Cookie(name)) => Ok(SplitKey::Cookie(name)),
        Ok(HashKey::Path | HashKey::Query(_)) | Err(_) => {
            let complaint = Complaint::new("not something that a split can go by");
            Err(complaint.help("there are client-ip, header:NAME and cookie:NAME"))
        }
    }
}

/// RFC 6265 section 4.1.1.
pub(in crate::config) fn cookie_name(text: &str) -> Result<(), Complaint> {
    match is_token(text) && text.len() <= 64 {
        true => Ok(()),
        false => Err(Complaint::new(
            "a cookie's name is a token of at most 64 characters: letters, digits, `-` and `_`",
        )),
    }
}

/// RFC 6265 section 4.1.1.
pub(in crate::config) fn cookie_path(text: &str) -> Result<(), Complaint> {
    let allowed = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    match text.starts_with('/') && text.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Complaint::new(
            "a cookie's path begins with `/` and has no `;`",
        )),
    }
}

/// RFC 9110 section 8.3.1.
pub(in crate::config) fn media_type(text: &str) -> Result<(), Complaint> {
    header_value(text)?;
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    match essence.split_once('/') {
        Some((kind, sort)) if is_token(kind) && is_token(sort) && text.is_ascii() => Ok(()),
        _ => Err(Complaint::new("a media type is a type, `/` and a subtype")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_without_more() {
        assert_eq!(
            host_pattern("API.Example.org"),
            Ok(HostPattern::Exact("api.example.org".into()))
        );
        assert_eq!(
            host_pattern("*.example.org"),
            Ok(HostPattern::Wildcard("example.org".into()))
        );
        assert_eq!(
            host_pattern("[::1]"),
            Ok(HostPattern::Exact("[::1]".into()))
        );
        let help = |text| host_pattern(text).unwrap_err().help.unwrap_or_default();
        assert_eq!(help("https://a.b/c"), "write \"a.b\"");
        assert_eq!(help("a.b:80"), "write \"a.b\"");
        assert_eq!(help("*.a.b:80"), "write \"*.a.b\"");
        for text in ["", "*", "a*b", "*.", "a..b", "caf\u{e9}.org", "a b"] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_may_have_a_port() {
        for text in ["a", "a.b:80", "[::1]", "[::1]:80", "10.0.0.1:9"] {
            assert!(host_and_port(text).is_ok(), "{text}");
        }
        for text in [
            "", ":80", "a:", "a:+1", "a:65536", "a:b:1", "::1", "a b", "a/b", "[::1]x",
        ] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn levels_are_not_taken_for_modules() {
        assert!(log_level("info").is_ok());
        assert!(log_level("info,evenkeel::upstream=debug").is_ok());
        assert!(
            log_level("inof")
                .unwrap_err()
                .help
                .unwrap()
                .contains("info")
        );
        assert!(log_level("verbose").is_err());
        assert!(log_level("a=b=c").is_err());
    }

    #[test]
    fn hash_keys() {
        assert_eq!(
            hash_key("header:X-User"),
            Ok(HashKey::Header("x-user".into()))
        );
        assert_eq!(hash_key("cookie:Id"), Ok(HashKey::Cookie("Id".into())));
        assert!(hash_key("cookie:").is_err());
        assert!(hash_key("ip").is_err());
    }

    #[test]
    fn methods_are_upper_case() {
        assert_eq!(
            method("get").unwrap_err().help.as_deref(),
            Some("write \"GET\"")
        );
        assert!(method("PURGE").is_ok());
        assert!(method("TRACE").is_err());
    }
}
