//! Heads over the edge: a request to pseudo-fields and a header map, an answer back.
//!
//! A request is what HTTP/1 would send, in other words (RFC 9113 section 8.3.1): `Host` is
//! `:authority`, fields of the connection stay here, names are lower case. An answer is refused
//! where the library lets pass what an HTTP/1 client could read differently.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, response};

use crate::message::{Fields, Known, KnownSet, Length, Method, RequestHead, ResponseHead, Version};

/// Fields of an answer's head; the same as for HTTP/1.
const MOST_FIELDS: usize = 256;

/// They speak of one connection (RFC 9113 section 8.2.2), or are said otherwise in HTTP/2.
const NOT_SENT: KnownSet = KnownSet::of(&[
    Known::Host,
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Te,
    Known::Upgrade,
    Known::Http2Settings,
    Known::ContentLength,
]);

/// What goes with a request beside its head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub secure: bool,
    pub length: Length,
    pub te_trailers: bool,
    /// Extended CONNECT to this protocol.
    pub protocol: Option<&'a str>,
}

/// A request as the library takes it. An error says what cannot be said in HTTP/2.
pub(super) fn request(head: &RequestHead, terms: Terms<'_>) -> Result<Request<()>, &'static str> {
    let mut request = Request::new(());
    *request.uri_mut() = uri(head, terms.secure)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = match &head.method {
        _ if terms.protocol.is_some() => http::Method::CONNECT,
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        other => http::Method::from_bytes(other.as_str().as_bytes())
            .map_err(|_| "the method is no token")?,
    };
    if let Some(protocol) = terms.protocol {
        let protocol = Protocol::from(protocol.to_ascii_lowercase().as_str());
        request.extensions_mut().insert(protocol);
    }
    let map = request.headers_mut();
    let skip = match terms.protocol {
        // RFC 8441 section 5: there is nothing to prove to a server of HTTP/2.
        Some(_) => NOT_SENT.with(Known::SecWebsocketKey),
        None => NOT_SENT,
    };
    fields(map, &head.fields, skip)?;
    if terms.te_trailers {
        map.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Length::Exact(length) = terms.length
        && terms.protocol.is_none()
        && (length > 0 || declares_empty(head))
    {
        map.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(request)
}

/// A body that is not there is said to be empty where the client said so, and where the method makes
/// a server wait for one (RFC 9110 section 8.6).
fn declares_empty(head: &RequestHead) -> bool {
    head.fields.contains(Known::ContentLength)
        || matches!(head.method, Method::Post | Method::Put | Method::Patch)
}

fn uri(head: &RequestHead, secure: bool) -> Result<Uri, &'static str> {
    let host = head.fields.get(Known::Host).unwrap_or_default();
    let authority =
        Authority::try_from(host).map_err(|_| "Host is nothing that :authority can say")?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path(head.outgoing_target())?);
    Uri::from_parts(parts).map_err(|_| "the target is nothing that :path can say")
}

/// The target byte by byte; what the library would not take is percent-encoded, which is the same to
/// whoever decodes it.
fn path(target: &[u8]) -> Result<PathAndQuery, &'static str> {
    let whole = |path: &PathAndQuery| path.as_str().as_bytes() == target;
    if let Ok(path) = PathAndQuery::try_from(target)
        && whole(&path)
    {
        return Ok(path);
    }
    let mut encoded = String::with_capacity(target.len() * 3);
    for &byte in target {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(HEX[usize::from(byte >> 4)]));
                encoded.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    PathAndQuery::try_from(encoded).map_err(|_| "the target is nothing that :path can say")
}

/// Copies fields with one allocation for all values.
fn fields(map: &mut HeaderMap, fields: &Fields, skip: KnownSet) -> Result<(), &'static str> {
    let (mut count, mut bytes) = (0, 0);
    for (_, _, value) in fields.iter_known() {
        count += 1;
        bytes += value.len();
    }
    map.try_reserve(count + 2).map_err(|_| "too many fields")?;
    let mut values = BytesMut::with_capacity(bytes);
    for (known, name, value) in fields.iter_known() {
        if known.is_some_and(|known| skip.contains(known)) {
            continue;
        }
        let name = header_name(known, name)?;
        values.extend_from_slice(value);
        let value: Bytes = values.split().freeze();
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| "a field value has a control byte")?;
        map.try_append(name, value).map_err(|_| "too many fields")?;
    }
    Ok(())
}

thread_local! {
    /// By the ids of [`Known`], as they were first needed: to find one by its text costs more than
    /// all else that a field does here.
    static NAMES: RefCell<Vec<Option<HeaderName>>> = const { RefCell::new(Vec::new()) };
}

fn header_name(known: Option<Known>, name: &[u8]) -> Result<HeaderName, &'static str> {
    let parsed = || HeaderName::from_bytes(name).map_err(|_| "a field name is no token");
    let Some(known) = known else { return parsed() };
    NAMES.with_borrow_mut(|names| {
        let index = known as usize;
        if names.len() <= index {
            names.resize(index + 1, None);
        }
        match names.get_mut(index) {
            Some(Some(name)) => Ok(name.clone()),
            Some(free) => Ok(free.insert(parsed()?).clone()),
            None => parsed(),
        }
    })
}

/// Trailers that may be sent; `None` where nothing is left of them.
pub(super) fn trailers_to_send(trailers: &Fields) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    // What cannot be said is left out as any trailer may be (RFC 9110 section 6.5.2).
    let _ = fields(&mut map, trailers, NOT_SENT);
    (!map.is_empty()).then_some(map)
}

/// `Expect: 100-continue` is there.
pub(super) fn expects_continue(head: &RequestHead) -> bool {
    head.fields.values(Known::Expect).any(|value| {
        value
            .split(|&byte| byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(b"100-continue"))
    })
}

/// An answer's head from what the library made of it.
pub(super) fn response(parts: &response::Parts) -> Result<ResponseHead, &'static str> {
    let mut head = ResponseHead::new(parts.status.as_u16());
    head.version = Version::H2;
    if parts.headers.len() > MOST_FIELDS {
        return Err("the answer has too many fields");
    }
    copy_fields(&parts.headers, &mut head.fields)?;
    Ok(head)
}

/// Trailers from what the library made of them.
pub(super) fn trailers(map: &HeaderMap) -> Result<Fields, &'static str> {
    let mut fields = Fields::new();
    if map.len() > MOST_FIELDS {
        return Err("the answer has too many trailers");
    }
    copy_fields(map, &mut fields)?;
    Ok(fields)
}

fn copy_fields(map: &HeaderMap, fields: &mut Fields) -> Result<(), &'static str> {
    for (name, value) in map {
        let value = value.as_bytes();
        let padded = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        // RFC 9113 section 8.2.1: malformed, and to some readers of HTTP/1 another value.
        if padded(value.first()) || padded(value.last()) {
            return Err("a field value has white space around it");
        }
        fields.append_text(name.as_str(), value);
    }
    Ok(())
}

/// The length of the body of a final answer, as its head says; the library holds the body to it.
pub(super) fn length(map: &HeaderMap) -> Result<Length, &'static str> {
    let mut values = map.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(Length::Unknown);
    };
    if values.next().is_some() {
        return Err("more than one Content-Length");
    }
    let digits = value
        .to_str()
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|text| text.parse().ok()) {
        // What servers count bodies with is signed: a longer one wraps there.
        Some(length) if length <= u64::MAX >> 1 => Ok(Length::Exact(length)),
        Some(_) => Err("Content-Length is larger than any body"),
        None => Err("Content-Length is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Terms<'_> = Terms {
        secure: false,
        length: Length::Exact(0),
        te_trailers: false,
        protocol: None,
    };

    fn head(method: Method, target: &str, lines: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(method, Version::Http11, target.as_bytes());
        for (name, value) in lines {
            head.fields.append_text(name, value.as_bytes());
        }
        head
    }

    fn lines(request: &Request<()>) -> Vec<(&str, &str)> {
        request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect()
    }

    #[test]
    fn a_request_says_in_pseudo_fields_what_http1_says_in_its_start_line() {
        let head = head(
            Method::Get,
            "/a?b=c",
            &[
                ("Host", "example.org:80"),
                ("X-Mixed-Case", "One"),
                ("Cookie", "a=1; b=2"),
                ("Connection", "keep-alive"),
                ("Transfer-Encoding", "chunked"),
                ("TE", "gzip"),
                ("Content-Length", "7"),
            ],
        );
        let terms = Terms {
            te_trailers: true,
            length: Length::Exact(7),
            ..PLAIN
        };
        let request = request(&head, terms).expect("can be said");
        assert_eq!(request.uri(), "http://example.org:80/a?b=c");
        assert_eq!(
            lines(&request),
            [
                ("x-mixed-case", "One"),
                ("cookie", "a=1; b=2"),
                ("te", "trailers"),
                ("content-length", "7"),
            ]
        );
    }

    #[test]
    fn every_target_arrives() {
        for (target, arrives) in [
            ("*", "*"),
            ("/", "/"),
            ("//x//y", "//x//y"),
            ("/a|b^c", "/a|b^c"),
            ("/a\\\"<>`{}", "/a%5C%22%3C%3E%60%7B%7D"),
            ("/a#b", "/a%23b"),
            ("/%zz?x=%", "/%zz?x=%"),
            ("/caf\u{e9}?q=\u{e9}", "/caf\u{e9}?q=\u{e9}"),
        ] {
            let head = head(Method::Options, target, &[("Host", "a")]);
            let request = request(&head, PLAIN).expect("can be said");
            let path = request.uri().path_and_query().expect("a path").as_str();
            let decoded = path.replace("%7C", "|").replace("%5E", "^");
            assert!(
                path == arrives || decoded == arrives || percent_decoded(path) == target,
                "{target} arrives as {path}"
            );
        }
    }

    fn percent_decoded(path: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = path.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(value) if byte == b'%' => {
                    bytes.push(value);
                    rest = &after[2..];
                }
                _ => {
                    bytes.push(byte);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn an_empty_body_is_said_where_a_server_would_wait_for_one() {
        let of = |method| {
            let head = head(method, "/", &[("Host", "a")]);
            let request = request(&head, PLAIN).expect("can be said");
            request.headers().contains_key(CONTENT_LENGTH)
        };
        assert!(of(Method::Post) && of(Method::Put) && of(Method::Patch));
        assert!(!of(Method::Get) && !of(Method::Delete));
    }

    #[test]
    fn an_upgrade_is_an_extended_connect() {
        let head = head(
            Method::Get,
            "/chat",
            &[
                ("Host", "a"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("Sec-WebSocket-Version", "13"),
            ],
        );
        let terms = Terms {
            secure: true,
            protocol: Some("WebSocket"),
            ..PLAIN
        };
        let request = request(&head, terms).expect("can be said");
        assert_eq!(request.method(), http::Method::CONNECT);
        assert_eq!(request.uri(), "https://a/chat");
        assert_eq!(lines(&request), [("sec-websocket-version", "13")]);
        let protocol = request.extensions().get::<Protocol>().expect("there");
        assert_eq!(protocol.as_str(), "websocket");
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for lines in [
            &[("Host", "a b")][..],
            &[],
            &[("Host", "a"), ("X", "\u{1}")],
        ] {
            let head = head(Method::Get, "/", lines);
            assert!(request(&head, PLAIN).is_err(), "{lines:?}");
        }
    }

    fn answer(lines: &[(&str, &str)]) -> response::Parts {
        let mut answer = http::Response::new(());
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            let value = HeaderValue::from_str(value).expect("a value");
            answer.headers_mut().append(name, value);
        }
        answer.into_parts().0
    }

    #[test]
    fn an_answer_is_what_it_says() {
        let parts = answer(&[
            ("content-length", "3"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]);
        let head = response(&parts).expect("well-formed");
        assert_eq!((head.status, head.version), (200, Version::H2));
        assert_eq!(head.fields.count(Known::SetCookie), 2);
        assert_eq!(length(&parts.headers), Ok(Length::Exact(3)));
    }

    #[test]
    fn an_answer_that_two_readers_read_differently_is_refused() {
        assert!(response(&answer(&[("x", " padded")])).is_err());
        assert!(response(&answer(&[("x", "padded\t")])).is_err());
        let many: Vec<_> = (0..300).map(|_| ("x", "1")).collect();
        assert!(response(&answer(&many)).is_err());
        for lines in [
            &[("content-length", "3"), ("content-length", "3")][..],
            &[("content-length", "+3")],
            &[("content-length", "")],
            &[("content-length", "9223372036854775808")],
        ] {
            assert!(length(&answer(lines).headers).is_err(), "{lines:?}");
        }
    }
}
