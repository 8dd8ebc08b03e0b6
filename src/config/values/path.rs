//! Paths and regular expressions that requests are matched with.
//!
//! A request's path is normalised before it is matched, so a path in the file that is not in
//! normal form could never match. What only spells a byte differently (escapes, letters beyond
//! ASCII) is brought into normal form here; what would mean another path is refused.

use regex::bytes::{Regex, RegexBuilder};

use crate::config::model::Part;
use crate::config::tree::quote;
use crate::config::values::Complaint;

/// Compiled size that one route may take; a counted repetition can ask for gigabytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// The normal form of `path` and `prefix` (a trailing slash is kept).
pub(in crate::config) fn normal_form(text: &str) -> Result<String, Complaint> {
    if !text.starts_with('/') {
        let complaint = Complaint::new("a path begins with `/`");
        return Err(match text.split_once("://") {
            Some(_) => {
                complaint.help("scheme and host are not part of it; there is `host` for that")
            }
            None => complaint.suggest(&format!("/{text}")),
        });
    }
    if let Some(c) = text.chars().find(|c| *c == '?' || *c == '#') {
        let cut = text.split(c).next().unwrap_or_default();
        return Err(Complaint::new(format!("`{c}` ends a path")).suggest(cut));
    }
    if text.contains(|c: char| c.is_control() || c == '\\') {
        return Err(Complaint::new(
            "requests with control characters or `\\` in the path are refused",
        ));
    }
    let escaped = escapes(text)?;
    let normal = segments(&escaped);
    if normal != escaped {
        return Err(Complaint::new("not in normal form: it would never match").suggest(&normal));
    }
    Ok(normal)
}

/// Escapes upper-cased, those of unreserved characters decoded, what must be escaped escaped
/// (RFC 3986 section 6.2.2).
fn escapes(text: &str) -> Result<String, Complaint> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'%' => {
                let Some((value, after)) = escape(rest) else {
                    return Err(Complaint::new("`%` is followed by two hexadecimal digits")
                        .help("write `%25` for `%` itself"));
                };
                match value {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(char::from(value))
                    }
                    0..0x20 | 0x7F | b'\\' => {
                        return Err(Complaint::new(
                            "requests with this character in the path are refused",
                        ));
                    }
                    _ => out.push_str(&format!("%{value:02X}")),
                }
                rest = after;
            }
            b' ' | 0x80.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(*byte)),
        }
    }
    Ok(out)
}

fn escape(after_percent: &[u8]) -> Option<(u8, &[u8])> {
    let (digits, rest) = after_percent.split_at_checked(2)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let value = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((value, rest))
}

/// Without dot segments and double slashes.
fn segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let directory = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    let slash = if directory && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", kept.join("/"))
}

/// What a health check asks for: sent as it is.
pub(in crate::config) fn request_target(text: &str) -> Result<(), Complaint> {
    if !text.starts_with('/') {
        return Err(Complaint::new("a path begins with `/`").suggest(&format!("/{text}")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(Complaint::new(format!(
            "{} cannot be sent in a path",
            quote(&c.to_string())
        ))
        .help("escape it: `%` and two hexadecimal digits")),
        None => Ok(()),
    }
}

/// Compiles `source` anchored at both ends.
pub(in crate::config) fn regex(source: &str) -> Result<Regex, Complaint> {
    if source.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(
            Complaint::new("it is matched against the whole path, which begins with `/`")
                .suggest(&format!("/{source}")),
        );
    }
    // Alone first, so that an error shows it as written and `a)(b` is not made whole by our group.
    compile(source)?;
    compile(&format!("^(?:{source})$"))
}

/// The new path of a `rewrite`. `${1}` can be written `$${1}`, because `${` is of variables.
pub(in crate::config) fn replacement(text: &str) -> Result<Vec<Part>, Complaint> {
    if !text.starts_with(['/', '$']) {
        let complaint = Complaint::new("a path begins with `/`");
        return Err(complaint.suggest(&format!("/{text}")));
    }
    if let Some(c) = text
        .chars()
        .find(|c| "?#\\ ".contains(*c) || c.is_control())
    {
        let complaint = Complaint::new(format!("{} cannot be in a path", quote(&c.to_string())));
        return Err(match c {
            '?' => complaint.help("the query goes on as it is"),
            _ => complaint,
        });
    }
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        literal.push_str(before);
        let braced = after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let (name, behind) = match (braced, after.as_bytes().first()) {
            (Some(braced), _) => braced,
            (None, Some(b'0'..=b'9' | b'$')) => after.split_at(1),
            _ => return Err(not_a_group()),
        };
        rest = behind;
        if name == "$" {
            literal.push('$');
            continue;
        }
        if !(1..=2).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_digit()) {
            return Err(not_a_group());
        }
        if !literal.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut literal)));
        }
        parts.push(Part::Group(name.parse().unwrap_or_default()));
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    Ok(parts)
}

fn not_a_group() -> Complaint {
    Complaint::new("`$` stands before the number of a group").help("write `$$` for `$` itself")
}

fn compile(pattern: &str) -> Result<Regex, Complaint> {
    // Paths are ASCII when they are matched.
    let built = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(REGEX_SIZE_LIMIT)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Complaint::new("it compiles to more than 1 MiB"),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let cause = last.trim().trim_start_matches("error: ");
            Complaint::new(format!("not a regular expression: {cause}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_a_byte_become_one() {
        for (text, normal) in [
            ("/", "/"),
            ("/a/", "/a/"),
            ("/%7euser", "/~user"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a%2fb", "/a%2Fb"),
            ("/a b", "/a%20b"),
        ] {
            assert_eq!(normal_form(text).as_deref(), Ok(normal));
        }
    }

    #[test]
    fn other_paths_are_suggested_not_assumed() {
        for (text, help) in [
            ("users", "/users"),
            ("/a//b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.", "/a/"),
            ("/a?b=c", "/a"),
            ("//", "/"),
        ] {
            let complaint = normal_form(text).unwrap_err();
            assert_eq!(complaint.help, Some(format!("write \"{help}\"")), "{text}");
        }
        for text in ["", "/%", "/%zz", "/%+1", "/%00", "/a\\b", "/%5c", "/\u{7}"] {
            assert!(normal_form(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn regexes_are_anchored_and_bounded() {
        let regex_of = |text| regex(text).unwrap();
        assert!(regex_of("/a|/b").is_match(b"/b"));
        assert!(!regex_of("/a|/b").is_match(b"/bx"));
        assert!(regex("/(").unwrap_err().cause.contains("unclosed group"));
        assert!(regex("/)(").is_err());
        assert!(
            regex("/(a{1000}){1000}")
                .unwrap_err()
                .cause
                .contains("1 MiB")
        );
        assert!(regex("users/[0-9]+").is_err());
    }

    #[test]
    fn replacements_have_groups() {
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            replacement("/a$1-${12}/$$b$0"),
            Ok(vec![
                text("/a"),
                Part::Group(1),
                text("-"),
                Part::Group(12),
                text("/$b"),
                Part::Group(0)
            ])
        );
        assert_eq!(replacement("$1"), Ok(vec![Part::Group(1)]));
        for bad in [
            "", "a", "/$", "/$a", "/${a}", "/${}", "/${123}", "/a?b", "/a b", "/\\",
        ] {
            assert!(replacement(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn normal_forms_stay_as_they_are(text in "(/|[a-z.~%]|%2[eEfF]|%[0-9a-f]{2}|\\PC){0,20}") {
            if let Ok(normal) = normal_form(&format!("/{text}")) {
                prop_assert_eq!(normal_form(&normal), Ok(normal.clone()));
            }
        }

        #[test]
        fn any_text_compiles_or_is_refused(text in "([\\(\\)\\[\\]\\{\\}*+?|^$.,0-9a-z/\\\\]|\\PC){0,20}") {
            let _ = regex(&text);
        }
    }
}
