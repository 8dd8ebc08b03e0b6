//! Which certificates are for a name: exact ones, else those of its one-label wildcard, else the
//! first (RFC 6125 section 6.4.3: a wildcard stands for one whole label).

use std::collections::HashMap;

use smallvec::SmallVec;

/// Places in the list, in its order: several may be for one name, with keys of different kinds.
type Places = SmallVec<[usize; 2]>;

/// See the module.
#[derive(Debug, Default, PartialEq)]
pub struct Names {
    exact: HashMap<Box<str>, Places>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Places>,
    /// For any other name: the first certificate and those that share its first name.
    default: Places,
}

impl Names {
    /// Of each certificate its names, in lower case.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a [Box<str>]>) -> Self {
        let mut names = Names::default();
        let mut first = None;
        for (place, of_one) in certificates.into_iter().enumerate() {
            if place == 0 {
                first = of_one.first();
            }
            for name in of_one {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut names.wildcard, parent),
                    None => (&mut names.exact, &**name),
                };
                map.entry(name.into()).or_default().push(place);
            }
        }
        let same = first.and_then(|name| names.known(name));
        names.default = same.cloned().unwrap_or_else(|| Places::from_slice(&[0]));
        names
    }

    /// For a name in lower case, or none. Never empty.
    pub fn places(&self, name: Option<&str>) -> &[usize] {
        name.and_then(|name| self.known(name))
            .unwrap_or(&self.default)
    }

    fn known(&self, name: &str) -> Option<&Places> {
        let parent = |name: &str| name.split_once('.').map(|(_, parent)| parent.to_owned());
        self.exact
            .get(name)
            .or_else(|| self.wildcard.get(&*parent(name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lists: &[&[&str]]) -> Names {
        let lists: Vec<Vec<Box<str>>> = lists
            .iter()
            .map(|names| names.iter().map(|name| Box::from(*name)).collect())
            .collect();
        Names::new(lists.iter().map(Vec::as_slice))
    }

    #[test]
    fn exact_beats_wildcard_beats_the_first() {
        let names = of(&[
            &["first.example"],
            &["*.a.example", "a.example"],
            &["special.a.example"],
        ]);
        for (name, place) in [
            ("first.example", 0),
            ("a.example", 1),
            ("x.a.example", 1),
            ("special.a.example", 2),
            ("x.special.a.example", 0),
            ("x.y.a.example", 0),
            (".a.example", 1),
            ("other", 0),
            ("", 0),
        ] {
            assert_eq!(names.places(Some(name)), [place], "{name}");
        }
        assert_eq!(names.places(None), [0]);
    }

    #[test]
    fn certificates_for_one_name_stand_in_the_order_of_the_list() {
        let names = of(&[&["a"], &["*.b"], &["a"], &["*.b"]]);
        assert_eq!(names.places(Some("a")), [0, 2]);
        assert_eq!(names.places(Some("x.b")), [1, 3]);
        assert_eq!(names.places(Some("unknown")), [0, 2]);
    }

    #[test]
    fn a_default_that_is_a_wildcard_or_nameless_is_still_the_default() {
        assert_eq!(of(&[&["*.a"], &["b"]]).places(Some("c")), [0]);
        assert_eq!(of(&[&[], &["b"]]).places(None), [0]);
    }
}
