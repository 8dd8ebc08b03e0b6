//! The one normal form of a path: what is matched is what is forwarded.
//!
//! Most holes between a proxy's rules and its servers are two readings of one path
//! (CVE-2019-9901, CVE-2021-29492, CVE-2026-73511). So a path is brought into one form before
//! anything looks at it, and a path that servers are known to read in several ways is refused:
//!
//! - escapes are upper-cased, those of unreserved characters decoded (RFC 3986 section 6.2.2),
//!   bytes over 0x7F escaped;
//! - `//` counts as `/`, then dot segments are removed (RFC 3986 section 5.2.4, but a climb above
//!   the root is refused). Slashes come first because that is how file systems, Nginx and Go read
//!   `/a//../b`: a parent of `a`, not of an empty name;
//! - `%2F` stays data and never separates; dot segments that only a server which decodes it would
//!   see are refused, and so are `..;` and `.;`, which servlet containers take for dot segments.

mod normal;

use std::borrow::Cow;

pub use normal::normal_prefix;

/// Why a path is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    #[error("the path climbs above the root")]
    AboveRoot,
    #[error("a dot segment hides behind an escaped slash")]
    HiddenDotSegment,
    #[error("a dot segment carries a path parameter")]
    DotSegmentParameter,
    #[error("the path holds a control byte, plain or escaped")]
    Control,
    #[error("the path holds a space")]
    Space,
    #[error("the path holds a backslash, plain or escaped")]
    Backslash,
    #[error("the path holds a broken percent escape")]
    BrokenEscape,
    #[error("the path holds a '#'")]
    Fragment,
    #[error("the path holds a '?'")]
    Query,
}

/// Brings the path of a request target (without its query) into normal form.
///
/// One scan and no allocation when it is in normal form already. `*` is not a path: the caller
/// deals with `OPTIONS *` before.
///
/// # Errors
///
/// The first reason to refuse it, see [`PathError`].
pub fn normalize(raw: &[u8]) -> Result<Cow<'_, [u8]>, PathError> {
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    if normal_prefix(raw) == Some(raw.len()) {
        return Ok(Cow::Borrowed(raw));
    }
    let unescaped = normalize_escapes(raw)?;
    let path = remove_dot_segments(&unescaped)?;
    if path == raw {
        return Ok(Cow::Borrowed(raw));
    }
    Ok(Cow::Owned(path))
}

/// True when the path has a dot segment in any spelling (`.`, `%2e`, behind `%2F`, before `;`):
/// such a path cannot go on as it is, `forward = "raw"`.
pub fn has_dot_segments(raw: &[u8]) -> bool {
    let mut rest = raw;
    loop {
        let (dots, after) = leading_dots(rest);
        if (1..=2).contains(&dots) && (after.is_empty() || ends_name(after)) {
            return true;
        }
        match after_separator(rest) {
            Some(next) => rest = next,
            None => return false,
        }
    }
}

/// What a byte of a path means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// RFC 3986 section 2.3: never needs an escape.
    Unreserved,
    /// Means something to somebody, so its escape is another thing than itself.
    Reserved,
    Slash,
    Percent,
    High,
    Refused(PathError),
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut table = [Class::Reserved; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                Class::Unreserved
            }
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b' ' => Class::Refused(PathError::Space),
            b'\\' => Class::Refused(PathError::Backslash),
            b'#' => Class::Refused(PathError::Fragment),
            b'?' => Class::Refused(PathError::Query),
            0..=0x1F | 0x7F => Class::Refused(PathError::Control),
            0x80..=0xFF => Class::High,
            _ => Class::Reserved,
        };
        byte += 1;
    }
    table
}

/// True for bytes whose escape is data in the normal form.
fn stays_escaped(decoded: u8) -> bool {
    match CLASSES[usize::from(decoded)] {
        Class::Unreserved => false,
        // Refused as they are, but harmless as an escape.
        Class::Refused(_) => matches!(decoded, b' ' | b'#' | b'?'),
        Class::Reserved | Class::Slash | Class::Percent | Class::High => true,
    }
}

/// The byte that the escape at the beginning of `bytes` stands for, and its digits in upper case.
fn escape(bytes: &[u8]) -> Result<(u8, [u8; 2]), PathError> {
    let (Some(&high), Some(&low)) = (bytes.get(1), bytes.get(2)) else {
        return Err(PathError::BrokenEscape);
    };
    let (Some(high_value), Some(low_value)) = (hex(high), hex(low)) else {
        return Err(PathError::BrokenEscape);
    };
    Ok((
        high_value << 4 | low_value,
        [high.to_ascii_uppercase(), low.to_ascii_uppercase()],
    ))
}

/// With every escape decoded; a broken one stays as it is.
pub(super) fn decoded(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'%', path) else {
        return Cow::Borrowed(path);
    };
    let mut out = path[..first].to_vec();
    let mut rest = &path[first..];
    while let Some((&byte, after)) = rest.split_first() {
        match escape(rest) {
            Ok((decoded, _)) if byte == b'%' => {
                out.push(decoded);
                rest = &rest[3..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Upper-cases escapes, decodes unreserved ones, escapes bytes over 0x7F.
fn normalize_escapes(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(raw.len() + 16);
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match CLASSES[usize::from(byte)] {
            Class::Unreserved | Class::Reserved | Class::Slash => out.push(byte),
            Class::Refused(error) => return Err(error),
            Class::High => out.extend_from_slice(&escaped(byte)),
            Class::Percent => {
                let (decoded, upper) = escape(&raw[at..])?;
                match CLASSES[usize::from(decoded)] {
                    Class::Unreserved => out.push(decoded),
                    Class::Refused(error) if !stays_escaped(decoded) => return Err(error),
                    _ => out.extend_from_slice(&[b'%', upper[0], upper[1]]),
                }
                at += 2;
            }
        }
        at += 1;
    }
    Ok(out)
}

fn escaped(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [
        b'%',
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 0xF)],
    ]
}

/// Merges slashes and removes dot segments. `path` has normal escapes and begins with `/`.
fn remove_dot_segments(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut directory = true;
    for segment in path[1..].split(|&byte| byte == b'/') {
        directory = true;
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = memchr::memrchr(b'/', &out).ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            _ => {
                refuse_ambiguous(segment)?;
                out.push(b'/');
                out.extend_from_slice(segment);
                directory = false;
            }
        }
    }
    if directory {
        out.push(b'/');
    }
    Ok(out)
}

/// Refuses a segment that another reader would take for a dot segment.
fn refuse_ambiguous(segment: &[u8]) -> Result<(), PathError> {
    if !has_dot_segments(segment) {
        return Ok(());
    }
    Err(if memchr::memmem::find(segment, b"%2F").is_some() {
        PathError::HiddenDotSegment
    } else {
        PathError::DotSegmentParameter
    })
}

/// How many dots (plain or escaped, counted up to three) `bytes` begins with, and what follows.
fn leading_dots(bytes: &[u8]) -> (usize, &[u8]) {
    let mut rest = bytes;
    let mut dots = 0;
    while dots < 3 {
        match rest {
            [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] => rest = after,
            _ => break,
        }
        dots += 1;
    }
    (dots, rest)
}

/// True at the end of a segment's name: a slash or the beginning of a parameter, plain or
/// escaped. `%3B` counts because some servers decode before they cut parameters off.
fn ends_name(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [b'/' | b';', ..] | [b'%', b'2', b'f' | b'F', ..] | [b'%', b'3', b'b' | b'B', ..]
    )
}

/// What follows the first slash, plain or escaped.
fn after_separator(bytes: &[u8]) -> Option<&[u8]> {
    memchr::memchr2_iter(b'/', b'%', bytes).find_map(|at| match &bytes[at..] {
        [b'/', after @ ..] | [b'%', b'2', b'f' | b'F', after @ ..] => Some(after),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
