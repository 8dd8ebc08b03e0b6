//! From a configuration file to a serving process, on the control thread.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::control::Control;
use super::drain::{AdminListener, Serving};
use super::launch::Launch;
use super::overload::Overload;
use super::signals::{Replaced, Signals, Targets};
use super::upgrade::{Succession, SuccessionError};
use super::{Options, Started, Stop, descriptors, systemd};
use crate::admin;
use crate::admin::Bound;
use crate::config::model::{Admin, BindAddress};
use crate::config::{Diagnostics, Loaded};
use crate::listener::Inherited;
use crate::listener::inherited::Purpose;
use crate::reload;
use crate::reload::{Parts, Rejection};
use crate::telemetry::{AccessLogWriter, Metrics, events, logging};
use crate::upstream::Registry;
use crate::upstream::resolve::SystemResolver;
use crate::util::capacity::Capacity;

/// Threads of the control runtime: one may be busy with a scrape or a reload.
const CONTROL_THREADS: usize = 2;
/// The log's last lines get this long to be written.
const FLUSH: Duration = Duration::from_secs(5);

/// In the environment: name servers to ask instead of those of the system, with commas in between.
const RESOLVER: &str = "EVENKEEL_RESOLVER";

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", .0.summary())]
    Config(Diagnostics),
    #[error(transparent)]
    Refused(Rejection),
    #[error("cannot bind the admin listener to {address}")]
    Admin { address: String, source: io::Error },
    #[error("{RESOLVER}: {0:?} is no address of a name server, as in 10.0.0.2 or 127.0.0.1:5353")]
    Resolver(String),
    #[error("cannot start the access log")]
    AccessLog(#[source] io::Error),
    #[error("cannot start the control threads")]
    Thread(#[source] io::Error),
    #[error("cannot react to signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Succession(#[from] SuccessionError),
    #[error("stopped by {0}")]
    Stopped(&'static str),
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
        match begin(options, stop).await {
            Ok((started, mut alive)) => {
                let _ = report.send(Ok(started));
                let aborted = alive.serving.run(stops, alive.upgrades).await;
                end(alive.access, aborted).await;
            }
            Err(error) => {
                logging::flush(FLUSH);
                let _ = report.send(Err(error));
            }
        }
    });
    // Checks, scrapes and file reads may be in the middle of something: nothing worth waiting for.
    runtime.shutdown_background();
}

/// What serving and its end need.
struct Alive {
    serving: Serving,
    access: Arc<AccessLogWriter>,
    upgrades: mpsc::UnboundedReceiver<()>,
}

async fn end(access: Arc<AccessLogWriter>, aborted: usize) {
    // In blocking code: it waits for the writer's thread.
    let _ = tokio::task::spawn_blocking(move || access.flush(FLUSH)).await;
    events::stopped(aborted as u64);
    logging::flush(FLUSH);
}

/// Starts, unless a signal asks for the end before anybody is served.
async fn begin(
    mut options: Options,
    stop: mpsc::UnboundedSender<Stop>,
) -> Result<(Started, Alive), StartError> {
    // Before anything that may take its time: left alone, every one of them ends the process at
    // once. What asks for something else than the end waits until everything runs.
    let signals = options.signals.then(Signals::new).transpose();
    let mut signals = signals.map_err(StartError::Signals)?;
    let launch = options.launch.take();
    let opened = Cell::new(false);
    let starting = succeed(&options, launch, &opened);
    let mut late = None;
    let (started, serving, access) = match &mut signals {
        None => starting.await?,
        Some(signals) => {
            let mut starting = pin!(starting);
            loop {
                tokio::select! {
                    start = starting.as_mut() => break start?,
                    signal = signals.stop(), if late.is_none() => match opened.get() {
                        false => return Err(StartError::Stopped(signal)),
                        true => late = Some(signal),
                    },
                }
            }
        }
    };
    if let Some(signal) = late {
        // Received, or everything has ended.
        let _ = stop.send(Stop::Graceful(signal));
    }
    let (upgrade, upgrades) = mpsc::unbounded_channel();
    if let Some(signals) = signals {
        tokio::spawn(signals.run(Targets {
            reload: serving.reload.clone(),
            access: access.clone(),
            stop,
            upgrade,
            notify: serving.notify.clone(),
            workers: serving.workers.count(),
            replaced: serving.replaced.clone(),
        }));
    }
    if options.watch {
        let (path, reload) = (options.config.clone(), serving.reload.clone());
        tokio::spawn(reload::watch_file(path, reload));
    }
    let status = systemd::status(&serving.reload, serving.workers.count());
    serving.notify.ready(&status);
    let (notify, reload) = (serving.notify.clone(), serving.reload.clone());
    let replaced = serving.replaced.clone();
    tokio::spawn(systemd::keep(
        notify,
        reload,
        serving.workers.clone(),
        replaced,
    ));
    let alive = Alive {
        serving,
        access,
        upgrades,
    };
    Ok((started, alive))
}

type Start = (Started, Serving, Arc<AccessLogWriter>);

/// Starts in the place of the process that started this one, if that is what it is for.
async fn succeed(
    options: &Options,
    launch: Option<Launch>,
    opened: &Cell<bool>,
) -> Result<Start, StartError> {
    let Some(mut launch) = launch else {
        return start(options, None, Inherited::default(), &mut None, opened).await;
    };
    let mut handed = std::mem::take(&mut launch.passed.sockets);
    let mut succession = None;
    if let Some(predecessor) = launch.predecessor.take() {
        let (begun, sockets) = Succession::begin(predecessor).await?;
        succession = Some(begun);
        handed = sockets;
    }
    let inherited = Inherited::new(handed);
    let started = start(options, Some(launch), inherited, &mut succession, opened).await;
    if let (Err(error), Some(succession)) = (&started, succession) {
        succession.failed(in_one_line(error)).await;
    }
    started
}

fn in_one_line(error: &StartError) -> String {
    match error {
        StartError::Config(mistakes) => {
            let mut lines = mistakes.lines();
            let first = lines.next().unwrap_or_default();
            match lines.count() {
                0 => first,
                more => format!("{first} (and {more} more)"),
            }
        }
        StartError::Refused(rejection) => rejection.summary(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            text
        }
    }
}

async fn start(
    options: &Options,
    launch: Option<Launch>,
    mut inherited: Inherited,
    succession: &mut Option<Succession>,
    opened: &Cell<bool>,
) -> Result<Start, StartError> {
    let loaded = reload::load(options.config.clone(), options.environment.clone())
        .await
        .map_err(|_| StartError::Panic)?
        .map_err(StartError::Config)?;
    let logging = options.logging.then(|| logging::init(&loaded.config.log));
    tell_of_the_beginning(&loaded, launch.as_ref(), succession.as_ref());
    descriptors::raise_limit();
    let bound_admin = bind_admin(loaded.config.admin.as_ref(), &mut inherited)?;

    let count = workers(&loaded);
    let metrics = Metrics::new(count);
    let access = AccessLogWriter::start(metrics.clone()).map_err(StartError::AccessLog)?;
    let registry = Registry::with_resolver(&metrics, resolver(options)?);
    let capacity = Arc::new(Capacity::default());
    tokio::spawn(registry.clone().run());
    let parts = Parts {
        path: options.config.clone(),
        environment: options.environment.clone(),
        registry: registry.clone(),
        metrics: metrics.clone(),
        access: access.clone(),
        capacity: capacity.clone(),
        logging,
    };
    let unopened = reload::first(parts, loaded, count, &mut inherited)
        .await
        .map_err(StartError::Refused)?;
    if let Some(succession) = succession {
        registry.inherit(succession.ready().await?);
    }
    opened.set(true);
    let first = unopened.open().await.map_err(StartError::Refused)?;
    tokio::spawn(first.reloader.run());
    let overload = Overload {
        reload: first.handle.clone(),
        capacity: capacity.clone(),
        metrics: metrics.clone(),
    };
    tokio::spawn(overload.run());

    let configured = first
        .handle
        .current()
        .snapshot
        .config
        .admin_address()
        .cloned();
    let replaced = Replaced::default();
    let admin = bound_admin.map(Arc::new);
    let address = admin.as_ref().and_then(|bound| bound.local_addr());
    let address = address.map(BindAddress::Tcp).or_else(|| configured.clone());
    let admin = admin.zip(configured).map(|(bound, configured)| {
        let control = Control {
            capacity: capacity.clone(),
            reload: first.handle.clone(),
            registry: registry.clone(),
            metrics: metrics.clone(),
            workers: first.workers.clone(),
            tasks: tokio::runtime::Handle::current().metrics(),
            config_file: options.config.clone(),
            replaced: replaced.clone(),
            started: Instant::now(),
        };
        bound.own();
        (bound, configured, control)
    });
    for unused in inherited.addresses() {
        tracing::warn!(address = %unused, "no listener has the address or the name of this socket: it is closed");
    }
    let adopted = inherited.finish();
    if let Some(succession) = succession.take() {
        succession.accepting(adopted).await;
    }
    // Not before the old process has left it: one socket, one who answers.
    let admin = admin.map(|(bound, configured, control)| {
        let (leaving, left) = watch::channel(false);
        AdminListener {
            accepting: tokio::spawn(bound.clone().serve(Arc::new(control), left)),
            bound,
            configured,
            leaving,
        }
    });
    if let Some(address) = &address {
        tracing::info!(%address, "admin listening");
    }
    for (name, address) in &first.listeners {
        events::listening(name, address);
    }
    events::started(&metrics, 1, count, capacity.most());
    let (notify, program) = launch.map(|launch| (launch.notify, launch.program)).unzip();
    let serving = Serving {
        reload: first.handle.clone(),
        workers: first.workers,
        registry,
        metrics: metrics.clone(),
        admin,
        notify: notify.unwrap_or_default(),
        program,
        replaced,
    };
    let started = Started {
        listeners: first.listeners,
        admin: address,
        reload: first.handle,
        metrics,
    };
    Ok((started, serving, access))
}

/// The first words in the log, which is there from here on.
fn tell_of_the_beginning(
    loaded: &Loaded,
    launch: Option<&Launch>,
    succession: Option<&Succession>,
) {
    for warning in loaded.warnings.lines() {
        tracing::warn!(%warning, "configuration");
    }
    if let Some(succession) = succession {
        succession.announce();
    }
    for socket in launch.iter().flat_map(|launch| &launch.passed.refused) {
        tracing::warn!(socket, "a socket that was passed to us cannot be used");
    }
}

/// The system's, unless other name servers are given.
fn resolver(options: &Options) -> Result<Arc<SystemResolver>, StartError> {
    let given = (options.environment)(RESOLVER).unwrap_or_default();
    let given = given.split(',').map(str::trim);
    let server = |one: &str| {
        let ip = one.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        let server = one.parse().or(ip);
        server.map_err(|_| StartError::Resolver(one.to_owned()))
    };
    let servers = given.filter(|one| !one.is_empty()).map(server);
    Ok(SystemResolver::new(servers.collect::<Result<_, _>>()?))
}

/// In the list of sockets that were passed to us.
const ADMIN: &str = "admin";

fn bind_admin(
    config: Option<&Admin>,
    inherited: &mut Inherited,
) -> Result<Option<Bound>, StartError> {
    let Some(Admin { address, .. }) = config else {
        return Ok(None);
    };
    let mut handed = inherited.take(Purpose::Admin, ADMIN, address);
    let bound = match handed.pop() {
        None => admin::bind(address),
        // What waits in the others nobody would answer.
        Some(_) if !handed.is_empty() => Err(io::ErrorKind::AddrInUse.into()),
        Some(handed) => admin::adopt(handed.socket, &handed.bound, handed.file),
    };
    bound.map(Some).map_err(|source| StartError::Admin {
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
