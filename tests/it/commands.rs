//! The command line as people and scripts meet it: what each command prints, where, and its exit
//! code.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::process::Said;
use super::support::proxy::complete;
use super::support::{Origin, Process, app, app_with, evenkeel, eventually, says};

const VALID: &str = "conf/minimal.toml";
const BROKEN: &str = "tests/broken/syntax-several.toml";

/// A file in a directory of its own.
struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = File { directory };
        fs::write(file.path(), text).expect("writes");
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("evenkeel.toml")
    }

    fn text(&self) -> String {
        self.path().to_str().expect("text").to_owned()
    }
}

#[track_caller]
fn ends(said: &Said, code: i32) {
    assert_eq!(said.code, Some(code), "{said:?}");
}

#[test]
fn check_says_what_is_there_or_what_is_wrong() {
    for arguments in [
        ["check", "-c", VALID],
        ["-c", VALID, "check"],
        ["-t", "-c", VALID],
        ["check", "--config", VALID],
    ] {
        let said = says(arguments);
        ends(&said, 0);
        assert_eq!(
            said.stdout,
            "ok: 1 listener, 1 upstream, 2 servers, 1 route\n"
        );
        assert_eq!(said.stderr, "");
    }
    for arguments in [["check", "-c", BROKEN], ["-t", "-c", BROKEN]] {
        let said = says(arguments);
        ends(&said, 1);
        assert_eq!(said.stdout, "", "mistakes go to stderr");
        assert!(
            said.stderr.contains(&format!(" --> {BROKEN}:")),
            "{}",
            said.stderr
        );
        assert!(!said.stderr.contains('\u{1b}'), "no colours off a terminal");
    }
}

#[test]
fn check_speaks_json() {
    let said = says(["check", "--format", "json", "-c", BROKEN]);
    ends(&said, 1);
    let mistakes: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let first = &mistakes[0];
    assert_eq!(
        (&first["severity"], &first["file"]),
        (&"error".into(), &BROKEN.into())
    );
    assert!(
        first["line"].is_u64() && first["column"].is_u64(),
        "{first:#}"
    );
    let said = says(["check", "--format", "json", "-c", VALID]);
    ends(&said, 0);
    assert_eq!(said.stdout, "[]\n");
}

#[test]
fn the_file_may_come_from_the_environment() {
    let with = |arguments: &[&str]| -> Said {
        let mut command = evenkeel(arguments);
        command.env("EVENKEEL_CONFIG", VALID);
        command.output().expect("the binary starts").into()
    };
    ends(&with(&["check"]), 0);
    ends(&with(&["config", "show"]), 0);
    ends(&with(&["explain", "GET", "/users"]), 0);
    ends(&with(&["check", "-c", BROKEN]), 1);
    let without = says(["check", "-c", "/nonexistent/x.toml"]);
    ends(&without, 1);
    assert!(
        without.stderr.contains("no such file"),
        "{}",
        without.stderr
    );
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["check", "--nonsense"],
        &["check", "--format", "xml"],
        &["explain", "GET"],
        &["config"],
        &["completions", "cmd"],
    ] {
        let said = says(arguments);
        ends(&said, 2);
        assert!(
            said.stdout.is_empty() && said.stderr.contains("--help"),
            "{said:?}"
        );
    }
}

#[test]
fn help_names_what_there_is_and_nothing_that_comes_later() {
    let said = says(["--help"]);
    ends(&said, 0);
    for command in [
        "run",
        "check",
        "explain",
        "reload",
        "healthcheck",
        "demo",
        "schema",
        "config",
        "version",
        "completions",
        "man",
    ] {
        assert!(
            said.stdout.contains(&format!("\n  {command} ")),
            "{command}"
        );
        ends(&says([command, "--help"]), 0);
    }
    for later in ["diff", "apply", "confirm", "rollback", "simulate", "top"] {
        assert!(!said.stdout.contains(&format!("\n  {later} ")), "{later}");
        ends(&says([later]), 2);
    }
    assert!(said.stdout.contains("EVENKEEL_CONFIG"), "{}", said.stdout);
}

#[test]
fn version_schema_completions_and_man_print_what_they_are_for() {
    let version = concat!("evenkeel ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(says(["version"]).stdout, version);
    assert_eq!(says(["--version"]).stdout, version);
    let verbose = says(["version", "--verbose"]);
    ends(&verbose, 0);
    assert!(verbose.stdout.starts_with(version) && verbose.stdout.lines().count() > 3);

    let schema = says(["schema"]);
    ends(&schema, 0);
    let schema: Value = serde_json::from_str(&schema.stdout).expect("JSON");
    assert_eq!(schema, evenkeel::config::schema());

    for shell in ["bash", "zsh", "fish"] {
        let said = says(["completions", shell]);
        ends(&said, 0);
        assert!(said.stdout.contains("healthcheck"), "{shell}");
    }
    let man = says(["man"]);
    ends(&man, 0);
    assert!(man.stdout.contains(".TH evenkeel 1"), "{}", man.stdout);
}

#[test]
fn config_show_gives_origins_and_hides_secrets() {
    let origin = Origin::good("ok");
    let server = origin.address();
    let file = File::new(&complete(&format!(
        "[admin]\naddress = \"127.0.0.1:0\"\ntoken = \"${{TOKEN}}\"\n\
         [defaults.upstream]\nslow-start = \"3s\"\n{}",
        app(&[&origin], "")
    )));
    let show = |arguments: &[&str]| -> Said {
        let mut command = evenkeel(["config", "show", "-c", &file.text()]);
        command.args(arguments).env("TOKEN", "s3cret");
        command.output().expect("the binary starts").into()
    };
    let (written, effective) = (show(&[]), show(&["--effective"]));
    for said in [&written, &effective] {
        ends(said, 0);
        assert!(said.stdout.contains("token = \"***\""), "{}", said.stdout);
        assert!(!said.stdout.contains("s3cret"), "{}", said.stdout);
        assert!(said.stdout.contains(&server.to_string()), "{}", said.stdout);
    }
    assert!(
        !written.stdout.contains("# default\n"),
        "only what is written"
    );
    let line = |start: &str| {
        effective
            .stdout
            .lines()
            .find(|line| line.starts_with(start))
    };
    assert!(line("slow-start").is_some_and(|line| line.contains("# defaults.upstream ")));
    assert_eq!(line("first-byte"), Some("first-byte = \"30s\"  # default"));
    ends(&says(["config", "show", "-c", BROKEN]), 1);
}

#[test]
fn reload_prints_what_changed_or_the_mistakes() {
    let (first, second) = (Origin::good("a"), Origin::good("b"));
    let file = |weight: &str| complete(&app_with(&[(&first, weight), (&second, "1")], ""));
    let process = Process::start(&app_with(&[(&first, "1"), (&second, "1")], ""));
    let admin = process.admin.to_string();
    let reload = || says(["reload", "--admin", &admin]);
    let said = reload();
    ends(&said, 0);
    assert_eq!(said.stdout, "nothing changed\ngeneration 1 is in use\n");

    fs::write(process.path(), file("3")).expect("writes");
    let said = reload();
    ends(&said, 0);
    // The watcher may have been first: then nothing is left to change.
    assert!(
        said.stdout.ends_with("generation 2 is in use\n"),
        "{}",
        said.stdout
    );
    eventually("the change is logged", || {
        process.log().contains("weight 1 -> 3 (50% -> 75%")
    });

    fs::write(process.path(), "[[listenr]]\n").expect("writes");
    let said = reload();
    ends(&said, 4);
    assert!(
        said.stdout.is_empty() && said.stderr.contains("unknown key `listenr`"),
        "{said:?}"
    );
    assert!(
        said.stderr.ends_with("the configuration in use stays\n"),
        "{}",
        said.stderr
    );

    let said = says(["reload", "--admin", "unix:/nonexistent.sock"]);
    ends(&said, 1);
    assert!(
        said.stderr
            .contains("cannot connect to unix:/nonexistent.sock"),
        "{said:?}"
    );
    let said = says(["reload", "-c", "/nonexistent/x.toml"]);
    ends(&said, 1);
    assert!(said.stderr.contains("--admin"), "{said:?}");
}

#[test]
fn commands_find_address_and_token_in_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("admin.sock");
    let origin = Origin::good("ok");
    let file = File::new(&complete(&format!(
        "[admin]\naddress = \"unix:{}\"\ntoken = \"right\"\n{}",
        socket.display(),
        app(&[&origin], "")
    )));
    let mut child = evenkeel(["run", "-c", &file.text()]);
    let mut child = Killed(
        child
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("starts"),
    );
    let text = file.text();
    let run = |arguments: &[&str], token: Option<&str>| -> Said {
        let mut command = evenkeel(arguments);
        if let Some(token) = token {
            command.env("EVENKEEL_ADMIN_TOKEN", token);
        }
        command.output().expect("the binary starts").into()
    };
    eventually("it is ready", || {
        run(&["healthcheck", "-c", &text], None).code == Some(0)
    });
    assert_eq!(run(&["healthcheck", "-c", &text], None).stdout, "ready\n");
    assert_eq!(mode(&socket), 0o660);
    ends(&run(&["reload", "-c", &text], None), 0);
    let wrong = run(&["reload", "-c", &text], Some("wrong"));
    ends(&wrong, 4);
    assert!(wrong.stderr.contains("token"), "{wrong:?}");
    let live = run(&["explain", "--live", "GET", "/x", "-c", &text], None);
    ends(&live, 0);
    let elsewhere = format!("unix:{}", socket.display());
    ends(&run(&["reload", "--admin", &elsewhere], Some("right")), 0);
    ends(&run(&["reload", "--admin", &elsewhere], None), 4);

    // A file that is broken elsewhere still says where to ask.
    fs::write(
        file.path(),
        fs::read_to_string(file.path()).expect("reads") + "\nbroken = 1\n",
    )
    .expect("writes");
    ends(&run(&["healthcheck", "-c", &text], None), 0);
    ends(&run(&["reload", "-c", &text], None), 4);
    child.0.kill().expect("it runs");
}

/// Ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn healthcheck_is_1_when_nobody_answers_or_nothing_is_asked() {
    ends(&says(["healthcheck", "--admin", "127.0.0.1:1"]), 1);
    let off = File::new("[admin]\naddress = \"off\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n");
    let said = says(["healthcheck", "-c", &off.text()]);
    ends(&said, 1);
    assert!(said.stderr.contains("admin listener is off"), "{said:?}");
}

#[test]
fn the_log_level_follows_the_file() {
    let origin = Origin::good("ok");
    let file = |level: &str| format!("[log]\nlevel = \"{level}\"\n{}", app(&[&origin], ""));
    let process = Process::start(&file("info"));
    let admin = process.admin.to_string();
    let becomes = |level: &str| {
        fs::write(process.path(), complete(&file(level))).expect("writes");
        ends(&says(["reload", "--admin", &admin]), 0);
    };
    let events = || process.log().matches(" reloaded ").count();
    becomes("debug");
    eventually("the event is shown", || events() == 1);
    becomes("error");
    becomes("info");
    eventually("it is shown again", || {
        process.log().contains("generation=4")
    });
    assert_eq!(events(), 2, "the one in between is below the level");
}

#[test]
fn the_log_may_be_json() {
    let origin = Origin::good("ok");
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let file = File::new(&complete(&format!(
        "[log]\nformat = \"json\"\n{listener}{}",
        app(&[&origin], "")
    )));
    let mut command = evenkeel(["run", "-c", &file.text()]);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let stderr = child.stderr.take().expect("piped");
    let child = Killed(child);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let started = lines.find_map(|line| {
        let line: Value = serde_json::from_str(&line.ok()?).expect("each line is JSON");
        (line["message"] == "started").then_some(line)
    });
    let started = started.expect("it starts");
    assert_eq!(
        (&started["generation"], &started["level"]),
        (&1.into(), &"INFO".into())
    );
    drop(child);
}
