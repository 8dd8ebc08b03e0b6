//! `evenkeel config show`: the configuration with the origin of every value.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::check;
use crate::config;

/// Print the configuration after includes, with the origin of every value and secrets masked
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
    /// Add the defaults that apply
    #[arg(long)]
    pub effective: bool,
}

/// 0, or 1 when the file is not valid.
pub fn run(args: Args) -> ExitCode {
    match config::load(&args.config, &|name| std::env::var(name).ok()) {
        Ok(loaded) => {
            let _ = write!(
                std::io::stdout(),
                "{}",
                config::show(&loaded, args.effective)
            );
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            check::print(&mistakes);
            ExitCode::FAILURE
        }
    }
}
