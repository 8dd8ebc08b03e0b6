//! Logs that cannot be written: traffic goes on, what is lost is counted, an episode is said once,
//! and writing goes on by itself when it can.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

use crate::support::{Client, Origin, Process, app, eventually};

fn logging_to(origin: &Origin, path: &str) -> String {
    format!("{}[access-log]\npath = \"{path}\"\n", app(&[origin], ""))
}

const DROPPED: &str = "evenkeel_access_log_dropped_total";

fn count(log: &str, event: &str) -> usize {
    log.lines().filter(|line| line.contains(event)).count()
}

fn ask(process: &Process, requests: usize) {
    let mut client = Client::connect(process.listener);
    for _ in 0..requests {
        assert_eq!(client.get("/").status, 200);
    }
}

/// Has it say something: each is 40 lines of about 150 bytes.
fn refuse_files(process: &Process, times: usize) {
    for number in 0..times {
        let mistakes = (0..40).map(|line| format!("mistake-{number}-{line} = 1\n"));
        let answer = process.reload(&mistakes.collect::<String>());
        assert_eq!(answer.status, 422);
    }
}

#[test]
fn a_reader_of_standard_error_that_has_gone_ends_nothing() {
    let origin = Origin::good("ok");
    let config = app(
        &[&origin],
        "[upstream.app.health]\ninterval = \"100ms\"\npath = \"/\"\n",
    );
    let mut process = Process::start(&config);
    process.stop_listening();
    refuse_files(&process, 20);
    // A server that comes and goes has workers and checks say something too.
    for _ in 0..2 {
        origin.stop();
        eventually("it is missed", || {
            Client::connect(process.listener).get("/").status == 502
        });
        origin.resume();
        eventually("it is back", || {
            Client::connect(process.listener).get("/").status == 200
        });
    }
    ask(&process, 50);
    assert_eq!(process.reload(&config).status, 200, "reloads go on");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_reader_of_standard_error_that_stalls_stops_nothing() {
    let origin = Origin::good("ok");
    let config = app(&[&origin], "");
    let mut process = Process::start(&config);
    process.stop_reading();
    // More than a pipe holds, and more than we keep.
    refuse_files(&process, 100);
    ask(&process, 50);
    assert_eq!(process.ready(), 200);
    process.read_on();
    eventually("it is told that some were lost", || {
        // Something has to be written to find out that it can be.
        refuse_files(&process, 1);
        process.log().contains("events were lost")
    });
    process.stop_reading();
    refuse_files(&process, 100);
    let start = Instant::now();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "the end waits");
    process.read_on();
}

#[test]
fn standard_error_that_is_closed_or_full_stops_nothing() {
    for before in ["exec 3>&2 2>/dev/full; exec 1>&3", "exec 1>&2 2>&-"] {
        // It cannot say where it listens, so it is told.
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, admin) = {
            let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            (
                port.local_addr().expect("bound"),
                other.local_addr().expect("bound"),
            )
        };
        drop(port);
        let origin = Origin::good("ok");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("evenkeel.toml");
        let config = format!(
            "{}[[listener]]\naddress = \"{address}\"\n[admin]\naddress = \"{admin}\"\n",
            app(&[&origin], "")
        );
        fs::write(&path, config).expect("writes");
        let mut child = std::process::Command::new("sh")
            .args(["-c", &format!("{before}; exec \"$0\" run -c \"$1\"")])
            .arg(env!("CARGO_BIN_EXE_evenkeel"))
            .arg(&path)
            .spawn()
            .expect("it starts");
        eventually("it listens", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        for number in 0..20 {
            fs::write(&path, format!("broken-{number} = ")).expect("writes");
            let mut client = Client::connect(admin);
            client.send(format!(
                "POST /reload HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n\r\n"
            ));
            assert_eq!(client.response().status, 422, "{before}");
            assert_eq!(Client::connect(address).get("/").status, 200);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn a_full_disk_costs_lines_and_one_event() {
    let origin = Origin::good("ok");
    let process = Process::start(&logging_to(&origin, "/dev/full"));
    for round in 1..=20 {
        ask(&process, 10);
        eventually("what is lost is counted", || {
            process.metric(DROPPED) == Some(f64::from(round) * 10.0)
        });
    }
    let log = process.log();
    assert_eq!(count(&log, "cannot be written"), 1, "{log}");
    assert_eq!(count(&log, "written again"), 0, "{log}");
}

/// The limit stands for a disk: a write beyond it fails, and without our doing ends the process.
#[test]
fn a_file_that_may_not_grow_costs_lines_until_there_is_room() {
    let origin = Origin::good("ok");
    let logs = tempfile::tempdir().expect("a directory");
    let path = logs.path().join("access.log");
    let config = logging_to(&origin, &path.display().to_string());
    let mut process = Process::start_after("ulimit -f 8", &config);
    eventually("it is full", || {
        ask(&process, 20);
        process.metric(DROPPED) > Some(0.0)
    });
    ask(&process, 100);
    eventually("it was said", || {
        process.log().contains("cannot be written")
    });
    for _ in 0..3 {
        // Space returns, and is used up again.
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .expect("truncates");
        ask(&process, 1);
        eventually("it is written again", || {
            fs::metadata(&path).is_ok_and(|file| file.len() > 0)
        });
    }
    let text = fs::read_to_string(&path).expect("text");
    assert!(
        text.ends_with('\n') && text.lines().all(|line| line.contains("GET /")),
        "{text}"
    );
    eventually("it is said once more", || {
        ask(&process, 1);
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .expect("truncates");
        process.log().contains("written again")
    });
    let log = process.log();
    assert_eq!(count(&log, "cannot be written"), 1, "{log}");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_directory_that_is_gone_is_waited_for_and_refuses_no_other_change() {
    let origin = Origin::good("ok");
    let logs = tempfile::tempdir().expect("a directory");
    let directory = logs.path().join("log");
    let path = directory.join("access.log");
    fs::create_dir(&directory).expect("creates");
    let config = logging_to(&origin, &path.display().to_string());
    let process = Process::start(&config);
    ask(&process, 1);
    fs::remove_dir_all(&directory).expect("removes");
    process.signal(Signal::SIGUSR1);
    eventually("it is said", || {
        process.log().contains("cannot be reopened")
    });
    ask(&process, 50);
    let answer = process.reload(&format!(
        "{config}[process]\nworkers = 2\ndrain-timeout = \"7s\"\n"
    ));
    assert_eq!(answer.status, 200, "{}", answer.text());
    fs::create_dir(&directory).expect("creates");
    eventually("it is back by itself", || {
        ask(&process, 1);
        path.exists()
    });
    ask(&process, 1);
    eventually("and written", || {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("GET /"))
    });
    let log = process.log();
    assert_eq!(count(&log, "cannot be reopened"), 1, "{log}");
    assert_eq!(count(&log, "panicked"), 0, "{log}");
}

fn read_end(path: &Path) -> fs::File {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .expect("the pipe is there")
}

#[test]
fn a_pipe_whose_reader_left_is_written_again_when_one_is_back() {
    let origin = Origin::good("ok");
    let logs = tempfile::tempdir().expect("a directory");
    let path = logs.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let reader = read_end(&path);
    let process = Process::start(&logging_to(&origin, &path.display().to_string()));
    ask(&process, 5);
    drop(reader);
    ask(&process, 50);
    eventually("what is lost is counted", || {
        process.metric(DROPPED) >= Some(50.0)
    });
    let mut reader = read_end(&path);
    let mut text = String::new();
    eventually("lines come again", || {
        ask(&process, 1);
        let mut bytes = [0; 4096];
        let count = reader.read(&mut bytes).unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        text.contains("GET / HTTP/1.1")
    });
    let log = process.log();
    assert_eq!(count(&log, "cannot be written"), 1, "{log}");
}
