//! A service manager: a socket that is told things, and sockets that it passes.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::service::{Service, install_bytes};
use crate::support::{Client, DEADLINE, Origin, app, eventually};

/// What it was told.
struct Manager {
    socket: UnixDatagram,
    name: String,
    heard: Vec<String>,
}

impl Manager {
    fn hidden(name: &str) -> Self {
        let name = format!("evenkeel-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("binds");
        Self::at(socket, format!("@{name}"))
    }

    fn file(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("binds");
        Self::at(socket, path.display().to_string())
    }

    fn at(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        Manager {
            socket,
            name,
            heard: Vec::new(),
        }
    }

    /// The next message that contains `words`.
    #[track_caller]
    fn hears(&mut self, words: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let length = self
                .socket
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("no {words} ({error}) after {:?}", self.heard));
            let text = String::from_utf8(bytes[..length].to_vec()).expect("text");
            self.heard.push(text.clone());
            if text.contains(words) {
                return text;
            }
        }
    }
}

fn value<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.strip_prefix('='))
        .expect("is there")
}

#[test]
fn it_is_told_of_start_reload_and_stop() {
    let origin = Origin::good("ok");
    let place = tempfile::tempdir().expect("a directory");
    for mut manager in [
        Manager::hidden("states"),
        Manager::file(&place.path().join("notify")),
    ] {
        let mut service = Service::start_with(&app(&[&origin], ""), |command| {
            command.env("NOTIFY_SOCKET", &manager.name);
        });
        let ready = manager.hears("READY=1");
        assert_eq!(
            value(&ready, "STATUS"),
            "serving: generation 1, 1 listeners, 2 workers"
        );

        let before = monotonic();
        service.write(&app(&[&origin], "max-requests = 7"));
        service.signal(Signal::SIGHUP);
        let reloading = manager.hears("RELOADING=1");
        let at: u128 = value(&reloading, "MONOTONIC_USEC")
            .parse()
            .expect("a number");
        assert!(
            at >= before && at <= monotonic(),
            "systemd takes no earlier one for an answer"
        );
        let ready = manager.hears("READY=1");
        assert!(
            value(&ready, "STATUS").starts_with("serving: generation 2"),
            "{ready}"
        );

        service.write("nonsense");
        service.signal(Signal::SIGHUP);
        manager.hears("RELOADING=1");
        let ready = manager.hears("READY=1");
        assert!(ready.contains("the last reload was refused"), "{ready}");

        service.signal(Signal::SIGTERM);
        manager.hears("STOPPING=1");
        assert_eq!(service.exit_code(service.pid()), Some(0));
    }
}

fn monotonic() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u128::try_from(now.tv_sec).expect("after boot") * 1_000_000
        + u128::try_from(now.tv_nsec).expect("positive") / 1000
}

#[test]
fn it_is_told_who_is_in_charge_after_an_upgrade() {
    let origin = Origin::good("ok");
    let mut manager = Manager::hidden("upgrade");
    let mut service = Service::start_with(&app(&[&origin], ""), |command| {
        command.env("NOTIFY_SOCKET", &manager.name);
    });
    manager.hears("READY=1");
    for _ in 0..3 {
        let old = service.upgrade();
        let main = manager.hears("MAINPID=");
        assert_eq!(value(&main, "MAINPID"), service.pid().to_string());
        // What comes before is taken for the old one's, which is asked first.
        manager.hears("READY=1");
        assert_eq!(service.exit_code(old), Some(0));
        assert!(!manager.heard.iter().any(|text| text.contains("STOPPING")));
    }
    install_bytes(&service.binary(), b"#!/bin/sh\nexit 3\n", 0o755);
    service.signal(Signal::SIGUSR2);
    let status = manager.hears("the upgrade failed");
    assert!(
        status.contains("exit status: 3") && status.contains("serving"),
        "{status}"
    );
    assert!(!manager.heard.iter().any(|text| text.contains("STOPPING")));
}

#[test]
fn the_watchdog_is_fed_at_half_its_time_by_whoever_is_in_charge() {
    let origin = Origin::good("ok");
    let mut manager = Manager::hidden("watchdog");
    let mut service = Service::start_with(&app(&[&origin], ""), |command| {
        command
            .env("NOTIFY_SOCKET", &manager.name)
            .env("WATCHDOG_USEC", "400000");
    });
    let three = |manager: &mut Manager| {
        manager.hears("WATCHDOG=1");
        let start = Instant::now();
        (0..3).for_each(|_| drop(manager.hears("WATCHDOG=1")));
        start.elapsed()
    };
    let took = three(&mut manager);
    assert!(took >= Duration::from_millis(450), "{took:?}");
    service.upgrade();
    manager.hears("MAINPID=");
    three(&mut manager);

    // Not meant for us.
    let mut other = Manager::hidden("watchdog-other");
    let _other = Service::start_with(&app(&[&origin], ""), |command| {
        command
            .env("NOTIFY_SOCKET", &other.name)
            .env("WATCHDOG_USEC", "1000")
            .env("WATCHDOG_PID", "1");
    });
    other.hears("READY=1");
    other
        .socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a socket");
    let error = other.socket.recv(&mut [0; 64]).expect_err("nothing to say");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

/// Two sockets as descriptors 3 and 4, by a shell that moves them there and becomes the service.
fn passing(command: &mut Command, first: OwnedFd, second: OwnedFd, names: &str) {
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            "export LISTEN_PID=$$; exec 3<&0 4<&1 0</dev/null 1>/dev/null; exec \"$0\" \"$@\"",
        ])
        .arg(program)
        .args(arguments)
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", names)
        .env("NO_COLOR", "1")
        .stdin(first)
        .stdout(second);
    *command = shell;
}

#[test]
fn passed_sockets_are_found_by_address_and_by_name() {
    let origin = Origin::good("ok");
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("web.sock");
    let by_name = TcpListener::bind("127.0.0.1:0").expect("binds");
    let by_address = UnixListener::bind(&path).expect("binds");
    let address = by_name.local_addr().expect("bound");
    let config = format!(
        "[process]\nworkers = 3\n\
         [[listener]]\nname = \"web\"\naddress = \"0.0.0.0:1\"\n\
         [[listener]]\nname = \"local\"\naddress = \"unix:{}\"\n{}",
        path.display(),
        app(&[&origin], "")
    );
    let mut service = Service::start_with(&config, |command| {
        passing(command, by_name.into(), by_address.into(), "web:");
        command.stderr(Stdio::piped());
    });
    // Nobody else has them, and with them there is no port 1 to be bound.
    assert_eq!(service.listener("web"), address);
    let inode = std::fs::metadata(&path).expect("is there").ino();
    let both_answer = || {
        for _ in 0..10 {
            assert_eq!(Client::connect(address).get("/").status, 200);
            UnixStream::connect(&path).expect("somebody listens");
        }
    };
    both_answer();
    let old = service.upgrade();
    assert_eq!(service.exit_code(old), Some(0));
    both_answer();
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(service.pid()), Some(0));
    let left = std::fs::metadata(&path).expect("the manager's file stays");
    assert_eq!(left.ino(), inode);
}

#[test]
fn what_nobody_asked_for_is_said() {
    let origin = Origin::good("ok");
    let stray = TcpListener::bind("127.0.0.1:0").expect("binds");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let service = Service::start_with(&app(&[&origin], ""), |command| {
        passing(command, stray.into(), datagrams.into(), "stray:quic");
    });
    let log = service.log();
    assert!(
        log.contains("no listener has the address or the name of this socket"),
        "{log}"
    );
    assert!(
        log.contains("descriptor 4 (quic): is no stream socket"),
        "{log}"
    );
    let address = service.listener("web");
    eventually("it serves what it has", || {
        Client::connect(address).get("/").status == 200
    });
}
