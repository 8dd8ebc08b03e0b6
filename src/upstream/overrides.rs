//! What the admin API set over the configuration.
//!
//! An override is kept until the file itself changes that server's entry, or it is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::model::{self, ServerAddress};
use crate::telemetry::events;
use crate::upstream::carried::CarriedOverride;
use crate::upstream::seats::{Seat, Seats};
use crate::upstream::upstream::Upstream;

/// The heaviest that a server may be.
const MOST: u32 = 1_000;

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
    #[error("another process is taking over: ask again in a moment, on a new connection")]
    HandedOver,
}

/// All overrides, by (upstream, server).
#[derive(Debug, Default)]
pub(super) struct Overrides(BTreeMap<(Arc<str>, Arc<str>), Entry>);

#[derive(Debug)]
struct Entry {
    value: Override,
    /// The entry in the file: the server itself, or the name that leads to it.
    from: Arc<str>,
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

/// What holds for the servers of one upstream: for one alone before what holds for its name.
#[derive(Debug, Default)]
pub(super) struct Overridden {
    /// In the order of the seats.
    seats: Box<[Override]>,
    /// In the order of the file.
    entries: Box<[Override]>,
}

impl Overridden {
    /// Of a server that an entry owns.
    pub fn of(&self, index: usize, owner: usize) -> Override {
        let alone = self.seats.get(index).copied().unwrap_or_default();
        let named = self.entry(owner);
        Override {
            weight: alone.weight.or(named.weight),
            drain: alone.drain.or(named.drain),
        }
    }

    fn entry(&self, entry: usize) -> Override {
        self.entries.get(entry).copied().unwrap_or_default()
    }

    /// The effective weight in `scale`: one that is set for a server is its own, one that is set
    /// for a name is shared by its servers.
    pub fn weight(&self, index: usize, seat: &Seat, config: &model::Upstream, scale: u32) -> u32 {
        if let Some(weight) = self.seats.get(index).and_then(|alone| alone.weight) {
            return weight.saturating_mul(scale);
        }
        seat.weight(|entry| {
            let file = config.servers.get(entry).map_or(0, |server| server.weight);
            self.entry(entry).weight.unwrap_or(file)
        })
    }
}

/// What an override is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// The server at this index.
    Server(usize),
    /// All servers of the name that is this entry of the file.
    Name(usize),
}

impl Subject {
    /// By the text that an operator gives: the address of a server, or a name as configured.
    pub fn find(upstream: &Upstream, text: &str) -> Option<Self> {
        let entries = &upstream.config().servers;
        let named =
            |entry: &model::Server| entry.address.is_name() && entry.address.to_string() == text;
        if let Some(entry) = entries.iter().position(named) {
            return Some(Subject::Name(entry));
        }
        let servers = upstream.servers();
        let index = servers.iter().position(|server| &**server.label() == text);
        index.map(Subject::Server)
    }

    /// Its entry in the file.
    fn entry(self, upstream: &Upstream) -> Option<usize> {
        match self {
            Subject::Name(entry) => Some(entry),
            Subject::Server(index) => Some(upstream.roster().seats.list.get(index)?.owner()),
        }
    }

    /// Which servers it is.
    pub fn servers(self, upstream: &Upstream) -> Vec<usize> {
        match self {
            Subject::Server(index) => vec![index],
            Subject::Name(entry) => {
                let roster = upstream.roster();
                let seats = roster.seats.list.iter().enumerate();
                let of_it = seats.filter(|(_, seat)| seat.owner() == entry);
                of_it.map(|(index, _)| index).collect()
            }
        }
    }
}

impl Overrides {
    /// Those that hold for the servers of `config` in their seats.
    pub fn of(&self, config: &model::Upstream, seats: &Seats) -> Overridden {
        let find = |address: &ServerAddress, entry: usize| {
            let key = (config.name.clone(), address.to_string().into());
            let set = self.0.get(&key)?;
            let file = config.servers.get(entry)?;
            let same = *set.from == *file.address.to_string() && set.file == FileEntry::of(file);
            same.then_some(set.value)
        };
        let of_seat = |seat: &Seat| match seat.key.is_name() {
            true => Override::default(),
            false => find(&seat.key, seat.owner()).unwrap_or_default(),
        };
        let of_entry = |(entry, server): (usize, &model::Server)| match server.address.is_name() {
            true => find(&server.address, entry).unwrap_or_default(),
            false => Override::default(),
        };
        Overridden {
            seats: seats.list.iter().map(of_seat).collect(),
            entries: config.servers.iter().enumerate().map(of_entry).collect(),
        }
    }

    /// Sets what `change` gives on top of what is set.
    pub fn set(
        &mut self,
        upstream: &Upstream,
        subject: Subject,
        label: &str,
        change: Override,
    ) -> Result<(), OverrideError> {
        if change == Override::default() {
            return Err(OverrideError::Empty);
        }
        check_weight(upstream, subject, change.weight)?;
        let file = subject.entry(upstream);
        let file = file.and_then(|entry| upstream.config().servers.get(entry));
        let file = file.ok_or(OverrideError::NoServer)?;
        let key = (upstream.name().clone(), Arc::from(label));
        let (from, file) = (file.address.to_string().into(), FileEntry::of(file));
        let before = self.0.get(&key).map_or_else(Override::default, |set| {
            match set.from == from && set.file == file {
                true => set.value,
                false => Override::default(),
            }
        });
        let value = Override {
            weight: change.weight.or(before.weight),
            drain: change.drain.or(before.drain),
        };
        events::overridden(upstream.name(), label, value.weight, value.drain);
        self.0.insert(key, Entry { value, from, file });
        Ok(())
    }

    /// Takes an override back, if there is one.
    pub fn clear(&mut self, upstream: &str, label: &str) -> bool {
        let there = self.0.remove(&(upstream.into(), label.into())).is_some();
        if there {
            events::overridden(upstream, label, None, None);
        }
        there
    }

    /// Drops those whose entry in the file has changed or is gone.
    pub fn forget_changed(&mut self, upstreams: &[Arc<Upstream>]) {
        self.0.retain(|(name, label), entry| {
            let upstream = upstreams.iter().find(|upstream| upstream.name() == name);
            let holds = upstream.is_some_and(|upstream| {
                let mut files = upstream.config().servers.iter();
                files.any(|file| {
                    *file.address.to_string() == *entry.from && FileEntry::of(file) == entry.file
                })
            });
            if !holds {
                events::overridden(name, label, None, None);
            }
            holds
        });
    }

    /// For another process.
    pub(super) fn carried(&self) -> Vec<CarriedOverride> {
        let entries = self.0.iter();
        let row = |((upstream, server), entry): (&(Arc<str>, Arc<str>), &Entry)| CarriedOverride {
            upstream: upstream.to_string(),
            server: server.to_string(),
            weight: entry.value.weight,
            drain: entry.value.drain,
            entry: entry.from.to_string(),
            file_weight: entry.file.weight,
            file_backup: entry.file.backup,
            file_drain: entry.file.drain,
        };
        entries.map(row).collect()
    }

    /// Those of the process before. Whether they still hold is for [`Overrides::forget_changed`].
    pub fn inherit(&mut self, carried: Vec<CarriedOverride>) {
        for one in carried {
            let value = Override {
                weight: one.weight.filter(|weight| *weight <= MOST),
                drain: one.drain,
            };
            if value == Override::default() {
                continue;
            }
            let file = FileEntry {
                weight: one.file_weight,
                backup: one.file_backup,
                drain: one.file_drain,
            };
            let from = one.entry.into();
            let key = (one.upstream.into(), one.server.into());
            self.0.insert(key, Entry { value, from, file });
        }
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
    subject: Subject,
    weight: Option<u32>,
) -> Result<(), OverrideError> {
    let Some(weight) = weight else {
        return Ok(());
    };
    if weight > MOST {
        return Err(OverrideError::Weight);
    }
    if weight == 0 || upstream.config().balance != model::Balance::RoundRobin {
        return Ok(());
    }
    let these = subject.servers(upstream);
    let roster = upstream.roster();
    let mut others = (0..roster.servers.len()).filter(|other| !these.contains(other));
    let unequal = others.any(|other| {
        let entry = upstream
            .config()
            .servers
            .get(roster.seats.list[other].owner());
        let set = upstream.override_of(other).weight;
        let set = set.or(entry.map(|entry| entry.weight)).unwrap_or(0);
        set != 0 && set != weight
    });
    if unequal {
        return Err(OverrideError::RoundRobin);
    }
    Ok(())
}
