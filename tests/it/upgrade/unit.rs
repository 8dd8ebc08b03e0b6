//! The unit files of `conf/`: what they name exists, and says what the binary does.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;

type Sections = HashMap<String, Vec<(String, String)>>;

fn unit(name: &str) -> Sections {
    let text = fs::read_to_string(path(name)).expect("is there");
    let mut sections = Sections::new();
    let mut current = String::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            current = name.strip_suffix(']').expect("a whole name").to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').expect("a key and a value");
        let section = sections.entry(current.clone()).or_default();
        section.push((key.to_owned(), value.to_owned()));
    }
    sections
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(name)
}

fn all<'a>(sections: &'a Sections, section: &str, key: &str) -> Vec<&'a str> {
    let keys = sections.get(section).expect("the section is there").iter();
    keys.filter(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
        .collect()
}

fn one<'a>(sections: &'a Sections, section: &str, key: &str) -> &'a str {
    match all(sections, section, key)[..] {
        [only] => only,
        ref other => panic!("{section}.{key} is {other:?}"),
    }
}

#[test]
fn the_commands_of_the_service_are_commands_of_ours() {
    let service = unit("evenkeel.service");
    for key in ["ExecStart", "ExecStartPre"] {
        let line = one(&service, "Service", key);
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        assert!(
            program.starts_with('/') && program.ends_with("/evenkeel"),
            "{line}"
        );
        let parsed = evenkeel::cli::Cli::command()
            .try_get_matches_from(std::iter::once("evenkeel").chain(words));
        parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_it_relies_on_is_what_we_do() {
    let service = unit("evenkeel.service");
    let value = |key| one(&service, "Service", key);
    // RELOADING=1 and READY=1 answer the signal: systemd/it_is_told_of_start_reload_and_stop.
    assert_eq!(value("Type"), "notify-reload");
    assert_eq!(value("ReloadSignal"), "SIGHUP");
    // MAINPID= comes from the old main process, READY=1 from the new one after that.
    assert_eq!(value("NotifyAccess"), "main");
    // Only the main process is told to end: what drains after an upgrade goes on.
    assert_eq!(value("KillMode"), "mixed");
    assert_eq!(value("KillSignal"), "SIGTERM");
    assert!(value("WatchdogSec").ends_with('s'));
    let drain: u64 = 30;
    let stop: u64 = value("TimeoutStopSec")
        .trim_end_matches('s')
        .parse()
        .expect("seconds");
    assert!(stop > drain, "longer than drain-timeout");
    // What replaces the binary must be startable, and a mapping of code needs no writing.
    assert_eq!(value("NoNewPrivileges"), "yes");
    assert_eq!(value("ProtectSystem"), "strict");
    assert!(
        value("RestrictAddressFamilies").contains("AF_UNIX"),
        "for the hand-over too"
    );
}

#[test]
fn the_socket_names_a_listener_of_the_example() {
    let socket = unit("evenkeel.socket");
    assert_eq!(one(&socket, "Socket", "Service"), "evenkeel.service");
    assert_eq!(one(&socket, "Socket", "FileDescriptorName"), "web");
    assert_eq!(one(&socket, "Socket", "Accept"), "no");
    assert!(!all(&socket, "Socket", "ListenStream").is_empty());
    let example = fs::read_to_string(path("everything.toml")).expect("is there");
    assert!(example.contains("name    = \"web\""));
}

/// The tool knows every key and what it is worth. It needs no running systemd.
#[test]
fn systemd_finds_nothing_wrong_with_them() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        return; // Not on this machine.
    }
    // It looks for the program that is named.
    let place = tempfile::tempdir().expect("a directory");
    let text = fs::read_to_string(path("evenkeel.service")).expect("is there");
    let text = text.replace("/usr/bin/evenkeel", env!("CARGO_BIN_EXE_evenkeel"));
    let service = place.path().join("evenkeel.service");
    fs::write(&service, text).expect("writes");
    let socket = place.path().join("evenkeel.socket");
    fs::copy(path("evenkeel.socket"), &socket).expect("copies");
    let said = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args([&service, &socket])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&said.stderr);
    let ours: Vec<_> = text
        .lines()
        .filter(|line| line.contains("evenkeel."))
        .collect();
    // A version before 253 does not know the type; it says so and ignores it.
    let known = |line: &&&str| !line.contains("notify-reload") && !line.contains("ReloadSignal");
    let wrong: Vec<_> = ours.iter().filter(known).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
