//! Events to standard error, by way of a [`sink`] that nobody waits for.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use crate::config::model::{self, LogFormat};
use crate::telemetry::sink;

pub use crate::telemetry::sink::flush;

/// What libraries say at these levels and below is about themselves; who wants it names them. `h2`
/// warns of each client that resets its requests, without end while one attacks: that is counted.
const QUIET: &str =
    "hyper=warn,hickory_proto=warn,hickory_resolver=warn,notify=warn,mio=warn,h2=error";

/// Changes the level while running.
#[derive(Debug, Clone)]
pub struct Logging(reload::Handle<EnvFilter, Registry>);

/// Sets up events for the whole process; to be called once, before anything logs. A second call
/// leaves the first in force.
pub fn init(config: &model::Log) -> Logging {
    let filter = filter(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    sink::start();
    let output = fmt::layer().with_writer(|| sink::Entrance);
    let result = match config.format {
        LogFormat::Json => registry.with(output.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            // Where in our source an event stands says nothing to who reads it.
            let output = output.with_target(false).with_ansi(colour());
            registry.with(output).try_init()
        }
    };
    if result.is_err() {
        tracing::debug!("events were set up already");
    }
    Logging(handle)
}

impl Logging {
    /// Takes over the level of `config`; the format stays until a restart.
    pub fn apply(&self, config: &model::Log) {
        let result = match filter(&config.level) {
            Ok(filter) => self.0.reload(filter).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = result {
            tracing::error!(level = config.level, error, "the log level stays as it was");
        }
    }
}

fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    // Of two directives for one target the later one counts.
    EnvFilter::try_new(format!("{QUIET},{level}"))
}

/// <https://no-color.org>
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_named() {
        let shown = filter("debug").expect("a level").to_string();
        assert!(
            shown.contains("hyper=warn") && shown.contains("debug"),
            "{shown}"
        );
        assert!(shown.contains("h2=error"), "a client could fill the log");
        let shown = filter("info,hyper=trace").expect("directives").to_string();
        assert!(
            shown.contains("hyper=trace") && !shown.contains("hyper=warn"),
            "{shown}"
        );
        assert!(filter("evenkeel=loud").is_err());
    }
}
