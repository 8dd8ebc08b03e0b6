//! What is said of a request when it has ended: one access-log record and its metrics,
//! guaranteed on every way out.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::config::model::{Format, ListenerId, RouteId, Template, Timeouts};
use crate::filter::headers::Edits;
use crate::filter::template::{Values, render};
use crate::message::{
    Body, Data, Fields, Frame, Known, KnownSet, Length, RequestHead, ResponseHead,
};
use crate::message::{BodyError, BodyStream};
use crate::proxy::context::{ConnectionInfo, Context};
use crate::proxy::forwarding::{self, RequestId};
use crate::proxy::request_body::RequestBody;
use crate::snapshot::Pin;
use crate::telemetry::{Attempt, Outcome, Reason, Record};
use crate::upstream::{Server, Upstream};
use crate::util::clock;
use crate::wire::{Cut, Response};

/// What a record has of the request's fields.
const LOGGED: KnownSet = KnownSet::of(&[
    Known::Host,
    Known::Referer,
    Known::UserAgent,
    Known::Authorization,
    Known::Traceparent,
]);

/// The account of one request. Dropping it closes it: a request that ended without an answer, or
/// before the end of it, was abandoned by its client, or a panic of ours ended it.
pub(super) struct Account {
    pub context: Rc<Context>,
    pub pin: Pin,
    pub listener: ListenerId,
    pub head: RequestHead,
    /// First byte of the request, where that is known better than by the end of its head.
    pub started: Instant,
    /// The client address, once it is known better than by the TCP peer.
    pub client: IpAddr,
    /// Empty until the request was given one.
    pub id: RequestId,
    /// Where its route fills them in.
    pub values: Option<Box<Values>>,
    /// The fields as they came, where the log needs them and the route changes them.
    received: Option<Fields>,
    route: Option<RouteId>,
    /// Which of the route's destinations.
    choice: u16,
    asked: Option<Asked>,
    status: Option<u16>,
    reason: Option<Reason>,
    /// Where the request has one.
    pub body: Option<Rc<RequestBody>>,
    pub response_bytes: u64,
    /// Bytes from the client after an upgrade.
    pub tunnelled: u64,
    /// When the last attempt started.
    attempted: Instant,
    /// When its head came and how long that took, if it did: then it lasts as long as the body.
    headed: Option<(Instant, Duration)>,
    /// There is an access log: what it says of attempts is collected.
    logged: bool,
    attempts: SmallVec<[Attempt; 1]>,
    stage: Stage,
}

/// Which upstream of its route a request was last sent to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Upstream,
    Fallback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// A server's answer is passing; whoever lets go of it now breaks it off.
    Passing,
    Closed,
}

impl Account {
    pub fn open(
        context: &Rc<Context>,
        connection: &ConnectionInfo,
        head: RequestHead,
        began: Option<Instant>,
    ) -> Self {
        let (pin, listener) = connection.listener.current(context);
        pin.listener(listener).metrics.request_started();
        let now = clock::now();
        Account {
            context: context.clone(),
            pin,
            listener,
            head,
            started: began.unwrap_or(now),
            client: connection.peer.ip(),
            id: RequestId::new(),
            values: None,
            received: None,
            route: None,
            choice: 0,
            asked: None,
            status: None,
            reason: None,
            body: None,
            response_bytes: 0,
            tunnelled: 0,
            attempted: now,
            headed: None,
            logged: context.access.enabled(),
            attempts: SmallVec::new(),
            stage: Stage::Open,
        }
    }

    pub fn routed(&mut self, route: RouteId) {
        self.route = Some(route);
    }

    /// It goes to this destination of its route.
    pub fn chose(&mut self, choice: u16) {
        self.choice = choice;
    }

    pub fn choice(&self) -> u16 {
        self.choice
    }

    /// The timeouts of where it goes.
    pub fn timeout(&self, route: RouteId) -> &Timeouts {
        &self.pin.route(route).destination(self.choice).rules.timeout
    }

    pub fn attempt_starts(&mut self, asked: Asked, server: &Server, now: Instant) {
        // One that was answered, but not with what the client should see.
        self.end_attempt(now);
        self.status = None;
        self.asked = Some(asked);
        self.attempted = now;
        self.headed = None;
        if self.logged {
            self.attempts.push(Attempt {
                server: server.label().clone(),
                outcome: Outcome::Failed(Reason::ClientClosed),
                connect: None,
                first_byte: None,
                total: Duration::ZERO,
            });
        }
    }

    pub fn connected(&mut self, after: Duration) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.connect = Some(after);
        }
    }

    pub fn head_came(&mut self, status: u16, now: Instant, after: Duration) {
        self.status = Some(status);
        self.headed = Some((now, after));
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.outcome = Outcome::Status(status);
            attempt.first_byte = Some(after);
            attempt.total = after;
        }
    }

    pub fn attempt_failed(&mut self, outcome: Outcome, after: Duration) {
        self.status = None;
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.outcome = outcome;
            attempt.total = after;
        }
        if let Some(upstream) = self.upstream() {
            upstream.metrics().attempt_ended(after);
        }
    }

    /// Makes the route's changes to what the server gets; the log shows what came.
    pub fn edit(&mut self, edits: &Edits) {
        if self.logged && edits.touches(LOGGED) {
            self.received = Some(self.head.fields.clone());
        }
        edits.apply(&mut self.head.fields, self.values.as_deref());
    }

    /// The same to what the client gets.
    pub fn edit_answer(&self, route: RouteId, head: &mut ResponseHead) {
        if let Some(edits) = &self.pin.route(route).response_edits {
            edits.apply(&mut head.fields, self.values.as_deref());
        }
    }

    /// The text of a template of the route.
    pub fn fill_in(&self, template: &Template, format: Format) -> Bytes {
        match (template.fixed(), self.values.as_deref()) {
            (Some(text), _) => Bytes::copy_from_slice(text.as_bytes()),
            (None, Some(values)) => Bytes::copy_from_slice(&render(template, values, format)),
            // Refused before anything was collected: never of a route.
            (None, None) => Bytes::new(),
        }
    }

    /// A server's answer begins to pass.
    pub fn passes(&mut self) {
        self.stage = Stage::Passing;
    }

    /// An answer of our own with `reason`; the account closes when its body has gone.
    pub fn refused(mut self, reason: Reason, response: Response) -> Response {
        self.context.metrics.rejected(reason);
        self.reason = Some(reason);
        self.answered_here(response)
    }

    /// An answer of our own that is no refusal.
    pub fn answered_here(mut self, response: Response) -> Response {
        let Response { head, body, close } = response;
        let status = if self.reason == Some(Reason::ClientClosed) {
            499
        } else {
            head.status
        };
        self.status = Some(status);
        let Body::Bytes(bytes) = body else {
            self.finish();
            return Response { head, body, close };
        };
        if self.head.method.as_str() == "HEAD" || bytes.is_empty() {
            self.finish();
            return Response {
                head,
                body: Body::Bytes(bytes),
                close,
            };
        }
        let data = Some(Data::from(bytes));
        let body = Body::Stream(Box::new(OwnBody {
            data,
            account: self,
        }));
        Response { head, body, close }
    }

    /// The answer is a fallback's, in place of one of ours.
    pub fn fell_back(&mut self, reason: Reason) {
        self.context.metrics.rejected(reason);
        self.reason = Some(reason);
    }

    /// The response has gone out whole.
    pub fn finish(&mut self) {
        self.close();
    }

    /// The response broke off.
    pub fn broke_off(&mut self, reason: Reason) {
        if self.stage != Stage::Closed {
            self.reason = Some(reason);
            self.context.metrics.rejected(reason);
            self.close();
        }
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.stage, Stage::Closed) == Stage::Closed {
            return;
        }
        let now = clock::now();
        let total = self.end_attempt(now);
        // A first attempt begins with its request, mostly.
        let duration = match total {
            Some(total) if self.attempted == self.started => total,
            _ => now - self.started,
        };
        let status = self.final_status();
        let request_bytes = self.tunnelled + self.body.as_ref().map_or(0, |body| body.received());
        let listener = &self.pin.listener(self.listener).metrics;
        listener.request_ended();
        let route = match self.route {
            Some(route) => &self.pin.route(route).metrics,
            None => self.context.metrics.unrouted(),
        };
        let bytes = (request_bytes, self.response_bytes);
        route.completed(listener, self.head.method.label(), status, duration, bytes);
        if self.logged {
            self.log(status, request_bytes, duration);
        }
    }

    /// Counts that the client was cut off for what it does.
    pub fn client_cut(&self, cause: Cut) {
        let listener = self.pin.listener(self.listener);
        listener.metrics.connection_cut(cause.label());
    }

    /// An attempt that was answered lasts as long as its body.
    fn end_attempt(&mut self, now: Instant) -> Option<Duration> {
        let (headed, after) = self.headed?;
        let total = if headed == now {
            after
        } else {
            now - self.attempted
        };
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.total = total;
        }
        if let Some(upstream) = self.upstream() {
            upstream.metrics().attempt_ended(total);
        }
        Some(total)
    }

    /// The last one asked.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        let route = self.pin.route(self.route?);
        match self.asked? {
            Asked::Upstream => Some(&route.destination(self.choice).upstream),
            Asked::Fallback => route.fallback.as_ref(),
        }
    }

    /// What the client got; 499 where it went away before an answer.
    fn final_status(&mut self) -> u16 {
        if let Some(status) = self.status {
            return status;
        }
        let reason = if std::thread::panicking() {
            Reason::Internal
        } else {
            Reason::ClientClosed
        };
        self.reason = Some(reason);
        self.context.metrics.rejected(reason);
        reason.status()
    }

    fn log(&mut self, status: u16, request_bytes: u64, duration: Duration) {
        if self.id.is_empty() {
            self.id = forwarding::fresh_id(&mut self.context.random.borrow_mut());
        }
        let fields = self.received.as_ref().unwrap_or(&self.head.fields);
        let listener = self.pin.listener(self.listener);
        self.context.access.write(&Record {
            request_id: &self.id,
            client: self.client,
            method: self.head.method.as_str().as_bytes(),
            target: self.head.target(),
            host: fields.get(Known::Host).unwrap_or_default(),
            version: self.head.version,
            status,
            request_bytes,
            response_bytes: self.response_bytes,
            duration,
            listener: &listener.rules.name,
            route: self.route.map(|route| &*self.pin.route(route).rules.name),
            upstream: self.upstream().map(|upstream| &**upstream.name()),
            reason: self.reason,
            referer: fields.get(Known::Referer),
            user_agent: fields.get(Known::UserAgent),
            authorization: fields.get(Known::Authorization),
            trace_id: fields.get(Known::Traceparent).and_then(trace_id),
            attempts: &self.attempts,
        });
    }
}

/// The second part of a `traceparent`: `00-<32 hex digits>-<16>-<2>` (W3C Trace Context).
fn trace_id(traceparent: &[u8]) -> Option<&[u8]> {
    let id = traceparent.get(3..35)?;
    let whole = traceparent[2] == b'-' && traceparent.get(35) == Some(&b'-');
    (whole && id.iter().all(u8::is_ascii_hexdigit)).then_some(id)
}

impl Drop for Account {
    fn drop(&mut self) {
        match self.stage {
            Stage::Passing => self.broke_off(Reason::ClientClosed),
            Stage::Open | Stage::Closed => self.close(),
        }
    }
}

/// The body of an answer of our own.
struct OwnBody {
    data: Option<Data>,
    account: Account,
}

impl BodyStream for OwnBody {
    fn length(&self) -> Length {
        Length::Exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }

    fn at_end(&self) -> bool {
        self.data.is_none()
    }

    fn poll_frame(
        &mut self,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<Frame, BodyError>> {
        std::task::Poll::Ready(Ok(match self.data.take() {
            Some(data) => {
                self.account.response_bytes = data.len() as u64;
                Frame::Data(data)
            }
            None => {
                self.account.finish();
                Frame::End
            }
        }))
    }
}
