//! Text -> spanned tree -> checked model; every mistake collected.

pub mod diagnostics;
pub mod diff;
pub mod model;
pub mod routes;
pub mod sources;

use std::path::Path;

pub use self::diagnostics::{Diagnostic, Diagnostics, Severity};
pub use self::diff::{Diff, diff};
pub use self::model::Config;
pub use self::sources::Sources;

/// One accepted file (with what it includes), and what is worth saying about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Never errors: these would have refused the file.
    pub warnings: Diagnostics,
    pub sources: Sources,
}

impl Loaded {
    /// Refuses a file of which an include pattern matched in `previous` and matches nothing now:
    /// that is how a directory looks that is caught half-written.
    pub fn keeps_includes_of(&self, previous: &Sources) -> Result<(), Diagnostics> {
        let _ = previous;
        todo!()
    }
}

/// Reads, checks and compiles the file at `path` and everything that it includes.
///
/// `env` answers for `${NAME}` in string values. Never panics and never blocks on something that
/// is not a regular file, whatever stands in it.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let _ = (path, env);
    todo!()
}

/// JSON Schema (draft 2020-12) of the file, for editors.
pub fn schema() -> serde_json::Value {
    todo!()
}

/// The configuration as TOML, each value with its origin as a comment, secrets and values from the
/// environment as `***`. `effective` adds the defaults that apply; without it the file is shown as
/// written, after includes.
pub fn show(loaded: &Loaded, effective: bool) -> String {
    let _ = (loaded, effective);
    todo!()
}
