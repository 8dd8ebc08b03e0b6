//! `max-requests` and the queue behind it, over all workers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Client, Origin, Proxy, Response, app, app_with, eventually};

/// Answers each request when it is told to, with the request's target.
fn held() -> (Origin, Sender<()>) {
    let (release, released) = channel();
    let released = Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            if released.lock().expect("no panic").recv().is_err() {
                return;
            }
            let target = request.target();
            let length = target.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
        }
    });
    (origin, release)
}

fn asks(proxy: &Proxy, target: &str) -> Client {
    let mut client = proxy.client();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
    client
}

#[track_caller]
fn queue_is(proxy: &Proxy, length: usize) {
    let series = "evenkeel_upstream_queue_length{upstream=\"app\"}";
    eventually("so many wait", || {
        proxy.metric(series) == Some(length as f64)
    });
}

#[track_caller]
fn refused(answer: &Response, reason: &str) {
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (503, Some(reason))
    );
    let seconds = answer.header("retry-after").expect("says when");
    assert!(seconds.parse::<u64>().expect("seconds") >= 1);
}

#[test]
fn who_waited_longest_is_next() {
    let (origin, release) = held();
    let more = "max-requests = 1\nqueue = { size = 10, timeout = \"20s\" }\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let first = asks(&proxy, "/0");
    eventually("it is at the server", || origin.request_count() == 1);
    let mut clients = vec![first];
    for waiting in 1..6 {
        clients.push(asks(&proxy, &format!("/{waiting}")));
        queue_is(&proxy, waiting);
    }
    for (turn, client) in clients.iter_mut().enumerate() {
        eventually("the next one is there", || {
            origin.request_count() == turn + 1
        });
        release.send(()).expect("the origin waits");
        assert_eq!(client.response().text(), format!("/{turn}"));
    }
    let order: Vec<String> = origin.requests().iter().map(|r| r.target()).collect();
    assert_eq!(order, ["/0", "/1", "/2", "/3", "/4", "/5"]);
}

#[test]
fn a_full_queue_is_503_overloaded_and_a_long_wait_503_queue_timeout() {
    let (origin, _release) = held();
    let more = "max-requests = 1\nqueue = { size = 1, timeout = \"2s\" }\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let _first = asks(&proxy, "/");
    eventually("it is at the server", || origin.request_count() == 1);
    let start = Instant::now();
    let mut second = asks(&proxy, "/");
    queue_is(&proxy, 1);
    refused(&proxy.get("/"), "overloaded");
    refused(&second.response(), "queue_timeout");
    assert!(start.elapsed() >= Duration::from_secs(2));
    queue_is(&proxy, 0);
    assert_eq!(origin.request_count(), 1);
}

#[test]
fn without_a_queue_nobody_waits() {
    let (origin, _release) = held();
    let proxy = Proxy::start(&app(&[&origin], "max-requests = 1\nqueue = \"off\"\n"));
    let _first = asks(&proxy, "/");
    eventually("it is at the server", || origin.request_count() == 1);
    refused(&proxy.get("/"), "overloaded");
}

#[test]
fn a_client_that_leaves_gives_its_place_up() {
    let (origin, release) = held();
    let more = "max-requests = 1\nqueue = { size = 2, timeout = \"20s\" }\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let mut first = asks(&proxy, "/first");
    eventually("it is at the server", || origin.request_count() == 1);
    let second = asks(&proxy, "/second");
    queue_is(&proxy, 1);
    let mut third = asks(&proxy, "/third");
    queue_is(&proxy, 2);
    drop(second);
    queue_is(&proxy, 1);
    release.send(()).expect("the origin waits");
    assert_eq!(first.response().text(), "/first");
    release.send(()).expect("the origin waits");
    assert_eq!(third.response().text(), "/third");
}

#[test]
fn an_aborted_request_hands_its_slot_on() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/quick" {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let more = "max-requests = 1\nqueue = { size = 2, timeout = \"20s\" }\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let first = asks(&proxy, "/never");
    eventually("it is at the server", || origin.request_count() == 1);
    let mut second = asks(&proxy, "/quick");
    queue_is(&proxy, 1);
    first.reset();
    assert_eq!(second.response().status, 200);
}

#[test]
fn no_server_ever_has_more_than_max_requests() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (under_way, highest) = (now.clone(), most.clone());
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let count = under_way.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(count, Ordering::SeqCst);
            thread::yield_now();
            under_way.fetch_sub(1, Ordering::SeqCst);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let more = "max-requests = 2\nqueue = { size = 100, timeout = \"20s\" }\n\
                [process]\nworkers = 4\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let address = proxy.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..40).map(|_| client.get("/").status).collect::<Vec<_>>()
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no client fails"), [200; 40]);
    }
    assert!(most.load(Ordering::SeqCst) <= 2);
    queue_is(&proxy, 0);
}

#[test]
fn a_server_may_have_a_limit_of_its_own() {
    let ((small, _release), large) = (held(), Origin::good("large"));
    let more = "queue = \"off\"\n";
    let servers = [(&small, "{ weight = 9, max-requests = 1 }"), (&large, "1")];
    let proxy = Proxy::start(&app_with(&servers, more));
    let _first = asks(&proxy, "/");
    eventually("it is full", || small.request_count() == 1);
    assert_eq!(
        proxy.bodies(20),
        "large".repeat(20),
        "a full one is passed over"
    );
}

#[test]
fn tunnels_and_event_streams_leave_the_count() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let origin = Origin::scripted(move |connection| {
            connection.request();
            connection.send(head);
            connection.wait_for_close();
        });
        let more = "max-requests = 1\nqueue = \"off\"\n";
        let proxy = Proxy::start(&app(&[&origin], more));
        let clients: Vec<Client> = (0..3)
            .map(|_| {
                let mut client = proxy.client();
                client.send(
                    "GET / HTTP/1.1\r\nHost: test\r\n\
                     Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                );
                let begin = client.some().expect("an answer");
                assert_eq!(begin[..12], head.as_bytes()[..12]);
                client
            })
            .collect();
        assert_eq!(origin.open(), 3);
        assert_eq!(proxy.server_status(&origin)["in_flight"], 0);
        drop(clients);
        eventually("they end with their clients", || origin.open() == 0);
    }
}

#[test]
fn who_waits_takes_a_server_that_comes_meanwhile() {
    let ((busy, _release), free) = (held(), Origin::good("free"));
    let more = "max-requests = 1\nqueue = { size = 9, timeout = \"20s\" }\n";
    let proxy = Proxy::start(&app(&[&busy], more));
    let _first = asks(&proxy, "/");
    eventually("it is at the server", || busy.request_count() == 1);
    let mut second = asks(&proxy, "/");
    queue_is(&proxy, 1);
    proxy.reconfigure(&app(&[&busy, &free], more));
    assert_eq!(second.response().text(), "free");
}

#[test]
fn an_override_lets_those_who_wait_through() {
    let ((busy, _release), drained) = (held(), Origin::good("drained"));
    let more = "slow-start = \"off\"\nmax-requests = 1\nqueue = { size = 9, timeout = \"20s\" }\n";
    let servers = [(&busy, "1"), (&drained, "{ drain = true }")];
    let proxy = Proxy::start(&app_with(&servers, more));
    let _first = asks(&proxy, "/");
    eventually("it is at the server", || busy.request_count() == 1);
    let mut second = asks(&proxy, "/");
    queue_is(&proxy, 1);
    proxy.put_server(&drained, r#"{"drain": false}"#);
    assert_eq!(second.response().text(), "drained");
}

#[test]
fn who_waits_hears_at_once_that_nobody_is_left() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            if released.lock().expect("no panic").recv().is_err() {
                return;
            }
            connection.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let more = "max-requests = 1\nqueue = { size = 9, timeout = \"1h\" }\n\
                [upstream.app.breaker]\nconsecutive-failures = 1\n";
    let proxy = Proxy::start(&app(&[&origin], more));
    let mut first = asks(&proxy, "/");
    eventually("it is at the server", || origin.request_count() == 1);
    let mut waiting: Vec<Client> = (1..4)
        .map(|length| {
            let client = asks(&proxy, "/");
            queue_is(&proxy, length);
            client
        })
        .collect();
    release.send(()).expect("the origin waits");
    assert_eq!(first.response().evenkeel_reason(), None);
    drop(release);
    let open = |client: &mut Client| client.response().evenkeel_reason() == Some("circuit_open");
    let told = waiting.iter_mut().all(open);
    assert!(told, "the breaker opens before the slot is free");

    let (busy, _release) = held();
    let more = "max-requests = 1\nqueue = { size = 9, timeout = \"1h\" }\n";
    let proxy = Proxy::start(&app(&[&busy], more));
    let _first = asks(&proxy, "/");
    eventually("it is at the server", || busy.request_count() == 1);
    let mut second = asks(&proxy, "/");
    queue_is(&proxy, 1);
    proxy.put_server(&busy, r#"{"drain": true}"#);
    refused(&second.response(), "no_server");
}
