//! The new process' side.

use std::io;
use std::os::unix::net::UnixStream;

use socket2::Socket;
use tokio::time::timeout;

use super::link::{FromNew, FromOld, Link, Passed};
use super::{ACCEPTING, HELLO, PROTOCOL, READY};
use crate::app::activation::bound;
use crate::config::model::BindAddress;
use crate::listener::inherited::{Handed, Purpose};
use crate::telemetry::events;
use crate::upstream::carried::Carried;

/// A process that takes over.
#[derive(Debug)]
pub(in crate::app) struct Succession {
    link: Link,
    /// Of the old process.
    pid: u32,
    version: String,
}

/// The old process went away, or makes no sense: nobody is served by us, so nothing is lost.
#[derive(Debug, thiserror::Error)]
#[error("the process to replace has not handed over")]
pub struct SuccessionError(#[from] io::Error);

impl Succession {
    /// Takes the sockets.
    pub async fn begin(stream: UnixStream) -> Result<(Self, Vec<Handed>), SuccessionError> {
        let mut link = Link::new(stream)?;
        let hello = FromNew::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        link.say(&hello).await?;
        let (pid, version, passed) = within(HELLO, async {
            loop {
                if let FromOld::Sockets {
                    version,
                    pid,
                    sockets,
                } = link.hear().await?
                {
                    return Ok((pid, version, sockets));
                }
            }
        })
        .await?;
        let descriptors = within(HELLO, link.receive(passed.len())).await?;
        let sockets = descriptors.into_iter().map(Socket::from);
        let handed: Vec<_> = passed.into_iter().zip(sockets).map(handed).collect();
        Ok((Succession { link, pid, version }, handed))
    }

    /// Says so in the log, once there is one.
    pub fn announce(&self) {
        events::taking_over(self.pid, &self.version);
    }

    /// Everything is built: returns when it is our turn to accept, with what the old process knows
    /// of the upstreams.
    pub async fn ready(&mut self) -> Result<Carried, SuccessionError> {
        self.link.say(&FromNew::Ready).await?;
        let state = within(READY, async {
            let mut told = None;
            loop {
                match self.link.hear().await? {
                    FromOld::State { state } => told = Some(state),
                    FromOld::Begin => return Ok(told),
                    _ => {}
                }
            }
        })
        .await?;
        let Some(state) = state else {
            events::nothing_carried(&"the old process says nothing of it");
            return Ok(Carried::default());
        };
        Ok(match Carried::read(state) {
            Ok(carried) => {
                events::carried(carried.overrides(), carried.servers(), carried.names());
                carried
            }
            Err(error) => {
                events::nothing_carried(&error);
                Carried::default()
            }
        })
    }

    /// We accept on the sockets `adopted`. Returns when the old process has told everybody who must
    /// know, or is gone: nothing depends on it any more.
    pub async fn accepting(mut self, adopted: Vec<usize>) {
        let told = async {
            self.link.say(&FromNew::Accepting { adopted }).await?;
            while !matches!(self.link.hear().await?, FromOld::Yours) {}
            Ok(())
        };
        if let Err(error) = within(ACCEPTING, told).await {
            tracing::warn!(%error, "upgrade: the old process has gone without a word");
        }
    }

    /// Nothing comes of it. Blocks for no longer than it takes to write a line.
    pub async fn failed(mut self, reason: String) {
        // The old process sees us end in any case.
        let _ = within(HELLO, self.link.say(&FromNew::Failed { reason })).await;
    }
}

async fn within<T>(
    limit: std::time::Duration,
    what: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(limit, what)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What a later version writes differently is found by where it is bound.
fn handed((passed, socket): (Passed, Socket)) -> Handed {
    let purpose = match passed.admin {
        true => Purpose::Admin,
        false => Purpose::Listener,
    };
    let configured = address(&passed.configured);
    let bound = bound(&socket)
        .or_else(|| address(&passed.bound))
        .unwrap_or(BindAddress::Unix(std::path::Path::new("@").into()));
    Handed {
        name: Some(passed.name),
        configured: Some((purpose, configured.unwrap_or_else(|| bound.clone()))),
        bound,
        file: passed.file,
        socket,
    }
}

fn address(text: &str) -> Option<BindAddress> {
    match text.strip_prefix("unix:") {
        Some(path) => Some(BindAddress::Unix(std::path::Path::new(path).into())),
        None => text.parse().ok().map(BindAddress::Tcp),
    }
}
