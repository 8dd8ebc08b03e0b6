//! `evenkeel demo` as a first-time user runs it: in a directory of their own, until Ctrl-C.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running `evenkeel demo`; killed when dropped.
struct Demo {
    child: Child,
    lines: Receiver<String>,
}

impl Demo {
    fn start(arguments: &[&str], directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .arg("demo")
            .args(arguments)
            .current_dir(directory)
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let (sender, lines) = channel();
        let output = child.stdout.take().expect("is piped");
        let errors = child.stderr.take().expect("is piped");
        follow(output, sender.clone());
        follow(errors, sender);
        Demo { child, lines }
    }

    /// The first line with `part` in it that is printed from now on.
    fn line(&self, part: &str) -> String {
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline - Instant::now()) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {part:?} came, only {seen:#?}");
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        let id = Pid::from_raw(self.child.id().try_into().expect("is a process id"));
        kill(id, signal).expect("is running");
        self.child.wait().expect("ends").code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Has ended already where the test got that far.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(output: impl Read + Send + 'static, sender: std::sync::mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // The test may have seen enough; the pipe must be emptied all the same.
            let _ = sender.send(line);
        }
    });
}

/// The first `http://` address of a line, without scheme and path.
fn address(line: &str) -> String {
    let (_, rest) = line.split_once("http://").expect("has an address");
    rest.split('/').next().expect("is not empty").to_owned()
}

/// Status and body.
fn ask(address: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("listens");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .expect("takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.expect("begins with a status line"), body.to_owned())
}

/// How often each origin answers a number of requests.
fn answers(proxy: &str, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        let (status, body) = ask(proxy, "GET", "/hello");
        assert_eq!(status, 200, "{body}");
        let name = body.split(' ').next().expect("is not empty").to_owned();
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn it_shows_weights_an_edit_and_a_failing_origin_and_ends_with_ctrl_c() {
    let directory = tempfile::tempdir().expect("can be made");
    let demo = Demo::start(&["--no-traffic"], directory.path());
    let admin = address(&demo.line("Open"));
    let proxy = address(&demo.line("Proxy"));
    let apple = address(&demo.line("apple"));
    assert_eq!(ask(&admin, "GET", "/readyz").0, 200);
    assert_eq!(answers(&proxy, 10)["apple"], 6, "three of five");

    let file = directory.path().join("demo.toml");
    let before = fs::read_to_string(&file).expect("is there");
    let edited = before.replace("= 3 ", "= 0 ");
    assert_ne!(before, edited);
    fs::write(&file, edited).expect("is writable");
    let deadline = Instant::now() + PATIENCE;
    while answers(&proxy, 5).contains_key("apple") {
        assert!(Instant::now() < deadline, "the new weight is not taken up");
    }
    fs::write(&file, before).expect("is writable");
    while !answers(&proxy, 5).contains_key("apple") {
        assert!(
            Instant::now() < deadline,
            "the old weight is not taken up again"
        );
    }

    assert_eq!(ask(&apple, "POST", "/break").0, 200);
    // Every one is answered with 200: retried at first, then sent elsewhere.
    assert!(!answers(&proxy, 50).contains_key("apple"));
    assert_eq!(ask(&apple, "POST", "/mend").0, 200);

    assert_eq!(demo.end(Signal::SIGINT), Some(0));
}

#[test]
fn an_origin_alone_runs_until_it_is_told_to_end() {
    let directory = tempfile::tempdir().expect("can be made");
    let arguments = ["--origin", "apple", "--address", "127.0.0.1:0"];
    let demo = Demo::start(&arguments, directory.path());
    let line = demo.line("listens on");
    let address = line.rsplit(' ').next().expect("ends with the address");
    assert_eq!(
        ask(address, "GET", "/x?y"),
        (200, "apple answered GET /x?y\n".into())
    );
    assert_eq!(demo.end(Signal::SIGTERM), Some(0));
}
