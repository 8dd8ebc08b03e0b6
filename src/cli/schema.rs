//! `evenkeel schema`: the JSON Schema of the configuration file.

use std::process::ExitCode;

/// Prints the JSON Schema of the configuration file, for editors.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(args: Args) -> ExitCode {
    let _ = args;
    todo!()
}
