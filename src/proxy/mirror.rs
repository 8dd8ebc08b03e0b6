//! `mirror`: a copy of a request goes to another upstream, and nobody waits for what comes of it.
//!
//! The copy is a task of its own on the worker that has the request, with a head of its own and a
//! body that has come whole already. So nothing of it can hold, slow or fail the request: it never
//! reads from the client, takes no place in a queue, is never tried again and draws on no budget,
//! and when the client leaves or the process ends, nothing waits for it.
//!
//! It goes out as the request does: same method, path and query after the route's changes, same
//! `Host` (another name, as Envoy's `-shadow`, would miss the virtual host that a shadow mostly is),
//! same fields, and `x-evenkeel-mirror` with the name of the route. A request that carries this
//! field is a copy already and never copied again, so mirrors that point at each other are no loop.
//! The mirror's own policy picks the server, and its breaker, `max-requests`, connections, TLS and
//! timeouts hold; what its server says counts in the metrics of that upstream and, as `sent`, `failed`
//! or `dropped`, in `evenkeel_mirrored_total`.
//!
//! A body is copied if it fits into `max-replay-body`, and goes out once it has come whole: a copy
//! never keeps a server waiting for a slow client. Requests that ask for an upgrade are not copied.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::ProxyProtocol;
use crate::message::{
    Abort, BodyError, BodyStream, Downstream, Frame, Known, Length, RequestHead, ResponseHead,
};
use crate::proxy::attempt::{self, Classified, Held};
use crate::proxy::context::Context;
use crate::proxy::head_wait::WaitError;
use crate::proxy::request_body::Whole;
use crate::proxy::steps;
use crate::proxy::steps::MARK;
use crate::proxy::transaction::Transaction;
use crate::proxy::{answer, dial, retry};
use crate::snapshot::RouteState;
use crate::telemetry::{ConnectResult, MirrorResult, Outcome, Reason, RouteMetrics};
use crate::upstream::connector::{self, ConnectError};
use crate::upstream::pool::{Acquired, Outcome as Dialled};
use crate::upstream::{FailureKind, Pick, Upstream};
use crate::util::clock;
use crate::util::timer::Deadline;
use crate::wire::client::{Answer, Connection, Exchange, ExchangeError, Request, ResponseBody};

/// How long a copy may wait for an answer where the upstream's timeouts are off.
const LONGEST: Duration = Duration::from_secs(60);

/// Of an answer's body this much is read, in this time, for the sake of the connection.
const READ_BYTES: u64 = 64 * 1024;
const READ_TIME: Duration = Duration::from_secs(5);

/// A request that is to be copied; counted when it is dropped.
pub(super) struct Ticket {
    metrics: Arc<RouteMetrics>,
    result: MirrorResult,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.metrics.mirrored(self.result);
    }
}

/// A copy, ready to go.
struct Copy {
    context: Rc<Context>,
    ticket: Ticket,
    upstream: Arc<Upstream>,
    head: RequestHead,
    hash: Option<u64>,
    te_trailers: bool,
    host_missing: bool,
    /// The client's connection, for servers that are told of it.
    introduction: Vec<u8>,
}

impl Transaction {
    /// A ticket where this request is to be copied.
    #[cold]
    pub(super) fn sample(&self, route: &RouteState) -> Option<Ticket> {
        let mirror = route.mirror.as_ref()?;
        let upgrade = self.upgrade.as_deref();
        if !steps::may_be_copied(&self.account.head, upgrade) || !mirror.sampler.turn() {
            return None;
        }
        Some(Ticket {
            metrics: route.metrics.clone(),
            result: MirrorResult::Dropped,
        })
    }

    /// Sends the copy, at once or when the body has come whole.
    #[cold]
    pub(super) fn mirror(&self, ticket: Ticket, route: &RouteState) {
        let Some(mirror) = &route.mirror else { return };
        let upstream = mirror.upstream.latest();
        let mut head = self.account.head.clone();
        head.fields.set_text(MARK, route.rules.name.as_bytes());
        // The body is here: there is nothing to wait for.
        head.fields.remove(Known::Expect);
        let copy = Copy {
            context: self.account.context.clone(),
            ticket,
            hash: self.hash_key(&upstream),
            te_trailers: self.te_trailers,
            host_missing: self.host_missing,
            introduction: self.connection.introduce(upstream.config().proxy_protocol),
            upstream,
            head,
        };
        let sampler = mirror.sampler.clone();
        let go = move |body: CopiedBody| {
            if let Some(place) = sampler.enter() {
                tokio::task::spawn_local(async move {
                    copy.send(body).await;
                    drop(place);
                });
            }
        };
        match &self.account.body {
            None => go(CopiedBody::none()),
            Some(body) => {
                let length = body.length();
                body.when_whole(Box::new(move |whole| go(CopiedBody::new(length, whole))));
            }
        }
    }
}

/// Why a copy got no answer.
enum Lost {
    /// It did not go out.
    Unsent,
    Failed,
}

impl Copy {
    async fn send(mut self, body: CopiedBody) {
        let body = Rc::new(body);
        self.ticket.result = match self.exchange(&body).await {
            Ok(()) => MirrorResult::Sent,
            Err(Lost::Unsent) => MirrorResult::Dropped,
            Err(Lost::Failed) => MirrorResult::Failed,
        };
    }

    async fn exchange(&mut self, body: &Rc<CopiedBody>) -> Result<(), Lost> {
        let (mut held, kept) = self.select()?;
        let started = clock::now();
        if self.host_missing {
            let host = held.lease.server().host();
            self.head.fields.set(Known::Host, host.as_bytes());
        }
        let pulled: Rc<dyn Downstream> = body.clone();
        let (mut connection, mut kept) = match kept {
            Some(connection) => (connection, true),
            None => (self.connect(&mut held, started).await?, false),
        };
        loop {
            let timeout = &self.upstream.config().timeout;
            let limit = [timeout.first_byte, timeout.total]
                .into_iter()
                .flatten()
                .min();
            let deadline = self.context.timers.after(limit.unwrap_or(LONGEST));
            let request = Request {
                head: &self.head,
                body: &pulled,
                upgrade: None,
                te_trailers: self.te_trailers,
            };
            let mut exchange = Exchange::start(connection, &request);
            match await_head(&mut exchange, &deadline).await {
                Ok(()) => {
                    self.answered(exchange, held, started).await;
                    return Ok(());
                }
                Err(WaitError::Exchange(error)) if kept && self.may_go_again(&error) => {
                    // The server had ended the connection: it says nothing of the server.
                    drop(exchange);
                    held.claim.was_stale();
                    body.rewind();
                    kept = false;
                    connection = self.connect_anew(&mut held, started).await?;
                }
                Err(error) => {
                    exchange.break_off();
                    let Classified { failure, kind, .. } = attempt::classify(&error);
                    if kind == Some(FailureKind::Timeout) {
                        exchange.doubt();
                    }
                    drop(exchange);
                    self.failed(&mut held, kind, failure.reason, started);
                    return Err(Lost::Failed);
                }
            }
        }
    }

    /// A server that takes it now, and the connection that is kept for it. Whatever waits in the
    /// upstream's queue goes first, and nothing of ours ever stands in it.
    fn select(&self) -> Result<(Held, Option<Connection>), Lost> {
        let pools = &self.context.pools;
        let mut random = self.context.random.borrow_mut();
        let mut pick = Pick {
            tried: &[],
            hash: self.hash,
            sticky: None,
            carry: &**pools,
            random: &mut random,
        };
        let lease = self.upstream.pick(&mut pick).map_err(|_| Lost::Unsent)?;
        let introduction = self.upstream.config().proxy_protocol;
        let connections = lease.server().connections();
        let acquired = match introduction {
            ProxyProtocol::Off => pools.acquire(connections, None),
            _ => pools.acquire_new(connections),
        };
        let (claim, kept) = match acquired {
            Acquired::Kept(connection, claim) => (claim, Some(connection)),
            Acquired::Dial(claim) => (claim, None),
            Acquired::Full => return Err(Lost::Unsent),
        };
        let held = Held {
            claim,
            lease,
            bound: false,
            introduction,
        };
        Ok((held, kept))
    }

    async fn connect_anew(&self, held: &mut Held, started: Instant) -> Result<Connection, Lost> {
        match self
            .context
            .pools
            .acquire_new(held.lease.server().connections())
        {
            Acquired::Kept(connection, claim) => {
                held.claim = claim;
                Ok(connection)
            }
            Acquired::Dial(claim) => {
                held.claim = claim;
                self.connect(held, started).await
            }
            Acquired::Full => Err(Lost::Unsent),
        }
    }

    /// A new connection, or a place on one that another request is opening.
    async fn connect(&self, held: &mut Held, started: Instant) -> Result<Connection, Lost> {
        let limit = self.upstream.config().timeout.connect.unwrap_or(LONGEST);
        let deadline = self.context.timers.after(limit);
        let mut expired = pin!(poll_fn(|cx| deadline.poll_expired(cx)));
        while let Some(wait) = held.claim.waits() {
            let dialled = poll_fn(|cx| match wait.poll(cx) {
                Poll::Ready(dialled) => Poll::Ready(Some(dialled)),
                Poll::Pending => deadline.poll_expired(cx).map(|()| None),
            });
            match dialled.await {
                Some(Dialled::Over) => {}
                Some(Dialled::Failed(error)) => return self.unconnected(held, &error, started),
                None => return self.unconnected(held, &ConnectError::Timeout, started),
            }
            let connections = held.lease.server().connections();
            match self.context.pools.acquire(connections, None) {
                Acquired::Kept(connection, claim) => {
                    held.claim = claim;
                    return Ok(connection);
                }
                Acquired::Dial(claim) => held.claim = claim,
                Acquired::Full => return Err(Lost::Unsent),
            }
        }
        let server = held.lease.server().clone();
        let opening = async {
            let target = server.target();
            let connected = connector::connect(&target, &self.introduction, expired.as_mut()).await;
            let protocol = server.connections().protocol();
            dial::begin(connected?, protocol, expired.as_mut()).await
        };
        let opened = opening.await;
        let result = opened.as_ref().err();
        server
            .metrics()
            .connected(result.map_or(ConnectResult::Ok, |error| error.result()));
        match opened {
            Ok(connection) => Ok(held.claim.opened(connection)),
            Err(error) => {
                let error = Arc::new(error);
                held.claim.failed(&error);
                self.unconnected(held, &error, started)
            }
        }
    }

    fn unconnected<T>(
        &self,
        held: &mut Held,
        error: &ConnectError,
        started: Instant,
    ) -> Result<T, Lost> {
        let server = held.lease.server();
        tracing::debug!(server = %server.label(), %error, "connect for a mirror failed");
        let reason = dial::connect_failure(error).reason;
        // Ours, not the server's; idle connections are left to those who wait for an answer.
        let ours = matches!(error, ConnectError::Exhausted(_));
        let kind = (!ours).then_some(FailureKind::Connect);
        self.failed(held, kind, reason, started);
        Err(if ours { Lost::Unsent } else { Lost::Failed })
    }

    fn may_go_again(&self, error: &ExchangeError) -> bool {
        let written = attempt::bytes_written(error) > 0;
        attempt::is_stale(error) && retry::resend_after_stale(&self.head.method, written, true)
    }

    fn failed(&self, held: &mut Held, kind: Option<FailureKind>, reason: Reason, started: Instant) {
        let now = clock::now();
        if let Some(kind) = kind {
            held.lease.failure(now, now - started, kind);
        }
        let server = held.lease.server();
        server.metrics().attempted(Outcome::Failed(reason));
        self.upstream.metrics().attempt_ended(now - started);
    }

    /// Counts the answer, and reads it where that saves the connection.
    async fn answered(&self, mut exchange: Exchange, mut held: Held, started: Instant) {
        let head = exchange.take_head();
        let head = head.unwrap_or_else(|| ResponseHead::new(502));
        let now = clock::now();
        held.lease.answered(now, now - started, head.status);
        let metrics = held.lease.server().metrics();
        metrics.attempted(Outcome::Status(head.status));
        let alone = held.introduction != ProxyProtocol::Off || answer::binds_connection(&head);
        let connection = match exchange.into_whole() {
            Ok((_, connection)) => Some(connection),
            Err(exchange) => {
                let mut body = exchange.into_body();
                let deadline = self.context.timers.after(READ_TIME);
                read(&mut body, &deadline).await
            }
        };
        self.upstream
            .metrics()
            .attempt_ended(clock::now() - started);
        if let Some(connection) = connection.filter(|_| !alone) {
            held.claim.check_in(connection);
        }
    }
}

async fn await_head(exchange: &mut Exchange, deadline: &Deadline) -> Result<(), WaitError> {
    poll_fn(|cx| {
        loop {
            match exchange.poll_head(cx) {
                Poll::Ready(Ok(Answer::Interim)) => drop(exchange.take_head()),
                Poll::Ready(answer) => {
                    return Poll::Ready(answer.map(drop).map_err(WaitError::Exchange));
                }
                Poll::Pending => break,
            }
        }
        deadline.poll_expired(cx).map(|()| Err(WaitError::Timeout))
    })
    .await
}

/// Reads a short answer to its end, for its connection.
async fn read(body: &mut ResponseBody, deadline: &Deadline) -> Option<Connection> {
    let mut left = READ_BYTES;
    if matches!(body.length(), Length::Exact(bytes) if bytes > left) {
        return None;
    }
    poll_fn(|cx| {
        loop {
            let bytes = match body.poll_frame(cx) {
                Poll::Ready(Ok(Frame::Data(data))) => data.payload(),
                Poll::Ready(Ok(Frame::Piped(pipe))) => pipe.len(),
                Poll::Ready(Ok(Frame::Trailers(_))) => 0,
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(body.take_connection()),
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => return deadline.poll_expired(cx).map(|()| None),
            };
            match left.checked_sub(bytes as u64) {
                Some(rest) => left = rest,
                None => return Poll::Ready(None),
            }
        }
    })
    .await
}

/// A request body that has come whole.
struct CopiedBody {
    /// As the client said it.
    length: Length,
    whole: Whole,
    /// Of its pieces, and the trailers behind them.
    next: Cell<usize>,
}

impl CopiedBody {
    fn none() -> Self {
        let whole = Whole {
            pieces: Vec::new(),
            trailers: None,
        };
        CopiedBody::new(Length::Exact(0), whole)
    }

    fn new(length: Length, whole: Whole) -> Self {
        CopiedBody {
            length,
            whole,
            next: Cell::new(0),
        }
    }

    /// From its first byte again.
    fn rewind(&self) {
        self.next.set(0);
    }
}

impl Downstream for CopiedBody {
    fn length(&self) -> Length {
        self.length
    }

    fn poll_frame(&self, _cx: &mut TaskContext<'_>) -> Poll<Result<Frame, BodyError>> {
        let next = self.next.replace(self.next.get() + 1);
        let frame = match self.whole.pieces.get(next) {
            Some(piece) => Frame::Data(piece.to_kept()),
            None => match &self.whole.trailers {
                Some(trailers) if next == self.whole.pieces.len() => {
                    Frame::Trailers(trailers.clone())
                }
                _ => Frame::End,
            },
        };
        Poll::Ready(Ok(frame))
    }

    fn at_end(&self) -> bool {
        let frames = self.whole.pieces.len() + usize::from(self.whole.trailers.is_some());
        self.next.get() >= frames
    }

    fn poll_interim(&self, _cx: &mut TaskContext<'_>, _head: &ResponseHead) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_gone(&self, _cx: &mut TaskContext<'_>) -> Poll<Abort> {
        Poll::Pending
    }
}
