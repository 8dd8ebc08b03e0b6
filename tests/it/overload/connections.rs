//! `process.max-connections`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{config, held, holding, open, refused};
use crate::support::h2::{H2, block_on};
use crate::support::tls::{Authority, connect};
use crate::support::{Client, Process, Proxy, eventually};

#[test]
fn nobody_is_let_in_beyond_the_limit_and_whoever_waits_in_vain_is_told() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 20, ""));
    assert_eq!(proxy.status()["max_connections"], 20);
    let mut clients: Vec<Client> = (0..20).map(|_| held(&proxy)).collect();
    eventually("all are under way", || origin.request_count() == 20);
    let mut waiting: Vec<Client> = (0..5).map(|_| held(&proxy)).collect();
    let begin = Instant::now();
    for client in &mut waiting {
        assert_eq!(client.rest(), b"", "closed without a word");
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2), "told after {took:?}");
    eventually("they are counted", || refused(&proxy) == 5.0);
    assert_eq!((open(&proxy), origin.request_count()), (20, 20));
    // From here on new ones hear of it at once.
    let begin = Instant::now();
    assert_eq!(proxy.client().rest(), b"");
    assert!(begin.elapsed() < Duration::from_secs(2));
    clients.pop();
    eventually("its place is free", || open(&proxy) == 19);
    assert_eq!(proxy.client().get("/").status, 200);
    clients.clear();
    eventually("no place is lost", || open(&proxy) == 0);
}

#[test]
fn whoever_waits_is_served_as_soon_as_somebody_leaves() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 10, ""));
    let mut clients: Vec<Client> = (0..10).map(|_| held(&proxy)).collect();
    eventually("all are under way", || origin.request_count() == 10);
    let mut next = proxy.client();
    next.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(next.is_silent_for(Duration::from_millis(300)));
    clients.pop();
    let begin = Instant::now();
    assert_eq!(next.response().status, 200);
    assert!(begin.elapsed() < Duration::from_secs(2), "at once");
    assert_eq!(refused(&proxy), 0.0);
}

/// Hope does not end with an earlier time without a place.
#[test]
fn whoever_waits_the_next_time_is_waited_for_again() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 10, ""));
    for round in 1..=2 {
        let mut clients: Vec<Client> = (0..10).map(|_| held(&proxy)).collect();
        eventually("all are under way", || origin.request_count() >= 10 * round);
        let mut next: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
        for client in &mut next {
            assert!(client.is_silent_for(Duration::from_millis(50)));
        }
        drop(next);
        clients.clear();
        eventually("every place is free", || open(&proxy) == 0);
        std::thread::sleep(Duration::from_millis(3200));
    }
    assert_eq!(refused(&proxy), 0.0);
}

#[test]
fn a_reload_changes_the_limit_both_ways() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 8, ""));
    let clients: Vec<Client> = (0..8).map(|_| held(&proxy)).collect();
    eventually("all are under way", || origin.request_count() == 8);
    let mut next = proxy.client();
    next.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    proxy.reconfigure(&config(&origin, 100, ""));
    assert_eq!(next.response().status, 200, "there is room now");
    proxy.reconfigure(&config(&origin, 2, ""));
    assert_eq!(proxy.status()["max_connections"], 2);
    drop(next);
    eventually("those that are in stay", || open(&proxy) == 8);
    drop(clients);
    eventually("no place is lost", || open(&proxy) == 0);
    assert_eq!(proxy.client().get("/").status, 200);
}

/// Whatever a connection speaks and however it ends, its place comes back.
#[test]
fn every_kind_of_connection_has_one_place_and_gives_it_back() {
    let origin = holding();
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    authority
        .issue(&["a.example"])
        .write(directory.path(), "site");
    let socket = directory.path().join("in.sock");
    let listeners = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"tls\"\naddress = \"127.0.0.2:0\"\n\
         tls = {{ certificates = [{{ cert = \"site.pem\", key = \"site.key\" }}] }}\n\
         [[listener]]\nname = \"header\"\naddress = \"127.0.0.3:0\"\n\
         proxy-protocol = \"required\"\ntrusted-proxies = [\"127.0.0.0/8\"]\n\
         [[listener]]\nname = \"unix\"\naddress = \"unix:{}\"\n\
         limits = {{ max-connections = 3 }}\n",
        socket.display()
    );
    let config = format!("{listeners}{}", config(&origin, 1000, ""));
    let proxy = Proxy::start_in(directory, &config).expect("it starts");
    let settings = authority.client().build();
    for round in 0..3 {
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..4 {
            let mut plain = Client::connect(proxy.listener("plain"));
            assert_eq!(plain.get("/").status, 200);
            let mut tls = connect(proxy.listener("tls"), &settings, "a.example");
            tls.send("GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n");
            let broken = Client::connect(proxy.listener("tls"));
            let mut header = Client::connect(proxy.listener("header"));
            header.send("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
            assert_eq!(header.response().status, 200);
            let mut garbage = Client::connect(proxy.listener("header"));
            garbage.send("what is this\r\n\r\n");
            clients.extend([plain, tls, broken, header, garbage]);
        }
        let unix: Vec<_> = (0..5)
            .map(|_| {
                let mut client = UnixStream::connect(&socket).expect("it listens");
                let ask = b"GET /held HTTP/1.1\r\nHost: test\r\n\r\n";
                client.write_all(ask).expect("the backlog has room");
                client
            })
            .collect();
        let address = proxy.listener("plain");
        block_on(async {
            let mut client = H2::connect(address).await;
            assert_eq!(client.get("/").await.status, 200);
        });
        eventually("garbage and the fourth and fifth are closed", || {
            open(&proxy) == 16 + 3
        });
        match round {
            0 => drop(clients),
            _ => clients.into_iter().for_each(Client::reset),
        }
        drop(unix);
        eventually("every place is free", || open(&proxy) == 0);
    }
}

#[test]
fn the_log_tells_of_an_episode_once() {
    let origin = holding();
    let process = Process::start(&config(&origin, 10, ""));
    assert!(
        process.log().contains("max_connections=10"),
        "{}",
        process.log()
    );
    let ask = || {
        let mut client = Client::connect(process.listener);
        client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
        client
    };
    let clients: Vec<Client> = (0..10).map(|_| ask()).collect();
    eventually("all are under way", || origin.request_count() == 10);
    let mut late: Vec<Client> = (0..30).map(|_| ask()).collect();
    for client in &mut late {
        assert_eq!(client.rest(), b"");
    }
    drop(clients);
    let over = "there is room for connections again refused=30 most=10";
    eventually("its end is told", || process.log().contains(over));
    let log = process.log();
    assert_eq!(log.matches("new ones wait").count(), 1, "{log}");
    let mut client = Client::connect(process.listener);
    assert_eq!(client.get("/").status, 200);
}
