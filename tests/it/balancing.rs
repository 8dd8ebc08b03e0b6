//! Who gets which request: policies, weights, drains, backups and overrides.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use super::support::{Client, Origin, Proxy, app, app_with, balances, count, eventually};

/// Ramps would hide what these tests count.
const PLAIN: &str = "slow-start = \"off\"\n";

/// More workers than this machine has cores: all of them pick from one order.
const WORKERS: &str = "[process]\nworkers = 4\n";

fn weighted(policy: &str, servers: &[(&Origin, &str)]) -> Proxy {
    balanced(&format!("balance = \"{policy}\"\n"), servers)
}

fn balanced(balance: &str, servers: &[(&Origin, &str)]) -> Proxy {
    Proxy::start(&(app_with(servers, &format!("{PLAIN}{balance}")) + WORKERS))
}

#[test]
fn first_attempts_follow_nginxs_sequence_over_all_workers() {
    for (weights, period) in [(["5", "1", "1"], "aabacaa"), (["4", "2", "1"], "abacaba")] {
        let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
        let servers = [(&a, weights[0]), (&b, weights[1]), (&c, weights[2])];
        let proxy = weighted("smooth-weighted", &servers);
        assert_eq!(proxy.bodies(21), period.repeat(3), "{weights:?}");
    }
}

#[test]
fn weights_are_divided_by_their_common_divisor() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let proxy = weighted("smooth-weighted", &[(&a, "300"), (&b, "100")]);
    assert_eq!(proxy.bodies(8), "aabaaaba");
}

#[test]
fn counts_are_exact_under_concurrency() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    let proxy = weighted("smooth-weighted", &[(&a, "4"), (&b, "2"), (&c, "1")]);
    let address = proxy.address();
    let clients: Vec<_> = (0..7)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..50).map(|_| client.get("/").text()).collect::<String>()
            })
        })
        .collect();
    let bodies: String = clients
        .into_iter()
        .map(|client| client.join().expect("no client fails"))
        .collect();
    let counts = ["a", "b", "c"].map(|name| count(&bodies, name));
    assert_eq!(counts, [200, 100, 50]);
}

#[test]
fn one_of_three_out_leaves_the_others_equal() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    let proxy = weighted("smooth-weighted", &[(&a, "1"), (&b, "1"), (&c, "1")]);
    proxy.put_server(&b, r#"{"drain": true}"#);
    let bodies = proxy.bodies(60);
    assert_eq!(
        ["a", "b", "c"].map(|name| count(&bodies, name)),
        [30, 0, 30]
    );
    assert!(
        bodies == "ac".repeat(30) || bodies == "ca".repeat(30),
        "never twice in a row: {bodies}"
    );
}

#[test]
fn round_robin_takes_each_in_turn() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    let proxy = weighted("round-robin", &[(&a, "1"), (&b, "1"), (&c, "1")]);
    assert_eq!(proxy.bodies(9), "abcabcabc");
}

#[test]
fn drawing_policies_honour_weights() {
    for policy in ["random", "least-requests"] {
        let (a, b) = (Origin::good("a"), Origin::good("b"));
        let proxy = weighted(policy, &[(&a, "3"), (&b, "1")]);
        let mut client = proxy.client();
        let bodies: String = (0..400).map(|_| client.get("/").text()).collect();
        // Of 400 draws with a chance of 3/4, six standard deviations are 52.
        let first = count(&bodies, "a");
        assert!((248..=352).contains(&first), "{policy} gave {first} of 400");
    }
}

#[test]
fn no_policy_gives_anything_to_weight_0_or_a_draining_server() {
    for policy in balances("path") {
        let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
        let servers = [(&a, "0"), (&b, "1"), (&c, "{ drain = true }")];
        let proxy = balanced(&policy, &servers);
        let mut client = proxy.client();
        for request in 0..30 {
            let body = client.get(&format!("/{request}")).text();
            assert_eq!(body, "b", "{policy}");
        }
    }
}

#[test]
fn least_requests_goes_where_less_is_under_way() {
    let script = |name: &'static str| {
        Origin::scripted(move |connection| {
            while let Some(request) = connection.request() {
                if request.target() == "/slow" {
                    connection.wait_for_close();
                    return;
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                connection.send(answer);
            }
        })
    };
    let (a, b) = (script("a"), script("b"));
    let proxy = weighted("least-requests", &[(&a, "1"), (&b, "1")]);
    let mut waiting = proxy.client();
    waiting.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is at a server", || {
        a.request_count() + b.request_count() == 1
    });
    let other = if a.request_count() == 1 { "b" } else { "a" };
    assert_eq!(proxy.bodies(20), other.repeat(20));
}

#[test]
fn peak_ewma_prefers_the_faster_server() {
    // More than a fast one is ever late on a busy machine.
    let pause = Duration::from_millis(200);
    let slow = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            connection.drip(
                &["", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"],
                pause,
            );
        }
    });
    let fast = Origin::good("fast");
    let proxy = weighted("peak-ewma", &[(&slow, "1"), (&fast, "1")]);
    // Until both have been asked, each costs the same.
    let bodies = proxy.bodies(20) + &proxy.bodies(20);
    let settled = &bodies[bodies.len() / 2..];
    assert!(count(settled, "slow") <= 2, "{bodies}");
}

/// The answers to the same hundred keys.
fn by_key(proxy: &Proxy) -> BTreeMap<usize, String> {
    let mut client = proxy.client();
    let answer = |key| {
        let header = format!("X-Key: key-{key}\r\n");
        (key, client.request("GET", "/", &header).text())
    };
    (0..100).map(answer).collect()
}

#[test]
fn hash_keeps_keys_at_their_servers_and_moves_only_those_that_must() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    let more = format!("{PLAIN}balance = \"hash\"\nhash = {{ by = \"header:X-Key\" }}\n");
    let proxy = Proxy::start(&(app(&[&a, &b, &c], &more) + WORKERS));
    let before = by_key(&proxy);
    assert_eq!(before, by_key(&proxy), "every key stays");
    for name in ["a", "b", "c"] {
        let keys = before.values().filter(|server| *server == name).count();
        assert!((10..60).contains(&keys), "{name} has {keys} of 100 keys");
    }
    b.stop();
    // Its breaker opens; what it had goes to the next in the table.
    let after = by_key(&proxy);
    for (key, server) in &before {
        if server != "b" {
            assert_eq!(&after[key], server, "key {key} need not move");
        }
    }
}

#[test]
fn hash_honours_weights() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let more = format!("{PLAIN}balance = \"hash\"\nhash = {{ by = \"query:k\" }}\n");
    let proxy = Proxy::start(&app_with(&[(&a, "3"), (&b, "1")], &more));
    let mut client = proxy.client();
    let answer = |key| client.get(&format!("/?k={key}")).text();
    let bodies: String = (0..400).map(answer).collect();
    let first = count(&bodies, "a");
    assert!((240..=360).contains(&first), "{first} of 400 keys");
}

#[test]
fn a_missing_hash_key_falls_back_to_the_client_address() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    for by in ["client-ip", "header:X-Key", "cookie:key", "query:key"] {
        let more = format!("{PLAIN}balance = \"hash\"\nhash = {{ by = \"{by}\" }}\n");
        let proxy = Proxy::start(&app(&[&a, &b, &c], &more));
        let bodies = proxy.bodies(12);
        assert_eq!(bodies, bodies[..1].repeat(12), "{by}");
    }
}

#[test]
fn hash_by_cookie_and_by_path_keep_their_keys() {
    let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    for by in ["cookie:id", "path"] {
        let more = format!("{PLAIN}balance = \"hash\"\nhash = {{ by = \"{by}\" }}\n");
        let proxy = Proxy::start(&app(&[&a, &b, &c], &more));
        let mut client = proxy.client();
        let mut ask = |key: usize| {
            let cookie = format!("Cookie: other=x; id=user{key}\r\n");
            let target = format!("/user{key}?at={by}");
            client.request("GET", &target, &cookie).text()
        };
        let first: Vec<String> = (0..30).map(&mut ask).collect();
        let second: Vec<String> = (0..30).map(&mut ask).collect();
        assert_eq!(first, second, "{by}");
        assert!(first.iter().any(|server| *server != first[0]), "{by}");
    }
}

#[test]
fn backups_serve_when_no_other_is_in_rotation_and_leave_when_one_returns() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let (c, d) = (Origin::good("c"), Origin::good("d"));
    let servers = [
        (&a, "1"),
        (&b, "1"),
        (&c, "{ weight = 2, backup = true }"),
        (&d, "{ weight = 1, backup = true }"),
    ];
    let proxy = weighted("smooth-weighted", &servers);
    assert_eq!(proxy.bodies(4), "abab");
    proxy.put_server(&a, r#"{"drain": true}"#);
    assert_eq!(proxy.bodies(4), "bbbb");
    proxy.put_server(&b, r#"{"weight": 0}"#);
    let bodies = proxy.bodies(30);
    let counts = [count(&bodies, "c"), count(&bodies, "d")];
    assert_eq!(counts, [20, 10], "by the same policy");
    proxy.delete_server(&a);
    assert_eq!(proxy.bodies(4), "aaaa");
}

#[test]
fn a_backup_serves_when_breakers_keep_the_others_out() {
    let (bad, backup) = (Origin::resetting(), Origin::good("backup"));
    let servers = [(&bad, "1"), (&backup, "{ backup = true }")];
    let proxy = weighted("smooth-weighted", &servers);
    for _ in 0..4 {
        assert_eq!(proxy.get("/").status, 502);
    }
    // The fifth failure opens the breaker: its own retry may find the backup already.
    eventually("the backup serves", || proxy.get("/").status == 200);
    assert_eq!(proxy.bodies(3), "backup".repeat(3));
}

#[test]
fn no_server_in_rotation_is_503_no_server() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let proxy = weighted("smooth-weighted", &[(&a, "0"), (&b, "{ drain = true }")]);
    let answer = proxy.get("/");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.evenkeel_reason(), Some("no_server"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[test]
fn an_override_is_kept_until_the_file_changes_that_server() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let config = |first: &str, more: &str| app_with(&[(&a, first), (&b, "1")], more) + WORKERS;
    let proxy = Proxy::start(&config("1", PLAIN));
    proxy.put_server(&a, r#"{"weight": 3}"#);
    assert_eq!(count(&proxy.bodies(40), "a"), 30);
    let status = proxy.server_status(&a);
    assert_eq!(status["override"]["weight"], 3, "{status}");
    proxy.reconfigure(&config("1", &format!("{PLAIN}max-requests = 7\n")));
    assert_eq!(
        count(&proxy.bodies(40), "a"),
        30,
        "its entry did not change"
    );
    proxy.reconfigure(&config("2", PLAIN));
    assert_eq!(
        count(&proxy.bodies(30), "a"),
        20,
        "the file has the word again"
    );
    assert!(proxy.server_status(&a)["override"].is_null());
}

#[test]
fn an_override_is_taken_back_by_delete() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let proxy = weighted("smooth-weighted", &[(&a, "1"), (&b, "1")]);
    proxy.put_server(&a, r#"{"drain": true}"#);
    assert_eq!(proxy.bodies(6), "bbbbbb");
    proxy.put_server(&a, r#"{"drain": false, "weight": 2}"#);
    assert_eq!(count(&proxy.bodies(30), "a"), 20);
    proxy.delete_server(&a);
    assert_eq!(count(&proxy.bodies(30), "a"), 15);
}

#[test]
fn a_weight_edited_in_the_file_is_exact_at_once() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    // Slow start as by default: it does not apply to an edit.
    let config = |weight: &str| app_with(&[(&a, weight), (&b, "1")], "") + WORKERS;
    let proxy = Proxy::start(&config("1"));
    assert_eq!(count(&proxy.bodies(20), "a"), 10);
    proxy.reconfigure(&config("3"));
    assert_eq!(count(&proxy.bodies(40), "a"), 30);
    proxy.reconfigure(&config("0"));
    assert_eq!(count(&proxy.bodies(10), "a"), 0);
    proxy.reconfigure(&config("4"));
    assert_eq!(count(&proxy.bodies(50), "a"), 40);
}

#[test]
fn a_draining_server_finishes_what_it_has() {
    let slow = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfi");
        connection.wait_for_close();
    });
    let good = Origin::good("good");
    let proxy = weighted("smooth-weighted", &[(&slow, "1"), (&good, "1")]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.some().expect("the answer begins");
    assert!(head.starts_with(b"HTTP/1.1 200"));
    proxy.put_server(&slow, r#"{"drain": true}"#);
    assert_eq!(proxy.bodies(4), "good".repeat(4));
    assert_eq!(proxy.server_status(&slow)["in_flight"], 1);
    assert_eq!(slow.open(), 1, "the exchange goes on");
}

#[test]
fn retries_never_move_the_order_of_first_attempts() {
    let (bad, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
    let more = format!("{PLAIN}[upstream.app.breaker]\nmode = \"off\"\n");
    let proxy = Proxy::start(&(app(&[&bad, &b, &c], &more) + WORKERS));
    bad.stop();
    let bodies = proxy.bodies(60);
    for (turn, answers) in bodies.as_bytes().chunks(3).enumerate() {
        assert_eq!(&answers[1..], b"bc", "period {turn} of {bodies}");
    }
    let retried: String = bodies.chars().step_by(3).collect();
    assert!(retried.contains('b') && retried.contains('c'), "{retried}");
}

#[test]
fn hash_passes_over_a_server_with_more_than_its_share_under_way() {
    let script = |name: &'static str| {
        Origin::scripted(move |connection| {
            while let Some(request) = connection.request() {
                if request.target().starts_with("/slow") {
                    connection.wait_for_close();
                    return;
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                connection.send(answer);
            }
        })
    };
    let (a, b) = (script("a"), script("b"));
    let more = format!("{PLAIN}balance = \"hash\"\nhash = {{ by = \"client-ip\" }}\n");
    let proxy = Proxy::start(&(app(&[&a, &b], &more) + WORKERS));
    let waiting: Vec<Client> = (1..=40)
        .map(|sent| {
            let mut client = proxy.client();
            client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
            eventually("it is at a server", || {
                a.request_count() + b.request_count() == sent
            });
            client
        })
        .collect();
    let most = a.request_count().max(b.request_count());
    // 1.5 times the half of 40 is 30, and never less than 16.
    assert!((20..=31).contains(&most), "{most} of {}", waiting.len());
}

#[test]
fn peak_ewma_takes_fast_errors_for_slow() {
    let failing = Origin::answering("HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nbad");
    let good = Origin::good("good");
    let more = format!(
        "{PLAIN}balance = \"peak-ewma\"\n[upstream.app.breaker]\nmode = \"off\"\n\
         [upstream.app.retry]\nattempts = 0\n"
    );
    let proxy = Proxy::start(&app(&[&failing, &good], &more));
    let statuses: Vec<u16> = (0..40).map(|_| proxy.get("/").status).collect();
    // Until both have been asked, each costs the same.
    let bad = statuses[20..].iter().filter(|status| **status == 503);
    assert!(bad.count() <= 2, "{statuses:?}");
}

#[test]
fn backups_stand_in_under_every_policy() {
    for policy in balances("header:X-Key") {
        let (a, b, c) = (Origin::good("a"), Origin::good("b"), Origin::good("c"));
        let backup = "{ backup = true }";
        let servers = [(&a, "1"), (&b, backup), (&c, backup)];
        let proxy = balanced(&policy, &servers);
        let before = by_key(&proxy);
        assert!(before.values().all(|name| name == "a"), "{policy}");
        proxy.put_server(&a, r#"{"drain": true}"#);
        let during = by_key(&proxy);
        let taken = |name: &str| during.values().filter(|server| *server == name).count();
        assert_eq!(taken("b") + taken("c"), 100, "{policy}");
        if policy.contains("hash") {
            assert!(taken("b") > 20 && taken("c") > 20, "{during:?}");
            assert_eq!(during, by_key(&proxy), "every key stays");
        }
        proxy.delete_server(&a);
        assert!(by_key(&proxy).values().all(|name| name == "a"), "{policy}");
    }
}

#[test]
fn an_upstream_may_be_all_backups() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let backup = "{ weight = 2, backup = true }";
    let servers = [(&a, backup), (&b, "{ backup = true }")];
    let bodies = weighted("smooth-weighted", &servers).bodies(30);
    assert_eq!([count(&bodies, "a"), count(&bodies, "b")], [20, 10]);
}

#[test]
fn overrides_that_make_no_sense_are_refused_and_change_nothing() {
    let (a, b) = (Origin::good("a"), Origin::good("b"));
    let proxy = weighted("round-robin", &[(&a, "1"), (&b, "1")]);
    let path = format!("/upstreams/app/servers/{}", a.address());
    for (path, body, status) in [
        (&*path, r#"{"weight": 1001}"#, 400),
        (&*path, r#"{"weight": -1}"#, 400),
        (&*path, r#"{"weight": 2}"#, 400),
        (&*path, r#"{"wieght": 1}"#, 400),
        (&*path, "{}", 400),
        (&*path, "no json", 400),
        (
            "/upstreams/app/servers/127.0.0.1:1",
            r#"{"weight": 1}"#,
            404,
        ),
        (
            "/upstreams/nobody/servers/127.0.0.1:1",
            r#"{"weight": 1}"#,
            404,
        ),
    ] {
        let answer = proxy.admin("PUT", path, body);
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
    }
    assert_eq!(proxy.bodies(4), "abab");
}
