//! What all workers know of the connections to one server.
//!
//! Three things cross threads: the number of claims (for `max-connections`), who keeps idle ones
//! (for gauges, and to ask one of them to close), and the fact that somebody wants one in vain.
//!
//! No wake-up is lost: who wants one sets `wanted` and then looks at claims and idle ones; who
//! gives one back lowers the claims, or adds to the idle ones, and then looks at `wanted`. All
//! of these are sequentially consistent, so one of the two sees the other.

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::config::model::{Connections as Settings, Protocol};
use crate::upstream::pool::hub::Mailbox;

/// `max-connections = "off"`.
const UNLIMITED: usize = usize::MAX;
/// How many exchanges a connection is taken to carry before the server has said so.
const PLACES: usize = 100;
/// A duration that is `"off"`, in milliseconds.
const OFF: u64 = u64::MAX;

/// The connections of all workers to one server: idle, in use, or being dialled. Part of the
/// server's live state; survives reloads.
pub struct ServerConnections {
    /// Names the server in the pools of workers; never used twice in a process.
    id: u64,
    /// Claims, from before the dial to the end of the connection.
    open: AtomicUsize,
    limit: AtomicUsize,
    max_idle: AtomicUsize,
    idle_timeout_ms: AtomicU64,
    max_lifetime_ms: AtomicU64,
    /// Raised by [`ServerConnections::reset`]; connections of an earlier one are not kept.
    epoch: AtomicU64,
    /// A [`Protocol`]: with any but HTTP/1 connections may carry many exchanges.
    protocol: AtomicU8,
    /// How many a connection that is being opened will carry, as far as is known.
    places: AtomicUsize,
    wanted: AtomicBool,
    hand_on: OnceLock<HandOn>,
    /// The workers that keep connections to this server. Locked when a worker keeps its first
    /// and when one is wanted in vain, never per request.
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// Tells the queue that there may be room; true while somebody waits, the one told included: then
/// it is told the next time too.
pub type HandOn = Box<dyn Fn() -> bool + Send + Sync>;

/// One worker's part.
#[derive(Debug)]
pub(super) struct Shard {
    /// Written by its worker only.
    pub(super) idle: AtomicUsize,
    /// Those of many exchanges that carry some. Written by its worker only.
    pub(super) busy_lines: AtomicUsize,
    /// Its worker has been asked to close one and has not done so yet.
    asked: AtomicBool,
    mailbox: Arc<Mailbox>,
}

impl ServerConnections {
    pub fn new(settings: &Settings) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let connections = ServerConnections {
            id: NEXT.fetch_add(1, Relaxed),
            open: AtomicUsize::new(0),
            limit: AtomicUsize::new(UNLIMITED),
            max_idle: AtomicUsize::new(0),
            idle_timeout_ms: AtomicU64::new(OFF),
            max_lifetime_ms: AtomicU64::new(OFF),
            epoch: AtomicU64::new(0),
            protocol: AtomicU8::new(Protocol::Http1 as u8),
            places: AtomicUsize::new(PLACES),
            wanted: AtomicBool::new(false),
            hand_on: OnceLock::new(),
            shards: Mutex::default(),
        };
        connections.configure(settings);
        Arc::new(connections)
    }

    /// Takes over settings of a reload. A lower `max-connections` closes nothing in use.
    pub fn configure(&self, settings: &Settings) {
        let milliseconds = |duration: Option<Duration>| {
            duration.map_or(OFF, |duration| {
                duration.as_millis().try_into().unwrap_or(OFF)
            })
        };
        self.max_idle.store(settings.max_idle, Relaxed);
        self.idle_timeout_ms
            .store(milliseconds(settings.idle_timeout), Relaxed);
        self.max_lifetime_ms
            .store(milliseconds(settings.max_lifetime), Relaxed);
        self.limit
            .store(settings.max_connections.unwrap_or(UNLIMITED), SeqCst);
        self.tell_room();
    }

    /// What connections speak from now on. Where that is another protocol, those that are open end
    /// after what they carry.
    pub fn speak(&self, protocol: Protocol) {
        if self.protocol.swap(protocol as u8, SeqCst) != protocol as u8 {
            self.places.store(PLACES, Relaxed);
            self.reset();
        }
    }

    /// What a connection that is opened now is to speak.
    pub fn protocol(&self) -> Protocol {
        match self.protocol.load(Relaxed) {
            h2 if h2 == Protocol::H2 as u8 => Protocol::H2,
            auto if auto == Protocol::Auto as u8 => Protocol::Auto,
            _ => Protocol::Http1,
        }
    }

    /// Its connections carry, or may turn out to carry, many exchanges.
    pub(super) fn may_share(&self) -> bool {
        self.protocol.load(Relaxed) != Protocol::Http1 as u8
    }

    pub(super) fn places_expected(&self) -> usize {
        self.places.load(Relaxed)
    }

    /// A connection was opened that carries so many exchanges; 0: one at a time.
    pub(super) fn expect_places(&self, places: usize) {
        self.places.store(places, Relaxed);
    }

    /// What to call (on whatever thread) when a connection to this server has become free or may
    /// be opened after one was wanted in vain. It must not block. The first call counts.
    pub fn on_room(&self, hand_on: HandOn) {
        let _set_before = self.hand_on.set(hand_on);
    }

    /// The server was removed, has moved, or what its connections speak has changed: idle ones
    /// close, those in use close after their exchange. New ones may still be opened.
    pub fn reset(&self) {
        self.epoch.fetch_add(1, SeqCst);
        for shard in self.shards().iter() {
            shard.mailbox.wake();
        }
    }

    /// Claims of all workers: idle, in use and being dialled.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Idle ones of all workers.
    pub fn idle(&self) -> usize {
        self.shards()
            .iter()
            .map(|shard| shard.idle.load(Relaxed))
            .sum()
    }

    /// Those in use or being dialled, and idle ones, of all workers: read together, so that the
    /// two never add up to more than there are.
    pub fn active_and_idle(&self) -> (usize, usize) {
        let idle = self.idle();
        let open = self.open();
        (open.saturating_sub(idle), idle.min(open))
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Whether a worker, one of `workers`, that keeps so many keeps its share: at least one.
    pub(super) fn is_share(&self, idle: usize, workers: usize) -> bool {
        // (max / workers) <= idle, without dividing.
        idle > 0 && self.max_idle.load(Relaxed) < (idle + 1).saturating_mul(workers.max(1))
    }

    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        duration(self.idle_timeout_ms.load(Relaxed))
    }

    pub(super) fn max_lifetime(&self) -> Option<Duration> {
        duration(self.max_lifetime_ms.load(Relaxed))
    }

    /// One may be opened, as far as `max-connections` is concerned.
    pub(super) fn has_room(&self) -> bool {
        let limit = self.limit.load(SeqCst);
        limit == UNLIMITED || self.open.load(SeqCst) < limit
    }

    /// Claims one connection; false at `max-connections`.
    pub(super) fn claim(&self) -> bool {
        let limit = self.limit.load(SeqCst);
        if limit == UNLIMITED {
            self.open.fetch_add(1, SeqCst);
            return true;
        }
        self.open
            .fetch_update(SeqCst, SeqCst, |open| (open < limit).then_some(open + 1))
            .is_ok()
    }

    /// A claimed connection has ended.
    pub(super) fn release(&self) {
        self.open.fetch_sub(1, SeqCst);
        self.tell_room();
    }

    /// Somebody wanted one in vain and has not been told of room since.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst)
    }

    /// There may be room: hands it on if somebody wanted it.
    pub(super) fn tell_room(&self) {
        if self.wanted.swap(false, SeqCst) && self.hand_on.get().is_some_and(|hand_on| hand_on()) {
            self.wanted.store(true, SeqCst);
        }
    }

    /// A worker wants one in vain: asks one that keeps idle ones to close one, unless all that
    /// do are asked already; where there is none, one whose connections carry many exchanges and
    /// might never be idle.
    pub(super) fn want(&self) {
        self.wanted.store(true, SeqCst);
        let shards = self.shards();
        let idle = |shard: &&Arc<Shard>| shard.idle.load(SeqCst) > 0;
        let busy = |shard: &&Arc<Shard>| shard.busy_lines.load(SeqCst) > 0;
        let ask = |shard: &Arc<Shard>| !shard.asked.swap(true, SeqCst);
        let asked = shards.iter().filter(idle).find(|shard| ask(shard));
        if let Some(shard) = asked.or_else(|| shards.iter().filter(busy).find(|shard| ask(shard))) {
            shard.mailbox.wake();
        }
    }

    pub(super) fn add_shard(&self, mailbox: &Arc<Mailbox>) -> Arc<Shard> {
        let shard = Arc::new(Shard {
            idle: AtomicUsize::new(0),
            busy_lines: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            mailbox: mailbox.clone(),
        });
        self.shards().push(shard.clone());
        shard
    }

    pub(super) fn remove_shard(&self, shard: &Arc<Shard>) {
        self.shards().retain(|other| !Arc::ptr_eq(other, shard));
    }

    fn shards(&self) -> MutexGuard<'_, Vec<Arc<Shard>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    /// Has it close an idle one, if it has any and is not asked already.
    pub(super) fn ask_idle(&self) -> bool {
        let asked = self.idle.load(SeqCst) > 0 && !self.asked.swap(true, SeqCst);
        if asked {
            self.mailbox.wake();
        }
        asked
    }

    /// Takes the wish of another worker, if there is one.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, SeqCst)
    }
}

impl fmt::Debug for ServerConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnections")
            .field("open", &self.open())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

fn duration(milliseconds: u64) -> Option<Duration> {
    (milliseconds != OFF).then(|| Duration::from_millis(milliseconds))
}
