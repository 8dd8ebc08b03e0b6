//! `strip-prefix`, `replace-prefix` and `rewrite`: the path that goes on instead of the one that
//! was matched.
//!
//! A path put together from pieces could be one that routes and access rules never saw: what comes
//! out is brought into normal form again, and refused where it has dot segments or is no path. The
//! query is never touched.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::config::model::{Part, PathChange};
use crate::message::{Fields, Known};
use crate::router::path;

/// The result is no path that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPath;

/// What `path`, in normal form, becomes; itself where nothing applies to it.
///
/// # Errors
///
/// The result has dot segments or is otherwise no path.
pub fn change<'p>(change: &PathChange, path: &'p [u8]) -> Result<Cow<'p, [u8]>, NoPath> {
    let new = match change {
        PathChange::Prefix { from, to, .. } => prefix(path, from.as_bytes(), to.as_bytes()),
        PathChange::Rewrite { regex, to, .. } => {
            let Some(groups) = regex.captures(path) else {
                return Ok(Cow::Borrowed(path));
            };
            let mut new = Vec::with_capacity(path.len());
            for part in to {
                match part {
                    Part::Text(text) => new.extend_from_slice(text.as_bytes()),
                    Part::Group(group) => new.extend_from_slice(
                        groups.get(*group).map_or(b"", |taken| taken.as_bytes()),
                    ),
                }
            }
            Some(new)
        }
    };
    let Some(new) = new else {
        return Ok(Cow::Borrowed(path));
    };
    if path::has_dot_segments(&new) {
        return Err(NoPath);
    }
    match path::normalize(&new) {
        Ok(Cow::Borrowed(_)) => Ok(Cow::Owned(new)),
        Ok(Cow::Owned(normal)) => Ok(Cow::Owned(normal)),
        Err(_) => Err(NoPath),
    }
}

/// By whole segments; `None` where `path` is not below `from`.
fn prefix(path: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(from)?;
    if !rest.is_empty() && !rest.starts_with(b"/") {
        return None;
    }
    let new = [to, rest].concat();
    Some(if new.is_empty() { b"/".to_vec() } else { new })
}

/// Tells the server what was taken away, behind what a trusted proxy has taken away before us:
/// `fields` hold nothing that a stranger said of it.
pub fn tell_prefix(change: &PathChange, fields: &mut Fields) {
    let PathChange::Prefix {
        from, told: true, ..
    } = change
    else {
        return;
    };
    if from.is_empty() {
        return;
    }
    let outer: SmallVec<[u8; 64]> = match fields.get(Known::XForwardedPrefix) {
        Some(outer) if fields.count(Known::XForwardedPrefix) == 1 && outer.starts_with(b"/") => {
            outer.into()
        }
        _ => SmallVec::new(),
    };
    let end = outer.iter().rposition(|&byte| byte != b'/');
    let outer = &outer[..end.map_or(0, |end| end + 1)];
    fields.set_pieces(Known::XForwardedPrefix, &[outer, from.as_bytes()]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::*;

    fn strip(from: &str, to: &str) -> PathChange {
        PathChange::Prefix {
            from: from.to_owned(),
            to: to.to_owned(),
            told: to.is_empty(),
        }
    }

    fn rewrite(source: &str, to: &[Part]) -> PathChange {
        PathChange::Rewrite {
            source: source.to_owned(),
            regex: Regex::new(&format!("^(?:{source})$")).unwrap(),
            to: to.to_vec(),
        }
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn changed(rules: &PathChange, path: &str) -> Option<String> {
        let new = change(rules, path.as_bytes()).ok()?;
        Some(String::from_utf8(new.into_owned()).unwrap())
    }

    #[test]
    fn prefixes_are_whole_segments() {
        for (from, to, path, expected) in [
            ("/users", "", "/users", "/"),
            ("/users", "", "/users/", "/"),
            ("/users", "", "/users/1/", "/1/"),
            ("/users", "", "/userspace", "/userspace"),
            ("/a", "", "/a/a/b", "/a/b"),
            ("/v1", "/v2", "/v1/x", "/v2/x"),
            ("/v1", "/v2", "/v1", "/v2"),
            ("/v1", "/a/b", "/v1/", "/a/b/"),
            ("", "/a", "/x", "/a/x"),
            ("", "/a", "/", "/a/"),
            ("", "", "/x", "/x"),
            ("/x", "", "*", "*"),
        ] {
            assert_eq!(
                changed(&strip(from, to), path).as_deref(),
                Some(expected),
                "{from} {to} {path}"
            );
        }
    }

    #[test]
    fn a_path_matches_as_a_whole_or_stays() {
        let rules = rewrite(
            "/item/([0-9]+)(/.*)?",
            &[text("/v2/items/"), Part::Group(1), Part::Group(2)],
        );
        for (path, expected) in [
            ("/item/17", "/v2/items/17"),
            ("/item/17/x", "/v2/items/17/x"),
            ("/item/x", "/item/x"),
            ("/an/item/17", "/an/item/17"),
        ] {
            assert_eq!(changed(&rules, path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let apart = rewrite("/(.)x/(.)y", &[text("/a/"), Part::Group(1), Part::Group(2)]);
        assert_eq!(changed(&apart, "/.x/.y"), None, "dots that met");
        assert_eq!(changed(&apart, "/ax/by").as_deref(), Some("/a/ab"));
        let cut = rewrite("/(.*)[0-9A-F]", &[text("/"), Part::Group(1)]);
        assert_eq!(changed(&cut, "/a%2F"), None, "half of an escape");
        let bare = rewrite("/(.*)", &[Part::Group(1)]);
        assert_eq!(changed(&bare, "/a"), None, "no slash");
        assert_eq!(changed(&bare, "/a/b"), None);
        let doubled = rewrite("/(.*)", &[text("//x/"), Part::Group(1)]);
        assert_eq!(changed(&doubled, "/a").as_deref(), Some("/x/a"));
    }

    #[test]
    fn the_server_hears_what_was_taken_away() {
        for (before, expected) in [
            (&[][..], "/users"),
            (&["/outer"], "/outer/users"),
            (&["/outer/"], "/outer/users"),
            (&["/"], "/users"),
            (&["outer"], "/users"),
            (&["/a", "/b"], "/users"),
        ] {
            let mut fields = Fields::new();
            for value in before {
                fields.append(Known::XForwardedPrefix, value.as_bytes());
            }
            tell_prefix(&strip("/users", ""), &mut fields);
            let told: Vec<_> = fields.values(Known::XForwardedPrefix).collect();
            assert_eq!(told, [expected.as_bytes()], "{before:?}");
        }
        let mut fields = Fields::new();
        tell_prefix(&strip("/v1", "/v2"), &mut fields);
        assert!(!fields.contains(Known::XForwardedPrefix));
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            Just(Part::Group(1)),
            Just(Part::Group(2)),
            "[/.%2eEfF;a]{0,3}".prop_map(Part::Text),
        ]
    }

    proptest! {
        /// Whatever is cut and joined, what comes out is in normal form and stays so.
        #[test]
        fn the_result_is_in_normal_form(
            raw in "/([a.;/]|%2[eEfF]|%25|%5[cC]){0,12}",
            parts in proptest::collection::vec(part(), 0..5),
        ) {
            if let Ok(normal) = path::normalize(raw.as_bytes()) {
                let rules = rewrite("(.*?)([.%/].*)", &parts);
                if let Ok(new) = change(&rules, &normal) {
                    let again = path::normalize(&new);
                    prop_assert!(matches!(again, Ok(Cow::Borrowed(_))), "{new:?}");
                    prop_assert!(!path::has_dot_segments(&new));
                }
            }
        }
    }
}
