//! What runs for a server while it is configured: its checks and the resolving of its name.

use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use crate::config::model::{self, ServerAddress};
use crate::upstream::common::lock;
use crate::upstream::health;
use crate::upstream::resolve::{self, SystemResolver};
use crate::upstream::server::Server;

/// A task that ends with its handle.
#[derive(Debug)]
pub(super) struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Brings the tasks and the connections of a server in line with a published configuration.
/// On the control runtime.
pub(super) fn attach(
    server: &Arc<Server>,
    config: &Arc<model::Upstream>,
    resolver: &mut Option<Arc<SystemResolver>>,
) {
    server.connections().configure(&config.connections);
    server.connections().speak(config.protocol);
    if server.secure(config.tls.as_ref()) | server.introduce(config.proxy_protocol) {
        server.connections().reset();
    }
    let mut control = lock(&server.control);
    if let ServerAddress::Name(name, port) = server.address()
        && control.resolving.is_none()
    {
        let resolver = resolver.get_or_insert_with(SystemResolver::new).clone();
        let connections = server.connections().clone();
        let moved = move || connections.reset();
        let addresses = server.addresses().clone();
        let task = resolve::spawn(resolver, name.clone(), *port, addresses, moved);
        control.resolving = Some(Running(task));
    }
    match (&control.checks, &config.health) {
        (Some(checks), Some(settings)) => checks.configure(Arc::new(settings.clone())),
        (None, Some(settings)) => control.checks = Some(check(server, settings)),
        (_, None) => {
            control.checks = None;
            server.forget_checks();
        }
    }
}

/// The server was removed: its requests finish, nothing new is learnt about it.
pub(super) fn detach(server: &Arc<Server>) {
    server.connections().reset();
    let mut control = lock(&server.control);
    control.checks = None;
    control.resolving = None;
}

fn check(server: &Arc<Server>, settings: &model::Health) -> health::Checks {
    // Weak: the task is owned by the server that it reports to.
    let target = Arc::downgrade(server);
    let settings = Arc::new(settings.clone());
    health::spawn(
        server.target(),
        settings,
        server.standing(),
        move |report| {
            if let Some(server) = Weak::upgrade(&target) {
                server.checked(report);
            }
        },
    )
}
