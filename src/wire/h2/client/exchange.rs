//! One request and its answer: one stream.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};

use crate::message::{BodyError, Data, Known, Length, Method, ResponseHead};
use crate::util::{clock, websocket};
use crate::wire::client::{Answer, ExchangeError, Request};
use crate::wire::h2::client::head::{self, Terms};
use crate::wire::h2::client::upload::Upload;
use crate::wire::h2::client::watch::Watch;
use crate::wire::h2::client::{Connection, ResponseBody, Tunnel};

/// Interim answers before the final one; a server that sends more has lost its way.
const INTERIM: u32 = 64;

/// One request and its answer on one connection. Dropping it resets the stream.
pub struct Exchange(Box<Stream>);

/// An exchange from its request to the end of its answer.
pub(super) struct Stream {
    // In the order in which they go: the stream is reset, then its place is free.
    receiving: Receiving,
    pub upload: Upload,
    method: Method,
    /// What an upgrade that became an extended CONNECT asked for.
    upgrade: Option<Upgrade>,
    /// Interim answers so far.
    interim: u32,
    /// Frames that came and meant something.
    pub received: u64,
    head: Option<ResponseHead>,
    place: Place,
}

/// One of the connection's exchanges, counted.
pub(super) struct Place {
    connection: Connection,
    /// Bytes that had been written when this one's request was handed over.
    written_before: Option<u64>,
}

struct Upgrade {
    token: Box<str>,
    /// What an HTTP/1 client waits for, made of its key (RFC 6455 section 4.2.2).
    accept: Option<String>,
}

enum Receiving {
    /// Told at the first look.
    Failed(ExchangeError),
    Head(ResponseFuture),
    /// A final head whose answer may have no body: told of once that is seen.
    Ending(ResponseHead, RecvStream),
    /// The body, its length, and a piece of it that was looked at.
    Body(RecvStream, Length, Option<Bytes>),
    Gone,
}

impl Place {
    fn new(connection: Connection) -> Self {
        let shared = &connection.0.shared;
        if shared.exchanges.replace(shared.exchanges.get() + 1) == 0 {
            shared.awaited.set(clock::now());
        }
        Place {
            connection,
            written_before: None,
        }
    }

    pub fn watch(&self) -> &Watch {
        &self.connection.0.shared.watch
    }

    /// The driver looks into it when the stream is reset.
    pub fn doubt(&self) {
        self.connection.0.shared.doubt.set(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.connection.0.shared;
        shared.exchanges.set(shared.exchanges.get() - 1);
    }
}

impl Exchange {
    /// The head is handed to the driver, which writes it when it is polled next.
    pub fn start(connection: Connection, request: &Request<'_>) -> Exchange {
        let Request {
            head,
            body,
            upgrade,
            te_trailers,
        } = *request;
        // RFC 8441: where the server takes none, the request goes on without its upgrade.
        let upgrade = upgrade
            .filter(|token| token.eq_ignore_ascii_case("websocket"))
            // What the client sends before the switch is a body, and a CONNECT has none.
            .filter(|_| body.length() == Length::Exact(0))
            .filter(|_| connection.takes_extended_connect());
        let terms = Terms {
            secure: connection.0.shared.secure,
            length: body.length(),
            te_trailers,
            protocol: upgrade,
        };
        let request = head::request(head, terms);
        let mut stream = Box::new(Stream {
            receiving: Receiving::Gone,
            upload: Upload::new(head, body, upgrade.is_some()),
            method: head.method.clone(),
            upgrade: upgrade.map(|token| Upgrade {
                token: token.into(),
                accept: head
                    .fields
                    .get(Known::SecWebsocketKey)
                    .map(websocket::accept),
            }),
            interim: 0,
            received: 0,
            head: None,
            place: Place::new(connection),
        });
        let sent = match request {
            Ok(request) => stream.send(request),
            Err(detail) => Err(ExchangeError::Unsendable(detail)),
        };
        if let Err(error) = sent {
            stream.receiving = Receiving::Failed(error);
        }
        Exchange(stream)
    }

    /// Moves the request out and gives the next head of the answer. Not to be called again after
    /// a final head or an error.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        let stream = &mut *self.0;
        if let Receiving::Failed(error) = stream.receiving {
            return Poll::Ready(Err(error));
        }
        if let Poll::Ready(Err(error)) = stream.poll_upload(cx) {
            return Poll::Ready(Err(ExchangeError::RequestBody(error)));
        }
        stream.poll_answer(cx)
    }

    pub fn request_written(&self) -> bool {
        self.0.upload.is_done() || self.0.upgrade.is_some()
    }

    pub fn awaits_client(&self) -> bool {
        self.0.upload.awaits_client()
    }

    pub fn pulls_body(&self) -> bool {
        self.0.upload.pulls_body()
    }

    /// The server hears at once that the request is cut.
    pub fn break_off(&mut self) {
        self.0.upload.break_off();
    }

    /// The server was not in time: the connection may be dead. To be dropped then.
    pub fn doubt(&self) {
        self.0.place.doubt();
    }

    /// 0 only where the server cannot have seen anything of the request.
    pub fn bytes_written(&self) -> u64 {
        self.0.bytes_written()
    }

    pub fn progress(&self) -> u64 {
        self.0.progress()
    }

    pub fn take_head(&mut self) -> Option<ResponseHead> {
        self.0.head.take()
    }

    pub fn head(&self) -> Option<&ResponseHead> {
        self.0.head.as_ref()
    }

    /// After [`Answer::Final`], where all of a plain body came with its head and the request is
    /// out.
    pub fn into_whole(mut self) -> Result<(Option<Data>, Connection), Exchange> {
        let stream = &mut *self.0;
        let Receiving::Body(body, _, early) = &mut stream.receiving else {
            return Err(self);
        };
        if !stream.upload.is_done() {
            return Err(self);
        }
        if early.is_none() && !body.is_end_stream() {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Some(Ok(data))) = body.poll_data(&mut cx) {
                *early = Some(data);
            }
        }
        if !body.is_end_stream() {
            return Err(self);
        }
        let data = early.take().filter(|data| !data.is_empty());
        if let Some(data) = &data {
            // Fails only for more than came.
            let _ = body.flow_control().release_capacity(data.len());
        }
        Ok((data.map(Data::from), self.0.into_connection()))
    }

    /// After [`Answer::Final`]: the body.
    pub fn into_body(mut self) -> ResponseBody {
        let receiving = std::mem::replace(&mut self.0.receiving, Receiving::Gone);
        match receiving {
            Receiving::Body(body, length, early) => {
                ResponseBody::new(self.0, Some(body), length, early)
            }
            _ => ResponseBody::new(self.0, None, Length::Unknown, None),
        }
    }

    /// After [`Answer::Switching`].
    pub fn into_tunnel(self) -> Tunnel {
        let Stream {
            receiving,
            upload,
            place,
            ..
        } = *self.0;
        let (body, early) = match receiving {
            Receiving::Body(body, _, early) => (Some(body), early),
            _ => (None, None),
        };
        Tunnel::new(body, upload.into_stream(), early, place)
    }
}

impl Stream {
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.upload.poll(self.place.watch(), cx)
    }

    pub fn watch(&self) -> &Watch {
        self.place.watch()
    }

    pub fn doubt(&self) {
        self.place.doubt();
    }

    pub fn progress(&self) -> u64 {
        self.upload.sent().wrapping_add(self.received)
    }

    /// For another exchange; this one is over.
    pub fn into_connection(self) -> Connection {
        self.place.connection.clone()
    }

    fn bytes_written(&self) -> u64 {
        match self.place.written_before {
            Some(before) if self.watch().bytes_written() > before => self.upload.sent().max(1),
            _ => 0,
        }
    }

    fn send(&mut self, request: http::Request<()>) -> Result<(), ExchangeError> {
        let shared = &self.place.connection.0.shared;
        // A clone each: one handle alone would wait for its last request to be sent.
        let sender = shared.sender.borrow().clone();
        let whole = self.upload.is_empty();
        let sent = match sender {
            Some(mut sender) => sender.send_request(request, whole),
            None => return Err(ExchangeError::Refused),
        };
        match sent {
            Ok((response, stream)) => {
                shared.watch.request_begins();
                shared.begun.set(shared.begun.get() + 1);
                self.place.written_before = Some(shared.watch.bytes_written());
                self.upload.begin(stream);
                self.receiving = Receiving::Head(response);
                Ok(())
            }
            // The connection has ended meanwhile, or is about to.
            Err(error) if error.is_go_away() || error.is_io() => Err(ExchangeError::Refused),
            Err(_) if shared.watch.is_leaving() || shared.ended.get() => {
                Err(ExchangeError::Refused)
            }
            Err(_) => Err(ExchangeError::Unsendable(
                "it has a field that HTTP/2 forbids",
            )),
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        if let Receiving::Head(response) = &mut self.receiving {
            let interim = match response.poll_informational(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(interim))) => Some(interim),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.failed(&error))),
                Poll::Ready(None) => None,
            };
            if let Some(interim) = interim {
                return Poll::Ready(self.judge_interim(interim));
            }
            let answer = match ready!(Pin::new(response).poll(cx)) {
                Ok(answer) => answer,
                Err(error) => return Poll::Ready(Err(self.failed(&error))),
            };
            if let Some(answer) = self.judge(answer)? {
                return Poll::Ready(Ok(answer));
            }
        }
        self.poll_ending(cx)
    }

    fn judge_interim(&mut self, interim: http::Response<()>) -> Result<Answer, ExchangeError> {
        self.received += 1;
        self.watch().head_taken();
        let (parts, ()) = interim.into_parts();
        let head = head::response(&parts).map_err(ExchangeError::BadResponse)?;
        if head.status == 101 {
            // RFC 9113 section 8.6.
            return Err(ExchangeError::BadResponse("101 in HTTP/2"));
        }
        self.interim += 1;
        if self.interim > INTERIM {
            return Err(ExchangeError::BadResponse("too many interim answers"));
        }
        if head.status == 100 {
            self.upload.release();
        }
        self.head = Some(head);
        Ok(Answer::Interim)
    }

    /// A final head; `None` where the end of its answer has to be seen first.
    fn judge(
        &mut self,
        answer: http::Response<RecvStream>,
    ) -> Result<Option<Answer>, ExchangeError> {
        self.received += 1;
        self.watch().head_taken();
        let (parts, body) = answer.into_parts();
        let mut head = head::response(&parts).map_err(ExchangeError::BadResponse)?;
        let declared = head::length(&parts.headers).map_err(ExchangeError::BadResponse)?;
        if let Some(upgrade) = &mut self.upgrade
            && parts.status.is_success()
        {
            upgrade.switch(&mut head);
            self.head = Some(head);
            self.receiving = Receiving::Body(body, Length::Unknown, None);
            return Ok(Some(Answer::Switching));
        }
        self.upload.answered();
        if self.method == Method::Head || matches!(head.status, 204 | 304) {
            self.receiving = Receiving::Ending(head, body);
            return Ok(None);
        }
        let length = match body.is_end_stream() {
            true => Length::Exact(0),
            false => declared,
        };
        self.head = Some(head);
        self.receiving = Receiving::Body(body, length, None);
        Ok(Some(Answer::Final))
    }

    /// What has no body must not have one (RFC 9110 section 6.4.1); its end may come in a frame of
    /// its own.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        let Receiving::Ending(_, body) = &mut self.receiving else {
            return Poll::Pending;
        };
        loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(_)) => {
                    let detail = "a body where there can be none";
                    return Poll::Ready(Err(ExchangeError::BadResponse(detail)));
                }
                Some(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
                None => break,
            }
        }
        match std::mem::replace(&mut self.receiving, Receiving::Gone) {
            Receiving::Ending(head, body) => {
                self.head = Some(head);
                self.receiving = Receiving::Body(body, Length::Exact(0), None);
            }
            other => self.receiving = other,
        }
        Poll::Ready(Ok(Answer::Final))
    }

    /// What an error of the library means to the exchange.
    fn failed(&self, error: &h2::Error) -> ExchangeError {
        let answered = self.received > 0;
        let written = self.bytes_written();
        if self.watch().is_flooded() {
            return ExchangeError::Violation {
                answered,
                written,
                detail: "the server floods the connection",
            };
        }
        if error.is_go_away() && error.is_remote() {
            // Only streams above the last one of a GOAWAY end by it (RFC 9113 section 6.8).
            return ExchangeError::Refused;
        }
        if error.is_reset() && error.is_remote() {
            return match error.reason() {
                // RFC 9113 section 8.7.
                Some(Reason::REFUSED_STREAM) if !answered => ExchangeError::Refused,
                _ => ExchangeError::StreamReset,
            };
        }
        if error.is_reset() {
            return ExchangeError::BadResponse("the answer is malformed");
        }
        if error.is_go_away() {
            return ExchangeError::Violation {
                answered,
                written,
                detail: "the server breaks the rules of HTTP/2",
            };
        }
        match error.get_io().map(std::io::Error::kind) {
            Some(std::io::ErrorKind::ConnectionReset) => ExchangeError::Reset { answered, written },
            _ => ExchangeError::Closed { answered, written },
        }
    }
}

impl Upgrade {
    /// Makes the answer to an extended CONNECT what it means: the switch that was asked for. How
    /// the client's own protocol says so is for its wire.
    fn switch(&mut self, head: &mut ResponseHead) {
        head.status = 101;
        head.fields.remove(Known::ContentLength);
        head.fields.set(Known::Connection, b"upgrade");
        head.fields.set(Known::Upgrade, self.token.as_bytes());
        match self.accept.take() {
            Some(accept) => head
                .fields
                .set(Known::SecWebsocketAccept, accept.as_bytes()),
            None => head.fields.remove(Known::SecWebsocketAccept),
        }
    }
}
