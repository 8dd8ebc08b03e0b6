//! The breaker as traffic sees it: what opens it, what it lets through, what closes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{Client, Origin, Proxy, app, eventually};

/// Answers with the status that is in the switch; while that is 0, it does not answer.
struct Switched {
    origin: Origin,
    status: Arc<AtomicUsize>,
}

impl Switched {
    fn new(status: usize) -> Self {
        let status = Arc::new(AtomicUsize::new(status));
        let now = status.clone();
        let origin = Origin::scripted(move |connection| {
            while connection.request().is_some() {
                eventually("the test says how to answer", || {
                    now.load(Ordering::SeqCst) != 0
                });
                let status = now.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 6\r\n\r\nserver");
                connection.send(answer);
            }
        });
        Switched { origin, status }
    }

    fn answer(&self, status: usize) {
        self.status.store(status, Ordering::SeqCst);
    }
}

fn breaker(values: &str) -> String {
    format!(
        "slow-start = \"off\"\n[upstream.app.retry]\nattempts = 0\n\
         [upstream.app.breaker]\n{values}\n"
    )
}

/// Nothing but the run of failures trips it.
const RUN_OF_3: &str = "consecutive-failures = 3\nfailure-ratio = \"off\"\n";

fn state(proxy: &Proxy, origin: &Origin) -> String {
    proxy.breaker_state(origin)
}

fn gauge(proxy: &Proxy, origin: &Origin) -> f64 {
    let server = origin.address();
    let series = format!("evenkeel_upstream_breaker_state{{upstream=\"app\",server=\"{server}\"}}");
    proxy.metric(&series).expect("the series is there")
}

#[track_caller]
fn is_open(proxy: &Proxy) {
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (503, Some("circuit_open"))
    );
    let seconds = answer.header("retry-after").expect("says when");
    assert!((1..=11).contains(&seconds.parse::<u64>().expect("seconds")));
}

#[test]
fn failures_in_a_row_open_it_and_the_only_server_may_open() {
    let server = Switched::new(503);
    let proxy = Proxy::start(&app(&[&server.origin], &breaker(RUN_OF_3)));
    for _ in 0..3 {
        assert_eq!(proxy.get("/").text(), "server");
    }
    is_open(&proxy);
    assert_eq!(server.origin.request_count(), 3);
    assert_eq!(state(&proxy, &server.origin), "open");
    assert_eq!(gauge(&proxy, &server.origin), 2.0);
}

#[test]
fn a_success_between_failures_starts_the_run_anew() {
    let server = Switched::new(503);
    let proxy = Proxy::start(&app(&[&server.origin], &breaker(RUN_OF_3)));
    for status in [503, 503, 200, 503, 503, 404, 503, 503] {
        server.answer(status);
        assert_eq!(usize::from(proxy.get("/").status), status);
    }
    assert_eq!(state(&proxy, &server.origin), "closed");
    proxy.get("/");
    is_open(&proxy);
}

#[test]
fn every_kind_of_failure_counts() {
    let kinds = [
        ("reset", Origin::resetting()),
        ("timeout", Origin::stalling()),
        ("malformed", Origin::answering("nonsense\r\n\r\n")),
        (
            "502",
            Origin::answering("HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n"),
        ),
        (
            "504",
            Origin::answering("HTTP/1.1 504 X\r\nContent-Length: 0\r\n\r\n"),
        ),
        ("closed", Origin::closing_after(0)),
    ];
    for (kind, origin) in kinds {
        let limit = match kind {
            "timeout" => "[upstream.app.timeout]\nfirst-byte = \"100ms\"\n",
            _ => "",
        };
        let proxy = Proxy::start(&app(&[&origin], &(breaker(RUN_OF_3) + limit)));
        for _ in 0..3 {
            assert_ne!(
                proxy.get("/").evenkeel_reason(),
                Some("circuit_open"),
                "{kind}"
            );
        }
        is_open(&proxy);
    }
    let refusing = Origin::good("never");
    let proxy = Proxy::start(&app(&[&refusing], &breaker(RUN_OF_3)));
    refusing.stop();
    for _ in 0..3 {
        assert_eq!(proxy.get("/").evenkeel_reason(), Some("connect_refused"));
    }
    is_open(&proxy);
}

#[test]
fn a_body_that_breaks_off_turns_its_success_into_a_failure() {
    for cut in [
        "Content-Length: 9\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let origin = Origin::scripted(move |connection| {
            connection.request();
            connection.send(format!("HTTP/1.1 200 OK\r\n{cut}"));
        });
        let proxy = Proxy::start(&app(&[&origin], &breaker(RUN_OF_3)));
        for _ in 0..3 {
            let mut client = proxy.client();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            assert!(client.try_response().is_err());
        }
        is_open(&proxy);
    }
}

#[test]
fn clients_and_other_statuses_never_open_it() {
    for status in [400, 404, 429, 500, 501] {
        let server = Switched::new(status);
        let proxy = Proxy::start(&app(&[&server.origin], &breaker(RUN_OF_3)));
        for _ in 0..6 {
            assert_eq!(usize::from(proxy.get("/").status), status);
        }
    }
    let origin = Origin::stalling();
    let proxy = Proxy::start(&app(&[&origin], &breaker(RUN_OF_3)));
    for request in 1..=6 {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it waits", || origin.request_count() == request);
        drop(client);
        eventually("it is given up", || origin.open() == 0);
    }
    assert_eq!(state(&proxy, &origin), "closed");
}

#[test]
fn a_client_that_stalls_is_not_the_servers_failure() {
    let origin = Origin::good("good");
    let limits = "[upstream.app.timeout]\ntotal = \"200ms\"\nidle = \"10s\"\n";
    let strict = breaker("consecutive-failures = 1") + limits;
    let proxy = Proxy::start(&app(&[&origin], &strict));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!(client.response().evenkeel_reason(), Some("total_timeout"));
    assert_eq!(state(&proxy, &origin), "closed");
}

#[test]
fn failure_status_says_what_a_failure_is() {
    let server = Switched::new(500);
    let values = format!("{RUN_OF_3}failure-status = [\"500-501\", \"429\"]");
    let proxy = Proxy::start(&app(&[&server.origin], &breaker(&values)));
    for status in [500, 429, 503, 501, 500, 429] {
        server.answer(status);
        assert_eq!(usize::from(proxy.get("/").status), status);
    }
    is_open(&proxy);
}

#[test]
fn a_share_of_failures_opens_it_with_enough_requests() {
    let server = Switched::new(200);
    let values = "consecutive-failures = 100\nfailure-ratio = \"50%\"\nmin-requests = 10";
    let proxy = Proxy::start(&app(&[&server.origin], &breaker(values)));
    for request in 0..10 {
        assert_eq!(state(&proxy, &server.origin), "closed", "after {request}");
        server.answer(if request % 2 == 0 { 200 } else { 503 });
        proxy.get("/");
    }
    is_open(&proxy);
}

#[test]
fn a_share_of_slow_answers_opens_it() {
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            connection.drip(&["", answer], std::time::Duration::from_millis(40));
        }
    });
    let values = "min-requests = 4\nslow = { threshold = \"30ms\", ratio = \"50%\" }";
    let proxy = Proxy::start(&app(&[&origin], &breaker(values)));
    for _ in 0..4 {
        assert_eq!(proxy.get("/").status, 200);
    }
    is_open(&proxy);
}

fn opened(server: &Switched, values: &str) -> Proxy {
    let proxy = Proxy::start(&app(&[&server.origin], &breaker(values)));
    server.answer(503);
    let trips = |proxy: &Proxy| proxy.get("/").evenkeel_reason() == Some("circuit_open");
    eventually("it opens", || trips(&proxy));
    proxy
}

#[test]
fn half_open_lets_exactly_the_probes_through_and_their_successes_close_it() {
    let server = Switched::new(503);
    let values = format!("{RUN_OF_3}open = \"200ms\"\nprobes = 2");
    let proxy = Proxy::start(&app(&[&server.origin], &breaker(&values)));
    for _ in 0..3 {
        proxy.get("/");
    }
    server.answer(0);
    eventually("its time passes", || {
        state(&proxy, &server.origin) == "half-open"
    });
    assert_eq!(gauge(&proxy, &server.origin), 1.0);
    let before = server.origin.request_count();
    let clients: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = proxy.client();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            client
        })
        .collect();
    eventually("the probes are at the server", || {
        server.origin.request_count() == before + 2
    });
    let rejected = "evenkeel_rejected_total{reason=\"circuit_open\"}";
    eventually("the others are refused", || {
        proxy.metric(rejected) == Some(8.0)
    });
    is_open(&proxy);
    server.answer(200);
    let statuses: Vec<u16> = clients
        .into_iter()
        .map(|mut client| client.response().status)
        .collect();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(passed, 2, "{statuses:?}");
    assert_eq!(server.origin.request_count(), before + 2);
    assert_eq!(state(&proxy, &server.origin), "closed");
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(gauge(&proxy, &server.origin), 0.0);
    for to in ["open", "half-open", "closed"] {
        let server = server.origin.address();
        let series = format!(
            "evenkeel_upstream_breaker_transitions_total\
             {{upstream=\"app\",server=\"{server}\",to=\"{to}\"}}"
        );
        assert_eq!(proxy.metric(&series), Some(1.0), "{to}");
    }
}

fn seconds_to_probe(proxy: &Proxy, server: &Switched) -> f64 {
    let status = proxy.server_status(&server.origin);
    let seconds = status["breaker"]["seconds_to_probe"].as_f64();
    seconds.unwrap_or_else(|| panic!("it is open: {status}"))
}

/// A breaker's times are whole milliseconds, rounded up here and there.
const ROUNDING: f64 = 0.005;

#[test]
fn a_failed_probe_opens_it_again_for_twice_the_time_up_to_the_longest() {
    let server = Switched::new(503);
    let values = format!("{RUN_OF_3}open = \"1s\"\nmax-open = \"3s\"");
    let proxy = opened(&server, &values);
    let first = seconds_to_probe(&proxy, &server);
    assert!(first <= 1.1 + ROUNDING, "{first}");
    for (least, most) in [(1.2, 2.2), (2.3, 3.3)] {
        eventually("a probe passes and fails", || {
            proxy.get("/").evenkeel_reason().is_none()
        });
        let open = seconds_to_probe(&proxy, &server);
        assert!(
            open > least && open <= most + ROUNDING,
            "{open} of {least} to {most}"
        );
    }
    server.answer(200);
    eventually("probes close it", || {
        proxy.get("/");
        state(&proxy, &server.origin) == "closed"
    });
    server.answer(503);
    for _ in 0..3 {
        assert_eq!(proxy.get("/").text(), "server");
    }
    let again = seconds_to_probe(&proxy, &server);
    assert!(again <= 1.1 + ROUNDING, "a new row begins: {again}");
}

#[test]
fn max_ejected_leaves_the_others_in_rotation() {
    let bad = [(); 4].map(|()| Switched::new(503));
    let origins = bad.each_ref().map(|server| &server.origin);
    for (servers, opens) in [(2, 1), (3, 1), (4, 2)] {
        let proxy = Proxy::start(&app(&origins[..servers], &breaker(RUN_OF_3)));
        for _ in 0..8 * servers {
            assert_eq!(proxy.get("/").text(), "server", "somebody is asked");
        }
        let open = origins[..servers]
            .iter()
            .filter(|origin| state(&proxy, origin) == "open")
            .count();
        assert_eq!(open, opens, "of {servers}");
    }
}

#[test]
fn watch_and_off_let_everything_through() {
    for mode in ["watch", "off"] {
        let server = Switched::new(503);
        let values = format!("{RUN_OF_3}mode = \"{mode}\"");
        let proxy = Proxy::start(&app(&[&server.origin], &breaker(&values)));
        for _ in 0..10 {
            assert_eq!(proxy.get("/").text(), "server", "{mode}");
        }
        assert_eq!(state(&proxy, &server.origin), "closed", "{mode}");
    }
}

#[test]
fn an_outcome_from_before_the_trip_changes_nothing() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let status = match &*request.target() {
                "/held" => {
                    released.lock().expect("no panic").recv().expect("released");
                    200
                }
                _ => 503,
            };
            connection.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let values = format!("{RUN_OF_3}open = \"200ms\"\nprobes = 1");
    let proxy = Proxy::start(&app(&[&origin], &breaker(&values)));
    let mut straggler = proxy.client();
    straggler.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is under way", || origin.request_count() == 1);
    for _ in 0..3 {
        proxy.get("/");
    }
    eventually("its time passes", || state(&proxy, &origin) == "half-open");
    release.send(()).expect("the origin waits");
    assert_eq!(straggler.response().status, 200);
    assert_eq!(
        state(&proxy, &origin),
        "half-open",
        "one probe closes it, a straggler not"
    );
}

#[test]
fn what_the_breaker_knows_outlives_a_reload() {
    let server = Switched::new(503);
    let proxy = opened(&server, RUN_OF_3);
    let other = Origin::good("other");
    proxy.reconfigure(&app(&[&server.origin, &other], &breaker(RUN_OF_3)));
    assert_eq!(state(&proxy, &server.origin), "open");
    assert_eq!(proxy.bodies(4), "other".repeat(4));
}

#[test]
fn retry_after_is_the_time_to_the_probe_rounded_up() {
    let server = Switched::new(503);
    let proxy = opened(&server, &format!("{RUN_OF_3}open = \"20s\""));
    let exact = seconds_to_probe(&proxy, &server);
    let answer = proxy.get("/");
    let seconds = answer.header("retry-after").expect("says when");
    let seconds: f64 = seconds.parse().expect("seconds");
    assert!(
        (exact - 1.0..=exact + 1.0).contains(&seconds),
        "{seconds} of {exact}"
    );
    assert!(
        (18.0..=22.0).contains(&seconds),
        "20s and a tenth either way"
    );
}

#[test]
fn one_open_breaker_is_enough_for_circuit_open_where_no_other_server_could_serve() {
    let (bad, drained) = (Switched::new(503), Origin::good("drained"));
    let proxy = Proxy::start(&app(&[&bad.origin, &drained], &breaker(RUN_OF_3)));
    proxy.put_server(&drained, r#"{"drain": true}"#);
    for _ in 0..3 {
        assert_eq!(proxy.get("/").text(), "server");
    }
    is_open(&proxy);
    proxy.delete_server(&drained);
    assert_eq!(proxy.get("/").text(), "drained");
}

#[test]
fn an_early_answer_to_a_half_sent_body_is_a_success() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
        connection.wait_for_close();
    });
    let proxy = Proxy::start(&app(&[&origin], &breaker("consecutive-failures = 1")));
    for _ in 0..2 {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf");
        assert_eq!(client.response().text(), "early");
        drop(client);
    }
    assert_eq!(state(&proxy, &origin), "closed");
}
