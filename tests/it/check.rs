//! `evenkeel check` over a folder of broken files.
//!
//! `tests/broken/NAME.toml` is wrong in one way (or, where its name says so, in many), and
//! `NAME.txt` beside it is what people see. After a change of words:
//! `UPDATE_BROKEN=1 cargo test --test it check`, then read the difference.

use std::path::{Path, PathBuf};

use evenkeel::config::{self, Diagnostics};

/// The environment of all these tests.
fn environment(name: &str) -> Option<String> {
    (name == "SECRET").then(|| "hunter2".to_owned())
}

fn broken_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("tests/broken").expect("the folder of broken files");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

fn mistakes(path: &Path) -> Diagnostics {
    match config::load(path, &environment) {
        Ok(_) => panic!("{} is accepted", path.display()),
        Err(mistakes) => mistakes,
    }
}

#[test]
fn broken_files_are_explained_as_agreed() {
    let update = std::env::var_os("UPDATE_BROKEN").is_some();
    let files = broken_files();
    assert!(files.len() >= 60, "only {} broken files", files.len());
    let mut different = Vec::new();
    for path in files {
        let shown = mistakes(&path).render_human(false);
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &shown).expect("the folder can be written");
        } else if std::fs::read_to_string(&expected).ok().as_ref() != Some(&shown) {
            different.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn no_secret_is_repeated() {
    for path in broken_files() {
        let mistakes = mistakes(&path);
        let all =
            mistakes.render_human(false) + &mistakes.to_json().to_string() + &mistakes.summary();
        assert!(!all.contains("hunter2"), "{}: {all}", path.display());
    }
}

/// Each by hand: file, line, column, code.
#[test]
fn the_caret_is_at_the_word_that_is_wrong() {
    for (name, line, column, code) in [
        ("unknown-key-listener", 4, 1, "unknown-key"),
        ("unknown-key-health", 7, 26, "unknown-key"),
        ("unknown-key-server", 13, 30, "unknown-key"),
        ("unit-missing-duration", 7, 23, "bad-unit"),
        ("unit-unknown", 7, 14, "bad-unit"),
        ("range-weight", 13, 28, "out-of-range"),
        ("choice-balance", 7, 11, "bad-value"),
        ("address-listener-name", 3, 11, "bad-value"),
        ("address-listener-missing", 2, 1, "missing-key"),
        ("address-server-url", 13, 12, "bad-value"),
        ("server-twice-list", 13, 26, "duplicate-server"),
        ("server-unequal-round-robin", 17, 16, "unequal-weights"),
        ("route-unknown-upstream", 14, 12, "unknown-name"),
        ("route-ambiguous", 12, 1, "ambiguous-route"),
        ("variable-unset", 3, 9, "unset-variable"),
        ("syntax-unquoted", 7, 14, "syntax"),
    ] {
        let mistakes = mistakes(&Path::new("tests/broken").join(name).with_extension("toml"));
        let places: Vec<_> = mistakes
            .places()
            .map(|(found, line, column)| (line, column, found.code))
            .collect();
        assert!(places.contains(&(line, column, code)), "{name}: {places:?}");
    }
}

#[test]
fn all_mistakes_of_a_file_show_at_once() {
    let mistakes = mistakes(Path::new("tests/broken/many-at-once.toml"));
    let lines: Vec<usize> = mistakes.places().map(|(_, line, _)| line).collect();
    for line in [3, 4, 7, 8, 12, 13, 16, 17, 20, 21, 22, 25, 27] {
        assert!(lines.contains(&line), "line {line} of {lines:?}");
    }
}

#[test]
fn an_ambiguous_route_names_both_lines() {
    let shown = mistakes(Path::new("tests/broken/route-ambiguous.toml")).render_human(false);
    assert!(
        shown.contains("route-ambiguous.toml:12") && shown.contains("route-ambiguous.toml:8"),
        "{shown}"
    );
}

#[test]
fn json_has_one_object_per_mistake() {
    let mistakes = mistakes(Path::new("tests/broken/unit-missing-duration.toml"));
    let json = mistakes.to_json();
    let found = &json.as_array().expect("an array")[0];
    assert_eq!(found["file"], "tests/broken/unit-missing-duration.toml");
    assert_eq!(
        (found["line"].as_u64(), found["column"].as_u64()),
        (Some(7), Some(23))
    );
    assert_eq!(found["severity"], "error");
    assert_eq!(found["code"], "bad-unit");
    assert_eq!(found["help"], "write \"2s\"");
    assert!(
        found["message"]
            .as_str()
            .is_some_and(|message| message.contains("connect"))
    );
}

#[test]
fn the_schema_refuses_what_it_can() {
    let schema = config::schema();
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    let mut wrong = Vec::new();
    for path in broken_files() {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let mark = text.lines().next().unwrap_or_default();
        let parsed = toml::from_str::<toml::Table>(&text);
        match mark {
            "# The schema finds it." | "# The schema cannot tell." => {
                // A number beyond 64 bits is TOML that the generic reader refuses.
                let Ok(table) = parsed else {
                    continue;
                };
                let json = to_json(&toml::Value::Table(table));
                if validator.is_valid(&json) != mark.ends_with("tell.") {
                    wrong.push(format!("{}: {mark}", path.display()));
                }
            }
            "# The schema is not asked: this is not TOML." => {
                assert!(parsed.is_err(), "{}", path.display());
            }
            other => panic!(
                "{} does not say what the schema does: {other}",
                path.display()
            ),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// As editors see it: a date is a string.
pub(crate) fn to_json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.iter().map(to_json).collect(),
        toml::Value::Table(table) => serde_json::Value::Object(
            table
                .iter()
                .map(|(key, value)| (key.clone(), to_json(value)))
                .collect(),
        ),
        plain => serde_json::to_value(plain).expect("a plain value"),
    }
}

#[test]
fn what_is_not_a_file_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("a folder");
    let fifo = directory.path().join("fifo.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let link = directory.path().join("link.toml");
    std::os::unix::fs::symlink(&fifo, &link).expect("a symlink");
    let missing = directory.path().join("missing.toml");
    for (path, cause) in [
        (fifo.as_path(), "not a regular file"),
        (link.as_path(), "not a regular file"),
        (directory.path(), "a directory"),
        (Path::new("/dev/zero"), "not a regular file"),
        (missing.as_path(), "no such file"),
        (Path::new(""), "no such file"),
    ] {
        let shown = mistakes(path).render_human(false);
        assert!(shown.contains(cause), "{shown}");
    }
}

#[test]
fn a_huge_file_is_refused() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("huge.toml");
    std::fs::write(&path, vec![b'\n'; (16 << 20) + 1]).expect("space for it");
    assert!(
        mistakes(&path)
            .render_human(false)
            .contains("larger than 16 MiB")
    );
}

#[test]
fn an_include_pattern_that_matches_nothing_any_more_is_refused() {
    let directory = tempfile::tempdir().expect("a folder");
    let main = directory.path().join("main.toml");
    let part = directory.path().join("routes.d/a.toml");
    std::fs::create_dir(directory.path().join("routes.d")).expect("a folder");
    std::fs::write(
        &main,
        "include = [\"routes.d/*.toml\"]\n[[listener]]\naddress = \"127.0.0.1:0\"\n",
    )
    .expect("main");
    std::fs::write(
        &part,
        "[upstream.a]\nservers = [\"10.0.0.1:1\"]\n[[route]]\nprefix = \"/\"\nupstream = \"a\"\n",
    )
    .expect("part");
    let before = config::load(&main, &environment).expect("a valid file");
    assert_eq!(before.config.routes.len(), 1);
    assert_eq!(
        before.sources.fingerprint(),
        before.sources.fingerprint_now()
    );
    std::fs::remove_file(&part).expect("removed");
    assert_ne!(
        before.sources.fingerprint(),
        before.sources.fingerprint_now()
    );
    let after = config::load(&main, &environment).expect("still a valid file");
    let refused = after
        .keeps_includes_of(&before.sources)
        .expect_err("the pattern lost its file");
    assert!(
        refused.summary().contains("main.toml:1:12"),
        "{}",
        refused.summary()
    );
    assert!(after.keeps_includes_of(&after.sources).is_ok());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    /// Nothing that an editor may leave behind makes the checker panic.
    #[test]
    fn any_damage_is_survived(
        cuts in proptest::collection::vec((0_usize..9_000, 0_usize..40, "([\\[\\]{}\"'=,.#\n$a-z0-9-]|\\PC){0,8}"), 1..6),
    ) {
        let mut text = std::fs::read_to_string("conf/everything.toml").expect("the example");
        for (at, length, replacement) in cuts {
            let boundary = |mut at: usize| {
                at = at.min(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (start, end) = (boundary(at), boundary(at + length));
            text.replace_range(start..end, &replacement);
        }
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("damaged.toml");
        std::fs::write(&path, &text).expect("space for it");
        match config::load(&path, &environment) {
            Ok(loaded) => {
                let _ = (config::show(&loaded, false), config::show(&loaded, true));
            }
            Err(mistakes) => {
                let _ = (mistakes.render_human(true), mistakes.to_json(), mistakes.summary());
            }
        }
    }
}
