//! Events to standard error.

use crate::config::model;

/// Changes the level and the format while running.
#[derive(Debug)]
pub struct Logging {}

/// Sets up events for the whole process; to be called once, before anything logs.
pub fn init(_config: &model::Log) -> Logging {
    todo!()
}

impl Logging {
    /// Takes over the level of `config`; the format stays until a restart.
    pub fn apply(&self, _config: &model::Log) {
        todo!()
    }
}
