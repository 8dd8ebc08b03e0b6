//! `evenkeel healthcheck`: for containers that have neither shell nor `curl`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};

use super::client::{self, Target};

/// Docker gives a check 30 seconds by default; a proxy that takes so long is not well.
const LIMIT: Duration = Duration::from_secs(5);

/// Ask the running proxy whether it is ready
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub client: client::Options,
}

/// 0 when it is ready, else 1.
pub fn run(args: &Args, config: &Path) -> ExitCode {
    let answer = Target::find(config, &args.client)
        .and_then(|target| target.call(Method::GET, "/readyz", None, LIMIT));
    match answer {
        Ok(answer) if answer.status == StatusCode::OK => {
            anstream::println!("ready");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            anstream::eprintln!("evenkeel: not ready: {}", answer.body.trim());
            ExitCode::FAILURE
        }
        Err(error) => {
            client::complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::Readiness;
    use crate::admin::testing::{Process, serve};

    #[test]
    fn only_a_ready_process_is_well() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        for (readiness, well) in [
            (Readiness::Ready, true),
            (Readiness::Starting, false),
            (Readiness::Draining, false),
        ] {
            let process = Arc::new(Process {
                readiness,
                ..Process::default()
            });
            let address = runtime.block_on(async { serve(&process) });
            let client = client::Options {
                admin: Some(address.to_string()),
            };
            let code = run(&Args { client }, Path::new("/nonexistent/evenkeel.toml"));
            assert_eq!(code == ExitCode::SUCCESS, well, "{readiness:?}");
        }
    }
}
