//! Bytes both ways after an upgrade, each way until its own end.

use std::task::{Context, Poll};

use crate::message::Tunnel;
use crate::util::turn::next_round;
use crate::wire::h1::inbound::Fill;
use crate::wire::h1::server::Ended;
use crate::wire::h1::server::connection::ServerConnection;

/// Bytes per wake-up and direction.
const BUDGET: usize = 1024 * 1024;

pub(super) struct TunnelPump {
    tunnel: Box<dyn Tunnel>,
    /// Client to server.
    upward: Way,
    /// Server to client.
    downward: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// The sender has ended; that is still to be passed on.
    Ending,
    Ended,
}

/// The tunnel cannot go on.
struct Broken;

impl TunnelPump {
    pub(super) fn new(tunnel: Box<dyn Tunnel>) -> Self {
        TunnelPump {
            tunnel,
            upward: Way::Open,
            downward: Way::Open,
        }
    }

    pub(super) fn poll(
        &mut self,
        connection: &ServerConnection,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        let moved = self
            .move_up(connection, cx)
            .and_then(|()| self.move_down(connection, cx));
        if moved.is_err() {
            connection.borrow().reset_on_close();
            return Poll::Ready(Ended::Aborted);
        }
        if (self.upward, self.downward) == (Way::Ended, Way::Ended) {
            return Poll::Ready(Ended::Cleanly);
        }
        self.tunnel.poll_expired(cx).map(|_| Ended::Aborted)
    }

    fn move_up(
        &mut self,
        connection: &ServerConnection,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        let mut moved = 0;
        loop {
            let mut inner = connection.borrow_mut();
            if !inner.inbound.is_empty() {
                match self.tunnel.poll_write(cx, inner.inbound.bytes()) {
                    Poll::Pending => {
                        inner.inbound.park();
                        return Ok(());
                    }
                    Poll::Ready(Ok(count)) => {
                        inner.inbound.consume(count);
                        moved += count;
                    }
                    Poll::Ready(Err(_)) => return Err(Broken),
                }
                if moved > BUDGET {
                    inner.inbound.park();
                    next_round(cx);
                    return Ok(());
                }
                continue;
            }
            if let Poll::Ready(Err(_)) = self.tunnel.poll_flush(cx) {
                return Err(Broken);
            }
            match self.upward {
                Way::Ended => return Ok(()),
                Way::Ending => match self.tunnel.poll_shutdown(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.upward = Way::Ended,
                    Poll::Ready(Err(_)) => return Err(Broken),
                },
                Way::Open => match inner.poll_fill(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(Fill::Bytes | Fill::Full)) => {}
                    Poll::Ready(Ok(Fill::End)) => self.upward = Way::Ending,
                    Poll::Ready(Err(_)) => return Err(Broken),
                },
            }
        }
    }

    fn move_down(
        &mut self,
        connection: &ServerConnection,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        let mut moved = 0;
        loop {
            let mut inner = connection.borrow_mut();
            match inner.poll_flush(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err(Broken),
                Poll::Ready(Ok(())) => {}
            }
            match self.downward {
                Way::Ended => return Ok(()),
                Way::Ending => match inner.poll_shutdown(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.downward = Way::Ended,
                    Poll::Ready(Err(_)) => return Err(Broken),
                },
                Way::Open => match self.tunnel.poll_read(cx, inner.inbound.limit()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(Some(data))) => {
                        moved += data.len();
                        inner.out.push(data);
                    }
                    Poll::Ready(Ok(None)) => self.downward = Way::Ending,
                    Poll::Ready(Err(_)) => return Err(Broken),
                },
            }
            if moved > BUDGET {
                next_round(cx);
                return Ok(());
            }
        }
    }
}
