//! The server's side of an upgraded connection: bytes both ways until both have ended.

use std::task::{Context, Poll};

use crate::message::{BodyError, Data, Tunnel};
use crate::proxy::account::Account;
use crate::proxy::patience::{IdleClock, Patience};
use crate::telemetry::Reason;
use crate::upstream::Lease;
use crate::upstream::pool::Claim;
use crate::wire::client::{self, Connection};

/// Holds what the exchange held; the account closes when the tunnel does.
pub(super) struct ExchangeTunnel {
    server: client::Tunnel,
    account: Account,
    clock: IdleClock,
    patience: Patience,
    /// Each side's FIN, passed on.
    ended: (bool, bool),
    _lease: Lease,
    _claim: Claim<Connection>,
}

impl ExchangeTunnel {
    pub fn new(
        server: client::Tunnel,
        lease: Lease,
        claim: Claim<Connection>,
        account: Account,
        (clock, patience): (IdleClock, Patience),
    ) -> Self {
        ExchangeTunnel {
            server,
            account,
            clock,
            patience,
            ended: (false, false),
            _lease: lease,
            _claim: claim,
        }
    }

    fn failed(&mut self, reason: Reason, error: BodyError) -> BodyError {
        self.account.broke_off(reason);
        error
    }

    fn side_ended(&mut self) {
        if self.ended == (true, true) {
            self.account.finish();
        }
    }
}

impl Tunnel for ExchangeTunnel {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Option<Data>, BodyError>> {
        match self.server.poll_read(cx, limit) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(None)) => {
                self.ended.0 = true;
                self.side_ended();
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Ok(Some(data))) => {
                self.clock.restart();
                self.account.response_bytes += data.len() as u64;
                Poll::Ready(Ok(Some(data)))
            }
            Poll::Ready(Err(_)) => {
                Poll::Ready(Err(self.failed(Reason::UpstreamReset, BodyError::Reset)))
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, BodyError>> {
        match self.server.poll_write(cx, bytes) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(written)) => {
                self.clock.restart();
                self.account.tunnelled += written as u64;
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(_)) => {
                Poll::Ready(Err(self.failed(Reason::UpstreamReset, BodyError::Reset)))
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self.server.poll_flush(cx) {
            Poll::Ready(Err(_)) => {
                Poll::Ready(Err(self.failed(Reason::UpstreamReset, BodyError::Reset)))
            }
            flushed => flushed.map(|_| Ok(())),
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self.clock.poll_expired(&self.patience, cx) {
            Poll::Ready(()) => {
                Poll::Ready(self.failed(Reason::ResponseTimeout, BodyError::IdleTimeout))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self.server.poll_shutdown(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                self.ended.1 = true;
                self.side_ended();
                Poll::Ready(Ok(()))
            }
        }
    }
}
