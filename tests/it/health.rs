//! Active checks as traffic sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::support::{Origin, Proxy, Received, eventually};

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

/// What answers a check, and when: nothing while the switch is 0.
fn checked_by_status(name: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let status = Arc::new(AtomicUsize::new(200));
    let now = status.clone();
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let check = request.target() == "/healthz";
            let status = if check {
                now.load(Ordering::SeqCst)
            } else {
                200
            };
            if status == 0 {
                connection.wait_for_close();
                return;
            }
            let length = name.len();
            connection.send(format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{name}"
            ));
        }
    });
    (origin, status)
}

fn checks(origin: &Origin) -> Vec<Received> {
    let mut requests = origin.requests();
    requests.retain(|request| request.target() == "/healthz");
    requests
}

fn state(proxy: &Proxy, origin: &Origin) -> String {
    let status = proxy.server_status(origin);
    status["state"].as_str().expect("a word").to_owned()
}

#[test]
fn at_the_start_servers_are_used_until_their_first_result() {
    let ((first, first_status), (second, _)) =
        (checked_by_status("first"), checked_by_status("second"));
    first_status.store(0, Ordering::SeqCst);
    let proxy = Proxy::start(&config(&[&first, &second], "timeout = \"1h\""));
    eventually("the check waits", || checks(&first).len() == 1);
    assert_eq!(answers(&proxy), ["first", "second"]);
}

#[test]
fn at_the_start_one_failed_check_takes_a_server_out() {
    let ((first, first_status), (second, _)) =
        (checked_by_status("first"), checked_by_status("second"));
    first_status.store(500, Ordering::SeqCst);
    let slow = config(&[&first, &second], "fall = 100").replace("200ms", "1h");
    let proxy = Proxy::start(&slow);
    eventually("it is out", || state(&proxy, &first) == "unhealthy");
    assert_eq!(checks(&first).len(), 1);
    assert_eq!(answers(&proxy), ["second"]);
}

#[test]
fn an_added_server_is_not_used_before_its_first_pass() {
    let ((first, _), (second, second_status)) =
        (checked_by_status("first"), checked_by_status("second"));
    let proxy = Proxy::start(&config(&[&first], "timeout = \"1h\""));
    second_status.store(0, Ordering::SeqCst);
    proxy.reconfigure(&config(&[&first, &second], "timeout = \"1h\""));
    eventually("the check waits", || checks(&second).len() == 1);
    assert_eq!(answers(&proxy), ["first"]);
}

#[test]
fn an_upstream_that_is_new_as_a_whole_is_used_at_once() {
    let ((first, _), (second, second_status)) =
        (checked_by_status("first"), checked_by_status("second"));
    let proxy = Proxy::start(&config(&[&first], ""));
    second_status.store(0, Ordering::SeqCst);
    let more = format!(
        "[upstream.new]\nservers = [\"{}\"]\n\
         [upstream.new.health]\npath = \"/healthz\"\ntimeout = \"1h\"\n\
         [[route]]\nprefix = \"/new\"\nupstream = \"new\"\n",
        second.address()
    );
    proxy.reconfigure(&(config(&[&first], "") + &more));
    assert_eq!(proxy.get("/new").text(), "second");
}

#[test]
fn fall_failures_in_a_row_take_it_out_and_rise_passes_bring_it_back() {
    let ((first, first_status), (second, _)) =
        (checked_by_status("first"), checked_by_status("second"));
    let proxy = Proxy::start(&config(&[&first, &second], "rise = 3\nfall = 4"));
    let count = |result: &str| {
        let more = format!(",result=\"{result}\"");
        metric(
            &proxy,
            "evenkeel_upstream_health_checks_total",
            &first,
            &more,
        )
    };
    eventually("it passes", || {
        state(&proxy, &first) == "in rotation" && count("success") > 0.0
    });
    first_status.store(500, Ordering::SeqCst);
    eventually("it is out", || state(&proxy, &first) == "unhealthy");
    let failures = count("failure");
    assert!((4.0..=6.0).contains(&failures), "after {failures} failures");
    let passes = count("success");
    first_status.store(204, Ordering::SeqCst);
    eventually("it is back", || state(&proxy, &first) == "in rotation");
    let passes = count("success") - passes;
    assert!((3.0..=5.0).contains(&passes), "after {passes} passes");
}

#[test]
fn status_says_what_passes() {
    let ((first, first_status), (second, second_status)) =
        (checked_by_status("first"), checked_by_status("second"));
    first_status.store(204, Ordering::SeqCst);
    second_status.store(301, Ordering::SeqCst);
    let status = "status = [\"204\", \"500-599\"]";
    let proxy = Proxy::start(&config(&[&first, &second], status));
    eventually("a redirect does not pass", || {
        state(&proxy, &second) == "unhealthy"
    });
    assert_eq!(answers(&proxy), ["first"]);
    second_status.store(503, Ordering::SeqCst);
    eventually("a listed error does", || {
        state(&proxy, &second) == "in rotation"
    });
}

#[test]
fn a_check_that_takes_too_long_fails() {
    let ((first, first_status), (second, _)) =
        (checked_by_status("first"), checked_by_status("second"));
    first_status.store(0, Ordering::SeqCst);
    let proxy = Proxy::start(&config(&[&first, &second], "timeout = \"100ms\""));
    eventually("it is out", || state(&proxy, &first) == "unhealthy");
    let timeouts = ",result=\"timeout\"";
    let counted = metric(
        &proxy,
        "evenkeel_upstream_health_checks_total",
        &first,
        timeouts,
    );
    assert!(counted >= 1.0);
}

#[test]
fn a_check_asks_as_the_file_says() {
    let (origin, _) = checked_by_status("app");
    let proxy = Proxy::start(&config(&[&origin], ""));
    eventually("it is checked", || !checks(&origin).is_empty());
    let plain = &checks(&origin)[0];
    assert_eq!(plain.method(), "GET");
    assert_eq!(plain.header("host"), Some(origin.address().to_string()));
    let asking = "method = \"HEAD\"\nhost = \"app.example\"\nheaders = { X-Check = \"yes\" }";
    proxy.reconfigure(&config(&[&origin], asking));
    let asked = |request: &Received| {
        request.method() == "HEAD"
            && request.header("host").as_deref() == Some("app.example")
            && request.header("x-check").as_deref() == Some("yes")
    };
    eventually("it asks so", || checks(&origin).iter().any(asked));
}

#[test]
fn checks_may_have_a_port_of_their_own() {
    let ((traffic, traffic_status), (side, side_status)) =
        (checked_by_status("traffic"), checked_by_status("side"));
    traffic_status.store(500, Ordering::SeqCst);
    let port = format!("port = {}\nfall = 1", side.address().port());
    let off = "panic-threshold = \"off\"\n[upstream.app.health]";
    let config = config(&[&traffic], &port).replace("[upstream.app.health]", off);
    let proxy = Proxy::start(&config);
    eventually("it is checked", || !checks(&side).is_empty());
    assert_eq!(proxy.get("/").text(), "traffic");
    side_status.store(500, Ordering::SeqCst);
    eventually("it is out", || {
        proxy.get("/").evenkeel_reason() == Some("no_server")
    });
    assert!(checks(&traffic).is_empty());
}

#[test]
fn checks_go_on_while_a_breaker_is_open_and_do_not_close_it() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let status = if request.target() == "/healthz" {
                200
            } else {
                503
            };
            connection.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let proxy = Proxy::start(&config(
        &[&origin],
        "[upstream.app.breaker]\nconsecutive-failures = 2",
    ));
    for _ in 0..2 {
        assert_eq!(proxy.get("/").evenkeel_reason(), None);
    }
    let before = checks(&origin).len();
    eventually("checks go on", || checks(&origin).len() > before + 2);
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("circuit_open"));
}

/// Passes checks until it has a request that it never answers.
fn hanging() -> (Origin, Arc<AtomicUsize>) {
    let status = Arc::new(AtomicUsize::new(200));
    let now = status.clone();
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            if request.target() != "/healthz" {
                connection.wait_for_close();
                return;
            }
            let status = now.load(Ordering::SeqCst);
            connection.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    (origin, status)
}

#[test]
fn who_waits_for_a_server_that_is_taken_out_is_sent_elsewhere() {
    let ((bad, status), good) = (hanging(), Origin::good("good"));
    let proxy = Proxy::start(&config(&[&bad, &good], "fall = 1"));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it waits", || {
        bad.requests().iter().any(|r| r.target() == "/")
    });
    status.store(500, Ordering::SeqCst);
    assert_eq!(client.response().text(), "good");
    eventually("nothing is left there", || {
        proxy.server_status(&bad)["in_flight"] == 0
    });
}

#[test]
fn who_may_not_be_retried_goes_on_waiting_and_no_longer() {
    let ((bad, status), good) = (hanging(), Origin::good("good"));
    let limits = "fall = 1\n[upstream.app.timeout]\nfirst-byte = \"900ms\"";
    let proxy = Proxy::start(&config(&[&bad, &good], limits));
    let start = Instant::now();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
    eventually("it waits", || {
        bad.requests().iter().any(|r| r.target() == "/")
    });
    eventually("the time passes", || {
        start.elapsed() > Duration::from_millis(600)
    });
    status.store(500, Ordering::SeqCst);
    assert_eq!(
        client.response().evenkeel_reason(),
        Some("response_timeout")
    );
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(
        took < Duration::from_millis(1400),
        "its time began anew: {took:?}"
    );
    let posts = good
        .requests()
        .iter()
        .filter(|r| r.method() == "POST")
        .count();
    assert_eq!(posts, 0);
}
