//! The process as the admin listener sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use tokio::runtime::RuntimeMetrics;
use tokio::time::Instant;

use super::signals::Replaced;
use crate::admin;
use crate::admin::{
    ExplainRequest, ListenerStatus, Readiness, Rejected, Reloaded, RouteStatus, Settings,
};
use crate::config;
use crate::reload::{Handle, Outcome, Trigger};
use crate::telemetry::Metrics;
use crate::upstream::view::{OverriddenView, UpstreamView};
use crate::upstream::{Override, OverrideError, Registry};
use crate::util::capacity::Capacity;
use crate::worker::Workers;

pub(super) struct Control {
    pub capacity: Arc<Capacity>,
    pub reload: Handle,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub workers: Arc<Workers>,
    /// Of control's own event loop.
    pub tasks: RuntimeMetrics,
    pub config_file: PathBuf,
    pub replaced: Replaced,
    pub started: Instant,
}

impl Control {
    /// Of this process.
    fn state(&self) -> Readiness {
        if self.reload.is_ready() {
            Readiness::Ready
        } else {
            Readiness::Draining
        }
    }
}

impl admin::Control for Control {
    fn settings(&self) -> Settings {
        let current = self.reload.current();
        let admin = current.admin.as_ref();
        Settings {
            token: admin.and_then(|admin| admin.token.clone()),
            hosts: admin.map_or(&[][..], |admin| &admin.hosts).into(),
        }
    }

    fn readiness(&self) -> Readiness {
        // Who asks us still, on a connection of before, wants to know about the service.
        match self.replaced.serves() {
            true => Readiness::Ready,
            false => self.state(),
        }
    }

    fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn status(&self) -> admin::Status {
        let current = self.reload.current();
        let last = self.reload.last();
        let snapshot = &current.snapshot;
        admin::Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            state: self.state(),
            generation: snapshot.generation,
            uptime_seconds: self.started.elapsed().as_secs(),
            workers: self.workers.count(),
            tasks: admin::Tasks {
                control: self.tasks.num_alive_tasks(),
                workers: self.workers.tasks(),
            },
            connections: self.capacity.open(),
            max_connections: self.capacity.most(),
            shedding: self.capacity.lacks_memory(),
            config_file: self.config_file.display().to_string(),
            last_reload: admin::LastReload {
                successful: last.successful,
                time: rfc3339(last.at),
                mistakes: (!last.successful).then(|| last.summary.clone()),
            },
            listeners: snapshot.listeners.iter().map(listener).collect(),
            routes: snapshot
                .routes
                .iter()
                .map(|state| route(state, &snapshot.config.upstreams))
                .collect(),
        }
    }

    fn upstreams(&self) -> Vec<UpstreamView> {
        self.registry.view()
    }

    fn configuration(&self) -> String {
        config::show(&self.reload.current().loaded, true)
    }

    fn reload(&self) -> admin::Future<Result<Reloaded, Rejected>> {
        let reload = self.reload.clone();
        Box::pin(async move { told(reload.reload(Trigger::Admin).await) })
    }

    fn explain(&self, request: ExplainRequest) -> Result<serde_json::Value, String> {
        let explanation = admin::explain::explain(&self.reload.current().snapshot, &request)?;
        serde_json::to_value(explanation).map_err(|error| error.to_string())
    }

    fn set_override(
        &self,
        upstream: &str,
        server: &str,
        change: Override,
    ) -> Result<OverriddenView, OverrideError> {
        self.registry.set_override(upstream, server, change)
    }

    fn clear_override(
        &self,
        upstream: &str,
        server: &str,
    ) -> Result<OverriddenView, OverrideError> {
        self.registry.clear_override(upstream, server)
    }
}

/// A reload's outcome in the words of the API.
fn told(outcome: Outcome) -> Result<Reloaded, Rejected> {
    match outcome {
        Outcome::Unchanged { generation } => Ok(Reloaded {
            generation,
            changes: Vec::new(),
            warnings: Vec::new(),
        }),
        Outcome::Accepted {
            generation,
            changes,
            warnings,
        } => Ok(Reloaded {
            generation,
            changes: changes.to_string().lines().map(str::to_owned).collect(),
            warnings: warnings.lines().collect(),
        }),
        Outcome::Rejected(rejection) => Err(Rejected {
            text: rejection.render(),
            mistakes: rejection.to_json(),
        }),
        Outcome::Stopping => {
            let text = "the process is ending: nothing is reloaded any more\n".to_owned();
            let mistakes = serde_json::json!([{ "severity": "error", "message": text.trim() }]);
            Err(Rejected { text, mistakes })
        }
    }
}

fn listener(state: &crate::snapshot::ListenerState) -> ListenerStatus {
    ListenerStatus {
        name: state.rules.name.to_string(),
        address: state.rules.address.to_string(),
        connections: state.metrics.connections_active(),
        requests_in_flight: state.metrics.requests_in_flight(),
    }
}

fn route(
    state: &crate::snapshot::RouteState,
    upstreams: &[std::sync::Arc<crate::config::model::Upstream>],
) -> RouteStatus {
    RouteStatus {
        name: state.rules.name.to_string(),
        upstream: state.rules.target.describe(upstreams),
        requests_total: state.metrics.requests_total(),
    }
}

fn rfc3339(time: SystemTime) -> String {
    // Fails for years that no clock shows.
    Timestamp::try_from(time)
        .map(|time| time.to_string())
        .unwrap_or_default()
}
