//! A new binary that does not come to serve: everything is as before, and the reason is in the log.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::carried::admin;
use super::load::Load;
use super::service::{Service, install, install_bytes, is_alive, signal_to};
use crate::support::{Client, Origin, app, eventually, value_within};

fn script(text: &str) -> Vec<u8> {
    format!("#!/bin/sh\n{text}\n").into_bytes()
}

/// What is wrong with the binary, how it comes there, what the reason says.
type Kind<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str);

/// Waits for the reason of the failure with this number.
#[track_caller]
fn reason(service: &Service, number: usize) -> String {
    let mark = "upgrade failed, this process goes on as before reason=";
    value_within(Duration::from_secs(30), "the upgrade fails", || {
        let log = service.log();
        log.split(mark)
            .nth(number)?
            .lines()
            .next()
            .map(str::to_owned)
    })
}

#[test]
fn whatever_is_wrong_with_it_the_old_one_goes_on() {
    let origin = Origin::good("ok");
    let mut service = Service::start(&app(&[&origin], ""));
    let first = service.pid();
    let address = service.listener("web");
    let mut load = Load::new();
    load.kept(address);
    load.fresh(address);
    let binary = service.binary();
    let mut descriptors = None;
    let kinds: [Kind; 8] = [
        (
            "no file",
            Box::new(|| fs::remove_file(&binary).expect("there")),
            "No such file",
        ),
        (
            "no program",
            Box::new(|| install_bytes(&binary, &script("exit 0"), 0o644)),
            "Permission denied",
        ),
        (
            "another machine's",
            Box::new(|| install_bytes(&binary, b"\x7fELF\x02\x02\x01 and more", 0o755)),
            "Exec format error",
        ),
        (
            "its interpreter is missing",
            Box::new(|| install_bytes(&binary, b"#!/nonexistent/sh\n", 0o755)),
            "No such file",
        ),
        (
            "ends well at once",
            Box::new(|| install_bytes(&binary, &script("exit 0"), 0o755)),
            "exit status: 0",
        ),
        (
            "ends",
            Box::new(|| install_bytes(&binary, &script("exit 7"), 0o755)),
            "exit status: 7",
        ),
        (
            "crashes",
            Box::new(|| install_bytes(&binary, &script("kill -SEGV $$"), 0o755)),
            "signal: 11",
        ),
        (
            "speaks of something else",
            Box::new(|| {
                install_bytes(
                    &binary,
                    &script("echo hello there, this is no protocol of yours >&0; sleep 60"),
                    0o755,
                )
            }),
            "does not speak",
        ),
    ];
    for (number, (kind, install, expected)) in kinds.iter().enumerate() {
        install();
        service.signal(Signal::SIGUSR2);
        let reason = reason(&service, number + 1);
        assert!(reason.contains(expected), "{kind}: {reason}");
        assert_eq!(Client::connect(address).get("/").status, 200, "{kind}");
        assert_eq!(Client::connect(service.admin()).get("/readyz").status, 200);
        if let Some(pid) = service.tried() {
            eventually("nothing is left of it", || !is_alive(pid));
        }
        descriptors.get_or_insert_with(|| service.descriptors());
    }
    assert!(service.descriptors() <= descriptors.expect("counted") + 4);
    let metrics = Client::connect(service.admin()).get("/metrics").text();
    assert!(
        metrics.contains("evenkeel_upgrades_failed_total 8"),
        "{metrics}"
    );
    assert_eq!(service.pid(), first);

    install(&binary);
    service.upgrade();
    assert_ne!(service.pid(), first, "it may be tried again");
    assert_eq!(service.exit_code(first), Some(0));
    load.end();
}

#[test]
fn one_that_hangs_is_ended_and_whatever_comes_meanwhile_is_heard() {
    let (origin, other) = (Origin::good("ok"), Origin::good("other"));
    let service = Service::start(&app(&[&origin], ""));
    let address = service.listener("web");
    install_bytes(&service.binary(), &script("exec sleep 100"), 0o755);
    service.signal(Signal::SIGUSR2);
    service.eventually_said("upgrade: started the new process");
    let pid = service.tried().expect("it was started");
    service.signal(Signal::SIGUSR2);
    service.eventually_said("one is under way already");
    // A reload waits until it is known who is to make it.
    service.write(&app(&[&other], ""));
    service.signal(Signal::SIGHUP);
    assert_eq!(Client::connect(address).get("/").text(), "ok");
    assert_eq!(Client::connect(service.admin()).get("/readyz").status, 200);
    let reason = reason(&service, 1);
    assert!(
        reason.contains("it was not speaking within 10s"),
        "{reason}"
    );
    assert!(!is_alive(pid));
    eventually("the reload is made", || {
        Client::connect(address).get("/").text() == "other"
    });
}

/// A message of the protocol.
fn frame(message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message.as_bytes()].concat()
}

/// A binary that says everything that a new process has to say, the last of it at its [`cue`], and
/// then does what `ends` says.
fn install_actor(service: &Service, ends: &str) {
    let binary = service.binary();
    let beside = |ending: &str| binary.with_extension(ending);
    let words = [
        frame(r#"{"say":"hello","protocol":1,"version":"9"}"#),
        frame(r#"{"say":"ready"}"#),
    ];
    fs::write(beside("words"), words.concat()).expect("writes");
    let last = frame(r#"{"say":"accepting","adopted":[0,1,2,3]}"#);
    fs::write(beside("last"), last).expect("writes");
    let text = format!(
        "trap 'echo > \"$0.told\"' USR1\n\
         cat \"$0.words\" >&0; while [ ! -e \"$0.go\" ]; do sleep 0.01; done; \
         cat \"$0.last\" >&0\n{ends}"
    );
    install_bytes(&binary, &script(&text), 0o755);
}

fn cue(service: &Service) {
    fs::write(service.binary().with_extension("go"), "").expect("writes");
}

#[test]
fn one_that_dies_right_after_it_said_that_it_accepts_changes_nothing() {
    let origin = Origin::good("ok");
    let mut service = Service::start(&app(&[&origin], ""));
    let (first, address) = (service.pid(), service.listener("web"));
    let mut load = Load::new();
    load.kept(address);
    install_actor(&service, "");
    service.signal(Signal::SIGUSR2);
    // What is set from the handing over on would be lost, and is refused.
    let weight = || admin(&service, "PUT", origin.address(), r#"{"weight": 2}"#).status;
    eventually("it is told what is known", || weight() == 503);
    let pid = service.tried().expect("it was started");
    signal_to(first, Signal::SIGSTOP);
    cue(&service);
    eventually("it has ended", || !is_alive(pid));
    signal_to(first, Signal::SIGCONT);
    let reason = reason(&service, 1);
    assert!(reason.contains("exit status: 0"), "{reason}");
    assert_eq!(weight(), 200, "this process goes on");
    load.fresh(address);
    load.end();
    assert_eq!(Client::connect(service.admin()).get("/readyz").status, 200);
    install(&service.binary());
    service.upgrade();
    assert_eq!(service.exit_code(first), Some(0));
}

/// A signal that the process holds back.
fn is_pending(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let set = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    set.is_some_and(|set| set >> (signal as u32 - 1) & 1 == 1)
}

#[test]
fn a_rotation_while_it_gets_ready_is_told_to_it_as_well() {
    let origin = Origin::good("ok");
    let place = tempfile::tempdir().expect("a directory");
    let log = place.path().join("access.log");
    let access = format!("[access-log]\npath = \"{}\"\n", log.display());
    let service = Service::start(&format!("{access}{}", app(&[&origin], "")));
    install_actor(&service, "while :; do sleep 0.1; done");
    service.signal(Signal::SIGUSR2);
    let weight = || admin(&service, "PUT", origin.address(), r#"{"weight": 2}"#).status;
    eventually("it is told what is known", || weight() == 503);
    let pid = service.tried().expect("it was started");
    fs::rename(&log, place.path().join("access.log.1")).expect("is there");
    service.signal(Signal::SIGUSR1);
    eventually("the old one begins a new file", || log.exists());
    // It begins with signals blocked: some shells leave it at that, others do not.
    let note = service.binary().with_extension("told");
    let told = || note.exists() || is_pending(pid, Signal::SIGUSR1);
    assert!(!told(), "it may not know it yet");
    cue(&service);
    eventually("so does the new one", told);
    signal_to(pid, Signal::SIGKILL);
}

#[test]
fn requests_to_one_that_does_not_know_them_yet_wait() {
    let origin = Origin::good("ok");
    let mut service = Service::start(&app(&[&origin], ""));
    let real = env!("CARGO_BIN_EXE_evenkeel");
    let text = format!("kill -HUP $$; kill -USR1 $$; exec {real} \"$@\"");
    install_bytes(&service.binary(), &script(&text), 0o755);
    let first = service.upgrade();
    assert_eq!(service.exit_code(first), Some(0), "{}", service.log());
    assert_eq!(
        Client::connect(service.listener("web")).get("/").text(),
        "ok"
    );
    // And they are heard in the end: so are those that come later.
    service.write(&app(&[&Origin::good("other")], ""));
    service.signal(Signal::SIGHUP);
    service.eventually_said("trigger=\"signal\"");
}

#[test]
fn a_stop_ends_the_attempt_first() {
    let origin = Origin::good("ok");
    let mut service = Service::start(&app(&[&origin], ""));
    install_bytes(&service.binary(), &script("exec sleep 100"), 0o755);
    service.signal(Signal::SIGUSR2);
    service.eventually_said("upgrade: started the new process");
    let pid = service.tried().expect("it was started");
    service.signal(Signal::SIGTERM);
    assert_eq!(
        service.exit_code(service.pid()),
        Some(0),
        "{}",
        service.log()
    );
    assert!(!is_alive(pid), "nothing is left of it");
    assert_eq!(service.said("upgrade failed"), 0, "{}", service.log());
}

#[test]
fn a_file_that_the_new_one_refuses_changes_nothing() {
    let origin = Origin::good("ok");
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("local.sock");
    let local = format!("[[listener]]\naddress = \"unix:{}\"\n", path.display());
    let web = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let config = format!("{web}{local}{}", app(&[&origin], ""));
    let mut service = Service::start(&config);
    let address = service.listener("web");
    let first = service.pid();
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = taken.local_addr().expect("bound");
    for (number, (text, expected)) in [
        (
            "[[listener]]\nadress = \"127.0.0.1:0\"\n".to_owned(),
            "adress",
        ),
        (
            format!("{config}\n[[listener]]\naddress = \"{taken}\"\n"),
            "another process listens there",
        ),
        (
            format!("[admin]\naddress = \"{taken}\"\n{config}"),
            "cannot bind the admin listener",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let _taken = TcpListener::bind(taken);
        service.write(&text);
        service.signal(Signal::SIGUSR2);
        let reason = reason(&service, number + 1);
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(Client::connect(address).get("/").status, 200);
        UnixStream::connect(&path).expect("its file has stayed");
        assert_eq!(service.pid(), first);
    }
    service.write(&config);
    service.upgrade();
    assert_eq!(Client::connect(address).get("/").status, 200);
}
