//! A configuration file that is rewritten all the time, well and badly, and directories that go
//! away: traffic notices nothing, the process neither grows nor spins, and what is good is in use
//! soon after it has come to rest.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::proxy::complete;
use crate::support::{Client, Origin, Process, value_within};

/// Between two changes of the file.
const BEAT: Duration = Duration::from_millis(100);
/// The contract's, from the moment on which a file is at rest.
const LIVE: Duration = Duration::from_millis(500);
/// What is not noticed when it happens is found by looking that often.
const POLL: Duration = Duration::from_secs(2);

/// Weights change, and `/round` says which file is in use.
fn config(origins: &[Origin], round: usize) -> String {
    let servers: Vec<_> = origins
        .iter()
        .enumerate()
        .map(|(index, origin)| format!("\"{}\" = {}", origin.address(), 1 + (round + index) % 5))
        .collect();
    let text = format!(
        "[upstream.app]\nservers = {{ {} }}\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/round\"\nrespond = {{ status = 200, body = \"{round}\" }}\n",
        servers.join(", ")
    );
    complete(&text)
}

/// Takes away whatever stands there.
fn clear(path: &Path) {
    // One of these fits.
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

fn rename_over(path: &Path, text: &str) {
    let aside = path.with_extension("aside");
    fs::write(&aside, text).expect("writes");
    if path.is_dir() {
        clear(path);
    }
    fs::rename(aside, path).expect("renames");
}

/// One way to spoil the file.
fn spoil(path: &Path, way: usize, good: &str) {
    match way % 8 {
        0 => rename_over(path, "[[route]]\nprefix = 3\n"),
        1 => rename_over(path, ""),
        2 => rename_over(path, &good[..good.len() / 2]),
        3 => clear(path),
        4 => {
            clear(path);
            fs::create_dir(path).expect("creates");
        }
        5 => {
            clear(path);
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        }
        6 => {
            clear(path);
            // Enormous, and yet no bytes on the disk.
            let file = fs::File::create(path).expect("creates");
            file.set_len(1 << 36).expect("sparse");
        }
        _ => {
            clear(path);
            symlink("nowhere", path).expect("links");
        }
    }
}

/// One way to put a good file there.
fn write(path: &Path, way: usize, good: &str) {
    match way % 3 {
        0 => rename_over(path, good),
        1 => {
            let regular = path.symlink_metadata().is_ok_and(|file| file.is_file());
            if !regular {
                clear(path);
            }
            fs::write(path, good).expect("writes");
        }
        _ => {
            // As a ConfigMap: a link that is swapped.
            let behind: PathBuf = path.with_extension(format!("{way}"));
            fs::write(&behind, good).expect("writes");
            let link = path.with_extension("link");
            clear(&link);
            symlink(&behind, &link).expect("links");
            if path.is_dir() {
                clear(path);
            }
            fs::rename(link, path).expect("renames");
        }
    }
}

/// One client on one connection until told to stop; the failure that ended it, if any.
fn insist(address: SocketAddr, stop: &AtomicBool, done: &AtomicU64) -> Result<(), String> {
    let mut client = Client::connect(address);
    while !stop.load(Ordering::Relaxed) {
        let answer = client
            .try_send("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")
            .and_then(|()| client.try_response())
            .map_err(|error| error.to_string())?;
        if answer.status != 200 || answer.header("connection").is_some() {
            return Err(format!("{} {}", answer.status, answer.text()));
        }
        done.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn round_in_use(process: &Process) -> String {
    Client::connect(process.listener).get("/round").text()
}

/// How long it took until file `round` was in use.
fn live_after(process: &Process, round: usize) -> Duration {
    let start = Instant::now();
    let limit = Duration::from_secs(10);
    value_within(limit, &format!("round {round} is live"), || {
        (round_in_use(process) == round.to_string()).then_some(())
    });
    start.elapsed()
}

#[test]
fn a_file_that_is_rewritten_all_the_time_disturbs_nobody() {
    let origins: Vec<_> = (0..3).map(|_| Origin::good("ok")).collect();
    let process = Process::start(&config(&origins, 0));
    let path = process.path();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut late = Vec::new();
    let mut spoiled = 0;
    let mut before = (0, 0);
    let mut generation = 0.0;
    let rounds = 80;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| insist(process.listener, &stop, &done)))
            .collect();
        let rested = std::panic::AssertUnwindSafe(|| {
            for round in 1..=rounds {
                let good = config(&origins, round);
                if round % 5 == 3 {
                    spoil(&path, round / 5, &good);
                    spoiled += 1;
                } else {
                    write(&path, round, &good);
                }
                if round % 10 == 0 {
                    late.push(live_after(&process, round));
                    let now = process.metric("evenkeel_config_generation");
                    assert!(now >= Some(generation), "{now:?} after {generation}");
                    generation = now.expect("a number");
                }
                if round == 20 {
                    before = (process.descriptors(), process.resident());
                }
                thread::sleep(BEAT);
            }
        });
        let outcome = std::panic::catch_unwind(rested);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no panic").expect("no failure");
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let after = (process.descriptors(), process.resident());
    assert!(done.load(Ordering::Relaxed) > 500, "{done:?} requests");
    assert!(
        after.0 <= before.0 + 10,
        "descriptors: {before:?} {after:?}"
    );
    assert!(
        after.1 < before.1 + 10 * 1024,
        "resident KiB: {before:?} {after:?}"
    );
    late.sort_unstable();
    // This machine may be busy most of the time; a change that only the poll finds is late each time.
    assert!(late[0] < LIVE, "{late:?}");
    assert!(late[late.len() / 2] < POLL, "{late:?}");
    let log = process.log();
    let rejected = log.lines().filter(|line| line.contains("reload rejected"));
    let rejected = rejected.count();
    assert!(
        rejected > 0 && rejected <= spoiled,
        "{rejected} of {spoiled}: {log}"
    );
    for line in log.lines() {
        assert!(line.starts_with("20"), "an event is one line: {line}");
    }
}

#[test]
fn a_directory_that_went_away_is_watched_again_when_it_is_back() {
    let origins = [Origin::good("ok")];
    let process = Process::start(&config(&origins, 0));
    let path = process.path();
    let directory = path.parent().expect("a directory").to_owned();
    let away = directory.with_extension("away");
    let serves = || Client::connect(process.listener).get("/").status == 200;
    for round in [1, 11] {
        if round == 1 {
            fs::rename(&directory, &away).expect("moves");
        } else {
            fs::remove_dir_all(&directory).expect("removes");
        }
        // Longer than the poll that misses it.
        let gone = Instant::now();
        while gone.elapsed() < Duration::from_millis(2500) {
            assert!(serves());
            thread::sleep(BEAT);
        }
        if round == 1 {
            fs::rename(&away, &directory).expect("moves back");
        } else {
            fs::create_dir(&directory).expect("creates");
        }
        rename_over(&path, &config(&origins, round));
        live_after(&process, round);
        let took = value_within(Duration::from_secs(15), "it is watched again", || {
            let number = round + 1;
            // Not seen by the poll: that takes 2 s and more.
            rename_over(&path, &config(&origins, number));
            let took = live_after(&process, number);
            if took > Duration::from_secs(1) {
                rename_over(&path, &config(&origins, round));
                live_after(&process, round);
            }
            (took < Duration::from_secs(1)).then_some(took)
        });
        assert!(serves(), "after {took:?}");
    }
    let log = process.log();
    assert!(log.matches("reload rejected").count() <= 2, "{log}");
}
