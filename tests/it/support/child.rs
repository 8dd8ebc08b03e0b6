//! Origins in processes of their own, to be killed and stopped: this test binary, started again
//! with the one "test" below and told by its environment what to serve.
//!
//! Each has a loopback address of its own, so that nobody takes its port while it is dead.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{H2Origin, Origin};

const WHAT: &str = "EVENKEEL_TEST_ORIGIN";

/// An origin that answers `ok` to everything, and writes down each POST before it answers.
pub struct ChildOrigin {
    address: SocketAddr,
    h2: bool,
    child: Option<Child>,
    notes: PathBuf,
    _directory: TempDir,
}

impl ChildOrigin {
    pub fn start(h2: bool) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let directory = tempfile::tempdir().expect("a directory");
        let mut origin = ChildOrigin {
            address: SocketAddr::from(([127, 99, high, low], 0)),
            h2,
            child: None,
            notes: directory.path().join("posts"),
            _directory: directory,
        };
        origin.revive();
        origin
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same address again, after [`ChildOrigin::kill`].
    pub fn revive(&mut self) {
        assert!(self.child.is_none(), "killed before");
        let protocol = if self.h2 { "h2" } else { "h1" };
        let notes = self.notes.display();
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([
                "support::child::serve",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(WHAT, format!("{protocol} {} {notes}", self.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = lines
            .find_map(|line| line.ok()?.split("serves at ").nth(1)?.trim().parse().ok())
            .expect("it says where it listens");
        self.address = address;
        self.child = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("the process is there");
    }

    /// SIGKILL: its connections are reset, and new ones refused.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
    }

    /// Says nothing more, although its kernel still takes connections and bytes.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// How often each POST came.
    pub fn posts(&self) -> HashMap<String, usize> {
        let mut posts = HashMap::new();
        for line in fs::read_to_string(&self.notes).unwrap_or_default().lines() {
            *posts.entry(line.to_owned()).or_default() += 1;
        }
        posts
    }
}

impl Drop for ChildOrigin {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails when it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Not a test: what the child does. It ends with the process that started it.
#[test]
#[ignore = "serves the other tests as an origin"]
fn serve() {
    let Ok(what) = std::env::var(WHAT) else {
        return;
    };
    let [protocol, address, notes] = what.splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{WHAT}: protocol, address, file");
    };
    let address: SocketAddr = address.parse().expect("an address");
    let notes = fs::OpenOptions::new().append(true).create(true).open(notes);
    let notes = Arc::new(notes.expect("a file"));
    // One write each, which the system keeps whatever becomes of us.
    let note = move |target: &str| (&*notes).write_all(format!("{target}\n").as_bytes());
    let (h1, h2);
    let address = match protocol {
        "h2" => {
            h2 = H2Origin::at(address, move |mut call| {
                if call.request.method() == "POST" {
                    note(call.path()).expect("the file takes it");
                }
                async move { call.ok("ok") }
            });
            h2.address()
        }
        _ => {
            h1 = Origin::at(address, move |connection| {
                while let Some(request) = connection.request() {
                    if request.method() == "POST" {
                        note(&request.target()).expect("the file takes it");
                    }
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            });
            h1.address()
        }
    };
    println!("\nserves at {address}");
    // Ends with the other end of the pipe.
    let _ = std::io::stdin().read(&mut [0; 1]);
    std::process::exit(0);
}
