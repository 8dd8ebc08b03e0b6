//! The pools of one or two workers on one thread, with connections that only say how they are.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use tokio::task::LocalSet;

use super::*;
use crate::config::model::Connections as Settings;

/// What a test holds of a connection that the pool has.
#[derive(Default)]
struct Wire {
    usable: Cell<bool>,
    closed: Cell<bool>,
}

struct Fake {
    wire: Rc<Wire>,
    hint: Option<Duration>,
}

impl Pooled for Fake {
    fn is_usable(&mut self, _waiter: Option<&mut Context<'_>>) -> bool {
        self.wire.usable.get()
    }

    fn keep_alive_hint(&self) -> Option<Duration> {
        self.hint
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.wire.closed.set(true);
    }
}

fn fake() -> (Fake, Rc<Wire>) {
    hinted(None)
}

fn hinted(hint: Option<u64>) -> (Fake, Rc<Wire>) {
    let wire = Rc::new(Wire {
        usable: Cell::new(true),
        closed: Cell::new(false),
    });
    (
        Fake {
            wire: wire.clone(),
            hint: hint.map(Duration::from_secs),
        },
        wire,
    )
}

fn settings() -> Settings {
    Settings {
        max_idle: 256,
        max_connections: None,
        idle_timeout: Some(Duration::from_secs(30)),
        max_lifetime: None,
    }
}

fn capped(max_connections: usize) -> Arc<ServerConnections> {
    ServerConnections::new(&Settings {
        max_connections: Some(max_connections),
        ..settings()
    })
}

fn dial(pools: &Rc<Pools<Fake>>, server: &Arc<ServerConnections>) -> Claim<Fake> {
    match pools.acquire(server, None) {
        Acquired::Dial(claim) => claim,
        Acquired::Kept(..) => panic!("nothing was kept"),
        Acquired::Full => panic!("there is room"),
    }
}

fn kept(pools: &Rc<Pools<Fake>>, server: &Arc<ServerConnections>) -> (Fake, Claim<Fake>) {
    match pools.acquire(server, None) {
        Acquired::Kept(connection, claim) => (connection, claim),
        _ => panic!("a connection is kept"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_again_avoids_connections_that_the_server_ends() {
    let (hub, server) = (Hub::new(), capped(2));
    let pools: Rc<Pools<Fake>> = Pools::new(&hub);
    let (connection, wire) = fake();
    dial(&pools, &server).check_in(connection);
    let once = || pools.acquire_for_once(&server, None);
    match once() {
        Acquired::Kept(connection, claim) => claim.check_in(connection),
        _ => panic!("nothing is known against it"),
    }

    wire.usable.set(false);
    let claim = dial(&pools, &server);
    let (connection, _wire) = fake();
    claim.check_in(connection);
    let Acquired::Dial(second) = once() else {
        panic!("the server ends what it keeps");
    };
    assert!(matches!(once(), Acquired::Kept(..)), "at the cap");
    drop(second);

    let (connection, _other) = fake();
    dial_or_kept(&pools, &server).check_in(connection);
    for _ in 0..32 {
        let (connection, claim) = kept(&pools, &server);
        claim.check_in(connection);
    }
    assert!(matches!(once(), Acquired::Kept(..)), "it kept them");
}

fn dial_or_kept(pools: &Rc<Pools<Fake>>, server: &Arc<ServerConnections>) -> Claim<Fake> {
    match pools.acquire(server, None) {
        Acquired::Dial(claim) | Acquired::Kept(_, claim) => claim,
        Acquired::Full => panic!("there is room"),
    }
}

/// Lets the pools' own tasks run for so long, on the paused clock.
async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_newest_usable_connection_is_taken() {
    let pools = Pools::new(&Hub::new());
    let server = ServerConnections::new(&settings());
    let wires: Vec<Rc<Wire>> = (0..3)
        .map(|_| fake())
        .map(|(connection, wire)| {
            pools.acquire_new(&server).claim().check_in(connection);
            wire
        })
        .collect();
    assert_eq!((server.open(), server.idle()), (3, 3));
    wires[2].usable.set(false);
    let (connection, _claim) = kept(&pools, &server);
    assert!(
        Rc::ptr_eq(&connection.wire, &wires[1]),
        "the newest one was stale"
    );
    assert!(wires[2].closed.get(), "the stale one is closed on the way");
    assert_eq!(server.active_and_idle(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_claim_gives_up_its_place() {
    let pools = Pools::<Fake>::new(&Hub::new());
    let server = capped(1);
    let claim = dial(&pools, &server);
    assert!(matches!(pools.acquire(&server, None), Acquired::Full));
    drop(claim);
    drop(dial(&pools, &server));
    assert_eq!(server.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_end_with_idle_timeout_or_a_second_before_the_server_would() {
    LocalSet::new()
        .run_until(async {
            let pools = Pools::new(&Hub::new());
            let server = ServerConnections::new(&settings());
            tokio::task::spawn_local(pools.clone().run());
            for (hint, open_at, closed_at) in [
                (None, 29.0, 31.0),
                (Some(5), 3.0, 4.6),
                (Some(60), 29.0, 31.0),
            ] {
                let (connection, wire) = hinted(hint);
                dial(&pools, &server).check_in(connection);
                pass(open_at).await;
                assert!(!wire.closed.get(), "open after {open_at}s with {hint:?}");
                pass(closed_at - open_at).await;
                assert!(wire.closed.get(), "closed after {closed_at}s with {hint:?}");
                assert_eq!(server.open(), 0);
            }
            let (connection, wire) = hinted(Some(1));
            dial(&pools, &server).check_in(connection);
            assert!(
                wire.closed.get(),
                "a server that waits a second leaves no time to keep it"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn max_lifetime_ends_a_connection_that_is_always_in_use() {
    LocalSet::new()
        .run_until(async {
            let pools = Pools::new(&Hub::new());
            let lifetime = Some(Duration::from_secs(10));
            let server = ServerConnections::new(&Settings {
                max_lifetime: lifetime,
                ..settings()
            });
            tokio::task::spawn_local(pools.clone().run());
            let (connection, wire) = fake();
            dial(&pools, &server).check_in(connection);
            for _ in 0..9 {
                pass(1.0).await;
                let (connection, claim) = kept(&pools, &server);
                claim.check_in(connection);
            }
            pass(2.0).await;
            assert!(wire.closed.get());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_the_server_ended_are_swept() {
    LocalSet::new()
        .run_until(async {
            let pools = Pools::new(&Hub::new());
            let server = ServerConnections::new(&settings());
            tokio::task::spawn_local(pools.clone().run());
            let (connection, wire) = fake();
            dial(&pools, &server).check_in(connection);
            wire.usable.set(false);
            pass(0.6).await;
            assert!(wire.closed.get());
            assert_eq!((server.open(), server.idle()), (0, 0));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn each_worker_keeps_its_share_of_max_idle_the_newest_ones() {
    let hub = Hub::new();
    let pools = Pools::new(&hub);
    let _other = Pools::<Fake>::new(&hub);
    for (max_idle, share) in [(4, 2), (1, 1)] {
        let server = ServerConnections::new(&Settings {
            max_idle,
            ..settings()
        });
        let claims: Vec<_> = (0..4).map(|_| dial(&pools, &server)).collect();
        let wires: Vec<_> = claims
            .into_iter()
            .map(|claim| {
                let (connection, wire) = fake();
                claim.check_in(connection);
                wire
            })
            .collect();
        assert_eq!(
            server.idle(),
            share,
            "of max-idle {max_idle} over two workers"
        );
        assert!(
            wires[0].closed.get() && !wires[3].closed.get(),
            "the oldest go first"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_closes_idle_ones_and_those_in_use_after_their_exchange() {
    LocalSet::new()
        .run_until(async {
            let pools = Pools::new(&Hub::new());
            let server = ServerConnections::new(&settings());
            tokio::task::spawn_local(pools.clone().run());
            let (busy, busy_wire) = fake();
            let busy_claim = dial(&pools, &server);
            let (idle, idle_wire) = fake();
            dial(&pools, &server).check_in(idle);
            server.reset();
            pass(0.001).await;
            assert!(idle_wire.closed.get(), "before the next sweep");
            assert!(!busy_wire.closed.get());
            busy_claim.check_in(busy);
            assert!(busy_wire.closed.get());
            assert_eq!(server.open(), 0);
            let (connection, wire) = fake();
            dial(&pools, &server).check_in(connection);
            pass(0.6).await;
            assert!(
                !wire.closed.get(),
                "what was opened after the reset is kept"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_knows_any_more_is_forgotten() {
    LocalSet::new()
        .run_until(async {
            let pools = Pools::new(&Hub::new());
            let server = ServerConnections::new(&settings());
            tokio::task::spawn_local(pools.clone().run());
            let (connection, wire) = fake();
            dial(&pools, &server).check_in(connection);
            let last = Arc::downgrade(&server);
            drop(server);
            pass(0.6).await;
            assert!(wire.closed.get());
            assert!(last.upgrade().is_none(), "nothing of it is left");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_another_worker_closes_an_idle_one() {
    LocalSet::new()
        .run_until(async {
            let hub = Hub::new();
            let (ours, theirs) = (Pools::<Fake>::new(&hub), Pools::<Fake>::new(&hub));
            tokio::task::spawn_local(theirs.clone().run());
            let server = capped(2);
            let told = Arc::new(AtomicUsize::new(0));
            server.on_room(Box::new({
                let told = told.clone();
                move || {
                    told.fetch_add(1, Ordering::Relaxed);
                    false
                }
            }));
            let claims = [dial(&theirs, &server), dial(&theirs, &server)];
            let wires: Vec<_> = claims
                .into_iter()
                .map(|claim| {
                    let (connection, wire) = fake();
                    claim.check_in(connection);
                    wire
                })
                .collect();
            assert!(!ours.can_carry(&server));
            assert!(theirs.can_carry(&server));
            assert!(matches!(ours.acquire(&server, None), Acquired::Full));
            pass(0.001).await;
            assert_eq!(
                told.load(Ordering::Relaxed),
                1,
                "the queue hears of it once"
            );
            assert!(
                wires[0].closed.get() && !wires[1].closed.get(),
                "one is enough, the oldest"
            );
            assert!(ours.can_carry(&server));
            drop(dial(&ours, &server));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn each_wish_closes_one_and_the_queue_hears_of_room_while_it_waits() {
    LocalSet::new()
        .run_until(async {
            let hub = Hub::new();
            let (ours, theirs) = (Pools::<Fake>::new(&hub), Pools::<Fake>::new(&hub));
            tokio::task::spawn_local(theirs.clone().run());
            let server = capped(4);
            let told = Arc::new(AtomicUsize::new(0));
            server.on_room(Box::new({
                let told = told.clone();
                move || {
                    told.fetch_add(1, Ordering::Relaxed);
                    true
                }
            }));
            let claims: Vec<_> = (0..4).map(|_| dial(&theirs, &server)).collect();
            for claim in claims {
                claim.check_in(fake().0);
            }
            for left in [3, 2] {
                ours.want(&server);
                pass(0.001).await;
                assert_eq!((server.open(), server.idle()), (left, left));
            }
            let (connection, claim) = kept(&theirs, &server);
            claim.check_in(connection);
            assert_eq!(
                told.load(Ordering::Relaxed),
                3,
                "two closed, one given back"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_given_back_while_one_is_wanted_is_told_to_the_queue() {
    let hub = Hub::new();
    let (ours, theirs) = (Pools::<Fake>::new(&hub), Pools::<Fake>::new(&hub));
    let server = capped(1);
    let told = Arc::new(AtomicUsize::new(0));
    server.on_room(Box::new({
        let told = told.clone();
        move || {
            told.fetch_add(1, Ordering::Relaxed);
            false
        }
    }));
    let claim = dial(&theirs, &server);
    assert!(matches!(ours.acquire(&server, None), Acquired::Full));
    claim.check_in(fake().0);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    let (connection, claim) = kept(&theirs, &server);
    claim.check_in(connection);
    assert_eq!(told.load(Ordering::Relaxed), 1, "nobody wants one any more");
}

#[test]
fn racing_workers_never_pass_the_cap() {
    let server = capped(3);
    let hub = Hub::new();
    let highest = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let pools = Pools::new(&hub);
                for round in 0..2000 {
                    match pools.acquire(&server, None) {
                        Acquired::Kept(connection, claim) => claim.check_in(connection),
                        Acquired::Dial(claim) => {
                            highest.fetch_max(server.open(), Ordering::Relaxed);
                            if round % 2 == 0 {
                                claim.check_in(fake().0);
                            }
                        }
                        Acquired::Full => pools.answer_wishes(),
                    }
                }
            });
        }
    });
    assert!(highest.load(Ordering::Relaxed) <= 3);
    assert_eq!((server.open(), server.idle()), (0, 0), "all pools are gone");
}

impl<C> Acquired<C> {
    fn claim(self) -> Claim<C> {
        match self {
            Acquired::Kept(_, claim) | Acquired::Dial(claim) => claim,
            Acquired::Full => panic!("there is room"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_another_worker_closes_an_idle_one_of_any_server() {
    let hub = Hub::new();
    let (one, other) = (Pools::new(&hub), Pools::<Fake>::new(&hub));
    let server = ServerConnections::new(&settings());
    assert!(!other.spare(), "nobody keeps any");
    let (claims, wires): (Vec<_>, Vec<_>) = (0..2).map(|_| (dial(&one, &server), fake())).unzip();
    let wires: Vec<_> = claims
        .into_iter()
        .zip(wires)
        .map(|(claim, (connection, wire))| {
            claim.check_in(connection);
            wire
        })
        .collect();
    let run = LocalSet::new();
    run.spawn_local(one.clone().run());
    let closed = || wires.iter().filter(|wire| wire.closed.get()).count();
    assert!(other.spare());
    assert!(!other.spare(), "it is asked already");
    run.run_until(tokio::time::sleep(Duration::from_millis(1)))
        .await;
    assert_eq!(closed(), 1, "one for each that is needed");
    assert!(one.spare() && !one.spare(), "its own at once");
    assert_eq!(closed(), 2);
}
