//! `request-headers` and `response-headers` of a route: removed first, then set, then added.
//!
//! What is the same for every request is formatted once, when the snapshot is built, and appended
//! as a block.

use crate::config::model::{Format, HeaderEdits, Template};
use crate::filter::template::{self, Values};
use crate::message::{Block, Fields, Known, KnownSet};

/// The edits of one direction, compiled.
#[derive(Debug)]
pub struct Edits {
    /// What `remove` and `set` take away.
    known: KnownSet,
    /// These, and what is added.
    touched: KnownSet,
    others: Box<[Box<str>]>,
    lines: Lines,
}

#[derive(Debug)]
enum Lines {
    None,
    Fixed(Block),
    /// Some have variables: all in their order.
    Mixed(Box<[(Box<str>, Template)]>),
}

impl Edits {
    /// `None` where there is nothing to do.
    pub fn compile(edits: &HeaderEdits) -> Option<Box<Edits>> {
        if edits.is_empty() {
            return None;
        }
        let (mut known, mut others) = (KnownSet::EMPTY, Vec::new());
        let set = edits.set.iter().map(|(name, _)| name);
        for name in edits.remove.iter().chain(set) {
            match Known::find(name.as_bytes()) {
                Some(name) => known = known.with(name),
                None => others.push(name.as_str().into()),
            }
        }
        let added = edits.add.iter();
        let touched = added
            .filter_map(|(name, _)| Known::find(name.as_bytes()))
            .fold(known, KnownSet::with);
        Some(Box::new(Edits {
            known,
            touched,
            others: others.into(),
            lines: Lines::compile(edits),
        }))
    }

    /// Whether one of these names is changed.
    pub fn touches(&self, names: KnownSet) -> bool {
        self.touched.intersects(names)
    }

    /// `values`: there whenever a template of the route has variables.
    pub fn apply(&self, fields: &mut Fields, values: Option<&Values>) {
        fields.remove_any(self.known);
        for name in &self.others {
            fields.remove_text(name);
        }
        match &self.lines {
            Lines::None => {}
            Lines::Fixed(block) => fields.append_block(block),
            Lines::Mixed(lines) => {
                for (name, template) in lines {
                    append(fields, name, template, values);
                }
            }
        }
    }
}

impl Lines {
    fn compile(edits: &HeaderEdits) -> Lines {
        let lines = || edits.set.iter().chain(&edits.add);
        if lines().next().is_none() {
            return Lines::None;
        }
        let fixed: Option<Vec<_>> = lines()
            .map(|(name, value)| Some((name, value.fixed()?)))
            .collect();
        match fixed {
            Some(fixed) => {
                let mut fields = Fields::new();
                for (name, value) in fixed {
                    fields.append_text(name, value.as_bytes());
                }
                Lines::Fixed(Block::from_fields(&fields))
            }
            None => Lines::Mixed(
                lines()
                    .map(|(name, value)| (name.as_str().into(), value.clone()))
                    .collect(),
            ),
        }
    }
}

fn append(fields: &mut Fields, name: &str, template: &Template, values: Option<&Values>) {
    if let Some(text) = template.fixed() {
        fields.append_text(name, text.as_bytes());
    } else if let Some(values) = values {
        let text = template::render(template, values, Format::Plain);
        fields.append_text(name, &text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::{Piece, Variable};
    use crate::filter::template::testing::values;

    fn fixed(lines: &[(&str, &str)]) -> Vec<(String, Template)> {
        let template = |text: &str| Template(vec![Piece::Text(text.to_owned())]);
        lines
            .iter()
            .map(|(name, value)| ((*name).to_owned(), template(value)))
            .collect()
    }

    fn lines(fields: &Fields) -> Vec<String> {
        let text = String::from_utf8_lossy;
        fields
            .iter()
            .map(|(name, value)| format!("{}: {}", text(name), text(value)))
            .collect()
    }

    fn edits() -> HeaderEdits {
        HeaderEdits {
            remove: vec!["COOKIE".to_owned(), "x-gone".to_owned()],
            set: fixed(&[("Accept", "text/html"), ("X-One", "1"), ("X-Gone", "back")]),
            add: fixed(&[("X-One", "2"), ("Via", "us")]),
        }
    }

    fn head() -> Fields {
        let mut fields = Fields::new();
        for (name, value) in [
            ("Host", "a"),
            ("Cookie", "a=b"),
            ("cookie", "c=d"),
            ("X-gone", "1"),
            ("x-GONE", "2"),
            ("accept", "*/*"),
            ("x-one", "0"),
            ("Via", "1.1 x"),
        ] {
            fields.append_text(name, value.as_bytes());
        }
        fields
    }

    const EDITED: [&str; 7] = [
        "Host: a",
        "Via: 1.1 x",
        "Accept: text/html",
        "X-One: 1",
        "X-Gone: back",
        "X-One: 2",
        "Via: us",
    ];

    #[test]
    fn removed_then_set_then_added() {
        let mut fields = head();
        Edits::compile(&edits()).unwrap().apply(&mut fields, None);
        assert_eq!(lines(&fields), EDITED);
        assert!(Edits::compile(&HeaderEdits::default()).is_none());
    }

    #[test]
    fn a_variable_changes_nothing_but_its_own_line() {
        let mut with_variable = edits();
        let piece = Piece::Variable(Variable::ClientIp);
        with_variable
            .add
            .push(("X-Client".to_owned(), Template(vec![piece])));
        let mut fields = head();
        Edits::compile(&with_variable)
            .unwrap()
            .apply(&mut fields, Some(&values(b"/", b"")));
        let mut expected = EDITED.map(str::to_owned).to_vec();
        expected.push("X-Client: 192.0.2.1".to_owned());
        assert_eq!(lines(&fields), expected);
    }

    #[test]
    fn what_is_touched_is_known() {
        let edits = Edits::compile(&edits()).unwrap();
        for (name, touched) in [
            (Known::Cookie, true),
            (Known::Accept, true),
            (Known::Via, true),
            (Known::Host, false),
        ] {
            assert_eq!(edits.touches(KnownSet::of(&[name])), touched, "{name:?}");
        }
    }

    proptest! {
        /// Whatever is in a query, there is one more line and no other.
        #[test]
        fn a_value_stays_one_line(query in proptest::collection::vec(any::<u8>(), 0..40)) {
            let edits = HeaderEdits {
                set: vec![(
                    "X-Query".to_owned(),
                    Template(vec![Piece::Variable(Variable::RequestQuery)]),
                )],
                ..HeaderEdits::default()
            };
            let mut fields = Fields::new();
            Edits::compile(&edits).unwrap().apply(&mut fields, Some(&values(b"/", &query)));
            let mut out = Vec::new();
            fields.write(&mut out, KnownSet::EMPTY);
            prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert!(out.starts_with(b"X-Query: ") && out.ends_with(b"\r\n"));
        }
    }
}
