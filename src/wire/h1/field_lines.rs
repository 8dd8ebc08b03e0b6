//! Field lines: names, values and what is refused in them; RFC 9112 section 5.

use std::num::NonZero;

use crate::config::model::UnderscoreHeaders;
use crate::message::Known;
use crate::message::fields::{Buffer, Noted};
use crate::message::known::{WINDOW, halves};
use crate::util::scan::{Lanes, from_control};
use crate::wire::{Limits, RefusalReason};

/// What one head may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    pub(super) bytes: usize,
    pub(super) fields: usize,
    pub(super) underscores: UnderscoreHeaders,
}

impl HeadLimits {
    /// Of a request.
    pub(super) fn of(limits: &Limits) -> Self {
        HeadLimits {
            bytes: limits.max_header_bytes,
            fields: limits.max_headers,
            underscores: limits.underscore_headers,
        }
    }
}

/// Why a head or trailer section is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) reason: RefusalReason,
    pub(super) detail: &'static str,
}

/// Notes the field lines from `position` to the empty line; gives the position behind it.
pub(super) fn field_lines(
    bytes: &[u8],
    position: usize,
    buffer: &mut Buffer,
    limits: &HeadLimits,
) -> Result<Option<usize>, Malformed> {
    let mut rest = &bytes[position..];
    loop {
        buffer.note_while(limits.fields, || {
            let (noted, behind) = usual_line(bytes, rest)?;
            rest = behind;
            Some(noted)
        });
        match rest {
            [b'\r', b'\n', behind @ ..] => return Ok(Some(bytes.len() - behind.len())),
            [] | [b'\r'] => return Ok(None),
            _ => {}
        }
        let start = bytes.len() - rest.len();
        match any_line(rest, start, buffer, limits)? {
            Some(behind) => rest = behind,
            None => return Ok(None),
        }
    }
}

/// The line at the start of `rest`, which is the end of `bytes`, if it is of the usual kind: a
/// short name of letters, digits and `-`, a value without tabs. What is not, [`any_line`] judges.
#[inline(always)]
fn usual_line<'a>(bytes: &[u8], rest: &'a [u8]) -> Option<(Noted, &'a [u8])> {
    if rest.starts_with(b"\r\n") {
        return None;
    }
    let (length, known) = usual_name(bytes, rest)?;
    let behind = from_control(bytes, rest.get(length + 1..)?).strip_prefix(b"\r\n")?;
    let noted = Noted {
        start: bytes.len() - rest.len(),
        end: bytes.len() - behind.len(),
        name_length: length as u16,
        known,
    };
    Some((noted, behind))
}

/// Length and id of the name at the start of `line`, which is the end of `bytes`, if it is short
/// and of letters, digits and `-` only, as nearly all are.
#[inline(always)]
fn usual_name(bytes: &[u8], line: &[u8]) -> Option<(usize, Option<Known>)> {
    let padded;
    let window = match line.first_chunk() {
        Some(window) => window,
        None => {
            padded = with_zeros(bytes.last_chunk()?);
            padded[WINDOW - line.len()..].first_chunk()?
        }
    };
    let (low, high) = halves(window);
    let (low, high) = (Lanes::new(low), Lanes::new(high));
    let colons = match NonZero::new(low.equal(b':')) {
        Some(colons) => colons,
        None => NonZero::new(high.equal(b':') << 16)?,
    };
    let length = colons.trailing_zeros() as usize;
    if let Some(known) = Known::find_before_colon(window, colons) {
        return Some((length, Some(known)));
    }
    let mut plain = low.plain();
    if length >= 16 {
        plain |= high.plain() << 16;
    }
    let name = (colons.get() ^ (colons.get() - 1)) >> 1;
    (name != 0 && !plain & name == 0).then_some((length, None))
}

fn with_zeros(last: &[u8; WINDOW]) -> [u8; 2 * WINDOW] {
    let mut window = [0; 2 * WINDOW];
    window[..WINDOW].copy_from_slice(last);
    window
}

/// Notes a line of any kind; gives what comes behind it.
#[cold]
#[inline(never)]
fn any_line<'a>(
    line: &'a [u8],
    start: usize,
    buffer: &mut Buffer,
    limits: &HeadLimits,
) -> Result<Option<&'a [u8]>, Malformed> {
    let Some(name) = any_name(line)? else {
        return Ok(None);
    };
    let Some(behind) = behind_value(line, &line[name.len() + 1..])? else {
        return Ok(None);
    };
    let (Ok(name_length), true) = (name.len().try_into(), buffer.noted() < limits.fields) else {
        return Err(Malformed {
            reason: RefusalReason::HeaderTooLarge,
            detail: "too many header fields",
        });
    };
    let noted = Noted {
        start,
        end: start + line.len() - behind.len(),
        name_length,
        known: Known::find(name),
    };
    if allowed(name, limits.underscores)? {
        buffer.note(&noted);
    } else {
        buffer.note_removed(&noted);
    }
    Ok(Some(behind))
}

/// The name at the start of `line`, up to its colon; `None` while that has not come.
fn any_name(line: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let end = line.iter().position(|&byte| TOKEN[byte as usize] == 0);
    match end {
        None => Ok(None),
        Some(end) if line[end] == b':' && end > 0 => Ok(Some(&line[..end])),
        Some(end) => bad(name_fault(end, line[end])),
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

/// Whether a name that may have an underscore goes on.
fn allowed(name: &[u8], underscores: UnderscoreHeaders) -> Result<bool, Malformed> {
    match underscores {
        UnderscoreHeaders::Allow => Ok(true),
        _ if !name.contains(&b'_') => Ok(true),
        UnderscoreHeaders::Remove => Ok(false),
        UnderscoreHeaders::Reject => bad("a header field's name has an underscore"),
    }
}

/// What comes behind the CRLF of the value that `value` begins with, which is the end of `bytes`.
fn behind_value<'a>(bytes: &[u8], mut value: &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    loop {
        value = from_control(bytes, value);
        if let Some(behind) = value.strip_prefix(b"\r\n") {
            return Ok(Some(behind));
        }
        match value {
            [b'\t', rest @ ..] => value = rest,
            [b'\r'] | [] => return Ok(None),
            [b'\r', ..] => return bad("a CR without LF in a header field"),
            [b'\n', ..] => return bad("a header line ends with a bare LF"),
            _ => return bad("a control byte in a header field's value"),
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

/// RFC 9110 section 5.6.2: 0 is no token byte.
pub(super) static TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = match character {
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' => 1,
            _ if character.is_ascii_alphanumeric() => 1,
            _ => 0,
        };
        byte += 1;
    }
    table
};

/// True if `bytes` is a token.
pub(in crate::wire) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[byte as usize] != 0)
}
