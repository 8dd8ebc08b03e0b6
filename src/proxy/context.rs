//! What a request finds around it: its worker, and the downstream connection it came on.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::model::ListenerId;
use crate::proxy::forwarding::Introductions;
use crate::snapshot::{Pin, Reader};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::Server;
use crate::upstream::pool::{Claim, Pools};
use crate::util::timer::Timers;
use crate::wire::h1::client::Connection;

/// One per worker; never leaves its thread.
pub struct Context {
    pub snapshots: Reader,
    pub timers: Timers,
    pub pools: Rc<Pools<Connection>>,
    pub random: RefCell<fastrand::Rng>,
    pub introductions: RefCell<Introductions>,
    pub access: AccessLog,
    pub metrics: Arc<Metrics>,
}

/// One listener as this worker sees it; shared by the listener's connections here, so that an idle
/// connection pins no snapshot.
pub struct ListenerRules {
    /// As configured: the listener's identity over reloads.
    address: SocketAddr,
    current: RefCell<(Pin, ListenerId)>,
}

/// One downstream connection.
pub struct ConnectionInfo {
    /// The TCP peer.
    pub peer: SocketAddr,
    /// The address it came in on.
    pub local: SocketAddr,
    pub listener: Rc<ListenerRules>,
    /// The upstream connection that NTLM or Negotiate bound to this one.
    pub(super) bound: RefCell<Option<Bound>>,
}

/// An upstream connection that carries one client's identity: never pooled.
pub(super) struct Bound {
    pub server: Arc<Server>,
    pub connection: Connection,
    pub claim: Claim<Connection>,
}

impl ListenerRules {
    /// `None` when the current snapshot has no listener with `address`.
    pub fn new(context: &Context, address: SocketAddr) -> Option<Rc<Self>> {
        let pin = context.snapshots.pin();
        let listener = pin.listener_at(address)?;
        Some(Rc::new(ListenerRules {
            address,
            current: RefCell::new((pin, listener)),
        }))
    }

    /// The snapshot for the next request and this listener in it: the current one, or the last
    /// that had the listener. The worker calls it after each reload too, so that an old snapshot
    /// goes when its last request ends.
    pub fn current(&self, context: &Context) -> (Pin, ListenerId) {
        let pin = context.snapshots.pin();
        let mut current = self.current.borrow_mut();
        if !Rc::ptr_eq(&pin, &current.0)
            && let Some(listener) = pin.listener_at(self.address)
        {
            *current = (pin, listener);
        }
        current.clone()
    }
}

impl ConnectionInfo {
    pub fn new(peer: SocketAddr, local: SocketAddr, listener: Rc<ListenerRules>) -> Self {
        ConnectionInfo {
            peer,
            local,
            listener,
            bound: RefCell::new(None),
        }
    }
}
