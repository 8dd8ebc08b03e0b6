//! Connections that carry many exchanges, in the pools of workers on one thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::config::model::{Connections as Settings, Protocol};

/// What a test holds of a connection.
struct Wire {
    places: Cell<usize>,
    over: Cell<bool>,
    handles: Cell<usize>,
    claim: RefCell<Option<Box<dyn Any>>>,
}

/// A handle on it.
struct Fake(Rc<Wire>);

impl Fake {
    fn with(places: usize) -> (Self, Rc<Wire>) {
        let wire = Rc::new(Wire {
            places: Cell::new(places),
            over: Cell::new(false),
            handles: Cell::new(1),
            claim: RefCell::default(),
        });
        (Fake(wire.clone()), wire)
    }
}

impl Wire {
    fn is_closed(&self) -> bool {
        self.claim.borrow().is_none()
    }

    /// The server ends it.
    fn close(&self) {
        self.over.set(true);
        drop(self.claim.take());
    }
}

impl Pooled for Fake {
    fn is_usable(&mut self, _waiter: Option<&mut Context<'_>>) -> bool {
        !self.0.over.get()
    }

    fn keep_alive_hint(&self) -> Option<Duration> {
        None
    }

    fn share(&self) -> Option<Self> {
        if self.0.places.get() == 1 {
            return None;
        }
        self.0.handles.set(self.0.handles.get() + 1);
        Some(Fake(self.0.clone()))
    }

    fn places(&self) -> usize {
        self.0.places.get()
    }

    fn is_over(&self) -> bool {
        self.0.over.get()
    }

    fn keep_until_closed(&self, claim: Box<dyn Any>) {
        *self.0.claim.borrow_mut() = Some(claim);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.0.handles.set(self.0.handles.get() - 1);
        if self.0.handles.get() == 0 {
            self.0.close();
        }
    }
}

type Taken = (Fake, Claim<Fake>);

fn server(change: impl FnOnce(&mut Settings)) -> Arc<ServerConnections> {
    let mut settings = Settings {
        max_idle: 256,
        max_connections: None,
        idle_timeout: Some(Duration::from_secs(30)),
        max_lifetime: None,
    };
    change(&mut settings);
    let server = ServerConnections::new(&settings);
    server.speak(Protocol::H2);
    server
}

fn dial(pools: &Rc<Pools<Fake>>, server: &Arc<ServerConnections>) -> Claim<Fake> {
    match pools.acquire(server, None) {
        Acquired::Dial(claim) => claim,
        Acquired::Kept(..) => panic!("there is room on a line"),
        Acquired::Full => panic!("at the cap"),
    }
}

fn place(pools: &Rc<Pools<Fake>>, server: &Arc<ServerConnections>) -> Taken {
    match pools.acquire(server, None) {
        Acquired::Kept(connection, claim) => (connection, claim),
        Acquired::Dial(_) => panic!("no room on any line"),
        Acquired::Full => panic!("at the cap"),
    }
}

fn opened(
    pools: &Rc<Pools<Fake>>,
    server: &Arc<ServerConnections>,
    places: usize,
) -> (Taken, Rc<Wire>) {
    let mut claim = dial(pools, server);
    assert!(claim.waits().is_none(), "it is the one to dial");
    let (connection, wire) = Fake::with(places);
    let first = claim.opened(connection);
    ((first, claim), wire)
}

fn polled(claim: &Claim<Fake>) -> Poll<Outcome> {
    let wait = claim.waits().expect("it waits");
    wait.poll(&mut Context::from_waker(Waker::noop()))
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_is_filled_before_another_is_opened() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let (first, wire) = opened(&pools, &server, 3);
    let second = place(&pools, &server);
    let third = place(&pools, &server);
    assert_eq!(server.active_and_idle(), (1, 0), "one connection");
    let claim = dial(&pools, &server);
    assert_eq!(server.open(), 2);
    drop(claim);

    for (connection, claim) in [first, second, third] {
        claim.check_in(connection);
    }
    assert_eq!(server.active_and_idle(), (0, 1));
    assert!(!wire.is_closed());
    let _again = place(&pools, &server);
    assert_eq!(server.active_and_idle(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_dial_as_far_as_its_line_will_carry_them() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let (first, _wire) = opened(&pools, &server, 2);
    let _second = place(&pools, &server);

    let mut dialling = dial(&pools, &server);
    let waiting = dial(&pools, &server);
    assert!(polled(&waiting).is_pending());
    assert_eq!(server.open(), 2, "one that waits opens none");
    let other = dial(&pools, &server);
    assert!(other.waits().is_none(), "no room for a third on what comes");

    let (connection, _wire) = Fake::with(2);
    let _third = dialling.opened(connection);
    assert!(matches!(polled(&waiting), Poll::Ready(Outcome::Over)));
    drop(waiting);
    let _fourth = place(&pools, &server);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_hears_of_a_failure_and_goes_on_where_nobody_dials() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let mut dialling = dial(&pools, &server);
    let (first, second) = (dial(&pools, &server), dial(&pools, &server));
    dialling.failed(&Arc::new(ConnectError::Refused));
    drop(dialling);
    for waiting in [first, second] {
        let Poll::Ready(Outcome::Failed(error)) = polled(&waiting) else {
            panic!("it failed for all of them");
        };
        assert!(matches!(*error, ConnectError::Refused));
    }
    assert_eq!(server.open(), 0);

    let dialling = dial(&pools, &server);
    let waiting = dial(&pools, &server);
    drop(dialling);
    assert!(matches!(polled(&waiting), Poll::Ready(Outcome::Over)));
    drop(waiting);
    assert!(
        dial(&pools, &server).waits().is_none(),
        "the next one dials"
    );
}

#[tokio::test(start_paused = true)]
async fn what_carries_one_exchange_at_a_time_is_waited_for_once() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    server.speak(Protocol::Auto);
    let pools = Pools::new(&hub);
    let mut dialling = dial(&pools, &server);
    let waiting = dial(&pools, &server);
    let (connection, wire) = Fake::with(1);
    let connection = dialling.opened(connection);
    assert!(matches!(polled(&waiting), Poll::Ready(Outcome::Over)));
    drop(waiting);
    let next = dial(&pools, &server);
    assert!(next.waits().is_none());
    assert!(
        dial(&pools, &server).waits().is_none(),
        "nobody waits for a place that there will not be"
    );
    dialling.check_in(connection);
    assert!(!wire.over.get(), "it is kept");
    let _kept = place(&pools, &server);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_over_takes_nothing_and_ends_with_what_it_carries() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let (taken, wire) = opened(&pools, &server, 9);
    wire.over.set(true);
    let claim = dial(&pools, &server);
    assert!(!wire.is_closed(), "its exchange goes on");
    assert_eq!(server.open(), 2);
    drop(taken);
    assert!(wire.is_closed());
    assert_eq!(server.open(), 1);
    drop(claim);
    assert_eq!(server.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_its_server_ends_is_free_for_another_at_once() {
    let (hub, server) = (
        Hub::new(),
        server(|settings| settings.max_connections = Some(1)),
    );
    let pools = Pools::new(&hub);
    let (_taken, wire) = opened(&pools, &server, 1 + 1);
    let _second = place(&pools, &server);
    assert!(matches!(pools.acquire(&server, None), Acquired::Full));
    wire.close();
    assert!(dial(&pools, &server).waits().is_none());
}

#[tokio::test(start_paused = true)]
async fn idle_lines_end_in_time_and_busy_ones_after_their_last_exchange() {
    let (hub, server) = (
        Hub::new(),
        server(|settings| settings.max_lifetime = Some(Duration::from_secs(60))),
    );
    let pools = Pools::new(&hub);
    let ((connection, claim), idle) = opened(&pools, &server, 9);
    claim.check_in(connection);
    pass(29).await;
    pools.sweep();
    assert!(!idle.is_closed());
    pass(2).await;
    pools.sweep();
    assert!(idle.is_closed(), "idle-timeout");
    assert_eq!(server.active_and_idle(), (0, 0));

    let (taken, busy) = opened(&pools, &server, 9);
    pass(61).await;
    pools.sweep();
    assert!(!busy.is_closed(), "it carries something");
    assert!(dial(&pools, &server).waits().is_none(), "max-lifetime");
    drop(taken);
    assert!(busy.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_lines_after_what_they_carry() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let (taken, wire) = opened(&pools, &server, 9);
    server.speak(Protocol::Http1);
    assert!(dial(&pools, &server).waits().is_none());
    pools.sweep();
    assert!(!wire.is_closed());
    drop(taken);
    assert!(wire.is_closed());
}

#[tokio::test(start_paused = true)]
async fn max_idle_holds_for_lines() {
    let (hub, server) = (Hub::new(), server(|settings| settings.max_idle = 1));
    let pools = Pools::new(&hub);
    let (first, one) = opened(&pools, &server, 2);
    let second = place(&pools, &server);
    let (third, two) = opened(&pools, &server, 2);
    drop((first, second));
    assert!(!one.is_closed());
    drop(third);
    assert!(two.is_closed(), "its share is one");
    assert_eq!(server.active_and_idle(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_a_busy_line_yields_to_another_worker() {
    let (hub, server) = (
        Hub::new(),
        server(|settings| settings.max_connections = Some(1)),
    );
    let (one, other) = (Pools::new(&hub), Pools::new(&hub));
    let (first, wire) = opened(&one, &server, 9);
    let second = place(&one, &server);
    assert!(matches!(other.acquire(&server, None), Acquired::Full));
    one.answer_wishes();
    assert!(
        matches!(one.acquire(&server, None), Acquired::Full),
        "it takes nothing further"
    );
    drop((first, second));
    assert!(wire.is_closed());
    let _theirs = opened(&other, &server, 9);

    // Where its exchanges last, it goes on.
    assert!(matches!(one.acquire(&server, None), Acquired::Full));
    other.answer_wishes();
    other.sweep();
    let _goes_on = place(&other, &server);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_knows_any_more_is_forgotten() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let (taken, wire) = opened(&pools, &server, 9);
    drop(server);
    pools.sweep();
    assert!(!wire.is_closed(), "an exchange holds it");
    drop(taken);
    pools.sweep();
    assert!(wire.is_closed());
    assert!(pools.kept.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn stopping_closes_idle_lines_and_leaves_busy_ones_to_their_exchanges() {
    let (hub, server) = (Hub::new(), server(|_| {}));
    let pools = Pools::new(&hub);
    let (taken, wire) = opened(&pools, &server, 9);
    pools.close_idle();
    assert!(!wire.is_closed());
    drop(taken);
    assert!(wire.is_closed());
    assert_eq!(server.open(), 0);
}
