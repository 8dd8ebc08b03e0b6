//! `evenkeel check`: every mistake of a file at once.

use std::path::PathBuf;
use std::process::ExitCode;

/// Checks the configuration and says everything that is wrong with it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(
        short,
        long,
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
    let _ = args;
    todo!()
}
