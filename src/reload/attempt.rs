//! One attempt at a new configuration, and the first one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use super::{Current, Environment, Handle, Held, LastReload, Outcome, Reloader, State, Trigger};
use crate::config;
use crate::config::model::{BindAddress, LogTarget};
use crate::config::{Config, Diagnostics, Loaded, Sources};
use crate::listener;
use crate::listener::inherited::Purpose;
use crate::listener::{BindError, Bound, Inherited, Listening};
use crate::snapshot;
use crate::snapshot::Snapshot;
use crate::telemetry::logging::Logging;
use crate::telemetry::{AccessLogWriter, Metrics, Prepared, events};
use crate::upstream::Registry;
use crate::upstream::pool::Hub;
use crate::util::capacity::Capacity;
use crate::util::descriptors;
use crate::worker::{Shared, Workers};

/// A file that is something else altogether has thousands; `check` shows them all.
const LOGGED_MISTAKES: usize = 50;

/// Why a configuration is not taken. None of these changes anything.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("{}", .0.summary())]
    Config(Diagnostics),
    #[error("cannot open the access log {path}")]
    AccessLog {
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot start the workers")]
    Workers(#[source] std::io::Error),
    #[error("the configuration could not be read: the reading task ended in a panic")]
    Broken,
}

impl Rejection {
    /// The mistakes, one object each, in the form of `check --format json`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Rejection::Config(mistakes) => mistakes.to_json(),
            other => serde_json::json!([{ "severity": "error", "message": other.summary() }]),
        }
    }

    /// For people: every mistake with its place, without colours.
    pub fn render(&self) -> String {
        match self {
            Rejection::Config(mistakes) => mistakes.render_human(false),
            other => format!("error: {}\n", other.summary()),
        }
    }

    /// One line, causes included.
    pub fn summary(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// What a reload works on.
pub struct Parts {
    pub path: PathBuf,
    pub environment: Environment,
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub access: Arc<AccessLogWriter>,
    pub capacity: Arc<Capacity>,
    /// `None`: events are somebody else's business (tests, demo).
    pub logging: Option<Logging>,
}

/// What is running.
pub(super) struct Live {
    pub workers: Arc<Workers>,
    pub snapshots: Arc<ArcSwap<Snapshot>>,
    pub loaded: Arc<Loaded>,
    /// Configured to bound address.
    pub listeners: HashMap<BindAddress, BindAddress>,
}

/// Everything of a new configuration that can fail, done.
struct Ready {
    snapshot: Snapshot,
    access: Prepared,
    sockets: Vec<(BindAddress, Bound)>,
}

/// The first configuration with everything done but the last step: nobody is served yet, so another
/// process that serves is not disturbed.
pub struct Unopened {
    first: First,
    sockets: Vec<(BindAddress, Bound)>,
}

/// What starting gives: the task that reloads, and what others use.
pub struct First {
    pub reloader: Reloader,
    pub handle: Handle,
    pub workers: Arc<Workers>,
    /// Name and bound address, in the order of the file.
    pub listeners: Vec<(Arc<str>, BindAddress)>,
}

/// Reads the file of `parts`.
pub(crate) async fn load(
    path: PathBuf,
    environment: Environment,
) -> Result<Result<Loaded, Diagnostics>, tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || config::load(&path, &|name| environment(name))).await
}

/// Builds and binds the first configuration with `count` workers; sockets that are in `inherited`
/// are taken from there.
pub async fn first(
    parts: Parts,
    loaded: Loaded,
    count: usize,
    inherited: &mut Inherited,
) -> Result<Unopened, Rejection> {
    let known = HashMap::new();
    let ready = prepare(&parts, &loaded.config, None, count, &known, inherited).await?;
    let Ready {
        snapshot,
        access,
        sockets,
    } = ready;
    let snapshot = Arc::new(snapshot);
    let snapshots = Arc::new(ArcSwap::new(snapshot.clone()));
    let shared = Shared {
        snapshots: snapshots.clone(),
        metrics: parts.metrics.clone(),
        access: parts.access.clone(),
        hub: Hub::new(),
        capacity: parts.capacity.clone(),
    };
    limit(&parts.capacity, &loaded.config, count);
    let workers = Arc::new(Workers::start(count, &shared).map_err(Rejection::Workers)?);
    parts.access.apply(access);
    parts.metrics.set_certificates(certificates(&snapshot));

    let seen = loaded.sources.fingerprint();
    let sources = loaded.sources.clone();
    let loaded = Arc::new(loaded);
    let listeners: HashMap<_, _> = sockets
        .iter()
        .map(|(configured, bound)| (configured.clone(), bound.address.clone()))
        .collect();
    let names = snapshot
        .config
        .listeners
        .iter()
        .filter_map(|rules| Some((rules.name.clone(), listeners.get(&rules.address)?.clone())))
        .collect();

    let current = Current {
        admin: loaded.config.admin.clone(),
        snapshot,
        loaded: loaded.clone(),
    };
    let state = Arc::new(State {
        current: ArcSwap::from_pointee(current),
        last: ArcSwap::from_pointee(LastReload {
            at: SystemTime::now(),
            trigger: None,
            successful: true,
            summary: "started".to_owned(),
        }),
        seen: AtomicU64::new(seen),
        sources: ArcSwap::from_pointee(sources),
        sources_changed: Notify::new(),
        stopping: AtomicBool::new(false),
    });
    let (sender, requests) = mpsc::channel(16);
    let handle = Handle {
        requests: sender,
        state: state.clone(),
    };
    let live = Live {
        workers: workers.clone(),
        snapshots,
        loaded,
        listeners,
    };
    let reloader = Reloader {
        parts,
        state,
        requests,
        live,
    };
    let first = First {
        reloader,
        handle,
        workers,
        listeners: names,
    };
    Ok(Unopened { first, sockets })
}

impl Unopened {
    /// Every listener accepts from here on. Checks and questions for names begin here too: what
    /// another process knows until now is there before ([`Registry::inherit`]).
    pub async fn open(self) -> Result<First, Rejection> {
        let Unopened { first, sockets } = self;
        let current = first.handle.current();
        listen(&current.snapshot.config, &sockets)?;
        for (_, bound) in &sockets {
            bound.own();
        }
        let upstreams = &current.snapshot.upstreams;
        first.reloader.parts.registry.publish(upstreams);
        first.workers.follow(into_listeners(sockets)).await;
        Ok(first)
    }
}

/// Does everything that can fail, and nothing that anybody sees.
async fn prepare(
    parts: &Parts,
    config: &Config,
    previous: Option<Arc<Snapshot>>,
    workers: usize,
    live: &HashMap<BindAddress, BindAddress>,
    inherited: &mut Inherited,
) -> Result<Ready, Rejection> {
    let snapshot = {
        let (config, registry, metrics) = (
            config.clone(),
            parts.registry.clone(),
            parts.metrics.clone(),
        );
        // Tables of many upstreams take a while to fill; signals and admin go on meanwhile.
        let build = move || snapshot::build(config, previous.as_deref(), &registry, &metrics);
        tokio::task::spawn_blocking(build)
            .await
            .map_err(|_| Rejection::Broken)?
    };
    let access = parts
        .access
        .prepare(config.access_log.as_ref())
        .map_err(|source| {
            let target = config.access_log.as_ref().map(|log| &log.target);
            let path = match target {
                Some(LogTarget::File(path)) => path.display().to_string(),
                Some(LogTarget::Stdout) | None => "stdout".to_owned(),
                Some(LogTarget::Stderr) => "stderr".to_owned(),
            };
            Rejection::AccessLog { path, source }
        })?;
    let mut sockets = Vec::new();
    let mut held: Vec<_> = live
        .values()
        .chain(inherited.addresses())
        .cloned()
        .collect();
    for rules in &config.listeners {
        if live.contains_key(&rules.address) {
            continue;
        }
        let handed = inherited.take(Purpose::Listener, &rules.name, &rules.address);
        let bound = if handed.is_empty() {
            listener::bind(&rules.address, workers, &held)
        } else {
            listener::adopt(&rules.address, handed, workers)
        };
        let bound = bound.map_err(|cause| bind_error(rules, cause))?;
        held.push(bound.address.clone());
        sockets.push((rules.address.clone(), bound));
    }
    Ok(Ready {
        snapshot,
        access,
        sockets,
    })
}

/// From the first `listen` on clients may come: all binding is behind us then.
fn listen(config: &Config, sockets: &[(BindAddress, Bound)]) -> Result<(), Rejection> {
    for (address, bound) in sockets {
        let rules = config
            .listeners
            .iter()
            .find(|rules| rules.address == *address);
        if let Some(rules) = rules {
            bound
                .listen(rules.backlog)
                .map_err(|cause| bind_error(rules, cause))?;
        }
    }
    Ok(())
}

fn bind_error(rules: &config::model::Listener, cause: std::io::Error) -> BindError {
    BindError {
        address: rules.address.clone(),
        listener: rules.name.to_string(),
        cause,
    }
}

fn into_listeners(sockets: Vec<(BindAddress, Bound)>) -> Vec<(BindAddress, Vec<Listening>)> {
    sockets
        .into_iter()
        .map(|(address, bound)| (address, bound.into_listeners()))
        .collect()
}

impl Reloader {
    /// The listeners as they are.
    pub(super) fn held(&self) -> Vec<Held> {
        let snapshot = self.live.snapshots.load();
        let listeners = snapshot.config.listeners.iter();
        listeners
            .filter_map(|rules| {
                let bound = self.live.listeners.get(&rules.address)?.clone();
                Some(Held {
                    name: rules.name.clone(),
                    configured: rules.address.clone(),
                    bound,
                })
            })
            .collect()
    }

    pub(super) async fn reload(&mut self, trigger: Trigger) -> Outcome {
        match load(self.parts.path.clone(), self.parts.environment.clone()).await {
            Ok(Ok(loaded)) => {
                self.saw(&loaded.sources);
                self.consider(trigger, loaded).await
            }
            Ok(Err(mistakes)) => {
                self.saw(mistakes.sources());
                self.reject(trigger, Rejection::Config(mistakes))
            }
            Err(_) => self.reject(trigger, Rejection::Broken),
        }
    }

    /// Remembers what was read, so that the watcher waits for something else.
    fn saw(&self, sources: &Sources) {
        self.state
            .seen
            .store(sources.fingerprint(), Ordering::Relaxed);
        self.state.sources.store(Arc::new(sources.clone()));
        self.state.sources_changed.notify_one();
    }

    async fn consider(&mut self, trigger: Trigger, loaded: Loaded) -> Outcome {
        if loaded.sources.fingerprint() == self.live.loaded.sources.fingerprint() {
            return self.unchanged(trigger);
        }
        if let Err(mistakes) = loaded.keeps_includes_of(&self.live.loaded.sources) {
            return self.reject(trigger, Rejection::Config(mistakes));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        if let Err(mistakes) = loaded.keeps_certificates_of(&self.live.loaded, now) {
            return self.reject(trigger, Rejection::Config(mistakes));
        }
        let previous = self.live.snapshots.load_full();
        let workers = self.live.workers.count();
        let ready = prepare(
            &self.parts,
            &loaded.config,
            Some(previous),
            workers,
            &self.live.listeners,
            &mut Inherited::default(),
        )
        .await
        .and_then(|ready| {
            listen(&loaded.config, &ready.sockets)?;
            Ok(ready)
        });
        match ready {
            Ok(ready) => self.publish(trigger, loaded, ready).await,
            Err(rejection) => self.reject(trigger, rejection),
        }
    }

    /// Nothing in here can fail.
    async fn publish(&mut self, trigger: Trigger, loaded: Loaded, ready: Ready) -> Outcome {
        let Ready {
            snapshot,
            access,
            sockets,
        } = ready;
        let (generation, snapshot) = (snapshot.generation, Arc::new(snapshot));
        self.live.snapshots.store(snapshot.clone());
        self.parts.registry.publish(&snapshot.upstreams);
        self.parts.metrics.set_certificates(certificates(&snapshot));
        for (configured, bound) in &sockets {
            let bound = bound.address.clone();
            self.live.listeners.insert(configured.clone(), bound);
        }
        self.live
            .listeners
            .retain(|configured, _| snapshot.listener_at(configured).is_some());
        for (configured, bound) in &sockets {
            if let Some(id) = snapshot.listener_at(configured) {
                events::listening(&snapshot.listener(id).rules.name, &bound.address);
            }
        }
        limit(
            &self.parts.capacity,
            &loaded.config,
            self.live.workers.count(),
        );
        self.live.workers.follow(into_listeners(sockets)).await;
        self.parts.access.apply(access);
        if let Some(logging) = &self.parts.logging {
            logging.apply(&loaded.config.log);
        }
        warn_of_restart(&self.live.loaded.config, &loaded.config);
        for warning in loaded.warnings.lines() {
            tracing::warn!(%warning, "configuration");
        }

        let changes = config::diff(&self.live.loaded.config, &loaded.config);
        let words = self.in_words(&changes);
        events::reload_accepted(&self.parts.metrics, generation, trigger.as_str(), &words);
        let warnings = loaded.warnings.clone();
        let loaded = Arc::new(loaded);
        self.live.loaded = loaded.clone();
        let before = self.state.current.load();
        let admin = loaded.config.admin.clone().or_else(|| before.admin.clone());
        self.state.current.store(Arc::new(Current {
            snapshot,
            loaded,
            admin,
        }));
        self.remember(trigger, true, words);
        Outcome::Accepted {
            generation,
            changes,
            warnings,
        }
    }

    /// What changed, and the overrides that stay in force.
    fn in_words(&self, changes: &config::Diff) -> String {
        let mut words = if changes.is_empty() {
            "nothing in meaning".to_owned()
        } else {
            changes.summary()
        };
        for (upstream, server, over) in self.parts.registry.overrides() {
            use std::fmt::Write;
            let _ = write!(words, "; override on {upstream}/{server} stays:");
            if let Some(weight) = over.weight {
                let _ = write!(words, " weight {weight}");
            }
            if let Some(drain) = over.drain {
                let _ = write!(words, " drain {drain}");
            }
        }
        words
    }

    /// A file that is again what is in use takes back what an earlier refusal said.
    fn unchanged(&self, trigger: Trigger) -> Outcome {
        let generation = self.live.snapshots.load().generation;
        let refused = !self.state.last.load().successful;
        if refused {
            let words = "back to the configuration in use".to_owned();
            events::reload_accepted(&self.parts.metrics, generation, trigger.as_str(), &words);
            self.remember(trigger, true, words);
        } else if trigger == Trigger::Signal {
            // Whoever asks the admin listener has it in the answer.
            events::reload_unchanged(generation, trigger.as_str());
        }
        Outcome::Unchanged { generation }
    }

    fn reject(&self, trigger: Trigger, rejection: Rejection) -> Outcome {
        let mistakes: Vec<String> = match &rejection {
            Rejection::Config(mistakes) => mistakes.lines().take(LOGGED_MISTAKES).collect(),
            other => vec![other.summary()],
        };
        match &mistakes[..] {
            [only] => events::reload_rejected(&self.parts.metrics, trigger.as_str(), only),
            several => {
                let summary = rejection.summary();
                events::reload_rejected(&self.parts.metrics, trigger.as_str(), &summary);
                for mistake in several {
                    tracing::error!(%mistake, "configuration");
                }
            }
        }
        self.remember(trigger, false, mistakes.join("\n"));
        Outcome::Rejected(Arc::new(rejection))
    }

    fn remember(&self, trigger: Trigger, successful: bool, summary: String) {
        let at = SystemTime::now();
        let last = LastReload {
            at,
            trigger: Some(trigger),
            successful,
            summary,
        };
        self.state.last.store(Arc::new(last));
    }
}

/// Name and end of all that are shown.
fn certificates(snapshot: &Snapshot) -> impl Iterator<Item = (Arc<str>, i64)> {
    let terms = snapshot
        .listeners
        .iter()
        .filter_map(|listener| listener.rules.tls.as_ref());
    terms
        .flat_map(|terms| &terms.certificates)
        .map(|certificate| (certificate.name.clone(), certificate.not_after))
}

/// Takes up the limits of the process.
fn limit(capacity: &Capacity, config: &Config, workers: usize) {
    let wanted = config.process.max_connections;
    let most = descriptors::clients(wanted, workers, config.listeners.len());
    let min_rate = config.process.min_rate;
    capacity.set(most, min_rate.map_or(0, |rate| rate.bytes_per_second));
}

/// What is accepted, but not before the next start.
fn warn_of_restart(old: &Config, new: &Config) {
    if old.process.workers != new.process.workers {
        tracing::warn!("process.workers needs a restart: the number of workers stays");
    }
    if old.log.format != new.log.format {
        tracing::warn!("log.format needs a restart: the format stays");
    }
    if old.admin_address() != new.admin_address() {
        tracing::warn!("admin.address needs a restart: the admin listener stays where it is");
    }
}
