//! A new connection for an attempt, and whose fault it is when there is none.
//!
//! A server that is gone without a word answers no dial: whoever waits for one is sent elsewhere
//! when active checks take it out, as those are who wait for an answer's head.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::{Protocol, ProxyProtocol};
use crate::proxy::attempt::{Failed, Held};
use crate::proxy::error::Failure;
use crate::proxy::exchange::Journey;
use crate::proxy::head_wait;
use crate::proxy::retry::Cause;
use crate::proxy::selection::Selected;
use crate::proxy::transaction::Transaction;
use crate::telemetry::{ConnectResult, Outcome, Reason};
use crate::upstream::connector::{self, ConnectError, Connected};
use crate::upstream::pool::{Acquired, Outcome as Dialled};
use crate::upstream::{FailureKind, Lease, Server};
use crate::util::clock;
use crate::util::timer::Deadline;
use crate::wire::client::{Connection, HandshakeError};
use crate::wire::io::Socket;

/// Why a dial was not waited for any longer.
enum Stopped {
    /// The client left, or its time was over.
    Interrupted(Failure),
    /// Active checks took the server out, and there is another one to go to.
    TakenOut(Box<Selected>),
}

impl Transaction {
    /// A connection to the leased server within `timeout.connect`: a new one, or a place on one that
    /// another request is opening.
    pub(super) async fn dial(
        &mut self,
        journey: &Journey<'_>,
        held: &mut Held,
        started: Instant,
    ) -> Result<Connection, Failed> {
        let limit = journey.to.rules.timeout.connect;
        let mut deadline = limit.map(|limit| self.account.context.timers.after(limit));
        let mut watched = journey.upstream.config().health.is_some();
        while let Some(wait) = held.claim.waits() {
            let mut dialled = poll_fn(|cx| match wait.poll(cx) {
                Poll::Ready(dialled) => Poll::Ready(dialled),
                Poll::Pending => {
                    poll_deadline(&mut deadline, cx).map(|()| Dialled::Failed(timed_out()))
                }
            });
            let waiting = Pin::new(&mut dialled);
            match self
                .watching(journey, &held.lease, &mut watched, waiting)
                .await
            {
                Ok(Dialled::Over) => {}
                Ok(Dialled::Failed(error)) => {
                    return Err(self.connect_failed(&mut held.lease, &error, started));
                }
                Err(stopped) => return Err(self.stopped(&mut held.lease, stopped, started)),
            }
            let pools = self.account.context.pools.clone();
            match pools.acquire(held.lease.server().connections(), None) {
                Acquired::Kept(connection, claim) => {
                    held.claim = claim;
                    self.account.connected(clock::now() - started);
                    return Ok(connection);
                }
                Acquired::Dial(claim) => held.claim = claim,
                Acquired::Full => return Err(self.no_room(&held.lease, started)),
            }
        }
        let server = held.lease.server().clone();
        let connecting = pin!(self.connecting(&server, held.introduction, deadline));
        let connected = match self
            .watching(journey, &held.lease, &mut watched, connecting)
            .await
        {
            Ok(connected) => connected.map_err(Arc::new),
            Err(stopped) => return Err(self.stopped(&mut held.lease, stopped, started)),
        };
        let result = connected.as_ref().err();
        server
            .metrics()
            .connected(result.map_or(ConnectResult::Ok, |error| error.result()));
        match connected {
            Ok(connection) => {
                self.account.connected(clock::now() - started);
                Ok(held.claim.opened(connection))
            }
            Err(error) => {
                held.claim.failed(&error);
                Err(self.connect_failed(&mut held.lease, &error, started))
            }
        }
    }

    /// Waits for `work` while the client is there, the total time runs and checks leave the server
    /// in; taken out, it goes on as long as there is no other one to go to, and is `watched` no more.
    async fn watching<T>(
        &mut self,
        journey: &Journey<'_>,
        lease: &Lease,
        watched: &mut bool,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Stopped> {
        loop {
            let polled = poll_fn(|cx| {
                if let Poll::Ready(done) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(Some(done)));
                }
                if let Poll::Ready(failure) = self.poll_interrupted(cx) {
                    return Poll::Ready(Err(Stopped::Interrupted(failure)));
                }
                if *watched && self.poll_taken_out(lease, cx).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending
            });
            if let Some(done) = polled.await? {
                return Ok(done);
            }
            // Nothing was sent, so that it may go elsewhere whatever it is.
            if let Some(next) = self.elsewhere(journey, Cause::Connect, false) {
                return Err(Stopped::TakenOut(Box::new(next)));
            }
            *watched = false;
        }
    }

    fn poll_taken_out(&self, lease: &Lease, cx: &mut TaskContext<'_>) -> Poll<()> {
        if lease.taken_out() {
            return Poll::Ready(());
        }
        let next = clock::now() + head_wait::CHECK;
        self.patience.wake_at(next, Some(head_wait::CHECK), cx);
        Poll::Pending
    }

    /// No connection, and not because the dial failed.
    fn stopped(&mut self, lease: &mut Lease, stopped: Stopped, started: Instant) -> Failed {
        let next = match stopped {
            Stopped::Interrupted(failure) => {
                // A server that answers no dial must not hide behind a short total time.
                if failure.reason == Reason::TotalTimeout {
                    let now = clock::now();
                    lease.failure(now, now - started, FailureKind::Timeout);
                }
                return self.given_up(lease.server(), failure, started);
            }
            Stopped::TakenOut(next) => next,
        };
        let failure = Failure::new(Reason::ConnectTimeout);
        Failed {
            cause: Some(Cause::Connect),
            written: false,
            next: Some(next),
            ..self.given_up(lease.server(), failure, started)
        }
    }

    /// At `max-connections` by now: another server may have room.
    pub(super) fn no_room(&mut self, lease: &Lease, started: Instant) -> Failed {
        let failure = Failure::new(Reason::Overloaded).retry_after(1);
        Failed {
            cause: Some(Cause::Connect),
            written: false,
            no_room: true,
            ..self.given_up(lease.server(), failure, started)
        }
    }

    fn connect_failed(
        &mut self,
        lease: &mut Lease,
        error: &ConnectError,
        started: Instant,
    ) -> Failed {
        if let ConnectError::Exhausted(error) = error {
            tracing::debug!(%error, "nothing left to connect to a server with");
            let failure = Failure::new(Reason::Overloaded).retry_after(1);
            return self.given_up(lease.server(), failure, started);
        }
        tracing::debug!(server = %lease.server().label(), %error, "connect failed");
        // That it has no address says nothing about a server: no breaker hears of it.
        if !matches!(error, ConnectError::Resolve(_)) {
            let now = clock::now();
            lease.failure(now, now - started, FailureKind::Connect);
        }
        let failure = connect_failure(error);
        self.attempt_ended(lease.server(), Outcome::Failed(failure.reason), started);
        Failed {
            cause: Some(Cause::Connect),
            failure,
            written: false,
            no_room: false,
            next: None,
        }
    }

    /// Connects; out of descriptors, again after closing what is kept idle, and for a moment
    /// whenever a client has gone.
    fn connecting(
        &self,
        server: &Server,
        introduction: ProxyProtocol,
        mut deadline: Option<Deadline>,
    ) -> impl Future<Output = Result<Connection, ConnectError>> + use<> {
        let target = server.target();
        let introduction = self.connection.introduce(introduction);
        let protocol = server.connections().protocol();
        let expired = poll_fn(move |cx| poll_deadline(&mut deadline, cx));
        let pools = self.account.context.pools.clone();
        let capacity = self.account.context.capacity.clone();
        async move {
            let mut expired = pin!(expired);
            let connected = match connector::connect(&target, &introduction, expired.as_mut()).await
            {
                Err(ConnectError::Exhausted(_)) => {
                    let until = Instant::now() + EXHAUSTED;
                    loop {
                        // Idle connections are what we can give up.
                        let patience = if pools.spare() { SPARED } else { AGAIN };
                        let again = connector::connect(&target, &introduction, expired.as_mut());
                        let error = match again.await {
                            Err(ConnectError::Exhausted(error)) => error,
                            connected => break connected?,
                        };
                        tokio::select! {
                            biased;
                            // No time is left, but that was not the server's doing.
                            () = expired.as_mut() => return Err(ConnectError::Exhausted(error)),
                            () = capacity.left(patience) => {}
                        }
                        if Instant::now() >= until {
                            return Err(ConnectError::Exhausted(error));
                        }
                    }
                }
                connected => connected?,
            };
            begin(connected, protocol, expired).await
        }
    }
}

/// What is spoken on a connection that is open.
pub(super) async fn begin(
    connected: Connected,
    protocol: Protocol,
    expired: impl Future<Output = ()>,
) -> Result<Connection, ConnectError> {
    let chosen = connected.alpn.as_deref() == Some(b"h2");
    match protocol {
        Protocol::H2 => {}
        Protocol::Auto if chosen => {}
        Protocol::Http1 | Protocol::Auto => {
            return Ok(Connection::http1(connected.socket));
        }
    }
    let secure = matches!(connected.socket, Socket::Tls(_));
    tokio::select! {
        biased;
        begun = Connection::http2(connected.socket, secure) => {
            begun.map_err(ConnectError::Protocol)
        }
        () = expired => Err(ConnectError::Timeout),
    }
}

/// How long a request waits for a descriptor, and until it looks again at the latest.
const EXHAUSTED: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(50);
/// For another worker to close one.
const SPARED: Duration = Duration::from_millis(2);

fn poll_deadline(deadline: &mut Option<Deadline>, cx: &mut std::task::Context<'_>) -> Poll<()> {
    match deadline {
        Some(deadline) => deadline.poll_expired(cx),
        None => Poll::Pending,
    }
}

fn timed_out() -> Arc<ConnectError> {
    Arc::new(ConnectError::Timeout)
}

pub(super) fn connect_failure(error: &ConnectError) -> Failure {
    match error {
        ConnectError::Timeout => Failure::new(Reason::ConnectTimeout),
        ConnectError::Exhausted(_) => Failure::new(Reason::Overloaded),
        ConnectError::Tls(_) => Failure::new(Reason::TlsFailed),
        ConnectError::Resolve(_) => {
            Failure::because(Reason::NoServer, "the name of the server does not resolve")
                .retry_after(1)
        }
        ConnectError::Refused | ConnectError::Unreachable(_) | ConnectError::Other(_) => {
            Failure::new(Reason::ConnectRefused)
        }
        ConnectError::Protocol(HandshakeError::Closed) => Failure::new(Reason::UpstreamReset),
        ConnectError::Protocol(HandshakeError::Protocol) => {
            Failure::because(Reason::BadResponse, "the server does not speak HTTP/2")
        }
    }
}
