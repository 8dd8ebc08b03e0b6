//! The idle connections of one worker to one server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::pool::Pooled;
use crate::upstream::pool::hub::Mailbox;
use crate::upstream::pool::shared::{ServerConnections, Shard};

/// The server closes an idle connection this much after we do: a request that we send on it in
/// our last moment still arrives in time.
const MARGIN: Duration = Duration::from_secs(1);

/// One place among the connections to a server; released when dropped.
pub(super) struct Ticket {
    server: Arc<ServerConnections>,
    epoch: u64,
    opened: Instant,
}

impl Ticket {
    /// `None` at `max-connections`.
    pub(super) fn new(server: &Arc<ServerConnections>, now: Instant) -> Option<Self> {
        server.claim().then(|| Ticket {
            server: server.clone(),
            epoch: server.epoch(),
            opened: now,
        })
    }

    pub(super) fn server(&self) -> &Arc<ServerConnections> {
        &self.server
    }

    /// Until when the connection may be kept from now on; `None`: not at all. `Some(None)`: for
    /// as long as it works.
    pub(super) fn keep_until(
        &self,
        hint: Option<Duration>,
        now: Instant,
    ) -> Option<Option<Instant>> {
        if self.epoch != self.server.epoch() {
            return None;
        }
        let hint = hint.map(|hint| hint.saturating_sub(MARGIN));
        let idle = [self.server.idle_timeout(), hint]
            .into_iter()
            .flatten()
            .min();
        let idle = idle.and_then(|idle| now.checked_add(idle));
        let lifetime = self.server.max_lifetime();
        let end = lifetime.and_then(|lifetime| self.opened.checked_add(lifetime));
        let expires = [idle, end].into_iter().flatten().min();
        match expires {
            Some(expires) if expires <= now => None,
            expires => Some(expires),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.server.release();
    }
}

/// A connection between two exchanges. The order of fields matters: closed, then released.
pub(super) struct Idle<C> {
    pub(super) connection: C,
    pub(super) expires: Option<Instant>,
    pub(super) ticket: Ticket,
}

pub(super) struct Kept<C> {
    pub(super) server: Arc<ServerConnections>,
    pub(super) shard: Arc<Shard>,
    /// Newest last.
    pub(super) idle: VecDeque<Idle<C>>,
    /// How far the server is suspected of ending kept connections without a word: grows with each
    /// that it ended, wears off with each that still worked.
    doubt: u32,
}

/// What one connection that the server ended says about the next ones.
const DOUBT: u32 = 32;

/// A restart ends all of them at once, and means nothing for those to come: forgotten after so
/// many requests.
const MOST_DOUBT: u32 = 256;

impl<C: Pooled> Kept<C> {
    pub(super) fn take(
        &mut self,
        ended: &mut Vec<Idle<C>>,
        cx: &mut Context<'_>,
    ) -> Option<Idle<C>> {
        let epoch = self.server.epoch();
        let mut found = None;
        while let Some(mut idle) = self.idle.pop_back() {
            if idle.ticket.epoch == epoch {
                if idle.connection.is_usable(cx) {
                    self.doubt = self.doubt.saturating_sub(1);
                    found = Some(idle);
                    break;
                }
                self.doubt();
            }
            ended.push(idle);
        }
        self.count();
        found
    }

    /// Ends those whose time is over, that are no longer wanted, or that the server ended.
    pub(super) fn expire(&mut self, now: Instant, ended: &mut Vec<Idle<C>>) {
        let epoch = self.server.epoch();
        let mut cx = Context::from_waker(Waker::noop());
        let mut index = 0;
        while let Some(idle) = self.idle.get_mut(index) {
            let over = idle.expires.is_some_and(|expires| expires <= now);
            let wanted = !over && idle.ticket.epoch == epoch;
            if wanted && idle.connection.is_usable(&mut cx) {
                index += 1;
                continue;
            }
            ended.extend(self.idle.remove(index));
            if wanted {
                self.doubt();
            }
        }
        self.count();
    }
}

impl<C> Kept<C> {
    pub(super) fn new(server: &Arc<ServerConnections>, mailbox: &Arc<Mailbox>) -> Self {
        Kept {
            server: server.clone(),
            shard: server.add_shard(mailbox),
            idle: VecDeque::new(),
            doubt: 0,
        }
    }

    /// The server ended a kept connection by itself.
    pub(super) fn doubt(&mut self) {
        self.doubt = (self.doubt + DOUBT).min(MOST_DOUBT);
    }

    /// A kept connection may well be ended by the time a request arrives on it. Asking wears the
    /// doubt off.
    pub(super) fn is_doubted(&mut self) -> bool {
        let doubted = self.doubt > 0;
        self.doubt = self.doubt.saturating_sub(1);
        doubted
    }

    pub(super) fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Keeps one more; gives the oldest back where that is more than `share`.
    pub(super) fn push(&mut self, idle: Idle<C>, share: usize) -> Option<Idle<C>> {
        let excess = if self.idle.len() >= share {
            self.idle.pop_front()
        } else {
            None
        };
        self.idle.push_back(idle);
        self.count();
        excess
    }

    pub(super) fn oldest(&mut self) -> Option<Idle<C>> {
        let oldest = self.idle.pop_front();
        self.count();
        oldest
    }

    /// The server was removed, and no request holds it any more.
    pub(super) fn is_orphaned(&self) -> bool {
        Arc::strong_count(&self.server) == 1 + self.idle.len()
    }

    fn count(&self) {
        self.shard.idle.store(self.idle.len(), Ordering::SeqCst);
    }
}

impl<C> Drop for Kept<C> {
    fn drop(&mut self) {
        self.server.remove_shard(&self.shard);
    }
}
