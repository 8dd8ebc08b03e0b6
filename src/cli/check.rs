//! `evenkeel check`: every mistake of a file at once.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{self, Diagnostics, Loaded};

/// Check the configuration and say everything that is wrong with it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "EVENKEEL_CONFIG",
        default_value = "/etc/evenkeel/evenkeel.toml"
    )]
    pub config: PathBuf,
    /// How to print what is wrong
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Human,
    Json,
}

/// 0 when the file is valid, 1 when it is not.
pub fn run(args: Args) -> ExitCode {
    let loaded = config::load(&args.config, &|name| std::env::var(name).ok());
    let (found, code) = match &loaded {
        Ok(loaded) => (&loaded.warnings, ExitCode::SUCCESS),
        Err(mistakes) => (mistakes, ExitCode::FAILURE),
    };
    match args.format {
        Format::Json => {
            // A closed pipe is the reader's decision, here and below.
            let _ = writeln!(std::io::stdout(), "{:#}", found.to_json());
        }
        Format::Human => {
            if !found.is_empty() {
                print(found);
            }
            if let Ok(loaded) = &loaded {
                let _ = writeln!(std::io::stdout(), "ok: {}", counts(loaded));
            }
        }
    }
    code
}

/// Prints mistakes to stderr, in colour where that is a terminal and `NO_COLOR` does not object.
pub fn print(found: &Diagnostics) {
    let text = found.render_human(std::io::stderr().is_terminal());
    let _ = write!(anstream::stderr(), "{text}");
}

fn counts(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let servers = config
        .upstreams
        .iter()
        .map(|upstream| upstream.servers.len())
        .sum();
    let count = |count: usize, noun| config::diagnostics::plural(count, noun);
    [
        count(config.listeners.len(), "listener"),
        count(config.upstreams.len(), "upstream"),
        count(servers, "server"),
        count(config.routes.len(), "route"),
    ]
    .join(", ")
}
