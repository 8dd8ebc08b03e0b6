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

use std::borrow::Cow;

use crate::util::scan::split_piece;

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

/// Bytes that a normal path may have anywhere; a dot needs a look only where a segment begins.
const PLAIN: [bool; 256] = plain();

const fn plain() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASSES[byte], Class::Unreserved | Class::Reserved);
        byte += 1;
    }
    table
}

/// How many bytes of a request target are its path, when that is in normal form: up to the `?` or
/// the end. `None` says nothing but that a closer look is needed.
pub fn normal_prefix(target: &[u8]) -> Option<usize> {
    if target.first() != Some(&b'/') {
        return None;
    }
    let (mut rest, mut at, mut behind_slash) = (target, 0, 0);
    while !rest.is_empty() {
        let (lanes, length, behind) = split_piece(rest);
        let query = lanes.equal(b'?');
        let length = length.min(query.trailing_zeros() as usize);
        let path = (1 << length) - 1;
        let slashes = lanes.equal(b'/') & path;
        let segments = slashes << 1 | behind_slash;
        let odd = lanes.up_to(b' ')
            | lanes.high()
            | lanes.equal(b'%')
            | lanes.equal(b'#')
            | lanes.equal(b'\\')
            | segments & (slashes | lanes.equal(b'.'));
        if odd & path != 0 {
            return normal_prefix_by_bytes(target);
        }
        at += length;
        if query != 0 {
            break;
        }
        behind_slash = slashes >> 15;
        rest = behind;
    }
    Some(at)
}

/// The same where an escape or a segment that begins with a dot has to be looked at.
fn normal_prefix_by_bytes(target: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let special = |byte: &u8| !PLAIN[usize::from(*byte)];
        let Some(plain) = target[at..].iter().position(special) else {
            return Some(target.len());
        };
        at += plain;
        let normal = match target[at] {
            b'/' => begins_normal_segment(&target[at + 1..]),
            b'%' => is_normal_escape(&target[at..]),
            b'?' => return Some(at),
            _ => false,
        };
        if !normal {
            return None;
        }
        at += 1;
    }
}

/// `.well-known` is a normal segment; an empty one, `.`, `..` and `..;` are not.
fn begins_normal_segment(rest: &[u8]) -> bool {
    match rest.first() {
        Some(b'/') => false,
        Some(b'.') => {
            let (dots, after) = leading_dots(rest);
            dots > 2 || !(after.is_empty() || ends_name(after))
        }
        _ => true,
    }
}

/// A slash in disguise gets a closer look: it may hide a dot segment.
fn is_normal_escape(rest: &[u8]) -> bool {
    match escape(rest) {
        Ok((b'/', _)) | Err(_) => false,
        Ok((decoded, upper)) => upper == rest[1..3] && stays_escaped(decoded),
    }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every row: as received, and the normal form or the refusal.
    #[rustfmt::skip]
    const TABLE: &[(&str, Result<&str, PathError>)] = &[
        // Normal already.
        ("/", Ok("/")),
        ("/a", Ok("/a")),
        ("/a/", Ok("/a/")),
        ("/a/b.c/..d/e..", Ok("/a/b.c/..d/e..")),
        ("/.well-known/acme", Ok("/.well-known/acme")),
        ("/...", Ok("/...")),
        ("/..../x", Ok("/..../x")),
        ("/-._~!$&'()*+,;=:@", Ok("/-._~!$&'()*+,;=:@")),
        ("/\"<>[]^`{|}", Ok("/\"<>[]^`{|}")),
        ("/a;v=1/b;jsessionid=2", Ok("/a;v=1/b;jsessionid=2")),
        ("/a%20b%23%3F%25", Ok("/a%20b%23%3F%25")),
        ("/%252e%252e/a", Ok("/%252e%252e/a")),
        ("/%25%32%65", Ok("/%252e")),
        // Case of the path is kept.
        ("/API/x", Ok("/API/x")),
        // Escapes.
        ("/%61pi/x", Ok("/api/x")),
        ("/%41%7e%2D%5f%2e%30", Ok("/A~-_.0")),
        ("/%c3%a9", Ok("/%C3%A9")),
        ("/é", Ok("/%C3%A9")),
        ("/%3a%3B", Ok("/%3A%3B")),
        ("/%2b+", Ok("/%2B+")),
        ("/%2f", Ok("/%2F")),
        ("/api%2Fx", Ok("/api%2Fx")),
        ("/api%2f%2fx", Ok("/api%2F%2Fx")),
        ("/a%2Fb/../c", Ok("/c")),
        // Dot segments.
        ("/.", Ok("/")),
        ("/./", Ok("/")),
        ("/a/.", Ok("/a/")),
        ("/a/..", Ok("/")),
        ("/a/b/..", Ok("/a/")),
        ("/a/b/../", Ok("/a/")),
        ("/a/b/../c", Ok("/a/c")),
        ("/a/./b/./c", Ok("/a/b/c")),
        ("/a/b/c/../../../d", Ok("/d")),
        ("/api/../admin", Ok("/admin")),
        ("/api/%2e%2e/admin", Ok("/admin")),
        ("/api/.%2E/admin", Ok("/admin")),
        ("/%2e/a", Ok("/a")),
        // Slashes.
        ("//", Ok("/")),
        ("//api/x", Ok("/api/x")),
        ("/a//b///c//", Ok("/a/b/c/")),
        ("/a//../b", Ok("/b")),
        ("/a/.//b", Ok("/a/b")),
        // Above the root.
        ("/..", Err(PathError::AboveRoot)),
        ("/../a", Err(PathError::AboveRoot)),
        ("/a/../../b", Err(PathError::AboveRoot)),
        ("//../b", Err(PathError::AboveRoot)),
        ("/./..", Err(PathError::AboveRoot)),
        ("/%2e%2e", Err(PathError::AboveRoot)),
        ("/a//../../b", Err(PathError::AboveRoot)),
        // Behind an escaped slash.
        ("/api/%2e%2e%2fadmin", Err(PathError::HiddenDotSegment)),
        ("/api/..%2Fadmin", Err(PathError::HiddenDotSegment)),
        ("/api%2F..", Err(PathError::HiddenDotSegment)),
        ("/api%2f..%2fadmin", Err(PathError::HiddenDotSegment)),
        ("/api%2F.", Err(PathError::HiddenDotSegment)),
        ("/.%2Fx", Err(PathError::HiddenDotSegment)),
        ("/a%2F%2e%2e/b", Err(PathError::HiddenDotSegment)),
        ("/a%2F..;x/b", Err(PathError::HiddenDotSegment)),
        // Hidden, even where another dot segment would take it away.
        ("/a%2F../../b", Err(PathError::HiddenDotSegment)),
        // Before a parameter.
        ("/..;/a", Err(PathError::DotSegmentParameter)),
        ("/a/..;x=1/b", Err(PathError::DotSegmentParameter)),
        ("/a/.;/b", Err(PathError::DotSegmentParameter)),
        ("/a/%2e%2e;/b", Err(PathError::DotSegmentParameter)),
        ("/a/..%3b/b", Err(PathError::DotSegmentParameter)),
        // Control bytes, spaces, backslashes.
        ("/a\0", Err(PathError::Control)),
        ("/a\x01b", Err(PathError::Control)),
        ("/a\tb", Err(PathError::Control)),
        ("/a\x7f", Err(PathError::Control)),
        ("/api/x%00y", Err(PathError::Control)),
        ("/a%0d%0ab", Err(PathError::Control)),
        ("/a%1F", Err(PathError::Control)),
        ("/a%7f", Err(PathError::Control)),
        ("/a b", Err(PathError::Space)),
        ("/a\\b", Err(PathError::Backslash)),
        ("/api/..%5cadmin", Err(PathError::Backslash)),
        ("/a%5C", Err(PathError::Backslash)),
        // Broken escapes.
        ("/%", Err(PathError::BrokenEscape)),
        ("/%2", Err(PathError::BrokenEscape)),
        ("/%zz", Err(PathError::BrokenEscape)),
        ("/%2g/x", Err(PathError::BrokenEscape)),
        ("/%u002e", Err(PathError::BrokenEscape)),
        ("/%%32e", Err(PathError::BrokenEscape)),
        // Delimiters.
        ("/a#b", Err(PathError::Fragment)),
        ("/a?b", Err(PathError::Query)),
        // Not a path.
        ("", Err(PathError::NotAbsolute)),
        ("*", Err(PathError::NotAbsolute)),
        ("a", Err(PathError::NotAbsolute)),
        ("%2Fa", Err(PathError::NotAbsolute)),
        ("\\a", Err(PathError::NotAbsolute)),
    ];

    #[test]
    fn follows_the_table_byte_for_byte() {
        for (raw, expected) in TABLE {
            let normal = normalize(raw.as_bytes());
            assert_eq!(
                normal.as_deref().map_err(|error| *error),
                expected.map(str::as_bytes),
                "{raw:?}"
            );
        }
    }

    #[test]
    fn leaves_a_normal_path_where_it_is() {
        for (raw, expected) in TABLE {
            if *expected == Ok(*raw) {
                let normal = normalize(raw.as_bytes());
                assert!(matches!(normal, Ok(Cow::Borrowed(_))), "{raw:?}");
            }
        }
    }

    #[test]
    fn escapes_every_high_byte_and_refuses_every_control_byte() {
        for byte in 0..=255u8 {
            let path = normalize(&[b'/', byte]).map(Cow::into_owned);
            let escape = normalize(format!("/%{byte:02x}").as_bytes()).map(Cow::into_owned);
            match byte {
                0..=0x1F | 0x7F => {
                    assert_eq!(path, Err(PathError::Control));
                    assert_eq!(escape, Err(PathError::Control));
                }
                0x80.. => {
                    assert_eq!(path, Ok(format!("/%{byte:02X}").into_bytes()));
                    assert_eq!(escape, path);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn finds_dot_segments_in_any_spelling() {
        for raw in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e",
            "/a/%2E%2e/",
            "/.%2e/x",
            "/a%2f..",
            "/..;x",
            "/a/..%3bx",
            "/a%2F.%2Fb",
            "//..",
        ] {
            assert!(has_dot_segments(raw.as_bytes()), "{raw}");
        }
        for raw in [
            "/",
            "//",
            "/a//b",
            "/...",
            "/.a",
            "/..a",
            "/a..",
            "/a/b.",
            "/%2e%2e%2e",
            "/%252e",
            "/%",
        ] {
            assert!(!has_dot_segments(raw.as_bytes()), "{raw}");
        }
    }

    /// The same rules as rewriting of text, one rule after the other over the whole path.
    fn naive(raw: &[u8]) -> Option<String> {
        const UNRESERVED: &str =
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
        if !raw.starts_with(b"/") {
            return None;
        }
        let mut text = String::new();
        let mut bytes = raw.iter().copied();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                if !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                let value = u8::from_str_radix(digits, 16).ok()?;
                if value < 0x20 || value == 0x7F || value == b'\\' {
                    return None;
                }
                if UNRESERVED.contains(char::from(value)) {
                    text.push(char::from(value));
                } else {
                    text.push_str(&format!("%{value:02X}"));
                }
            } else if byte >= 0x80 {
                text.push_str(&format!("%{byte:02X}"));
            } else if byte <= 0x20 || byte == 0x7F || b"\\#?".contains(&byte) {
                return None;
            } else {
                text.push(char::from(byte));
            }
        }
        for part in text.split('/') {
            let names: Vec<&str> = part.split("%2F").collect();
            for name in &names {
                let bare = name.replace("%3B", ";");
                let bare = bare.split(';').next().unwrap_or_default().to_owned();
                let dots = bare == "." || bare == "..";
                if dots && (names.len() > 1 || bare.len() < name.len()) {
                    return None;
                }
            }
        }
        while text.contains("//") {
            text = text.replace("//", "/");
        }
        // RFC 3986 section 5.2.4, with its input and output buffers.
        let (mut input, mut output) = (text, String::new());
        while !input.is_empty() {
            if input.starts_with("/./") {
                input.drain(..2);
            } else if input == "/." {
                input = "/".to_owned();
            } else if input.starts_with("/../") || input == "/.." {
                input = format!("/{}", input.get(4..).unwrap_or_default());
                let parent = output.rfind('/')?;
                output.truncate(parent);
            } else {
                let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
                output.extend(input.drain(..end));
            }
        }
        Some(output)
    }

    fn paths() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"/".to_vec()),
            3 => Just(b".".to_vec()),
            2 => Just(b"..".to_vec()),
            2 => Just(b"/../".to_vec()),
            2 => Just(b"%2e".to_vec()),
            1 => Just(b"%2F".to_vec()),
            1 => Just(b"%2f".to_vec()),
            1 => Just(b";".to_vec()),
            1 => Just(b"%3b".to_vec()),
            1 => Just(b"%5c".to_vec()),
            1 => Just(b"%".to_vec()),
            1 => Just("é".as_bytes().to_vec()),
            1 => Just(b"%25".to_vec()),
            6 => "[a-zA-Z0-9~]{1,3}".prop_map(String::into_bytes),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
            1 => any::<u8>().prop_map(|byte| format!("%{byte:02x}").into_bytes()),
        ];
        proptest::collection::vec(piece, 0..12)
            .prop_map(|pieces| [b"/".to_vec(), pieces.concat()].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn agrees_with_a_naive_model(raw in paths()) {
            let normal = normalize(&raw).ok().map(Cow::into_owned);
            let expected = naive(&raw).map(String::into_bytes);
            prop_assert_eq!(normal, expected, "{}", String::from_utf8_lossy(&raw));
        }

        #[test]
        fn sixteen_bytes_at_a_time_are_judged_as_one_by_one(
            target in "/([a-c]{1,16}|[/.;?#\\\\ %]|%2[0F]|\u{7f}|é){0,12}",
        ) {
            let target = target.as_bytes();
            prop_assert_eq!(normal_prefix(target), normal_prefix_by_bytes(target));
        }

        #[test]
        fn normal_form_stays_as_it_is(raw in paths()) {
            if let Ok(normal) = normalize(&raw) {
                let again = normalize(&normal);
                prop_assert!(matches!(again, Ok(Cow::Borrowed(_))), "one scan and no allocation");
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
            }
        }

        #[test]
        fn normal_form_has_nothing_left_to_read_twice(raw in paths()) {
            if let Ok(normal) = normalize(&raw) {
                prop_assert!(normal.starts_with(b"/"));
                prop_assert!(!has_dot_segments(&normal));
                prop_assert!(memchr::memmem::find(&normal, b"//").is_none());
                prop_assert!(normal.iter().all(|byte| byte.is_ascii_graphic()));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = normalize(&raw);
            let _ = has_dot_segments(&raw);
        }
    }
}
