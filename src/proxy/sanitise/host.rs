//! Which host a request is for: one, valid, and as routes are compared with it.

use std::net::Ipv6Addr;

use crate::message::{Known, RequestHead, Version};
use crate::proxy::sanitise::Refused;
use crate::util::scan::split_piece;

/// Host without port, as routes are compared with it.
#[derive(Debug)]
pub(super) enum HostName {
    /// So many bytes from the beginning of the field: it came in that form.
    Received(usize),
    Own(Box<[u8]>),
}

/// Longer than any name in the DNS (RFC 1035 section 2.3.4).
const MAX_HOST_BYTES: usize = 255;

/// Exactly one valid Host; HTTP/1.0 may have none (RFC 9112 section 3.2).
pub(super) fn host(head: &RequestHead) -> Result<Option<HostName>, Refused> {
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
/// One pass, and no copy of what is in that form already. Stricter than RFC 3986: escapes and
/// sub-delimiters in names are refused, because nobody has such hosts and software disagrees about
/// them.
pub(super) fn host_name(authority: &[u8]) -> Option<HostName> {
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
