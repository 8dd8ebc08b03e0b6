//! `evenkeel reload`: asks the running proxy to take its file.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};

use super::client::{self, Target};
use crate::admin::{Rejected, Reloaded};

/// Reading, checking and building take their time on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Ask the running proxy to reload its file; prints what changed, or the mistakes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub client: client::Options,
}

/// 0 when the file is in use, 4 when it was refused, 1 when nobody could be asked.
pub fn run(args: &Args, config: &Path) -> ExitCode {
    let answer = Target::find(config, &args.client)
        .and_then(|target| target.call(Method::POST, "/reload", None, LIMIT));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            client::complain(&error);
            return ExitCode::FAILURE;
        }
    };
    match answer.status {
        StatusCode::OK => {
            match serde_json::from_str(&answer.body) {
                Ok(reloaded) => anstream::print!("{}", accepted(&reloaded)),
                Err(_) => anstream::print!("{}", answer.body),
            }
            ExitCode::SUCCESS
        }
        StatusCode::UNPROCESSABLE_ENTITY => {
            match serde_json::from_str::<Rejected>(&answer.body) {
                Ok(rejected) => anstream::eprint!("{}", rejected.text),
                Err(_) => anstream::eprint!("{}", answer.body),
            }
            anstream::eprintln!("evenkeel: refused; the configuration in use stays");
            ExitCode::from(4)
        }
        _ => {
            anstream::eprintln!("evenkeel: {}", answer.error());
            ExitCode::from(4)
        }
    }
}

fn accepted(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for warning in &reloaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for change in &reloaded.changes {
        text.push_str(&format!("{change}\n"));
    }
    if reloaded.changes.is_empty() {
        text.push_str("nothing changed\n");
    }
    text.push_str(&format!("generation {} is in use\n", reloaded.generation));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::testing::{Process, serve};

    /// The exit code, against a process that is served on a runtime of its own.
    fn against(process: Process) -> ExitCode {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let address = runtime.block_on(async { serve(&Arc::new(process)) });
        let client = client::Options {
            admin: Some(address.to_string()),
        };
        run(&Args { client }, Path::new("/nonexistent/evenkeel.toml"))
    }

    #[test]
    fn the_exit_code_says_what_became_of_it() {
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(format!("{:?}", against(Process::default())), code(0));
        let broken = Process {
            broken_file: true,
            ..Process::default()
        };
        assert_eq!(format!("{:?}", against(broken)), code(4));
        assert_eq!(format!("{:?}", against(Process::with_token("t"))), code(4));
        let nobody = client::Options {
            admin: Some("unix:/nonexistent".into()),
        };
        let unreached = run(&Args { client: nobody }, Path::new("/nonexistent"));
        assert_eq!(format!("{unreached:?}"), code(1));
    }

    #[test]
    fn changes_are_printed_with_the_generation() {
        let mut reloaded = Reloaded {
            generation: 7,
            changes: Vec::new(),
            warnings: Vec::new(),
        };
        assert_eq!(
            accepted(&reloaded),
            "nothing changed\ngeneration 7 is in use\n"
        );
        reloaded.changes = vec!["upstream a: added".into()];
        reloaded.warnings = vec!["a route can never match".into()];
        assert_eq!(
            accepted(&reloaded),
            "warning: a route can never match\nupstream a: added\ngeneration 7 is in use\n"
        );
    }
}
