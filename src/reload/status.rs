//! How the last attempt to change the configuration went, for `/status`.

use std::time::SystemTime;

use super::Trigger;

/// See the module. The start counts as the first attempt.
#[derive(Debug, Clone)]
pub struct LastReload {
    pub at: SystemTime,
    /// `None`: the start.
    pub trigger: Option<Trigger>,
    pub successful: bool,
    /// One line: what changed, or the first mistake and how many more.
    pub summary: String,
}
