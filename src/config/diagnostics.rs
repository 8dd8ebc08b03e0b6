//! Mistakes and warnings with their place, rendered the way rustc does.

use crate::config::Sources;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One mistake.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable, kebab-case: `unknown-key`.
    pub code: &'static str,
    pub message: String,
}

/// All mistakes and warnings of one load.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {}

impl Diagnostics {
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        std::iter::empty()
    }

    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// rustc style, for people; ends with a line that counts.
    pub fn render_human(&self, color: bool) -> String {
        let _ = color;
        todo!()
    }

    /// An array with one object per mistake: file, line, column, severity, code, message, help.
    pub fn to_json(&self) -> serde_json::Value {
        todo!()
    }

    /// One line for a log: the first mistake with its place, and how many more.
    pub fn summary(&self) -> String {
        todo!()
    }

    /// What was read, also when it is wrong: a watcher goes on watching it.
    pub fn sources(&self) -> &Sources {
        todo!()
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary())
    }
}

impl std::error::Error for Diagnostics {}
