//! `evenkeel version`: what this binary is.

use std::io::Write;
use std::process::ExitCode;

/// Print the version
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also how it was built and what this machine offers it
    #[arg(short, long)]
    pub verbose: bool,
}

pub fn run(args: &Args) -> ExitCode {
    let mut text = format!("evenkeel {}\n", env!("CARGO_PKG_VERSION"));
    if args.verbose {
        text.push_str(&details());
    }
    // A reader that has gone (`| head`) is no mistake.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn details() -> String {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let descriptors =
        match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
            Ok((soft, hard)) => format!("{soft}, raised to {hard} by `run`"),
            Err(error) => format!("unknown ({error})"),
        };
    format!(
        "profile: {profile}\n\
         target: {}-{}\n\
         rust: {} or later\n\
         protocols: HTTP/1.0, HTTP/1.1, HTTP/2\n\
         tls: not yet\n\
         workers by default: {cores}\n\
         descriptors: {descriptors}\n",
        std::env::consts::ARCH,
        std::env::consts::OS,
        env!("CARGO_PKG_RUST_VERSION"),
    )
}
