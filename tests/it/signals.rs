//! The process and its signals: the real binary.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::proxy::complete;
use super::support::{Client, Origin, Process, eventually};

fn routed(origin: &Origin, more: &str) -> String {
    format!(
        "{more}\n[upstream.users]\nservers = [\"{}\"]\n\
         [[route]]\nprefix = \"/\"\nupstream = \"users\"\n",
        origin.address()
    )
}

/// Answers once released.
fn held() -> (Origin, Arc<AtomicBool>) {
    let release = Arc::new(AtomicBool::new(false));
    let origin = Origin::scripted({
        let release = release.clone();
        move |connection| {
            while connection.request().is_some() {
                eventually("the test goes on", || release.load(Ordering::SeqCst));
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nheld");
            }
        }
    });
    (origin, release)
}

#[test]
fn term_drains_and_exits_with_0() {
    let (origin, release) = held();
    let mut process = Process::start(&routed(&origin, ""));
    let mut idle = Client::connect(process.listener);
    let mut busy = Client::connect(process.listener);
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.last();
    assert_eq!(process.ready(), 200);
    process.signal(Signal::SIGTERM);
    eventually("readiness is off", || process.ready() == 503);
    assert!(idle.is_closed(), "idle connections end");
    eventually("nobody is let in", || {
        std::net::TcpStream::connect(process.listener).is_err()
    });
    release.store(true, Ordering::SeqCst);
    let response = busy.response();
    assert_eq!(response.text(), "held");
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(process.exit_code(), Some(0), "{}", process.log());
}

/// Who was let in by the kernel and not yet by us is not turned away by a reset: who has asked is
/// answered, who has not hears of the end.
#[test]
fn term_serves_those_who_stand_in_the_queue() {
    for workers in [1, 4] {
        let origin = Origin::good("ok");
        let workers = format!("[process]\nworkers = {workers}\n");
        let mut process = Process::start(&routed(&origin, &workers));
        process.signal(Signal::SIGSTOP);
        let clients: Vec<_> = (0..64)
            .map(|number| {
                let mut client = Client::connect(process.listener);
                if number % 4 > 0 {
                    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
                }
                client
            })
            .collect();
        process.signal(Signal::SIGTERM);
        process.signal(Signal::SIGCONT);
        // Some may be answered before it hears of the end, and are told by the close alone.
        for (number, mut client) in clients.into_iter().enumerate() {
            if number % 4 > 0 {
                let answer = client.try_response();
                let answer = answer.unwrap_or_else(|error| panic!("{number}: {error}"));
                assert_eq!(answer.status, 200, "{number}: {}", answer.text());
            }
            let end = client.stream().read(&mut [0; 1]);
            assert_eq!(end.expect("no reset"), 0, "{number}");
        }
        assert_eq!(process.exit_code(), Some(0), "{}", process.log());
    }
}

#[test]
fn a_second_signal_stops_now() {
    let (origin, _release) = held();
    let mut process = Process::start(&routed(&origin, ""));
    let mut busy = Client::connect(process.listener);
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.last();
    process.signal(Signal::SIGINT);
    eventually("it drains", || process.log().contains("draining"));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    assert!(process.log().contains("aborted=1"), "{}", process.log());
    busy.try_response().expect_err("broken off");
    _release.store(true, Ordering::SeqCst);
}

#[test]
fn the_drain_timeout_ends_what_does_not_end() {
    let (origin, release) = held();
    let patience = "[process]\nworkers = 1\ndrain-timeout = \"300ms\"";
    let mut process = Process::start(&routed(&origin, patience));
    let mut busy = Client::connect(process.listener);
    busy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.last();
    let start = Instant::now();
    process.signal(Signal::SIGQUIT);
    assert_eq!(process.exit_code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300));
    release.store(true, Ordering::SeqCst);
}

#[test]
fn the_shutdown_delay_keeps_serving_while_not_ready() {
    let origin = Origin::good("ok");
    let delay = "[process]\nworkers = 1\nshutdown-delay = \"1s\"";
    let mut process = Process::start(&routed(&origin, delay));
    process.signal(Signal::SIGTERM);
    eventually("readiness is off", || process.ready() == 503);
    assert_eq!(
        Client::connect(process.listener).get("/").status,
        200,
        "still let in"
    );
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn hup_reads_the_file_at_once() {
    let (old, new) = (Origin::good("old"), Origin::good("new"));
    let process = Process::start(&routed(&old, ""));
    assert_eq!(Client::connect(process.listener).get("/").text(), "old");
    // In place, so that the watcher alone would take its time if it saw half of it.
    let path = process.path();
    fs::write(path, complete(&routed(&new, ""))).expect("writes");
    process.signal(Signal::SIGHUP);
    let get = || Client::connect(process.listener).get("/").text();
    eventually("the new file is in use", || get() == "new");
}

#[test]
fn hup_without_a_change_is_told_of() {
    let origin = Origin::good("ok");
    let process = Process::start(&routed(&origin, ""));
    process.signal(Signal::SIGHUP);
    let said = "nothing to reload: the file is the one in use";
    eventually("it says so", || process.log().contains(said));
    assert_eq!(Client::connect(process.listener).get("/").text(), "ok");
}

#[test]
fn usr1_opens_the_access_log_anew() {
    let origin = Origin::good("ok");
    let log = tempfile::tempdir().expect("a directory");
    let path = log.path().join("access.log");
    let access = format!("[access-log]\npath = \"{}\"", path.display());
    let process = Process::start(&routed(&origin, &access));
    let lines = || {
        fs::read_to_string(&path)
            .unwrap_or_default()
            .lines()
            .count()
    };
    Client::connect(process.listener).get("/one");
    eventually("the line is written", || lines() == 1);
    fs::rename(&path, log.path().join("access.log.1")).expect("renames");
    process.signal(Signal::SIGUSR1);
    eventually("the file is back", || path.exists());
    Client::connect(process.listener).get("/two");
    eventually("the line is in the new file", || lines() == 1);
}

#[test]
fn a_bad_file_exits_with_1_and_an_unbindable_address_with_3() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("evenkeel.toml");
    let run = |config: &str| {
        fs::write(&path, config).expect("writes");
        let mut child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["run", "-c"])
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut text = String::new();
        let stderr = child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut text).expect("text");
        (child.wait().expect("it ends").code(), text)
    };
    let (code, text) = run("[[listener]]\nadress = \"127.0.0.1:0\"\n");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("adress") && text.contains(":2:"), "{text}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound");
    let origin = Origin::good("ok");
    let listener = format!("[[listener]]\naddress = \"{address}\"\n");
    let (code, text) = run(&complete(&routed(&origin, &listener)));
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains(&address.to_string()) && text.contains("another process"),
        "{text}"
    );
}
