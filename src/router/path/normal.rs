//! The look that nearly every path is done with: is it in normal form already?
//!
//! Sixteen bytes at a time; what has an escape or a segment that begins with a dot is gone through
//! byte by byte. It never says so of a path that [`normalize`](super::normalize) would change.

use crate::router::path::{CLASSES, Class, ends_name, escape, leading_dots, stays_escaped};
use crate::util::scan::split_piece;

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
pub(super) fn normal_prefix_by_bytes(target: &[u8]) -> Option<usize> {
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
