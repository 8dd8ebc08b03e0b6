//! What operators see of an upstream: `/status`, `explain`, the dashboard.

use serde::Serialize;

/// An upstream as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamView {
    pub name: String,
    pub balance: &'static str,
    pub panic: bool,
    pub queue_length: usize,
    pub servers: Vec<ServerView>,
}

/// A server as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ServerView {
    pub address: String,
}
