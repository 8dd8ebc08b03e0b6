//! A connection's life on a paused clock, against a server of raw frames.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::*;
use crate::message::{
    Abort, BodyError, Downstream, Frame, Known, Length, Method, RequestHead, ResponseHead, Version,
};
use crate::wire::client::{Answer, ExchangeError, Request};

const PING: u8 = 6;
const ACK: u8 = 1;

/// A request without a body.
struct Nothing;

impl Downstream for Nothing {
    fn length(&self) -> Length {
        Length::Exact(0)
    }

    fn poll_frame(&self, _cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        Poll::Ready(Ok(Frame::End))
    }

    fn poll_interim(&self, _cx: &mut Context<'_>, _head: &ResponseHead) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_gone(&self, _cx: &mut Context<'_>) -> Poll<Abort> {
        Poll::Pending
    }
}

/// The server: notes when pings come, and answers them where it is told to.
struct Server {
    answers: Cell<bool>,
    pings: RefCell<Vec<Instant>>,
    heads: Cell<u32>,
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

impl Server {
    async fn run(self: Rc<Self>, mut stream: UnixStream) {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.expect("a preface");
        stream
            .write_all(&frame(4, 0, 0, b""))
            .await
            .expect("settings");
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.expect("a payload");
            match head[3] {
                1 => self.heads.set(self.heads.get() + 1),
                PING if head[4] & ACK == 0 => {
                    self.pings.borrow_mut().push(Instant::now());
                    if self.answers.get() {
                        let answer = frame(PING, ACK, 0, &payload);
                        stream.write_all(&answer).await.expect("taken");
                    }
                }
                _ => {}
            }
        }
    }
}

async fn connected(answers: bool) -> (Connection, Rc<Server>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let server = Rc::new(Server {
        answers: Cell::new(answers),
        pings: RefCell::default(),
        heads: Cell::new(0),
    });
    tokio::task::spawn_local(server.clone().run(theirs));
    let connection = Connection::connect(Socket::from(ours), false)
        .await
        .expect("it speaks HTTP/2");
    (connection, server)
}

fn asked(connection: &Connection) -> Exchange {
    let mut head = RequestHead::new(Method::Get, Version::Http11, b"/");
    head.fields.append(Known::Host, b"a");
    let body: Rc<dyn Downstream> = Rc::new(Nothing);
    let request = Request {
        head: &head,
        body: &body,
        upgrade: None,
        te_trailers: false,
    };
    Exchange::start(connection.clone(), &request)
}

async fn answered(exchange: &mut Exchange) -> Result<Answer, ExchangeError> {
    poll_fn(|cx| exchange.poll_head(cx)).await
}

async fn on_a_worker(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_sign_of_life_is_given_up() {
    on_a_worker(async {
        let (connection, server) = connected(false).await;
        let start = Instant::now();
        let mut exchange = asked(&connection);
        let watched = connection.clone();
        let suspected = tokio::task::spawn_local(async move {
            while watched.is_usable() {
                sleep(Duration::from_millis(100)).await;
            }
            Instant::now()
        });
        let error = answered(&mut exchange).await.expect_err("it never answers");
        let took = start.elapsed();
        assert!(
            matches!(
                error,
                ExchangeError::Closed {
                    answered: false,
                    written: 1..
                }
            ),
            "{error:?}"
        );
        assert!(
            took > Duration::from_secs(12) && took < Duration::from_secs(15),
            "{took:?}"
        );
        let suspected = suspected.await.expect("no panic") - start;
        assert!(
            suspected < Duration::from_secs(4),
            "no further exchange after {suspected:?}"
        );
        assert_eq!(server.pings.borrow().len(), 1);
        assert!(connection.is_over());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_asked_no_more_than_it_bears() {
    on_a_worker(async {
        let (connection, server) = connected(true).await;
        let mut exchange = asked(&connection);
        let waiting = tokio::task::spawn_local(async move { answered(&mut exchange).await });
        sleep(Duration::from_secs(30 * 60)).await;
        assert!(!waiting.is_finished(), "it may take its time");
        assert!(connection.is_usable());
        let pings = server.pings.borrow().clone();
        let early = pings
            .iter()
            .filter(|at| at.elapsed() > Duration::from_secs(29 * 60));
        assert_eq!(early.count(), 2, "of {}", pings.len());
        let apart = pings.windows(2).skip(1).map(|pair| pair[1] - pair[0]);
        assert!(
            apart.min() > Some(Duration::from_secs(300)),
            "gRPC allows one in five minutes"
        );
        assert!((5..=8).contains(&pings.len()), "{}", pings.len());
    })
    .await;
}

/// Requests that follow each other put it off no more than one that waits alone.
#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_suspected_however_many_begin_on_it() {
    on_a_worker(async {
        let (connection, server) = connected(false).await;
        let start = Instant::now();
        let mut waiting = Vec::new();
        while connection.is_usable() && start.elapsed() < Duration::from_secs(20) {
            let mut exchange = asked(&connection);
            waiting.push(tokio::task::spawn_local(async move {
                let _ = tokio::time::timeout(Duration::from_secs(1), answered(&mut exchange)).await;
            }));
            sleep(Duration::from_millis(500)).await;
        }
        let suspected = start.elapsed();
        assert!(
            suspected < Duration::from_secs(5),
            "suspected after {suspected:?}"
        );
        assert_eq!(server.pings.borrow().len(), 1);
    })
    .await;
}

/// However short the timeouts are: where nothing came meanwhile, the server is asked at once.
#[tokio::test(start_paused = true)]
async fn an_exchange_that_is_not_answered_in_time_casts_doubt() {
    on_a_worker(async {
        for answers in [false, true] {
            let (connection, server) = connected(answers).await;
            let mut exchange = asked(&connection);
            let patience = Duration::from_millis(500);
            let answer = tokio::time::timeout(patience, answered(&mut exchange)).await;
            assert!(answer.is_err());
            exchange.doubt();
            drop(exchange);
            assert!(!connection.is_usable(), "answers: {answers}");
            sleep(Duration::from_millis(10)).await;
            assert_eq!(server.pings.borrow().len(), 1, "answers: {answers}");
            assert_eq!(connection.is_usable(), answers);
            sleep(Duration::from_secs(11)).await;
            assert_eq!(connection.is_over(), !answers, "answers: {answers}");
        }
    })
    .await;
}

/// A server that answers pings and nothing else is not asked for ever.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_doubted_too_often_is_used_no_more() {
    on_a_worker(async {
        let (connection, server) = connected(true).await;
        for round in 0..4 {
            assert!(!connection.is_over(), "round {round}");
            let mut exchange = asked(&connection);
            let patience = Duration::from_millis(500);
            let answer = tokio::time::timeout(patience, answered(&mut exchange)).await;
            assert!(answer.is_err());
            exchange.doubt();
            drop(exchange);
            sleep(Duration::from_millis(10)).await;
        }
        assert!(connection.is_over());
        assert_eq!(server.pings.borrow().len(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_left_alone() {
    on_a_worker(async {
        let (connection, server) = connected(true).await;
        sleep(Duration::from_secs(3600)).await;
        assert!(server.pings.borrow().is_empty());
        assert!(connection.is_usable());
        // One exchange later its time begins anew.
        let mut exchange = asked(&connection);
        let ends = tokio::time::timeout(Duration::from_secs(2), answered(&mut exchange)).await;
        assert!(ends.is_err());
        assert!(server.pings.borrow().is_empty());
        drop(exchange);
        sleep(Duration::from_secs(60)).await;
        assert!(server.pings.borrow().is_empty(), "nothing is awaited");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection() {
    on_a_worker(async {
        let (connection, _server) = connected(true).await;
        let closed = Rc::new(());
        connection.keep_until_closed(Box::new(closed.clone()));
        let other = connection.clone();
        drop(connection);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(Rc::strong_count(&closed), 2);
        drop(other);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(Rc::strong_count(&closed), 1);
    })
    .await;
}
