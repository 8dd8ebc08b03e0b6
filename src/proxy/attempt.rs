//! One try at one server: a connection, the request out, the response head back.

use std::future::poll_fn;

use tokio::time::Instant;

use crate::config::model::{ProxyProtocol, RouteId};
use crate::message::{BodyError, Known};
use crate::proxy::account::Asked;
use crate::proxy::error::Failure;
use crate::proxy::exchange::Journey;
use crate::proxy::grpc;
use crate::proxy::head_wait::{WaitError, Waiting};
use crate::proxy::retry::{self, Cause};
use crate::proxy::selection::{Selected, Via};
use crate::proxy::transaction::Transaction;
use crate::telemetry::{Outcome, Reason};
use crate::upstream::pool::{Acquired, Claim};
use crate::upstream::{FailureKind, Lease, Server};
use crate::util::clock;
use crate::wire::client::{Answer, Connection, Exchange, ExchangeError, Request};

/// How often a server may refuse a request unseen before it counts as failing.
const MOST_REFUSALS: u8 = 3;

/// A request on its way to a server. The order of fields matters: the connection is closed before
/// its place is free.
pub(super) struct Attempt {
    pub exchange: Exchange,
    pub held: Held,
    pub started: Instant,
    pub route: RouteId,
    /// The connection was kept: the server may have ended it.
    pub kept: bool,
    /// It ends when checks take its server out.
    pub watched: bool,
    /// How often it was sent again because its server refused it unseen.
    pub refused: u8,
    /// An interim answer went to the client.
    pub interim_sent: bool,
    /// The answer is 101 with the token that was asked for.
    pub switching: bool,
    pub waiting: Waiting,
}

/// An attempt that gave no response head.
pub(super) struct Failed {
    /// `None`: no retry, whatever the policy.
    pub cause: Option<Cause>,
    pub failure: Failure,
    /// At least one byte of the request was written.
    pub written: bool,
    /// Nothing went wrong but that no connection may be opened now.
    pub no_room: bool,
    /// Where to go on, when that was settled before this attempt was ended.
    pub next: Option<Box<Selected>>,
}

/// A request's places at its server.
pub(super) struct Held {
    pub claim: Claim<Connection>,
    pub lease: Lease,
    /// The connection carries this client's identity, or will: it serves nobody else.
    pub bound: bool,
    /// The PROXY header that it began with, or will: it serves this client's connection alone.
    pub introduction: ProxyProtocol,
}

impl Attempt {
    /// Of the answer, once its head has come.
    pub(super) fn status(&self) -> u16 {
        self.exchange.head().map_or(0, |head| head.status)
    }

    /// Of a call of gRPC whose answer is its status alone, once its head has come.
    pub(super) fn call_status(&self) -> Option<u8> {
        grpc::status(&self.exchange.head()?.fields)
    }
}

impl Transaction {
    /// Tells the account that an attempt at a server of `asked` starts now.
    pub(super) fn attempt_starts(&mut self, asked: Asked, server: &Server) -> Instant {
        let now = clock::now();
        self.account.attempt_starts(asked, server, now);
        if self.host_missing {
            let host = server.host();
            self.account.head.fields.set(Known::Host, host.as_bytes());
        }
        now
    }

    /// Begins the exchange of an attempt; nothing is written before it is polled. `kept`: the
    /// server may have ended the connection.
    pub(super) fn ask(
        &self,
        journey: &Journey<'_>,
        connection: Connection,
        kept: bool,
        held: Held,
        started: Instant,
    ) -> Attempt {
        let request = Request {
            head: &self.account.head,
            body: &self.downstream,
            upgrade: self.upgrade.as_deref(),
            te_trailers: self.te_trailers,
        };
        Attempt {
            exchange: Exchange::start(connection, &request),
            held,
            started,
            route: journey.id,
            kept,
            watched: journey.upstream.config().health.is_some(),
            refused: 0,
            interim_sent: false,
            switching: false,
            waiting: Waiting::default(),
        }
    }

    /// A whole attempt at a server that was selected.
    pub(super) async fn attempt(
        &mut self,
        journey: &Journey<'_>,
        selected: Selected,
    ) -> Result<Attempt, Failed> {
        let Selected { mut held, via } = selected;
        let started = self.attempt_starts(journey.asked, held.lease.server());
        let (connection, kept) = match via {
            Via::Kept(connection) => (connection, true),
            Via::Dial => (self.dial(journey, &mut held, started).await?, false),
        };
        let mut attempt = self.ask(journey, connection, kept, held, started);
        let waited = poll_fn(|cx| attempt.poll_head(self, cx)).await;
        self.conclude(journey, attempt, waited).await
    }

    /// From what a wait gave to an attempt that was answered or has failed. When checks take the server out meanwhile,
    /// it ends only if there is another one to go to; a connection that turns out to have been
    /// ended is replaced once.
    pub(super) async fn conclude(
        &mut self,
        journey: &Journey<'_>,
        mut attempt: Attempt,
        mut waited: Result<Answer, WaitError>,
    ) -> Result<Attempt, Failed> {
        loop {
            self.interim_sent |= attempt.interim_sent;
            match waited {
                Ok(answer) => {
                    self.answered(&mut attempt, answer);
                    return Ok(attempt);
                }
                Err(WaitError::TakenOut) => {
                    let written = attempt.exchange.bytes_written() > 0;
                    match self.elsewhere(journey, Cause::TakenOut, written) {
                        Some(next) => {
                            let mut failed = self.failed(attempt, &WaitError::TakenOut);
                            failed.next = Some(Box::new(next));
                            return Err(failed);
                        }
                        None => attempt.watched = false,
                    }
                }
                Err(WaitError::Exchange(error)) if attempt.kept && is_stale(&error) => {
                    attempt = self.replace_connection(journey, attempt, &error).await?;
                }
                Err(WaitError::Exchange(ExchangeError::Refused))
                    if attempt.refused < MOST_REFUSALS && self.replayable() =>
                {
                    attempt = self.ask_again(journey, attempt).await?;
                }
                Err(error) => {
                    attempt.exchange.break_off();
                    return Err(self.failed(attempt, &error));
                }
            }
            waited = poll_fn(|cx| attempt.poll_head(self, cx)).await;
        }
    }

    /// Sends again on a new connection what a stale one lost, where that is safe.
    async fn replace_connection(
        &mut self,
        journey: &Journey<'_>,
        stale: Attempt,
        error: &ExchangeError,
    ) -> Result<Attempt, Failed> {
        let Attempt {
            exchange,
            mut held,
            started,
            ..
        } = stale;
        drop(exchange);
        held.claim.was_stale();
        let written = bytes_written(error) > 0;
        let method = &self.account.head.method;
        if !retry::resend_after_stale(method, written, self.replayable()) {
            let failure = Failure::new(Reason::UpstreamReset);
            return Err(self.given_up(held.lease.server(), failure, started));
        }
        let connection = self.reconnect(journey, &mut held, started).await?;
        Ok(self.ask(journey, connection, false, held, started))
    }

    /// Sends again what the server refused unseen: its connection is ending, or had no room.
    async fn ask_again(
        &mut self,
        journey: &Journey<'_>,
        refused: Attempt,
    ) -> Result<Attempt, Failed> {
        let Attempt {
            exchange,
            mut held,
            started,
            refused,
            ..
        } = refused;
        drop(exchange);
        let connection = self.reconnect(journey, &mut held, started).await?;
        let attempt = self.ask(journey, connection, true, held, started);
        Ok(Attempt {
            refused: refused + 1,
            ..attempt
        })
    }

    /// Another connection to the same server, for the request from its first byte.
    async fn reconnect(
        &mut self,
        journey: &Journey<'_>,
        held: &mut Held,
        started: Instant,
    ) -> Result<Connection, Failed> {
        self.rewind();
        if held.claim.is_place() {
            let pools = self.account.context.pools.clone();
            match pools.acquire(held.lease.server().connections(), None) {
                Acquired::Kept(connection, claim) => {
                    held.claim = claim;
                    return Ok(connection);
                }
                Acquired::Dial(claim) => held.claim = claim,
                Acquired::Full => return Err(self.no_room(&held.lease, started)),
            }
        }
        self.dial(journey, held, started).await
    }

    /// The attempt ends without a word to the breaker, and none follows.
    pub(super) fn given_up(
        &mut self,
        server: &Server,
        failure: Failure,
        started: Instant,
    ) -> Failed {
        self.attempt_ended(server, Outcome::Failed(failure.reason), started);
        Failed {
            cause: None,
            failure,
            written: true,
            no_room: false,
            next: None,
        }
    }

    fn failed(&mut self, attempt: Attempt, error: &WaitError) -> Failed {
        let Attempt {
            exchange,
            held: Held { mut lease, .. },
            started,
            ..
        } = attempt;
        let Classified {
            failure,
            cause,
            kind,
            written,
        } = classify(error);
        if kind == Some(FailureKind::Timeout) {
            exchange.doubt();
        }
        drop(exchange);
        if let Some(kind) = kind {
            let now = clock::now();
            lease.failure(now, now - started, kind);
        }
        self.attempt_ended(lease.server(), Outcome::Failed(failure.reason), started);
        Failed {
            cause,
            failure,
            written,
            no_room: false,
            next: None,
        }
    }

    /// The response head came: the outcome of the attempt, unless its body fails.
    pub(super) fn answered(&mut self, attempt: &mut Attempt, answer: Answer) {
        attempt.switching = answer == Answer::Switching;
        let now = clock::now();
        let latency = now - attempt.started;
        let status = attempt.status();
        let refused = self.grpc.then(|| attempt.call_status()).flatten();
        let lease = &mut attempt.held.lease;
        match refused {
            None => lease.answered(now, latency, status),
            Some(code) => lease.call_refused(now, latency, status, code),
        }
        lease.server().metrics().attempted(Outcome::Status(status));
        self.account.head_came(status, now, latency);
    }

    pub(super) fn attempt_ended(&mut self, server: &Server, outcome: Outcome, started: Instant) {
        server.metrics().attempted(outcome);
        self.account.attempt_failed(outcome, clock::now() - started);
    }
}

pub(super) struct Classified {
    pub failure: Failure,
    cause: Option<Cause>,
    /// `None`: not the server's doing.
    pub kind: Option<FailureKind>,
    written: bool,
}

/// The failure of a wait: whose it is, what may follow, what the client is told.
pub(super) fn classify(error: &WaitError) -> Classified {
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
        WaitError::Exchange(ExchangeError::Violation { detail, .. }) => Classified {
            failure: Failure::because(Reason::BadResponse, detail),
            ..servers(
                Reason::BadResponse,
                Cause::BadResponse,
                FailureKind::BadResponse,
            )
        },
        // Nothing of it was looked at, whatever was written: as good as no connection.
        WaitError::Exchange(ExchangeError::Refused) => Classified {
            written: false,
            ..servers(Reason::UpstreamReset, Cause::Connect, FailureKind::Reset)
        },
        WaitError::Exchange(ExchangeError::StreamReset) => {
            servers(Reason::UpstreamReset, Cause::Reset, FailureKind::Reset)
        }
        WaitError::Exchange(ExchangeError::Unsendable(detail)) => Classified {
            failure: Failure::because(Reason::BadRequest, detail),
            ..ours(Reason::BadRequest)
        },
        WaitError::Exchange(
            error @ (ExchangeError::Closed { written, .. }
            | ExchangeError::Reset { written, .. }
            | ExchangeError::Tls { written, .. }),
        ) => {
            let reason = match error {
                ExchangeError::Tls { .. } => Reason::TlsFailed,
                _ => Reason::UpstreamReset,
            };
            // A connection that broke before a byte was written is as good as none.
            let cause = if *written == 0 {
                Cause::Connect
            } else {
                Cause::Reset
            };
            Classified {
                written: *written > 0,
                ..servers(reason, cause, FailureKind::Reset)
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
pub(super) fn is_stale(error: &ExchangeError) -> bool {
    matches!(
        error,
        ExchangeError::Closed {
            answered: false,
            ..
        } | ExchangeError::Reset {
            answered: false,
            ..
        } | ExchangeError::Tls {
            answered: false,
            ..
        } | ExchangeError::Violation {
            answered: false,
            ..
        }
    )
}

pub(super) fn bytes_written(error: &ExchangeError) -> u64 {
    match error {
        ExchangeError::Closed { written, .. }
        | ExchangeError::Reset { written, .. }
        | ExchangeError::Tls { written, .. }
        | ExchangeError::Violation { written, .. } => *written,
        ExchangeError::Refused => 0,
        ExchangeError::BadResponse(_)
        | ExchangeError::RequestBody(_)
        | ExchangeError::StreamReset
        | ExchangeError::Unsendable(_) => u64::MAX,
    }
}
