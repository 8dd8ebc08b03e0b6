//! A whole proxy in this process, on port 0, with its file in a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use evenkeel::app::{Options, Running, StartError, Stop};
use evenkeel::config::model::BindAddress;
use tempfile::TempDir;

use super::{Client, Response, eventually};

/// Gone when dropped.
pub struct Proxy {
    running: Option<Running>,
    directory: TempDir,
    listeners: Vec<(String, SocketAddr)>,
    admin: Option<SocketAddr>,
}

/// One listener on port 0, and whatever else is needed.
const LISTENER: &str = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";

impl Proxy {
    /// Starts with `config` and what it leaves out: a listener on port 0, the admin listener on
    /// port 0, two workers.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        match Self::try_start(config) {
            Ok(proxy) => proxy,
            Err(StartError::Config(mistakes)) => panic!("{}", mistakes.render_human(false)),
            Err(error) => panic!("the proxy starts: {error:?}"),
        }
    }

    pub fn try_start(config: &str) -> Result<Self, StartError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::start_in(directory, config)
    }

    /// The same, and names are asked for at `resolver`.
    #[track_caller]
    pub fn start_resolving(resolver: SocketAddr, config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = move |name: &str| match name {
            "EVENKEEL_RESOLVER" => Some(resolver.to_string()),
            name => std::env::var(name).ok(),
        };
        let started = Self::start_by(directory, config, |options| {
            options.environment = Arc::new(own);
        });
        started.unwrap_or_else(|error| panic!("the proxy starts: {error:?}"))
    }

    /// The same with files that stand in `directory` already.
    pub fn start_in(directory: TempDir, config: &str) -> Result<Self, StartError> {
        Self::start_by(directory, config, |_| {})
    }

    fn start_by(
        directory: TempDir,
        config: &str,
        change: impl FnOnce(&mut Options),
    ) -> Result<Self, StartError> {
        let path = directory.path().join("evenkeel.toml");
        fs::write(&path, complete(config)).expect("the file can be written");
        let mut options = Options::new(&path);
        change(&mut options);
        let running = Running::start(options)?;
        let listeners = running.listeners();
        let listeners = listeners
            .iter()
            .filter_map(|(name, at)| Some((name.to_string(), at.tcp()?)))
            .collect();
        let admin = match running.admin() {
            Some(BindAddress::Tcp(address)) => Some(*address),
            _ => None,
        };
        Ok(Proxy {
            running: Some(running),
            directory,
            listeners,
            admin,
        })
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("not shut down")
    }

    /// Of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.listeners[0].1
    }

    pub fn listener(&self, name: &str) -> SocketAddr {
        let listener = self.listeners.iter().find(|(known, _)| known == name);
        listener
            .unwrap_or_else(|| panic!("no listener {name} at the start"))
            .1
    }

    /// A fresh connection to the first listener.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// One GET on a connection of its own.
    pub fn get(&self, target: &str) -> Response {
        self.client()
            .request("GET", target, "Connection: close\r\n")
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin.expect("the admin listener is on, over TCP")
    }

    /// One call to the admin listener.
    pub fn admin(&self, method: &str, target: &str, body: &str) -> Response {
        let address = self.admin_address();
        let length = body.len();
        let mut client = Client::connect(address);
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        ));
        client.response()
    }

    pub fn status(&self) -> serde_json::Value {
        self.admin("GET", "/status", "").json()
    }

    pub fn metrics(&self) -> String {
        self.running().metrics().encode()
    }

    /// The value of one series, named as it is written: `family{label="value"}`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics();
        let line = metrics.lines().find(|line| {
            line.strip_prefix(series)
                .is_some_and(|rest| rest.starts_with(' '))
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn generation(&self) -> u64 {
        self.running().reload().current().snapshot.generation
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("evenkeel.toml")
    }

    /// Replaces the file as careful programs do: written aside, then renamed.
    pub fn write(&self, config: &str) {
        let aside = self.directory.path().join(".aside");
        fs::write(&aside, complete(config)).expect("the file can be written");
        fs::rename(&aside, self.path()).expect("the file can be replaced");
    }

    /// Replaces a text in the file, which must be there.
    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path()).expect("the file can be read");
        assert!(text.contains(from), "{from:?} stands in the file");
        self.write(&text.replace(from, to));
    }

    /// `POST /reload`: the answer comes when the file is in use, or refused.
    pub fn reload(&self) -> Response {
        self.admin("POST", "/reload", "")
    }

    /// Replaces the file and reloads; it must be accepted.
    #[track_caller]
    pub fn reconfigure(&self, config: &str) {
        self.write(config);
        let answer = self.reload();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Waits until the watched file is in use as generation `generation`.
    #[track_caller]
    pub fn wait_for_generation(&self, generation: u64) {
        eventually("the change is in use", || self.generation() >= generation);
    }

    /// Begins a graceful stop.
    pub fn drain(&self) {
        self.running().shut_down(Stop::Graceful("test"));
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> Duration {
        let start = std::time::Instant::now();
        self.running.take().expect("not shut down").wait();
        start.elapsed()
    }
}

/// What a test does not care about.
pub fn complete(config: &str) -> String {
    let mut config = config.to_owned();
    config.push('\n');
    for (table, text) in [
        ("[[listener]]", LISTENER),
        ("[admin]", "[admin]\naddress = \"127.0.0.1:0\"\n"),
        ("[process]", "[process]\nworkers = 2\n"),
    ] {
        if !config.contains(table) {
            config.push_str(text);
        }
    }
    config
}
