//! Where a body ends and whether the connection may be used again: RFC 9112 sections 6 and 9.
//!
//! One rule: whatever two readers could read differently is refused.

use crate::message::fields::trim;
use crate::message::{Fields, Known, KnownSet, Method, RequestHead, ResponseHead, Version};
use crate::wire::RefusalReason;
use crate::wire::h1::field_lines::{Malformed, is_token};

/// How a body is framed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// 0 is no body.
    Length(u64),
    Chunked,
    /// Answers only.
    UntilClose,
}

/// What servers count bodies with is signed: a longer one wraps there.
const LONGEST: u64 = u64::MAX >> 1;

const FRAMING_FIELDS: KnownSet = KnownSet::of(&[Known::ContentLength, Known::TransferEncoding]);

/// The framing of a request, RFC 9112 section 6.3.
pub(super) fn of_request(head: &RequestHead) -> Result<Framing, Malformed> {
    if !head.fields.contains_any(FRAMING_FIELDS) {
        return Ok(Framing::Length(0));
    }
    declared(&head.fields, head.version).map(|framing| framing.unwrap_or(Framing::Length(0)))
}

/// The framing of a final answer to a request with `method`, and whether its head leaves the
/// connection usable.
pub(super) fn of_response(
    head: &ResponseHead,
    method: &Method,
) -> Result<(Framing, bool), &'static str> {
    let declared = declared(&head.fields, head.version).map_err(|malformed| malformed.detail)?;
    let persistent = is_persistent(head.version, &head.fields);
    match head.status {
        // RFC 9110 section 15.3.5: a 204 that declares a body may still send it.
        204 => {
            let honest = matches!(declared, None | Some(Framing::Length(0)));
            Ok((Framing::Length(0), persistent && honest))
        }
        304 => Ok((Framing::Length(0), persistent)),
        _ if *method == Method::Head => Ok((Framing::Length(0), persistent)),
        _ => match declared {
            None => Ok((Framing::UntilClose, false)),
            Some(framing) => Ok((framing, persistent)),
        },
    }
}

/// What the fields declare; `None` is nothing.
fn declared(fields: &Fields, version: Version) -> Result<Option<Framing>, Malformed> {
    let bad = |detail| {
        Err(Malformed {
            reason: RefusalReason::BadRequest,
            detail,
        })
    };
    if fields.contains(Known::TransferEncoding) {
        if fields.contains(Known::ContentLength) {
            return bad("both Content-Length and Transfer-Encoding");
        }
        if version == Version::Http10 {
            return bad("Transfer-Encoding in HTTP/1.0");
        }
        if fields.count(Known::TransferEncoding) > 1 {
            return bad("more than one Transfer-Encoding");
        }
        let codings = fields.get(Known::TransferEncoding).unwrap_or_default();
        return transfer_coding(codings).map(Some);
    }
    if !fields.contains(Known::ContentLength) {
        return Ok(None);
    }
    let mut values = fields.values(Known::ContentLength);
    let value = values.next().unwrap_or_default();
    if values.next().is_some() {
        return bad("more than one Content-Length");
    }
    match number(value) {
        Some(length) if length <= LONGEST => Ok(Some(Framing::Length(length))),
        Some(_) => bad("Content-Length is larger than any body"),
        None => bad("Content-Length is not a number"),
    }
}

/// Exactly `chunked` is spoken; what ends in it is another coding of the body (501), the rest is
/// no framing at all (RFC 9112 sections 6.1 and 7).
fn transfer_coding(codings: &[u8]) -> Result<Framing, Malformed> {
    if codings.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let refuse = |reason, detail| Err(Malformed { reason, detail });
    let mut list: Vec<&[u8]> = members(codings).collect();
    if !list.iter().all(|coding| is_token(coding)) {
        return refuse(RefusalReason::BadRequest, "Transfer-Encoding is malformed");
    }
    let last = list.pop().unwrap_or_default();
    let is = |coding: &[u8], name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
    if list.iter().any(|coding| is(coding, "chunked")) {
        return refuse(
            RefusalReason::BadRequest,
            "chunked is not the one final transfer coding",
        );
    }
    if [
        "gzip",
        "x-gzip",
        "deflate",
        "compress",
        "x-compress",
        "identity",
    ]
    .iter()
    .any(|name| is(last, name))
    {
        return refuse(
            RefusalReason::BadRequest,
            "chunked is not the final transfer coding",
        );
    }
    refuse(
        RefusalReason::NotImplemented,
        "only the transfer coding chunked is spoken here",
    )
}

/// Digits only, and no overflow (RFC 9110 section 8.6).
pub(in crate::wire) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    // So many digits cannot overflow.
    if text.len() <= 18 {
        let mut value = 0;
        for byte in text {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = 10 * value + u64::from(digit);
        }
        return Some(value);
    }
    text.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9112 section 9.3.
pub(super) fn is_persistent(version: Version, fields: &Fields) -> bool {
    let by_version = version == Version::Http11;
    if !fields.contains(Known::Connection) {
        return by_version;
    }
    // Nearly always the one word, spelled like this.
    let mut values = fields.values(Known::Connection);
    if values.next() == Some(b"keep-alive") && values.next().is_none() {
        return true;
    }
    if lists(fields, Known::Connection, "close") {
        return false;
    }
    by_version || lists(fields, Known::Connection, "keep-alive")
}

fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// True if a comma-separated field has this member.
pub(in crate::wire) fn lists(fields: &Fields, name: Known, member: &str) -> bool {
    fields
        .values(name)
        .flat_map(members)
        .any(|item| item.eq_ignore_ascii_case(member.as_bytes()))
}

/// `Keep-Alive: timeout=5, max=100` in seconds.
pub(super) fn keep_alive_timeout(fields: &Fields) -> Option<u64> {
    fields
        .values(Known::KeepAlive)
        .flat_map(members)
        .filter_map(|item| item.split_at_checked(8))
        .find(|(name, _)| name.eq_ignore_ascii_case(b"timeout="))
        .and_then(|(_, seconds)| number(trim(seconds)))
}

/// Trailer fields that a reader who merges them into the head would frame or route by: nobody
/// sends them but to be misread, so a request that has one is refused.
pub(in crate::wire) const FRAMING_TRAILERS: KnownSet = KnownSet::of(&[
    Known::Host,
    Known::Connection,
    Known::ContentLength,
    Known::TransferEncoding,
    Known::Te,
    Known::Trailer,
    Known::Upgrade,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Expect,
    Known::MaxForwards,
    Known::Http2Settings,
]);

/// Fields that may not be in a trailer section: framing, routing, authentication and what we
/// vouch for ourselves (RFC 9110 section 6.5.1). They are dropped, never merged.
pub(in crate::wire) fn forbidden_trailer(known: Option<Known>, name: &[u8]) -> bool {
    const FORBIDDEN: KnownSet = FRAMING_TRAILERS
        .union(KnownSet::IDENTITY)
        .union(KnownSet::of(&[
            Known::ProxyAuthenticate,
            Known::ProxyAuthorization,
            Known::ProxyAuthenticationInfo,
            Known::Date,
            Known::Via,
            Known::Cookie,
            Known::SetCookie,
            Known::Authorization,
            Known::AuthenticationInfo,
            Known::WwwAuthenticate,
            Known::ContentType,
            Known::ContentEncoding,
            Known::ContentRange,
            Known::CacheControl,
            Known::Pragma,
            Known::Vary,
            Known::Age,
            Known::Expires,
            Known::RetryAfter,
            Known::Traceparent,
            Known::Tracestate,
            Known::Location,
            Known::Range,
            Known::IfMatch,
            Known::IfNoneMatch,
            Known::IfModifiedSince,
            Known::IfUnmodifiedSince,
            Known::IfRange,
            Known::XEvenkeelReason,
        ]));
    match known {
        Some(known) => FORBIDDEN.contains(known),
        // `X_Forwarded_For` is `X-Forwarded-For` to a CGI-like server.
        None => name.contains(&b'_'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(Method::Post, version, b"/");
        for (name, value) in fields {
            head.fields.append_text(name, value.as_bytes());
        }
        head
    }

    fn response(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
        let mut head = ResponseHead::new(status);
        for (name, value) in fields {
            head.fields.append_text(name, value.as_bytes());
        }
        head
    }

    #[test]
    fn requests_are_framed_in_one_way_only() {
        use RefusalReason::{BadRequest, NotImplemented};
        use Version::{Http10, Http11};
        type Row = (
            Version,
            &'static [(&'static str, &'static str)],
            Result<Framing, RefusalReason>,
        );
        let table: &[Row] = &[
            (Http11, &[], Ok(Framing::Length(0))),
            (Http11, &[("content-length", "0")], Ok(Framing::Length(0))),
            (Http10, &[("content-length", "007")], Ok(Framing::Length(7))),
            (
                Http11,
                &[("content-length", "9223372036854775807")],
                Ok(Framing::Length(LONGEST)),
            ),
            (
                Http11,
                &[("content-length", "9223372036854775808")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("content-length", "18446744073709551616")],
                Err(BadRequest),
            ),
            (Http11, &[("content-length", "+5")], Err(BadRequest)),
            (Http11, &[("content-length", "-5")], Err(BadRequest)),
            (Http11, &[("content-length", "")], Err(BadRequest)),
            (Http11, &[("content-length", "5 5")], Err(BadRequest)),
            (Http11, &[("content-length", "5, 5")], Err(BadRequest)),
            (Http11, &[("content-length", "0x5")], Err(BadRequest)),
            (
                Http11,
                &[("content-length", "5"), ("content-length", "5")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("content-length", "5"), ("Transfer-Encoding", "chunked")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "chunked")],
                Ok(Framing::Chunked),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "ChunKed")],
                Ok(Framing::Chunked),
            ),
            (Http10, &[("Transfer-Encoding", "chunked")], Err(BadRequest)),
            (
                Http11,
                &[
                    ("Transfer-Encoding", "chunked"),
                    ("Transfer-Encoding", "chunked"),
                ],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "chunked, chunked")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "chunked, gzip")],
                Err(BadRequest),
            ),
            (Http11, &[("Transfer-Encoding", "gzip")], Err(BadRequest)),
            (
                Http11,
                &[("Transfer-Encoding", "identity")],
                Err(BadRequest),
            ),
            (Http11, &[("Transfer-Encoding", "")], Err(BadRequest)),
            (
                Http11,
                &[("Transfer-Encoding", ",chunked")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "chunked;a=b")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "\"chunked\"")],
                Err(BadRequest),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "gzip, chunked")],
                Err(NotImplemented),
            ),
            (
                Http11,
                &[("Transfer-Encoding", "xchunked")],
                Err(NotImplemented),
            ),
        ];
        for (version, fields, expected) in table {
            let framing = of_request(&request(*version, fields)).map_err(|error| error.reason);
            assert_eq!(framing, *expected, "{version:?} {fields:?}");
        }
    }

    #[test]
    fn answers_are_framed_by_method_and_status_first() {
        let (cl, te) = ("content-length", "transfer-encoding");
        let get = |status, fields: &[_]| of_response(&response(status, fields), &Method::Get);
        assert_eq!(get(200, &[(cl, "5")]), Ok((Framing::Length(5), true)));
        assert_eq!(get(200, &[(te, "chunked")]), Ok((Framing::Chunked, true)));
        assert_eq!(get(200, &[]), Ok((Framing::UntilClose, false)));
        assert_eq!(
            get(200, &[(cl, "5"), ("Connection", "close")]),
            Ok((Framing::Length(5), false))
        );
        assert_eq!(get(304, &[(cl, "5")]), Ok((Framing::Length(0), true)));
        assert_eq!(get(204, &[]), Ok((Framing::Length(0), true)));
        assert_eq!(get(204, &[(cl, "0")]), Ok((Framing::Length(0), true)));
        assert_eq!(get(204, &[(cl, "3")]), Ok((Framing::Length(0), false)));
        let head = of_response(&response(200, &[(te, "chunked")]), &Method::Head);
        assert_eq!(head, Ok((Framing::Length(0), true)));
        assert!(get(200, &[(cl, "5"), (te, "chunked")]).is_err());
        assert!(get(200, &[(cl, "5"), (cl, "5")]).is_err());
        assert!(get(200, &[(te, "gzip, chunked")]).is_err());
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        let persistent = |version, value: &[(&str, &str)]| {
            is_persistent(version, &request(version, value).fields)
        };
        assert!(persistent(Version::Http11, &[]));
        assert!(!persistent(Version::Http10, &[]));
        assert!(persistent(Version::Http10, &[("connection", "Keep-Alive")]));
        assert!(!persistent(
            Version::Http11,
            &[("connection", "foo"), ("connection", "x, Close")]
        ));
    }

    #[test]
    fn the_servers_own_timeout_is_read() {
        let timeout = |value| keep_alive_timeout(&response(200, &[("Keep-Alive", value)]).fields);
        assert_eq!(timeout("timeout=5, max=100"), Some(5));
        assert_eq!(timeout("max=100, Timeout=7"), Some(7));
        assert_eq!(timeout("timeout=x"), None);
        assert_eq!(timeout("max=1"), None);
    }
}
