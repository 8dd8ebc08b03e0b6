//! The server side: one task per downstream connection, for its whole life.
//!
//! Streams are futures inside that task, so a request never leaves it, and dropping the task
//! drops them all. One round takes what has come, moves every stream that can move, and writes
//! what they all said at once. Deadlines are this module's: `h2` has no clock.
//!
//! A connection ends in one of three ways: told to (drain, a full count of requests, an idle
//! time) it says GOAWAY twice and lets go of nothing that was begun (RFC 9113 section 6.8); a
//! peer that breaks the protocol or costs more than it is worth is told so and cut off; one that
//! does not even read that is dropped.

mod answering;
mod arrival;
mod bell;
mod exchange;
mod pace;
mod stock;
mod stream;
mod tunnel;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};

use crate::message::{Downstream, Scratch};
use crate::util::clock;
use crate::util::timer::{Awaits, Deadline, SweepSlot, Timers};
use crate::util::turn::next_round;
use crate::wire::h2::guard::{Guard, SMALL};
use crate::wire::h2::io::{Io, Link};
use crate::wire::io::Socket;
use crate::wire::{Cut, Handler, Limits, Request};

use arrival::{Arrival, Unwelcome};
use bell::Bell;
use pace::{MOMENT, Pace};
use stock::{Chunk, Stock};
use stream::Stream;

/// Rounds of one wake-up before other connections get their turn.
const ROUNDS: u32 = 16;
/// DATA frames of a few bytes that may wait for servers to take them, per connection: the windows
/// count their payload, not the quarter of a KiB that each costs. More is taken for a flood.
const SMALL_FRAMES: usize = 4096;
/// Bytes that `h2` may hold of one stream's answer.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a connection that was told to end may still send requests that were on their way.
const LAST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// How long the last words may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// For the client to take the last words and close, and what it may still send meanwhile.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// A peer with open streams that says nothing for so long is asked whether it is there.
const QUIET: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const PONG: Duration = Duration::from_secs(20);

type H2 = Connection<Io, Chunk>;

/// The whole life of one downstream connection of HTTP/2. `before`: what was read of it already;
/// `deadline`: armed, for the preface and the first SETTINGS.
pub fn serve<H: Handler>(
    socket: Socket,
    before: Vec<u8>,
    timers: Timers,
    deadline: SweepSlot,
    handler: H,
) -> Serve<H> {
    let limits = handler.limits();
    let guard = Guard::new(limits.max_concurrent_streams);
    let link = Rc::new(RefCell::new(Link::new(socket, before, guard)));
    let handshake = builder(&limits).handshake(Io(link.clone()));
    Serve {
        state: State::Handshake(Box::new(handshake)),
        streams: FuturesUnordered::new(),
        waiting: VecDeque::new(),
        pace: Pace::new(limits.max_concurrent_streams),
        retry: None,
        stock: Rc::default(),
        close: Rc::default(),
        link,
        bell: Bell::new(),
        timers,
        slot: deadline,
        wait: Wait::Settings,
        heard: 0,
        waited_at: 0,
        requests: 0,
        pings: None,
        closing: false,
        handler,
    }
}

fn builder(limits: &Limits) -> Builder {
    let list = u32::try_from(2 * limits.max_header_bytes).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.max_concurrent_streams)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        // Up to here we answer 431 ourselves, and say why.
        .max_header_list_size(list)
        .data_frame_budget(SMALL_FRAMES * SMALL)
        .max_send_buffer_size(SEND_BUFFER.min(limits.connection_buffer))
        .enable_connect_protocol();
    builder
}

/// See [`serve`]. The order of fields matters: work at servers ends before its streams do.
pub struct Serve<H: Handler> {
    streams: FuturesUnordered<Stream<H::Work>>,
    /// Requests that come faster than work may be begun for them.
    waiting: VecDeque<Arrival>,
    state: State,
    pace: Pace,
    /// Until some of `waiting` may begin.
    retry: Option<Deadline>,
    stock: Rc<Stock>,
    /// An answer asked for the end of the connection.
    close: Rc<Cell<bool>>,
    link: Rc<RefCell<Link>>,
    bell: Bell,
    timers: Timers,
    slot: SweepSlot,
    /// What `slot` is armed for.
    wait: Wait,
    /// Bytes received, and requests, when the wait began.
    heard: u64,
    waited_at: u64,
    requests: u64,
    pings: Option<PingPong>,
    /// GOAWAY was said.
    closing: bool,
    handler: H,
}

enum State {
    Handshake(Box<Handshake<Io, Chunk>>),
    Open(Box<H2>),
    /// Everything is said; what still comes is dropped (RFC 9112 section 9.6 has the reason).
    Lingering {
        dropped: usize,
        shut: bool,
    },
}

/// What a connection waits for that may take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The preface and the client's SETTINGS.
    Settings,
    /// The end of a header block.
    Head,
    /// A request.
    Request,
    /// A sign of life while streams are open.
    Sign,
    /// The answer to a ping.
    Pong,
    /// The end after GOAWAY, without streams.
    End,
    /// The last words to be written.
    LastWords,
}

impl<H: Handler> Unpin for Serve<H> {}

impl<H: Handler> Future for Serve<H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let serve = &mut *self;
        let _turn = clock::turn();
        serve.bell.enter(cx);
        serve.link.borrow_mut().begin_turn();
        let waker = serve.bell.waker().clone();
        let polled = serve.poll_rounds(&mut Context::from_waker(&waker));
        serve.bell.leave();
        match polled {
            Round::Over => return Poll::Ready(()),
            Round::Again => next_round(cx),
            Round::Waits => {}
        }
        Poll::Pending
    }
}

/// How a wake-up ended.
enum Round {
    Over,
    /// Others have their turn first.
    Again,
    Waits,
}

impl<H: Handler> Serve<H> {
    pub fn handler(&self) -> &H {
        &self.handler
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Round {
        for _ in 0..ROUNDS {
            // What rings from here on is looked at in another round.
            self.bell.has_rung();
            self.link.borrow_mut().begin_round();
            if let State::Lingering { .. } = self.state {
                return match self.poll_linger(cx) {
                    Poll::Ready(()) => Round::Over,
                    Poll::Pending => Round::Waits,
                };
            }
            if self.poll_protocol(cx).is_err() {
                return Round::Over;
            }
            self.stock.written();
            self.poll_streams(cx);
            self.obey();
            let flushed = self.link.borrow_mut().poll_flush(cx);
            if matches!(flushed, Poll::Ready(Err(_))) {
                return Round::Over;
            }
            let (spent, full) = (self.link.borrow().is_spent(), self.link.borrow().is_full());
            if spent || full {
                return Round::Again;
            }
            let lingers = matches!(self.state, State::Lingering { .. });
            if self.bell.has_rung() || self.stock.is_awaited() || lingers {
                continue;
            }
            match self.poll_wait(cx) {
                Poll::Pending => return Round::Waits,
                Poll::Ready(Next::Drop) => return Round::Over,
                Poll::Ready(Next::Look) => {}
            }
        }
        Round::Again
    }

    /// Takes what has come, and has `h2` say what there is to say. `Err`: nobody is there.
    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        if let State::Handshake(handshake) = &mut self.state {
            match Pin::new(&mut **handshake).poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(mut connection)) => {
                    self.pings = connection.ping_pong();
                    self.state = State::Open(Box::new(connection));
                }
                Poll::Ready(Err(error)) => {
                    if error.is_library() {
                        self.handler.cut(Cut::Protocol);
                    }
                    return Err(());
                }
            }
        }
        while let State::Open(connection) = &mut self.state {
            match connection.poll_accept(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(arrived))) => self.arrived(arrived),
                Poll::Ready(None) => self.linger(),
                Poll::Ready(Some(Err(error))) if error.is_io() => return Err(()),
                Poll::Ready(Some(Err(error))) => {
                    if error.is_library() && self.wait != Wait::LastWords {
                        let verdict = self.link.borrow().guard.verdict();
                        self.handler.cut(verdict.unwrap_or_else(|| cause(&error)));
                    }
                    self.linger();
                }
            }
        }
        Ok(())
    }

    fn arrived(&mut self, arrived: (http::Request<RecvStream>, SendResponse<Chunk>)) {
        let limits = self.handler.limits();
        self.requests += 1;
        if limits.max_requests > 0 && self.requests >= limits.max_requests {
            self.close.set(true);
        }
        let faults = self.link.borrow().guard.faults.clone();
        let of_connection = (&self.stock, &faults);
        match Arrival::new(arrived, self.slot.another(), of_connection, &limits) {
            // Those that wait already go first.
            Ok(arrival) => self.waiting.push_back(arrival),
            Err(unwelcome) => self.refuse(*unwelcome),
        }
        self.begin_waiting();
    }

    fn refuse(&mut self, unwelcome: Unwelcome) {
        let Unwelcome { refusal, way } = unwelcome;
        let response = self.handler.refuse(refusal);
        self.streams.push(Stream::answered(response, way));
    }

    /// Begins what may begin; false where something has to wait.
    fn begin_waiting(&mut self) -> bool {
        while !self.waiting.is_empty() {
            if !self.pace.begin() {
                return false;
            }
            if let Some(arrival) = self.waiting.pop_front() {
                self.begin(arrival);
            }
        }
        true
    }

    fn begin(&mut self, arrival: Arrival) {
        let Arrival { head, connect, way } = arrival;
        let work = self.handler.handle(Request {
            head,
            downstream: way.exchange.clone(),
            began: None,
            slot: way.slot.clone(),
        });
        let stream = Stream::new(work, way, connect, self.close.clone());
        self.streams.push(stream);
    }

    /// Moves every stream that can move.
    fn poll_streams(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Poll::Ready(Some(finished)) = self.streams.poll_next_unpin(cx) {
                if finished.shed {
                    self.handler.cut(Cut::OverloadSlow);
                }
                if finished.paced {
                    self.pace.end(finished.given_up);
                }
            }
            if self.waiting.is_empty() {
                self.retry = None;
                return;
            }
            self.waiting
                .retain(|arrival| arrival.way.exchange.poll_gone(cx).is_pending());
            let before = self.waiting.len();
            if !self.begin_waiting() {
                let timers = &self.timers;
                let retry = self.retry.get_or_insert_with(|| timers.after(MOMENT));
                if retry.poll_expired(cx).is_ready() {
                    self.retry = None;
                    continue;
                }
            }
            if self.waiting.len() == before {
                return;
            }
        }
    }

    /// What was found out meanwhile about the connection as a whole.
    fn obey(&mut self) {
        let verdict = self.link.borrow().guard.verdict();
        if let Some(cut) = verdict
            && self.wait != Wait::LastWords
        {
            self.cut(cut);
        }
        if !self.closing && (self.close.get() || self.handler.closing()) {
            self.end_gracefully();
        }
    }

    /// Says GOAWAY, and goes on until nothing is left (RFC 9113 section 6.8).
    fn end_gracefully(&mut self) {
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
            self.closing = true;
            self.bell.waker().wake_by_ref();
        }
    }

    /// Says why, and drops everything.
    fn cut(&mut self, cause: Cut) {
        self.handler.cut(cause);
        let reason = match cause {
            Cut::Protocol => self.link.borrow().guard.reason(),
            _ => Reason::ENHANCE_YOUR_CALM,
        };
        self.last_words(reason);
    }

    fn last_words(&mut self, reason: Reason) {
        self.streams.clear();
        self.waiting.clear();
        self.closing = true;
        self.wait = Wait::LastWords;
        self.slot.set_close(clock::now() + LAST_WORDS, LAST_WORDS);
        if let State::Open(connection) = &mut self.state {
            connection.abrupt_shutdown(reason);
        }
        self.bell.waker().wake_by_ref();
    }

    /// `h2` has no more to say.
    fn linger(&mut self) {
        self.streams.clear();
        self.waiting.clear();
        self.wait = Wait::LastWords;
        self.slot.set_close(clock::now() + LAST_WORDS, LAST_WORDS);
        self.state = State::Lingering {
            dropped: 0,
            shut: false,
        };
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Lingering { dropped, shut } = &mut self.state else {
            return Poll::Ready(());
        };
        let mut link = self.link.borrow_mut();
        if !*shut {
            match link.poll_shutdown(cx) {
                Poll::Pending => return self.slot.poll_expired(cx),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => *shut = true,
            }
            self.slot.set_close(clock::now() + LINGER, LINGER);
        }
        if link.ended {
            return Poll::Ready(());
        }
        let mut scratch = Scratch::take();
        loop {
            match link.poll_discard(cx, &mut scratch) {
                Poll::Pending => return self.slot.poll_expired(cx),
                Poll::Ready(Ok(1..)) if *dropped > LINGER_BYTES => return Poll::Ready(()),
                Poll::Ready(Ok(count @ 1..)) => *dropped += count,
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }

    /// Nothing can move: what may end the wait.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(pings) = &mut self.pings
            && self.wait == Wait::Pong
        {
            // Any byte is a sign of life; this is only so that another may be sent.
            let _ = pings.poll_pong(cx);
        }
        let wait = self.wait();
        let received = self.link.borrow().received;
        let signs = matches!(wait, Wait::Sign) && received != self.heard;
        if wait != self.wait || signs || self.waited_at != self.requests {
            self.wait = wait;
            self.heard = received;
            self.waited_at = self.requests;
            let patience = self.patience(wait);
            let end = clock::now() + patience;
            match wait {
                Wait::Settings => self.slot.set_first(end, patience),
                Wait::Request => self.slot.set_idle(end, patience),
                _ => self.slot.set_end(end, patience),
            }
        }
        self.slot.awaits(awaits(wait), received);
        ready!(self.slot.poll_expired(cx));
        Poll::Ready(self.expired(received))
    }

    fn wait(&self) -> Wait {
        let link = self.link.borrow();
        if self.wait == Wait::LastWords {
            Wait::LastWords
        } else if !link.guard.is_settled() {
            Wait::Settings
        } else if link.guard.is_in_head() {
            Wait::Head
        } else if !self.streams.is_empty() || !self.waiting.is_empty() {
            match self.wait {
                Wait::Pong if link.received == self.heard => Wait::Pong,
                _ => Wait::Sign,
            }
        } else if self.closing {
            Wait::End
        } else {
            Wait::Request
        }
    }

    fn patience(&self, wait: Wait) -> Duration {
        match wait {
            Wait::Settings | Wait::Head => self.handler.limits().header_timeout,
            Wait::Request => self.handler.limits().idle_timeout,
            Wait::Sign => QUIET,
            Wait::Pong => PONG,
            Wait::End => LAST_REQUEST_GRACE,
            Wait::LastWords => LAST_WORDS,
        }
    }

    fn expired(&mut self, received: u64) -> Next {
        let shed = self.slot.is_shed();
        match self.wait {
            Wait::Settings => {
                if shed {
                    self.handler.cut(Cut::OverloadIdle);
                } else if received == 0 {
                    self.handler.idle_timeout();
                } else {
                    self.handler.cut(Cut::HeaderTimeout);
                }
                return Next::Drop;
            }
            Wait::Head if shed => self.cut(Cut::OverloadSlow),
            Wait::Head => self.cut(Cut::HeaderTimeout),
            Wait::Request => {
                if shed {
                    self.handler.cut(Cut::OverloadIdle);
                }
                self.end_gracefully();
            }
            Wait::End => self.last_words(Reason::NO_ERROR),
            Wait::Sign => self.ask_for_sign(received),
            Wait::Pong => {
                self.handler.cut(Cut::DeadPeer);
                return Next::Drop;
            }
            Wait::LastWords => return Next::Drop,
        }
        Next::Look
    }

    fn ask_for_sign(&mut self, received: u64) {
        if let Some(pings) = &mut self.pings {
            // Fails only where the last one is unanswered still.
            let _ = pings.send_ping(Ping::opaque());
        }
        self.wait = Wait::Pong;
        self.heard = received;
        self.slot.set_end(clock::now() + PONG, PONG);
        self.bell.waker().wake_by_ref();
    }
}

/// The same as the table of slots knows it.
fn awaits(wait: Wait) -> Awaits {
    match wait {
        Wait::Settings => Awaits::First,
        Wait::Request => Awaits::Idle,
        Wait::Head => Awaits::Bytes,
        Wait::Sign | Wait::Pong => Awaits::Nothing,
        Wait::End => Awaits::End,
        Wait::LastWords => Awaits::Close,
    }
}

/// What to do when a wait was too long.
enum Next {
    Look,
    Drop,
}

/// What `h2` ends a connection for.
fn cause(error: &h2::Error) -> Cut {
    match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => Cut::Limits,
        _ => Cut::Protocol,
    }
}
