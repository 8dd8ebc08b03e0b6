//! What a server may take a path for that decodes more of it than we do.
//!
//! In the normal form (see [`super::path`]) `/admin%2Fx` and `/admin;v=1/x` are not below `/admin`:
//! RFC 3986 sections 2.2 and 3.3 let a server mean something of its own by them, and what is matched
//! is what goes on. But many servers decode every escape before they look at a path, and servlet
//! containers cut parameters off its segments: for them both are. A rule about who may ask `/admin`
//! has to hold for those spellings as well, whatever route they take.

use std::borrow::Cow;

use memchr::memchr2;

use super::path::decoded;

/// The other readings of `path`, which is in normal form: all escapes decoded, with the parameters
/// of its segments (from a `;` to the next slash) and without. None where there is no other, which
/// costs one look at the path.
pub fn others(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let ambiguous = memchr2(b'%', b';', path).is_some();
    let readings = ambiguous.then(|| {
        let plain = decoded(path);
        let bare = without_parameters(&plain).map(merged);
        let whole = matches!(plain, Cow::Owned(_)).then(|| merged(plain.into_owned()));
        [whole, bare]
    });
    readings.into_iter().flatten().flatten()
}

/// `None` where there are none.
fn without_parameters(path: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b';', path)?;
    let mut out = Vec::with_capacity(path.len());
    let mut inside = false;
    for &byte in path {
        inside = match byte {
            b'/' => false,
            b';' => true,
            _ => inside,
        };
        if !inside {
            out.push(byte);
        }
    }
    Some(out)
}

/// With one slash where there were several.
fn merged(mut path: Vec<u8>) -> Vec<u8> {
    path.dedup_by(|next, before| *next == b'/' && *before == b'/');
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(path: &str) -> Vec<String> {
        let text = |reading| String::from_utf8(reading).expect("of ASCII");
        others(path.as_bytes()).map(text).collect()
    }

    #[test]
    fn a_plain_path_has_no_other_reading() {
        for path in ["/", "/admin", "/a/b.c/d_e~f", "*"] {
            assert!(readings(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn escapes_are_decoded_and_parameters_cut() {
        let table: &[(&str, &[&str])] = &[
            ("/admin%2Fx", &["/admin/x"]),
            ("/admin%2F%2Fx", &["/admin/x"]),
            ("/%2Fadmin", &["/admin"]),
            ("/a%3Ab", &["/a:b"]),
            ("/admin;v=1/x", &["/admin/x"]),
            ("/;a/admin", &["/admin"]),
            ("/admin%3Bv/x", &["/admin;v/x", "/admin/x"]),
            ("/admin;v%2Fx", &["/admin;v/x", "/admin/x"]),
            // Once: who decodes twice is beyond help.
            ("/admin%252Fx", &["/admin%2Fx"]),
        ];
        for (path, expected) in table {
            assert_eq!(readings(path), *expected, "{path}");
        }
    }
}
