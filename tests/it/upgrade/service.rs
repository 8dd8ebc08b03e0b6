//! One service over all the processes that follow each other.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::proxy::complete;
use crate::support::{Client, Process, eventually, value_within};

pub struct Service {
    process: Process,
    place: TempDir,
    /// Of the process that serves now.
    pid: u32,
    upgrades: usize,
}

const STARTED: &str = "upgrade: started the new process pid=";

impl Service {
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    /// `change`: of the command that starts the first process.
    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        static ONCE: Once = Once::new();
        // Processes whose parent has ended become our children: how they end can be asked.
        ONCE.call_once(|| set_child_subreaper(true).expect("Linux"));
        let place = tempfile::tempdir().expect("a directory");
        let binary = place.path().join("evenkeel");
        install(&binary);
        let process = Process::start_as(config, |path| {
            let mut command = Command::new(&binary);
            command
                .args(["run", "-c"])
                .arg(path)
                .env_remove("EVENKEEL_CONFIG")
                .env_remove("NOTIFY_SOCKET")
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            change(&mut command);
            command
        });
        Service {
            pid: process.pid(),
            process,
            place,
            upgrades: 0,
        }
    }

    /// The file that is started.
    pub fn binary(&self) -> PathBuf {
        self.place.path().join("evenkeel")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.process.path()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn said(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }

    /// Where the first process said that this listener is.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let log = self.log();
        let mark = format!(" listening listener=\"{name}\" address=");
        let line = log.lines().find(|line| line.contains(&mark));
        let address = line.and_then(|line| line.split("address=").nth(1));
        address.expect("it is said").parse().expect("an address")
    }

    pub fn admin(&self) -> SocketAddr {
        self.process.admin
    }

    pub fn write(&self, config: &str) {
        fs::write(self.process.path(), complete(config)).expect("writes");
    }

    /// Asks the process that serves.
    pub fn status(&self) -> serde_json::Value {
        let mut client = Client::connect(self.admin());
        client.send("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.response().json()
    }

    pub fn signal(&self, signal: Signal) {
        signal_to(self.pid, signal);
    }

    /// Replaces the process that serves and returns once the new one does. The old one may still
    /// drain.
    #[track_caller]
    pub fn upgrade(&mut self) -> u32 {
        let old = self.pid;
        self.signal(Signal::SIGUSR2);
        self.follow();
        old
    }

    /// The same, if something else has asked for it.
    #[track_caller]
    pub fn follow(&mut self) {
        self.upgrades += 1;
        let handed = "upgrade: the new process is ready, this one ends pid=";
        let count = self.upgrades;
        value_within(Duration::from_secs(30), "the new process serves", || {
            let log = self.log();
            assert!(!log.contains("panic"), "{log}");
            (log.matches(handed).count() >= count
                && log.matches(" started generation=").count() > count)
                .then_some(())
        });
        let log = self.log();
        let last = log.rmatches(handed).count();
        assert_eq!(last, count, "no more than asked for");
        let place = log.rfind(handed).expect("found before") + handed.len();
        let number: String = log[place..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        self.pid = number.parse().expect("a number");
    }

    /// The pid of the process that was started last, whatever became of it.
    pub fn tried(&self) -> Option<u32> {
        let log = self.log();
        let place = log.rfind(STARTED)? + STARTED.len();
        let number: String = log[place..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        number.parse().ok()
    }

    /// The exit code of one of the processes, once it has ended.
    #[track_caller]
    pub fn exit_code(&mut self, pid: u32) -> Option<i32> {
        if pid == self.process.pid() {
            return self.process.exit_code();
        }
        value_within(Duration::from_secs(30), "the process ends", || {
            let of = Pid::from_raw(pid.cast_signed());
            // Until its parent has ended it is not our child.
            match waitpid(of, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => Some(Some(code)),
                Ok(WaitStatus::Signaled(..)) => Some(None),
                _ => None,
            }
        })
    }

    /// Open descriptors of the process that serves.
    pub fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.pid);
        fs::read_dir(directory).expect("procfs").count()
    }

    /// Bytes of its environment.
    pub fn environment(&self) -> usize {
        let environment = fs::read(format!("/proc/{}/environ", self.pid));
        environment.expect("procfs").len()
    }

    #[track_caller]
    pub fn eventually_said(&self, words: &str) {
        eventually(words, || self.log().contains(words));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.pid != self.process.pid() {
            signal_to(self.pid, Signal::SIGKILL);
            // Its parent may be there still: then it is not for us to wait.
            let _ = waitpid(Pid::from_raw(self.pid.cast_signed()), None);
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

pub fn signal_to(pid: u32, signal: Signal) {
    // It may have ended.
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    state.is_some_and(|rest| !rest.starts_with(['Z', 'X']))
}

/// Puts the real binary there.
pub fn install(path: &Path) {
    let _ = fs::remove_file(path);
    let real = env!("CARGO_BIN_EXE_evenkeel");
    // A link costs nothing; another file system takes a copy.
    if fs::hard_link(real, path).is_err() {
        write(path, "cat \"$1\"", real.as_ref(), &[]);
    }
}

/// Puts a copy in the place of the one that runs: another file, as a package manager does it.
pub fn replace(path: &Path) {
    let aside = path.with_extension("new");
    let real = env!("CARGO_BIN_EXE_evenkeel");
    write(&aside, "cat \"$1\"", real.as_ref(), &[]);
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).expect("ours");
    fs::rename(&aside, path).expect("renames");
}

/// Puts something else there.
pub fn install_bytes(path: &Path, bytes: &[u8], mode: u32) {
    let aside = path.with_extension("new");
    write(&aside, "cat", Path::new(""), bytes);
    fs::set_permissions(&aside, fs::Permissions::from_mode(mode)).expect("ours");
    fs::rename(&aside, path).expect("renames");
}

/// By a process of its own: a descriptor that writes to it would come down to whatever another
/// test starts at this moment, and a file that is written to cannot be started.
fn write(path: &Path, command: &str, from: &Path, bytes: &[u8]) {
    let mut shell = Command::new("sh")
        .arg("-c")
        .arg(format!("{command} > \"$0\""))
        .args([path, from])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut stdin = shell.stdin.take().expect("piped");
    stdin.write_all(bytes).expect("is read");
    drop(stdin);
    assert!(shell.wait().expect("our child").success());
}
