//! The reason table: every answer of our own has its status, its header, a short body, a count and
//! the same word in the log.

use std::thread;

use super::support::{Client, Origin, Proxy, Response, eventually};

const STATUSES: [(&str, u16); 19] = [
    ("no_route", 404),
    ("bad_request", 400),
    ("uri_too_long", 414),
    ("header_too_large", 431),
    ("body_too_large", 413),
    ("request_timeout", 408),
    ("method_not_allowed", 405),
    ("expectation_failed", 417),
    ("not_implemented", 501),
    ("version_not_supported", 505),
    ("no_server", 503),
    ("circuit_open", 503),
    ("overloaded", 503),
    ("queue_timeout", 503),
    ("connect_refused", 502),
    ("upstream_reset", 502),
    ("bad_response", 502),
    ("response_timeout", 504),
    ("total_timeout", 504),
];

/// An upstream and a route of that name.
fn part(name: &str, server: &Origin, keys: &str, tables: &str) -> String {
    format!(
        "[upstream.{name}]\nservers = [\"{}\"]\n{keys}\n{tables}\n\
         [[route]]\nprefix = \"/{name}\"\nupstream = \"{name}\"\nmax-body = \"4B\"\n",
        server.address()
    )
}

fn ask(proxy: &Proxy, request: &str) -> Response {
    let mut client = proxy.client();
    client.send(request);
    client.response()
}

fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")
}

#[test]
fn every_reason_has_its_status_header_body_count_and_log_line() {
    let (good, stalling) = (Origin::good("good"), Origin::stalling());
    let (resetting, malformed) = (Origin::resetting(), Origin::answering("nonsense\r\n\r\n"));
    let refusing = Origin::good("never");
    refusing.stop();
    let one = "max-requests = 1\n";
    let directory = tempfile::tempdir().expect("can be made");
    let log = directory.path().join("access.log");
    let config = [
        format!(
            "[access-log]\npath = \"{}\"\nformat = \"json\"\n",
            log.display()
        ),
        "[defaults.upstream]\nretry = { attempts = 0 }\nbreaker = { mode = \"off\" }\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         limits = { header-timeout = \"700ms\", max-header-bytes = \"4KiB\" }\n"
            .to_owned(),
        part("good", &good, "", ""),
        part("drained", &good, "", "")
            .replace("\"]", "\"]\nweightless = 0")
            .replace(
                &format!("[\"{}\"]\nweightless = 0", good.address()),
                &format!("{{ \"{}\" = 0 }}", good.address()),
            ),
        part(
            "broken",
            &resetting,
            "",
            "breaker = { mode = \"on\", consecutive-failures = 1 }",
        ),
        part("busy", &stalling, &format!("{one}queue = \"off\""), ""),
        part(
            "queued",
            &stalling,
            &format!("{one}queue = {{ size = 9, timeout = \"100ms\" }}"),
            "",
        ),
        part("refusing", &refusing, "", ""),
        part("resetting", &resetting, "", ""),
        part("malformed", &malformed, "", ""),
        part(
            "late",
            &stalling,
            "",
            "timeout = { first-byte = \"100ms\" }",
        ),
        part("long", &stalling, "", "timeout = { total = \"100ms\" }"),
    ];
    let proxy = Proxy::start(&config.concat());
    let _holding: Vec<Client> = ["/busy", "/queued"]
        .iter()
        .map(|target| {
            let before = stalling.request_count();
            let mut client = proxy.client();
            client.send(get(target, ""));
            eventually("it is full", || stalling.request_count() > before);
            client
        })
        .collect();
    ask(&proxy, &get("/broken", ""));

    let long = "x".repeat(5000);
    let requests = |reason: &str| match reason {
        "no_route" => get("/nowhere", ""),
        "bad_request" => "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "uri_too_long" => get(&format!("/{long}"), ""),
        "header_too_large" => get("/good", &format!("X: {long}\r\n")),
        "body_too_large" => get("/good", "Content-Length: 5\r\n").replace("GET", "POST") + "12345",
        "request_timeout" => "GET / HT".to_owned(),
        "method_not_allowed" => get("/good", "").replace("GET", "TRACE"),
        "expectation_failed" => get("/good", "Expect: magic\r\n"),
        "not_implemented" => get("/good", "Transfer-Encoding: gzip, chunked\r\n"),
        "version_not_supported" => get("/good", "").replace("1.1", "3.0"),
        "no_server" => get("/drained", ""),
        "circuit_open" => get("/broken", ""),
        "overloaded" => get("/busy", ""),
        "queue_timeout" => get("/queued", ""),
        "connect_refused" => get("/refusing", ""),
        "upstream_reset" => get("/resetting", ""),
        "bad_response" => get("/malformed", ""),
        "response_timeout" => get("/late", ""),
        "total_timeout" => get("/long", ""),
        other => panic!("no request for {other}"),
    };
    thread::scope(|scope| {
        for (reason, status) in STATUSES {
            let (proxy, log, request) = (&proxy, &log, requests(reason));
            scope.spawn(move || {
                let series = format!("evenkeel_rejected_total{{reason=\"{reason}\"}}");
                let before = proxy.metric(&series).unwrap_or_default();
                let answer = ask(proxy, &request);
                assert_eq!(
                    (answer.status, answer.evenkeel_reason()),
                    (status, Some(reason))
                );
                assert!(answer.text().contains(reason), "{}", answer.text());
                assert_eq!(answer.header("cache-control"), Some("no-store"), "{reason}");
                assert!(answer.header("date").is_some(), "{reason}");
                let retry_after = answer.header("retry-after").is_some();
                assert_eq!(retry_after, status == 503, "{reason}");
                eventually(reason, || {
                    proxy.metric(&series).unwrap_or_default() > before
                });
                let logged = format!("\"reason\":\"{reason}\"");
                let status = format!("\"status\":{status},");
                eventually(&format!("{reason} is logged"), || {
                    let log = std::fs::read_to_string(log).unwrap_or_default();
                    let mut lines = log.lines();
                    lines.any(|line| line.contains(&logged) && line.contains(&status))
                });
            });
        }
    });
}

#[test]
fn accept_chooses_json() {
    let proxy = Proxy::start("");
    for (accept, json) in [
        ("application/json", true),
        ("text/plain", false),
        ("*/*", false),
    ] {
        let answer = ask(&proxy, &get("/", &format!("Accept: {accept}\r\n")));
        assert_eq!(answer.status, 404);
        let kind = answer.header("content-type").expect("says what it is");
        assert_eq!(kind.starts_with("application/json"), json, "{kind}");
        if json {
            assert_eq!(answer.json()["reason"], "no_route");
        }
    }
}

#[test]
fn attempts_are_counted_by_status_or_reason() {
    let origin = Origin::stalling();
    let config = part(
        "app",
        &origin,
        "",
        "timeout = { first-byte = \"100ms\" }\nretry = { attempts = 0 }",
    );
    let proxy = Proxy::start(&config);
    assert_eq!(ask(&proxy, &get("/app", "")).status, 504);
    let series = format!(
        "evenkeel_upstream_requests_total{{upstream=\"app\",server=\"{}\",code=\"response_timeout\"}}",
        origin.address()
    );
    assert_eq!(proxy.metric(&series), Some(1.0));
}

#[test]
fn a_client_that_leaves_is_499_in_the_log_only() {
    let origin = Origin::stalling();
    let directory = tempfile::tempdir().expect("can be made");
    let log = directory.path().join("access.log");
    let config = part("app", &origin, "", "")
        + &format!(
            "[access-log]\npath = \"{}\"\nformat = \"json\"\n",
            log.display()
        );
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    client.send(get("/app", ""));
    eventually("it is at the server", || origin.request_count() == 1);
    drop(client);
    eventually("it is given up", || origin.open() == 0);
    let mut line = String::new();
    eventually("it is logged", || {
        line = std::fs::read_to_string(&log).unwrap_or_default();
        line.ends_with('\n')
    });
    let record: serde_json::Value = serde_json::from_str(&line).expect("is JSON");
    assert_eq!(
        (&record["status"], &record["reason"]),
        (&499.into(), &"client_closed".into())
    );
    assert_eq!(proxy.server_status(&origin)["in_flight"], 0);
}
