//! Heads and trailer sections: one strict pass that notes positions and copies nothing.
//!
//! RFC 9112 sections 2 to 5. Where it lets a recipient choose between repairing and refusing (bare
//! LF, obs-fold, white space before the colon) this refuses: a repaired message is one that
//! somebody else reads differently.

use crate::config::model::UnderscoreHeaders;
use crate::message::fields::Line;
use crate::message::{Fields, Known, Method, RequestHead, ResponseHead, Version};
use crate::wire::RefusalReason;

/// What one head may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    pub(super) bytes: usize,
    pub(super) fields: usize,
    pub(super) underscores: UnderscoreHeaders,
}

/// Why a head or trailer section is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) reason: RefusalReason,
    pub(super) detail: &'static str,
}

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
    let mut fields = Fields::new();
    let Some(length) = field_lines(bytes, start.length, fields.lines_mut(), limits)? else {
        return Ok(None);
    };
    fields.receive(&bytes[..length]);
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
    let Some(method) = bytes.iter().position(|&byte| TOKEN[byte as usize] == 0) else {
        return Ok(None);
    };
    if method == 0 || bytes[method] != b' ' {
        return bad("the request line does not begin with a method and one space");
    }
    let rest = &bytes[method + 1..];
    let Some(target) = rest.iter().position(|&byte| byte <= b' ' || byte == 0x7f) else {
        return Ok(None);
    };
    if rest[target] != b' ' {
        return bad("the request line is not method, target and version with one space between");
    }
    if target == 0 {
        return bad("the request line has no target");
    }
    let target_end = method + 1 + target;
    match version(&bytes[target_end + 1..])? {
        None => Ok(None),
        Some(version) => Ok(Some(StartLine {
            method,
            target_end,
            version,
            length: target_end + 11,
        })),
    }
}

/// `HTTP/1.x CRLF` and nothing else; RFC 9112 section 2.3.
fn version(bytes: &[u8]) -> Result<Option<Version>, Malformed> {
    match bytes {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'1',
            b'\r',
            b'\n',
            ..,
        ] => {
            return Ok(Some(Version::Http11));
        }
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0',
            b'\r',
            b'\n',
            ..,
        ] => {
            return Ok(Some(Version::Http10));
        }
        _ => {}
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
    let (version, rest) = match text {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'1',
            b' ',
            rest @ ..,
        ] => (Version::Http11, rest),
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0',
            b' ',
            rest @ ..,
        ] => (Version::Http10, rest),
        _ => return bad("the answer does not begin with HTTP/1.0 or HTTP/1.1"),
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
    let reason = 13.min(text.len());
    if find_control(text, reason) != text.len() && text[reason..].iter().any(|&b| is_control(b)) {
        return bad("the reason phrase has a control byte");
    }
    let mut fields = Fields::new();
    let Some(length) = field_lines(bytes, line + 1, fields.lines_mut(), limits)? else {
        return Ok(None);
    };
    fields.receive(&bytes[..length]);
    let reason = (reason as u32, text.len() as u32);
    Ok(Some((
        ResponseHead::received(status, version, fields, reason),
        length,
    )))
}

/// A trailer section with its final empty line, RFC 9112 section 7.1.2.
pub(super) fn trailers(bytes: &[u8], limits: &HeadLimits) -> Parsed<Fields> {
    let mut fields = Fields::new();
    let Some(length) = field_lines(bytes, 0, fields.lines_mut(), limits)? else {
        return if bytes.len() >= limits.bytes {
            bad("the trailer section is too large")
        } else {
            Ok(None)
        };
    };
    fields.receive(&bytes[..length]);
    Ok(Some((fields, length)))
}

/// Field lines from `position` to the empty line; gives the position behind it.
fn field_lines(
    bytes: &[u8],
    mut position: usize,
    lines: &mut Vec<Line>,
    limits: &HeadLimits,
) -> Result<Option<usize>, Malformed> {
    lines.clear();
    let mut seen = 0;
    loop {
        let rest = &bytes[position..];
        match rest {
            [b'\r', b'\n', ..] => return Ok(Some(position + 2)),
            [] | [b'\r'] => return Ok(None),
            _ => {}
        }
        let mut class = 0;
        let name = rest.iter().position(|&byte| {
            let this = TOKEN[byte as usize];
            class |= this;
            this == 0
        });
        let Some(name) = name else { return Ok(None) };
        if rest[name] != b':' || name == 0 {
            return bad(name_fault(name, rest[name]));
        }
        let Some(end) = value_end(bytes, position + name + 1)? else {
            return Ok(None);
        };
        seen += 1;
        if seen > limits.fields || name > u16::MAX as usize {
            return Err(Malformed {
                reason: RefusalReason::HeaderTooLarge,
                detail: "too many header fields",
            });
        }
        if class & UNDERSCORE == 0 || allowed_underscore(limits.underscores)? {
            lines.push(Line::new(
                position,
                end,
                name as u16,
                Known::find(&rest[..name]),
            ));
        }
        position = end;
    }
}

fn name_fault(length: usize, byte: u8) -> &'static str {
    match (length, byte) {
        (0, b' ' | b'\t') => "a header line is folded",
        (0, b':') => "a header field has no name",
        (_, b' ' | b'\t') => "white space before the colon of a header field",
        (_, b'\r' | b'\n') => "a header line has no colon",
        _ => "a header field's name is not a token",
    }
}

fn allowed_underscore(setting: UnderscoreHeaders) -> Result<bool, Malformed> {
    match setting {
        UnderscoreHeaders::Allow => Ok(true),
        UnderscoreHeaders::Remove => Ok(false),
        UnderscoreHeaders::Reject => bad("a header field's name has an underscore"),
    }
}

/// The position behind the CRLF of the value that begins at `position`.
fn value_end(bytes: &[u8], mut position: usize) -> Result<Option<usize>, Malformed> {
    loop {
        position = find_control(bytes, position);
        match bytes.get(position..) {
            Some([b'\r', b'\n', ..]) => return Ok(Some(position + 2)),
            Some([b'\t', ..]) => position += 1,
            Some([b'\r'] | []) | None => return Ok(None),
            Some([b'\r', ..]) => return bad("a CR without LF in a header field"),
            Some([b'\n', ..]) => return bad("a header line ends with a bare LF"),
            Some(_) => return bad("a control byte in a header field's value"),
        }
    }
}

/// The first byte below 0x20 or equal to 0x7F from `from` on, eight bytes at a time.
fn find_control(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut position = from;
    let (chunks, rest) = bytes[from.min(bytes.len())..].as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_le_bytes(*chunk);
        // A byte below 0x20 borrows into its high bit, and so does 0x7F after the XOR. A borrow
        // only disturbs bytes above the first hit, so the lowest bit is exact.
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let hits = (below | (delete.wrapping_sub(ONES) & !delete)) & HIGH;
        if hits != 0 {
            return position + hits.trailing_zeros() as usize / 8;
        }
        position += 8;
    }
    position
        + rest
            .iter()
            .position(|&byte| byte < 0x20 || byte == 0x7f)
            .unwrap_or(rest.len())
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

fn bad<T>(detail: &'static str) -> Result<T, Malformed> {
    Err(Malformed {
        reason: RefusalReason::BadRequest,
        detail,
    })
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

const UNDERSCORE: u8 = 2;

/// RFC 9110 section 5.6.2: 0 is no token byte, bit 1 marks the underscore.
static TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = match character {
            b'_' => 1 | UNDERSCORE,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'`'
            | b'|' | b'~' => 1,
            _ if character.is_ascii_alphanumeric() => 1,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// True if `bytes` is a token.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[byte as usize] != 0)
}
