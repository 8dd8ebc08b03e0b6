//! Which sockets go over, and what becomes of who waits in their queues.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use super::service::Service;
use crate::support::{Client, Origin, app, eventually};

fn listener(name: &str, address: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

#[test]
fn more_sockets_than_fit_in_a_message_go_over() {
    let origin = Origin::good("ok");
    let mut config = "[process]\nworkers = 8\n".to_owned();
    for number in 1..=40 {
        config += &listener(&format!("l{number}"), &format!("127.0.1.{number}:0"));
    }
    let mut service = Service::start(&(config + &app(&[&origin], "")));
    let addresses: Vec<_> = (1..=40)
        .map(|n| service.listener(&format!("l{n}")))
        .collect();
    let before = service.descriptors();
    for _ in 0..2 {
        let old = service.upgrade();
        for address in &addresses {
            assert_eq!(Client::connect(*address).get("/").status, 200);
        }
        assert_eq!(service.exit_code(old), Some(0));
    }
    // Kept connections to the server come on top.
    eventually("every one is there once", || {
        service.descriptors() <= before + 24
    });
}

#[test]
fn who_waits_in_the_queue_is_served_by_the_new_one() {
    let origin = Origin::good("ok");
    let config =
        "[process]\nworkers = 1\ndrain-timeout = \"1s\"\n".to_owned() + &app(&[&origin], "");
    // So few descriptors that accepting stops while these are open.
    let mut service = Service::start_with(&config, |command| {
        let program = command.get_program().to_owned();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut limited = Command::new("sh");
        limited
            .args(["-c", "ulimit -n 80; exec \"$0\" \"$@\""])
            .arg(program)
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdout(std::process::Stdio::null());
        *command = limited;
    });
    let address = service.listener("web");
    let mut held: Vec<TcpStream> = Vec::new();
    while service.said("new ones wait") == 0 {
        held.push(TcpStream::connect(address).expect("the queue takes it"));
        assert!(held.len() < 200);
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("the queue takes it");
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                .expect("the socket takes it");
            Client::over(stream)
        })
        .collect();
    service.upgrade();
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn the_file_may_change_with_the_binary() {
    let origin = Origin::good("ok");
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| format!("unix:{}", place.path().join(name).display());
    let stays = listener("stays", "127.0.0.1:0") + &listener("file", &path("stays.sock"));
    let goes = listener("goes", "127.0.0.2:0") + &listener("gone", &path("goes.sock"));
    let mut service = Service::start(&(stays.clone() + &goes + &app(&[&origin], "")));
    let (stayed, gone) = (service.listener("stays"), service.listener("goes"));
    let comes = listener("comes", "127.0.0.3:0") + &listener("new", &path("comes.sock"));
    service.write(&(stays.clone() + &comes + &app(&[&origin], "")));
    // The watcher would do the same by a reload: the upgrade is to be first.
    let old = service.upgrade();
    let came = {
        let log = service.log();
        let mark = "listening listener=\"comes\" address=";
        let line = log.split(mark).last().expect("said").lines().next();
        line.expect("an address")
            .trim()
            .parse::<SocketAddr>()
            .expect("an address")
    };
    for address in [stayed, came] {
        assert_eq!(Client::connect(address).get("/").status, 200);
    }
    for name in ["stays.sock", "comes.sock"] {
        UnixStream::connect(place.path().join(name)).expect("somebody listens");
    }
    assert_eq!(service.exit_code(old), Some(0));
    assert!(TcpStream::connect(gone).is_err(), "nobody has it any more");
    assert!(
        !place.path().join("goes.sock").exists(),
        "removed by the last that had it"
    );
    assert!(place.path().join("stays.sock").exists());

    // What came over is as much the new one's as what it bound: a reload closes it.
    let before = fs::read_dir(place.path()).expect("reads").count();
    service.write(&(listener("stays", "127.0.0.1:0") + &comes + &app(&[&origin], "")));
    service.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("the reload closes it", || {
        !place.path().join("stays.sock").exists()
    });
    assert_eq!(
        fs::read_dir(place.path()).expect("reads").count(),
        before - 1
    );
    service.write(&(stays + &comes + &app(&[&origin], "")));
    eventually("and opens it again", || {
        UnixStream::connect(place.path().join("stays.sock")).is_ok()
    });
    assert_eq!(Client::connect(stayed).get("/").status, 200);
}

#[test]
fn the_admin_listener_answers_all_the_time() {
    let origin = Origin::good("ok");
    let place = tempfile::tempdir().expect("a directory");
    let mut service = Service::start(&app(&[&origin], ""));
    let admin = service.admin();
    let mut kept = Client::connect(admin);
    assert_eq!(kept.get("/readyz").status, 200);
    for _ in 0..5 {
        let old = service.upgrade();
        assert_eq!(Client::connect(admin).get("/readyz").status, 200);
        assert!(kept.is_closed(), "the old one's connections end");
        kept = Client::connect(admin);
        assert_eq!(kept.get("/readyz").status, 200);
        assert_eq!(service.exit_code(old), Some(0));
    }
    // Elsewhere, because the file says so: a reload cannot do that.
    let path = place.path().join("admin.sock");
    let moved = format!("[admin]\naddress = \"unix:{}\"\n", path.display());
    service.write(&(moved + &app(&[&origin], "")));
    let old = service.upgrade();
    assert_eq!(service.exit_code(old), Some(0));
    UnixStream::connect(&path).expect("somebody listens");
    assert!(
        TcpStream::connect(admin).is_err(),
        "nobody is there any more"
    );
    let old = service.upgrade();
    assert_eq!(service.exit_code(old), Some(0));
    UnixStream::connect(&path).expect("its file has stayed");
}
