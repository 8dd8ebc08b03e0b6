//! One request and its answer on one connection.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::config::model::UnderscoreHeaders;
use crate::message::{Data, Downstream, Known, RequestHead, ResponseHead, Version};
use crate::wire::client::{Answer, ExchangeError};
use crate::wire::h1::client::{Connection, Inner, ResponseBody};
use crate::wire::h1::framing::{self, Framing, keep_alive_timeout, lists};
use crate::wire::h1::inbound::Fill;
use crate::wire::h1::parse::{self, HeadLimits};
use crate::wire::io::Socket;

/// A server's head. Underscores are the server's own affair.
const LIMITS: HeadLimits = HeadLimits {
    bytes: 64 * 1024,
    fields: 256,
    underscores: UnderscoreHeaders::Allow,
};

/// Interim answers before the final one; a server that sends more has lost its way.
const INTERIM: u32 = 64;

/// One request and its answer on one connection. Dropping it closes the connection.
pub struct Exchange(pub(super) Box<Inner>);

impl Exchange {
    /// Nothing is written before the first [`Exchange::poll_head`]. `head` has been cleaned; the
    /// wire decides `Content-Length`, `Transfer-Encoding`, `Connection` and `Upgrade` itself.
    pub fn start(
        connection: Connection,
        head: &RequestHead,
        body: &Rc<dyn Downstream>,
        expect_upgrade: Option<&str>,
    ) -> Exchange {
        let Connection(mut inner) = connection;
        inner.inbound.set_limit(body.buffer_bytes());
        inner.upload.begin(head, body, expect_upgrade);
        inner.method = head.method.clone();
        inner.upgrade = expect_upgrade.map(Box::from);
        inner.interim = 0;
        inner.received = 0;
        Exchange(inner)
    }

    /// Moves the request out and gives the next head of the answer. Not to be called again after
    /// a final head or an error.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, ExchangeError>> {
        let inner = &mut *self.0;
        if let Poll::Ready(Err(error)) = inner.upload.poll(&mut inner.socket, cx) {
            return Poll::Ready(Err(ExchangeError::RequestBody(error)));
        }
        loop {
            if let Some(answer) = inner.parse_head()? {
                return Poll::Ready(Ok(answer));
            }
            ready!(inner.poll_fill(cx))?;
        }
    }

    /// The whole request is in the socket.
    pub fn request_written(&self) -> bool {
        self.0.upload.is_done()
    }

    /// What the exchange waits for is the client's request body.
    pub fn awaits_client(&self) -> bool {
        self.0.upload.awaits_client()
    }

    /// The request body is under way: who pulls it notices when its client leaves, unless it is
    /// the server that takes nothing.
    pub fn pulls_body(&self) -> bool {
        self.0.upload.pulls_body()
    }

    /// Makes the coming close a reset where the request body is cut: a server that reads slowly, or
    /// not at all, would see a plain close only behind everything that waits for it.
    pub fn break_off(&self) {
        if self.0.upload.pulls_body() {
            self.0.socket.reset_on_close();
        }
    }

    /// Bytes of the request in the socket so far, framing included.
    pub fn bytes_written(&self) -> u64 {
        self.0.upload.written()
    }

    /// Changes whenever a byte moved in either direction: compare two readings to know whether
    /// anything moved in between, without reading the clock per byte.
    pub fn progress(&self) -> u64 {
        self.0.progress()
    }

    /// The head that [`Exchange::poll_head`] told of last; once.
    pub fn take_head(&mut self) -> Option<ResponseHead> {
        self.0.head.take()
    }

    pub fn head(&self) -> Option<&ResponseHead> {
        self.0.head.as_ref()
    }

    /// After [`Answer::Final`], where all of a plain body came with its head and the request is
    /// out: the body, and the connection to be used again.
    pub fn into_whole(mut self) -> Result<(Option<Data>, Connection), Exchange> {
        let inner = &mut *self.0;
        let waiting = inner.inbound.len();
        let (framing, keep) = inner.answer;
        if framing != Framing::Length(waiting as u64) || !keep || !inner.upload.is_done() {
            return Err(self);
        }
        let data = (waiting > 0).then(|| inner.inbound.take(waiting, 0));
        Ok((data, Connection(self.0)))
    }

    /// After [`Answer::Final`]: the body.
    pub fn into_body(self) -> ResponseBody {
        ResponseBody::new(self.0)
    }

    /// After [`Answer::Switching`]: the socket and what the server sent after its head.
    pub fn into_tunnel(self) -> (Socket, Vec<u8>) {
        (self.0.socket, self.0.inbound.bytes().to_vec())
    }
}

impl Inner {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        if std::mem::take(&mut self.awaited) {
            return Poll::Pending;
        }
        let filled = ready!(self.inbound.poll_fill(&mut self.socket, cx));
        let (answered, written) = (self.received > 0, self.upload.written());
        Poll::Ready(match filled {
            Ok(Fill::Bytes) => {
                self.received += 1;
                Ok(())
            }
            Ok(Fill::Full) => Err(ExchangeError::BadResponse("the answer's head is too large")),
            Ok(Fill::End) => Err(ExchangeError::Closed { answered, written }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ExchangeError::Closed { answered, written })
            }
            // Of all that can happen to a socket only TLS finds invalid data.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::debug!(%error, "TLS with a server broke");
                Err(ExchangeError::Tls { answered, written })
            }
            Err(_) => Err(ExchangeError::Reset { answered, written }),
        })
    }

    /// The next head, if all of it has come.
    fn parse_head(&mut self) -> Result<Option<Answer>, ExchangeError> {
        if self.inbound.is_empty() {
            return Ok(None);
        }
        let parsed = parse::response(self.inbound.bytes(), &LIMITS)
            .map_err(|malformed| ExchangeError::BadResponse(malformed.detail))?;
        let Some((head, length)) = parsed else {
            return Ok(None);
        };
        self.inbound.consume(length);
        let answer = self.judge(&head)?;
        if answer == Answer::Interim {
            self.inbound.park();
        }
        self.head = Some(head);
        Ok(Some(answer))
    }

    fn judge(&mut self, head: &ResponseHead) -> Result<Answer, ExchangeError> {
        if head.status == 101 {
            return self.judge_switch(head);
        }
        if head.is_interim() {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(ExchangeError::BadResponse("too many interim answers"));
            }
            if head.status == 100 {
                self.upload.release();
            }
            return Ok(Answer::Interim);
        }
        self.answer =
            framing::of_response(head, &self.method).map_err(ExchangeError::BadResponse)?;
        self.upload.answered();
        if let Some(seconds) = keep_alive_timeout(&head.fields) {
            self.keep_alive_hint = Some(Duration::from_secs(seconds));
        }
        Ok(Answer::Final)
    }

    /// RFC 9110 section 15.2.2: only when asked for, and to what was asked for.
    fn judge_switch(&mut self, head: &ResponseHead) -> Result<Answer, ExchangeError> {
        let Some(token) = &self.upgrade else {
            return Err(ExchangeError::BadResponse(
                "101 without an upgrade asked for",
            ));
        };
        let same = head.fields.count(Known::Upgrade) == 1
            && head
                .fields
                .get(Known::Upgrade)
                .is_some_and(|got| got.eq_ignore_ascii_case(token.as_bytes()));
        if !same || head.version != Version::Http11 || !self.upload.is_done() {
            return Err(ExchangeError::BadResponse(
                "101 does not match the upgrade asked for",
            ));
        }
        if !lists(&head.fields, Known::Connection, "upgrade") {
            return Err(ExchangeError::BadResponse(
                "101 without Connection: upgrade",
            ));
        }
        Ok(Answer::Switching)
    }
}
