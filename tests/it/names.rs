//! Servers by name, asked for at a name server that answers, changes, fails and lies: issue 6.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::{DEADLINE, Dns, Manner, ONE_WORKER, Origin, Proxy, eventually, value_within};

/// `servers`: the inside of the table.
fn config(servers: &str, more: &str) -> String {
    format!(
        "{ONE_WORKER}[upstream.app]\nservers = {{ {servers} }}\n{more}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    )
}

/// As many origins, at 127.0.0.1, 127.0.0.2 and so on, at one port, each of which says which it is.
fn origins(count: u8) -> Vec<Origin> {
    'port: for _ in 0..20 {
        let mut found: Vec<Origin> = vec![Origin::good("1")];
        let port = found[0].address().port();
        for last in 2..=count {
            let address = SocketAddr::from(([127, 0, 0, last], port));
            // Somebody else's test may have the port on another address.
            if std::net::TcpListener::bind(address).is_err() {
                continue 'port;
            }
            found.push(Origin::at(address, move |connection| {
                while connection.request().is_some() {
                    connection.send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{last}"
                    ));
                }
            }));
        }
        return found;
    }
    panic!("no port is free on {count} addresses");
}

fn port(origins: &[Origin]) -> u16 {
    origins[0].address().port()
}

/// Who answered as many requests, each on a connection of its own; fails where one fails.
#[track_caller]
fn spread(proxy: &Proxy, requests: usize) -> [usize; 4] {
    let mut counts = [0; 4];
    let mut client = proxy.client();
    for _ in 0..requests {
        let answer = client.request("GET", "/", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        counts[answer.text().parse::<usize>().expect("a number")] += 1;
    }
    counts
}

/// The addresses of the servers, in the order of `/status`.
fn addresses(status: &Value) -> Vec<String> {
    let servers = status["servers"].as_array().expect("a list");
    let address = |server: &Value| server["address"].as_str().expect("a text").to_owned();
    servers.iter().map(address).collect()
}

#[track_caller]
fn wait_for_servers(proxy: &Proxy, origins: &[&Origin]) {
    let wanted: Vec<String> = origins.iter().map(|o| o.address().to_string()).collect();
    eventually(&format!("the servers are {wanted:?}"), || {
        addresses(&proxy.app_status()) == wanted
    });
}

#[track_caller]
fn wait_for_state(proxy: &Proxy, state: &str) -> Value {
    value_within(DEADLINE, &format!("the name is {state}"), || {
        let name = proxy.app_status()["names"][0].take();
        (name["state"] == state).then_some(name)
    })
}

#[test]
fn the_addresses_of_a_name_share_its_weight_exactly() {
    let (dns, origins, other) = (Dns::start(), origins(3), Origin::good("0"));
    dns.set("app.test", &["127.0.0.3", "127.0.0.1", "127.0.0.2"], 60);
    let name = format!("app.test:{}", port(&origins));
    let servers = format!("\"{}\" = 1, \"{name}\" = 3", other.address());
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, "slow-start = \"off\""));
    wait_for_servers(&proxy, &[&other, &origins[0], &origins[1], &origins[2]]);
    assert_eq!(spread(&proxy, 12), [3, 3, 3, 3]);
    proxy.reconfigure(&config(
        &format!("\"{}\" = 1, \"{name}\" = 1", other.address()),
        "slow-start = \"off\"",
    ));
    assert_eq!(spread(&proxy, 12), [6, 2, 2, 2]);
    let status = proxy.app_status();
    let server = &status["servers"][1];
    assert_eq!(server["names"], serde_json::json!([name]));
    assert!((server["effective_weight"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!(status["names"][0]["servers"], 3);
    let weight = format!(
        "evenkeel_upstream_server_weight{{upstream=\"app\",server=\"{}\"}}",
        origins[0].address()
    );
    assert!((proxy.metric(&weight).expect("a series") - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn servers_follow_the_answers_and_keep_their_state() {
    let (dns, origins) = (Dns::start(), origins(3));
    dns.set("app.test", &["127.0.0.1", "127.0.0.2"], 1);
    let servers = format!("\"app.test:{}\" = 1", port(&origins));
    let more = "slow-start = \"off\"\n";
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, more));
    wait_for_servers(&proxy, &[&origins[0], &origins[1]]);
    assert_eq!(spread(&proxy, 4), [0, 2, 2, 0]);
    let connections = origins[0].connections();
    let attempts = proxy.app_status()["servers"][0]["attempts"].clone();
    dns.set("app.test", &["127.0.0.3", "127.0.0.1"], 1);
    wait_for_servers(&proxy, &[&origins[0], &origins[2]]);
    assert_eq!(proxy.app_status()["servers"][0]["attempts"], attempts);
    assert_eq!(spread(&proxy, 4), [0, 2, 0, 2]);
    assert_eq!(
        origins[0].connections(),
        connections,
        "its connection is kept"
    );
    eventually("idle connections to who is gone close", || {
        origins[1].open() == 0
    });
    let gone = format!("server=\"{}\"", origins[1].address());
    eventually("series of who is gone disappear", || {
        !proxy.metrics().contains(&gone)
    });
}

#[test]
fn a_request_to_a_server_that_is_gone_finishes() {
    let dns = Dns::start();
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12");
            thread::sleep(Duration::from_secs(3));
            connection.send("34");
        }
    });
    dns.set("app.test", &["127.0.0.1"], 1);
    let servers = format!("\"app.test:{}\" = 1", origin.address().port());
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, ""));
    wait_for_servers(&proxy, &[&origin]);
    let answer = thread::scope(|scope| {
        let asked = scope.spawn(|| proxy.get("/"));
        eventually("the request is there", || origin.request_count() == 1);
        dns.set("app.test", &["127.0.0.9"], 1);
        eventually("another server", || {
            addresses(&proxy.app_status())[0].starts_with("127.0.0.9:")
        });
        asked.join().expect("no panic")
    });
    assert_eq!((answer.status, answer.text().as_str()), (200, "1234"));
}

#[test]
fn a_server_that_joins_waits_for_its_check() {
    let (dns, origins) = (Dns::start(), origins(2));
    dns.set("app.test", &["127.0.0.1"], 1);
    let servers = format!("\"app.test:{}\" = 1", port(&origins));
    let checks = "[upstream.app.health]\npath = \"/\"\ninterval = \"300ms\"\n";
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, checks));
    wait_for_servers(&proxy, &[&origins[0]]);
    origins[1].stop();
    dns.set("app.test", &["127.0.0.1", "127.0.0.2"], 1);
    wait_for_servers(&proxy, &[&origins[0], &origins[1]]);
    eventually("it is checked", || {
        let status = proxy.app_status();
        status["servers"][1]["health"]["last_error"].is_string()
    });
    assert_eq!(spread(&proxy, 6), [0, 6, 0, 0]);
    origins[1].resume();
    eventually("it is in rotation, slowly at first", || {
        proxy.app_status()["servers"][1]["slow_start_percent"].is_u64()
    });
}

#[test]
fn the_same_address_by_two_ways_is_one_server_with_both_weights() {
    let (dns, origins) = (Dns::start(), origins(2));
    dns.set("app.test", &["127.0.0.1", "127.0.0.1", "127.0.0.2"], 60);
    dns.set("same.test", &["127.0.0.2"], 60);
    let port = port(&origins);
    let servers =
        format!("\"app.test:{port}\" = 2, \"127.0.0.1:{port}\" = 1, \"same.test:{port}\" = 1");
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, "slow-start = \"off\""));
    eventually("both names are there", || {
        let status = proxy.app_status();
        status["servers"]
            .as_array()
            .is_some_and(|servers| servers.len() == 2)
            && status["names"][1]["state"] == "resolved"
    });
    let status = proxy.app_status();
    let find = |last: u8| {
        let address = format!("127.0.0.{last}:{port}");
        let mut servers = status["servers"].as_array().expect("a list").iter();
        servers
            .find(|server| server["address"] == address)
            .expect("it is there")
    };
    assert_eq!(find(1)["effective_weight"], 2.0, "{status}");
    assert_eq!(find(2)["effective_weight"], 2.0, "{status}");
    let (app, same) = (format!("app.test:{port}"), format!("same.test:{port}"));
    assert_eq!(find(1)["names"], serde_json::json!([app]));
    assert_eq!(find(2)["names"], serde_json::json!([app, same]));
    assert_eq!(spread(&proxy, 8), [0, 4, 4, 0]);
}

#[test]
fn srv_records_give_ports_weights_and_backups() {
    let dns = Dns::start();
    let origins = ["1", "2", "3"].map(Origin::good);
    let ports = origins.each_ref().map(|origin| origin.address().port());
    for target in ["a.test", "b.test", "c.test"] {
        dns.set(target, &["127.0.0.1"], 60);
    }
    let records = [
        (20, 1, ports[2], "c.test"),
        (10, 3, ports[0], "a.test"),
        (10, 1, ports[1], "b.test"),
    ];
    dns.set_srv("_http._tcp.api.test", &records, 1);
    for additional in [true, false] {
        if !additional {
            dns.without_additional();
        }
        let servers = "\"srv:_http._tcp.api.test\" = 1";
        let more =
            "slow-start = \"off\"\nbreaker = { consecutive-failures = 1, max-ejected = \"100%\" }";
        let proxy = Proxy::start_resolving(dns.address(), &config(servers, more));
        eventually("all are there", || {
            proxy.app_status()["names"][0]["servers"] == 3
        });
        assert_eq!(spread(&proxy, 8), [0, 6, 2, 0]);
        origins[0].stop();
        origins[1].stop();
        eventually("the backup takes over", || proxy.get("/").text() == "3");
        origins[0].resume();
        origins[1].resume();
    }
}

#[test]
fn a_service_that_is_decidedly_not_there_is_no_server_and_comes_back() {
    let (dns, origin) = (Dns::start(), Origin::good("1"));
    dns.set("a.test", &["127.0.0.1"], 1);
    let there = [(1, 1, origin.address().port(), "a.test")];
    dns.set_srv("_http._tcp.api.test", &there, 1);
    let servers = "\"srv:_http._tcp.api.test\" = 1";
    let proxy = Proxy::start_resolving(dns.address(), &config(servers, ""));
    wait_for_servers(&proxy, &[&origin]);
    dns.set_srv("_http._tcp.api.test", &[(0, 0, 0, "")], 1);
    let name = wait_for_state(&proxy, "unresolved");
    assert!(
        name["error"]
            .as_str()
            .is_some_and(|error| error.contains("decidedly"))
    );
    let refused = proxy.get("/");
    assert_eq!(
        (refused.status, refused.evenkeel_reason()),
        (503, Some("no_server"))
    );
    dns.set_srv("_http._tcp.api.test", &there, 1);
    wait_for_servers(&proxy, &[&origin]);
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn whatever_a_name_server_does_the_last_good_answer_is_kept() {
    let (dns, origin) = (Dns::start(), Origin::good("1"));
    let name = format!("app.test:{}", origin.address().port());
    dns.set("app.test", &["127.0.0.1"], 1);
    let proxy = Proxy::start_resolving(dns.address(), &config(&format!("\"{name}\" = 1"), ""));
    wait_for_servers(&proxy, &[&origin]);
    let count = |result: &str| {
        let series = format!("evenkeel_resolutions_total{{name=\"{name}\",result=\"{result}\"}}");
        proxy.metric(&series).expect("the series is there")
    };
    for (manner, result) in [
        (Manner::Code(2), "failure"),
        (Manner::Code(5), "refused"),
        (Manner::Code(3), "not_found"),
        (Manner::Code(0), "empty"),
        (Manner::Garbage, "timeout"),
        (Manner::Cut, "timeout"),
        (Manner::OtherId, "timeout"),
        (Manner::Loop, "timeout"),
    ] {
        let before = count(result);
        dns.behave(manner);
        wait_for_state(&proxy, "failing");
        let limit = Duration::from_secs(20);
        value_within(limit, &format!("{manner:?} is counted as {result}"), || {
            (count(result) > before || (result == "timeout" && count("failure") > 0.0))
                .then_some(())
        });
        assert_eq!(spread(&proxy, 2), [0, 2, 0, 0], "{manner:?}");
        dns.behave(Manner::Honest);
        let name = wait_for_state(&proxy, "resolved");
        assert!(name["error"].is_null(), "{name}");
    }
    dns.stop();
    let name = wait_for_state(&proxy, "failing");
    assert!(
        name["seconds_since_answer"].is_f64() && name["error"].is_string(),
        "{name}"
    );
    assert_eq!(spread(&proxy, 2), [0, 2, 0, 0]);
    dns.resume();
    wait_for_state(&proxy, "resolved");
}

#[test]
fn a_name_server_that_is_down_at_the_start_is_waited_for() {
    let (dns, origin) = (Dns::start(), Origin::good("1"));
    dns.set("app.test", &["127.0.0.1"], 60);
    dns.stop();
    let servers = format!("\"app.test:{}\" = 1", origin.address().port());
    let timeout = "timeout = { connect = \"5s\" }";
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, timeout));
    assert_eq!(proxy.admin("GET", "/readyz", "").status, 200);
    assert_eq!(proxy.app_status()["servers"][0]["state"], "resolving");
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..5).map(|_| scope.spawn(|| proxy.get("/"))).collect();
        eventually("all wait", || {
            proxy.app_status()["servers"][0]["in_flight"] == 5
        });
        dns.resume();
        for answer in waiting {
            let answer = answer.join().expect("no panic");
            assert_eq!(answer.status, 200, "{} {}", answer.text(), proxy.status());
        }
    });
    wait_for_servers(&proxy, &[&origin]);
}

#[test]
fn without_an_answer_requests_are_refused_and_it_heals_by_itself() {
    let (dns, origin) = (Dns::start(), Origin::good("1"));
    dns.set("app.test", &["127.0.0.1"], 60);
    dns.stop();
    let servers = format!("\"app.test:{}\" = 1", origin.address().port());
    let timeout = "timeout = { connect = \"2s\" }";
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, timeout));
    for _ in 0..8 {
        let refused = proxy.get("/");
        assert_eq!(
            refused.evenkeel_reason(),
            Some("no_server"),
            "{}",
            refused.text()
        );
        assert!(refused.header("retry-after").is_some());
    }
    wait_for_state(&proxy, "unresolved");
    let start = Instant::now();
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("no_server"));
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "nobody waits any more"
    );
    dns.resume();
    let limit = Duration::from_secs(7);
    value_within(limit, "it answers", || {
        (proxy.get("/").status == 200).then_some(())
    });
}

#[test]
fn a_name_without_answer_takes_nothing_from_others() {
    let (dns, origin) = (Dns::start(), Origin::good("1"));
    dns.behave(Manner::Silent);
    let servers = format!("\"app.test:1\" = 9, \"{}\" = 1", origin.address());
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, ""));
    let start = Instant::now();
    assert_eq!(spread(&proxy, 10), [0, 10, 0, 0]);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "none waited for the name"
    );
}

#[test]
fn a_long_answer_comes_over_tcp_and_a_flood_is_cut() {
    let (dns, origin) = (Dns::start(), Origin::good("1"));
    let many = |count: usize| -> Vec<String> {
        (0..count)
            .map(|n| format!("127.1.{}.{}", n / 200, n % 200 + 1))
            .collect()
    };
    let port = origin.address().port();
    let set = |count: usize| {
        let ips = many(count);
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        dns.set("app.test", &ips, 1);
    };
    set(150);
    let servers = format!("\"app.test:{port}\" = 1");
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, ""));
    let servers = || proxy.app_status()["names"][0]["servers"].as_u64();
    eventually("150 servers", || servers() == Some(150));
    assert!(dns.over_tcp() > 0);
    set(2000);
    eventually("as many as may be", || servers() == Some(256));
    assert_eq!(proxy.app_status()["names"][0]["left_out"], 2000 - 256);
    set(2);
    eventually("two", || servers() == Some(2));
    let lines = proxy.metrics();
    let series = lines
        .lines()
        .filter(|line| line.contains("server=\"127.1."))
        .count();
    assert!(series < 60, "{series} series of two servers");
}

#[test]
fn one_family_is_used_and_addresses_that_are_none_are_not() {
    let dns = Dns::start();
    let six = Origin::at("[::1]:0".parse().expect("an address"), |connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2");
        }
    });
    let four = Origin::good("1");
    dns.set(
        "both.test",
        &["::1", "127.0.0.1", "0.0.0.0", "224.0.0.1"],
        60,
    );
    dns.set("six.test", &["::1"], 60);
    let names = [("both.test", four.address()), ("six.test", six.address())];
    for (name, address) in names {
        let servers = format!("\"{name}:{}\" = 1", address.port());
        let proxy = Proxy::start_resolving(dns.address(), &config(&servers, ""));
        eventually("it is resolved", || {
            addresses(&proxy.app_status()) == [address.to_string()]
        });
        assert_eq!(proxy.get("/").status, 200);
    }
}

#[test]
fn an_override_is_for_one_address_or_for_the_whole_name() {
    let (dns, origins) = (Dns::start(), origins(2));
    dns.set("app.test", &["127.0.0.1", "127.0.0.2"], 1);
    let (name, other) = (format!("app.test:{}", port(&origins)), Origin::good("3"));
    let servers = format!("\"{name}\" = 2, \"{}\" = 1", other.address());
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, "slow-start = \"off\""));
    wait_for_servers(&proxy, &[&origins[0], &origins[1], &other]);
    let put = |server: &str, body: &str| {
        let answer = proxy.admin("PUT", &format!("/upstreams/app/servers/{server}"), body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let one = put(&origins[0].address().to_string(), r#"{"drain": true}"#);
    assert_eq!(one["draining"], true);
    assert_eq!(spread(&proxy, 4), [0, 0, 2, 2]);
    let all = put(&name, r#"{"weight": 6}"#);
    assert_eq!(all["servers"].as_array().map(Vec::len), Some(2), "{all}");
    assert_eq!(spread(&proxy, 8), [0, 0, 6, 2]);
    dns.set("app.test", &["127.0.0.1"], 1);
    wait_for_servers(&proxy, &[&origins[0], &other]);
    dns.set("app.test", &["127.0.0.1", "127.0.0.2"], 1);
    wait_for_servers(&proxy, &[&origins[0], &origins[1], &other]);
    assert_eq!(
        spread(&proxy, 8),
        [0, 0, 6, 2],
        "it holds for who comes back"
    );
    for server in [origins[0].address().to_string(), name] {
        let path = format!("/upstreams/app/servers/{server}");
        assert_eq!(proxy.admin("DELETE", &path, "").status, 200);
    }
    assert_eq!(spread(&proxy, 6), [0, 2, 2, 2]);
}

#[test]
fn a_reload_never_asks_again_for_a_name_that_it_keeps() {
    let (dns, origins) = (Dns::start(), origins(2));
    dns.set("app.test", &["127.0.0.1", "127.0.0.2"], 60);
    let port = port(&origins);
    let one = format!("\"app.test:{port}\" = 1");
    let proxy = Proxy::start_resolving(dns.address(), &config(&one, "slow-start = \"off\""));
    wait_for_servers(&proxy, &[&origins[0], &origins[1]]);
    assert_eq!(spread(&proxy, 4), [0, 2, 2, 0]);
    let asked = dns.asked("app.test");
    dns.stop();
    let start = Instant::now();
    let two = format!("\"app.test:{port}\" = 7, \"later.test:{port}\" = 1");
    proxy.reconfigure(&config(&two, "slow-start = \"off\""));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "a reload never waits for names"
    );
    assert_eq!(spread(&proxy, 4), [0, 2, 2, 0]);
    assert_eq!(proxy.app_status()["servers"][0]["attempts"], 4);
    // Under another name, while nobody can be asked.
    let renamed = config(&two, "")
        .replace("upstream.app", "upstream.new")
        .replace("upstream = \"app\"", "upstream = \"new\"");
    proxy.reconfigure(&renamed);
    assert_eq!(spread(&proxy, 4), [0, 2, 2, 0]);
    dns.resume();
    assert_eq!(dns.asked("app.test"), asked);
}

#[test]
fn no_request_fails_while_answers_change() {
    let (dns, origins) = (Dns::start(), origins(3));
    dns.set("app.test", &["127.0.0.1"], 0);
    let servers = format!("\"app.test:{}\" = 1", port(&origins));
    let proxy = Proxy::start_resolving(dns.address(), &config(&servers, ""));
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let load = || {
            let mut client = proxy.client();
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let method = if count % 3 == 0 { "POST" } else { "GET" };
                let answer = client.request(method, "/", "Content-Length: 0\r\n");
                assert_eq!(answer.status, 200, "{}", answer.text());
                answered.fetch_add(1, Ordering::Relaxed);
                count += 1;
            }
        };
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        for round in 0..5 {
            let next: &[&str] = match round % 3 {
                0 => &["127.0.0.2"],
                1 => &["127.0.0.3", "127.0.0.1"],
                _ => &["127.0.0.1", "127.0.0.2", "127.0.0.3"],
            };
            dns.set("app.test", next, 0);
            eventually("the servers follow", || {
                proxy.app_status()["servers"].as_array().map(Vec::len) == Some(next.len())
            });
            let before = answered.load(Ordering::Relaxed);
            eventually("requests go on", || {
                answered.load(Ordering::Relaxed) > before + 40
                    || loads.iter().any(thread::ScopedJoinHandle::is_finished)
            });
        }
        done.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().expect("none failed");
        }
    });
}
