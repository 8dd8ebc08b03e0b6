//! All names that the configuration in use has, each with what it was last told.
//!
//! By name and not by upstream: an upstream that is renamed, or a second one with the same name in
//! it, has the answer at once, also while the name server is down.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::model::{self, ServerAddress};
use crate::telemetry::{Metrics, NameMetrics, ResolveResult, events};
use crate::upstream::carried::{CarriedName, millis};
use crate::upstream::common::lock;
use crate::upstream::resolve::refresh::{self, Answer, Trouble};
use crate::upstream::resolve::{Addresses, Says, SystemResolver, Told};
use crate::upstream::seats::{self, Seats};

/// More servers than that a name does not have: an answer may be hostile, and each server costs
/// memory on every worker.
pub const MOST: usize = 256;
/// How long a name server that does not answer is given before the first answer: requests wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sources of the configuration in use. Belongs to the registry, under its lock.
pub struct Names {
    sources: HashMap<ServerAddress, (Arc<Source>, Option<Asking>)>,
    changes: Arc<Changes>,
    resolver: Arc<SystemResolver>,
    metrics: Arc<Metrics>,
}

/// That some source says something else now.
#[derive(Debug)]
struct Changes {
    count: AtomicU64,
    /// Of the control task.
    wake: Arc<Notify>,
}

/// A task that ends with its handle.
struct Asking(AbortHandle);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One name, and what it says. Written by its task only.
#[derive(Debug)]
pub struct Source {
    name: ServerAddress,
    says: ArcSwap<Says>,
    /// For connects that wait for the first answer.
    first: Arc<Addresses>,
    record: Mutex<Record>,
    changes: Arc<Changes>,
    metrics: Arc<NameMetrics>,
}

#[derive(Debug)]
struct Record {
    since: Instant,
    /// The last good answer.
    answered: Option<Instant>,
    failing: Option<(Instant, Arc<str>)>,
    next: Option<Instant>,
    left_out: usize,
}

/// A name as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NameView {
    pub name: String,
    /// `resolved`, `failing` (its last answer is kept), `unresolved` or `pending`.
    pub state: &'static str,
    pub servers: usize,
    /// Of the answer, that are over the limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
    /// The age of the answer in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_since_answer: Option<f64>,
    /// Why there is no newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_failing: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_to_next: Option<f64>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Names {
    pub fn new(wake: Arc<Notify>, resolver: Arc<SystemResolver>, metrics: &Arc<Metrics>) -> Self {
        Names {
            sources: HashMap::new(),
            changes: Arc::new(Changes {
                count: AtomicU64::new(0),
                wake,
            }),
            resolver,
            metrics: metrics.clone(),
        }
    }

    /// Counts what sources said: seats made at another count may have to be made anew.
    pub fn changes(&self) -> u64 {
        self.changes.count.load(Ordering::Acquire)
    }

    /// The servers of a configuration by what is known now.
    pub fn seats(&self, config: &model::Upstream) -> Seats {
        seats::seats(config, |name| match self.sources.get(name) {
            Some((source, _)) => source.says.load_full(),
            None => Arc::new(Says::Pending),
        })
    }

    /// What a server that stands for a name waits for.
    pub fn first(&mut self, name: &ServerAddress) -> Arc<Addresses> {
        self.source(name).first.clone()
    }

    pub(in crate::upstream) fn source(&mut self, name: &ServerAddress) -> &Arc<Source> {
        let (changes, metrics) = (&self.changes, &self.metrics);
        let entry = self.sources.entry(name.clone());
        let (source, _) =
            entry.or_insert_with(|| (Source::new(name, changes.clone(), metrics), None));
        source
    }

    /// Asks for these names from now on, and for no others. On the control runtime.
    pub fn follow<'a>(&mut self, names: impl Iterator<Item = &'a ServerAddress>) {
        let mut before = std::mem::take(&mut self.sources);
        for name in names {
            if let Some(source) = before.remove(name) {
                self.sources.insert(name.clone(), source);
            }
            let source = self.source(name).clone();
            if let Some((_, asking @ None)) = self.sources.get_mut(name) {
                let task = refresh::spawn(self.resolver.clone(), source);
                *asking = Some(Asking(task));
            }
        }
    }

    /// For another process.
    pub(in crate::upstream) fn carried(&self, now: Instant) -> Vec<CarriedName> {
        let sources = self.sources.values();
        let told = sources.filter_map(|(source, _)| source.carried(now));
        told.collect()
    }

    /// Of the names in `config`, in its order.
    pub fn view(&self, config: &model::Upstream, now: Instant) -> Vec<NameView> {
        let names = config.servers.iter();
        let sources = names.filter_map(|entry| self.sources.get(&entry.address));
        sources.map(|(source, _)| source.view(now)).collect()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Changes {
    fn changed(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.wake.notify_one();
    }
}

impl Source {
    fn new(name: &ServerAddress, changes: Arc<Changes>, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Source {
            says: ArcSwap::from_pointee(Says::Pending),
            first: Addresses::pending(),
            record: Mutex::new(Record {
                since: Instant::now(),
                answered: None,
                failing: None,
                next: None,
                left_out: 0,
            }),
            changes,
            metrics: metrics.name(&name.to_string()),
            name: name.clone(),
        })
    }

    pub(super) fn name(&self) -> &ServerAddress {
        &self.name
    }

    /// One that nobody follows.
    #[cfg(test)]
    pub(super) fn alone(name: &ServerAddress, metrics: &Metrics) -> Arc<Self> {
        let changes = Changes {
            count: AtomicU64::new(0),
            wake: Arc::default(),
        };
        Self::new(name, Arc::new(changes), metrics)
    }

    #[cfg(test)]
    pub(super) fn says(&self) -> Arc<Says> {
        self.says.load_full()
    }

    /// Takes over an answer that is not empty.
    pub(in crate::upstream) fn answered(&self, answer: Answer) {
        self.metrics.asked(ResolveResult::Success);
        let before = self.says.load_full();
        let known: &[Told] = match &*before {
            Says::Known(told) => told,
            _ => &[],
        };
        let (told, left_out) = settle(answer.told, known);
        let (failing, more) = {
            let mut record = lock(&self.record);
            record.answered = Some(Instant::now());
            let more = left_out > 0 && record.left_out == 0;
            record.left_out = left_out;
            (record.failing.take(), more)
        };
        if more {
            events::name_over_limit(&self.name, told.len(), left_out);
        }
        if let Some((since, _)) = failing {
            events::name_back(&self.name, since.elapsed());
        }
        let same = |told: &[Told], other: &Told| told.iter().any(|told| told.at == other.at);
        let added = told.iter().filter(|told| !same(known, told));
        let added: Vec<SocketAddr> = added.map(|told| told.at).collect();
        let removed = known.iter().filter(|known| !same(&told, known));
        let removed: Vec<SocketAddr> = removed.map(|told| told.at).collect();
        if !added.is_empty() || !removed.is_empty() {
            events::name_moved(&self.name, told.len(), &added, &removed);
        }
        self.know(told);
    }

    /// Has the last answer of the process before this one: nobody was asked.
    pub(in crate::upstream) fn inherit(&self, told: Vec<Told>, age: Duration) {
        if told.is_empty() {
            return;
        }
        let (told, left_out) = settle(told, &[]);
        {
            let mut record = lock(&self.record);
            record.answered = Instant::now().checked_sub(age);
            record.left_out = left_out;
        }
        self.know(told);
    }

    fn know(&self, told: Box<[Told]>) {
        let primary = told.iter().filter(|told| !told.backup);
        let primary: Vec<SocketAddr> = primary.map(|told| told.at).collect();
        self.first.publish(&primary);
        self.say(Says::Known(told));
    }

    /// The last good answer, for another process.
    fn carried(&self, now: Instant) -> Option<CarriedName> {
        let Says::Known(told) = &**self.says.load() else {
            return None;
        };
        let answered = lock(&self.record).answered;
        let age = answered.map(|at| now.saturating_duration_since(at));
        Some(CarriedName {
            name: self.name.to_string(),
            age_ms: millis(age.unwrap_or_default()),
            servers: told.iter().copied().map(Into::into).collect(),
        })
    }

    /// No answer: the last good one stays, however long that takes. Only where the answer is that
    /// the service is decidedly not there, it is taken at its word.
    pub(super) fn failed(&self, trouble: Trouble) {
        self.metrics.asked(trouble.result);
        let decided = trouble.result == ResolveResult::Unavailable;
        let says = self.says.load_full();
        let kept = matches!(*says, Says::Known(_)) && !decided;
        let impatient = {
            let mut record = lock(&self.record);
            if record.failing.is_none() {
                // Once per run of failures; the retries would say the same each time.
                events::name_fails(&self.name, &trouble.cause, kept);
            }
            let since = record.failing.as_ref().map(|(since, _)| *since);
            let since = since.unwrap_or_else(Instant::now);
            record.failing = Some((since, trouble.cause.clone()));
            record.since.elapsed() >= PATIENCE
        };
        let waits = *says == Says::Pending && !impatient && !trouble.result.is_definite();
        if !kept && !waits {
            self.first.fail(trouble.cause.clone());
            self.say(Says::Missing(trouble.cause));
        }
    }

    pub(super) fn asks_again(&self, at: Instant) {
        lock(&self.record).next = Some(at);
    }

    fn say(&self, says: Says) {
        if **self.says.load() != says {
            self.says.store(Arc::new(says));
            self.changes.changed();
        }
    }

    pub(super) fn view(&self, now: Instant) -> NameView {
        let says = self.says.load();
        let record = lock(&self.record);
        let since = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        NameView {
            name: self.name.to_string(),
            state: match (&**says, &record.failing) {
                (Says::Pending, _) => "pending",
                (Says::Missing(_), _) => "unresolved",
                (Says::Known(_), None) => "resolved",
                (Says::Known(_), Some(_)) => "failing",
            },
            servers: match &**says {
                Says::Known(told) => told.len(),
                _ => 0,
            },
            left_out: record.left_out,
            seconds_since_answer: record.answered.map(since),
            error: record.failing.as_ref().map(|(_, cause)| cause.to_string()),
            seconds_failing: record.failing.as_ref().map(|(at, _)| since(*at)),
            seconds_to_next: record
                .next
                .map(|at| at.saturating_duration_since(now).as_secs_f64()),
        }
    }
}

/// By address, each once and only what can be one, those that are in use first where there are too
/// many; and how many those are that have no place.
fn settle(mut told: Vec<Told>, known: &[Told]) -> (Box<[Told]>, usize) {
    let in_use = |told: &Told| known.iter().any(|known| known.at == told.at);
    told.sort_by_key(|told| (told.at, told.backup));
    told.dedup_by_key(|told| told.at);
    let left_out = told.len().saturating_sub(MOST);
    if left_out > 0 {
        told.sort_by_key(|told| (!in_use(told), told.backup, told.at));
        told.truncate(MOST);
        told.sort_by_key(|told| told.at);
    }
    (told.into(), left_out)
}
