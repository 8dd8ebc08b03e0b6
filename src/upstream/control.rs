//! The one task that moves live state: breakers, slow start, verdicts, panic and orders.
//!
//! Requests and checks only flip a word and say so ([`Common::touch`]); many flips are one look.
//! [`step`] is that look: a function of the live state and the time that swaps in the set that
//! follows from them, logs what happened, and says when it wants to look again. Reloads and the
//! admin API call it too, so that their change is there when they return; the upstream's stepping
//! lock keeps them apart.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use tokio::time::Instant;

use crate::config::model::{Balance, BreakerMode};
use crate::telemetry::{BreakerReading, events};
use crate::upstream::breaker::{self, Cause, Places, Transition};
use crate::upstream::common::lock;
use crate::upstream::health::verdict::Standing;
use crate::upstream::plan::{Facts, Plan, plan};
use crate::upstream::server::Server;
use crate::upstream::slow_start;
use crate::upstream::upstream::Upstream;

#[cfg(doc)]
use crate::upstream::common::Common;

/// Brings an upstream up to `now`; when to come again, if nothing happens before.
pub(super) fn step(upstream: &Upstream, now: Instant) -> Option<Instant> {
    let common = upstream.common();
    let _alone = lock(&common.stepping);
    tick_breakers(upstream, now);
    for (server, facts) in upstream.servers().iter().zip(upstream.facts(now)) {
        ramp(upstream, server, &facts, now);
    }
    let facts = upstream.facts(now);
    let next = plan(&facts, upstream.config().panic_threshold);
    settle_places(upstream, &facts);
    let panicked = upstream.set().panic();
    note_kept_out(upstream, &facts, &next);
    if next.panic != panicked {
        events::panic(upstream.name(), next.panic);
    }
    upstream.follow(next);
    // The new set is ordered before the look at the queue, as a freed slot is.
    fence(Ordering::SeqCst);
    common.room_made();
    common.set_due(due(upstream, now));
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
    for server in upstream.servers() {
        let moved = server
            .breaker()
            .tick(common.ms(now), settings, common.places());
        if let Some(transition) = moved {
            log(server, &transition);
        }
    }
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
        tracing::info!(upstream = %upstream.name(), server = %server.label(), "slow start begins");
    } else if let Some(since) = control.ramp_since
        && slow_start::tenths(now.saturating_duration_since(since), config.slow_start) >= 10
    {
        control.ramp_since = None;
        tracing::info!(upstream = %upstream.name(), server = %server.label(), "slow start is over");
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
    for (server, facts) in upstream.servers().iter().zip(facts) {
        server.breaker().settle_place(facts.counted(), places);
        server.set_weight(facts.weight);
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
