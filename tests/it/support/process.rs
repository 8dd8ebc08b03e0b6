//! The real binary: `evenkeel run` in a process of its own, and commands that end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::proxy::complete;
use super::{Client, Response, eventually, value_within};

/// The binary with these arguments and nothing of ours in its environment.
pub fn evenkeel<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command
        .args(arguments)
        .env_remove("EVENKEEL_CONFIG")
        .env_remove("EVENKEEL_ADMIN_TOKEN")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

/// What a command that ended said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// Runs it to its end.
pub fn says<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Said {
    evenkeel(arguments)
        .output()
        .expect("the binary starts")
        .into()
}

/// `evenkeel run` in a process of its own; killed when dropped.
pub struct Process {
    child: Child,
    directory: TempDir,
    pub listener: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
    hearing: Arc<AtomicU8>,
}

const LISTENS: u8 = 0;
const STALLS: u8 = 1;
const LEAVES: u8 = 2;

impl Process {
    pub fn start(config: &str) -> Self {
        Self::start_as(config, |path| {
            let mut command = evenkeel([Path::new("run"), Path::new("-c"), path]);
            command.stdout(Stdio::null());
            command
        })
    }

    /// With so many descriptors and no more.
    pub fn start_with_descriptors(config: &str, descriptors: usize) -> Self {
        Self::start_after(&format!("ulimit -n {descriptors}"), config)
    }

    /// `command`: for the file that this path names.
    pub fn start_as(config: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("evenkeel.toml");
        fs::write(&path, complete(config)).expect("writes");
        Self::spawn(directory, command(&path))
    }

    /// `sh` runs `before` first, in the same process: limits, descriptors.
    pub fn start_after(before: &str, config: &str) -> Self {
        Self::start_as(config, |path| {
            let mut command = Command::new("sh");
            command
                .stdout(Stdio::null())
                .arg("-c")
                .arg(format!("{before}; exec \"$0\" run -c \"$1\""))
                .arg(env!("CARGO_BIN_EXE_evenkeel"))
                .arg(path)
                .env("NO_COLOR", "1")
                .stdin(Stdio::null());
            command
        })
    }

    fn spawn(directory: TempDir, mut command: Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(String::new()));
        let hearing = Arc::new(AtomicU8::new(LISTENS));
        thread::spawn({
            let (log, hearing) = (log.clone(), hearing.clone());
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    while hearing.load(Ordering::SeqCst) == STALLS {
                        thread::sleep(Duration::from_millis(5));
                    }
                    if hearing.load(Ordering::SeqCst) == LEAVES {
                        return;
                    }
                    let mut log = log.lock().expect("no panic with the lock");
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        let address = |event: &str| {
            value_within(Duration::from_secs(20), event, || {
                let log = log.lock().expect("no panic with the lock");
                let line = log.lines().find(|line| line.contains(event))?;
                line.split("address=").nth(1)?.trim().parse().ok()
            })
        };
        let admin = address(" admin listening");
        let listener = address(" listening listener=");
        let process = Process {
            child,
            directory,
            listener,
            admin,
            log,
            hearing,
        };
        eventually("it has started", || process.log().contains(" started "));
        process
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("the process is there");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        let directory = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(directory).expect("procfs").count()
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("procfs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        kib.expect("a number")
    }

    /// CPU time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("procfs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("one").split(' ').collect();
        // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second; the third is here 1.
        let ticks = |field: usize| fields[field - 2].parse::<u64>().expect("a number");
        Duration::from_millis(10 * (ticks(14) + ticks(15)))
    }

    /// Writes the file and has it read at once.
    pub fn reload(&self, config: &str) -> Response {
        fs::write(self.path(), complete(config)).expect("writes");
        let mut client = Client::connect(self.admin);
        client.send(format!(
            "POST /reload HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.admin
        ));
        client.response()
    }

    /// Nobody reads standard error any more, from its next line on.
    pub fn stop_reading(&self) {
        self.hearing.store(STALLS, Ordering::SeqCst);
    }

    pub fn read_on(&self) {
        self.hearing.store(LISTENS, Ordering::SeqCst);
    }

    /// The reader of standard error ends with its next line.
    pub fn stop_listening(&self) {
        self.hearing.store(LEAVES, Ordering::SeqCst);
    }

    pub fn metric(&self, series: &str) -> Option<f64> {
        let metrics = Client::connect(self.admin).get("/metrics").text();
        let line = metrics.lines().find(|line| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("no panic with the lock").clone()
    }

    pub fn ready(&self) -> u16 {
        Client::connect(self.admin).get("/readyz").status
    }

    /// The configuration file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("evenkeel.toml")
    }

    /// The exit code, once it has ended.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        value_within(Duration::from_secs(20), "the process ends", || {
            child.try_wait().expect("it is our child")
        })
        .code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
