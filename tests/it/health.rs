//! Active checks as traffic sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::{Origin, Proxy, eventually};

/// Answers `/healthz` by a switch, everything else with `name`.
fn origin(name: &'static str) -> (Origin, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let state = well.clone();
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let check = request.target() == "/healthz";
            let status = if check && !state.load(Ordering::SeqCst) {
                "503 No"
            } else {
                "200 OK"
            };
            let length = name.len();
            connection.send(format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}"
            ));
        }
    });
    (origin, well)
}

fn config(servers: &[&Origin], checks: &str) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|origin| format!("\"{}\"", origin.address()))
        .collect();
    format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nslow-start = \"off\"\nservers = [{}]\n\
         [upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n{checks}\n",
        servers.join(", ")
    )
}

/// Who answers the next few requests.
fn answers(proxy: &Proxy) -> Vec<String> {
    let mut names: Vec<String> = (0..6).map(|_| proxy.get("/").text()).collect();
    names.sort();
    names.dedup();
    names
}

fn metric(proxy: &Proxy, family: &str, origin: &Origin, more: &str) -> f64 {
    let server = origin.address();
    let series = format!("{family}{{upstream=\"app\",server=\"{server}\"{more}}}");
    proxy.metric(&series).unwrap_or_default()
}

#[test]
fn a_server_that_fails_its_checks_is_out_until_it_passes_them() {
    let ((first, first_well), (second, _)) = (origin("first"), origin("second"));
    let proxy = Proxy::start(&config(&[&first, &second], ""));
    assert_eq!(answers(&proxy), ["first", "second"]);
    first_well.store(false, Ordering::SeqCst);
    eventually("the first is out", || answers(&proxy) == ["second"]);
    assert_eq!(
        metric(&proxy, "evenkeel_upstream_server_healthy", &first, ""),
        0.0
    );
    let failures = ",result=\"failure\"";
    assert!(
        metric(
            &proxy,
            "evenkeel_upstream_health_checks_total",
            &first,
            failures
        ) >= 3.0
    );
    let status = proxy.status().to_string();
    assert!(status.contains("status 503, wanted 200-399"), "{status}");
    first_well.store(true, Ordering::SeqCst);
    eventually("the first is back", || {
        answers(&proxy) == ["first", "second"]
    });
}

#[test]
fn a_verdict_survives_a_reload() {
    let ((first, first_well), (second, _)) = (origin("first"), origin("second"));
    let proxy = Proxy::start(&config(&[&first, &second], ""));
    first_well.store(false, Ordering::SeqCst);
    eventually("the first is out", || answers(&proxy) == ["second"]);
    // Checks so rare that none comes in this test's time.
    proxy.reconfigure(&config(&[&first, &second], "").replace("200ms", "1h"));
    assert_eq!(answers(&proxy), ["second"]);
}

#[test]
fn a_server_added_next_to_others_waits_for_one_pass() {
    let ((first, _), (second, second_well)) = (origin("first"), origin("second"));
    let proxy = Proxy::start(&config(&[&first], ""));
    second_well.store(false, Ordering::SeqCst);
    proxy.reconfigure(&config(&[&first, &second], ""));
    eventually("the second is checked", || second.request_count() > 1);
    assert_eq!(answers(&proxy), ["first"]);
    second_well.store(true, Ordering::SeqCst);
    eventually("the second joins", || {
        answers(&proxy) == ["first", "second"]
    });
}

#[test]
fn the_body_must_contain_what_the_file_wants() {
    let ((first, _), (second, _)) = (origin("first"), origin("second"));
    let proxy = Proxy::start(&config(&[&first, &second], "body = \"con\""));
    eventually("the first is out", || answers(&proxy) == ["second"]);
}

#[test]
fn tcp_checks_notice_who_listens() {
    let ((first, _), (second, _)) = (origin("first"), origin("second"));
    let checks = config(&[&first, &second], "").replace("path = \"/healthz\"", "tcp = true");
    let proxy = Proxy::start(&checks);
    first.stop();
    eventually("the first is out", || {
        metric(&proxy, "evenkeel_upstream_server_healthy", &first, "") == 0.0
    });
    assert_eq!(answers(&proxy), ["second"]);
    first.resume();
    eventually("the first is back", || {
        answers(&proxy) == ["first", "second"]
    });
}
