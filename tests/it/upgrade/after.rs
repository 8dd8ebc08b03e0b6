//! What becomes of the old process, and of who still asks it, once the new one has taken over.

use std::net::TcpStream;

use nix::sys::signal::Signal;

use super::kept::echoing;
use super::service::{Service, is_alive, signal_to};
use crate::support::{Client, Origin, app, eventually};

const SWITCH: &str = "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A service whose process has something to wait for at its end.
struct Busy {
    service: Service,
    origin: Origin,
    tunnels: Vec<Client>,
}

impl Busy {
    fn start() -> Self {
        Self::start_with("")
    }

    fn start_with(more: &str) -> Self {
        let origin = echoing();
        let process = "[process]\nworkers = 2\ndrain-timeout = \"20s\"\n";
        let service = Service::start(&format!("{process}{more}{}", app(&[&origin], "")));
        let mut busy = Busy {
            service,
            origin,
            tunnels: Vec::new(),
        };
        busy.tunnel();
        busy
    }

    fn tunnel(&mut self) {
        let mut tunnel = Client::connect(self.service.listener("web"));
        tunnel.send(SWITCH);
        self.tunnels.push(tunnel);
        let count = self.tunnels.len();
        let origin = &self.origin;
        eventually("the tunnel is open", || origin.connections() == count);
    }
}

#[test]
fn who_has_connected_to_the_admin_listener_before_is_answered_after() {
    let mut busy = Busy::start();
    let service = &mut busy.service;
    let mut waiting = Client::connect(service.admin());
    // Accepted after it: so it is with the old process.
    assert_eq!(Client::connect(service.admin()).get("/readyz").status, 200);
    let old = service.upgrade();
    assert!(is_alive(old));
    let answer = waiting.get("/readyz");
    assert_eq!(answer.status, 200, "the service is ready");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(waiting.is_closed());
    // And nobody else is asked any more.
    for _ in 0..50 {
        assert_eq!(service.status()["state"], "ready");
    }
}

#[test]
fn when_the_new_one_is_killed_nothing_is_in_the_way_of_the_next() {
    let mut busy = Busy::start();
    let service = &mut busy.service;
    let (web, admin) = (service.listener("web"), service.admin());
    let old = service.upgrade();
    signal_to(service.pid(), Signal::SIGKILL);
    service.eventually_said("is gone, and this one cannot go back");
    assert!(is_alive(old), "it ends what it has");
    for address in [web, admin] {
        // The kernel may still be at closing what it had.
        eventually("nobody has the address", || {
            TcpStream::connect(address).is_err()
        });
    }
    // Its number may be somebody else's by now.
    signal_to(old, Signal::SIGHUP);
    signal_to(old, Signal::SIGUSR2);
    service.eventually_said("upgrade: done already");
}

#[test]
fn one_that_was_replaced_in_its_turn_is_no_failure() {
    let mut busy = Busy::start();
    let first = busy.service.upgrade();
    let second = busy.service.upgrade();
    let service = &busy.service;
    eventually("the second has nothing to wait for", || !is_alive(second));
    service.eventually_said("the process that has taken over has ended");
    assert!(is_alive(first));
    assert_eq!(service.said("ERROR"), 0, "{}", service.log());
}

#[test]
fn one_that_ends_says_that_it_is_too_late_for_an_upgrade() {
    let busy = Busy::start();
    busy.service.signal(Signal::SIGTERM);
    busy.service.eventually_said("draining");
    busy.service.signal(Signal::SIGUSR2);
    busy.service
        .eventually_said("this process is ending, the signal is ignored");
    assert_eq!(busy.service.said("started the new process"), 0);
}

#[test]
fn a_rotation_that_is_told_to_the_old_one_is_made_by_both() {
    let place = tempfile::tempdir().expect("a directory");
    let log = place.path().join("access.log");
    let mut busy = Busy::start_with(&format!("[access-log]\npath = \"{}\"\n", log.display()));
    let old = busy.service.upgrade();
    std::fs::rename(&log, place.path().join("access.log.1")).expect("is there");
    signal_to(old, Signal::SIGUSR1);
    let address = busy.service.listener("web");
    eventually("a line of the new one is in the new file", || {
        let mut client = Client::connect(address);
        client.send("GET /\\bad HTTP/9.9\r\n\r\n");
        assert!(client.response().status >= 400);
        std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)
    });
    assert!(is_alive(old));
}
