//! What `docker/` says exists: commands of the image, arguments of the compose file, a valid file.
//! (No container engine is needed, nor asked for.)

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

fn evenkeel(arguments: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .expect("runs")
}

/// What stands in JSON brackets after `key`, wherever it occurs.
fn lists(text: &str, key: &str) -> Vec<Vec<String>> {
    let mut lists = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        if let Some((_, rest)) = line.split_once(key)
            && rest.trim_start().starts_with('[')
        {
            lists.push(serde_json::from_str(rest.trim()).expect("is a list of words"));
        }
    }
    lists
}

fn assert_known(mut arguments: Vec<String>) {
    arguments.push("--help".into());
    let output = evenkeel(&arguments);
    assert!(
        output.status.success(),
        "{arguments:?} is no command: {output:?}"
    );
}

#[test]
fn the_commands_of_the_image_exist() {
    let dockerfile = fs::read_to_string(folder().join("Dockerfile")).expect("is there");
    assert_eq!(lists(&dockerfile, "ENTRYPOINT"), [["/evenkeel"]]);
    let commands = lists(&dockerfile, "CMD");
    assert_eq!(commands.len(), 2, "the health check's and the image's own");
    for mut command in commands {
        command.retain(|word| word != "/evenkeel");
        assert_known(command);
    }
}

#[test]
fn the_commands_of_the_compose_file_exist() {
    let compose = fs::read_to_string(folder().join("compose.yaml")).expect("is there");
    let commands = lists(&compose, "command:");
    assert_eq!(commands.len(), 2, "one for each origin");
    for command in commands {
        assert_known(command);
    }
}

#[test]
fn the_mounted_file_is_valid() {
    let file = folder().join("evenkeel.toml").display().to_string();
    let output = evenkeel(&["check".into(), "-c".into(), file]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
