//! WebSocket and its like over a stream (RFC 8441): bytes both ways in DATA frames until both
//! sides have ended.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;

use crate::message::{Downstream, Frame, Tunnel};
use crate::wire::h2::server::exchange::Exchange;
use crate::wire::h2::server::stock::Chunk;

/// Bytes per poll and direction.
const BUDGET: usize = 256 * 1024;

pub(super) struct TunnelPump {
    tunnel: Box<dyn Tunnel>,
    exchange: Rc<Exchange>,
    /// From the client, not taken by the server.
    upward: Bytes,
    up: Way,
    /// From the server, not taken by the client.
    downward: Bytes,
    down: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// The sender has ended; that is still to be passed on.
    Ending,
    Ended,
}

/// The tunnel cannot go on.
struct Broken(Reason);

impl TunnelPump {
    pub(super) fn new(tunnel: Box<dyn Tunnel>, exchange: Rc<Exchange>) -> Self {
        TunnelPump {
            tunnel,
            exchange,
            upward: Bytes::new(),
            up: Way::Open,
            downward: Bytes::new(),
            down: Way::Open,
        }
    }

    /// Ready when it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.exchange.poll_gone(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Err(Broken(reason)) = self.move_up(cx).and_then(|()| self.move_down(cx)) {
            self.exchange.reset(reason);
            return Poll::Ready(());
        }
        if (self.up, self.down) == (Way::Ended, Way::Ended) {
            return Poll::Ready(());
        }
        self.tunnel.poll_expired(cx).map(|_| {
            self.exchange.reset(Reason::CANCEL);
        })
    }

    fn move_up(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let mut moved = 0;
        loop {
            if !self.upward.is_empty() {
                match self.tunnel.poll_write(cx, &self.upward) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(count)) => {
                        let _written = self.upward.split_to(count.min(self.upward.len()));
                        moved += count;
                    }
                    // RFC 8441 section 5: a reset of the connection behind is CANCEL.
                    Poll::Ready(Err(_)) => return Err(Broken(Reason::CANCEL)),
                }
                if moved > BUDGET {
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
                continue;
            }
            match self.up {
                Way::Ended => return Ok(()),
                Way::Ending => match self.tunnel.poll_shutdown(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.up = Way::Ended,
                    Poll::Ready(Err(_)) => return Err(Broken(Reason::CANCEL)),
                },
                Way::Open => match self.exchange.poll_frame(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(Frame::Data(data))) => self.upward = data.into_payload(),
                    Poll::Ready(Ok(Frame::End)) => self.up = Way::Ending,
                    Poll::Ready(Ok(Frame::Trailers(_) | Frame::Piped(_))) => {
                        return Err(Broken(Reason::PROTOCOL_ERROR));
                    }
                    Poll::Ready(Err(_)) => return Err(Broken(Reason::CANCEL)),
                },
            }
        }
    }

    fn move_down(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let mut moved = 0;
        loop {
            if !self.downward.is_empty() {
                match self.exchange.send(&mut self.downward, false, cx) {
                    Ok(0) => return Ok(()),
                    Ok(count) => moved += count,
                    Err(_) => return Err(Broken(Reason::CANCEL)),
                }
                if moved > BUDGET {
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
                continue;
            }
            match self.down {
                Way::Ended => return Ok(()),
                Way::Ending => {
                    let end = Chunk::new(Bytes::new(), &self.exchange.stock);
                    let sent = self
                        .exchange
                        .with_body(|stream| stream.send_data(end, true));
                    if !matches!(sent, Some(Ok(()))) {
                        return Err(Broken(Reason::CANCEL));
                    }
                    self.down = Way::Ended;
                }
                Way::Open => match self.pull(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(Some(bytes))) => {
                        self.exchange.stock.holds(0, bytes.len());
                        self.downward = bytes;
                    }
                    Poll::Ready(Ok(None)) => self.down = Way::Ending,
                    Poll::Ready(Err(broken)) => return Err(broken),
                },
            }
        }
    }

    fn pull(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if !self.exchange.may_pull(false, cx) {
            return Poll::Pending;
        }
        let limit = self.exchange.buffer_bytes();
        let read = self.tunnel.poll_read(cx, limit);
        if read.is_pending() {
            self.exchange.pulled_nothing();
        }
        read.map(|read| match read {
            Ok(data) => Ok(data.map(|data| data.into_payload())),
            Err(_) => Err(Broken(Reason::CANCEL)),
        })
    }
}

impl Drop for TunnelPump {
    fn drop(&mut self) {
        self.exchange.stock.holds(self.downward.len(), 0);
    }
}
