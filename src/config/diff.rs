//! What a reload changes, in meaning: names that come, go or change, and weights.

use crate::config::Config;

/// The difference between two configurations; `Display` writes one short line per change.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Diff {
    pub lines: Vec<String>,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// What changes from `old` to `new`.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let _ = (old, new);
    todo!()
}
