//! Where live state is kept between generations, by (upstream, address).

use std::sync::Arc;

use crate::config::model;
use crate::upstream::upstream::Upstream;
use crate::upstream::view::{ServerView, UpstreamView};

/// What the admin API set for one server over the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
}

/// Why an override was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    #[error("no such upstream")]
    NoUpstream,
    #[error("no such server in this upstream")]
    NoServer,
    #[error("a weight is 0 to 1000")]
    Weight,
    #[error("under round-robin all weights are equal")]
    RoundRobin,
    #[error("neither weight nor drain given")]
    Empty,
}

/// The live state of all upstreams: one per process.
#[derive(Debug)]
pub struct Registry {}

impl Registry {
    pub fn new() -> Arc<Self> {
        todo!()
    }

    /// The upstream for a configuration over the live state that is there. Has no visible effect;
    /// an unchanged configuration gives the published upstream itself.
    pub fn prepare(&self, _config: &Arc<model::Upstream>) -> Arc<Upstream> {
        todo!()
    }

    /// Makes these the current upstreams, all that there are: called by reload right after the
    /// snapshot was swapped in. Starts and stops checks and resolving, so on the control runtime.
    /// Cannot fail.
    pub fn publish(self: &Arc<Self>, _upstreams: &[Arc<Upstream>]) {
        todo!()
    }

    /// The control task: run it once on the control runtime, for the life of the process.
    pub async fn run(self: Arc<Self>) {
        todo!()
    }

    /// Sets what is given and keeps the rest of an earlier override.
    pub fn set_override(
        &self,
        _upstream: &str,
        _server: &str,
        _change: Override,
    ) -> Result<ServerView, OverrideError> {
        todo!()
    }

    /// Back to the configuration.
    pub fn clear_override(
        &self,
        _upstream: &str,
        _server: &str,
    ) -> Result<ServerView, OverrideError> {
        todo!()
    }

    /// Every override, as (upstream, server, what): for `/status` and reload events.
    pub fn overrides(&self) -> Vec<(Arc<str>, Arc<str>, Override)> {
        todo!()
    }

    /// The current upstreams by name.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        todo!()
    }

    /// All upstreams as `/status` shows them.
    pub fn view(&self) -> Vec<UpstreamView> {
        todo!()
    }
}
