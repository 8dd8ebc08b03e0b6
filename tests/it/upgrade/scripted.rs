//! The new process alone, with a test in the place of the old one: of another version, dead, or in
//! no hurry.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::service::signal_to;
use crate::support::proxy::complete;
use crate::support::{Client, DEADLINE, Origin, app, eventually, value_within};

/// A process that was started to replace us.
struct New {
    child: Child,
    link: UnixStream,
    place: TempDir,
}

impl New {
    fn start(config: &str) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("evenkeel.toml");
        fs::write(&path, complete(config)).expect("writes");
        let (link, theirs) = UnixStream::pair().expect("a pair");
        link.set_read_timeout(Some(DEADLINE)).expect("a socket");
        // As an old process does: what asks for something waits for the handlers.
        let requests = SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
        let mask = requests.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["run", "-c"])
            .arg(&path)
            .env("NO_COLOR", "1")
            .env("EVENKEEL_UPGRADE", "1")
            .stdin(OwnedFd::from(theirs))
            .stderr(fs::File::create(place.path().join("log")).expect("a file"))
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        mask.and_then(|mask| mask.thread_set_mask()).expect("ours");
        New { child, link, place }
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    fn say(&mut self, message: &Value) {
        let body = message.to_string();
        let length = u32::try_from(body.len()).expect("short");
        self.link.write_all(&length.to_be_bytes()).expect("writes");
        self.link.write_all(body.as_bytes()).expect("writes");
    }

    fn hear(&mut self) -> Value {
        let mut length = [0; 4];
        self.link.read_exact(&mut length).expect("a message");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.link.read_exact(&mut body).expect("a whole one");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn pass(&mut self, socket: &TcpListener) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let byte = [IoSlice::new(b".")];
        sendmsg(&self.link, &byte, &mut control, SendFlags::empty()).expect("passes");
    }

    fn signal(&self, signal: Signal) {
        signal_to(self.child.id(), signal);
    }

    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        value_within(Duration::from_secs(20), "it ends", || {
            child.try_wait().expect("our child")
        })
        .code()
    }
}

impl Drop for New {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn no_sockets() -> Value {
    json!({ "say": "sockets", "version": "0", "pid": 1, "sockets": [] })
}

#[test]
fn a_stop_during_the_start_acts_at_once() {
    let origin = Origin::good("ok");
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
    ] {
        let mut new = New::start(&app(&[&origin], ""));
        // It waits for the sockets: nothing is bound, nothing is read.
        assert_eq!(new.hear()["say"], "hello");
        new.signal(signal);
        assert_eq!(new.exit_code(), Some(0), "{}", new.log());
        let said = format!("stopped by {name} before it served");
        assert!(new.log().contains(&said), "{}", new.log());
    }
}

#[test]
fn a_reload_and_a_rotation_during_the_start_wait_for_its_end() {
    let (origin, other) = (Origin::good("ok"), Origin::good("other"));
    let mut new = New::start(&app(&[&origin], ""));
    assert_eq!(new.hear()["say"], "hello");
    new.signal(Signal::SIGHUP);
    new.signal(Signal::SIGUSR1);
    new.say(&no_sockets());
    assert_eq!(new.hear()["say"], "ready", "it is not gone");
    assert!(!new.log().contains("listening"), "nobody is served yet");
    let path = new.path().join("evenkeel.toml");
    fs::write(path, complete(&app(&[&other], ""))).expect("writes");
    new.say(&json!({ "say": "begin" }));
    assert_eq!(new.hear(), json!({ "say": "accepting", "adopted": [] }));
    new.say(&json!({ "say": "yours" }));
    eventually("the reload is made", || {
        new.log().contains("reloaded") && new.log().contains("trigger=\"signal\"")
    });
    new.signal(Signal::SIGTERM);
    assert_eq!(new.exit_code(), Some(0), "{}", new.log());
}

#[test]
fn whatever_is_asked_before_its_first_instruction_is_done_once_it_serves() {
    let (origin, other) = (Origin::good("ok"), Origin::good("other"));
    let mut new = New::start(&app(&[&origin], ""));
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        new.signal(signal);
    }
    assert_eq!(new.hear()["say"], "hello", "it is not gone");
    new.say(&no_sockets());
    assert_eq!(new.hear()["say"], "ready");
    let path = new.path().join("evenkeel.toml");
    fs::write(path, complete(&app(&[&other], ""))).expect("writes");
    new.say(&json!({ "say": "begin" }));
    assert_eq!(new.hear()["say"], "accepting");
    new.say(&json!({ "say": "yours" }));
    eventually("the reload is made", || {
        new.log().contains("reloaded") && new.log().contains("trigger=\"signal\"")
    });
    eventually("the upgrade is tried", || {
        new.log().contains("upgrade: started the new process")
    });
    // The one that it has started ends with it, or has taken over.
    new.signal(Signal::SIGTERM);
    assert_eq!(new.exit_code(), Some(0), "{}", new.log());
}

#[test]
fn a_state_that_it_cannot_read_is_no_reason_to_fail() {
    let origin = Origin::good("ok");
    let key = origin.address().to_string();
    let stranger = json!({ "upstream": "app", "server": 7, "drain": true });
    let drained = json!({
        "upstream": "app", "server": key, "drain": true, "entry": key,
        "file_weight": 1, "file_backup": false, "file_drain": false, "mood": "good",
    });
    let whole = json!({ "version": 1, "overrides": [stranger, drained], "later": [1] });
    for (message, said, status) in [
        (None, "says nothing of it", 200),
        (Some(json!({ "say": "state" })), "makes no sense", 200),
        (
            Some(json!({ "say": "state", "state": "?" })),
            "makes no sense",
            200,
        ),
        (
            Some(json!({ "say": "state", "state": { "version": 7 } })),
            "of version 7",
            200,
        ),
        (
            Some(json!({ "say": "state", "state": whole })),
            "overrides=1",
            503,
        ),
    ] {
        let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = socket.local_addr().expect("bound");
        let mut new = New::start(&format!(
            "[[listener]]\naddress = \"{address}\"\n{}",
            app(&[&origin], "")
        ));
        assert_eq!(new.hear()["say"], "hello");
        let text = address.to_string();
        new.say(&json!({
            "say": "sockets", "version": "0", "pid": 1,
            "sockets": [{ "name": "web", "configured": text, "bound": text }],
        }));
        new.pass(&socket);
        assert_eq!(new.hear()["say"], "ready");
        if let Some(message) = message {
            new.say(&message);
        }
        new.say(&json!({ "say": "begin" }));
        assert_eq!(new.hear()["say"], "accepting");
        new.say(&json!({ "say": "yours" }));
        drop(socket);
        assert_eq!(Client::connect(address).get("/").status, status, "{said}");
        // A line is written a moment after what it tells of.
        eventually(said, || new.log().contains(said));
    }
}

#[test]
fn an_old_one_of_another_version_is_understood() {
    let origin = Origin::good("ok");
    let [mine, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("binds"));
    let address = mine.local_addr().expect("bound");
    let mut new = New::start(&format!(
        "[[listener]]\naddress = \"{address}\"\n{}",
        app(&[&origin], "")
    ));
    let hello = new.hear();
    assert_eq!(
        (&hello["say"], &hello["protocol"]),
        (&json!("hello"), &json!(1))
    );
    new.say(&json!({ "say": "a word of later", "more": [1, 2, 3] }));
    new.say(&json!({
        "say": "sockets", "version": "9.9.9", "pid": 1, "a field of later": {},
        "sockets": [
            { "name": "x", "configured": "quic:[::]:1", "bound": "?", "colour": "red" },
            { "name": "web", "configured": address.to_string(), "bound": address.to_string() },
        ],
    }));
    new.pass(&other);
    new.pass(&mine);
    assert_eq!(new.hear()["say"], "ready");
    // Waits in a queue that is nobody's yet.
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.is_silent_for(Duration::from_millis(100)));
    new.say(&json!({ "say": "begin" }));
    assert_eq!(new.hear(), json!({ "say": "accepting", "adopted": [1] }));
    drop(mine);
    assert_eq!(client.response().text(), "ok");
    let gone: SocketAddr = other.local_addr().expect("bound");
    drop(other);
    // A process that another test is starting has it too, until it becomes another program.
    eventually("it has let go of the other", || {
        TcpStream::connect(gone).is_err()
    });
    eventually("its version is said", || {
        new.log().contains("version=\"9.9.9\"")
    });
}

#[test]
fn without_the_old_one_it_does_not_begin() {
    let origin = Origin::good("ok");
    let mut new = New::start(&app(&[&origin], ""));
    assert_eq!(new.hear()["say"], "hello");
    new.link
        .shutdown(std::net::Shutdown::Both)
        .expect("is open");
    assert_eq!(new.exit_code(), Some(1));
    assert!(new.log().contains("has not handed over"), "{}", new.log());

    let mut new = New::start(&app(&[&origin], ""));
    assert_eq!(new.hear()["say"], "hello");
    new.say(&no_sockets());
    assert_eq!(new.hear()["say"], "ready");
    new.link
        .shutdown(std::net::Shutdown::Both)
        .expect("is open");
    assert_eq!(new.exit_code(), Some(1));
    assert!(!new.log().contains(" listening listener="), "{}", new.log());
}

#[test]
fn it_says_why_it_cannot() {
    let mut new = New::start("[[listener]]\nadress = \"127.0.0.1:0\"\n");
    assert_eq!(new.hear()["say"], "hello");
    new.say(&no_sockets());
    let failed = new.hear();
    assert_eq!(failed["say"], "failed");
    let reason = failed["reason"].as_str().expect("a text");
    assert!(
        reason.contains("adress") && !reason.contains('\n'),
        "{reason}"
    );
    assert_eq!(new.exit_code(), Some(1));
}

#[test]
fn a_variable_that_came_down_by_chance_means_nothing() {
    let origin = Origin::good("ok");
    let process = crate::support::Process::start_as(&app(&[&origin], ""), |path| {
        let mut command = crate::support::evenkeel([Path::new("run"), Path::new("-c"), path]);
        command.env("EVENKEEL_UPGRADE", "1").stdout(Stdio::null());
        command
    });
    assert_eq!(Client::connect(process.listener).get("/").status, 200);
}
