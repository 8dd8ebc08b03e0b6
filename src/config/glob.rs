//! The patterns of `include`: `*`, `?` and `[a-z]` in any part of a path, as a shell expands them.
//!
//! A name that begins with a dot is matched only by a pattern that does: editors and volume mounts
//! keep such files next to the real ones.

use std::path::{Component, Path, PathBuf};

/// Whether `pattern` has anything to expand.
pub(super) fn is_pattern(pattern: &Path) -> bool {
    pattern.to_string_lossy().contains(['*', '?', '['])
}

/// The part of `pattern` before its first component with a wildcard.
pub(super) fn literal_base(pattern: &Path) -> PathBuf {
    let parts = pattern.components();
    let literal = parts.take_while(|part| !is_pattern(Path::new(part.as_os_str())));
    let base: PathBuf = literal.collect();
    if base.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        base
    }
}

/// What exists and matches, sorted by name. A path without wildcards matches itself if it exists.
pub(super) fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        found = match part {
            Component::Normal(name) if is_pattern(Path::new(name)) => {
                let name = name.to_string_lossy();
                found
                    .iter()
                    .flat_map(|base| matching(base, &name))
                    .collect()
            }
            part => found.into_iter().map(|base| base.join(part)).collect(),
        };
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    found.sort();
    found
}

fn matching(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let directory = if base.as_os_str().is_empty() {
        Path::new(".")
    } else {
        base
    };
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let fits = |name: &String| {
        (pattern.starts_with('.') || !name.starts_with('.')) && matches(pattern, name)
    };
    names.filter(fits).map(|name| base.join(name)).collect()
}

/// Linear in `name` times `pattern`: on a mismatch only the last `*` takes one character more.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            last_star = Some((p, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, name[n]) {
            p = next;
            n += 1;
        } else if let Some((star, taken)) = last_star {
            last_star = Some((star, taken + 1));
            (p, n) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The place behind the element at `p` of `pattern` when it takes `c`.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => set(pattern, p, c),
        literal => (*literal == c).then_some(p + 1),
    }
}

fn set(pattern: &[char], start: usize, c: char) -> Option<usize> {
    let negated = matches!(pattern.get(start + 1), Some('!' | '^'));
    let first = start + 1 + usize::from(negated);
    // A `]` that comes first belongs to the set; without an end `[` is itself.
    let Some(length) = pattern.get(first + 1..)?.iter().position(|c| *c == ']') else {
        return (c == '[').then_some(start + 1);
    };
    let end = first + 1 + length;
    let mut rest = &pattern[first..end];
    let mut inside = false;
    while let [head, tail @ ..] = rest {
        match tail {
            ['-', high, tail @ ..] => {
                inside |= (*head..=*high).contains(&c);
                rest = tail;
            }
            _ => {
                inside |= *head == c;
                rest = tail;
            }
        }
    }
    (inside != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name) in [
            ("*.toml", "a.toml"),
            ("a?c", "abc"),
            ("[0-9]*", "10-x"),
            ("[!a]b", "cb"),
            ("*", "x"),
            ("a*b*c", "aXbYbc"),
        ] {
            assert!(matches(pattern, name), "{pattern} takes {name}");
        }
        for (pattern, name) in [
            ("*.toml", "a.toml~"),
            ("a?c", "ac"),
            ("[!a]b", "ab"),
            ("[0-9]", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} does not take {name}");
        }
    }

    #[test]
    fn expands_in_order_and_leaves_hidden_files_out() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", ".c.toml", "d.txt"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = expand(&directory.path().join("*.toml"));
        assert_eq!(
            found,
            [
                directory.path().join("a.toml"),
                directory.path().join("b.toml")
            ]
        );
        assert_eq!(expand(&directory.path().join("d.txt")).len(), 1);
        assert_eq!(expand(&directory.path().join("e.txt")).len(), 0);
        assert_eq!(
            literal_base(&directory.path().join("x*/y")),
            directory.path()
        );
    }

    proptest! {
        #[test]
        fn any_pattern_and_name_are_compared(pattern in "[a\\*\\?\\[\\]!\\-]{0,12}", name in "[ab\\]\\[]{0,12}") {
            let _ = matches(&pattern, &name);
        }

        #[test]
        fn a_name_matches_itself(name in "[a-z.]{1,12}") {
            prop_assert!(matches(&name, &name));
        }
    }
}
