//! Every family of the contract: it is there with its labels, it moves with what it counts, and it
//! goes with what it is about.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::support::{Client, ONE_WORKER, Origin, Proxy, app, app_with, eventually};

/// Answers each request when it is told to.
fn held() -> (Origin, Sender<()>) {
    let (release, released) = channel();
    let released = Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            if released.lock().expect("no panic").recv().is_err() {
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    (origin, release)
}

/// A status per request, in turn; the last one for good.
fn turns(statuses: &'static [u16]) -> Origin {
    let turn = AtomicUsize::new(0);
    Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let turn = turn.fetch_add(1, Ordering::SeqCst).min(statuses.len() - 1);
            let status = statuses[turn];
            connection.send(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        }
    })
}

/// `family` of one server of upstream `app`, with further labels (`,code="200"`).
fn of_server(family: &str, origin: &Origin, labels: &str) -> String {
    let server = origin.address();
    format!("evenkeel_upstream_{family}{{upstream=\"app\",server=\"{server}\"{labels}}}")
}

/// The series comes to this value; some are written after the client has its answer.
#[track_caller]
fn becomes(proxy: &Proxy, series: &str, value: f64) {
    eventually(&format!("{series} is {value}"), || {
        proxy.metric(series) == Some(value)
    });
}

#[track_caller]
fn is(proxy: &Proxy, series: &str, value: f64) {
    assert_eq!(proxy.metric(series), Some(value), "{series}");
}

#[test]
fn every_family_is_scraped_with_type_and_help_and_promtool_finds_nothing() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], "health = { tcp = true }\n"));
    assert_eq!(proxy.get("/").status, 200);
    eventually("the first check is made", || {
        let checks = "evenkeel_upstream_health_checks_total{";
        proxy.metrics().contains(checks)
    });
    let answer = proxy.admin("GET", "/metrics", "");
    let version = answer.header("content-type").expect("says its type");
    assert!(
        version.starts_with("text/plain; version=0.0.4"),
        "{version}"
    );
    let text = answer.text();
    for (family, kind) in [
        ("evenkeel_requests_total", "counter"),
        ("evenkeel_request_duration_seconds", "histogram"),
        ("evenkeel_requests_in_flight", "gauge"),
        ("evenkeel_request_bytes_total", "counter"),
        ("evenkeel_response_bytes_total", "counter"),
        ("evenkeel_rejected_total", "counter"),
        ("evenkeel_rate_limited_total", "counter"),
        ("evenkeel_connections_active", "gauge"),
        ("evenkeel_connections_total", "counter"),
        ("evenkeel_connections_refused_total", "counter"),
        ("evenkeel_downstream_connections_cut_total", "counter"),
        ("evenkeel_upstream_requests_total", "counter"),
        ("evenkeel_upstream_request_duration_seconds", "histogram"),
        ("evenkeel_upstream_server_latency_seconds", "gauge"),
        ("evenkeel_upstream_requests_in_flight", "gauge"),
        ("evenkeel_upstream_queue_length", "gauge"),
        ("evenkeel_upstream_connections_active", "gauge"),
        ("evenkeel_upstream_connections_idle", "gauge"),
        ("evenkeel_upstream_connects_total", "counter"),
        ("evenkeel_upstream_server_healthy", "gauge"),
        ("evenkeel_upstream_server_weight", "gauge"),
        ("evenkeel_upstream_health_checks_total", "counter"),
        ("evenkeel_upstream_breaker_state", "gauge"),
        ("evenkeel_upstream_breaker_transitions_total", "counter"),
        ("evenkeel_upstream_retries_total", "counter"),
        ("evenkeel_upstream_panic", "gauge"),
        ("evenkeel_config_generation", "gauge"),
        ("evenkeel_config_last_reload_successful", "gauge"),
        (
            "evenkeel_config_last_reload_success_timestamp_seconds",
            "gauge",
        ),
        ("evenkeel_config_reloads_total", "counter"),
        ("evenkeel_upgrades_failed_total", "counter"),
        ("evenkeel_access_log_dropped_total", "counter"),
        ("evenkeel_build_info", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
    ] {
        let declared = format!("# TYPE {family} {kind}\n");
        assert!(text.contains(&declared), "{declared} is missing");
        assert!(text.contains(&format!("# HELP {family} ")), "{family}");
        let sampled = text.lines().any(|line| line.starts_with(family));
        assert!(sampled, "{family} has no sample");
    }
    promtool(&text);
}

/// Where it is installed.
fn promtool(text: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else { return };
    let mut input = child.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn requests_are_counted_by_listener_route_method_and_code_with_bytes_and_time() {
    let origin = Origin::good("four");
    let config = app(&[&origin], "").replace("prefix = \"/\"", "name = \"r\"\nprefix = \"/r\"");
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().post("/r", b"12345").status, 200);
    assert_eq!(proxy.client().request("BREW", "/r", "").status, 200);
    assert_eq!(proxy.get("/elsewhere").status, 404);
    let requests = |labels: &str| format!("evenkeel_requests_total{{listener=\"web\",{labels}}}");
    becomes(
        &proxy,
        &requests("route=\"r\",method=\"POST\",code=\"200\""),
        1.0,
    );
    becomes(
        &proxy,
        &requests("route=\"r\",method=\"other\",code=\"200\""),
        1.0,
    );
    becomes(
        &proxy,
        &requests("route=\"\",method=\"GET\",code=\"404\""),
        1.0,
    );
    is(&proxy, "evenkeel_request_bytes_total{route=\"r\"}", 5.0);
    is(&proxy, "evenkeel_response_bytes_total{route=\"r\"}", 8.0);
    is(
        &proxy,
        "evenkeel_request_duration_seconds_count{route=\"r\"}",
        2.0,
    );
    is(
        &proxy,
        "evenkeel_request_duration_seconds_bucket{route=\"r\",le=\"+Inf\"}",
        2.0,
    );
    let sum = proxy.metric("evenkeel_request_duration_seconds_sum{route=\"r\"}");
    assert!(sum.is_some_and(|sum| sum > 0.0), "{sum:?}");
    is(
        &proxy,
        "evenkeel_upstream_request_duration_seconds_count{upstream=\"app\"}",
        2.0,
    );
}

#[test]
fn chunked_bodies_count_what_they_carry() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    );
    let proxy = Proxy::start(&app(&[&origin], ""));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("4\r\nwxyz\r\n3;a\r\n123\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "abcde");
    becomes(&proxy, "evenkeel_request_bytes_total{route=\"/\"}", 7.0);
    becomes(&proxy, "evenkeel_response_bytes_total{route=\"/\"}", 5.0);
}

#[test]
fn what_is_under_way_is_shown_while_it_is() {
    let (origin, release) = held();
    let more = "max-requests = 1\nqueue = { size = 4, timeout = \"20s\" }\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let mut clients = [proxy.client(), proxy.client()];
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    let queue = "evenkeel_upstream_queue_length{upstream=\"app\"}";
    let in_flight = "evenkeel_requests_in_flight{listener=\"web\"}";
    let connections = "evenkeel_connections_active{listener=\"web\"}";
    becomes(&proxy, queue, 1.0);
    becomes(&proxy, in_flight, 2.0);
    becomes(&proxy, connections, 2.0);
    becomes(&proxy, &of_server("requests_in_flight", &origin, ""), 1.0);
    becomes(&proxy, &of_server("connections_active", &origin, ""), 1.0);
    // Either may have come first.
    for _ in &clients {
        release.send(()).expect("the origin waits");
    }
    for client in &mut clients {
        client.response();
    }
    becomes(&proxy, queue, 0.0);
    becomes(&proxy, in_flight, 0.0);
    becomes(&proxy, &of_server("requests_in_flight", &origin, ""), 0.0);
    becomes(&proxy, &of_server("connections_active", &origin, ""), 0.0);
    let idle = of_server("connections_idle", &origin, "");
    eventually("they are kept", || {
        proxy.metric(&idle) == Some(origin.open() as f64)
    });
    drop(clients);
    becomes(&proxy, connections, 0.0);
    is(&proxy, "evenkeel_connections_total{listener=\"web\"}", 2.0);
}

#[test]
fn attempts_are_counted_by_status_or_failure_and_connects_by_result() {
    let (good, gone) = (turns(&[200, 503, 404]), Origin::good("x"));
    let resetting = Origin::resetting();
    let garbage = Origin::answering("this is no HTTP\r\n\r\n");
    gone.stop();
    for (origin, requests, code, connect) in [
        (&good, 3, "200", "ok"),
        (&gone, 1, "connect_refused", "refused"),
        (&resetting, 1, "upstream_reset", "ok"),
        (&garbage, 1, "bad_response", "ok"),
    ] {
        let config = app(&[origin], "retry.attempts = 0\nbreaker.mode = \"off\"\n");
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        for _ in 0..requests {
            client.get("/");
        }
        let labels = format!(",code=\"{code}\"");
        becomes(&proxy, &of_server("requests_total", origin, &labels), 1.0);
        let labels = format!(",result=\"{connect}\"");
        becomes(&proxy, &of_server("connects_total", origin, &labels), 1.0);
        if requests > 1 {
            for code in ["503", "404"] {
                let labels = format!(",code=\"{code}\"");
                becomes(&proxy, &of_server("requests_total", origin, &labels), 1.0);
            }
        }
    }
}

#[test]
fn latency_is_that_of_the_answers() {
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            connection.drip(
                &["", "HTTP/1.1 204 No Content\r\n\r\n"],
                std::time::Duration::from_millis(30),
            );
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    let series = of_server("server_latency_seconds", &origin, "");
    assert_eq!(
        proxy.metric(&series),
        None,
        "nothing is known before the first"
    );
    proxy.get("/");
    eventually("it is measured", || {
        proxy
            .metric(&series)
            .is_some_and(|seconds| (0.03..5.0).contains(&seconds))
    });
}

#[test]
fn retries_are_counted_by_what_came_of_them() {
    let (good, bad) = (Origin::good("ok"), turns(&[503]));
    let retries = |result: &str| {
        format!("evenkeel_upstream_retries_total{{upstream=\"app\",result=\"{result}\"}}")
    };
    let off = "breaker.mode = \"off\"\n";

    let servers = [(&bad, "1"), (&good, "{ backup = true }")];
    let first = Proxy::start(&app_with(&servers[..1], off));
    assert_eq!(first.get("/").status, 503);
    becomes(&first, &retries("no_server"), 1.0);

    let again = Proxy::start(&app(&[&bad, &good], off));
    for _ in 0..2 {
        assert_eq!(again.get("/").status, 200);
    }
    becomes(&again, &retries("success"), 1.0);
    is(&again, &retries("failure"), 0.0);

    let worse = turns(&[502]);
    let both = Proxy::start(&app(&[&bad, &worse], off));
    both.get("/");
    becomes(&both, &retries("failure"), 1.0);

    let budget = "breaker.mode = \"off\"\nretry.budget = { ratio = \"0%\", min-per-second = 0, window = \"1s\" }\n";
    let spent = Proxy::start(&app(&[&bad, &worse], budget));
    spent.get("/");
    becomes(&spent, &retries("budget_exhausted"), 1.0);
}

#[test]
fn breaker_state_and_transitions_follow_it() {
    let origin = turns(&[503, 200]);
    let more = "slow-start = \"0s\"\nretry.attempts = 0\n[upstream.app.breaker]\n\
                consecutive-failures = 1\nprobes = 1\nopen = \"300ms\"\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let state = of_server("breaker_state", &origin, "");
    let to = |to: &str| {
        of_server(
            "breaker_transitions_total",
            &origin,
            &format!(",to=\"{to}\""),
        )
    };
    is(&proxy, &state, 0.0);
    assert_eq!(proxy.get("/").status, 503);
    becomes(&proxy, &to("open"), 1.0);
    // It may be half-open by now on a slow machine, but never closed without a probe.
    assert_ne!(proxy.metric(&state), Some(0.0));
    becomes(&proxy, &state, 1.0);
    becomes(&proxy, &to("half-open"), 1.0);
    assert_eq!(proxy.get("/").status, 200);
    becomes(&proxy, &state, 0.0);
    becomes(&proxy, &to("closed"), 1.0);
}

#[test]
fn checks_verdicts_and_panic_are_shown() {
    let (good, bad, slow) = (Origin::good("ok"), turns(&[500]), Origin::stalling());
    let health = "[upstream.app.health]\npath = \"/h\"\ninterval = \"200ms\"\ntimeout = \"150ms\"\nfall = 1\n";
    let proxy = Proxy::start(&app(&[&good, &bad, &slow], health));
    let checks = |origin, result: &str| {
        of_server(
            "health_checks_total",
            origin,
            &format!(",result=\"{result}\""),
        )
    };
    for (origin, result, healthy) in [
        (&good, "success", 1.0),
        (&bad, "failure", 0.0),
        (&slow, "timeout", 0.0),
    ] {
        eventually("checks are counted by result", || {
            proxy.metric(&checks(origin, result)) >= Some(2.0)
        });
        becomes(&proxy, &of_server("server_healthy", origin, ""), healthy);
    }
    let panic = "evenkeel_upstream_panic{upstream=\"app\"}";
    is(&proxy, panic, 0.0);
    good.stop();
    becomes(&proxy, panic, 1.0);
}

#[test]
fn weight_is_the_one_in_use() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app_with(&[(&origin, "3")], ""));
    let weight = of_server("server_weight", &origin, "");
    is(&proxy, &weight, 3.0);
    proxy.put_server(&origin, "{\"weight\": 7}");
    becomes(&proxy, &weight, 7.0);
    proxy.delete_server(&origin);
    becomes(&proxy, &weight, 3.0);
    proxy.reconfigure(&app_with(&[(&origin, "5")], ""));
    becomes(&proxy, &weight, 5.0);
}

#[test]
fn reloads_move_their_families_and_keep_counts() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], ""));
    proxy.get("/");
    let requests =
        "evenkeel_requests_total{listener=\"web\",route=\"/\",method=\"GET\",code=\"200\"}";
    becomes(&proxy, requests, 1.0);
    is(&proxy, "evenkeel_config_generation", 1.0);
    is(&proxy, "evenkeel_config_last_reload_successful", 1.0);
    let at = "evenkeel_config_last_reload_success_timestamp_seconds";
    assert!(proxy.metric(at) > Some(1.7e9), "a time of these years");
    proxy.write("nonsense");
    assert_eq!(proxy.reload().status, 422);
    is(&proxy, "evenkeel_config_generation", 1.0);
    is(&proxy, "evenkeel_config_last_reload_successful", 0.0);
    // The watcher may have read it too.
    assert!(proxy.metric("evenkeel_config_reloads_total{result=\"failure\"}") >= Some(1.0));
    proxy.reconfigure(&app(&[&origin], "slow-start = \"1s\"\n"));
    is(&proxy, "evenkeel_config_generation", 2.0);
    is(&proxy, "evenkeel_config_last_reload_successful", 1.0);
    is(
        &proxy,
        "evenkeel_config_reloads_total{result=\"success\"}",
        1.0,
    );
    is(&proxy, requests, 1.0);
    is(
        &proxy,
        &of_server("requests_total", &origin, ",code=\"200\""),
        1.0,
    );
}

#[test]
fn series_of_removed_objects_disappear() {
    let (stays, goes) = (Origin::good("a"), Origin::good("b"));
    let first = format!(
        "{ONE_WORKER}[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"gone-listener\"\naddress = \"[::1]:0\"\n\
         [[route]]\nname = \"gone-route\"\nprefix = \"/b\"\nupstream = \"gone-upstream\"\n\
         [upstream.gone-upstream]\nservers = [\"{}\"]\n{}",
        goes.address(),
        app(&[&stays, &goes], "")
    );
    let proxy = Proxy::start(&first);
    for path in ["/b", "/", "/"] {
        assert_eq!(
            Client::connect(proxy.listener("gone-listener"))
                .get(path)
                .status,
            200
        );
    }
    let gone = [
        "listener=\"gone-listener\"".to_owned(),
        "route=\"gone-route\"".to_owned(),
        "upstream=\"gone-upstream\"".to_owned(),
        format!("upstream=\"app\",server=\"{}\"", goes.address()),
    ];
    let left = || -> Vec<String> {
        let metrics = proxy.metrics();
        let lines = metrics
            .lines()
            .filter(|line| gone.iter().any(|gone| line.contains(gone)));
        lines.map(ToOwned::to_owned).collect()
    };
    assert!(left().len() > 20, "{:?}", left());
    proxy.reconfigure(&format!("{ONE_WORKER}{}", app(&[&stays], "")));
    eventually("nothing is left of them", || left().is_empty());
    let kept = of_server("requests_total", &stays, ",code=\"200\"");
    assert!(
        proxy.metric(&kept) >= Some(1.0),
        "what stays keeps its counts"
    );
}

#[test]
fn a_connection_that_fails_otherwise_is_counted_too() {
    let proxy = Proxy::start(
        "[upstream.app]\nservers = [\"unix:/nonexistent/app.sock\"]\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
    );
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("connect_refused"));
    let labels = "upstream=\"app\",server=\"unix:/nonexistent/app.sock\",result=\"failed\"";
    becomes(
        &proxy,
        &format!("evenkeel_upstream_connects_total{{{labels}}}"),
        1.0,
    );
}
