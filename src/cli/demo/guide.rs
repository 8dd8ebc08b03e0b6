//! What the demo prints: what runs where, and what to try.

use std::fmt;

use crate::cli::demo::Places;
use crate::cli::demo::file::Written;

/// The text, its values filled in by `Display`.
#[derive(Debug)]
pub(super) struct Guide {
    places: Places,
    written: Written,
    /// This program, as it can be called from here.
    program: String,
    traffic: bool,
}

impl Guide {
    pub(super) fn new(places: Places, written: Written, traffic: bool) -> Self {
        Guide {
            places,
            written,
            program: program(),
            traffic,
        }
    }
}

impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Places {
            proxy,
            admin,
            origins,
        } = &self.places;
        let file = self.written.path.display();
        writeln!(f, "\nThe demo runs; Ctrl-C ends it.\n")?;
        place(
            f,
            "Open",
            format_args!("http://{admin}/"),
            "live page: servers, weights, rates",
        )?;
        place(
            f,
            "Proxy",
            format_args!("http://{proxy}/"),
            "every request goes here",
        )?;
        for (index, (name, address)) in origins.iter().enumerate() {
            let title = if index == 0 { "Origins" } else { "" };
            place(f, title, format_args!("http://{address}/"), name)?;
        }
        let remark = self.written.remark.as_deref();
        place(
            f,
            "File",
            format_args!("{file}"),
            remark.unwrap_or("edit it while the demo runs"),
        )?;
        writeln!(f, "\nTry, in another terminal:\n")?;
        for (command, remark) in self.tries() {
            writeln!(f, "  {command:60} # {remark}")?;
        }
        if self.traffic {
            let what = "A client of ours sends a few requests a second, so that the page moves";
            writeln!(f, "\n{what} (--no-traffic: none).")?;
        }
        Ok(())
    }
}

fn place(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    what: fmt::Arguments<'_>,
    remark: &str,
) -> fmt::Result {
    writeln!(f, "  {title:8} {:26} {remark}", what.to_string())
}

impl Guide {
    /// Commands, and what they show.
    fn tries(&self) -> Vec<(String, String)> {
        let Places {
            proxy,
            admin,
            origins,
        } = &self.places;
        let file = self.written.path.display();
        let program = &self.program;
        let mut tries = vec![(
            format!("curl http://{proxy}/hello"),
            "again and again: who answers?".to_owned(),
        )];
        if let Some((name, first)) = origins.first() {
            tries.extend([
                (
                    format!("sed -i '/\"{first}\"/s/= 3/= 1/' {file}"),
                    "or any editor: change a weight, watch the page".to_owned(),
                ),
                (
                    format!("curl -X POST http://{first}/break"),
                    format!("{name} fails; no client notices"),
                ),
                (
                    format!("curl -X POST http://{first}/mend"),
                    format!("{name} comes back, slowly"),
                ),
            ]);
        }
        tries.extend([
            (
                format!("curl 'http://{proxy}/?delay=2s&status=404'"),
                "a slow answer, a failing one".to_owned(),
            ),
            (
                format!("{program} explain GET http://{proxy}/hello -c {file}"),
                "where would it go, and why?".to_owned(),
            ),
            (
                format!("curl http://{admin}/metrics"),
                "what Prometheus scrapes".to_owned(),
            ),
        ]);
        tries
    }
}

/// How this program is called from here: by its name where a search finds it, else by its path,
/// relative where that is shorter.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else {
        return "evenkeel".into();
    };
    let searched = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&searched).any(|directory| path.parent() == Some(&*directory)) {
        return "evenkeel".into();
    }
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(here) {
        Ok(relative) => format!("./{}", relative.display()),
        Err(_) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_page_comes_first_and_everything_is_named() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let guide = Guide {
            places: Places {
                proxy: at(8080),
                admin: at(9900),
                origins: vec![("apple".into(), at(9001)), ("birch".into(), at(9002))],
            },
            written: Written {
                path: "demo.toml".into(),
                remark: None,
            },
            program: "evenkeel".into(),
            traffic: true,
        };
        let text = guide.to_string();
        let first_address = text
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        assert_eq!(first_address, Some("http://127.0.0.1:9900/"));
        for part in [
            "http://127.0.0.1:8080/hello",
            "9001/break",
            "9001/mend",
            "/metrics",
            "--no-traffic",
        ] {
            assert!(text.contains(part), "{part:?} is missing");
        }
    }
}
