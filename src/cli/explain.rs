//! `evenkeel explain`: which way a request would go, and why no other.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::{Method, StatusCode};

use super::client::{self, Target};
use crate::admin::ExplainRequest;
use crate::admin::explain::{Explanation, explain};
use crate::telemetry::Metrics;
use crate::upstream::Registry;
use crate::{config, snapshot};

const LIMIT: Duration = Duration::from_secs(10);

/// Show which listener, route, upstream and servers a request would meet, and why no others
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GET, POST, ...
    pub method: String,
    /// http://host:port/path?query (the port chooses the listener), or a path alone
    pub url: String,
    /// A header of the request, as `curl -H` takes it; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Where it comes from: what `allow`, `deny`, limits and hashing by address go by, unless that is
    /// a trusted proxy and a header says for whom it asks [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Ask the running proxy: health, breakers and weights as they are now
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub client: client::Options,
}

/// 0 when a route takes the request, 1 when none does.
pub fn run(args: Args, config: &Path) -> ExitCode {
    let Args {
        method,
        url,
        headers,
        from,
        live,
        client,
    } = args;
    let request = ExplainRequest {
        method,
        url,
        headers,
        from,
    };
    let explained = if live {
        ask(&request, config, &client)
    } else {
        offline(&request, config)
    };
    match explained {
        Ok(explanation) => {
            anstream::print!("{}", explanation.render());
            if explanation.is_routed() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(code) => code,
    }
}

fn offline(request: &ExplainRequest, config: &Path) -> Result<Explanation, ExitCode> {
    let env = |name: &str| std::env::var(name).ok();
    let loaded = config::load(config, &env).map_err(|mistakes| {
        anstream::eprint!("{}", mistakes.render_human(true));
        ExitCode::FAILURE
    })?;
    let metrics = Metrics::new(1);
    let registry = Registry::new(&metrics);
    let snapshot = snapshot::build(loaded.config, None, &registry, &metrics);
    explain(&snapshot, request).map_err(usage)
}

fn ask(
    request: &ExplainRequest,
    config: &Path,
    options: &client::Options,
) -> Result<Explanation, ExitCode> {
    let question = serde_json::to_value(request).unwrap_or_default();
    let answer = Target::find(config, options)
        .and_then(|target| target.call(Method::POST, "/explain", Some(&question), LIMIT))
        .map_err(|error| {
            client::complain(&error);
            ExitCode::FAILURE
        })?;
    if answer.status != StatusCode::OK {
        return Err(usage(answer.error()));
    }
    serde_json::from_str(&answer.body)
        .map_err(|error| usage(format!("the answer cannot be read: {error}")))
}

fn usage(mistake: String) -> ExitCode {
    anstream::eprintln!("evenkeel: {mistake}");
    ExitCode::from(2)
}
