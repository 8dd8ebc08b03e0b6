//! What is known of servers is known to the new process too: nobody pays for it a second time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::service::Service;
use crate::support::Dns;
use crate::support::{Client, Origin, Response, app, count, eventually};

/// Nothing repairs what a client meets, and checks come once a minute.
const ONCE: &str = "retry = { attempts = 0 }\nslow-start = \"off\"\n";
const CHECKED: &str = "health = { path = \"/healthz\", interval = \"1m\", timeout = \"20s\", \
     rise = 1, fall = 1 }\n";

/// `/status` of one server of `app`.
fn server(service: &Service, address: SocketAddr) -> Value {
    let status = service.status();
    let servers = status["upstreams"][0]["servers"].as_array().cloned();
    let address = address.to_string();
    let found = servers.and_then(|list| list.into_iter().find(|it| it["address"] == *address));
    found.expect("the server is there")
}

/// `PUT`s or `DELETE`s an override.
pub fn admin(service: &Service, method: &str, address: SocketAddr, body: &str) -> Response {
    let path = format!("/upstreams/app/servers/{address}");
    let length = body.len();
    let mut client = Client::connect(service.admin());
    client.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    ));
    client.response()
}

/// The bodies of that many answers, each on a connection of its own, none of which may be slow.
#[track_caller]
fn bodies(service: &Service, requests: usize) -> String {
    let address = service.listener("web");
    let answer = |_| {
        let started = Instant::now();
        let answer = Client::connect(address).get("/");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "it had to wait: {took:?}");
        answer.text()
    };
    (0..requests).map(answer).collect()
}

#[test]
fn a_server_that_was_drained_by_hand_stays_drained() {
    let [a, b] = ["a", "b"].map(Origin::good);
    let mut service = Service::start(&app(&[&a, &b], ONCE));
    let answer = admin(&service, "PUT", a.address(), r#"{"drain": true}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    for round in 0..2 {
        service.upgrade();
        assert_eq!(bodies(&service, 20), "b".repeat(20), "round {round}");
        assert_eq!(server(&service, a.address())["state"], "draining");
    }
    assert_eq!(a.request_count(), 0);
    // It is an override as any other.
    assert_eq!(admin(&service, "DELETE", a.address(), "").status, 200);
    assert_eq!(count(&bodies(&service, 20), "a"), 10);
    // And what the file says meanwhile is newer.
    let answer = admin(&service, "PUT", a.address(), r#"{"drain": true}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = app(&[&a, &b], ONCE).replace(
        &format!("\"{}\" = 1", a.address()),
        &format!("\"{}\" = 3", a.address()),
    );
    // Reloads wait while processes change: the file is the new process' to read.
    service.write(&text);
    service.upgrade();
    assert_eq!(count(&bodies(&service, 20), "a"), 15);
}

#[test]
fn one_that_checks_took_out_costs_nobody_a_request_or_a_wait() {
    let silent = Arc::new(AtomicBool::new(false));
    let dead = Origin::scripted({
        let silent = silent.clone();
        move |connection| {
            while connection.request().is_some() {
                if !silent.load(Ordering::SeqCst) {
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndead");
                }
            }
        }
    });
    let (address, good) = (dead.address(), Origin::good("good"));
    let config = |checks: &str| app(&[&dead, &good], &format!("{ONCE}{checks}"));
    let mut service = Service::start(&config(CHECKED));
    eventually("both were checked", || {
        let verdict = |address| server(&service, address)["health"]["verdict"].take();
        verdict(address) == "healthy" && verdict(good.address()) == "healthy"
    });
    // The next check would come in a minute.
    dead.stop();
    service.write(&config(&CHECKED.replace("1m", "1s").replace("20s", "1s")));
    eventually("checks take it out", || {
        server(&service, address)["state"] == "unhealthy"
    });
    service.write(&config(CHECKED));
    // From here on it takes connections and says nothing: a first check takes its time, and so
    // would a request.
    silent.store(true, Ordering::SeqCst);
    dead.resume();
    service.upgrade();
    assert_eq!(bodies(&service, 30), "good".repeat(30));
    assert_eq!(server(&service, address)["state"], "unhealthy");
    let asked = dead.requests().iter().any(|it| it.target() == "/");
    assert!(!asked, "not a single request went there");
}

#[test]
fn an_open_breaker_stays_open_for_the_time_that_is_left() {
    let (dead, good) = (Origin::good("dead"), Origin::good("good"));
    let breaker = "breaker = { consecutive-failures = 1, open = \"60s\" }\n";
    let mut service = Service::start(&app(&[&dead, &good], &format!("{ONCE}{breaker}")));
    dead.stop();
    let address = service.listener("web");
    eventually("a request finds it dead", || {
        Client::connect(address).get("/").status == 502
    });
    eventually("its breaker is open", || {
        server(&service, dead.address())["state"] == "open"
    });
    let left = |service: &Service| {
        let server = server(service, dead.address());
        let left = server["breaker"]["seconds_to_probe"].as_f64();
        left.expect("it is open")
    };
    let before = left(&service);
    service.upgrade();
    let after = left(&service);
    assert!(
        after <= before && after > before - 50.0,
        "{before}, {after}"
    );
    dead.resume();
    assert_eq!(bodies(&service, 20), "good".repeat(20));
    assert_eq!(dead.request_count(), 0);
}

#[test]
fn a_name_server_that_is_down_meanwhile_takes_no_server_away() {
    let (dns, good) = (Dns::start(), Origin::good("good"));
    dns.set("app.test", &["127.0.0.1"], 1);
    let name = format!("app.test:{}", good.address().port());
    let config = app(&[&good], ONCE).replace(&good.address().to_string(), &name);
    let resolver = dns.address().to_string();
    let mut service = Service::start_with(&config, |command| {
        command.env("EVENKEEL_RESOLVER", resolver);
    });
    assert_eq!(bodies(&service, 1), "good");
    dns.stop();
    for _ in 0..2 {
        service.upgrade();
        assert_eq!(bodies(&service, 10), "good".repeat(10));
    }
    eventually("the last answer is kept", || {
        let name = &service.status()["upstreams"][0]["names"][0];
        name["state"] == "failing" && name["servers"] == 1
    });
    assert_eq!(bodies(&service, 1), "good");
}
