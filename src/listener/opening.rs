//! What a connection goes through before its first request: who it comes from, its handshake, and
//! the protocol that it speaks.
//!
//! Boxed, and gone once it is open: plain HTTP/1 has nothing of this, and an idle connection must
//! not pay for it. All of it is under the header deadline, which runs from accept. Whatever fails
//! here is counted as a refused connection and closed without a word that another protocol's
//! reader could take for an answer of ours.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use super::group::{Member, Phase};
use super::{proxy_header, secure};
use crate::proxy::{Context, ListenerRules, Secured};
use crate::snapshot::ListenerState;
use crate::telemetry::{Handshake, Reason};
use crate::util::clock;
use crate::util::timer::SweepSlot;
use crate::wire::Cut;
use crate::wire::h1::LAST_REQUEST_GRACE;
use crate::wire::io::Socket;
use crate::wire::proxy_protocol::Malformed;
use crate::wire::tls::TlsError;

/// What a connection has from accept on.
pub(super) struct Entered {
    pub context: Rc<Context>,
    pub rules: Rc<ListenerRules>,
    pub member: Member,
    /// Armed: the end of the first head's time.
    pub deadline: SweepSlot,
}

/// A connection that is not open yet.
pub(super) struct Opening {
    pub entered: Entered,
    steps: Steps,
    /// In its TLS handshake.
    shaking: Rc<Cell<bool>>,
    /// Told to end.
    ending: bool,
}

type Steps = Pin<Box<dyn Future<Output = Result<Opened, Refused>>>>;

/// A connection that may send its first request.
pub(super) struct Opened {
    pub socket: Socket,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The port that it came in on.
    pub port: u16,
    /// Where it was connected to, where the listener's address does not say it.
    pub destination: Option<Box<SocketAddr>>,
    /// It was agreed on before the first byte.
    pub http2: bool,
    /// `None` without TLS.
    pub secured: Option<Box<Secured>>,
}

/// Why a connection is closed before its first request. `Display` is for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it was not open in time")]
    TimedOut,
    #[error("no PROXY header is taken from {0}, which is not in trusted-proxies")]
    NotTrusted(IpAddr),
    #[error("its PROXY header: {0}")]
    Header(#[from] Malformed),
    #[error("it ended in its PROXY header")]
    Ended,
    #[error("it broke")]
    Broken(#[from] std::io::Error),
    #[error("{0}")]
    Handshake(#[from] TlsError),
}

impl Opening {
    /// The listener's connections begin with their first request.
    pub fn is_needless(entered: &Entered) -> bool {
        let (snapshot, listener) = entered.rules.current(&entered.context);
        let rules = &snapshot.listener(listener).rules;
        !rules.proxy_protocol && rules.tls.is_none()
    }

    pub fn new(entered: Entered, accepted: Opened) -> Box<Self> {
        let shaking = Rc::new(Cell::new(false));
        let steps = Box::pin(open(
            entered.context.clone(),
            entered.rules.clone(),
            shaking.clone(),
            accepted,
        ));
        Box::new(Opening {
            entered,
            steps,
            shaking,
            ending: false,
        })
    }

    /// Ready once.
    pub fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Opened, Refused>> {
        if let Poll::Ready(opened) = self.steps.as_mut().poll(cx) {
            return Poll::Ready(opened);
        }
        let entered = &self.entered;
        if !self.ending && entered.member.phase() > Phase::Serving {
            self.ending = true;
            let patience = entered.rules.limits(&entered.context).header_timeout;
            let grace = patience.min(LAST_REQUEST_GRACE);
            entered.deadline.set_end(clock::now() + grace, grace);
        }
        entered
            .deadline
            .poll_expired(cx)
            .map(|()| Err(Refused::TimedOut))
    }

    /// Counts it and says why.
    pub fn refuse(&self, refused: &Refused) {
        let (snapshot, listener) = self.entered.rules.current(&self.entered.context);
        let state = snapshot.listener(listener);
        state.metrics.connection_refused();
        if self.entered.deadline.is_shed() {
            state.metrics.connection_cut(Cut::OverloadIdle.label());
        }
        match refused {
            Refused::Header(_)
            | Refused::NotTrusted(_)
            | Refused::Handshake(TlsError::PlainHttp) => {
                self.entered.context.metrics.rejected(Reason::BadRequest);
            }
            Refused::TimedOut if self.shaking.get() => {
                state.metrics.handshake_ended(Handshake::Timeout);
            }
            _ => {}
        }
        tracing::debug!(listener = %state.rules.name, error = %refused, "connection closed");
    }
}

/// The steps in their order, each on what the one before it gave.
async fn open(
    context: Rc<Context>,
    rules: Rc<ListenerRules>,
    shaking: Rc<Cell<bool>>,
    accepted: Opened,
) -> Result<Opened, Refused> {
    let (snapshot, listener) = rules.current(&context);
    let ListenerState { rules, metrics } = snapshot.listener(listener);
    let mut opened = accepted;
    if rules.proxy_protocol {
        proxy_header::take(&mut opened, &rules.trusted_proxies).await?;
    }
    if let Some(terms) = &rules.tls {
        shaking.set(true);
        opened = secure::shake_hands(opened, terms, metrics).await?;
    }
    Ok(opened)
}
