//! One request from its head to its answer: sanitise, route, then attempts until one answers.

use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::model::{Protocol, RouteId};
use crate::message::{Body, Downstream, Known, Length, Method};
use crate::proxy::account::Account;
use crate::proxy::context::{ConnectionInfo, Context};
use crate::proxy::error::Failure;
use crate::proxy::forwarding::Arrival;
use crate::proxy::patience::Patience;
use crate::proxy::request_body::RequestBody;
use crate::proxy::sticky::Given;
use crate::proxy::{client_address, forwarding, grpc, sanitise, steps};
use crate::router::NoTrace;
use crate::snapshot::{DestinationState, Pin, RouteState};
use crate::telemetry::Reason;
use crate::util::clock;
use crate::util::timer::Deadline;
use crate::wire::{Request, Response};

/// A request under way. Attempts are in `attempt`, the choice of servers in `selection`.
pub(super) struct Transaction {
    pub(super) account: Account,
    pub(super) connection: Rc<ConnectionInfo>,
    pub(super) patience: Patience,
    pub(super) downstream: Rc<dyn Downstream>,
    pub(super) total: Option<Deadline>,
    pub(super) upgrade: Option<Box<str>>,
    /// The client takes trailers, and said so.
    pub(super) te_trailers: bool,
    /// The TCP peer is one of the listener's `trusted-proxies`.
    pub(super) trusted: bool,
    /// HTTP/1.0 without `Host`: each attempt sends its server's address.
    pub(super) host_missing: bool,
    /// A call of gRPC.
    pub(super) grpc: bool,
    /// An interim answer went to the client: no retry after that.
    pub(super) interim_sent: bool,
    /// What its cookie says, where clients stick to servers.
    pub(super) sticky: Option<Box<Given>>,
}

impl Transaction {
    pub(super) fn open(
        context: &Rc<Context>,
        connection: &Rc<ConnectionInfo>,
        request: Request,
    ) -> Self {
        Transaction {
            account: Account::open(context, connection, request.head, request.began),
            connection: connection.clone(),
            patience: Patience::new(request.slot),
            downstream: request.downstream,
            total: None,
            upgrade: None,
            te_trailers: false,
            trusted: false,
            host_missing: false,
            grpc: false,
            interim_sent: false,
            sticky: None,
        }
    }

    /// Everything before the first attempt.
    pub(super) fn prepare(&mut self, pin: &Pin) -> Result<Prepared, Failure> {
        let capacity = &self.account.context.capacity;
        if capacity.lacks_memory() {
            capacity.shed();
            const NO_MEMORY: &str = "the proxy is at its memory limit";
            return Err(Failure::because(Reason::Overloaded, NO_MEMORY).retry_after(1));
        }
        self.find_client(&pin.listener(self.account.listener).rules.trusted_proxies);
        let head = &mut self.account.head;
        let sanitised = sanitise::sanitise(head).map_err(steps::refused)?;
        self.host_missing = sanitised.host_is_missing();
        if let Some(secured) = &self.connection.secured
            && !secured.is_for(sanitised.host(head))
        {
            return Err(Failure::new(Reason::Misdirected));
        }
        if sanitised.answer_here {
            return Ok(Prepared::Answer(Response {
                head: steps::options_answer(),
                body: Body::Empty,
                close: false,
            }));
        }
        let query = steps::query(
            self.account.listener,
            head,
            &sanitised,
            sanitised.path(head),
        );
        let route = pin.router.find(&query, &mut NoTrace);
        let route = route.ok_or(Failure::new(Reason::NoRoute))?;
        if pin.guarded {
            self.guard_spellings(pin, route, &sanitised)?;
        }
        let state = pin.route(route);
        self.account.routed(route);
        if state.acts {
            self.admit(state)?;
        }
        steps::set_target(&mut self.account.head, state.rules.forward, &sanitised)?;
        self.rewrite_fields(pin, state)?;
        if state.acts
            && let Some(answer) = self.act(pin, route, &sanitised)?
        {
            return Ok(Prepared::Answer(answer));
        }
        let copied = if state.acts { self.sample(state) } else { None };
        let head = &self.account.head;
        self.grpc = head.method == Method::Post && grpc::is_grpc(&head.fields);
        let to = state.destination(self.account.choice());
        self.take_body(state, to, copied.is_some())?;
        if let Some(ticket) = copied {
            self.mirror(ticket, state);
        }
        self.set_total(to.rules.timeout.total);
        Ok(Prepared::Route(route))
    }

    /// `timeout.total`, or the deadline of a call where that is shorter.
    fn set_total(&mut self, total: Option<Duration>) {
        let mut total = total;
        if self.grpc
            && let Some(deadline) = grpc::timeout(&self.account.head.fields)
        {
            total = Some(total.map_or(deadline, |total| total.min(deadline)));
        }
        if let Some(total) = total {
            let left = self.left_of(total);
            self.total = Some(self.account.context.timers.after(left));
        }
    }

    /// Of a head that came in pieces a part is spent already. In hundredths: timers are kept by
    /// duration, and clients must not make them many.
    fn left_of(&self, total: Duration) -> Duration {
        let spent = clock::now() - self.account.started;
        let hundredth = total / 100;
        if spent < hundredth || hundredth.is_zero() {
            return total;
        }
        let hundredths = (spent.as_nanos() / hundredth.as_nanos()).min(100) as u32;
        hundredth * (100 - hundredths)
    }

    fn find_client(&mut self, trusted_proxies: &[IpNet]) {
        let source = self.connection.peer.ip();
        self.trusted = client_address::is_trusted(source, trusted_proxies);
        if self.trusted {
            let fields = &self.account.head.fields;
            self.account.client = client_address::client_address(source, trusted_proxies, fields);
        }
    }

    /// Hop-by-hop fields go, forwarding fields come.
    fn rewrite_fields(&mut self, pin: &Pin, route: &RouteState) -> Result<(), Failure> {
        let rules = &pin.listener(self.account.listener).rules;
        let connection = &self.connection;
        let head = &mut self.account.head;
        let requested = steps::clean(head, &route.rules.upgrades)?;
        self.te_trailers = requested.te_trailers;
        self.upgrade = requested.upgrade;
        let arrival = Arrival {
            source: connection.peer.ip(),
            trusted: self.trusted,
            client: self.account.client,
            scheme: match connection.secured {
                Some(_) => "https",
                None => "http",
            },
            port: connection.port,
            version: head.version,
            via: rules.via,
        };
        self.account.id = forwarding::set_forwarding(
            &mut head.fields,
            &arrival,
            &mut self.account.context.introductions.borrow_mut(),
            &mut self.account.context.random.borrow_mut(),
        );
        // Behind the line that took away what came by that name.
        if let Some(secured) = &connection.secured
            && let Some(certificate) = &secured.client_certificate
        {
            head.fields.append(Known::ClientCert, certificate);
        }
        Ok(())
    }

    /// Wraps the request body where there is one; a length over the limit is refused unread.
    fn take_body(
        &mut self,
        route: &RouteState,
        to: &DestinationState,
        copied: bool,
    ) -> Result<(), Failure> {
        let length = self.downstream.length();
        if length == Length::Exact(0) {
            return Ok(());
        }
        steps::check_length(route, length)?;
        let limit = route.rules.max_body.map(|size| size.0);
        let replay = self.replay_bytes(route, to, length, copied);
        let body = Rc::new(RequestBody::new(self.downstream.clone(), limit, replay));
        self.downstream = body.clone();
        self.account.body = Some(body);
        Ok(())
    }

    /// How much of the body is worth recording: nothing that no further attempt and no copy could
    /// use.
    fn replay_bytes(
        &self,
        route: &RouteState,
        to: &DestinationState,
        length: Length,
        copied: bool,
    ) -> u64 {
        let retry = &to.rules.retry;
        let method = &self.account.head.method;
        let repeated = method.is_idempotent()
            || retry
                .methods
                .iter()
                .any(|allowed| allowed == method.as_str())
            || (self.grpc && retry.on.grpc.contains(grpc::UNAVAILABLE))
            || route.fallback.is_some()
            || copied
            // Its servers may refuse any request unseen (RFC 9113 section 8.7).
            || to.upstream.config().protocol != Protocol::Http1;
        let max = retry.max_replay_body.0;
        match length {
            Length::Exact(bytes) if bytes > max => 0,
            _ if repeated => max,
            _ => 0,
        }
    }

    /// True while the request body can be sent again from its first byte.
    pub(super) fn replayable(&self) -> bool {
        self.account
            .body
            .as_ref()
            .is_none_or(|body| body.replayable())
    }

    /// The next attempt sends the body from its first byte.
    pub(super) fn rewind(&self) {
        if let Some(body) = &self.account.body {
            body.rewind();
        }
    }

    /// Waits for `work` while the client is there and the total time runs.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            self.poll_interrupted(cx).map(Err)
        })
        .await
    }

    pub(super) fn poll_interrupted(&self, cx: &mut TaskContext<'_>) -> Poll<Failure> {
        if self.downstream.poll_gone(cx).is_ready() {
            return Poll::Ready(Failure::new(Reason::ClientClosed));
        }
        self.poll_total(cx)
            .map(|()| Failure::new(Reason::TotalTimeout))
    }

    /// Ready once `timeout.total` has passed.
    pub(super) fn poll_total(&self, cx: &mut TaskContext<'_>) -> Poll<()> {
        match &self.total {
            Some(total) => total.poll_expired(cx),
            None => Poll::Pending,
        }
    }
}

pub(super) enum Prepared {
    Route(RouteId),
    /// Needs no server.
    Answer(Response),
}
