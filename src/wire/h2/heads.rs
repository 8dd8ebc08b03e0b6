//! Heads between `h2` and everything above the wire.
//!
//! A request looks above as one from HTTP/1.1 does: `:authority` is `Host`, `:path` the target,
//! cookie crumbs are one field again (RFC 9113 section 8.2.3). What `http`'s types and `h2` let
//! through and HTTP/1 would read in another way is refused here, never repaired: it would be
//! written into HTTP/1 behind us (CVE-2021-39240 to -39242).

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use crate::config::model::UnderscoreHeaders;
use crate::message::{Fields, Known, KnownSet, Method, RequestHead, ResponseHead, Version};
use crate::wire::h1::date;
use crate::wire::h1::field_lines::is_token;
use crate::wire::h1::framing::{FRAMING_TRAILERS, forbidden_trailer, number};
use crate::wire::{Limits, RefusalReason};

/// Of a connection of HTTP/1: an error in HTTP/2 (RFC 9113 section 8.2.2).
const OF_CONNECTION: KnownSet = KnownSet::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::Http2Settings,
]);

/// Of a trailer section.
const MAX_TRAILERS: usize = 64;
const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// Why a head is refused, with what could be read of it.
pub(super) struct Malformed {
    pub(super) reason: RefusalReason,
    pub(super) detail: &'static str,
    pub(super) head: RequestHead,
}

type Fault = (RefusalReason, &'static str);

fn bad<T>(detail: &'static str) -> Result<T, Fault> {
    Err((RefusalReason::BadRequest, detail))
}

/// A request's head as it is above the wire.
pub(super) fn request(
    parts: &http::request::Parts,
    limits: &Limits,
) -> Result<RequestHead, Box<Malformed>> {
    let method = Method::from_token(parts.method.as_str().as_bytes());
    let mut head = RequestHead::new(method, Version::H2, target(parts));
    match fill(&mut head, parts, limits) {
        Ok(()) => Ok(head),
        Err((reason, detail)) => Err(Box::new(Malformed {
            reason,
            detail,
            head,
        })),
    }
}

/// `:path`, or what CONNECT asks for.
fn target(parts: &http::request::Parts) -> &[u8] {
    match (parts.uri.path_and_query(), parts.uri.authority()) {
        (Some(path), _) => path.as_str().as_bytes(),
        (None, Some(authority)) => authority.as_str().as_bytes(),
        (None, None) => b"",
    }
}

fn fill(
    head: &mut RequestHead,
    parts: &http::request::Parts,
    limits: &Limits,
) -> Result<(), Fault> {
    let plain_connect =
        head.method == Method::Connect && parts.extensions.get::<h2::ext::Protocol>().is_none();
    if !plain_connect {
        check_target(head)?;
        check_scheme(parts)?;
    }
    check_protocol(parts)?;
    if let Some(host) = host(parts)? {
        head.fields.append(Known::Host, host);
    }
    fields(&mut head.fields, &parts.headers, limits)?;
    let bytes = head.target().len() + measure(&parts.headers);
    if bytes > limits.max_header_bytes {
        let reason = RefusalReason::HeaderTooLarge;
        return Err((reason, "the request head is too large"));
    }
    Ok(())
}

fn check_target(head: &RequestHead) -> Result<(), Fault> {
    let target = head.target();
    if target.iter().any(|&byte| byte <= b' ' || byte >= 0x7f) {
        return bad("the path has white space, control bytes or bytes beyond ASCII");
    }
    let asterisk = target == b"*" && head.method == Method::Options;
    if !target.starts_with(b"/") && !asterisk {
        return bad("the path does not begin with a slash");
    }
    Ok(())
}

fn check_scheme(parts: &http::request::Parts) -> Result<(), Fault> {
    match parts.uri.scheme_str() {
        None | Some("http" | "https") => Ok(()),
        Some(_) => bad("the scheme is neither http nor https"),
    }
}

/// What an extended CONNECT asks for becomes `Upgrade`, a token (RFC 9110 section 7.8); what follows
/// it is no content, whose length could be said (section 9.3.6).
fn check_protocol(parts: &http::request::Parts) -> Result<(), Fault> {
    let Some(protocol) = parts.extensions.get::<h2::ext::Protocol>() else {
        return Ok(());
    };
    if !is_token(protocol.as_str().as_bytes()) {
        return bad("the protocol to connect to is no token");
    }
    if parts.headers.contains_key(http::header::CONTENT_LENGTH) {
        return bad("Content-Length in a CONNECT");
    }
    Ok(())
}

/// Where the request goes to: `:authority`, which `Host` may repeat and not contradict (RFC 9113
/// section 8.3.1). More than one `Host` is refused above, and none at all.
fn host(parts: &http::request::Parts) -> Result<Option<&[u8]>, Fault> {
    let authority = parts.uri.authority().map(|name| name.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(http::header::HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return bad("more than one Host");
    }
    if authority.is_some_and(|name| memchr::memchr(b'@', name).is_some()) {
        return bad("the authority has user information");
    }
    match (authority, host) {
        (Some(authority), Some(host)) if authority != host => {
            bad("the authority and Host are not the same")
        }
        (Some(host), _) | (None, Some(host)) => Ok(Some(host)),
        (None, None) => Ok(None),
    }
}

fn fields(fields: &mut Fields, headers: &HeaderMap, limits: &Limits) -> Result<(), Fault> {
    let mut crumbs = Vec::new();
    let mut count = 0;
    for (name, value) in headers {
        let value = value.as_bytes();
        check_value(value)?;
        if name == http::header::HOST {
            continue;
        }
        if name == http::header::COOKIE {
            if !crumbs.is_empty() {
                crumbs.extend_from_slice(b"; ");
            }
            crumbs.extend_from_slice(value);
            continue;
        }
        count += 1;
        if allowed(name, limits.underscore_headers)? {
            fields.append_text(name.as_str(), value);
        }
    }
    if headers.contains_key(http::header::COOKIE) {
        fields.append(Known::Cookie, &crumbs);
        count += 1;
    }
    if count > limits.max_headers {
        let reason = RefusalReason::HeaderTooLarge;
        return Err((reason, "too many header fields"));
    }
    if fields.contains_any(OF_CONNECTION) {
        return bad("a field of an HTTP/1 connection");
    }
    if fields.count(Known::ContentLength) > 1 {
        return bad("more than one Content-Length");
    }
    // The library takes an empty one for 0 (CVE-2023-40225).
    match fields.get(Known::ContentLength).map(number) {
        Some(None) => bad("Content-Length is not a number"),
        _ => Ok(()),
    }
}

/// Controls are refused by the library.
fn check_value(value: &[u8]) -> Result<(), Fault> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) {
        return bad("white space around a header field's value");
    }
    Ok(())
}

/// Whether a name that may have an underscore goes on.
fn allowed(name: &HeaderName, underscores: UnderscoreHeaders) -> Result<bool, Fault> {
    match underscores {
        UnderscoreHeaders::Allow => Ok(true),
        _ if memchr::memchr(b'_', name.as_str().as_bytes()).is_none() => Ok(true),
        UnderscoreHeaders::Remove => Ok(false),
        UnderscoreHeaders::Reject => bad("a header field's name has an underscore"),
    }
}

/// RFC 9113 section 6.5.2: 32 for each field, so that many small ones are not for free.
fn measure(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// A request's trailers; what frames or routes is refused as it is in HTTP/1.
pub(super) fn request_trailers(trailers: &HeaderMap) -> Result<Fields, &'static str> {
    // As in HTTP/1; the library passes over what is beyond its own limit.
    if trailers.len() > MAX_TRAILERS || measure(trailers) > MAX_TRAILER_BYTES {
        return Err("the trailer section is too large");
    }
    let mut fields = Fields::new();
    for (name, value) in trailers {
        if check_value(value.as_bytes()).is_err() {
            return Err("white space around a trailer field's value");
        }
        fields.append_text(name.as_str(), value.as_bytes());
    }
    if fields.contains_any(FRAMING_TRAILERS) {
        return Err("a trailer field that frames or routes a message");
    }
    fields.retain(|known, name| !forbidden_trailer(known, name));
    Ok(fields)
}

/// What an answer's head says about its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Length(u64),
    /// As the server said: HEAD and 304.
    AsReceived,
    Nothing,
}

/// A final answer.
pub(super) fn response(head: &ResponseHead, declared: Declared) -> Option<http::Response<()>> {
    let mut response = bare(head, declared == Declared::AsReceived)?;
    let headers = response.headers_mut();
    if let Declared::Length(length) = declared {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !headers.contains_key(http::header::DATE)
        && let Ok(date) = HeaderValue::from_bytes(&date::value())
    {
        headers.insert(http::header::DATE, date);
    }
    Some(response)
}

/// An interim answer; it has no body, whatever its fields say (RFC 9110 section 15.2).
pub(super) fn interim(head: &ResponseHead) -> Option<http::Response<()>> {
    bare(head, false)
}

fn bare(head: &ResponseHead, with_length: bool) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    *response.headers_mut() = map(&head.fields, with_length);
    Some(response)
}

/// An answer's trailers.
pub(super) fn trailers(fields: &Fields) -> HeaderMap {
    map(fields, false)
}

/// Without what is of a connection; a field that HTTP/2 cannot carry is left out.
fn map(fields: &Fields, with_length: bool) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len() + 2);
    for (known, name, value) in fields.iter_known() {
        let of_connection = known.is_some_and(|known| {
            OF_CONNECTION.contains(known) || (known == Known::ContentLength && !with_length)
        });
        if of_connection {
            continue;
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_header_bytes: 1000,
            max_headers: 5,
            max_requests: 0,
            underscore_headers: UnderscoreHeaders::Remove,
            connection_buffer: 128 << 10,
            half_close: false,
            http1: true,
            h2: true,
            max_concurrent_streams: 128,
            h2_stream_window: 256 << 10,
            h2_connection_window: 1 << 20,
        }
    }

    fn parts(uri: &str, fields: &[(&str, &str)]) -> http::request::Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn refused(uri: &str, fields: &[(&str, &str)]) -> Option<(RefusalReason, &'static str)> {
        let refused = request(&parts(uri, fields), &limits()).err()?;
        Some((refused.reason, refused.detail))
    }

    #[test]
    fn extended_connect_asks_for_a_token_and_has_no_content() {
        type Row<'a> = (&'static str, &'a [(&'a str, &'a str)], bool);
        let rows: [Row<'_>; 6] = [
            ("websocket", &[], true),
            ("connect-udp", &[], true),
            ("websocket\r\nx: y", &[], false),
            ("web socket", &[], false),
            ("", &[], false),
            ("websocket", &[("content-length", "5")], false),
        ];
        for (protocol, fields, fine) in rows {
            let mut parts = parts("http://a/", fields);
            parts.method = http::Method::CONNECT;
            parts
                .extensions
                .insert(h2::ext::Protocol::from_static(protocol));
            let refused = request(&parts, &limits()).err();
            assert_eq!(refused.is_none(), fine, "{protocol:?} {fields:?}");
        }
    }

    #[test]
    fn authority_is_the_host_and_comes_first() {
        let head = request(
            &parts("http://h:1/a?b", &[("x", "1"), ("host", "h:1")]),
            &limits(),
        );
        let head = head.unwrap_or_else(|refused| panic!("{}", refused.detail));
        assert_eq!((head.target(), head.version), (&b"/a?b"[..], Version::H2));
        let lines: Vec<_> = head.fields.iter().collect();
        assert_eq!(lines, [(&b"Host"[..], &b"h:1"[..]), (b"x", b"1")]);
    }

    #[test]
    fn crumbs_are_one_cookie_again() {
        let crumbs = [
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2"),
            ("cookie", "c"),
        ];
        let head = request(&parts("http://h/", &crumbs), &limits());
        let head = head.unwrap_or_else(|refused| panic!("{}", refused.detail));
        let cookies: Vec<_> = head.fields.values(Known::Cookie).collect();
        assert_eq!(cookies, [b"a=1; b=2; c"]);
    }

    #[test]
    fn what_two_readers_read_differently_is_refused() {
        use RefusalReason::{BadRequest, HeaderTooLarge};
        let long = "x".repeat(1000);
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], RefusalReason);
        let table: &[Row<'_>] = &[
            ("http://a/", &[("host", "b")], BadRequest),
            ("http://a/", &[("host", "a"), ("host", "a")], BadRequest),
            ("http://u@a/", &[], BadRequest),
            ("ftp://a/", &[], BadRequest),
            ("http://a/", &[("x", " y")], BadRequest),
            ("http://a/", &[("x", "y\t")], BadRequest),
            ("http://a/", &[("upgrade", "h2c")], BadRequest),
            ("http://a/", &[("http2-settings", "")], BadRequest),
            (
                "http://a/",
                &[("content-length", "1"), ("content-length", "1")],
                BadRequest,
            ),
            ("http://a/", &[("x", &long)], HeaderTooLarge),
            (
                "http://a/",
                &[
                    ("a", ""),
                    ("b", ""),
                    ("c", ""),
                    ("d", ""),
                    ("e", ""),
                    ("f", ""),
                ],
                HeaderTooLarge,
            ),
            ("*", &[("host", "a")], BadRequest),
        ];
        for (uri, fields, reason) in table {
            let refused = refused(uri, fields);
            assert_eq!(
                refused.map(|refused| refused.0),
                Some(*reason),
                "{uri} {fields:?}"
            );
        }
    }

    #[test]
    fn answers_leave_the_connection_behind_and_have_a_date() {
        let mut head = ResponseHead::new(200);
        head.fields.append_text("Connection", b"close");
        head.fields.append_text("X-Mixed", b"Case");
        head.fields.append_text("Content-Length", b"7");
        let response = response(&head, Declared::Length(3)).expect("it can be carried");
        let headers = response.headers();
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["x-mixed"], "Case");
        assert_eq!(headers["content-length"], "3");
        assert!(headers.contains_key("date"));
    }

    #[test]
    fn trailers_that_frame_are_refused_and_others_dropped() {
        let mut map = HeaderMap::new();
        map.append("x-sum", HeaderValue::from_static("1"));
        map.append("x-forwarded-for", HeaderValue::from_static("1"));
        let fields = request_trailers(&map).expect("they are fine");
        let lines: Vec<_> = fields.iter().collect();
        assert_eq!(lines, [(&b"x-sum"[..], &b"1"[..])]);
        map.append("content-length", HeaderValue::from_static("1"));
        assert!(request_trailers(&map).is_err());
    }
}
