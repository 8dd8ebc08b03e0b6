//! Where live state is kept between generations, by (upstream, address).
//!
//! A reload goes in two steps. [`Registry::prepare`] makes the upstream of the next generation over
//! the servers that are there; nobody sees it. [`Registry::publish`], right after the snapshot was
//! swapped, makes it the one of its name: older generations point to it from then on, so that a
//! retry or a waiting request of an old snapshot chooses among the servers of now.
//!
//! Live state is held by who uses it (generations, leases); the registry itself holds the current
//! generation and overrides only, so a removed server is gone with its last request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::model;
use crate::telemetry::Metrics;
use crate::upstream::common::{Common, lock};
use crate::upstream::control;
use crate::upstream::overrides::{Override, OverrideError, Overrides};
use crate::upstream::resolve::SystemResolver;
use crate::upstream::server::Server;
use crate::upstream::tasks;
use crate::upstream::upstream::Upstream;
use crate::upstream::view::{ServerView, UpstreamView};

/// The live state of all upstreams: one per process.
pub struct Registry {
    /// Taken by reloads, the admin API and the control task; never by a worker.
    inner: Mutex<Inner>,
    /// Of the control task.
    wake: Arc<Notify>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Inner {
    by_name: HashMap<Arc<str>, Weak<Common>>,
    /// The published generation.
    current: Vec<Arc<Upstream>>,
    /// Removed, with requests under way perhaps: their breakers still move.
    gone: Vec<Weak<Upstream>>,
    overrides: Overrides,
    resolver: Option<Arc<SystemResolver>>,
}

impl Registry {
    pub fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Registry {
            inner: Mutex::default(),
            wake: Arc::default(),
            metrics: metrics.clone(),
        })
    }

    /// The upstream for a configuration over the live state that is there. Has no visible effect;
    /// an unchanged configuration gives the published upstream itself.
    pub fn prepare(&self, config: &Arc<model::Upstream>) -> Arc<Upstream> {
        let inner = lock(&self.inner);
        let common = inner.by_name.get(&config.name).and_then(Weak::upgrade);
        let before = common
            .as_ref()
            .and_then(|common| (*common.current()).clone());
        if let Some(before) = &before
            && **before.config() == **config
        {
            return before.clone();
        }
        let common =
            common.unwrap_or_else(|| Common::new(config, self.wake.clone(), &self.metrics));
        let beside_others = before.as_ref().is_some_and(|before| stays(before, config));
        let server = |entry: &model::Server| {
            common.server(&entry.address).unwrap_or_else(|| {
                Server::new(
                    &entry.address,
                    &common,
                    config,
                    beside_others,
                    &self.metrics,
                )
            })
        };
        let servers = config.servers.iter().map(server).collect();
        let overrides = inner.overrides.of(config);
        Upstream::new(config, &common, servers, overrides, before.as_deref())
    }

    /// Makes these the current upstreams, all that there are: called by reload right after the
    /// snapshot was swapped in. Starts and stops checks and resolving, so on the control runtime.
    /// Cannot fail.
    pub fn publish(&self, upstreams: &[Arc<Upstream>]) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let now = Instant::now();
        inner.overrides.forget_changed(upstreams);
        for next in upstreams {
            let common = next.common();
            let before = common.succeed(Some(next.clone()));
            if before
                .as_ref()
                .is_some_and(|before| Arc::ptr_eq(before, next))
            {
                continue;
            }
            inner
                .by_name
                .insert(next.name().clone(), Arc::downgrade(common));
            for server in next.servers() {
                common.adopt(server);
                tasks::attach(server, next.config(), &mut inner.resolver);
            }
            control::step(next, now);
            if let Some(before) = before {
                before.replace();
                for server in removed(&before, next) {
                    server.breaker().settle_place(false, common.places());
                    tasks::detach(server);
                }
            }
        }
        let next = upstreams.to_vec();
        let before = std::mem::replace(&mut inner.current, next);
        for gone in before {
            let stays = |next: &Arc<Upstream>| Arc::ptr_eq(next.common(), gone.common());
            if upstreams.iter().any(stays) {
                continue;
            }
            gone.common().succeed(None);
            gone.replace();
            gone.servers().iter().for_each(tasks::detach);
            inner.gone.push(Arc::downgrade(&gone));
        }
        inner.gone.retain(|gone| gone.strong_count() > 0);
        inner.by_name.retain(|_, common| common.strong_count() > 0);
        // The control task has new times to wait for.
        self.wake.notify_one();
    }

    /// The control task: run it once on the control runtime, for the life of the process.
    pub async fn run(self: Arc<Self>) {
        loop {
            let due = self.look(Instant::now());
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Steps what was touched or is due; when the next one is due.
    pub(super) fn look(&self, now: Instant) -> Option<Instant> {
        let upstreams = {
            let inner = lock(&self.inner);
            let gone = inner.gone.iter().filter_map(Weak::upgrade);
            inner
                .current
                .iter()
                .cloned()
                .chain(gone)
                .collect::<Vec<_>>()
        };
        let of_each = |upstream: Arc<Upstream>| {
            let due = upstream.common().due();
            if upstream.common().take_touched() || due.is_some_and(|due| due <= now) {
                return control::step(&upstream, now);
            }
            due
        };
        upstreams.into_iter().filter_map(of_each).min()
    }

    /// Sets what is given and keeps the rest of an earlier override.
    pub fn set_override(
        &self,
        upstream: &str,
        server: &str,
        change: Override,
    ) -> Result<ServerView, OverrideError> {
        self.edit(upstream, server, |inner, upstream, index| {
            let value = inner.overrides.set(upstream, index, change)?;
            upstream.set_override(index, value);
            Ok(())
        })
    }

    /// Back to the configuration.
    pub fn clear_override(
        &self,
        upstream: &str,
        server: &str,
    ) -> Result<ServerView, OverrideError> {
        self.edit(upstream, server, |inner, upstream, index| {
            inner.overrides.clear(upstream, index);
            upstream.set_override(index, Override::default());
            Ok(())
        })
    }

    fn edit(
        &self,
        upstream: &str,
        server: &str,
        change: impl FnOnce(&mut Inner, &Upstream, usize) -> Result<(), OverrideError>,
    ) -> Result<ServerView, OverrideError> {
        let mut inner = lock(&self.inner);
        let named = |candidate: &&Arc<Upstream>| &**candidate.name() == upstream;
        let upstream = inner.current.iter().find(named).cloned();
        let upstream = upstream.ok_or(OverrideError::NoUpstream)?;
        let addressed = |candidate: &Arc<Server>| &**candidate.label() == server;
        let index = upstream.servers().iter().position(addressed);
        let index = index.ok_or(OverrideError::NoServer)?;
        change(&mut inner, &upstream, index)?;
        let now = Instant::now();
        control::step(&upstream, now);
        self.wake.notify_one();
        Ok(ServerView::of(&upstream, index, now))
    }

    /// Every override, as (upstream, server, what): for `/status` and reload events.
    pub fn overrides(&self) -> Vec<(Arc<str>, Arc<str>, Override)> {
        lock(&self.inner).overrides.list()
    }

    /// The current upstreams, in the order of the configuration.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        lock(&self.inner).current.clone()
    }

    /// All upstreams as `/status` shows them.
    pub fn view(&self) -> Vec<UpstreamView> {
        let now = Instant::now();
        let upstreams = self.upstreams();
        upstreams
            .iter()
            .map(|upstream| UpstreamView::of(upstream, now))
            .collect()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// Some server that takes new requests is in both: what is new now joins others.
fn stays(before: &Upstream, config: &model::Upstream) -> bool {
    config.servers.iter().any(|entry| {
        let same = |server: &Arc<Server>| *server.address() == entry.address;
        entry.weight > 0 && !entry.drain && before.servers().iter().any(same)
    })
}

fn removed<'a>(before: &'a Upstream, next: &'a Upstream) -> impl Iterator<Item = &'a Arc<Server>> {
    let stays = |server: &Arc<Server>| {
        next.servers()
            .iter()
            .any(|other| Arc::ptr_eq(server, other))
    };
    before.servers().iter().filter(move |server| !stays(server))
}
