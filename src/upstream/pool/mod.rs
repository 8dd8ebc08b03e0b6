//! Idle connections to servers: one set per worker, one count over all workers.

pub mod shared;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use shared::ServerConnections;

/// What the pool needs to know of a connection; `wire::h1::client::Connection` is the real one.
pub trait Pooled {
    /// No bytes, FIN or error are waiting: a request may be sent. No system call.
    fn is_usable(&mut self) -> bool;

    /// The server's `Keep-Alive: timeout=`.
    fn keep_alive_hint(&self) -> Option<Duration>;
}

/// The mailboxes of all workers: one per process.
#[derive(Debug, Default)]
pub struct Hub {}

impl Hub {
    pub fn new() -> Arc<Self> {
        Arc::new(Hub {})
    }
}

/// The connection pools of one worker, by server.
pub struct Pools<C> {
    _connection: std::marker::PhantomData<C>,
}

/// The claim on one connection of a server, from before its dial to its end. Dropping it says
/// that the connection is closed.
pub struct Claim<C> {
    _pools: Rc<Pools<C>>,
}

/// What [`Pools::acquire`] found.
pub enum Acquired<C> {
    /// A kept connection.
    Kept(C, Claim<C>),
    /// None kept: dial one under this claim.
    Dial(Claim<C>),
    /// At `max-connections`. Another worker has been asked to close an idle one where there is
    /// one; [`ServerConnections::on_room`] follows.
    Full,
}

impl<C: Pooled + 'static> Pools<C> {
    /// Of one worker.
    pub fn new(_hub: &Arc<Hub>) -> Rc<Self> {
        todo!()
    }

    /// Sweeps and serves other workers' wishes; the worker runs it next to its connections.
    pub async fn run(self: Rc<Self>) {
        todo!()
    }

    /// This worker has an idle connection to the server or may open one.
    pub fn can_carry(&self, _server: &Arc<ServerConnections>) -> bool {
        todo!()
    }

    /// The newest usable kept connection, or leave to open one.
    pub fn acquire(self: &Rc<Self>, _server: &Arc<ServerConnections>) -> Acquired<C> {
        todo!()
    }

    /// Leave to open a connection whatever is kept: to send a stale one's request again.
    pub fn acquire_new(self: &Rc<Self>, _server: &Arc<ServerConnections>) -> Acquired<C> {
        todo!()
    }
}

impl<C: Pooled + 'static> Claim<C> {
    /// The connection served its exchange and may serve another.
    pub fn check_in(self, _connection: C) {
        todo!()
    }
}
