//! `process.min-rate`: from nine tenths of `max-connections` on.

use std::time::{Duration, Instant};

use super::{config, cut, drip, held, holding, is_over, open};
use crate::support::h2::{H2, block_on};
use crate::support::tls::{Authority, connect};
use crate::support::{Client, Origin, Proxy, eventually, value_within};

/// A kept connection without a request.
fn idle(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    assert_eq!(client.get("/").status, 200);
    client
}

#[test]
fn idle_connections_go_first_the_oldest_first_and_no_more_than_it_takes() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 20, "").replace("workers = 2", "workers = 1"));
    let mut idle: Vec<Client> = (0..10).map(|_| idle(&proxy)).collect();
    let mut busy: Vec<Client> = (0..7).map(|_| held(&proxy)).collect();
    eventually("17 are in", || open(&proxy) == 17);
    assert!(!is_over(&mut idle[0]), "17 of 20 are not many");
    busy.extend((0..3).map(|_| held(&proxy)));
    eventually("less than nine tenths again", || open(&proxy) == 17);
    eventually("they are counted", || cut(&proxy, "overload_idle") == 3.0);
    let over: Vec<bool> = idle.iter_mut().map(is_over).collect();
    assert_eq!(over[..4], [true, true, true, false], "{over:?}");
    assert!(!over[4..].contains(&true), "{over:?}");
    assert!(!busy.iter_mut().any(is_over), "who has a request stays");
    assert_eq!(idle[9].get("/").status, 200);
}

/// Workers look one after the other, and which of them has the old ones is chance.
#[test]
fn the_oldest_go_whichever_worker_has_them() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 60, "").replace("workers = 2", "workers = 4"));
    let begun = Instant::now();
    let mut old: Vec<Client> = (0..20).map(|_| idle(&proxy)).collect();
    eventually("they are old", || begun.elapsed() > Duration::from_secs(2));
    let young_since = Instant::now();
    let mut young: Vec<Client> = (0..20).map(|_| idle(&proxy)).collect();
    eventually("the others may go, too", || {
        young_since.elapsed() > Duration::from_millis(1500)
    });
    assert_eq!(cut(&proxy, "overload_idle"), 0.0);
    let _busy: Vec<Client> = (0..30).map(|_| held(&proxy)).collect();
    eventually("less than nine tenths again", || open(&proxy) == 53);
    eventually("they are counted", || cut(&proxy, "overload_idle") == 17.0);
    let gone = |clients: &mut Vec<Client>| {
        clients
            .iter_mut()
            .filter_map(|one| is_over(one).then_some(()))
            .count()
    };
    assert_eq!(gone(&mut young), 0, "three of the old are left");
    assert_eq!(gone(&mut old), 17);
}

#[test]
fn idle_connections_of_http_2_are_told_to_go() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 10, ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        assert_eq!(client.get("/").await.status, 200);
        let mut busy = H2::connect(proxy.address()).await;
        let request = busy.request("GET", "/held").body(()).expect("a request");
        let (_held, _) = busy.send(request, true).await;
        let _others: Vec<Client> = (0..8).map(|_| held(&proxy)).collect();
        client.is_ended().await.expect("a clean GOAWAY");
        assert_eq!(busy.get("/").await.status, 200);
    });
    assert_eq!(cut(&proxy, "overload_idle"), 1.0);
}

/// Heads, plain and over TLS, and bodies that drip, and readers that do not read: all of them with
/// honest clients among them.
#[test]
fn drips_go_and_honest_clients_are_served_as_ever() {
    let origin = holding();
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    authority
        .issue(&["a.example"])
        .write(directory.path(), "site");
    let listeners = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         limits = { header-timeout = \"60s\" }\n\
         [[listener]]\nname = \"tls\"\naddress = \"127.0.0.2:0\"\n\
         limits = { header-timeout = \"60s\" }\n\
         tls = { certificates = [{ cert = \"site.pem\", key = \"site.key\" }] }\n";
    let config = format!("{listeners}{}", config(&origin, 60, ""));
    let proxy = Proxy::start_in(directory, &config).expect("it starts");
    let settings = authority.client().build();
    let mut drips: Vec<Client> = Vec::new();
    for _ in 0..13 {
        let mut head = proxy.client();
        head.send("GET / HTTP/1.1\r\nHost: test\r\nX-Drip: ");
        let mut body = proxy.client();
        body.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n");
        let mut reader = proxy.client();
        reader.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n");
        let mut tls = connect(proxy.listener("tls"), &settings, "a.example");
        tls.send("GET / HTTP/1.1\r\nHost: a.example\r\nX-Drip: ");
        drips.extend([head, body, reader, tls]);
    }
    let mut events = proxy.client();
    events.send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut waits = held(&proxy);
    eventually("they are in", || open(&proxy) >= 52);
    let mut fast = proxy.client();
    fast.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
    let end = Instant::now() + Duration::from_secs(7);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        let begin = Instant::now();
        let mut honest = proxy.client();
        assert_eq!(honest.get("/").status, 200);
        slowest = slowest.max(begin.elapsed());
        for client in &mut drips {
            drip(client, b'x');
        }
        fast.send([b'x'; 1000]);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(cut(&proxy, "overload_slow") > 0.0);
    assert!(open(&proxy) <= 60);
    assert!(!is_over(&mut waits), "the server is slow, not the client");
    assert!(events.head().is_ok() && events.some().is_ok());
    fast.send(vec![b'x'; 100_000]);
    assert!(!is_over(&mut fast), "20 KB/s are fast enough");
}

#[test]
fn below_nine_tenths_a_drip_is_nobodys_concern() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, 100, ""));
    let mut clients: Vec<Client> = (0..80).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: test\r\nX-Drip: ");
    }
    eventually("they are in", || open(&proxy) == 80);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert!(clients.iter_mut().all(|client| drip(client, b'x')));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(open(&proxy), 80);
    for client in &mut clients {
        client.send("\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }
}

/// Streams that drip on one connection: they go, the connection and its honest streams stay.
#[test]
fn slow_streams_of_http_2_go_one_by_one() {
    let origin = holding();
    let proxy = Proxy::start(&config(&origin, 10, ""));
    let _others: Vec<Client> = (0..9).map(|_| held(&proxy)).collect();
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("POST", "/").body(()).expect("a request");
        let (answer, mut body) = client.send(request, false).await;
        body.send_data("x".into(), false)
            .expect("the window is open");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 408);
        assert_eq!(answer.headers()["x-evenkeel-reason"], "request_timeout");
        assert_eq!(client.get("/").await.status, 200);
    });
    assert!(cut(&proxy, "overload_slow") >= 1.0);
}

/// `timeout.idle = "off"`: nothing wakes them, and nothing else comes.
#[test]
fn who_may_be_silent_for_ever_is_seen_when_his_place_is_needed() {
    let origin = holding();
    let timeouts = "timeout = { idle = \"off\", first-byte = \"off\" }\n";
    let config =
        config(&origin, 20, "").replace("[upstream.app]\n", &format!("[upstream.app]\n{timeouts}"));
    let proxy = Proxy::start(&config);
    let mut reader = proxy.client();
    reader.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut sender = proxy.client();
    sender.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nx");
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = client.request("GET", "/long").body(()).expect("a request");
        let (answer, _) = client.send(request, true).await;
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        eventually("three are in", || open(&proxy) == 3);
        let _busy: Vec<Client> = (0..17).map(|_| held(&proxy)).collect();
        value_within(Duration::from_secs(30), "all three are seen", || {
            (cut(&proxy, "overload_slow") >= 3.0).then_some(())
        });
        assert_eq!(cut(&proxy, "overload_slow"), 3.0, "each is counted once");
        let ended = answer.into_body().data().await;
        assert!(ended.is_some());
    });
    assert!(String::from_utf8_lossy(&sender.rest()).starts_with("HTTP/1.1 408 "));
}
