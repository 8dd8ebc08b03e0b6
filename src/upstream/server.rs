//! One server's live state, shared by every generation of the configuration that names it.

use std::sync::Arc;

use crate::config::model::ServerAddress;
use crate::upstream::connector::Target;
use crate::upstream::pool::ServerConnections;
use crate::upstream::resolve::Addresses;

/// Tells servers apart over the life of the process: a server that is removed and comes back
/// after its last request has ended is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u64);

/// The live state of one server, keyed by (upstream, address).
#[derive(Debug)]
pub struct Server {
    id: ServerId,
    address: ServerAddress,
    label: Arc<str>,
    addresses: Arc<Addresses>,
    connections: Arc<ServerConnections>,
}

impl Server {
    pub fn id(&self) -> ServerId {
        self.id
    }

    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// The address as written: label value in metrics and logs.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub fn connections(&self) -> &Arc<ServerConnections> {
        &self.connections
    }

    /// What a connect goes to.
    pub fn target(&self) -> Target {
        Target {
            address: self.address.clone(),
            addresses: self.addresses.clone(),
        }
    }
}
