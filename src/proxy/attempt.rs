//! One try at one server: a connection, the request out, the response head back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::ServerAddress;
use crate::message::{BodyError, Known, ResponseHead};
use crate::proxy::error::Failure;
use crate::proxy::exchange::Journey;
use crate::proxy::head_wait::{Clock, HeadWait, WaitError};
use crate::proxy::retry::{self, Cause};
use crate::proxy::selection::{Selected, Via};
use crate::proxy::transaction::Transaction;
use crate::telemetry::{Outcome, Reason};
use crate::upstream::pool::Claim;
use crate::upstream::{FailureKind, Lease, Server};
use crate::wire::h1::client::{Answer, Connection, Exchange, ExchangeError};

/// An exchange whose response head has come.
pub(super) struct Answered {
    pub head: ResponseHead,
    pub exchange: Exchange,
    pub lease: Lease,
    pub claim: Claim<Connection>,
    /// 101 with the token that was asked for.
    pub switching: bool,
    /// The connection carries this client's identity already.
    pub bound: bool,
    /// Of the route.
    pub idle: Option<Duration>,
    /// Of the route.
    pub tunnel: Option<Duration>,
}

/// An attempt that gave no response head.
pub(super) struct Failed {
    /// `None`: no retry, whatever the policy.
    pub cause: Option<Cause>,
    pub failure: Failure,
    /// At least one byte of the request was written.
    pub written: bool,
    /// Where to go on, when that was settled before this attempt was ended.
    pub next: Option<Box<Selected>>,
}

/// What a head wait gives: the answer and the exchange it belongs to.
type Waited = Result<(Answer, Exchange), (WaitError, Option<Box<Selected>>)>;

impl Transaction {
    pub(super) async fn attempt(
        &mut self,
        journey: &Journey<'_>,
        selected: Selected,
    ) -> Result<Answered, Failed> {
        let Selected { mut lease, mut via } = selected;
        let started = Instant::now();
        self.account
            .attempt_starts(journey.upstream, lease.server(), started);
        if self.host_missing {
            let label = lease.server().label().clone();
            let host = match lease.server().address() {
                // A path is no host (RFC 9110 section 7.2).
                ServerAddress::Unix(_) => "localhost",
                ServerAddress::Ip(_) | ServerAddress::Name(..) => &*label,
            };
            self.account.head.fields.set(Known::Host, host.as_bytes());
        }
        let bound = matches!(via, Via::Bound(..));
        loop {
            let (connection, claim, kept) = match via {
                Via::Bound(connection, claim) | Via::Kept(connection, claim) => {
                    (connection, claim, true)
                }
                Via::Dial(claim) => {
                    // Boxed, as it is rare: a future is as large as its largest await.
                    let dialled = Box::pin(self.dial(journey, &mut lease, started)).await;
                    let connection = dialled?;
                    (connection, claim, false)
                }
            };
            let exchange = self.start(connection);
            match self.head(journey, exchange, &lease).await {
                Ok((answer, exchange)) => {
                    let (head, switching) = match answer {
                        Answer::Switching(head) => (head, true),
                        Answer::Final(head) | Answer::Interim(head) => (head, false),
                    };
                    self.head_came(&mut lease, head.status, started);
                    let timeout = &journey.route.rules.timeout;
                    return Ok(Answered {
                        head,
                        exchange,
                        lease,
                        claim,
                        switching,
                        bound,
                        idle: timeout.idle,
                        tunnel: timeout.tunnel,
                    });
                }
                Err((WaitError::Exchange(error), _)) if kept && is_stale(&error) => {
                    claim.was_stale();
                    self.resend_or_fail(&lease, &error, started)?;
                    via = Via::Dial(claim);
                }
                Err((error, next)) => return Err(self.failed(&mut lease, error, next, started)),
            }
        }
    }

    fn start(&self, connection: Connection) -> Exchange {
        let upgrade = self.upgrade.as_deref();
        Exchange::start(connection, &self.account.head, &self.downstream, upgrade)
    }

    /// Sends the request and waits for the response head. When checks take the
    /// server out meanwhile, the wait ends only if there is another server to go to.
    async fn head(
        &mut self,
        journey: &Journey<'_>,
        mut exchange: Exchange,
        lease: &Lease,
    ) -> Waited {
        let mut watch = journey.upstream.config().health.is_some();
        let mut clock = Clock::default();
        loop {
            let timeout = &journey.route.rules.timeout;
            let mut wait = HeadWait::new(
                &mut exchange,
                &self.downstream,
                &self.context.timers,
                &mut self.total,
                &mut clock,
            );
            wait.taken_out = watch.then_some(lease);
            wait.idle = timeout.idle;
            wait.first_byte = timeout.first_byte;
            let waited = std::future::poll_fn(|cx| wait.poll(cx)).await;
            self.interim_sent |= wait.interim_sent;
            match waited {
                Ok(answer) => return Ok((answer, exchange)),
                Err(WaitError::TakenOut) => {
                    let written = exchange.bytes_written() > 0;
                    match self.elsewhere(journey, Cause::TakenOut, written) {
                        Some(next) => return Err((WaitError::TakenOut, Some(Box::new(next)))),
                        None => watch = false,
                    }
                }
                Err(error) => {
                    exchange.break_off();
                    return Err(match error {
                        WaitError::Timeout if exchange.awaits_client() => {
                            (WaitError::ClientStalled, None)
                        }
                        error => (error, None),
                    });
                }
            }
        }
    }

    /// After a stale connection: prepares sending again on a new one, or gives up.
    fn resend_or_fail(
        &mut self,
        lease: &Lease,
        error: &ExchangeError,
        started: Instant,
    ) -> Result<(), Failed> {
        let written = bytes_written(error) > 0;
        let method = &self.account.head.method;
        if retry::resend_after_stale(method, written, self.replayable()) {
            self.rewind();
            return Ok(());
        }
        Err(self.given_up(lease.server(), Failure::new(Reason::UpstreamReset), started))
    }

    /// The attempt ends without a word to the breaker, and none follows.
    pub(super) fn given_up(
        &mut self,
        server: &Arc<Server>,
        failure: Failure,
        started: Instant,
    ) -> Failed {
        self.attempt_ended(server, Outcome::Failed(failure.reason), started);
        Failed {
            cause: None,
            failure,
            written: true,
            next: None,
        }
    }

    fn failed(
        &mut self,
        lease: &mut Lease,
        error: WaitError,
        next: Option<Box<Selected>>,
        started: Instant,
    ) -> Failed {
        let Classified {
            failure,
            cause,
            kind,
            written,
        } = classify(&error);
        if let Some(kind) = kind {
            lease.failure(Instant::now(), started.elapsed(), kind);
        }
        self.attempt_ended(lease.server(), Outcome::Failed(failure.reason), started);
        Failed {
            cause,
            failure,
            written,
            next,
        }
    }

    fn head_came(&mut self, lease: &mut Lease, status: u16, started: Instant) {
        let now = Instant::now();
        let latency = now - started;
        lease.answered(now, latency, status);
        lease.server().metrics().attempted(Outcome::Status(status));
        self.account.head_came(status, latency);
    }

    pub(super) fn attempt_ended(
        &mut self,
        server: &Arc<Server>,
        outcome: Outcome,
        started: Instant,
    ) {
        server.metrics().attempted(outcome);
        self.account.attempt_failed(outcome, started.elapsed());
    }
}

struct Classified {
    failure: Failure,
    cause: Option<Cause>,
    /// `None`: not the server's doing.
    kind: Option<FailureKind>,
    written: bool,
}

/// The failure of a wait: whose it is, what may follow, what the client is told.
fn classify(error: &WaitError) -> Classified {
    let ours = |reason| Classified {
        failure: Failure::new(reason),
        cause: None,
        kind: None,
        written: true,
    };
    let servers = |reason, cause, kind| Classified {
        failure: Failure::new(reason),
        cause: Some(cause),
        kind: Some(kind),
        written: true,
    };
    match error {
        WaitError::Gone => ours(Reason::ClientClosed),
        WaitError::ClientStalled => ours(Reason::RequestTimeout),
        WaitError::TotalTimeout { on_client } => Classified {
            kind: (!on_client).then_some(FailureKind::Timeout),
            ..ours(Reason::TotalTimeout)
        },
        WaitError::TakenOut => Classified {
            cause: Some(Cause::TakenOut),
            ..ours(Reason::UpstreamReset)
        },
        WaitError::Timeout => servers(
            Reason::ResponseTimeout,
            Cause::Timeout,
            FailureKind::Timeout,
        ),
        WaitError::Exchange(ExchangeError::RequestBody(error)) => ours(request_body_reason(*error)),
        WaitError::Exchange(ExchangeError::BadResponse(detail)) => Classified {
            failure: Failure::because(Reason::BadResponse, detail),
            ..servers(
                Reason::BadResponse,
                Cause::BadResponse,
                FailureKind::BadResponse,
            )
        },
        WaitError::Exchange(
            ExchangeError::Closed { written, .. } | ExchangeError::Reset { written, .. },
        ) => {
            // A connection that broke before a byte was written is as good as none.
            let cause = if *written == 0 {
                Cause::Connect
            } else {
                Cause::Reset
            };
            Classified {
                written: *written > 0,
                ..servers(Reason::UpstreamReset, cause, FailureKind::Reset)
            }
        }
    }
}

fn request_body_reason(error: BodyError) -> Reason {
    match error {
        BodyError::TooLarge => Reason::BodyTooLarge,
        BodyError::Framing => Reason::BadRequest,
        BodyError::IdleTimeout => Reason::RequestTimeout,
        BodyError::TotalTimeout => Reason::TotalTimeout,
        BodyError::Reset | BodyError::Aborted => Reason::ClientClosed,
    }
}

/// The kept connection ended before the first byte of an answer.
fn is_stale(error: &ExchangeError) -> bool {
    matches!(
        error,
        ExchangeError::Closed {
            answered: false,
            ..
        } | ExchangeError::Reset {
            answered: false,
            ..
        }
    )
}

fn bytes_written(error: &ExchangeError) -> u64 {
    match error {
        ExchangeError::Closed { written, .. } | ExchangeError::Reset { written, .. } => *written,
        ExchangeError::BadResponse(_) | ExchangeError::RequestBody(_) => u64::MAX,
    }
}
