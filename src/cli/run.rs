//! `evenkeel run`: in the foreground, until a signal ends it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::app::{Launch, Options, Running, StartError};
use crate::telemetry::logging;

/// Nobody may read standard error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Run in the foreground; events go to stderr
#[derive(Debug, clap::Args)]
pub struct Args {}

/// 0 after a drain, 1 when the configuration is bad, 3 when an address cannot be bound.
pub fn run(_args: Args, config: &Path) -> ExitCode {
    let launch = match Launch::take() {
        Ok(launch) => launch,
        Err(error) => {
            eprintln!("evenkeel: cannot tell how this process was started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        signals: true,
        logging: true,
        launch: Some(launch),
        ..Options::new(config)
    };
    serve(options, |_| {})
}

/// Starts, calls `started` once every listener accepts, and returns when the proxy has ended.
pub(super) fn serve(options: Options, started: impl FnOnce(&Running)) -> ExitCode {
    match Running::start(options) {
        Ok(running) => {
            // What it says next stands behind what was logged.
            logging::flush(PATIENCE);
            started(&running);
            running.wait();
            ExitCode::SUCCESS
        }
        Err(StartError::Stopped(signal)) => {
            eprintln!("evenkeel: stopped by {signal} before it served");
            ExitCode::SUCCESS
        }
        Err(StartError::Config(mistakes)) => {
            anstream::eprint!("{}", mistakes.render_human(true));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("evenkeel: {}", chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
