//! What a process that takes over is told of the live state, and what it makes of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Inner, Registry};
use crate::config::model;
use crate::upstream::breaker;
use crate::upstream::carried::{
    Carried, CarriedName, CarriedServer, CarriedStanding, CarriedUpstream, millis,
};
use crate::upstream::common::lock;
use crate::upstream::health::verdict::Standing;
use crate::upstream::resolve::Told;
use crate::upstream::roster::Roster;
use crate::upstream::seats::{Place, Seat};
use crate::upstream::server::Server;
use crate::upstream::upstream::Upstream;

/// Kept until the first generation is published.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    upstreams: HashMap<String, Found>,
    names: HashMap<String, CarriedName>,
}

/// Of one upstream.
#[derive(Debug)]
struct Found {
    upstream: CarriedUpstream,
    servers: HashMap<String, CarriedServer>,
}

impl Registry {
    /// All that is known now, for the process that takes over. From here on overrides are refused:
    /// they would be lost. [`Registry::take_back`] when it comes to nothing.
    pub fn hand_over(&self) -> Carried {
        let mut inner = lock(&self.inner);
        inner.handed_over = true;
        let now = Instant::now();
        Carried {
            overrides: inner.overrides.carried(),
            upstreams: inner.current.iter().map(|it| told(it, now)).collect(),
            names: inner.names.carried(now),
            ..Carried::default()
        }
    }

    /// This process goes on.
    pub fn take_back(&self) {
        lock(&self.inner).handed_over = false;
    }

    /// What the process before knew, to begin with. To be called before the first
    /// [`Registry::publish`]: nothing that is learnt here is older.
    pub fn inherit(&self, carried: Carried) {
        let mut inner = lock(&self.inner);
        let upstreams = carried.upstreams.into_iter().map(|mut upstream| {
            let servers = std::mem::take(&mut upstream.servers).into_iter();
            let servers = servers.map(|server| (server.server.clone(), server));
            let found = Found {
                servers: servers.collect(),
                upstream,
            };
            (found.upstream.name.clone(), found)
        });
        let names = carried.names.into_iter();
        inner.inherited = Some(Inherited {
            upstreams: upstreams.collect(),
            names: names.map(|name| (name.name.clone(), name)).collect(),
        });
        inner.overrides.inherit(carried.overrides);
    }
}

impl Inner {
    /// Names that are in use have their last answer. Before anybody asks for them.
    pub(super) fn inherit_names(&mut self, inherited: &mut Inherited, upstreams: &[Arc<Upstream>]) {
        let entries = upstreams.iter().flat_map(|next| &next.config().servers);
        for entry in entries.filter(|entry| entry.address.is_name()) {
            if let Some(name) = inherited.names.remove(&entry.address.to_string()) {
                let told = name.servers.into_iter().map(Told::from).collect();
                let age = Duration::from_millis(name.age_ms);
                self.names.source(&entry.address).inherit(told, age);
            }
        }
    }
}

impl Inherited {
    /// For an upstream that nobody uses yet, and whose servers nothing runs for.
    pub(super) fn give(&self, next: &Upstream, now: Instant) {
        let Some(found) = self.upstreams.get(&**next.name()) else {
            return;
        };
        let common = next.common();
        lock(&common.stepping).panic = found.upstream.panic;
        if let Some(limit) = found.upstream.limit {
            common.limit().resume(limit, common.ms(now));
        }
        let roster = next.roster();
        let beside_others = found.has_one_of(&roster, next.config());
        for (seat, server) in roster.members() {
            if let Some(known) = found.servers.get(&**server.label()) {
                give(known, server, next, now);
            } else if beside_others && !found.has_entry(seat, next.config()) {
                server.join(next.config());
            }
        }
    }
}

impl Found {
    /// What is new joins others: see [`Roster::stays_in`].
    fn has_one_of(&self, roster: &Roster, config: &model::Upstream) -> bool {
        let weight = |entry: usize| config.servers.get(entry).map_or(0, |server| server.weight);
        let stays = |(seat, server): (&Seat, &Arc<Server>)| {
            seat.place == Place::Known
                && seat.weight(weight) > 0
                && !seat.drain
                && self.servers.contains_key(&**server.label())
        };
        self.upstream.complete && roster.members().any(stays)
    }

    /// A name that waited for its first answer, which came since: that is no joining.
    fn has_entry(&self, seat: &Seat, config: &model::Upstream) -> bool {
        let entry = config.servers.get(seat.owner());
        entry.is_some_and(|entry| self.servers.contains_key(&entry.address.to_string()))
    }
}

fn give(known: &CarriedServer, server: &Server, next: &Upstream, now: Instant) {
    let (config, common) = (next.config(), next.common());
    let standing = match config.health {
        Some(_) => Standing::from(known.standing),
        None => Standing::Untested,
    };
    server.set_standing(standing);
    if let Some(breaker) = known.breaker {
        let now = common.ms(now);
        server.breaker().resume(breaker, now, &config.breaker);
    }
    server.set_unreached(known.unreached);
    let mut control = lock(&server.control);
    // As the step before would have left it: what has not changed is no recovery.
    control.usable = standing.usable();
    control.ejected = server.breaker_state(&config.breaker) != breaker::State::Closed;
    let ramp = known.ramp_ms.map(Duration::from_millis);
    control.ramp_since = ramp.and_then(|ramp| now.checked_sub(ramp));
}

fn told(upstream: &Upstream, now: Instant) -> CarriedUpstream {
    let common = upstream.common();
    let servers = upstream.servers();
    let servers = servers
        .iter()
        .map(|server| of_server(upstream, server, now));
    CarriedUpstream {
        name: upstream.name().to_string(),
        panic: lock(&common.stepping).panic,
        limit: common.limit().carried(),
        complete: true,
        servers: servers.collect(),
    }
}

fn of_server(upstream: &Upstream, server: &Server, now: Instant) -> CarriedServer {
    let config = upstream.config();
    let now_ms = upstream.common().ms(now);
    let since = lock(&server.control).ramp_since;
    CarriedServer {
        server: server.label().to_string(),
        standing: match config.health {
            Some(_) => server.standing().into(),
            None => CarriedStanding::Untested,
        },
        breaker: server.breaker().carried(now_ms, &config.breaker),
        unreached: server.is_unreached(),
        ramp_ms: since.map(|since| millis(now.saturating_duration_since(since))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::ServerAddress;
    use crate::upstream::Override;
    use crate::upstream::OverrideError;
    use crate::upstream::plan::Role;
    use crate::upstream::resolve::Answer;
    use crate::upstream::testing::{
        config, fail, health, pick, port, publish, registry, sequence, verdict,
    };

    const TEN: Duration = Duration::from_secs(10);

    /// Another process, told what this one knows by way of its form.
    fn successor(registry: &Registry) -> Arc<Registry> {
        let told = serde_json::to_value(registry.hand_over()).expect("plain data");
        let next = crate::upstream::testing::registry();
        next.inherit(Carried::read(told).expect("ours"));
        next
    }

    fn checked(servers: &[(u16, u32)]) -> model::Upstream {
        model::Upstream {
            health: Some(health()),
            slow_start: TEN,
            ..config(servers)
        }
    }

    fn roles(upstream: &Upstream) -> Vec<Role> {
        upstream.set().roles().to_vec()
    }

    fn tenths(upstream: &Upstream) -> Vec<u32> {
        let facts = upstream.facts(Instant::now());
        facts.iter().map(|facts| facts.tenths).collect()
    }

    fn key(port: u16) -> String {
        format!("127.0.0.1:{port}")
    }

    fn drain() -> Override {
        Override {
            weight: None,
            drain: Some(true),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_checks_say_goes_on_and_is_no_recovery() {
        let old = registry();
        let before = publish(&old, checked(&[(1, 1), (2, 1), (3, 1)]));
        verdict(&before.servers()[0], Standing::Healthy);
        verdict(&before.servers()[1], Standing::Unhealthy);
        old.look(Instant::now());
        let new = successor(&old);
        let after = publish(&new, checked(&[(3, 1), (2, 1), (1, 1)]));
        let standing = |index: usize| after.servers()[index].standing();
        assert_eq!(standing(0), Standing::Untested);
        assert_eq!(standing(1), Standing::Unhealthy);
        assert_eq!(standing(2), Standing::Healthy);
        assert_eq!(
            roles(&after),
            [Role::InRotation, Role::Unhealthy, Role::InRotation]
        );
        assert_eq!(tenths(&after), [10, 10, 10], "nobody starts slowly");
        // And the recovery that comes is one.
        verdict(&after.servers()[1], Standing::Healthy);
        new.look(Instant::now());
        assert_eq!(tenths(&after), [10, 1, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_is_open_for_the_time_that_was_left() {
        let old = registry();
        tokio::time::advance(TEN * 100).await;
        let before = publish(&old, config(&[(1, 1), (2, 1)]));
        tokio::time::advance(TEN).await;
        fail(&before.servers()[0], before.config(), 5);
        let due = old.look(Instant::now()).expect("a time for probes");
        tokio::time::advance(Duration::from_secs(4)).await;
        let left = due - Instant::now();
        let new = successor(&old);
        let after = publish(&new, config(&[(1, 1), (2, 1)]));
        assert_eq!(roles(&after), [Role::Open, Role::InRotation]);
        assert_eq!(sequence(&after, 2), [2, 2]);
        assert_eq!(after.common().places().taken(), 1, "under max-ejected");
        let due = new.look(Instant::now()).expect("a time for probes");
        let again = due - Instant::now();
        let off = again.abs_diff(left);
        assert!(off <= Duration::from_millis(25), "{again:?}, was {left:?}");
        // A third process knows the same.
        let third = successor(&new);
        let last = publish(&third, config(&[(1, 1), (2, 1)]));
        assert_eq!(roles(&last), [Role::Open, Role::InRotation]);
        tokio::time::sleep_until(due).await;
        new.look(Instant::now());
        assert_eq!(roles(&after), [Role::HalfOpen, Role::InRotation]);
        // Half-open it goes along too, and a failed probe is the second trip in a row.
        let fourth = successor(&new);
        let after = publish(&fourth, config(&[(1, 1), (2, 1)]));
        assert_eq!(roles(&after), [Role::HalfOpen, Role::InRotation]);
        fail(&after.servers()[0], after.config(), 1);
        let due = fourth.look(Instant::now()).expect("a time for probes");
        let open_for = due - Instant::now();
        assert!(open_for >= Duration::from_secs(18), "{open_for:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_the_new_file_switches_off_is_closed_and_a_shorter_time_holds() {
        let old = registry();
        let before = publish(&old, config(&[(1, 1), (2, 1)]));
        fail(&before.servers()[0], before.config(), 5);
        old.look(Instant::now());
        let mut off = config(&[(1, 1), (2, 1)]);
        off.breaker.mode = model::BreakerMode::Off;
        let after = publish(&successor(&old), off);
        assert_eq!(roles(&after), [Role::InRotation, Role::InRotation]);
        let mut short = config(&[(1, 1), (2, 1)]);
        short.breaker.open = Duration::from_secs(1);
        let new = successor(&old);
        let after = publish(&new, short);
        assert_eq!(roles(&after)[0], Role::Open);
        let due = new.look(Instant::now()).expect("a time for probes");
        assert!(due - Instant::now() <= Duration::from_millis(1_200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_goes_on_where_it_was() {
        let old = registry();
        publish(&old, checked(&[(1, 1)]));
        let before = publish(&old, checked(&[(1, 1), (2, 1)]));
        verdict(&before.servers()[0], Standing::Healthy);
        verdict(&before.servers()[1], Standing::Healthy);
        old.look(Instant::now());
        tokio::time::advance(Duration::from_millis(4_500)).await;
        let new = successor(&old);
        let after = publish(&new, checked(&[(1, 1), (2, 1)]));
        assert_eq!(tenths(&after), [10, 5]);
        let due = new.look(Instant::now()).expect("the next step");
        assert!(due - Instant::now() <= Duration::from_millis(501));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_the_new_file_adds_joins_as_by_a_reload() {
        let unchecked = |servers: &[(u16, u32)]| model::Upstream {
            slow_start: TEN,
            ..config(servers)
        };
        let old = registry();
        publish(&old, unchecked(&[(1, 1), (2, 1)]));
        let after = publish(&successor(&old), unchecked(&[(1, 1), (3, 1)]));
        assert_eq!(tenths(&after), [10, 1]);
        let after = publish(&successor(&old), unchecked(&[(3, 1), (4, 1)]));
        assert_eq!(tenths(&after), [10, 10], "all are new");
        let after = publish(&successor(&old), unchecked(&[(1, 0), (4, 1)]));
        assert_eq!(tenths(&after), [10, 10], "the other takes nothing");

        let old = registry();
        publish(&old, checked(&[(1, 1)]));
        let new = successor(&old);
        let after = publish(&new, checked(&[(1, 1), (3, 1)]));
        let standings: Vec<_> = after.servers().iter().map(|one| one.standing()).collect();
        assert_eq!(standings, [Standing::Untested, Standing::Waiting]);
        assert_eq!(sequence(&after, 3), [1, 1, 1]);
        verdict(&after.servers()[1], Standing::Healthy);
        new.look(Instant::now());
        assert_eq!(tenths(&after), [10, 1]);

        // One that tells of some servers only says nothing of others.
        let mut told = serde_json::to_value(old.hand_over()).expect("plain data");
        told["upstreams"][0]["complete"] = false.into();
        let new = registry();
        new.inherit(Carried::read(told).expect("ours"));
        let after = publish(&new, checked(&[(1, 1), (3, 1)]));
        assert_eq!(after.servers()[1].standing(), Standing::Untested);
    }

    #[tokio::test(start_paused = true)]
    async fn an_override_stays_until_the_file_changes_its_entry() {
        let old = registry();
        publish(&old, config(&[(1, 1), (2, 1), (3, 1)]));
        for one in [1, 2, 3] {
            old.set_override("u", &key(one), drain()).expect("is there");
        }
        let new = successor(&old);
        let after = publish(&new, config(&[(1, 1), (2, 5), (4, 1)]));
        assert_eq!(after.override_of(0), drain());
        assert_eq!(after.override_of(1), Override::default(), "edited");
        assert_eq!(new.overrides().len(), 1, "of the third there is no server");
        let mut picked = sequence(&after, 12);
        picked.sort_unstable();
        picked.dedup();
        assert_eq!(picked, [2, 4]);
        new.clear_override("u", &key(1)).expect("is there");
        assert_eq!(after.override_of(0), Override::default());
    }

    #[tokio::test]
    async fn from_the_handing_over_on_nothing_is_set_that_would_be_lost() {
        let old = registry();
        publish(&old, config(&[(1, 1), (2, 1)]));
        old.hand_over();
        let refused = old.set_override("u", &key(1), drain());
        assert_eq!(refused.unwrap_err(), OverrideError::HandedOver);
        let refused = old.clear_override("u", &key(1));
        assert_eq!(refused.unwrap_err(), OverrideError::HandedOver);
        old.take_back();
        assert!(old.set_override("u", &key(1), drain()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_has_its_servers_before_anybody_is_asked() {
        let named = |weight: u32| {
            let mut config = checked(&[(9, weight)]);
            config.servers[0].address = ServerAddress::Name("app.invalid".into(), 1);
            config
        };
        let old = registry();
        let before = publish(&old, named(1));
        let address = &before.config().servers[0].address;
        let source = lock(&old.inner).names.source(address).clone();
        let told = [2, 3].map(|port| Told::plain(([127, 0, 0, 1], port).into()));
        source.answered(Answer {
            told: told.to_vec(),
            ttl: TEN,
        });
        old.look(Instant::now());
        verdict(&before.servers()[0], Standing::Unhealthy);
        old.set_override("u", "app.invalid:1", drain())
            .expect("is there");
        tokio::time::advance(TEN).await;
        let new = successor(&old);
        let after = publish(&new, named(1));
        let ports: Vec<u16> = after.servers().iter().map(|one| port(one)).collect();
        assert_eq!(ports, [2, 3]);
        assert_eq!(after.servers()[0].standing(), Standing::Unhealthy);
        assert_eq!(after.override_of(1), drain());
        let view = new.view().remove(0);
        assert_eq!(
            (view.names[0].state, view.names[0].servers),
            ("resolved", 2)
        );
        assert_eq!(view.names[0].seconds_since_answer, Some(10.0));
        // What no file names is nowhere.
        let other = successor(&old);
        publish(&other, config(&[(1, 1)]));
        assert!(lock(&other.inner).names.carried(Instant::now()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_place_any_more_goes_nowhere_and_the_rest_is_only_once() {
        let old = registry();
        let before = publish(&old, config(&[(1, 1), (2, 1)]));
        fail(&before.servers()[0], before.config(), 5);
        old.look(Instant::now());
        let new = successor(&old);
        let first = publish(&new, config(&[(2, 1)]));
        let after = publish(&new, config(&[(1, 1), (2, 1)]));
        assert_eq!(roles(&after), [Role::InRotation, Role::InRotation]);
        assert!(pick(&first).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_adaptive_limit_is_not_looked_for_anew() {
        let adaptive = || model::Upstream {
            adaptive: true,
            ..config(&[(1, 1), (2, 1)])
        };
        let old = registry();
        let before = publish(&old, adaptive());
        let mut carried = before.common().limit().carried().expect("adaptive");
        assert!(!carried.found);
        carried.limit = 77.0;
        carried.base_us = Some(5_000.0);
        carried.found = true;
        before.common().limit().resume(carried, 0);
        let after = publish(&successor(&old), adaptive());
        let reading = after.common().limit().reading().expect("adaptive");
        assert_eq!(reading.limit, 77);
        assert!((reading.base_seconds.expect("known") - 0.005).abs() < 1e-6);
        let plain = publish(&successor(&old), config(&[(1, 1), (2, 1)]));
        assert_eq!(plain.common().limit().reading(), None);
    }
}
