//! Heads and trailer sections: one strict pass that notes positions and copies nothing.
//!
//! RFC 9112 sections 2 to 5. Where it lets a recipient choose between repairing and refusing (bare
//! LF, obs-fold, white space before the colon) this refuses: a repaired message is one that
//! somebody else reads differently.

use crate::message::{Fields, Method, RequestHead, ResponseHead, Version};
use crate::util::scan::{Lanes, from_control, from_space_or_control};
use crate::wire::RefusalReason;
pub(super) use crate::wire::h1::field_lines::{HeadLimits, Malformed};
use crate::wire::h1::field_lines::{TOKEN, bad, field_lines, is_control, is_token};

/// The head and its length in bytes; `None` while it is not whole.
pub(super) type Parsed<T> = Result<Option<(T, usize)>, Malformed>;

/// A request head at the start of `bytes`; one empty line before it is passed over (RFC 9112
/// section 2.2) and counted in the length.
pub(super) fn request(bytes: &[u8], limits: &HeadLimits) -> Parsed<RequestHead> {
    match request_whole(bytes, limits)? {
        Some((_, length)) if length > limits.bytes => Err(too_large(bytes, limits.bytes)),
        None if bytes.len() >= limits.bytes => Err(too_large(bytes, limits.bytes)),
        parsed => Ok(parsed),
    }
}

fn request_whole(bytes: &[u8], limits: &HeadLimits) -> Parsed<RequestHead> {
    let skipped = match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r'] | [] => return Ok(None),
        _ => 0,
    };
    let bytes = &bytes[skipped..];
    let Some(start) = start_line(bytes)? else {
        return Ok(None);
    };
    let Some((fields, length)) = fields(bytes, start.length, limits)? else {
        return Ok(None);
    };
    let method = Method::from_token(&bytes[..start.method]);
    let target = (start.method as u32 + 1, start.target_end as u32);
    let head = RequestHead::received(method, start.version, fields, target);
    Ok(Some((head, skipped + length)))
}

/// Method and target of a head that is refused, as far as they can be read: for the log.
pub(super) fn start_line_parts(bytes: &[u8]) -> (Option<String>, Option<String>) {
    let line = bytes
        .split(|&byte| byte == b'\n')
        .find(|line| line.len() > 1)
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let method = parts.next().filter(|method| is_token(method));
    let target = parts
        .next()
        .filter(|target| !target.is_empty() && method.is_some());
    let text = |part: &[u8]| String::from_utf8_lossy(&part[..part.len().min(4096)]).into_owned();
    (method.map(text), target.map(text))
}

struct StartLine {
    /// Bytes of the method.
    method: usize,
    target_end: usize,
    version: Version,
    length: usize,
}

fn start_line(bytes: &[u8]) -> Result<Option<StartLine>, Malformed> {
    let Some(method) = method_end(bytes) else {
        return Ok(None);
    };
    if method == 0 || bytes[method] != b' ' {
        return bad("the request line does not begin with a method and one space");
    }
    let rest = from_space_or_control(bytes, &bytes[method + 1..]);
    let Some((&end, rest)) = rest.split_first() else {
        return Ok(None);
    };
    if end != b' ' {
        return bad("the request line is not method, target and version with one space between");
    }
    let target_end = bytes.len() - rest.len() - 1;
    if target_end == method + 1 {
        return bad("the request line has no target");
    }
    match version(rest)? {
        None => Ok(None),
        Some(version) => Ok(Some(StartLine {
            method,
            target_end,
            version,
            length: target_end + 11,
        })),
    }
}

/// The first byte that is none of a token; `None` while that has not come.
fn method_end(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"GET ") {
        return Some(3);
    }
    if let Some(chunk) = bytes.first_chunk() {
        let plain = Lanes::new(chunk).plain().trailing_ones() as usize;
        if plain < chunk.len() && bytes[plain] == b' ' {
            return Some(plain);
        }
    }
    bytes.iter().position(|&byte| TOKEN[byte as usize] == 0)
}

/// `HTTP/1.x CRLF` and nothing else; RFC 9112 section 2.3.
fn version(bytes: &[u8]) -> Result<Option<Version>, Malformed> {
    if bytes.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some(Version::Http11));
    }
    if bytes.starts_with(b"HTTP/1.0\r\n") {
        return Ok(Some(Version::Http10));
    }
    let whole = bytes.len() >= 10;
    let shape = b"HTTP/0.0\r\n";
    let fits = bytes.iter().zip(shape).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        shape => byte == shape,
    });
    match (fits, whole) {
        (false, _) => bad("the request line does not end with an HTTP version"),
        (true, false) => Ok(None),
        (true, true) => Err(Malformed {
            reason: RefusalReason::VersionNotSupported,
            detail: "only HTTP/1.0 and HTTP/1.1 are spoken here",
        }),
    }
}

/// RFC 9112 section 4. A missing reason phrase with its space is accepted: many servers leave
/// both out, and nothing depends on it.
pub(super) fn response(bytes: &[u8], limits: &HeadLimits) -> Parsed<ResponseHead> {
    match response_whole(bytes, limits)? {
        Some((_, length)) if length > limits.bytes => bad("the answer's head is too large"),
        None if bytes.len() >= limits.bytes => bad("the answer's head is too large"),
        parsed => Ok(parsed),
    }
}

fn response_whole(bytes: &[u8], limits: &HeadLimits) -> Parsed<ResponseHead> {
    let Some(text) = status_line(bytes)? else {
        return Ok(None);
    };
    let (version, rest) = if let Some(rest) = text.strip_prefix(b"HTTP/1.1 ") {
        (Version::Http11, rest)
    } else if let Some(rest) = text.strip_prefix(b"HTTP/1.0 ") {
        (Version::Http10, rest)
    } else {
        return bad("the answer does not begin with HTTP/1.0 or HTTP/1.1");
    };
    let status = match rest {
        [a @ b'1'..=b'9', b, c] | [a @ b'1'..=b'9', b, c, b' ', ..]
            if b.is_ascii_digit() && c.is_ascii_digit() =>
        {
            let digit = |byte: u8| u16::from(byte - b'0');
            digit(*a) * 100 + digit(*b) * 10 + digit(*c)
        }
        _ => return bad("the status code is not three digits"),
    };
    let Some((fields, length)) = fields(bytes, text.len() + 2, limits)? else {
        return Ok(None);
    };
    let reason = (13.min(text.len()) as u32, text.len() as u32);
    Ok(Some((
        ResponseHead::received(status, version, fields, reason),
        length,
    )))
}

/// The status line without its CRLF; `None` while it is not whole.
fn status_line(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let rest = from_control(bytes, bytes);
    if rest.starts_with(b"\r\n") {
        return Ok(Some(&bytes[..bytes.len() - rest.len()]));
    }
    let Some(line) = memchr::memchr(b'\n', bytes) else {
        return if b"HTTP/1.".iter().zip(bytes).all(|(a, b)| a == b) {
            Ok(None)
        } else {
            bad("the answer does not begin with HTTP/1")
        };
    };
    let Some(text) = bytes[..line].strip_suffix(b"\r") else {
        return bad("the status line does not end with CRLF");
    };
    if text.iter().any(|&byte| is_control(byte)) {
        return bad("the status line has a control byte");
    }
    Ok(Some(text))
}

/// A trailer section with its final empty line, RFC 9112 section 7.1.2.
pub(super) fn trailers(bytes: &[u8], limits: &HeadLimits) -> Parsed<Fields> {
    match fields(bytes, 0, limits)? {
        None if bytes.len() >= limits.bytes => bad("the trailer section is too large"),
        Some((_, length)) if length > limits.bytes => bad("the trailer section is too large"),
        parsed => Ok(parsed),
    }
}

/// The fields from `position` on, and the length of the head that they end.
fn fields(bytes: &[u8], position: usize, limits: &HeadLimits) -> Parsed<Fields> {
    let mut fields = Fields::new();
    let buffer = fields.buffer_mut();
    let Some(length) = field_lines(bytes, position, buffer, limits)? else {
        return Ok(None);
    };
    buffer.receive(&bytes[..length - 2]);
    Ok(Some((fields, length)))
}

fn too_large(bytes: &[u8], limit: usize) -> Malformed {
    let start_line_ended =
        memchr::memchr(b'\n', &bytes[2.min(bytes.len())..limit.min(bytes.len())]);
    match start_line_ended {
        Some(_) => Malformed {
            reason: RefusalReason::HeaderTooLarge,
            detail: "the request head is too large",
        },
        None => Malformed {
            reason: RefusalReason::UriTooLong,
            detail: "the request line is too long",
        },
    }
}
