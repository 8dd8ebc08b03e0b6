//! The forms of a request target (RFC 9112 section 3.2), and the one that goes on.

use std::borrow::Cow;

use crate::message::{Method, RequestHead};
use crate::proxy::sanitise::Refused;
use crate::proxy::sanitise::host::{HostName, host_name};
use crate::router::path;

#[derive(Debug)]
pub(super) struct Target {
    /// In normal form, where that differs from what was received.
    pub(super) normal: Option<Box<[u8]>>,
    /// Bytes of the path in the normal form; a `?` and the query follow.
    pub(super) path_bytes: usize,
    /// Where the received path begins; `None` where none was received.
    pub(super) received_path: Option<usize>,
}

/// The authority of an absolute-form target, as sent and for routing.
pub(super) type Authority = (Vec<u8>, HostName);

pub(super) fn split_target(head: &RequestHead) -> Result<(Target, Option<Authority>), Refused> {
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
