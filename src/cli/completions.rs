//! `evenkeel completions`: shell completions on stdout.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    pub shell: Shell,
}

pub fn run(args: &Args) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "evenkeel",
        &mut script,
    );
    // A reader that has gone (`| head`) is no mistake.
    let _ = std::io::stdout().write_all(&script);
    ExitCode::SUCCESS
}
