//! What runs for a server while it is configured: its checks.

use std::sync::{Arc, Weak};

use crate::config::model;
use crate::upstream::common::lock;
use crate::upstream::health;
use crate::upstream::seats::{Place, Seat};
use crate::upstream::server::Server;

/// Brings the tasks and the connections of a server in line with a published configuration.
/// On the control runtime.
pub(super) fn attach(server: &Arc<Server>, seat: &Seat, config: &Arc<model::Upstream>) {
    server.connections().configure(&config.connections);
    server.connections().speak(config.protocol);
    let other_name = server.set_origin(&seat.origin);
    if server.secure(config.tls.as_ref()) | server.introduce(config.proxy_protocol) {
        server.connections().reset();
    }
    if seat.place != Place::Known {
        // There is nothing to check before there is an address.
        return;
    }
    let mut control = lock(&server.control);
    if other_name {
        // Checks ask for the name too.
        control.checks = None;
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
    control.knocks = None;
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
