//! A new connection for an attempt, and whose fault it is when there is none.

use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::attempt::Failed;
use crate::proxy::error::Failure;
use crate::proxy::exchange::Journey;
use crate::proxy::retry::Cause;
use crate::proxy::transaction::Transaction;
use crate::telemetry::{ConnectResult, Outcome, Reason};
use crate::upstream::connector::{self, ConnectError};
use crate::upstream::{FailureKind, Lease, Server};
use crate::util::clock;
use crate::wire::client::Connection;
use crate::wire::io::Socket;

impl Transaction {
    /// A new connection to the leased server, within `timeout.connect`.
    pub(super) async fn dial(
        &mut self,
        journey: &Journey<'_>,
        lease: &mut Lease,
        started: Instant,
    ) -> Result<Connection, Failed> {
        let server = lease.server().clone();
        let connecting = self.connecting(&server, journey.route.rules.timeout.connect);
        let connected = match self.within(connecting).await {
            Ok(connected) => connected,
            Err(failure) => {
                // A server that answers no dial must not hide behind a short total time.
                if failure.reason == Reason::TotalTimeout {
                    let now = clock::now();
                    lease.failure(now, now - started, FailureKind::Timeout);
                }
                return Err(self.given_up(lease.server(), failure, started));
            }
        };
        let result = connected.as_ref().err();
        server
            .metrics()
            .connected(result.map_or(ConnectResult::Ok, ConnectError::result));
        match connected {
            Ok(socket) => {
                self.account.connected(clock::now() - started);
                Ok(Connection::http1(socket))
            }
            Err(ConnectError::Exhausted(error)) => {
                tracing::debug!(%error, "nothing left to connect to a server with");
                let failure = Failure::new(Reason::Overloaded).retry_after(1);
                Err(self.given_up(&server, failure, started))
            }
            Err(error) => {
                tracing::debug!(server = %server.label(), %error, "connect failed");
                let now = clock::now();
                lease.failure(now, now - started, FailureKind::Connect);
                let failure = Failure::new(connect_reason(&error));
                self.attempt_ended(&server, Outcome::Failed(failure.reason), started);
                Err(Failed {
                    cause: Some(Cause::Connect),
                    failure,
                    written: false,
                    next: None,
                })
            }
        }
    }

    /// Connects; out of descriptors, once more after closing what this worker keeps idle.
    fn connecting(
        &self,
        server: &Server,
        limit: Option<Duration>,
    ) -> impl Future<Output = Result<Socket, ConnectError>> + use<> {
        let target = server.target();
        let mut deadline = limit.map(|limit| self.account.context.timers.after(limit));
        let expired = std::future::poll_fn(move |cx| match &mut deadline {
            Some(deadline) => deadline.poll_expired(cx),
            None => std::task::Poll::Pending,
        });
        let pools = self.account.context.pools.clone();
        async move {
            let mut expired = std::pin::pin!(expired);
            match connector::connect(&target, None, expired.as_mut()).await {
                Err(ConnectError::Exhausted(_)) => {
                    // Idle connections are what we can give up at once.
                    pools.close_idle();
                    connector::connect(&target, None, expired).await
                }
                connected => connected,
            }
        }
    }
}

fn connect_reason(error: &ConnectError) -> Reason {
    match error {
        ConnectError::Timeout => Reason::ConnectTimeout,
        ConnectError::Exhausted(_) => Reason::Overloaded,
        ConnectError::Refused
        | ConnectError::Unreachable(_)
        | ConnectError::Resolve(_)
        | ConnectError::Other(_) => Reason::ConnectRefused,
    }
}
