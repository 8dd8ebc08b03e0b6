//! Where live state is kept between generations, by (upstream, address).
//!
//! A reload goes in two steps. [`Registry::prepare`] makes the upstream of the next generation over
//! the servers that are there; nobody sees it. [`Registry::publish`], right after the snapshot was
//! swapped, makes it the one of its name: older generations point to it from then on, so that a
//! retry or a waiting request of an old snapshot chooses among the servers of now.
//!
//! Live state is held by who uses it (generations, leases); the registry itself holds the current
//! generation and overrides only, so a removed server is gone with its last request.

mod carried;
mod look;
mod seating;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::model;
use crate::telemetry::Metrics;
use crate::upstream::common::{Common, lock};
use crate::upstream::control;
use crate::upstream::overrides::{Override, OverrideError, Overrides, Subject};
use crate::upstream::resolve::{Names, SystemResolver};
use crate::upstream::tasks;
use crate::upstream::upstream::Upstream;
use crate::upstream::view::{OverriddenView, ServerView, UpstreamView};

/// The live state of all upstreams: one per process.
pub struct Registry {
    /// Taken by reloads, the admin API and the control task; never by a worker.
    inner: Mutex<Inner>,
    /// Of the control task.
    wake: Arc<Notify>,
    metrics: Arc<Metrics>,
}

struct Inner {
    by_name: HashMap<Arc<str>, Weak<Common>>,
    /// The published generation.
    current: Vec<Arc<Upstream>>,
    /// Removed, with requests under way perhaps: their breakers still move.
    gone: Vec<Weak<Upstream>>,
    overrides: Overrides,
    names: Names,
    /// Of the process before this one, until the first generation is published.
    inherited: Option<carried::Inherited>,
    /// Another process is told what there is: what is set from then on it would not know.
    handed_over: bool,
}

impl Inner {
    /// Takes over the published generation and lets go of upstreams that are in it no more.
    fn retire(&mut self, upstreams: &[Arc<Upstream>]) {
        let next = upstreams.to_vec();
        let before = std::mem::replace(&mut self.current, next);
        for gone in before {
            let stays = |next: &Arc<Upstream>| Arc::ptr_eq(next.common(), gone.common());
            if upstreams.iter().any(stays) {
                continue;
            }
            gone.common().succeed(None);
            gone.replace();
            gone.servers().iter().for_each(tasks::detach);
            self.gone.push(Arc::downgrade(&gone));
        }
    }
}

impl Registry {
    pub fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        Self::with_resolver(metrics, SystemResolver::new(Vec::new()))
    }

    /// Names are asked for by `resolver`.
    pub fn with_resolver(metrics: &Arc<Metrics>, resolver: Arc<SystemResolver>) -> Arc<Self> {
        let wake = Arc::<Notify>::default();
        Arc::new(Registry {
            inner: Mutex::new(Inner {
                by_name: HashMap::new(),
                current: Vec::new(),
                gone: Vec::new(),
                overrides: Overrides::default(),
                names: Names::new(wake.clone(), resolver, metrics),
                inherited: None,
                handed_over: false,
            }),
            wake,
            metrics: metrics.clone(),
        })
    }

    /// The upstream for a configuration over the live state that is there. Has no visible effect;
    /// an unchanged configuration gives the published upstream itself.
    pub fn prepare(&self, config: &Arc<model::Upstream>) -> Arc<Upstream> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
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
        let changes = inner.names.changes();
        let seats = inner.names.seats(config);
        let overrides = inner.overrides.of(config, &seats);
        let roster = before.as_ref().map(|before| before.roster());
        let roster = self.roster(inner, config, &common, seats, roster.as_deref());
        let upstream = Upstream::new(config, &common, &roster, overrides, before.as_deref());
        upstream.seated_at(changes);
        upstream
    }

    /// Makes these the current upstreams, all that there are: called by reload right after the
    /// snapshot was swapped in. Starts and stops checks and resolving, so on the control runtime.
    /// Cannot fail.
    pub fn publish(&self, upstreams: &[Arc<Upstream>]) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let now = Instant::now();
        let mut inherited = inner.inherited.take();
        if let Some(inherited) = &mut inherited {
            inner.inherit_names(inherited, upstreams);
        }
        inner.overrides.forget_changed(upstreams);
        let entries = upstreams.iter().flat_map(|next| &next.config().servers);
        let names = entries.map(|entry| &entry.address);
        inner
            .names
            .follow(names.filter(|address| address.is_name()));
        for next in upstreams {
            let common = next.common();
            self.catch_up(inner, next);
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
            let roster = next.roster();
            // Sockets were bound since it was prepared: an operator may have been faster.
            next.set_overrides(inner.overrides.of(next.config(), &roster.seats));
            if let Some(inherited) = &inherited {
                inherited.give(next, now);
            }
            for (seat, server) in roster.members() {
                common.adopt(server);
                tasks::attach(server, seat, next.config());
            }
            // Before the step: who is woken by it must find its way to the successor.
            if let Some(before) = &before {
                before.replace();
            }
            control::step(next, now);
            if let Some(before) = before {
                seating::remove(&before.roster(), &roster, common);
            }
        }
        inner.retire(upstreams);
        inner.gone.retain(|gone| gone.strong_count() > 0);
        inner.by_name.retain(|_, common| common.strong_count() > 0);
        // The control task has new times to wait for.
        self.wake.notify_one();
    }

    /// Sets what is given and keeps the rest of an earlier override. `server`: its address, or the
    /// name that leads to some.
    pub fn set_override(
        &self,
        upstream: &str,
        server: &str,
        change: Override,
    ) -> Result<OverriddenView, OverrideError> {
        self.edit(upstream, server, |overrides, upstream, subject| {
            overrides.set(upstream, subject, server, change)
        })
    }

    /// Back to the configuration.
    pub fn clear_override(
        &self,
        upstream: &str,
        server: &str,
    ) -> Result<OverriddenView, OverrideError> {
        self.edit(upstream, server, |overrides, upstream, _| {
            overrides.clear(upstream.name(), server);
            Ok(())
        })
    }

    fn edit(
        &self,
        upstream: &str,
        server: &str,
        change: impl FnOnce(&mut Overrides, &Upstream, Subject) -> Result<(), OverrideError>,
    ) -> Result<OverriddenView, OverrideError> {
        let mut inner = lock(&self.inner);
        if inner.handed_over {
            return Err(OverrideError::HandedOver);
        }
        let named = |candidate: &&Arc<Upstream>| &**candidate.name() == upstream;
        let upstream = inner.current.iter().find(named).cloned();
        let upstream = upstream.ok_or(OverrideError::NoUpstream)?;
        let subject = Subject::find(&upstream, server).ok_or(OverrideError::NoServer)?;
        change(&mut inner.overrides, &upstream, subject)?;
        let overrides = inner
            .overrides
            .of(upstream.config(), &upstream.roster().seats);
        upstream.set_overrides(overrides);
        let now = Instant::now();
        control::step(&upstream, now);
        self.wake.notify_one();
        Ok(match subject {
            Subject::Server(index) => {
                let view = ServerView::of(&upstream, index, now);
                OverriddenView::Server(Box::new(view.ok_or(OverrideError::NoServer)?))
            }
            Subject::Name(_) => OverriddenView::Name {
                name: server.to_owned(),
                servers: subject
                    .servers(&upstream)
                    .into_iter()
                    .filter_map(|index| ServerView::of(&upstream, index, now))
                    .collect(),
            },
        })
    }

    /// Every override, as (upstream, server, what): for `/status` and reload events.
    pub fn overrides(&self) -> Vec<(Arc<str>, Arc<str>, Override)> {
        lock(&self.inner).overrides.list()
    }

    /// The current upstreams, in the order of the configuration.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        lock(&self.inner).current.clone()
    }

    /// All upstreams as `/status` shows them: no name says more than the servers beside it show.
    pub fn view(&self) -> Vec<UpstreamView> {
        let now = Instant::now();
        let view = |upstream: Arc<Upstream>| {
            let names = lock(&self.inner).names.view(upstream.config(), now);
            if !names.is_empty() {
                // The control task may not have come to what they said last.
                self.reseat(&upstream, now);
            }
            UpstreamView {
                names,
                ..UpstreamView::of(&upstream, now)
            }
        };
        self.upstreams().into_iter().map(view).collect()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
