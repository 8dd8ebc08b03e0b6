//! What the admin listener needs of the rest of the process.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::model::Secret;
use crate::upstream::view::{OverriddenView, UpstreamView};
use crate::upstream::{Override, OverrideError};

pub type Future<T> = Pin<Box<dyn std::future::Future<Output = T> + Send>>;

/// The process as its operator sees it. Called on the control runtime; nothing here may block but
/// for the file reads of a reload, which are the implementor's to move away.
pub trait Control: Send + Sync + 'static {
    /// Of the configuration in use: a reload changes token and hosts.
    fn settings(&self) -> Settings;

    fn readiness(&self) -> Readiness;

    /// In Prometheus' text format.
    fn metrics(&self) -> String;

    fn status(&self) -> Status;

    fn upstreams(&self) -> Vec<UpstreamView>;

    /// The effective configuration as TOML, secrets and values from the environment as `***`.
    fn configuration(&self) -> String;

    /// Reads the file at once. Resolves when the new configuration is in use, or refused.
    fn reload(&self) -> Future<Result<Reloaded, Rejected>>;

    /// Which way a request would go. The error is a sentence about the question.
    fn explain(&self, request: ExplainRequest) -> Result<serde_json::Value, String>;

    fn set_override(
        &self,
        upstream: &str,
        server: &str,
        change: Override,
    ) -> Result<OverriddenView, OverrideError>;

    fn clear_override(&self, upstream: &str, server: &str)
    -> Result<OverriddenView, OverrideError>;
}

/// Who may ask.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Never empty.
    pub token: Option<Secret>,
    /// As configured: names that a Host may have besides loopback and the bound address.
    pub hosts: Arc<[String]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// Not yet configured and bound.
    Starting,
    Ready,
    Draining,
}

/// `/status` but for the upstreams.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub version: &'static str,
    /// Another one after an upgrade.
    pub pid: u32,
    pub state: Readiness,
    pub generation: u64,
    pub uptime_seconds: u64,
    pub workers: usize,
    pub tasks: Tasks,
    /// Of clients, over all listeners, and how many there may be: what "auto" came to, and what the
    /// descriptor limit left of a written number.
    pub connections: usize,
    pub max_connections: usize,
    /// Over `memory-limit`: nothing new is taken in.
    pub shedding: bool,
    /// The file that is watched.
    pub config_file: String,
    pub last_reload: LastReload,
    pub listeners: Vec<ListenerStatus>,
    pub routes: Vec<RouteStatus>,
}

/// How many tasks the event loops have now: what does not end after a storm is a leak.
#[derive(Debug, Clone, Serialize)]
pub struct Tasks {
    pub control: usize,
    /// One number per worker.
    pub workers: Vec<usize>,
}

/// The outcome of the last attempt to change the configuration; the first load counts.
#[derive(Debug, Clone, Serialize)]
pub struct LastReload {
    pub successful: bool,
    /// RFC 3339.
    pub time: String,
    /// In one line; `None` when it was accepted.
    pub mistakes: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ListenerStatus {
    pub name: String,
    /// As in the file.
    pub address: String,
    pub connections: i64,
    pub requests_in_flight: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct RouteStatus {
    pub name: String,
    pub upstream: String,
    pub requests_total: u64,
}

/// A configuration was accepted, or the file says what is in use already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reloaded {
    pub generation: u64,
    /// One line per change; empty when nothing changed.
    pub changes: Vec<String>,
    /// What the checker warns about, in one line each.
    pub warnings: Vec<String>,
}

/// A configuration was refused; what was in use still is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rejected {
    /// For people, without colours.
    pub text: String,
    /// For programs: the array of `check --format json`.
    pub mistakes: serde_json::Value,
}

/// A question to `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    #[serde(default = "get")]
    pub method: String,
    /// Absolute, or a path alone.
    pub url: String,
    /// `name: value` each, as `curl -H` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// The TCP peer; without it the request comes from this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
}

fn get() -> String {
    "GET".into()
}
