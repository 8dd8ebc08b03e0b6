//! A listener's own `max-connections`: the same protection as near the limit of the process, among
//! that listener's connections only.

use std::time::{Duration, Instant};

use super::{config, cut_at, drip, held, holding, is_over, open, refused};
use crate::support::h2::{H2, block_on};
use crate::support::{Client, Origin, Process, Proxy, eventually};

/// Two listeners: `web` with a limit of its own, `other` without.
fn two(origin: &Origin, most: usize, rest: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         limits = {{ header-timeout = \"60s\", max-connections = {most} }}\n\
         [[listener]]\nname = \"other\"\naddress = \"127.0.0.2:0\"\n\
         limits = {{ header-timeout = \"60s\" }}\n{}",
        config(origin, 4000, rest)
    )
}

fn active(proxy: &Proxy) -> f64 {
    let series = "evenkeel_connections_active{listener=\"web\"}";
    proxy.metric(series).unwrap_or(0.0)
}

/// More silent and dripping connections than there are places, each of which comes back: who asks
/// for something is served on the same listener, and nobody of another one is let go of.
#[test]
fn silent_and_dripping_connections_keep_nobody_out() {
    let origin = holding();
    let proxy = Proxy::start(&two(&origin, 60, ""));
    let other = proxy.listener("other");
    let mut others: Vec<Client> = (0..30).map(|_| Client::connect(other)).collect();
    let mut waits = held(&proxy);
    let flood = |place: usize| {
        let mut client = proxy.client();
        let begin = match place % 3 {
            0 => "",
            1 => "GET / HTTP/1.1\r\nHost: test\r\nX-Drip: ",
            _ => "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n",
        };
        let _ = client.try_send(begin);
        client
    };
    let mut flooding: Vec<Client> = (0..120).map(flood).collect();
    eventually("it is full", || active(&proxy) >= 54.0);
    let end = Instant::now() + Duration::from_secs(5);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let begin = Instant::now();
        assert_eq!(proxy.client().get("/").status, 200);
        slowest = slowest.max(begin.elapsed());
        for (place, client) in flooding.iter_mut().enumerate() {
            if place % 3 > 0 && !drip(client, b'x') {
                *client = flood(place);
            }
        }
    }
    println!("the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert!(cut_at(&proxy, "web", "overload_idle") > 0.0);
    assert!(cut_at(&proxy, "web", "overload_slow") > 0.0);
    assert!(!is_over(&mut waits), "the server is slow, not the client");
    assert_eq!(cut_at(&proxy, "other", "overload_idle"), 0.0);
    for client in &mut others {
        assert_eq!(client.get("/").status, 200, "another listener's stay");
    }
    drop((flooding, waits, others));
    eventually("no place is lost", || open(&proxy) == 0);
}

#[test]
fn newcomers_wait_for_a_place_and_hear_of_it_in_the_end() {
    let origin = holding();
    let proxy = Proxy::start(&two(&origin, 10, ""));
    let mut busy: Vec<Client> = (0..10).map(|_| held(&proxy)).collect();
    eventually("all are under way", || origin.request_count() == 10);
    let mut next = proxy.client();
    next.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(next.is_silent_for(Duration::from_millis(300)));
    busy.pop();
    assert_eq!(next.response().status, 200, "in the place of who left");
    drop(next);
    eventually("it has left", || open(&proxy) == 9);
    busy.push(held(&proxy));
    eventually("full again", || origin.request_count() == 12);
    let mut late = held(&proxy);
    assert_eq!(late.rest(), b"", "closed without a word");
    eventually("it is counted", || refused(&proxy) == 1.0);
    let other = Client::connect(proxy.listener("other")).get("/").status;
    assert_eq!(other, 200, "there is room elsewhere");
    drop(busy);
    eventually("no place is lost", || open(&proxy) == 0);
    assert_eq!(proxy.client().get("/").status, 200);
}

#[test]
fn idle_ones_are_closed_for_newcomers_whatever_they_speak() {
    let origin = holding();
    let proxy = Proxy::start(&two(&origin, 10, ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        assert_eq!(client.get("/").await.status, 200);
        let _busy: Vec<Client> = (0..9).map(|_| held(&proxy)).collect();
        client.is_ended().await.expect("a clean GOAWAY");
    });
    eventually("it is counted", || {
        cut_at(&proxy, "web", "overload_idle") == 1.0
    });
}

#[test]
fn a_reload_changes_the_limit_both_ways() {
    let origin = holding();
    let proxy = Proxy::start(&two(&origin, 6, ""));
    let mut busy: Vec<Client> = (0..6).map(|_| held(&proxy)).collect();
    eventually("all are under way", || origin.request_count() == 6);
    let mut next = proxy.client();
    next.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let off = two(&origin, 6, "").replace(", max-connections = 6", "");
    proxy.reconfigure(&off);
    assert_eq!(next.response().status, 200, "there is no limit now");
    busy.extend((0..6).map(|_| held(&proxy)));
    eventually("as many as come", || origin.request_count() == 13);
    // All of them count, those that came without a limit too.
    proxy.reconfigure(&two(&origin, 8, ""));
    drop(next);
    assert_eq!(held(&proxy).rest(), b"");
    busy.truncate(7);
    eventually("there is room for one", || open(&proxy) == 7);
    assert_eq!(proxy.client().get("/").status, 200);
}

#[test]
fn the_log_tells_of_an_episode_once() {
    let origin = holding();
    let process = Process::start(&two(&origin, 10, ""));
    let ask = || {
        let mut client = Client::connect(process.listener);
        client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
        client
    };
    let clients: Vec<Client> = (0..10).map(|_| ask()).collect();
    eventually("all are under way", || origin.request_count() == 10);
    let mut late: Vec<Client> = (0..5).map(|_| ask()).collect();
    for client in &mut late {
        assert_eq!(client.rest(), b"");
    }
    drop(clients);
    let over = "there is room for the listener's connections again";
    eventually("its end is told", || process.log().contains(over));
    let log = process.log();
    assert!(log.contains("refused=5 most=10"), "{log}");
    let begin = "connections are at the listener's max-connections: new ones wait listener=\"web\"";
    assert_eq!(log.matches(begin).count(), 1, "{log}");
}
