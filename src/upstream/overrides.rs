//! What the admin API set over the configuration.
//!
//! An override is kept until the file itself changes that server's entry, or it is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::model;
use crate::telemetry::events;
use crate::upstream::upstream::Upstream;

/// What the admin API set for one server.
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
    #[error("round-robin takes servers in turn: all weights but 0 are equal")]
    RoundRobin,
    #[error("neither weight nor drain given")]
    Empty,
}

/// All overrides, by (upstream, server).
#[derive(Debug, Default)]
pub(super) struct Overrides(BTreeMap<(Arc<str>, Arc<str>), Entry>);

#[derive(Debug)]
struct Entry {
    value: Override,
    /// What the file said when it was set.
    file: FileEntry,
}

/// Of a server's entry, what belongs to it alone: limits may come from its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileEntry {
    weight: u32,
    backup: bool,
    drain: bool,
}

impl FileEntry {
    fn of(server: &model::Server) -> Self {
        FileEntry {
            weight: server.weight,
            backup: server.backup,
            drain: server.drain,
        }
    }
}

impl Overrides {
    /// Those that hold for the servers of `config`, in their order.
    pub fn of(&self, config: &model::Upstream) -> Box<[Override]> {
        let of_server = |server: &model::Server| {
            let key = (config.name.clone(), server.address.to_string().into());
            match self.0.get(&key) {
                Some(entry) if entry.file == FileEntry::of(server) => entry.value,
                _ => Override::default(),
            }
        };
        config.servers.iter().map(of_server).collect()
    }

    /// Sets what `change` gives on top of what is set; the override that results.
    pub fn set(
        &mut self,
        upstream: &Upstream,
        index: usize,
        change: Override,
    ) -> Result<Override, OverrideError> {
        if change == Override::default() {
            return Err(OverrideError::Empty);
        }
        check_weight(upstream, index, change.weight)?;
        let before = upstream.override_of(index);
        let value = Override {
            weight: change.weight.or(before.weight),
            drain: change.drain.or(before.drain),
        };
        let (Some(server), Some(file)) = (
            upstream.servers().get(index),
            upstream.config().servers.get(index),
        ) else {
            return Err(OverrideError::NoServer);
        };
        events::overridden(upstream.name(), server.label(), value.weight, value.drain);
        let key = (upstream.name().clone(), server.label().clone());
        let file = FileEntry::of(file);
        self.0.insert(key, Entry { value, file });
        Ok(value)
    }

    /// Takes an override back, if there is one.
    pub fn clear(&mut self, upstream: &Upstream, index: usize) {
        let Some(server) = upstream.servers().get(index) else {
            return;
        };
        let key = (upstream.name().clone(), server.label().clone());
        if self.0.remove(&key).is_some() {
            events::overridden(upstream.name(), server.label(), None, None);
        }
    }

    /// Drops those whose entry in the file has changed or is gone.
    pub fn forget_changed(&mut self, upstreams: &[Arc<Upstream>]) {
        self.0.retain(|(name, label), entry| {
            let upstream = upstreams.iter().find(|upstream| upstream.name() == name);
            let holds = upstream.is_some_and(|upstream| {
                let mut members = upstream.servers().iter().zip(&upstream.config().servers);
                members.any(|(server, file)| {
                    server.label() == label && FileEntry::of(file) == entry.file
                })
            });
            if !holds {
                events::overridden(name, label, None, None);
            }
            holds
        });
    }

    pub fn list(&self) -> Vec<(Arc<str>, Arc<str>, Override)> {
        let entries = self.0.iter();
        let row = |((upstream, server), entry): (&(Arc<str>, Arc<str>), &Entry)| {
            (upstream.clone(), server.clone(), entry.value)
        };
        entries.map(row).collect()
    }
}

fn check_weight(
    upstream: &Upstream,
    index: usize,
    weight: Option<u32>,
) -> Result<(), OverrideError> {
    let Some(weight) = weight else {
        return Ok(());
    };
    if weight > 1_000 {
        return Err(OverrideError::Weight);
    }
    if weight == 0 || upstream.config().balance != model::Balance::RoundRobin {
        return Ok(());
    }
    let mut others = (0..upstream.servers().len()).filter(|other| *other != index);
    let unequal = others.any(|other| {
        let entry = &upstream.config().servers[other];
        let set = upstream.override_of(other).weight.unwrap_or(entry.weight);
        set != 0 && set != weight
    });
    if unequal {
        return Err(OverrideError::RoundRobin);
    }
    Ok(())
}
