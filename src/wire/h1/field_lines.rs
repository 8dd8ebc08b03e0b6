//! Field lines: names, values and what is refused in them; RFC 9112 section 5.

use crate::config::model::UnderscoreHeaders;
use crate::message::Known;
use crate::message::fields::Line;
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
pub(super) fn find_control(bytes: &[u8], from: usize) -> usize {
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
