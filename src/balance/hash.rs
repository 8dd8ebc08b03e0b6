//! The same server for the same key, as long as it can take it.
//!
//! The table holds every server that has weight, is not draining and not a backup, whether it is in
//! rotation or not: one that comes back finds its keys again. Who does not admit, or has much more
//! than its share in flight (Mirrokni, Thorup and Zadimoghaddam 2016, "Consistent Hashing with
//! Bounded Loads"), is passed over for the next different server in the table.

use std::sync::Arc;

use crate::balance::candidates::{Candidates, backups_take_part};
use crate::balance::maglev::{Member, Table};
use crate::balance::{Entry, Servers};

/// A server may always have this many in flight, whatever its share.
const SMALL: u32 = 16;

#[derive(Debug)]
pub(super) struct Hash {
    primaries: Ring,
    /// Only while backups take part.
    backups: Option<Ring>,
}

/// A table and where its members are in the upstream.
#[derive(Debug)]
struct Ring {
    table: Arc<Table>,
    indices: Box<[usize]>,
}

impl Hash {
    /// Takes over tables of `previous` that are still right: filling one takes a millisecond.
    pub fn new(entries: &[Entry], previous: Option<&Hash>) -> Hash {
        let known: Vec<&Arc<Table>> = previous
            .into_iter()
            .flat_map(|hash| [Some(&hash.primaries), hash.backups.as_ref()])
            .flatten()
            .map(|ring| &ring.table)
            .collect();
        let backups = backups_take_part(entries) && entries.iter().any(|entry| entry.backup);
        Hash {
            primaries: Ring::new(entries, false, &known),
            backups: backups.then(|| Ring::new(entries, true, &known)),
        }
    }

    /// Whether a picker for `entries` would be the same.
    pub fn fits(&self, entries: &[Entry]) -> bool {
        let backups = backups_take_part(entries) && entries.iter().any(|entry| entry.backup);
        backups == self.backups.is_some()
            && self.primaries.fits(entries, false)
            && self
                .backups
                .as_ref()
                .is_none_or(|ring| ring.fits(entries, true))
    }

    pub fn pick<S: Servers>(&self, servers: &S, all: &Candidates, hash: u64) -> Option<usize> {
        let Some(backups) = &self.backups else {
            return self.primaries.pick(servers, all, hash);
        };
        // A half-open primary is probed by the keys that are its own; the rest go to the backups.
        self.primaries
            .home(hash)
            .filter(|&index| servers.admits(index))
            .or_else(|| backups.pick(servers, all, hash))
            .or_else(|| self.primaries.pick(servers, all, hash))
    }
}

impl Ring {
    fn new(entries: &[Entry], backup: bool, known: &[&Arc<Table>]) -> Ring {
        let (members, indices) = members(entries, backup);
        let same = known.iter().find(|table| table.members() == members);
        let table = same.map_or_else(|| Arc::new(Table::new(members)), |table| Arc::clone(table));
        Ring {
            table,
            indices: indices.into(),
        }
    }

    fn fits(&self, entries: &[Entry], backup: bool) -> bool {
        let (members, indices) = members(entries, backup);
        self.table.members() == members && *self.indices == *indices
    }

    fn home(&self, hash: u64) -> Option<usize> {
        self.table.home(hash).map(|member| self.indices[member])
    }

    fn pick<S: Servers>(&self, servers: &S, all: &Candidates, hash: u64) -> Option<usize> {
        let home = self.table.home(hash)?;
        let admits = |member: usize| servers.admits(self.indices[member]);
        let small = |member: usize| servers.in_flight(self.indices[member]) <= SMALL;
        if admits(home) && small(home) {
            return Some(self.indices[home]);
        }
        let fair = Fair::of(servers, all);
        let fits = |member: usize| {
            let in_flight = servers.in_flight(self.indices[member]);
            admits(member) && fair.allows(in_flight, self.table.members()[member].1)
        };
        // Looked for first, because a walk that finds nobody goes over all places.
        let members = 0..self.indices.len();
        let found = if members.clone().any(fits) {
            self.table.after(hash, fits)
        } else if members.clone().any(admits) {
            self.table.after(hash, admits)
        } else {
            None
        };
        found.map(|member| self.indices[member])
    }
}

/// The members of a table, sorted by address, and their indices.
fn members(entries: &[Entry], backup: bool) -> (Vec<Member>, Vec<usize>) {
    let mut chosen: Vec<usize> = (0..entries.len())
        .filter(|&index| entries[index].weight > 0 && entries[index].backup == backup)
        .collect();
    chosen.sort_by(|&a, &b| entries[a].key.cmp(&entries[b].key));
    let member = |&index: &usize| (Arc::clone(&entries[index].key), entries[index].weight);
    (chosen.iter().map(member).collect(), chosen)
}

/// What is in flight now over all that take part, and their weight.
struct Fair {
    in_flight: u64,
    weight: u64,
}

impl Fair {
    fn of<S: Servers>(servers: &S, all: &Candidates) -> Fair {
        let in_flight = all
            .list()
            .iter()
            .map(|one| u64::from(servers.in_flight(one.index)))
            .sum();
        // Shares are in tenths of the weight.
        let weight = all
            .list()
            .iter()
            .map(|one| u64::from(one.share))
            .sum::<u64>()
            / 10;
        Fair { in_flight, weight }
    }

    /// At most 16, or 1.5 times the share of a server of this weight.
    fn allows(&self, in_flight: u32, weight: u32) -> bool {
        let twice = 2 * u64::from(in_flight) * self.weight;
        in_flight <= SMALL || twice <= 3 * self.in_flight * u64::from(weight)
    }
}
