//! How the last reload went, for `/status`.

use std::time::SystemTime;

use super::Trigger;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// `None` since the start.
    pub last: Option<LastReload>,
}

#[derive(Debug, Clone)]
pub struct LastReload {
    pub at: SystemTime,
    pub trigger: Trigger,
    pub successful: bool,
    /// One line: what changed, or the first mistake and how many more.
    pub summary: String,
    /// All mistakes of a refused file, one object each; `Null` otherwise.
    pub mistakes: serde_json::Value,
}
