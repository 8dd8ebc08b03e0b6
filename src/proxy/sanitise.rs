//! From a head as received to one that everybody behind us reads as we do, or a refusal.
//!
//! What can be read in two ways is refused, not repaired: two Hosts, a Host that is no host, user
//! information, a fragment, a path that another reader would resolve to somewhere else. What is
//! left is brought into one form here, once, and everything after works on the result:
//!
//! - the target is origin-form (or `*`) with its path in normal form; the query is never touched;
//! - the authority of an absolute-form target has replaced `Host` (RFC 9112 section 3.2.2);
//! - there is exactly one valid `Host`, or none in HTTP/1.0;
//! - `Expect` is `100-continue` or absent, `Max-Forwards` of OPTIONS is counted down.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::message::{Known, Method, RequestHead, Version};
use crate::router::path;
use crate::util::scan::split_piece;

/// Why a request is refused before it is routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 400; one sentence says why.
    BadRequest(&'static str),
    /// 405: CONNECT and TRACE.
    MethodNotAllowed,
    /// 417.
    ExpectationFailed,
}

/// Host without port, as routes are compared with it.
#[derive(Debug)]
enum HostName {
    /// So many bytes from the beginning of the field: it came in that form.
    Received(usize),
    Own(Box<[u8]>),
}

/// Longer than any name in the DNS (RFC 1035 section 2.3.4).
const MAX_HOST_BYTES: usize = 255;

/// What sanitising has learnt, so that nothing is parsed twice.
#[derive(Debug)]
pub struct Sanitised {
    host: Option<HostName>,
    target: Target,
    /// `Max-Forwards: 0` on OPTIONS: answered by us with 200, goes nowhere.
    pub answer_here: bool,
}

#[derive(Debug)]
struct Target {
    /// In normal form, where that differs from what was received.
    normal: Option<Box<[u8]>>,
    /// Bytes of the path in the normal form; a `?` and the query follow.
    path_bytes: usize,
    /// Where the received path begins; `None` where none was received.
    received_path: Option<usize>,
}

impl Sanitised {
    /// For routing: lower case, without port and trailing dot, IPv6 in brackets. `None`: HTTP/1.0
    /// without Host. `head` is the one that was sanitised, as for all that follow.
    pub fn host<'a>(&'a self, head: &'a RequestHead) -> Option<&'a [u8]> {
        match self.host.as_ref()? {
            HostName::Received(bytes) => head.fields.get(Known::Host)?.get(..*bytes),
            HostName::Own(name) => Some(name),
        }
    }

    /// True for HTTP/1.0 without Host.
    pub fn host_is_missing(&self) -> bool {
        self.host.is_none()
    }

    /// The target in origin-form (or `*`) with its path in normal form: what goes upstream unless
    /// the route says `forward = "raw"`.
    pub fn target<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        self.target.normal.as_deref().unwrap_or(head.target())
    }

    /// The same where it is another than the one received.
    pub fn rewritten_target(&self) -> Option<&[u8]> {
        self.target.normal.as_deref()
    }

    /// In normal form, or `*`.
    pub fn path<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        &self.target(head)[..self.target.path_bytes]
    }

    /// Without its `?`; `None` where there was no `?`.
    pub fn query<'a>(&'a self, head: &'a RequestHead) -> Option<&'a [u8]> {
        self.target(head).get(self.target.path_bytes + 1..)
    }

    /// The target for a route with `forward = "raw"`: path and query as received, slashes and
    /// escapes untouched, in origin-form.
    ///
    /// # Errors
    ///
    /// 400 where the path has dot segments in any spelling: the server would resolve what was
    /// routed by its resolved form.
    pub fn raw_target<'a>(&'a self, head: &'a RequestHead) -> Result<&'a [u8], Refused> {
        let Some(start) = self.target.received_path else {
            return Ok(self.target(head));
        };
        let raw = &head.target()[start..];
        let path = raw.split(|&byte| byte == b'?').next().unwrap_or_default();
        if self.target.normal.is_some() && path::has_dot_segments(path) {
            return Err(Refused::BadRequest("the path has dot segments"));
        }
        Ok(raw)
    }
}

/// Checks `head` and repairs its fields in place; the target is for the caller to set, who knows
/// the route's `forward`. Names with underscores are the wire's to deal with.
///
/// # Errors
///
/// The first reason to refuse the request; what was changed until then does not matter.
pub fn sanitise(head: &mut RequestHead) -> Result<Sanitised, Refused> {
    if matches!(head.method, Method::Connect | Method::Trace) {
        return Err(Refused::MethodNotAllowed);
    }
    let mut host = host(head)?;
    let (target, authority) = split_target(head)?;
    if let Some((authority, name)) = authority {
        head.fields.set(Known::Host, &authority);
        host = Some(name);
    }
    expectation(head)?;
    Ok(Sanitised {
        host,
        target,
        answer_here: count_forwards(head)?,
    })
}

/// Exactly one valid Host; HTTP/1.0 may have none (RFC 9112 section 3.2).
fn host(head: &RequestHead) -> Result<Option<HostName>, Refused> {
    let mut values = head.fields.values(Known::Host);
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err(Refused::BadRequest("more than one Host")),
        (Some(value), None) => match host_name(value) {
            Some(name) => Ok(Some(name)),
            None => Err(Refused::BadRequest("the Host is not valid")),
        },
        (None, _) if head.version == Version::Http10 => Ok(None),
        (None, _) => Err(Refused::BadRequest("no Host")),
    }
}

/// Host of `host [":" port]`, in lower case without trailing dot.
///
/// One pass, and no copy of what is in that form already. Stricter than RFC 3986: escapes and sub-delimiters in names are refused, because nobody has
/// such hosts and software disagrees about them.
fn host_name(authority: &[u8]) -> Option<HostName> {
    if let Some(rest) = authority.strip_prefix(b"[") {
        let (address, port) = split_once(rest, b']')?;
        let port = if port.is_empty() {
            Some(port)
        } else {
            port.strip_prefix(b":")
        };
        let address: Ipv6Addr = std::str::from_utf8(address).ok()?.parse().ok()?;
        let name = || format!("[{address}]").into_bytes().into();
        return is_port(port?).then(|| HostName::Own(name()));
    }
    // As if behind a dot: a name does not begin with one.
    let (mut rest, mut end, mut behind_dot, mut upper) = (authority, 0, 1, 0);
    while !rest.is_empty() {
        let (lanes, length, behind) = split_piece(rest);
        let colon = lanes.equal(b':');
        let length = length.min(colon.trailing_zeros() as usize);
        let name = (1 << length) - 1;
        let dots = lanes.equal(b'.') & name;
        let fine = lanes.plain() | lanes.equal(b'_') | lanes.equal(b'~') | dots;
        if name & !fine != 0 || dots & (dots << 1 | behind_dot) != 0 {
            return None; // No byte of a name, or an empty label.
        }
        upper |= lanes.upper() & name;
        end += length;
        if colon != 0 {
            break;
        }
        behind_dot = dots >> 15;
        rest = behind;
    }
    // Nothing but dots was refused above.
    let name = authority[..end]
        .strip_suffix(b".")
        .unwrap_or(&authority[..end]);
    let port = authority.get(end + 1..).unwrap_or_default();
    if name.is_empty() || name.len() > MAX_HOST_BYTES || !is_port(port) {
        return None;
    }
    Some(match upper {
        0 => HostName::Received(name.len()),
        _ => HostName::Own(name.to_ascii_lowercase().into()),
    })
}

/// Digits, possibly none (RFC 3986 section 3.2.3), up to 65535.
fn is_port(text: &[u8]) -> bool {
    let mut port = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        port = port * 10 + u32::from(digit);
        if digit > 9 || port > 65_535 {
            return false;
        }
    }
    true
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The authority of an absolute-form target, as sent and for routing.
type Authority = (Vec<u8>, HostName);

fn split_target(head: &RequestHead) -> Result<(Target, Option<Authority>), Refused> {
    let received = head.target();
    if let Some(path_bytes) = path::normal_prefix(received)
        && is_query(&received[path_bytes..])
    {
        let target = Target {
            normal: None,
            path_bytes,
            received_path: Some(0),
        };
        return Ok((target, None));
    }
    if memchr::memchr(b'#', received).is_some() {
        return Err(Refused::BadRequest("the target has a fragment"));
    }
    if received.starts_with(b"/") {
        return Ok((normal_target(received, 0)?, None));
    }
    if received == b"*" && head.method == Method::Options {
        return Ok((asterisk(None), None));
    }
    let (start, authority) = absolute_form(received).ok_or(Refused::BadRequest(
        "the target has no form that is allowed here",
    ))?;
    let name = host_name(authority).ok_or(Refused::BadRequest(
        "the authority of the target is not valid",
    ))?;
    // RFC 9112 section 3.2.4: `OPTIONS http://host` asks the host as a whole.
    let target = if start == received.len() && head.method == Method::Options {
        asterisk(Some(b"*"))
    } else {
        normal_target(received, start)?
    };
    Ok((target, Some((authority.to_vec(), name))))
}

fn asterisk(normal: Option<&[u8]>) -> Target {
    Target {
        normal: normal.map(Into::into),
        path_bytes: 1,
        received_path: None,
    }
}

/// Where the path of an absolute-form target begins, and its authority.
fn absolute_form(target: &[u8]) -> Option<(usize, &[u8])> {
    let is_scheme = |scheme: &&[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let scheme: &[u8] = [&b"http://"[..], b"https://"].into_iter().find(is_scheme)?;
    let rest = &target[scheme.len()..];
    let length = rest
        .iter()
        .position(|byte| b"/?".contains(byte))
        .unwrap_or(rest.len());
    Some((scheme.len() + length, &rest[..length]))
}

/// The target whose path begins at `start`, where it may be empty in absolute-form.
fn normal_target(received: &[u8], start: usize) -> Result<Target, Refused> {
    let received = &received[start..];
    let path_bytes = memchr::memchr(b'?', received).unwrap_or(received.len());
    let (path, query) = received.split_at(path_bytes);
    if !is_query(query) {
        return Err(Refused::BadRequest(
            "the query holds a control byte or a space",
        ));
    }
    let normal = if path.is_empty() {
        Cow::Borrowed(&b"/"[..])
    } else {
        path::normalize(path).map_err(bad_path)?
    };
    let unchanged = start == 0 && matches!(normal, Cow::Borrowed(_));
    Ok(Target {
        path_bytes: normal.len(),
        received_path: (!path.is_empty()).then_some(start),
        normal: (!unchanged).then(|| [&*normal, query].concat().into()),
    })
}

/// No plain control bytes and spaces, which end a request line early for some, and no fragment. No
/// early end: it goes sixteen bytes at a time.
fn is_query(query: &[u8]) -> bool {
    !query.iter().fold(false, |bad, &byte| {
        bad | (byte <= b' ') | (byte == 0x7F) | (byte == b'#')
    })
}

fn bad_path(error: path::PathError) -> Refused {
    use path::PathError;

    Refused::BadRequest(match error {
        PathError::NotAbsolute => "the path does not begin with '/'",
        PathError::AboveRoot => "the path climbs above the root",
        PathError::HiddenDotSegment => "a dot segment hides behind an escaped slash",
        PathError::DotSegmentParameter => "a dot segment carries a path parameter",
        PathError::Control => "the path holds a control byte",
        PathError::Space => "the path holds a space",
        PathError::Backslash => "the path holds a backslash",
        PathError::BrokenEscape => "the path holds a broken percent escape",
        PathError::Fragment => "the path holds a '#'",
        PathError::Query => "the path holds a '?'",
    })
}

/// Only `100-continue`, once and as it is: obfuscated ones desynchronise (RFC 9110 section
/// 10.1.1). HTTP/1.0 does not know it, so there it is dropped.
fn expectation(head: &mut RequestHead) -> Result<(), Refused> {
    let Some(value) = head.fields.get(Known::Expect) else {
        return Ok(());
    };
    if !value.eq_ignore_ascii_case(b"100-continue") || head.fields.count(Known::Expect) > 1 {
        return Err(Refused::ExpectationFailed);
    }
    if head.version == Version::Http10 {
        head.fields.remove(Known::Expect);
    }
    Ok(())
}

/// Counts `Max-Forwards` of OPTIONS down; true at 0 (RFC 9110 section 7.6.2).
fn count_forwards(head: &mut RequestHead) -> Result<bool, Refused> {
    if head.method != Method::Options {
        return Ok(false);
    }
    let Some(value) = head.fields.get(Known::MaxForwards) else {
        return Ok(false);
    };
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if !digits || head.fields.count(Known::MaxForwards) > 1 {
        return Err(Refused::BadRequest("Max-Forwards is not one number"));
    }
    let digit = |left: u64, digit: &u8| {
        left.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    };
    let left = value.iter().fold(0, digit);
    if left == 0 {
        return Ok(true);
    }
    let less = itoa::Buffer::new().format(left - 1).to_owned();
    head.fields.set(Known::MaxForwards, less.as_bytes());
    Ok(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(method: &str, target: &[u8], fields: &[(&str, &str)]) -> RequestHead {
        let method = Method::from_token(method.as_bytes());
        let mut head = RequestHead::new(method, Version::Http11, target);
        for (name, value) in fields {
            head.fields.append_text(name, value.as_bytes());
        }
        head
    }

    /// What goes upstream as target and Host, and the host for routing.
    fn outcome(
        method: &str,
        target: &str,
        host: &str,
    ) -> Result<(String, String, String), Refused> {
        let mut head = head(method, target.as_bytes(), &[("Host", host)]);
        let sanitised = sanitise(&mut head)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(head.fields.count(Known::Host), 1);
        Ok((
            text(sanitised.target(&head)),
            text(head.fields.get(Known::Host).unwrap_or_default()),
            text(sanitised.host(&head).unwrap_or_default()),
        ))
    }

    fn is_bad_request(method: &str, target: &str, host: &str) -> bool {
        matches!(outcome(method, target, host), Err(Refused::BadRequest(_)))
    }

    #[test]
    fn path_and_query_are_taken_apart_once() {
        let mut head = head("GET", b"/a//b?x=/../%2e", &[("Host", "h")]);
        let sanitised = sanitise(&mut head).expect("a good request");
        assert_eq!(sanitised.path(&head), b"/a/b");
        assert_eq!(sanitised.query(&head), Some(&b"x=/../%2e"[..]), "untouched");
        assert_eq!(sanitised.target(&head), b"/a/b?x=/../%2e");
    }

    #[test]
    fn no_query_is_not_an_empty_query() {
        for (target, query) in [("/a", None), ("/a?", Some(&b""[..])), ("/a??", Some(b"?"))] {
            let mut head = head("GET", target.as_bytes(), &[("Host", "h")]);
            let sanitised = sanitise(&mut head).expect("a good request");
            assert_eq!(sanitised.query(&head), query);
            assert_eq!(sanitised.target(&head), target.as_bytes());
        }
    }

    #[test]
    fn absolute_form_replaces_host_and_becomes_origin_form() {
        for (target, origin, host, name) in [
            ("http://a.example/x?y", "/x?y", "a.example", "a.example"),
            ("HTTP://A.Example:81", "/", "A.Example:81", "a.example"),
            ("https://a?b/c", "/?b/c", "a", "a"),
            ("http://[::1]:80/", "/", "[::1]:80", "[::1]"),
            ("http://a/../b/%2e%2e/c", "", "", ""),
            ("http://a/b/../c", "/c", "a", "a"),
        ] {
            let result = outcome("GET", target, "other");
            if origin.is_empty() {
                assert!(result.is_err(), "{target}");
                continue;
            }
            let expected = (origin.to_owned(), host.to_owned(), name.to_owned());
            assert_eq!(result, Ok(expected), "{target}");
        }
    }

    #[test]
    fn other_forms_of_target_are_refused() {
        for target in [
            "",
            "a",
            "*",
            "a:80",
            "www.example.org:443",
            "ftp://a/",
            "http:/a",
            "http:a",
            "http://",
            "http:///a",
            "http://u@a/",
            "http://u:p@a/",
            "http://a:b/",
            "http://a#b",
            "/a#b",
            "/a?b#c",
            "http://a b/",
            "/a b",
            "/a?b c",
            "/a?b\tc",
            "/a?\x7f",
            "//..",
            "/..",
            "http://a\\b/",
            "\\",
            "file:///etc/passwd",
            "http://a%2eb/",
            "http://a:65536/",
            "http://[::1/",
            "http://[a]/",
            "%2Fa",
            ".",
            "./a",
            "?a",
        ] {
            assert!(is_bad_request("GET", target, "h"), "{target:?}");
        }
    }

    #[test]
    fn asterisk_is_for_options_only() {
        let expected =
            |target: &str, host: &str| Ok((target.to_owned(), host.to_owned(), host.to_owned()));
        assert_eq!(outcome("OPTIONS", "*", "h"), expected("*", "h"));
        assert_eq!(outcome("OPTIONS", "http://a", "h"), expected("*", "a"));
        assert_eq!(outcome("OPTIONS", "http://a/", "h"), expected("/", "a"));
        assert_eq!(outcome("OPTIONS", "http://a?", "h"), expected("/?", "a"));
        assert!(is_bad_request("GET", "*", "h"));
        assert!(is_bad_request("OPTIONS", "*?", "h"));
    }

    #[test]
    fn connect_and_trace_are_not_allowed() {
        for (method, target) in [("CONNECT", "a:443"), ("TRACE", "/"), ("CONNECT", "/")] {
            assert_eq!(outcome(method, target, "h"), Err(Refused::MethodNotAllowed));
        }
    }

    #[test]
    fn host_for_routing_has_neither_port_nor_case_nor_trailing_dot() {
        for (host, name) in [
            ("api.Example.ORG", "api.example.org"),
            ("a:80", "a"),
            ("a:", "a"),
            ("a.:8080", "a"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[2001:DB8:0::1]:443", "[2001:db8::1]"),
            ("a_b-c.d~e", "a_b-c.d~e"),
        ] {
            let expected = ("/".to_owned(), host.to_owned(), name.to_owned());
            assert_eq!(
                outcome("GET", "/", host),
                Ok(expected),
                "{host} is sent as it came"
            );
        }
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        for host in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            ":80",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:+1",
            "a b",
            "a/b",
            "a/",
            "http://a",
            "u@a",
            "a@",
            "a?b",
            "a#b",
            "a\\b",
            "a,b",
            "a%41",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "[::1]80",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "é",
            "a\u{1}",
            "*",
            "a;b",
            "a=b",
            "a'",
        ] {
            assert!(is_bad_request("GET", "/", host), "{host:?}");
        }
        assert!(is_bad_request("GET", "/", &"a".repeat(256)));
        assert!(
            is_bad_request("GET", "http://good/", "bad host"),
            "even for absolute-form"
        );
    }

    #[test]
    fn exactly_one_host_and_none_only_in_http_1_0() {
        let bad = |result: Result<Sanitised, Refused>| {
            assert!(matches!(result, Err(Refused::BadRequest(_))));
        };
        bad(sanitise(&mut head("GET", b"/", &[])));
        bad(sanitise(&mut head("GET", b"http://a/", &[])));
        bad(sanitise(&mut head(
            "GET",
            b"/",
            &[("Host", "a"), ("host", "a")],
        )));
        let mut old = RequestHead::new(Method::Get, Version::Http10, b"/");
        let sanitised = sanitise(&mut old).expect("HTTP/1.0 may have no Host");
        assert_eq!(sanitised.host(&old), None);
        assert!(sanitised.host_is_missing());
        old.fields.append(Known::Host, b"a");
        old.fields.append(Known::Host, b"b");
        bad(sanitise(&mut old));
        let mut old = RequestHead::new(Method::Get, Version::Http10, b"http://a/b");
        let sanitised = sanitise(&mut old).expect("the target names the host");
        assert_eq!(sanitised.host(&old), Some(&b"a"[..]));
        assert_eq!(old.fields.get(Known::Host), Some(&b"a"[..]));
    }

    #[test]
    fn only_100_continue_may_be_expected() {
        let with = |version, values: &[&str]| {
            let mut head = RequestHead::new(Method::Post, version, b"/");
            head.fields.append(Known::Host, b"h");
            for value in values {
                head.fields.append(Known::Expect, value.as_bytes());
            }
            let result = sanitise(&mut head);
            result.map(|_| head.fields.contains(Known::Expect))
        };
        assert_eq!(with(Version::Http11, &["100-continue"]), Ok(true));
        assert_eq!(with(Version::Http11, &["100-Continue"]), Ok(true));
        assert_eq!(with(Version::Http10, &["100-continue"]), Ok(false));
        for values in [
            &["y 100-continue"][..],
            &["200-ok"],
            &[""],
            &["100-continue", "100-continue"],
            &["100-continue, 100-continue"],
            &["100-continue;a=b"],
        ] {
            let result = with(Version::Http11, values);
            assert_eq!(result, Err(Refused::ExpectationFailed), "{values:?}");
        }
    }

    #[test]
    fn max_forwards_counts_down_for_options_only() {
        let with = |method, value: &str| {
            let mut head = head(method, b"*", &[("Host", "h"), ("Max-Forwards", value)]);
            if method != "OPTIONS" {
                head = self::head(method, b"/", &[("Host", "h"), ("Max-Forwards", value)]);
            }
            let sanitised = sanitise(&mut head)?;
            let left = head.fields.get(Known::MaxForwards).unwrap_or_default();
            Ok((
                sanitised.answer_here,
                String::from_utf8_lossy(left).into_owned(),
            ))
        };
        assert_eq!(with("OPTIONS", "5"), Ok((false, "4".to_owned())));
        assert_eq!(with("OPTIONS", "0"), Ok((true, "0".to_owned())));
        assert_eq!(with("OPTIONS", "000"), Ok((true, "000".to_owned())));
        assert_eq!(with("GET", "0"), Ok((false, "0".to_owned())));
        let (nines, most) = ("9".repeat(40), (u64::MAX - 1).to_string());
        assert_eq!(with("OPTIONS", nines.as_str()), Ok((false, most)));
        for value in ["", "-1", "a", "+1", "1, 1"] {
            assert!(matches!(
                with("OPTIONS", value),
                Err(Refused::BadRequest(_))
            ));
        }
    }

    #[test]
    fn raw_target_is_what_was_received() {
        let raw = |target: &str| {
            let mut head = head("GET", target.as_bytes(), &[("Host", "h")]);
            let sanitised = sanitise(&mut head)?;
            let raw = sanitised.raw_target(&head)?;
            Ok(String::from_utf8_lossy(raw).into_owned())
        };
        assert_eq!(raw("/a//b%2f%61?x//y"), Ok("/a//b%2f%61?x//y".to_owned()));
        assert_eq!(raw("/plain?x/../y"), Ok("/plain?x/../y".to_owned()));
        assert_eq!(raw("http://a//b"), Ok("//b".to_owned()));
        assert_eq!(raw("http://a"), Ok("/".to_owned()));
        assert_eq!(raw("http://a?b"), Ok("/?b".to_owned()));
        for target in ["/a/../b", "/a/%2e/b", "/a/.", "http://a/./b"] {
            let refused: Result<String, Refused> = raw(target);
            assert!(matches!(refused, Err(Refused::BadRequest(_))), "{target}");
        }
    }

    proptest! {
        /// Against the rule as one reads it: labels between dots, and a port.
        #[test]
        fn names_are_judged_as_if_split_into_labels(
            host in "([a-c]{1,17}|[a-cA-C.:0-9_%@-]{0,12}){0,4}(:[0-9]{1,6})?",
        ) {
            let (name, port) = host.split_once(':').unwrap_or((&host, ""));
            let name = name.strip_suffix('.').unwrap_or(name);
            let in_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
            let good = name.split('.').all(|label| !label.is_empty() && label.bytes().all(in_label))
                && (port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
            let expected = good.then(|| name.to_ascii_lowercase().into_bytes());
            let judged = host_name(host.as_bytes()).map(|name| match name {
                HostName::Received(bytes) => host.as_bytes()[..bytes].to_vec(),
                HostName::Own(name) => name.into_vec(),
            });
            prop_assert_eq!(judged, expected);
        }

        #[test]
        fn nothing_from_outside_makes_it_panic(
            target in "(http://|/|)[ -~]{0,24}",
            host in "[ -~]{0,12}",
        ) {
            let mut head = head("OPTIONS", target.as_bytes(), &[("Host", &host)]);
            if let Ok(sanitised) = sanitise(&mut head) {
                let path = sanitised.path(&head);
                prop_assert!(path.starts_with(b"/") || path == b"*");
                let query = sanitised.query(&head).map(|query| [b"?", query].concat());
                let whole = [path, &query.unwrap_or_default()].concat();
                prop_assert_eq!(whole, sanitised.target(&head));
                if let Ok(raw) = sanitised.raw_target(&head) {
                    prop_assert!(raw.iter().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }
    }
}
