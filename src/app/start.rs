//! From a configuration file to a serving process, on the control thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::control::Control;
use super::signals::Signals;
use super::{Options, Started, Stop, descriptors, drain};
use crate::admin;
use crate::admin::Bound;
use crate::config::model::{Admin, BindAddress};
use crate::config::{Diagnostics, Loaded};
use crate::reload;
use crate::reload::{Parts, Rejection};
use crate::telemetry::{AccessLogWriter, Metrics, events, logging};
use crate::upstream::Registry;

/// Threads of the control runtime: one may be busy with a scrape or a reload.
const CONTROL_THREADS: usize = 2;
/// The log's last lines get this long to be written.
const FLUSH: Duration = Duration::from_secs(5);

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", .0.summary())]
    Config(Diagnostics),
    #[error(transparent)]
    Refused(Rejection),
    #[error("cannot bind the admin listener to {address}")]
    Admin { address: String, source: io::Error },
    #[error("cannot start the access log")]
    AccessLog(#[source] io::Error),
    #[error("cannot start the control threads")]
    Thread(#[source] io::Error),
    #[error("cannot react to signals")]
    Signals(#[source] io::Error),
    #[error("the start ended in a panic; please report it")]
    Panic,
}

impl StartError {
    /// 3 where an address cannot be bound, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Refused(Rejection::Bind(_)) | StartError::Admin { .. } => 3,
            _ => 1,
        }
    }
}

/// The body of the control thread: starts, reports to `report`, serves until stopped.
pub(super) fn control(
    options: Options,
    stop: mpsc::UnboundedSender<Stop>,
    stops: mpsc::UnboundedReceiver<Stop>,
    report: &Sender<Result<Started, StartError>>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = report.send(Err(StartError::Thread(error)));
            return;
        }
    };
    runtime.block_on(async {
        // Whoever started us waits for the report: it is received, or they are gone with us.
        match start(options, stop).await {
            Ok((started, parts)) => {
                let reload = started.reload.clone();
                let _ = report.send(Ok(started));
                let aborted = drain::run(stops, &reload, &parts.workers).await;
                parts.end(aborted).await;
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
    });
    // Checks, scrapes and file reads may be in the middle of something: nothing worth waiting for.
    runtime.shutdown_background();
}

/// What the end needs.
struct Alive {
    workers: Arc<crate::worker::Workers>,
    access: Arc<AccessLogWriter>,
}

impl Alive {
    async fn end(self, aborted: usize) {
        let access = self.access;
        // In blocking code: it waits for the writer's thread.
        let _ = tokio::task::spawn_blocking(move || access.flush(FLUSH)).await;
        events::stopped(aborted as u64);
    }
}

async fn start(
    options: Options,
    stop: mpsc::UnboundedSender<Stop>,
) -> Result<(Started, Alive), StartError> {
    let loaded = reload::load(options.config.clone(), options.environment.clone())
        .await
        .map_err(|_| StartError::Panic)?
        .map_err(StartError::Config)?;
    let logging = options.logging.then(|| logging::init(&loaded.config.log));
    for warning in loaded.warnings.lines() {
        tracing::warn!(%warning, "configuration");
    }
    // Before the first connection: left alone, every one of them ends the process at once. What
    // comes from now on waits until everything runs.
    let signals = options.signals.then(Signals::new).transpose();
    let signals = signals.map_err(StartError::Signals)?;
    descriptors::raise_limit();
    let bound_admin = bind_admin(loaded.config.admin.as_ref())?;

    let count = workers(&loaded);
    let metrics = Metrics::new(count);
    let access = AccessLogWriter::start(metrics.clone()).map_err(StartError::AccessLog)?;
    let registry = Registry::new(&metrics);
    tokio::spawn(registry.clone().run());
    let parts = Parts {
        path: options.config.clone(),
        environment: options.environment.clone(),
        registry: registry.clone(),
        metrics: metrics.clone(),
        access: access.clone(),
        logging,
    };
    let first = reload::first(parts, loaded, count)
        .await
        .map_err(StartError::Refused)?;
    tokio::spawn(first.reloader.run());
    if let Some(signals) = signals {
        tokio::spawn(signals.run(first.handle.clone(), access.clone(), stop));
    }
    if options.watch {
        tokio::spawn(reload::watch_file(
            options.config.clone(),
            first.handle.clone(),
        ));
    }
    let admin = bound_admin
        .as_ref()
        .and_then(Bound::local_addr)
        .map(BindAddress::Tcp);
    let admin = admin.or_else(|| {
        first
            .handle
            .current()
            .snapshot
            .config
            .admin_address()
            .cloned()
    });
    if let Some(bound) = bound_admin {
        let control = Control {
            reload: first.handle.clone(),
            registry,
            metrics: metrics.clone(),
            workers: first.workers.clone(),
            tasks: tokio::runtime::Handle::current().metrics(),
            config_file: options.config.clone(),
            started: Instant::now(),
        };
        tokio::spawn(bound.serve(Arc::new(control)));
    }
    if let Some(address) = &admin {
        tracing::info!(%address, "admin listening");
    }
    for (name, address) in &first.listeners {
        events::listening(name, address);
    }
    events::started(&metrics, 1, count);
    let started = Started {
        listeners: first.listeners,
        admin,
        reload: first.handle,
        metrics,
    };
    Ok((
        started,
        Alive {
            workers: first.workers,
            access,
        },
    ))
}

fn bind_admin(config: Option<&Admin>) -> Result<Option<Bound>, StartError> {
    let Some(Admin { address, .. }) = config else {
        return Ok(None);
    };
    admin::bind(address)
        .map(Some)
        .map_err(|source| StartError::Admin {
            address: address.to_string(),
            source,
        })
}

/// One per core that this process may use, unless configured.
fn workers(loaded: &Loaded) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    loaded
        .config
        .process
        .workers
        .unwrap_or_else(available)
        .max(1)
}
