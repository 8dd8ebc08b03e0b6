//! Who may use whom: reads the `use crate::...` lines of every module.

use std::fs;
use std::path::Path;

/// A module and what it may use, besides itself. `app` and `cli` may use everything. (`admin` uses
/// `proxy`, `message`, `router` and `filter` for `explain`, which rehearses a request and says what
/// came of it; `filter` uses the normal form of paths, and the order and hash of
/// `balance` for shares.)
const ALLOWED: [(&str, &str); 16] = [
    ("util", ""),
    ("message", "util"),
    ("config", "tls util"),
    ("tls", "util"),
    ("balance", "config util"),
    ("router", "message config util"),
    ("telemetry", "message config util"),
    ("filter", "router balance message telemetry config util"),
    ("wire", "message tls telemetry config util"),
    ("upstream", "balance wire message tls telemetry config util"),
    (
        "snapshot",
        "config router filter upstream telemetry tls balance util",
    ),
    (
        "proxy",
        "wire snapshot router filter upstream balance message tls telemetry config util",
    ),
    (
        "listener",
        "proxy wire message snapshot tls telemetry config util",
    ),
    (
        "worker",
        "listener proxy snapshot upstream tls telemetry config util",
    ),
    (
        "reload",
        "config snapshot worker listener upstream tls telemetry util",
    ),
    (
        "admin",
        "reload snapshot upstream router filter proxy message telemetry config util",
    ),
];

#[test]
fn modules_use_only_what_the_design_allows() {
    let mut wrong = Vec::new();
    for (module, allowed) in ALLOWED {
        let allowed: Vec<_> = allowed.split(' ').chain([module]).collect();
        for (file, text) in sources(module) {
            for (number, line) in text.lines().enumerate() {
                for used in line.split("crate::").skip(1) {
                    let used: String = used
                        .chars()
                        .take_while(|c| c.is_alphanumeric() || *c == '_')
                        .collect();
                    let is_module = Path::new("src").join(&used).exists()
                        || Path::new("src").join(format!("{used}.rs")).exists();
                    if is_module && !allowed.contains(&used.as_str()) {
                        wrong.push(format!("{file}:{}: {module} uses {used}", number + 1));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "edges that are not in the table:\n{}",
        wrong.join("\n")
    );
}

/// The text of every file of a module, up to its tests.
fn sources(module: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let single = Path::new("src").join(format!("{module}.rs"));
    if single.exists() {
        files.push(single);
    }
    let mut directories = vec![Path::new("src").join(module)];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("the directory can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("the file can be read");
            let code = text
                .split("#[cfg(test)]")
                .next()
                .unwrap_or_default()
                .to_owned();
            (path.display().to_string(), code)
        })
        .collect()
}
