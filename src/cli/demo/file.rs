//! The demo's configuration file, and where it goes.
//!
//! A first-time user wants to find it without looking: it goes into the current directory. Nobody
//! loses a file: one of an earlier demo is kept under another name, anything else is left alone
//! and a temporary directory takes ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::demo::Places;

const NAME: &str = "demo.toml";
const KEPT_NAME: &str = "demo.toml.old";
/// The first line of what we write: tells our file from a user's own.
const MARK: &str = "# Written by `evenkeel demo`";

/// What was written, and what there is to say about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) remark: Option<String>,
}

/// Writes the file for these places.
pub(super) fn write(places: &Places) -> io::Result<Written> {
    write_into(Path::new(""), &content(places))
}

fn write_into(directory: &Path, content: &str) -> io::Result<Written> {
    let path = directory.join(NAME);
    let remark = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(existing) if existing == content => None,
        Ok(existing) if existing.starts_with(MARK) => {
            fs::rename(&path, directory.join(KEPT_NAME))?;
            Some(format!("the one of an earlier demo is now {KEPT_NAME}"))
        }
        _ => return elsewhere(content, "a demo.toml here is not ours"),
    };
    match fs::write(&path, content) {
        Ok(()) => Ok(Written { path, remark }),
        Err(_) => elsewhere(content, "this directory is not writable"),
    }
}

fn elsewhere(content: &str, why: &str) -> io::Result<Written> {
    let directory = std::env::temp_dir().join(format!("evenkeel-demo-{}", std::process::id()));
    // Fails where it exists: a directory that somebody else prepared is not ours to write into.
    fs::create_dir(&directory)?;
    let path = directory.join(NAME);
    fs::write(&path, content)?;
    Ok(Written {
        path,
        remark: Some(why.into()),
    })
}

fn content(places: &Places) -> String {
    let servers: String = places
        .origins
        .iter()
        .zip([3, 1, 1])
        .map(|((name, address), weight)| format!("\"{address}\" = {weight}    # {name}\n"))
        .collect();
    format!(
        r#"{MARK}. Edit and save: the running demo takes a change at once.
# A mistake changes nothing; the terminal and the page say what is wrong.

[process]
drain-timeout = "2s"

[admin]
address = "{admin}"

[[listener]]
name    = "web"
address = "{proxy}"

[upstream.shop]
balance    = "smooth-weighted"    # try "least-requests", "peak-ewma", "random"
slow-start = "10s"

[upstream.shop.servers]    # address = weight; 0 sends nothing
{servers}
[upstream.shop.health]
path     = "/healthz"
interval = "2s"
timeout  = "1s"

[upstream.shop.breaker]
open = "5s"

[[route]]
name     = "everything"
prefix   = "/"
upstream = "shop"
"#,
        admin = places.admin,
        proxy = places.proxy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Places {
            proxy: at(8080),
            admin: at(9900),
            origins: vec![("apple".into(), at(9001)), ("birch".into(), at(9002))],
        }
    }

    #[test]
    fn the_file_goes_into_the_directory_and_says_nothing_more() {
        let directory = tempfile::tempdir().expect("can be made");
        let written = write_into(directory.path(), &content(&places())).expect("writes");
        assert_eq!(
            written,
            Written {
                path: directory.path().join(NAME),
                remark: None
            }
        );
    }

    #[test]
    fn a_file_of_an_earlier_demo_is_kept_under_another_name() {
        let directory = tempfile::tempdir().expect("can be made");
        let edited = format!("{}# mine\n", content(&places()));
        fs::write(directory.path().join(NAME), &edited).expect("writes");
        let written = write_into(directory.path(), &content(&places())).expect("writes");
        assert!(written.remark.expect("is told").contains(KEPT_NAME));
        let kept = fs::read_to_string(directory.path().join(KEPT_NAME)).expect("is there");
        assert_eq!(kept, edited);
    }

    #[test]
    fn a_users_own_file_is_left_alone() {
        let directory = tempfile::tempdir().expect("can be made");
        let own = directory.path().join(NAME);
        fs::write(&own, "# precious").expect("writes");
        let written = write_into(directory.path(), &content(&places())).expect("writes");
        assert_ne!(written.path, own);
        assert!(written.remark.is_some());
        assert_eq!(fs::read_to_string(&own).expect("is there"), "# precious");
        let elsewhere = written.path.parent().expect("is in a directory");
        fs::remove_dir_all(elsewhere).expect("is ours to remove");
    }
}
