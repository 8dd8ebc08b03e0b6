//! Every timeout: when it fires, what the client is told, and what keeps it from firing.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::support::{Client, Origin, Proxy, Response, app, eventually};

const LIMIT: Duration = Duration::from_millis(300);

fn timeouts(values: &str) -> String {
    format!(
        "[upstream.app.breaker]\nmode = \"off\"\n[upstream.app.retry]\nattempts = 0\n\
         [upstream.app.timeout]\n{values}\n"
    )
}

/// Runs `measured` until it once took `LIMIT` to a quarter: this machine may be busy, but a timer
/// that is wrong is wrong every time. (A tenth is what timers keep by a clock that is paused.)
#[track_caller]
fn takes_the_limit(mut measured: impl FnMut()) {
    let latest = LIMIT + LIMIT / 4;
    let took: Vec<Duration> = (0..4)
        .map(|_| {
            let start = Instant::now();
            measured();
            start.elapsed()
        })
        .take_while(|took| *took < LIMIT || *took > latest)
        .collect();
    let early = took.iter().find(|took| **took < LIMIT);
    assert!(early.is_none(), "too early: {took:?}");
    assert!(took.len() < 4, "always too late: {took:?}");
}

#[track_caller]
fn refused(answer: &Response, status: u16, reason: &str) {
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (status, Some(reason))
    );
    assert!(answer.text().contains(reason), "{}", answer.text());
}

/// Waits for the test before each answer.
fn held(answer: &'static str) -> (Origin, std::sync::mpsc::Sender<()>) {
    let (release, released) = channel();
    let released: Mutex<Receiver<()>> = Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            if released.lock().expect("no panic").recv().is_err() {
                return;
            }
            connection.send(answer);
        }
    });
    (origin, release)
}

#[test]
fn connect_is_504_connect_timeout() {
    // A listener whose backlog is full answers no SYN.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("binds");
    socket.listen(0).expect("listens");
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    let patience = Duration::from_millis(100);
    let mut filling = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, patience) {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog never fills");
    }
    let config = format!(
        "[upstream.app]\nservers = [\"{address}\"]\n{}\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        timeouts("connect = \"300ms\"")
    );
    let proxy = Proxy::start(&config);
    takes_the_limit(|| {
        refused(&proxy.get("/"), 504, "connect_timeout");
    });
    let labels = format!("upstream=\"app\",server=\"{address}\"");
    let connects = format!("evenkeel_upstream_connects_total{{{labels},result=\"timeout\"}}");
    let attempts = format!("evenkeel_upstream_requests_total{{{labels},code=\"connect_timeout\"}}");
    for series in [connects, attempts] {
        eventually("it is counted", || proxy.metric(&series) >= Some(1.0));
    }
}

#[test]
fn first_byte_is_504_response_timeout() {
    let origin = Origin::stalling();
    let proxy = Proxy::start(&app(&[&origin], &timeouts("first-byte = \"300ms\"")));
    takes_the_limit(|| {
        refused(&proxy.get("/"), 504, "response_timeout");
    });
    eventually("the connection is given up", || origin.open() == 0);
}

#[test]
fn first_byte_begins_with_the_last_byte_of_the_request() {
    let origin = Origin::good("good");
    let proxy = Proxy::start(&app(&[&origin], &timeouts("first-byte = \"200ms\"")));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
    assert!(client.is_silent_for(LIMIT), "the request is not whole");
    client.send("b");
    assert_eq!(client.response().text(), "good");
}

#[test]
fn a_head_that_drips_does_not_move_first_byte() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        let pieces = ["HTTP/1.1 200 OK\r\n"]
            .into_iter()
            .chain(["X-A: b\r\n"; 40]);
        connection.drip(&pieces.collect::<Vec<_>>(), Duration::from_millis(40));
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("first-byte = \"300ms\"")));
    takes_the_limit(|| {
        refused(&proxy.get("/"), 504, "response_timeout");
    });
}

#[test]
fn idle_stands_still_while_first_byte_runs() {
    let (origin, release) = held("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"100ms\"")));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.is_silent_for(Duration::from_millis(600)));
    release.send(()).expect("the origin waits");
    assert_eq!(client.response().text(), "good");
}

#[test]
fn idle_cuts_an_answer_that_stalls() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        connection.wait_for_close();
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"300ms\"")));
    takes_the_limit(|| {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(client.try_response().is_err(), "a cut body must look cut");
    });
    eventually("the server's side is closed too", || origin.open() == 0);
}

#[test]
fn bytes_keep_an_exchange_from_being_idle() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
        connection.drip(&["x"; 20], Duration::from_millis(40));
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"300ms\"")));
    assert_eq!(proxy.get("/").text().len(), 20);
}

#[test]
fn a_client_that_stops_sending_is_told_408() {
    let origin = Origin::good("good");
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"300ms\"")));
    takes_the_limit(|| {
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nhalf");
        refused(&client.response(), 408, "request_timeout");
    });
    eventually("no half request is left", || origin.open() == 0);
}

#[test]
fn a_client_that_stops_reading_is_idle() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let piece = [b'x'; 100_000];
        while connection.try_send(piece).is_ok() {}
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"300ms\"")));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the answer begins", || origin.open() == 1);
    eventually("the exchange is given up", || origin.open() == 0);
    assert!(client.rest().len() < 100_000_000, "it was cut");
}

#[test]
fn whole_answers_to_a_client_that_stops_reading_are_idle_too() {
    // Each comes in one piece with its head, and no server is waited for any more.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n";
    let origin = Origin::answering([head.as_bytes(), &[b'x'; 30_000]].concat());
    let proxy = Proxy::start(&app(&[&origin], &timeouts("idle = \"300ms\"")));
    let mut client = proxy.client();
    let requests = "GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(1_000);
    client.send(requests);
    let active = "evenkeel_connections_active{listener=\"web\"}";
    eventually("it is answered", || proxy.metric(active) == Some(1.0));
    let start = Instant::now();
    eventually("it is given up", || proxy.metric(active) == Some(0.0));
    assert!(start.elapsed() < Duration::from_secs(5), "that took long");
    assert!(client.rest().len() < 30_000_000, "it was cut");
}

#[test]
fn total_is_504_total_timeout() {
    let origin = Origin::stalling();
    let proxy = Proxy::start(&app(&[&origin], &timeouts("total = \"300ms\"")));
    takes_the_limit(|| {
        refused(&proxy.get("/"), 504, "total_timeout");
    });
}

#[test]
fn total_cuts_an_answer_that_goes_on() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        connection.drip(&["x"; 100], Duration::from_millis(20));
    });
    let proxy = Proxy::start(&app(&[&origin], &timeouts("total = \"300ms\"")));
    takes_the_limit(|| {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(client.try_response().is_err(), "a cut body must look cut");
    });
}

#[test]
fn total_runs_over_all_attempts_and_the_queue() {
    let (first, second) = (Origin::stalling(), Origin::stalling());
    let retried = timeouts("total = \"300ms\"\nfirst-byte = \"200ms\"");
    let proxy = Proxy::start(&app(
        &[&first, &second],
        &retried.replace("attempts = 0", ""),
    ));
    takes_the_limit(|| {
        refused(&proxy.get("/"), 504, "total_timeout");
    });
    assert!(first.request_count() > 0 && second.request_count() > 0);

    let queued = format!("max-requests = 1\n{}", timeouts("total = \"300ms\""));
    let config = app(&[&first], &queued)
        + "[[route]]\nprefix = \"/hold\"\nupstream = \"app\"\ntimeout = { total = \"off\" }\n";
    let proxy = Proxy::start(&config);
    let before = first.request_count();
    let mut holding = proxy.client();
    holding.send("GET /hold HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the server is full", || first.request_count() > before);
    takes_the_limit(|| {
        refused(&proxy.get("/"), 504, "total_timeout");
    });
}

#[test]
fn a_route_may_have_its_own() {
    let origin = Origin::stalling();
    let config = app(&[&origin], &timeouts("first-byte = \"20s\""))
        + "[[route]]\nprefix = \"/fast\"\nupstream = \"app\"\n\
           timeout = { first-byte = \"300ms\" }\n";
    let proxy = Proxy::start(&config);
    takes_the_limit(|| {
        refused(&proxy.get("/fast"), 504, "response_timeout");
    });
}

/// Switches protocols, then sends back what comes.
fn echo() -> Origin {
    Origin::scripted(|connection| {
        connection.request();
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\n\r\n",
        );
        while let Some(bytes) = connection.some() {
            connection.send(bytes);
        }
    })
}

fn tunnel(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client
        .send("GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().status, 101);
    client
}

#[test]
fn a_tunnel_ends_when_it_is_idle_for_its_own_time() {
    let origin = echo();
    let limits = timeouts("tunnel = \"300ms\"\nidle = \"50ms\"\nfirst-byte = \"100ms\"");
    let proxy = Proxy::start(&app(&[&origin], &limits));
    takes_the_limit(|| {
        let mut client = tunnel(&proxy);
        assert!(client.is_closed());
    });
    eventually("the server's side is closed too", || origin.open() == 0);
}

#[test]
fn bytes_keep_a_tunnel_open() {
    let origin = echo();
    let proxy = Proxy::start(&app(&[&origin], &timeouts("tunnel = \"300ms\"")));
    let mut client = tunnel(&proxy);
    let start = Instant::now();
    while start.elapsed() < 3 * LIMIT {
        assert!(client.is_silent_for(Duration::from_millis(20)));
        client.send("ping");
        assert_eq!(client.exactly(4).expect("it is open"), b"ping");
    }
}

#[test]
fn an_event_stream_has_the_time_of_a_tunnel() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
        connection.wait_for_close();
    });
    let limits = timeouts("tunnel = \"300ms\"\nidle = \"50ms\"");
    let proxy = Proxy::start(&app(&[&origin], &limits));
    takes_the_limit(|| {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(client.some().expect("a head").starts_with(b"HTTP/1.1 200"));
        client.rest();
    });
}

#[test]
fn total_begins_with_the_first_byte_of_the_request() {
    let origin = Origin::stalling();
    let proxy = Proxy::start(&app(&[&origin], &timeouts("total = \"300ms\"")));
    takes_the_limit(|| {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\n");
        assert!(client.is_silent_for(Duration::from_millis(150)));
        client.send("Host: test\r\n\r\n");
        refused(&client.response(), 504, "total_timeout");
    });
}

#[test]
fn a_listeners_header_and_idle_timeouts_are_kept_too() {
    let origin = Origin::good("good");
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                    limits = { header-timeout = \"300ms\", idle-timeout = \"300ms\" }\n";
    let proxy = Proxy::start(&(app(&[&origin], "") + listener));
    takes_the_limit(|| {
        let mut client = proxy.client();
        client.send("GET / HT");
        refused(&client.response(), 408, "request_timeout");
    });
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    takes_the_limit(|| {
        let mut client = proxy.client();
        let start = Instant::now();
        assert_eq!(client.get("/").status, 200);
        assert!(client.is_closed());
        assert!(start.elapsed() >= LIMIT);
    });
    assert!(clients.iter_mut().all(Client::is_closed));
}
