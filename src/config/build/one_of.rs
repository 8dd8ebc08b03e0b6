//! Keys of which a route has exactly one: what it is asked for, and who answers.

use crate::config::build::Building;
use crate::config::reader::Reader;

/// What is said where that is not so.
pub(super) struct OneOf {
    /// At least two.
    pub keys: &'static [&'static str],
    /// Where none is given: what is asked there, or what may be written.
    pub missing: Hint,
    /// What a second one is.
    pub second: &'static str,
    /// What may be done about it.
    pub instead: Option<&'static str>,
}

pub(super) enum Hint {
    Label(&'static str),
    Help(&'static str),
}

impl OneOf {
    /// The first of the keys that is given. None and several are reported.
    pub(super) fn given(
        &self,
        reader: Reader<'_>,
        building: &mut Building<'_>,
    ) -> Option<&'static str> {
        let keys = self.keys.iter().copied();
        let given: Vec<&str> = keys.filter(|key| reader.node(key).is_some()).collect();
        let problems = &mut building.problems;
        match given.as_slice() {
            [] if !reader.all_known() => {}
            [] => {
                let message = format!("a route needs one of {}", self.list());
                let error = problems.error("missing-key", reader.span, message);
                match self.missing {
                    Hint::Label(label) => error.label(label),
                    Hint::Help(help) => error.help(help),
                };
            }
            [first, second, ..] => {
                let message = format!("a route has one of {}, not {}", self.list(), given.len());
                let span = |key: &str| reader.entry(key).map_or(reader.span, |one| one.key_span);
                let mut spans = [span(first), span(second)];
                spans.sort();
                let error = problems.error("conflicting-keys", spans[1], message);
                error.label(self.second).related(spans[0], "the first");
                if let Some(instead) = self.instead {
                    error.help(instead);
                }
            }
            [_] => {}
        }
        given.first().copied()
    }

    /// "`path`, `prefix` and `regex`".
    fn list(&self) -> String {
        let quoted: Vec<String> = self.keys.iter().map(|key| format!("`{key}`")).collect();
        match quoted.split_last() {
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}
