//! Slow start: who ramps up, by how much, and who does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::support::{Origin, Proxy, app, app_with, count, eventually, value_within};

/// So long that a test sees its first step only.
const LONG: &str = "slow-start = \"100s\"\n";

const CHECKS: &str = "[upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n";

/// Fails, checks included, while the switch says so.
fn switched(name: &'static str) -> (Origin, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let state = well.clone();
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let well = state.load(Ordering::SeqCst);
            let status = if well { "200 OK" } else { "503 No" };
            let length = name.len();
            connection.send(format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}"
            ));
        }
    });
    (origin, well)
}

/// What a tenth of its weight next to a whole one gives: 1 of 11.
#[track_caller]
fn ramps(proxy: &Proxy, origin: &Origin, name: &str) {
    let status = proxy.server_status(origin);
    assert_eq!(status["slow_start_percent"], 10, "{status}");
    assert_eq!(count(&proxy.bodies(110), name), 10);
}

#[track_caller]
fn does_not_ramp(proxy: &Proxy, origin: &Origin, name: &str) {
    let status = proxy.server_status(origin);
    assert!(status["slow_start_percent"].is_null(), "{status}");
    assert_eq!(count(&proxy.bodies(40), name), 20);
}

#[test]
fn a_server_that_passes_its_checks_again_begins_with_a_tenth() {
    let (a, (b, b_well)) = (Origin::good("a"), switched("b"));
    let proxy = Proxy::start(&app(&[&a, &b], &(LONG.to_owned() + CHECKS)));
    does_not_ramp(&proxy, &b, "b");
    b_well.store(false, Ordering::SeqCst);
    eventually("it is out", || {
        proxy.server_status(&b)["state"] == "unhealthy"
    });
    b_well.store(true, Ordering::SeqCst);
    eventually("it is back", || {
        proxy.server_status(&b)["state"] == "in rotation"
    });
    ramps(&proxy, &b, "b");
}

#[test]
fn a_server_whose_breaker_closes_begins_with_a_tenth() {
    let (a, (b, b_well)) = (Origin::good("a"), switched("b"));
    let more = LONG.to_owned() + "[upstream.app.breaker]\nopen = \"200ms\"\n";
    let proxy = Proxy::start(&app(&[&a, &b], &more));
    b_well.store(false, Ordering::SeqCst);
    eventually("it opens", || {
        proxy.get("/");
        proxy.breaker_state(&b) == "open"
    });
    b_well.store(true, Ordering::SeqCst);
    eventually("it closes", || {
        proxy.get("/");
        proxy.breaker_state(&b) == "closed"
    });
    ramps(&proxy, &b, "b");
}

#[test]
fn a_server_added_next_to_others_begins_with_a_tenth() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let proxy = Proxy::start(&app(&[&a], LONG));
    proxy.reconfigure(&app(&[&a, &b], LONG));
    ramps(&proxy, &b, "b");
}

#[test]
fn servers_that_are_all_new_do_not_ramp() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    let proxy = Proxy::start(&app(&[&a, &b], LONG));
    does_not_ramp(&proxy, &b, "b");
    proxy.reconfigure(&app(&[&c], LONG));
    proxy.reconfigure(&app(&[&a, &b], LONG));
    does_not_ramp(&proxy, &b, "b");
}

#[test]
fn edits_undrains_and_weight_0_to_n_do_not_ramp() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let config = |entry: &str| app_with(&[(&a, "1"), (&b, entry)], LONG);
    let proxy = Proxy::start(&config("{ drain = true }"));
    for entry in ["1", "{ weight = 0 }", "1", "7", "1"] {
        proxy.reconfigure(&config(entry));
        if entry == "1" {
            does_not_ramp(&proxy, &b, "b");
        }
    }
    proxy.put_server(&b, r#"{"drain": true}"#);
    assert_eq!(count(&proxy.bodies(4), "b"), 0);
    proxy.delete_server(&b);
    does_not_ramp(&proxy, &b, "b");
}

#[test]
fn round_robin_skips_turns_in_proportion() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let more = LONG.to_owned() + "balance = \"round-robin\"\n";
    let proxy = Proxy::start(&app(&[&a], &more));
    proxy.reconfigure(&app(&[&a, &b], &more));
    let taken = count(&proxy.bodies(110), "b");
    assert!((8..=13).contains(&taken), "{taken} of 110");
}

#[test]
fn hash_does_not_ramp() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let more = LONG.to_owned() + "balance = \"hash\"\nhash = { by = \"path\" }\n";
    let proxy = Proxy::start(&app(&[&a], &more));
    proxy.reconfigure(&app(&[&a, &b], &more));
    let mut client = proxy.client();
    let bodies: String = (0..100)
        .map(|n| client.get(&format!("/{n}")).text())
        .collect();
    assert!(count(&bodies, "b") > 25, "{bodies}");
}

#[test]
fn it_takes_its_time_and_then_is_exact_again() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let more = "slow-start = \"500ms\"\n";
    let proxy = Proxy::start(&app(&[&a], more));
    proxy.reconfigure(&app(&[&a, &b], more));
    let limit = Duration::from_secs(5);
    let over = || {
        proxy.server_status(&b)["slow_start_percent"]
            .is_null()
            .then_some(())
    };
    value_within(limit, "it is over", over);
    does_not_ramp(&proxy, &b, "b");
}
