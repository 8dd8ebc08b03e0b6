//! The task that moves a connection's frames, and asks for a sign of life.
//!
//! A connection that is dead without a word (a host that lost power, a firewall that forgot it)
//! would take every exchange begun on it for as long as their timeouts are. So where bytes are
//! awaited and none come for [`QUIET`], the server is asked by a PING. Until it answers, no further
//! exchange is begun ([`Shared::suspect`]); if nothing comes for [`DEAD`], the connection is ended,
//! and its exchanges may be tried again elsewhere.
//!
//! Timeouts may be shorter than that: an exchange that ends by one casts [`Shared::doubt`], and
//! where nothing came for [`SILENCE`], the server is asked at once. Otherwise each request would wait
//! in vain on the same dead connection, the trial of a breaker that is half-open too.
//!
//! Servers that guard against pings (gRPC's count those that come without data in between) must
//! not take us for an attacker: after [`FREE_PINGS`] without anything else coming, there is one per
//! [`PATIENCE`]. A connection that is doubted and may not be asked is used no more.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::util::clock;
use crate::wire::h2::client::io::Io;
use crate::wire::h2::client::{HandshakeError, Shared};

/// Without a byte while bytes are awaited, before the server is asked.
const QUIET: Duration = Duration::from_secs(3);
/// Without a byte, before an exchange that was not answered in time casts doubt.
const SILENCE: Duration = Duration::from_millis(100);
/// Without a byte after that, before it counts as dead.
const DEAD: Duration = Duration::from_secs(10);
/// Pings in a row with nothing else coming; and one more for an exchange that began after them.
const FREE_PINGS: u32 = 2;
/// Between two pings beyond those: gRPC's servers allow one in five minutes.
const PATIENCE: Duration = Duration::from_secs(6 * 60);
/// Bytes of a PING frame: what comes as its answer is no sign of work.
const PING_FRAME: u64 = 17;
/// For what is left to be written once nobody uses the connection any more.
const CLOSING: Duration = Duration::from_secs(5);

/// Moves the frames of one connection until it ends.
pub(super) struct Driver {
    // In the order in which they go: closed, then said to be.
    connection: Option<h2::client::Connection<Io, Bytes>>,
    shared: Rc<Shared>,
    pings: Option<PingPong>,
    /// Since when nobody uses the connection any more.
    forsaken: Option<Instant>,
    /// What is waited for, if anything.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Bytes received when they were last looked at, and when they were seen to change.
    received: u64,
    moved: Instant,
    /// Since when an answer to a ping is awaited.
    asked: Option<Instant>,
    /// Pings since anything but their answers came, and when the last was sent.
    in_a_row: u32,
    last_ping: Instant,
    /// Exchanges begun before the last ping.
    begun_then: u64,
}

impl Driver {
    pub fn new(connection: h2::client::Connection<Io, Bytes>, shared: Rc<Shared>) -> Self {
        let mut connection = connection;
        let now = clock::now();
        Driver {
            pings: connection.ping_pong(),
            connection: Some(connection),
            shared,
            forsaken: None,
            alarm: None,
            received: 0,
            moved: now,
            asked: None,
            in_a_row: 0,
            last_ping: now,
            begun_then: 0,
        }
    }

    /// Ready once the server's settings are there and allow a request.
    pub async fn settled(&mut self) -> Result<(), HandshakeError> {
        poll_fn(|cx| match self.poll_frames(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(HandshakeError::Closed)),
            Poll::Ready(Err(error)) if error.is_io() => Poll::Ready(Err(HandshakeError::Closed)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(HandshakeError::Protocol)),
            Poll::Pending if self.shared.watch.is_leaving() => {
                Poll::Ready(Err(HandshakeError::Closed))
            }
            Poll::Pending if self.shared.watch.is_settled() && self.shared.capacity() > 0 => {
                Poll::Ready(Ok(()))
            }
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.shared.watch.turn_begins();
        match &mut self.connection {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Ready when the connection is given up.
    fn poll_life(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = clock::now();
        self.note_what_came(now, cx);
        if self.is_forsaken() {
            self.forsaken.get_or_insert(now);
        }
        self.look_into_doubt(now);
        loop {
            let Some(next) = self.next_step() else {
                self.alarm = None;
                return Poll::Pending;
            };
            if next > now {
                return self.poll_alarm(next, cx);
            }
            if self.forsaken.is_some() || self.asked.is_some() {
                return Poll::Ready(());
            }
            self.ask(now);
        }
    }

    /// When something has to be done should nothing happen before.
    fn next_step(&self) -> Option<Instant> {
        if let Some(since) = self.forsaken {
            return Some(since + CLOSING);
        }
        if let Some(asked) = self.asked {
            return Some(asked + DEAD);
        }
        if self.shared.exchanges.get() == 0 {
            return None;
        }
        // Counts from when something is awaited.
        let quiet = self.moved.max(self.shared.awaited.get()) + QUIET;
        if self.may_ask_freely() {
            return Some(quiet);
        }
        Some(quiet.max(self.last_ping + PATIENCE))
    }

    fn may_ask_freely(&self) -> bool {
        let fresh = u32::from(self.shared.begun.get() > self.begun_then);
        self.in_a_row < FREE_PINGS + fresh
    }

    fn look_into_doubt(&mut self, now: Instant) {
        if !self.shared.doubt.take() || self.asked.is_some() || now - self.moved < SILENCE {
            return;
        }
        if self.may_ask_freely() || now >= self.last_ping + PATIENCE {
            self.ask(now);
        } else {
            self.shared.retired.set(true);
        }
    }

    /// Nobody has a handle any more, so nothing but the goodbye is left to be written.
    fn is_forsaken(&self) -> bool {
        self.shared.sender.borrow().is_none() && self.shared.exchanges.get() == 0
    }

    fn note_what_came(&mut self, now: Instant, cx: &mut Context<'_>) {
        let answered = match &mut self.pings {
            Some(pings) if self.asked.is_some() => pings.poll_pong(cx).is_ready(),
            _ => false,
        };
        let received = self.shared.watch.bytes_received();
        let came = received - self.received;
        self.received = received;
        if came == 0 && !answered {
            return;
        }
        self.moved = now;
        if answered {
            self.asked = None;
            self.shared.suspect.set(false);
        }
        if came > PING_FRAME || !answered {
            self.in_a_row = 0;
            // Whatever comes is a sign of life, and its answer will come behind it.
            if let Some(asked) = &mut self.asked {
                *asked = now;
                self.shared.suspect.set(false);
            }
        }
    }

    fn ask(&mut self, now: Instant) {
        let sent = match &mut self.pings {
            Some(pings) => pings.send_ping(Ping::opaque()).is_ok(),
            None => false,
        };
        if sent {
            self.asked = Some(now);
            self.shared.suspect.set(true);
            self.in_a_row += 1;
            self.begun_then = self.shared.begun.get();
        }
        // One that cannot be sent is tried again no sooner either.
        self.last_ping = now;
        self.moved = now;
    }

    fn poll_alarm(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // Left armed for something earlier, it only looks once more.
        if alarm.is_elapsed() || alarm.deadline() > at {
            alarm.as_mut().reset(at);
        }
        if alarm.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        let _turn = clock::turn();
        let ended = match driver.poll_frames(cx) {
            Poll::Ready(result) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "an HTTP/2 connection to a server ended");
                }
                true
            }
            Poll::Pending => driver.poll_life(cx).is_ready(),
        };
        if !ended {
            return Poll::Pending;
        }
        // Its streams learn of it here.
        driver.connection = None;
        driver.shared.end();
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection = None;
        self.shared.end();
    }
}
