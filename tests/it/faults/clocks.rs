//! Clocks that jump: the wall's, which only logs and certificates look at, and the monotonic one,
//! which goes on while the whole process is stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Client, Origin, Process, app, eventually};

/// What looks at wall time, and why that may jump.
const WALL: [(&str, &str); 10] = [
    ("src/app/control.rs", "shows when the last reload was"),
    ("src/config/build/files.rs", "certificates"),
    (
        "src/proxy/sticky.rs",
        "the age of a cookie, whichever way it jumps",
    ),
    ("src/reload/attempt.rs", "certificates, and when it was"),
    ("src/reload/expiry.rs", "certificates"),
    ("src/reload/status.rs", "shows when the last reload was"),
    ("src/telemetry/access/time.rs", "the time of a line"),
    ("src/telemetry/handles/name.rs", "the time of an answer"),
    ("src/telemetry/metrics.rs", "the time of a reload"),
    ("src/wire/h1/date.rs", "the field Date"),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every deadline, rate and measure is of the monotonic clock.
#[test]
fn only_logs_and_certificates_look_at_wall_time() {
    let mut found = Vec::new();
    sources(Path::new("src"), &mut found);
    assert!(found.len() > 100, "this is the source");
    for path in found {
        let text = fs::read_to_string(&path).expect("text");
        let path = path.display().to_string();
        let looks = [
            "SystemTime::now",
            "Utc::now",
            "Timestamp::now",
            "Zoned::now",
        ]
        .iter()
        .any(|clock| text.contains(clock));
        let allowed = WALL.iter().any(|(known, _)| *known == path);
        assert!(!looks || allowed, "{path} looks at wall time");
    }
}

/// All timers are due at once when it goes on; the answers that came meanwhile are there, too. The
/// times are longer than what a busy machine takes of itself, and the stop is longer than they are.
#[test]
fn a_process_that_was_stopped_blames_nobody_for_the_time() {
    let slow = || {
        Origin::scripted(|connection| {
            while let Some(request) = connection.request() {
                if request.target() == "/slow" {
                    thread::sleep(Duration::from_millis(150));
                }
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        })
    };
    let origins = [slow(), slow()];
    let more = "[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"\ntimeout = \"1s\"\n\
                fall = 1\n\
                [upstream.app.breaker]\nconsecutive-failures = 1\n\
                [upstream.app.retry]\nattempts = 0\n\
                [upstream.app.timeout]\nconnect = \"2s\"\nfirst-byte = \"2s\"\n\
                idle = \"2s\"\ntotal = \"2s\"\n\
                [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                limits = { header-timeout = \"2s\" }\n";
    let process = Process::start(&app(&[&origins[0], &origins[1]], more));
    eventually("both are healthy", || {
        origins.iter().all(|origin| {
            let labels = format!("upstream=\"app\",server=\"{}\"", origin.address());
            process.metric(&format!("evenkeel_upstream_server_healthy{{{labels}}}")) == Some(1.0)
        })
    });
    let mut kept: Vec<_> = (0..8).map(|_| Client::connect(process.listener)).collect();
    let slow = |origin: &Origin| {
        let requests = origin.requests();
        requests
            .iter()
            .filter(|one| one.target() == "/slow")
            .count()
    };
    for round in 1..=3 {
        for client in &mut kept {
            client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
        }
        eventually("they are at the servers", || {
            origins.iter().map(slow).sum::<usize>() == round * 8
        });
        process.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(2500));
        process.signal(Signal::SIGCONT);
        for client in &mut kept {
            let answer = client.response();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let log = process.log();
    assert!(
        !log.contains("unhealthy") && !log.contains("breaker"),
        "{log}"
    );
}
