//! The one task that moves live state: breakers, slow start, verdicts, panic and orders.
//!
//! Requests and checks only flip a word and say so ([`Common::touch`]); many flips are one look.
//! [`step`] is that look: a function of the live state and the time that swaps in the set that
//! follows from them, logs what happened, and says when it wants to look again. Reloads and the
//! admin API call it too, so that their change is there when they return; the upstream's stepping
//! lock keeps them apart.
//!
//! An open breaker protects clients from a server while others serve them. When open breakers are
//! all that stands between requests and the upstream, waiting protects nobody, and [`shorten`] ends
//! it: a server that failed checks or could not be reached, and now passes one or takes a
//! connection ([`knock`](super::knock)), goes half-open at once. From there on all is as ever: as
//! many probes, as many successes, slow start.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use tokio::time::Instant;

use crate::config::model::{Balance, BreakerMode};
use crate::telemetry::{BreakerReading, events};
use crate::upstream::breaker::{self, Cause, Places, Transition};
use crate::upstream::common::lock;
use crate::upstream::health::verdict::Standing;
use crate::upstream::knock::Knocks;
use crate::upstream::plan::{Facts, Plan, Role, plan};
use crate::upstream::server::Server;
use crate::upstream::slow_start;
use crate::upstream::upstream::Upstream;

#[cfg(doc)]
use crate::upstream::common::Common;

/// Brings an upstream up to `now`; when to come again, if nothing happens before.
pub(super) fn step(upstream: &Upstream, now: Instant) -> Option<Instant> {
    let common = upstream.common();
    let mut shown = lock(&common.stepping);
    if upstream.succeeded() {
        // A reload was faster than this look; its own look knows all that this one would.
        return common.due();
    }
    tick_breakers(upstream, now);
    let roster = upstream.roster();
    for (server, facts) in roster.servers.iter().zip(upstream.facts(now)) {
        ramp(upstream, server, &facts, now);
    }
    let mut facts = upstream.facts(now);
    let threshold = upstream.config().panic_threshold;
    let mut next = plan(&facts, threshold, shown.panic);
    if shorten(upstream, &next, now) {
        facts = upstream.facts(now);
        next = plan(&facts, threshold, shown.panic);
    }
    settle_places(upstream, &facts);
    note_kept_out(upstream, &facts, &next);
    if next.panic != shown.panic {
        shown.panic = next.panic;
        events::panic(upstream.name(), next.panic);
    }
    let sheds_until = common.sheds_until(common.ms(now));
    if sheds_until.is_some() != shown.sheds {
        shown.sheds = sheds_until.is_some();
        events::shedding(upstream.name(), shown.sheds, upstream.queue_length());
    }
    upstream.follow(next);
    // The new set is ordered before the look at the queue, as a freed slot is.
    fence(Ordering::SeqCst);
    common.room_made();
    let sheds_until = sheds_until.map(|until| common.at_ms(until));
    common.set_due(due(upstream, now).into_iter().chain(sheds_until).min());
    common.due()
}

/// Open to half-open when the time is up, and everything that workers flipped since the last look.
fn tick_breakers(upstream: &Upstream, now: Instant) {
    let common = upstream.common();
    let settings = &upstream.config().breaker;
    // What workers did comes first: a tick follows from it.
    for (server, transition) in common.take_transitions() {
        log(&server, &transition);
    }
    for server in upstream.servers().iter() {
        let moved = server
            .breaker()
            .tick(common.ms(now), settings, common.places());
        if let Some(transition) = moved {
            log(server, &transition);
        }
    }
}

/// Ends the wait for open breakers where they alone keep requests from the upstream; whether it
/// moved one.
fn shorten(upstream: &Upstream, next: &Plan, now: Instant) -> bool {
    let alone = !upstream.is_replaced() && !takes_requests(upstream, next, now);
    let mut moved = false;
    for (server, role) in upstream.servers().iter().zip(&next.roles) {
        let waits = alone && *role == Role::Open;
        let hurried = match waits {
            true => server.breaker().hurry(&upstream.config().breaker),
            false => None,
        };
        if let Some(transition) = &hurried {
            log(server, transition);
            moved = true;
        }
        let knocks = &mut lock(&server.control).knocks;
        if !waits || hurried.is_some() {
            *knocks = None;
        } else if knocks.is_none() {
            *knocks = Some(Knocks::at(server));
        }
    }
    moved
}

/// Some server serves: one in rotation that is not there only because `max-ejected` had no place
/// for it, or one that is half-open and has a probe left.
fn takes_requests(upstream: &Upstream, next: &Plan, now: Instant) -> bool {
    let settings = &upstream.config().breaker;
    let now_ms = upstream.common().ms(now);
    let takes = |(server, role): (&Arc<Server>, &Role)| match role {
        Role::InRotation => !server.breaker().is_withheld(now_ms, settings),
        Role::HalfOpen => server.breaker().would_admit(settings),
        _ => false,
    };
    upstream.servers().iter().zip(&next.roles).any(takes)
}

/// Starts, restarts and ends slow start.
///
/// It follows a recovery, by checks or breaker, and joining others; not an edit of a weight, the
/// end of a drain, or the start of the process.
fn ramp(upstream: &Upstream, server: &Server, facts: &Facts, now: Instant) {
    let config = upstream.config();
    let ejected = facts.breaker != breaker::State::Closed;
    let usable = facts.standing.usable();
    let mut control = lock(&server.control);
    let reopened = control.ejected && config.breaker.mode == BreakerMode::On;
    let recovered = reopened || !control.usable;
    control.ejected = ejected;
    control.usable = usable;
    if facts.weight == 0 || facts.draining {
        control.joining = false;
    }
    if ejected || !usable {
        control.ramp_since = None;
        return;
    }
    let off = config.slow_start.is_zero() || matches!(config.balance, Balance::Hash(_));
    let starts = recovered || control.joining;
    control.joining = false;
    if off {
        control.ramp_since = None;
    } else if starts {
        control.ramp_since = Some(now);
        events::slow_start(upstream.name(), server.label(), true);
    } else if let Some(since) = control.ramp_since
        && slow_start::tenths(now.saturating_duration_since(since), config.slow_start) >= 10
    {
        control.ramp_since = None;
        events::slow_start(upstream.name(), server.label(), false);
    }
}

/// `max-ejected` counts the servers that have weight, are not draining and no backups.
fn settle_places(upstream: &Upstream, facts: &[Facts]) {
    let places = upstream.common().places();
    let counted = facts.iter().filter(|facts| facts.counted()).count();
    places.set_limit(Places::limit(
        counted,
        upstream.config().breaker.max_ejected,
    ));
    let roster = upstream.roster();
    let scale = f64::from(roster.seats.scale);
    for (server, facts) in roster.servers.iter().zip(facts) {
        server.breaker().settle_place(facts.counted(), places);
        server.set_weight(f64::from(facts.weight) / scale);
    }
}

/// Tells waiting attempts that checks took their server out: the moment from which checks keep it
/// from taking requests, which in panic they do not.
fn note_kept_out(upstream: &Upstream, facts: &[Facts], next: &Plan) {
    for (server, facts) in upstream.servers().iter().zip(facts) {
        let keeps_out = facts.standing == Standing::Unhealthy && !next.panic;
        let mut control = lock(&server.control);
        if keeps_out && !control.kept_out {
            server.take_out();
        }
        control.kept_out = keeps_out;
    }
}

/// The next moment at which time alone changes something.
fn due(upstream: &Upstream, now: Instant) -> Option<Instant> {
    let whole = upstream.config().slow_start;
    let of_server = |server: &Arc<Server>| {
        let since = lock(&server.control).ramp_since;
        let step = since.and_then(|since| {
            slow_start::until_next_step(now.saturating_duration_since(since), whole)
        });
        let step = step.map(|wait| now + wait);
        let probe = upstream.half_open_at(server, now);
        step.into_iter().chain(probe).min()
    };
    upstream.servers().iter().filter_map(of_server).min()
}

fn log(server: &Server, transition: &Transition) {
    let (upstream, label) = (&**server.upstream(), &**server.label());
    let moved = |to, cause: &str| events::breaker(upstream, label, server.metrics(), to, &cause);
    match transition {
        Transition::Opened { cause, .. } => moved(BreakerReading::Open, text(*cause)),
        Transition::Reopened { .. } => moved(BreakerReading::Open, "a probe failed"),
        Transition::HalfOpened => moved(BreakerReading::HalfOpen, "its time is over"),
        Transition::Hurried => moved(
            BreakerReading::HalfOpen,
            "it answers again and no other server takes requests",
        ),
        Transition::Closed => moved(BreakerReading::Closed, "the probes succeeded"),
        Transition::Withheld { .. } => {
            events::breaker_held(upstream, label, "max-ejected is reached");
        }
        Transition::WouldOpen { .. } => events::breaker_held(upstream, label, "mode is watch"),
    }
}

fn text(cause: Cause) -> &'static str {
    match cause {
        Cause::ConsecutiveFailures => "consecutive failures",
        Cause::FailureRatio => "share of failures",
        Cause::SlowRatio => "share of slow responses",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model;
    use crate::upstream::testing::{
        config, fail, health, pick, publish, registry, sequence, server, verdict,
    };
    use crate::util::units::Percent;

    const TEN: Duration = Duration::from_secs(10);

    fn checked(servers: &[(u16, u32)]) -> model::Upstream {
        model::Upstream {
            health: Some(health()),
            ..config(servers)
        }
    }

    fn ramping(config: model::Upstream) -> model::Upstream {
        model::Upstream {
            slow_start: TEN,
            ..config
        }
    }

    /// Of the second server.
    fn tenths(upstream: &Upstream) -> u32 {
        upstream.facts(Instant::now())[1].tenths
    }

    fn roles(upstream: &Upstream) -> Vec<Role> {
        upstream.set().roles().to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_opens_lets_probes_through_and_closes_into_slow_start() {
        let registry = registry();
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 1)])));
        let failing = upstream.servers()[1].clone();
        fail(&failing, upstream.config(), 5);
        let due = registry.look(Instant::now()).expect("the probe's time");
        assert_eq!(roles(&upstream), [Role::InRotation, Role::Open]);
        assert_eq!(sequence(&upstream, 4), [1, 1, 1, 1]);

        tokio::time::sleep_until(due).await;
        assert_eq!(registry.look(Instant::now()), None);
        assert_eq!(roles(&upstream), [Role::InRotation, Role::HalfOpen]);
        for _ in 0..3 {
            let mut probe = failing
                .claim(9, &upstream.config().breaker)
                .expect("a probe");
            probe.answered(Instant::now(), Duration::ZERO, 200);
        }
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::InRotation, Role::InRotation]);
        assert_eq!(tenths(&upstream), 1);
        let taken = sequence(&upstream, 110)
            .iter()
            .filter(|port| **port == 2)
            .count();
        assert_eq!(taken, 10, "a tenth of its weight next to a whole one");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_start_takes_ten_steps_and_wakes_for_each() {
        let registry = registry();
        let upstream = publish(&registry, ramping(checked(&[(1, 1), (2, 1)])));
        verdict(&upstream.servers()[1], Standing::Unhealthy);
        registry.look(Instant::now());
        verdict(&upstream.servers()[1], Standing::Healthy);
        let mut due = registry.look(Instant::now());
        let mut seen = vec![tenths(&upstream)];
        while let Some(next) = due {
            tokio::time::sleep_until(next).await;
            due = registry.look(Instant::now());
            seen.push(tenths(&upstream));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_flipped_is_seen_by_the_running_task() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
        let task = tokio::spawn(registry.clone().run());
        fail(&upstream.servers()[1], upstream.config(), 5);
        for role in [Role::Open, Role::HalfOpen] {
            let seen = async {
                while roles(&upstream)[1] != role {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::time::timeout(TEN * 2, seen)
                .await
                .expect("the order follows");
        }
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_added_next_to_others_starts_slowly_and_an_edit_does_not() {
        let registry = registry();
        publish(&registry, ramping(config(&[(1, 1)])));
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 1)])));
        assert_eq!(tenths(&upstream), 1);
        tokio::time::advance(TEN).await;
        registry.look(Instant::now());
        assert_eq!(tenths(&upstream), 10);
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 5)])));
        assert_eq!(tenths(&upstream), 10, "a weight edit");
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 0)])));
        assert_eq!(tenths(&upstream), 10);
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 1)])));
        assert_eq!(tenths(&upstream), 10, "weight 0 to 1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_goes_on_over_a_reload() {
        let registry = registry();
        publish(&registry, ramping(config(&[(1, 1)])));
        publish(&registry, ramping(config(&[(1, 1), (2, 1)])));
        tokio::time::advance(Duration::from_secs(5)).await;
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 3)])));
        assert_eq!(tenths(&upstream), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_are_all_new_do_not_start_slowly() {
        let registry = registry();
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 1)])));
        assert_eq!(tenths(&upstream), 10);
        let upstream = publish(&registry, ramping(config(&[(3, 1), (4, 1)])));
        assert_eq!(tenths(&upstream), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_undrained_server_does_not_start_slowly() {
        let registry = registry();
        let mut drained = ramping(config(&[(1, 1), (2, 1)]));
        drained.servers[1].drain = true;
        publish(&registry, ramping(config(&[(1, 1)])));
        publish(&registry, drained);
        let upstream = publish(&registry, ramping(config(&[(1, 1), (2, 1)])));
        assert_eq!(tenths(&upstream), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_added_server_waits_for_its_first_pass_and_then_starts_slowly() {
        let registry = registry();
        publish(&registry, ramping(checked(&[(1, 1)])));
        let upstream = publish(&registry, ramping(checked(&[(1, 1), (2, 1)])));
        assert_eq!(roles(&upstream), [Role::InRotation, Role::Waiting]);
        verdict(&upstream.servers()[1], Standing::Healthy);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::InRotation, Role::InRotation]);
        assert_eq!(tenths(&upstream), 1);
    }

    #[tokio::test]
    async fn servers_of_a_new_upstream_are_usable_at_once() {
        let upstream = publish(&registry(), checked(&[(1, 1), (2, 1)]));
        assert_eq!(roles(&upstream), [Role::InRotation, Role::InRotation]);
    }

    #[tokio::test]
    async fn a_server_that_replaces_a_draining_one_does_not_wait() {
        let registry = registry();
        publish(&registry, checked(&[(1, 1)]));
        let mut next = checked(&[(1, 1), (2, 1)]);
        next.servers[0].drain = true;
        let upstream = publish(&registry, next);
        assert_eq!(roles(&upstream), [Role::Draining, Role::InRotation]);
    }

    #[tokio::test]
    async fn a_lease_learns_that_checks_took_its_server_out() {
        let registry = registry();
        let upstream = publish(&registry, checked(&[(1, 1), (2, 1)]));
        let (first, second) = (pick(&upstream).unwrap(), pick(&upstream).unwrap());
        verdict(first.server(), Standing::Healthy);
        verdict(second.server(), Standing::Unhealthy);
        registry.look(Instant::now());
        assert!(!first.taken_out());
        assert!(second.taken_out());
    }

    #[tokio::test]
    async fn panic_takes_nobody_out_until_it_ends() {
        let registry = registry();
        let upstream = publish(&registry, checked(&[(1, 1), (2, 1)]));
        let (first, second) = (pick(&upstream).unwrap(), pick(&upstream).unwrap());
        verdict(first.server(), Standing::Unhealthy);
        verdict(second.server(), Standing::Unhealthy);
        registry.look(Instant::now());
        assert!(upstream.set().panic());
        assert_eq!(roles(&upstream), [Role::InRotation, Role::InRotation]);
        assert!(!first.taken_out() && !second.taken_out());
        verdict(first.server(), Standing::Healthy);
        registry.look(Instant::now());
        assert!(!upstream.set().panic());
        assert!(!first.taken_out() && second.taken_out());
    }

    #[tokio::test(start_paused = true)]
    async fn places_follow_what_counts() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1), (2, 1), (3, 1)]));
        let places = upstream.common().places();
        for server in upstream.servers().iter() {
            fail(server, upstream.config(), 5);
        }
        registry.look(Instant::now());
        assert_eq!(places.taken(), 1, "half of three, rounded down");
        let mut drained = config(&[(1, 1), (2, 1), (3, 1)]);
        drained.servers[0].drain = true;
        let upstream = publish(&registry, drained);
        assert_eq!(places.taken(), 0, "a draining server does not count");
        fail(&upstream.servers()[1], upstream.config(), 5);
        assert_eq!(places.taken(), 1);
        publish(&registry, config(&[(3, 1)]));
        assert_eq!(places.taken(), 0, "a removed server gives its place back");
    }

    #[tokio::test]
    async fn a_lone_server_may_open() {
        let registry = registry();
        let mut alone = config(&[(1, 1)]);
        alone.breaker.max_ejected = Percent::from_fraction(0.1);
        let upstream = publish(&registry, alone);
        fail(&upstream.servers()[0], upstream.config(), 5);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::Open]);
    }

    #[tokio::test]
    async fn a_breaker_that_is_switched_off_closes() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
        fail(&upstream.servers()[0], upstream.config(), 5);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream)[0], Role::Open);
        let mut off = config(&[(1, 1), (2, 1)]);
        off.breaker.mode = BreakerMode::Off;
        off.servers.push(server(3, 1));
        let upstream = publish(&registry, off);
        assert_eq!(roles(&upstream)[0], Role::InRotation);
        assert_eq!(upstream.common().places().taken(), 0);
    }

    fn passes(server: &Server) {
        verdict(server, Standing::Healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_passed_check_ends_the_wait_for_the_only_server() {
        let registry = registry();
        let upstream = publish(&registry, ramping(checked(&[(1, 1)])));
        let server = upstream.servers()[0].clone();
        passes(&server);
        fail(&server, upstream.config(), 5);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::Open], "passed before the trip");
        passes(&server);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::HalfOpen]);
        for _ in 0..3 {
            let mut probe = pick(&upstream).expect("a probe");
            probe.answered(Instant::now(), Duration::ZERO, 200);
        }
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::InRotation]);
        assert_eq!(upstream.facts(Instant::now())[0].tenths, 1, "and ramps");
    }

    #[tokio::test(start_paused = true)]
    async fn checks_and_breaker_are_strangers_while_another_server_serves() {
        let registry = registry();
        let upstream = publish(&registry, checked(&[(1, 1), (2, 1)]));
        let [first, second] = &upstream.servers()[..] else {
            panic!("two servers");
        };
        fail(first, upstream.config(), 5);
        registry.look(Instant::now());
        passes(first);
        passes(second);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::Open, Role::InRotation]);
        assert!(lock(&first.control).knocks.is_none());

        // `max-ejected` has no place for it.
        fail(second, upstream.config(), 5);
        registry.look(Instant::now());
        assert_eq!(roles(&upstream), [Role::HalfOpen, Role::InRotation]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connect_ends_the_wait_for_a_server_that_could_not_be_reached() {
        use crate::upstream::FailureKind::{BadResponse, Connect, Reset};
        for (kind, half_opens) in [(Connect, true), (Reset, true), (BadResponse, false)] {
            let registry = registry();
            let upstream = publish(&registry, config(&[(1, 1)]));
            let server = upstream.servers()[0].clone();
            for _ in 0..5 {
                let mut lease = pick(&upstream).expect("closed");
                lease.failure(Instant::now(), Duration::ZERO, kind);
            }
            registry.look(Instant::now());
            assert_eq!(roles(&upstream), [Role::Open]);
            assert!(lock(&server.control).knocks.is_some(), "{kind:?}");
            let opened = server.breaker().opened().expect("it is open");
            assert_eq!(server.reached(opened), half_opens, "{kind:?}");
            registry.look(Instant::now());
            assert_eq!(roles(&upstream) == [Role::HalfOpen], half_opens, "{kind:?}");
            assert_eq!(lock(&server.control).knocks.is_none(), half_opens);
            if half_opens {
                let mut probe = pick(&upstream).expect("a probe");
                probe.failure(Instant::now(), Duration::ZERO, Reset);
                drop(probe);
                let opened = server.breaker().opened().expect("open again");
                assert!(!server.reached(opened), "it was reached, and resets");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_knocks_for_a_server_that_is_gone_or_a_breaker_that_is_off() {
        let registry = registry();
        let upstream = publish(&registry, config(&[(1, 1)]));
        let server = upstream.servers()[0].clone();
        let knocks = || lock(&server.control).knocks.is_some();
        fail(&server, upstream.config(), 5);
        registry.look(Instant::now());
        assert!(knocks());
        let mut watching = config(&[(1, 1)]);
        watching.breaker.mode = BreakerMode::Watch;
        let upstream = publish(&registry, watching);
        assert_eq!(roles(&upstream), [Role::InRotation]);
        assert!(!knocks());
        let upstream = publish(&registry, config(&[(1, 1)]));
        fail(&server, upstream.config(), 5);
        registry.look(Instant::now());
        assert!(knocks());
        registry.publish(&[]);
        registry.look(Instant::now());
        assert!(!knocks());
    }
}
