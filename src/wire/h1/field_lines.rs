//! Field lines: names, values and what is refused in them; RFC 9112 section 5.

use crate::config::model::UnderscoreHeaders;
use crate::message::Known;
use crate::message::fields::{HIGH, Line, ONES, find_control};
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

/// Field lines from `position` to the empty line; gives the position behind it.
pub(super) fn field_lines(
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
        let Some(name) = field_name(rest)? else {
            return Ok(None);
        };
        let Some(end) = value_end(bytes, position + name.length + 1)? else {
            return Ok(None);
        };
        seen += 1;
        if seen > limits.fields || name.length > u16::MAX as usize {
            return Err(Malformed {
                reason: RefusalReason::HeaderTooLarge,
                detail: "too many header fields",
            });
        }
        if !name.underscore || allowed_underscore(limits.underscores)? {
            lines.push(Line::new(position, end, name.length as u16, name.known));
        }
        position = end;
    }
}

struct Name {
    length: usize,
    known: Option<Known>,
    underscore: bool,
}

/// The name at the start of `line`, up to its colon; `None` while that has not come.
fn field_name(line: &[u8]) -> Result<Option<Name>, Malformed> {
    // A known name is a token without underscore: its bytes need no look one by one.
    if let Some(length) = find_colon(line)
        && let Some(known) = Known::find(&line[..length])
    {
        return Ok(Some(Name {
            length,
            known: Some(known),
            underscore: false,
        }));
    }
    let mut class = 0;
    let length = line.iter().position(|&byte| {
        let this = TOKEN[byte as usize];
        class |= this;
        this == 0
    });
    match length {
        None => Ok(None),
        Some(length) if line[length] != b':' || length == 0 => {
            bad(name_fault(length, line[length]))
        }
        Some(length) => Ok(Some(Name {
            length,
            known: None,
            underscore: class & UNDERSCORE != 0,
        })),
    }
}

/// The first colon, eight bytes at a time, as far as known names go.
fn find_colon(line: &[u8]) -> Option<usize> {
    const LONGEST: usize = 32;
    let (chunks, rest) = line[..line.len().min(LONGEST)].as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk) ^ (ONES * b':' as u64);
        let hits = word.wrapping_sub(ONES) & !word & HIGH;
        if hits != 0 {
            return Some(8 * index + hits.trailing_zeros() as usize / 8);
        }
    }
    let last = rest.iter().position(|&byte| byte == b':')?;
    Some(8 * chunks.len() + last)
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

pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

pub(super) fn bad<T>(detail: &'static str) -> Result<T, Malformed> {
    Err(Malformed {
        reason: RefusalReason::BadRequest,
        detail,
    })
}

const UNDERSCORE: u8 = 2;

/// RFC 9110 section 5.6.2: 0 is no token byte, bit 1 marks the underscore.
pub(super) static TOKEN: [u8; 256] = {
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
