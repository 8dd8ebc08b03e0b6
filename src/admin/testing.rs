//! A process that is not there, and a client that says anything.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::model::{BindAddress, Secret};
use crate::upstream::view::{OverriddenView, UpstreamView};
use crate::upstream::{Override, OverrideError};

/// Records what it is asked to do.
#[derive(Debug)]
pub struct Process {
    pub settings: Settings,
    pub readiness: Readiness,
    pub broken_file: bool,
    pub asked: Mutex<Vec<String>>,
}

impl Default for Process {
    fn default() -> Self {
        Process {
            settings: Settings::default(),
            readiness: Readiness::Ready,
            broken_file: false,
            asked: Mutex::default(),
        }
    }
}

impl Process {
    pub fn with_token(token: &str) -> Self {
        let settings = Settings {
            token: Some(Secret(token.into())),
            hosts: Arc::from([]),
        };
        Process {
            settings,
            ..Process::default()
        }
    }

    fn note(&self, what: String) {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Control for Process {
    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn readiness(&self) -> Readiness {
        self.readiness
    }

    fn metrics(&self) -> String {
        "# TYPE x gauge\nx 1\n".into()
    }

    fn status(&self) -> Status {
        Status {
            version: "0",
            pid: 1,
            state: self.readiness,
            generation: 3,
            uptime_seconds: 5,
            workers: 2,
            tasks: Tasks {
                control: 3,
                workers: vec![2, 2],
            },
            connections: 1,
            max_connections: 1000,
            shedding: false,
            config_file: "evenkeel.toml".into(),
            last_reload: LastReload {
                successful: true,
                time: String::new(),
                mistakes: None,
            },
            listeners: Vec::new(),
            routes: Vec::new(),
        }
    }

    fn upstreams(&self) -> Vec<UpstreamView> {
        Vec::new()
    }

    fn configuration(&self) -> String {
        "token = \"***\"\n".into()
    }

    fn reload(&self) -> Future<Result<Reloaded, Rejected>> {
        self.note("reload".into());
        let answer = if self.broken_file {
            let mistakes = serde_json::json!([{"code": "unknown-key"}]);
            Err(Rejected {
                text: "error: unknown key `wieght`\n".into(),
                mistakes,
            })
        } else {
            let changes = vec!["upstream users: 10.0.0.1:9000 weight 1 -> 3".into()];
            Ok(Reloaded {
                generation: 4,
                changes,
                warnings: Vec::new(),
            })
        };
        Box::pin(std::future::ready(answer))
    }

    fn explain(&self, request: ExplainRequest) -> Result<serde_json::Value, String> {
        if request.url.is_empty() {
            return Err("an empty URL goes nowhere".into());
        }
        Ok(serde_json::json!({ "route": request.url }))
    }

    fn set_override(
        &self,
        upstream: &str,
        server: &str,
        change: Override,
    ) -> Result<OverriddenView, OverrideError> {
        self.note(format!(
            "{upstream} {server} {:?} {:?}",
            change.weight, change.drain
        ));
        Err(OverrideError::NoServer)
    }

    fn clear_override(
        &self,
        upstream: &str,
        server: &str,
    ) -> Result<OverriddenView, OverrideError> {
        self.note(format!("{upstream} {server} cleared"));
        Err(OverrideError::NoServer)
    }
}

/// Serves `process` on a free port of loopback.
pub fn serve(process: &Arc<Process>) -> SocketAddr {
    let address = BindAddress::Tcp(([127, 0, 0, 1], 0).into());
    let bound = bind(&address).expect("a free port");
    let local = bound.local_addr().expect("a TCP address");
    // For as long as the process of the tests.
    let (stay, leaving) = tokio::sync::watch::channel(false);
    std::mem::forget(stay);
    tokio::spawn(Arc::new(bound).serve(process.clone(), leaving));
    local
}

/// What comes back for `bytes`, until the end of the connection.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.expect("the listener reads");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .await
        .expect("the listener answers");
    String::from_utf8_lossy(&answer).into_owned()
}

/// One request with `Connection: close`; status and everything.
pub async fn ask(address: SocketAddr, line: &str, fields: &str, body: &str) -> (u16, String) {
    let stream = TcpStream::connect(address)
        .await
        .expect("the listener accepts");
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{fields}\r\n{body}"
    );
    let answer = exchange(stream, head.as_bytes()).await;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    (status.expect("a status line"), answer)
}
