use super::*;
use crate::config::model::ServerAddress;
use crate::upstream::Server;
use crate::upstream::health::verdict::Standing;
use crate::upstream::pick::Refused;
use crate::upstream::resolve::{Answer, Told};
use crate::upstream::testing::{
    config, fail, health, pick, pick_other, port, publish, registry, sequence, verdict,
};

fn set(weight: Option<u32>, drain: Option<bool>) -> Override {
    Override { weight, drain }
}

/// Of one server.
fn alone(view: OverriddenView) -> ServerView {
    match view {
        OverriddenView::Server(view) => *view,
        OverriddenView::Name { name, .. } => panic!("{name} is a name"),
    }
}

fn key(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[tokio::test]
async fn an_unchanged_configuration_is_the_same_upstream() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 1)]));
    let same = registry.prepare(&Arc::new(config(&[(1, 1)])));
    assert!(Arc::ptr_eq(&upstream, &same));
    let other = registry.prepare(&Arc::new(config(&[(1, 2)])));
    assert!(!Arc::ptr_eq(&upstream, &other));
}

fn told(ports: &[u16]) -> Answer {
    let at = |port: &u16| Told::plain(([127, 0, 0, 1], *port).into());
    Answer {
        told: ports.iter().map(at).collect(),
        ttl: std::time::Duration::from_secs(60),
    }
}

/// One server, given by name.
fn named(weight: u32) -> model::Upstream {
    let mut config = config(&[(9, weight)]);
    config.servers[0].address = ServerAddress::Name("app.invalid".into(), 1);
    config
}

#[tokio::test]
async fn a_view_shows_the_servers_that_its_names_tell_of() {
    let registry = registry();
    let upstream = publish(&registry, named(1));
    let address = &upstream.config().servers[0].address;
    let source = lock(&registry.inner).names.source(address).clone();
    source.answered(told(&[1, 2]));
    let view = registry.view().remove(0);
    assert_eq!((view.names[0].servers, view.servers.len()), (2, 2));
}

#[tokio::test]
async fn an_answer_between_prepare_and_publish_is_not_taken_back() {
    let registry = registry();
    let first = publish(&registry, named(1));
    let address = &first.config().servers[0].address;
    let source = lock(&registry.inner).names.source(address).clone();
    source.answered(told(&[1, 2]));
    registry.look(Instant::now());
    let ports = |upstream: &Upstream| -> Vec<u16> {
        upstream
            .servers()
            .iter()
            .map(|server| port(server))
            .collect()
    };
    assert_eq!(ports(&first), [1, 2]);
    let next = registry.prepare(&Arc::new(named(2)));
    source.answered(told(&[2, 3]));
    registry.look(Instant::now());
    let (kept, new) = (first.servers()[0].id(), first.servers()[1].id());
    assert_eq!(ports(&first), [2, 3]);
    registry.publish(std::slice::from_ref(&next));
    assert_eq!(ports(&next), [2, 3]);
    assert_eq!(
        (next.servers()[0].id(), next.servers()[1].id()),
        (kept, new)
    );
}

#[tokio::test]
async fn an_answer_that_nobody_has_looked_at_yet_is_not_lost_to_a_reload() {
    let registry = registry();
    let first = publish(&registry, named(1));
    let address = &first.config().servers[0].address;
    let source = lock(&registry.inner).names.source(address).clone();
    source.answered(told(&[1, 2]));
    registry.look(Instant::now());
    // Of an upstream that the reload leaves as it is.
    source.answered(told(&[2, 3]));
    registry.publish(std::slice::from_ref(&first));
    registry.look(Instant::now());
    let adopted = |upstream: &Upstream| {
        let known = |server: &Arc<Server>| upstream.common().server(server.address());
        let same = |server| known(server).is_some_and(|known| Arc::ptr_eq(&known, server));
        let ports: Vec<u16> = upstream.servers().iter().map(|one| port(one)).collect();
        (ports, upstream.servers().iter().all(same))
    };
    assert_eq!(adopted(&first), (vec![2, 3], true));
    // And of one that is prepared from it.
    source.answered(told(&[3, 4]));
    let next = registry.prepare(&Arc::new(named(2)));
    registry.look(Instant::now());
    let new = first.servers()[1].id();
    registry.publish(std::slice::from_ref(&next));
    assert_eq!(adopted(&next), (vec![3, 4], true));
    assert_eq!(next.servers()[1].id(), new, "with what it has learnt");
}

#[tokio::test]
async fn what_is_prepared_changes_nothing_until_it_is_published() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
    let before = (registry.view(), upstream.set());
    let mut next = config(&[(1, 0), (3, 5)]);
    next.servers[0].max_requests = 1;
    let prepared = registry.prepare(&Arc::new(next));
    assert!(Arc::ptr_eq(&before.1, &upstream.set()));
    assert!(Arc::ptr_eq(&upstream.latest(), &upstream));
    assert_eq!(registry.view(), before.0);
    assert_eq!(sequence(&upstream, 4), [1, 2, 1, 2]);
    drop(prepared);
    assert_eq!(registry.view(), before.0);
}

#[tokio::test]
async fn a_prepared_upstream_picks_before_it_is_published() {
    let registry = registry();
    let old = publish(&registry, config(&[(1, 1)]));
    let new = registry.prepare(&Arc::new(config(&[(2, 1)])));
    assert_eq!(sequence(&new, 1), [2], "a request of the new snapshot");
    assert_eq!(sequence(&old, 1), [1], "a request of the old one");
}

#[tokio::test]
async fn an_override_set_while_a_reload_is_prepared_is_not_lost() {
    let registry = registry();
    publish(&registry, config(&[(1, 1), (2, 1)]));
    let next = registry.prepare(&Arc::new(config(&[(1, 1), (2, 1), (3, 1)])));
    let drain = set(None, Some(true));
    registry.set_override("u", &key(1), drain).unwrap();
    registry.publish(std::slice::from_ref(&next));
    assert_eq!(next.override_of(0), drain);
    let mut picked = sequence(&next, 2);
    picked.sort_unstable();
    assert_eq!(picked, [2, 3], "the drained server gets nothing");
    registry.clear_override("u", &key(1)).unwrap();
    assert_eq!(next.override_of(0), Override::default());
}

#[tokio::test]
async fn picks_of_an_older_generation_choose_among_the_servers_of_now() {
    let registry = registry();
    let first = publish(&registry, config(&[(1, 1)]));
    let second = publish(&registry, config(&[(2, 1)]));
    let third = publish(&registry, config(&[(3, 1)]));
    assert!(Arc::ptr_eq(&first.latest(), &third));
    assert!(Arc::ptr_eq(&second.latest(), &third));
    assert_eq!(sequence(&first, 2), [3, 3]);
    let tried = third.servers()[0].id();
    assert!(pick_other(&first, &[tried]).is_err());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_gone_keeps_its_last_servers_for_what_still_runs() {
    let registry = registry();
    let gone = publish(&registry, config(&[(1, 1), (2, 1)]));
    fail(&gone.servers()[1], gone.config(), 5);
    registry.publish(&[]);
    assert!(registry.upstreams().is_empty());
    assert!(Arc::ptr_eq(&gone.latest(), &gone));
    assert_eq!(sequence(&gone, 2), [1, 1]);
    tokio::time::advance(std::time::Duration::from_secs(12)).await;
    registry.look(Instant::now());
    let first = gone.servers()[0].id();
    assert!(
        pick_other(&gone, &[first]).is_ok(),
        "its breakers still move"
    );
}

#[tokio::test]
async fn an_upstream_that_comes_back_succeeds_the_one_that_was_gone() {
    let registry = registry();
    let gone = publish(&registry, config(&[(1, 1)]));
    let held = pick(&gone).unwrap();
    registry.publish(&[]);
    let back = publish(&registry, config(&[(1, 1), (2, 1)]));
    assert!(Arc::ptr_eq(&gone.latest(), &back));
    assert_eq!(back.servers()[0].in_flight(), 1, "the same live state");
    drop(held);
    assert_eq!(back.servers()[0].in_flight(), 0);
}

#[tokio::test]
async fn live_state_is_carried_over_by_upstream_and_address() {
    let registry = registry();
    let checked = |servers: &[(u16, u32)]| model::Upstream {
        health: Some(health()),
        ..config(servers)
    };
    let before = publish(&registry, checked(&[(1, 1), (2, 1), (3, 1)]));
    let held = pick(&before).unwrap();
    verdict(&before.servers()[0], Standing::Healthy);
    verdict(&before.servers()[1], Standing::Unhealthy);
    fail(&before.servers()[2], before.config(), 5);
    registry.look(Instant::now());
    let after = publish(&registry, checked(&[(3, 1), (2, 4), (1, 1)]));
    for (index, other) in [(0, 2), (1, 1), (2, 0)] {
        assert!(Arc::ptr_eq(
            &before.servers()[index],
            &after.servers()[other]
        ));
    }
    assert_eq!(after.servers()[2].in_flight(), 1);
    assert_eq!(sequence(&after, 2), [1, 1]);
    drop(held);

    let mut other = checked(&[(1, 1)]);
    other.name = "other".into();
    let other = registry.prepare(&Arc::new(other));
    assert_ne!(other.servers()[0].id(), after.servers()[2].id());
}

#[tokio::test]
async fn new_breaker_settings_apply_to_failures_already_counted() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
    fail(&upstream.servers()[0], upstream.config(), 4);
    let mut strict = config(&[(1, 1), (2, 1)]);
    strict.breaker.consecutive_failures = 5;
    strict.breaker.probes = 1;
    let upstream = publish(&registry, strict);
    fail(&upstream.servers()[0], upstream.config(), 1);
    registry.look(Instant::now());
    assert_eq!(sequence(&upstream, 2), [2, 2]);
}

#[tokio::test]
async fn a_removed_server_finishes_what_it_has_and_is_forgotten() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
    let held = pick(&upstream).unwrap();
    assert_eq!(port(held.server()), 1);
    let weak = Arc::downgrade(held.server());
    drop(upstream);
    let upstream = publish(&registry, config(&[(2, 1)]));
    assert_eq!(weak.upgrade().unwrap().in_flight(), 1);
    let back = publish(&registry, config(&[(1, 1), (2, 1)]));
    assert_eq!(
        back.servers()[0].in_flight(),
        1,
        "still the same while it is in use"
    );
    publish(&registry, config(&[(2, 1)]));
    drop((back, upstream));
    drop(held);
    assert!(weak.upgrade().is_none(), "nobody uses it any more");
}

#[tokio::test]
async fn a_removed_upstream_is_forgotten_with_its_last_user() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 1)]));
    let (server, common) = (
        Arc::downgrade(&upstream.servers()[0]),
        Arc::downgrade(upstream.common()),
    );
    registry.publish(&[]);
    drop(upstream);
    assert!(server.upgrade().is_none());
    assert!(common.upgrade().is_none());
}

#[tokio::test]
async fn the_order_goes_on_over_a_reload_that_changes_no_weight() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 5), (2, 1), (3, 1)]));
    assert_eq!(sequence(&upstream, 3), [1, 1, 2]);
    let mut next = config(&[(1, 5), (2, 1), (3, 1)]);
    next.max_requests = 7;
    let upstream = publish(&registry, next);
    assert_eq!(sequence(&upstream, 4), [1, 3, 1, 1]);
}

#[tokio::test]
async fn a_raised_limit_holds_for_slots_already_taken() {
    let registry = registry();
    let mut one = config(&[(1, 1)]);
    one.servers[0].max_requests = 1;
    let upstream = publish(&registry, one.clone());
    let _held = pick(&upstream).unwrap();
    assert_eq!(pick(&upstream).unwrap_err(), Refused::Full);
    one.servers[0].max_requests = 2;
    publish(&registry, one);
    let _second = pick(&upstream).unwrap();
    assert_eq!(pick(&upstream).unwrap_err(), Refused::Full);
}

#[tokio::test]
async fn an_override_acts_at_once_and_is_taken_back() {
    let registry = registry();
    let upstream = publish(&registry, config(&[(1, 1), (2, 1)]));
    let view = registry.set_override("u", &key(2), set(Some(3), None));
    let view = alone(view.unwrap());
    assert_eq!((view.weight, view.effective_weight), (1, 3.0));
    let taken = sequence(&upstream, 8)
        .iter()
        .filter(|port| **port == 2)
        .count();
    assert_eq!(taken, 6);
    registry
        .set_override("u", &key(2), set(None, Some(true)))
        .unwrap();
    assert_eq!(sequence(&upstream, 2), [1, 1]);
    assert_eq!(registry.overrides()[0].2, set(Some(3), Some(true)));
    let view = alone(registry.clear_override("u", &key(2)).unwrap());
    assert_eq!((view.changed, view.effective_weight), (None, 1.0));
    assert!(registry.overrides().is_empty());
}

#[tokio::test]
async fn an_override_is_kept_until_the_file_changes_that_entry() {
    let registry = registry();
    publish(&registry, config(&[(1, 1), (2, 1)]));
    registry
        .set_override("u", &key(2), set(None, Some(true)))
        .unwrap();
    let upstream = publish(&registry, config(&[(1, 7), (2, 1)]));
    assert_eq!(sequence(&upstream, 2), [1, 1], "another entry was changed");
    let upstream = publish(&registry, config(&[(1, 7), (2, 2)]));
    let taken = sequence(&upstream, 9)
        .iter()
        .filter(|port| **port == 2)
        .count();
    assert_eq!(taken, 2);
    assert!(registry.overrides().is_empty());
    registry
        .set_override("u", &key(1), set(None, Some(true)))
        .unwrap();
    registry.publish(&[]);
    assert!(registry.overrides().is_empty(), "its server is gone");
}

#[tokio::test]
async fn senseless_overrides_are_refused() {
    let registry = registry();
    let mut turns = config(&[(1, 1), (2, 1)]);
    turns.balance = model::Balance::RoundRobin;
    publish(&registry, turns);
    let refused = |upstream: &str, port: u16, change| {
        registry
            .set_override(upstream, &key(port), change)
            .unwrap_err()
    };
    assert_eq!(
        refused("v", 1, set(Some(1), None)),
        OverrideError::NoUpstream
    );
    assert_eq!(refused("u", 9, set(Some(1), None)), OverrideError::NoServer);
    assert_eq!(refused("u", 1, set(None, None)), OverrideError::Empty);
    assert_eq!(
        refused("u", 1, set(Some(1001), None)),
        OverrideError::Weight
    );
    assert_eq!(
        refused("u", 1, set(Some(2), None)),
        OverrideError::RoundRobin
    );
    assert!(
        registry
            .set_override("u", &key(1), set(Some(0), None))
            .is_ok()
    );
}

#[tokio::test]
async fn checks_run_while_a_server_is_configured() {
    let registry = registry();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let checked = |servers: &[(u16, u32)]| model::Upstream {
        health: Some(health()),
        ..config(servers)
    };
    let upstream = registry.prepare(&Arc::new(checked(&[(port, 1)])));
    registry.publish(std::slice::from_ref(&upstream));
    let server = upstream.servers()[0].clone();
    let checked_once = async {
        while server.last_check().is_none() {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, checked_once)
        .await
        .expect("a first check");
    assert_eq!(server.standing(), Standing::Healthy);
    publish(&registry, config(&[(port, 1)]));
    assert_eq!(
        server.standing(),
        Standing::Untested,
        "there are no checks any more"
    );
    assert!(server.last_check().is_none());
}

#[tokio::test]
async fn a_view_shows_every_state() {
    let registry = registry();
    let mut mixed = config(&[(1, 3), (2, 1), (3, 1), (4, 0)]);
    mixed.servers[2].drain = true;
    let upstream = publish(&registry, mixed);
    fail(&upstream.servers()[1], upstream.config(), 5);
    registry.look(Instant::now());
    let view = registry.view().remove(0);
    let states: Vec<_> = view.servers.iter().map(|server| server.state).collect();
    assert_eq!(states, ["in rotation", "open", "draining", "weight 0"]);
    assert_eq!(view.ejected, 1);
    assert!(view.servers[1].breaker.seconds_to_probe.is_some());
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["servers"][1]["breaker"]["state"], "open");
}
