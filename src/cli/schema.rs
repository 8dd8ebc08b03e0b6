//! `evenkeel schema`: the JSON Schema of the configuration file.

use std::io::Write;
use std::process::ExitCode;

/// Print the JSON Schema of the configuration file, for editors.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{:#}", crate::config::schema());
    ExitCode::SUCCESS
}
