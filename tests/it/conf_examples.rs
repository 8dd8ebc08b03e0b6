//! The example files: valid, known to the schema, and complete where they say so.

use std::collections::BTreeSet;
use std::path::PathBuf;

use evenkeel::config;
use evenkeel::config::Loaded;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::check::to_json;
use crate::support::tls::Authority;

fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("conf").expect("the folder of examples");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect()
}

/// The examples as they stand, with the certificates that they name beside them.
fn installed() -> (TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    authority
        .issue(&["site.example"])
        .write(directory.path(), "site");
    authority
        .issue(&["*.other.example"])
        .write(directory.path(), "other");
    let ca = directory.path().join("clients.pem");
    std::fs::write(ca, authority.pem()).expect("space for it");
    let copies = examples().into_iter().map(|path| {
        let copy = directory.path().join(path.file_name().expect("a name"));
        std::fs::copy(&path, &copy).expect("space for it");
        copy
    });
    let copies = copies.collect();
    (directory, copies)
}

fn load(path: &std::path::Path) -> Loaded {
    match config::load(path, &|_| None) {
        Ok(loaded) => loaded,
        Err(mistakes) => panic!("{}", mistakes.render_human(false)),
    }
}

fn as_json(path: &std::path::Path) -> Json {
    let text = std::fs::read_to_string(path).expect("an example");
    to_json(&toml::Value::Table(toml::from_str(&text).expect("TOML")))
}

#[test]
fn examples_are_accepted_without_a_warning() {
    assert!(examples().len() >= 3);
    let (_directory, examples) = installed();
    for path in examples {
        let loaded = load(&path);
        let warnings = loaded.warnings.render_human(false);
        assert!(loaded.warnings.is_empty(), "{warnings}");
    }
}

#[test]
fn the_configuration_of_the_readme_is_accepted_without_a_warning() {
    let readme = std::fs::read_to_string("README.md").expect("the first page");
    let blocks = readme.split("```toml\n").skip(1);
    let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 1, "the README has one configuration");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), blocks[0]).expect("it can be written");
    match config::load(file.path(), &|_| None) {
        Ok(loaded) => assert_eq!(loaded.warnings.len(), 0, "no warnings"),
        Err(mistakes) => panic!("{}", mistakes.render_human(false)),
    }
}

#[test]
fn examples_are_valid_by_the_schema() {
    let validator = jsonschema::draft202012::new(&config::schema()).expect("a schema");
    for path in examples() {
        let json = as_json(&path);
        let mistakes: Vec<String> = validator
            .iter_errors(&json)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(mistakes.is_empty(), "{}: {mistakes:?}", path.display());
    }
}

#[test]
fn what_is_effective_of_an_example_is_valid_by_the_schema() {
    let validator = jsonschema::draft202012::new(&config::schema()).expect("a schema");
    let (_directory, examples) = installed();
    for path in examples {
        let loaded = load(&path);
        for effective in [false, true] {
            let shown: toml::Table =
                toml::from_str(&config::show(&loaded, effective)).expect("TOML");
            let json = to_json(&toml::Value::Table(shown));
            let mistakes: Vec<String> = validator
                .iter_errors(&json)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(mistakes.is_empty(), "{}: {mistakes:?}", path.display());
        }
    }
}

/// Paths of the keys that the schema knows, "upstream.*.health.path".
fn known(schema: &Json, path: &str, out: &mut BTreeSet<String>) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        // What [defaults] may have is what upstreams and routes may have.
        if path != ".defaults.upstream" && path != ".defaults.route" {
            known(inner, &path, out);
        }
        out.insert(path);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        known(choice, path, out);
    }
    if schema["items"].is_object() {
        known(&schema["items"], path, out);
    }
    if schema["additionalProperties"].is_object() {
        known(&schema["additionalProperties"], &format!("{path}.*"), out);
    }
}

/// Paths of the keys that a file has; under a table of names every name counts as `*` too.
fn written(value: &Json, path: &str, out: &mut BTreeSet<String>) {
    for inner in value.as_array().into_iter().flatten() {
        written(inner, path, out);
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        for path in [format!("{path}.{key}"), format!("{path}.*")] {
            written(inner, &path, out);
            out.insert(path);
        }
    }
}

#[test]
fn the_everything_file_has_every_key() {
    let (mut known_keys, mut written_keys) = (BTreeSet::new(), BTreeSet::new());
    known(&config::schema(), "", &mut known_keys);
    written(
        &as_json("conf/everything.toml".as_ref()),
        "",
        &mut written_keys,
    );
    let missing: Vec<_> = known_keys.difference(&written_keys).collect();
    assert!(known_keys.len() > 100, "only {} keys", known_keys.len());
    assert!(missing.is_empty(), "conf/everything.toml lacks {missing:?}");
}

/// Values in the everything file are the defaults, where the schema has one.
#[test]
fn the_everything_file_shows_the_defaults() {
    let schema = config::schema();
    let file = as_json("conf/everything.toml".as_ref());
    let mut compared = 0;
    for (section, value) in [
        ("/properties/process", &file["process"]),
        ("/properties/log", &file["log"]),
        ("/properties/listener/items", &file["listener"][0]),
        (
            "/properties/listener/items/properties/limits",
            &file["listener"][0]["limits"],
        ),
        (
            "/properties/upstream/additionalProperties",
            &file["upstream"]["users"],
        ),
    ] {
        let properties = schema
            .pointer(section)
            .and_then(|section| section["properties"].as_object());
        for (key, property) in properties.expect("a table of the schema") {
            if let Some(default) = property.get("default") {
                assert_eq!(&value[key], default, "{section} {key}");
                compared += 1;
            }
        }
    }
    assert!(compared > 15, "only {compared} defaults compared");
}
