//! `mirror`: a copy for somebody else, and nothing of it is the client's business.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::support::h2::{H2, block_on};
use super::support::{Client, Connection, H2Origin, Origin, Proxy, Received, eventually, raw};

/// What a shadow that does not answer must not add to a request.
const AT_ONCE: Duration = Duration::from_secs(5);

fn upstream(name: &str, address: impl std::fmt::Display, more: &str) -> String {
    format!("[upstream.{name}]\nservers = [\"{address}\"]\n{more}\n")
}

fn config(origin: &Origin, shadow: impl std::fmt::Display, more: &str, route: &str) -> String {
    upstream("app", origin.address(), "")
        + &upstream("shadow", shadow, more)
        + &format!(
            "[[route]]\nname = \"r\"\nprefix = \"/\"\nupstream = \"app\"\n\
             mirror = {{ upstream = \"shadow\" }}\n{route}\n"
        )
}

/// The same to a shadow that is an origin.
fn mirrored(origin: &Origin, shadow: &Origin, route: &str) -> Proxy {
    Proxy::start(&config(origin, shadow.address(), "", route))
}

fn count(proxy: &Proxy, result: &str) -> u64 {
    let series = format!("evenkeel_mirrored_total{{result=\"{result}\",route=\"r\"}}");
    let other = format!("evenkeel_mirrored_total{{route=\"r\",result=\"{result}\"}}");
    let value = proxy.metric(&series).or_else(|| proxy.metric(&other));
    value.expect("shown from the start") as u64
}

fn counts(proxy: &Proxy, expected: [u64; 3]) {
    let now = || ["sent", "dropped", "failed"].map(|result| count(proxy, result));
    let what = format!("{expected:?} is counted");
    eventually(&what, || now() == expected);
}

fn answers(client: &mut Client, requests: usize) {
    for _ in 0..requests {
        let began = Instant::now();
        let answer = client.get("/");
        assert_eq!((answer.status, &*answer.text()), (200, "real"));
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
}

#[test]
fn a_copy_is_what_the_server_gets_and_says_that_it_is_one() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("nobody reads this"));
    let proxy = mirrored(
        &origin,
        &shadow,
        "strip-prefix = false\nrewrite = { regex = \"/old/(.*)\", to = \"/new/$1\" }\n\
         request-headers = { set = { x-set = \"${request.id}\" } }",
    );
    counts(&proxy, [0, 0, 0]);
    let mut client = proxy.client();
    client.send(
        "DELETE /old/a%2fb?q=1 HTTP/1.1\r\nHost: Example.org:8080\r\nCookie: a=b\r\n\
         Authorization: Basic eA==\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n",
    );
    assert_eq!(client.response().text(), "real");
    counts(&proxy, [1, 0, 0]);
    let (real, copy) = (origin.last(), shadow.last());
    assert_eq!(copy.start_line(), "DELETE /new/a%2Fb?q=1 HTTP/1.1");
    assert_eq!(copy.header("host").as_deref(), Some("Example.org:8080"));
    assert_eq!(copy.header("x-evenkeel-mirror").as_deref(), Some("r"));
    assert_eq!(real.header("x-evenkeel-mirror"), None);
    let without_mark = |one: &Received| -> Vec<String> {
        let lines = one.head_text();
        let lines = lines
            .split("\r\n")
            .filter(|line| !line.starts_with("x-evenkeel"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(without_mark(&real), without_mark(&copy));
    // It is nobody's request, but it is an attempt.
    let requests =
        "evenkeel_requests_total{listener=\"web\",route=\"r\",method=\"DELETE\",code=\"200\"}";
    assert_eq!(proxy.metric(requests), Some(1.0));
    let attempts = format!(
        "evenkeel_upstream_requests_total{{upstream=\"shadow\",server=\"{}\",code=\"200\"}}",
        shadow.address()
    );
    assert_eq!(proxy.metric(&attempts), Some(1.0));
}

#[test]
fn shares_are_exact_whatever_worker_takes_the_request_and_over_reloads() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let text = config(&origin, shadow.address(), "", "").replace(
        "{ upstream = \"shadow\" }",
        "{ upstream = \"shadow\", percent = \"12.5%\" }",
    );
    let proxy = Proxy::start(&text);
    for round in 1..=4 {
        for _ in 0..16 {
            assert_eq!(proxy.get("/").text(), "real");
        }
        counts(&proxy, [round * 2, 0, 0]);
        proxy.reconfigure(&format!(
            "{text}\n[upstream.spare{round}]\nservers = [\"127.0.0.1:9\"]"
        ));
    }
    proxy.reconfigure(&text.replace("12.5%", "0%"));
    proxy.get("/");
    proxy.reconfigure(&text.replace("12.5%", "100%"));
    proxy.get("/");
    counts(&proxy, [9, 0, 0]);
    assert_eq!(shadow.request_count(), 9);
}

#[test]
fn connections_to_the_shadow_are_kept() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy =
        Proxy::start(&(config(&origin, shadow.address(), "", "") + "[process]\nworkers = 1\n"));
    let mut client = proxy.client();
    for sent in 1..=10 {
        answers(&mut client, 1);
        counts(&proxy, [sent, 0, 0]);
    }
    assert_eq!(shadow.connections(), 1);
}

#[test]
fn a_long_answer_costs_its_connection_and_no_more() {
    let origin = Origin::good("real");
    let long = |connection: &mut Connection| {
        if connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while connection
                .try_send(format!("8000\r\n{}\r\n", "x".repeat(0x8000)))
                .is_ok()
            {}
        }
    };
    let shadow = Origin::scripted(long);
    let proxy = mirrored(&origin, &shadow, "");
    answers(&mut proxy.client(), 3);
    counts(&proxy, [3, 0, 0]);
    eventually("they are closed", || shadow.open() == 0);
}

#[test]
fn short_bodies_are_copied_whole_and_long_ones_not_at_all() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy = mirrored(&origin, &shadow, "retry = { max-replay-body = \"1KiB\" }");
    let mut client = proxy.client();
    assert_eq!(client.post("/", b"order").text(), "real");
    counts(&proxy, [1, 0, 0]);
    assert_eq!(shadow.last().body, b"order");
    client.send(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    assert_eq!(client.response().text(), "real");
    counts(&proxy, [2, 0, 0]);
    assert_eq!(shadow.last().body, origin.last().body);
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send("ok");
    assert_eq!(client.response().text(), "real");
    counts(&proxy, [3, 0, 0]);
    assert_eq!(shadow.last().body, b"ok");
    assert_eq!(
        shadow.last().header("expect"),
        None,
        "there is nothing to wait for"
    );
    assert_eq!(client.post("/", &[b'x'; 1024]).status, 200);
    counts(&proxy, [4, 0, 0]);
    assert_eq!(client.post("/", &[b'x'; 1025]).status, 200);
    counts(&proxy, [4, 1, 0]);
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    ));
    assert_eq!(client.response().status, 200);
    counts(&proxy, [4, 2, 0]);
    assert_eq!((origin.request_count(), shadow.request_count()), (6, 4));
}

#[test]
fn a_body_that_breaks_off_is_never_copied() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy = mirrored(&origin, &shadow, "");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf");
    eventually("it is under way", || origin.connections() == 1);
    client.reset();
    counts(&proxy, [0, 1, 0]);
    assert_eq!(shadow.connections(), 0);
}

#[test]
fn from_http2_and_to_http2_bodies_arrive() {
    let origin = Origin::good("real");
    let plain = Origin::good("x");
    let proxy = mirrored(&origin, &plain, "");
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        assert_eq!(client.post("/", "over two").await.text(), "real");
        assert_eq!(client.get("/").await.text(), "real");
    });
    counts(&proxy, [2, 0, 0]);
    // Copies overtake each other.
    let copies = plain.requests();
    let copy = copies.iter().find(|copy| copy.method() == "POST");
    let copy = copy.expect("it was counted");
    assert_eq!(
        copy.body,
        origin.requests()[0].body,
        "as it goes to the server"
    );
    let shadow = H2Origin::good("x");
    let text = config(&origin, shadow.address(), "protocol = \"h2\"", "");
    let proxy = Proxy::start(&text);
    let mut client = proxy.client();
    assert_eq!(client.post("/", b"to two").text(), "real");
    answers(&mut client, 4);
    counts(&proxy, [5, 0, 0]);
}

#[test]
fn upgrades_and_copies_are_not_copied() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy = mirrored(&origin, &shadow, "");
    let mut client = proxy.client();
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(client.request("GET", "/", upgrade).status, 200);
    assert_eq!(
        client
            .request("GET", "/", "X-Evenkeel-Mirror: other\r\n")
            .status,
        200
    );
    let mut tunnel = raw::Raw::connect(proxy.address());
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "h"),
    ];
    tunnel.send(raw::head(1, 0x4, &extended, &[]));
    eventually("it has come", || origin.request_count() == 3);
    answers(&mut client, 1);
    counts(&proxy, [1, 0, 0]);
    assert_eq!(shadow.request_count(), 1);
}

#[test]
fn mirrors_that_point_at_each_other_are_no_loop() {
    let origin = Origin::good("real");
    let reserved = Origin::good("x");
    let proxy = mirrored(&origin, &reserved, "");
    let itself = config(&origin, proxy.address(), "", "");
    proxy.reconfigure(&itself);
    answers(&mut proxy.client(), 1);
    counts(&proxy, [1, 0, 0]);
    assert_eq!(origin.request_count(), 2, "the request and its one copy");
}

#[test]
fn a_copy_has_the_address_of_its_own_server_where_the_client_says_no_host() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy = mirrored(&origin, &shadow, "");
    proxy.client().send("GET / HTTP/1.0\r\n\r\n").response();
    counts(&proxy, [1, 0, 0]);
    assert_eq!(
        shadow.last().header("host"),
        Some(shadow.address().to_string())
    );
    assert_eq!(
        origin.last().header("host"),
        Some(origin.address().to_string())
    );
}

const SHORT: &str = "timeout = { connect = \"300ms\", first-byte = \"300ms\" }\nbreaker = \"off\"";

/// Each fault of a shadow, and what becomes of three copies.
#[test]
fn whatever_the_shadow_does_the_client_has_its_answer_at_once() {
    let dead = Origin::good("x");
    dead.stop();
    let faults: Vec<(&str, Origin, [u64; 3])> = vec![
        ("refuses", dead, [0, 0, 3]),
        ("never answers", Origin::stalling(), [0, 0, 3]),
        ("resets", Origin::resetting(), [0, 0, 3]),
        (
            "speaks nonsense",
            Origin::answering("\0\0garbage\r\n\r\n"),
            [0, 0, 3],
        ),
        ("closes", Origin::closing_after(0), [0, 0, 3]),
        (
            "fails",
            Origin::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
            [3, 0, 0],
        ),
        (
            "breaks off its answer",
            Origin::scripted(|connection| {
                connection.request();
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            }),
            [3, 0, 0],
        ),
        (
            "stalls in its answer",
            Origin::scripted(|connection| {
                connection.request();
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                connection.wait_for_close();
            }),
            [3, 0, 0],
        ),
        (
            "drips its head",
            Origin::scripted(|connection| {
                connection.request();
                while connection.try_send("H").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }),
            [0, 0, 3],
        ),
        (
            "sends 1xx for ever",
            Origin::scripted(|connection| {
                connection.request();
                let early = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
                while connection.try_send(&early).is_ok() {}
            }),
            [0, 0, 3],
        ),
        (
            "switches protocols unasked",
            Origin::answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
            [0, 0, 3],
        ),
    ];
    let origin = Origin::good("real");
    for (fault, shadow, expected) in &faults {
        let proxy = Proxy::start(&config(&origin, shadow.address(), SHORT, ""));
        eprintln!("a shadow that {fault}");
        let mut client = proxy.client();
        answers(&mut client, 2);
        let mut posting = proxy.client();
        assert_eq!(posting.post("/", b"order").text(), "real", "{fault}");
        if *fault != "stalls in its answer" {
            counts(&proxy, *expected);
        }
        answers(&mut client, 1);
        let metrics = proxy.metrics();
        let mut rejected = metrics
            .lines()
            .filter(|line| line.starts_with("evenkeel_rejected_total{"));
        assert!(rejected.all(|line| line.ends_with(" 0")), "{fault}");
    }
}

#[test]
fn a_shadow_that_takes_no_connection_and_one_that_takes_no_body_are_no_burden() {
    // A listener whose backlog is full answers no SYN.
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.bind(&address.into()).expect("a port");
    socket.listen(1).expect("it listens");
    let address = socket
        .local_addr()
        .expect("bound")
        .as_socket()
        .expect("TCP");
    let patience = Duration::from_millis(200);
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, patience) {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog never fills");
    }
    let origin = Origin::good("real");
    let proxy = Proxy::start(&config(&origin, address, SHORT, ""));
    let mut client = proxy.client();
    answers(&mut client, 3);
    counts(&proxy, [0, 0, 3]);

    let reading_nothing = Origin::scripted(|connection| connection.wait_for_close());
    let proxy = Proxy::start(&config(&origin, reading_nothing.address(), SHORT, ""));
    let mut client = proxy.client();
    let body = vec![b'x'; 60_000];
    for _ in 0..3 {
        assert_eq!(client.post("/", &body).text(), "real");
    }
    counts(&proxy, [0, 0, 3]);
}

#[test]
fn breaker_max_requests_and_the_bound_drop_copies() {
    let origin = Origin::good("real");
    let stalling = Origin::stalling();
    let slow = "timeout = { first-byte = \"60s\" }";
    let full = Proxy::start(&config(
        &origin,
        stalling.address(),
        &format!("{slow}\nmax-requests = 2"),
        "",
    ));
    answers(&mut full.client(), 5);
    counts(&full, [0, 3, 0]);
    assert_eq!(
        full.metric("evenkeel_upstream_queue_length{upstream=\"shadow\"}"),
        Some(0.0)
    );

    let bound = Proxy::start(&config(&origin, stalling.address(), slow, ""));
    answers(&mut bound.client(), 140);
    counts(&bound, [0, 12, 0]);

    let dead = Origin::good("x");
    dead.stop();
    let open = Proxy::start(&config(&origin, dead.address(), "", ""));
    let mut client = open.client();
    for failed in 1..=5 {
        answers(&mut client, 1);
        counts(&open, [0, 0, failed]);
    }
    eventually("its breaker is open", || {
        answers(&mut client, 1);
        count(&open, "dropped") > 2
    });
    assert_eq!(count(&open, "failed"), 5);
}

#[test]
fn a_shadow_that_is_slower_than_its_client_still_gets_its_copy() {
    let origin = Origin::good("real");
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let shadow = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let _released = wait.lock().expect("no panic").recv();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
        }
    });
    let proxy = mirrored(&origin, &shadow, "");
    let answer = proxy.get("/");
    assert_eq!(answer.text(), "real");
    let active = "evenkeel_connections_active{listener=\"web\"}";
    eventually("the client is gone", || proxy.metric(active) == Some(0.0));
    eventually("the copy has come", || shadow.request_count() == 1);
    counts(&proxy, [0, 0, 0]);
    release.send(()).expect("the shadow waits");
    counts(&proxy, [1, 0, 0]);
}

#[test]
fn a_request_that_fails_is_copied_like_any_other_and_one_that_is_refused_is_not() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy = mirrored(
        &origin,
        &shadow,
        "[[route]]\npath = \"/denied\"\nupstream = \"app\"\ndeny = [\"127.0.0.1\"]\n\
         mirror = { upstream = \"shadow\" }",
    );
    assert_eq!(proxy.get("/denied").status, 403);
    origin.stop();
    assert_eq!(proxy.get("/lost").status, 502);
    counts(&proxy, [1, 0, 0]);
    assert_eq!(shadow.last().target(), "/lost");
    assert_eq!(shadow.request_count(), 1);
}

#[test]
fn a_stale_connection_is_replaced_once() {
    let (origin, shadow) = (Origin::good("real"), Origin::closing_after(1));
    let proxy =
        Proxy::start(&(config(&origin, shadow.address(), "", "") + "[process]\nworkers = 1\n"));
    let mut client = proxy.client();
    for sent in 1..=10 {
        answers(&mut client, 1);
        counts(&proxy, [sent, 0, 0]);
    }
}

#[test]
fn a_drain_waits_for_no_copy() {
    let (origin, shadow) = (Origin::good("real"), Origin::stalling());
    let proxy = mirrored(&origin, &shadow, "");
    let mut client = proxy.client();
    answers(&mut client, 5);
    eventually("they are under way", || shadow.request_count() == 5);
    proxy.drain();
    drop(client);
    let took = proxy.wait();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_reload_takes_copies_elsewhere_and_loses_none() {
    let origin = Origin::good("real");
    let (first, second) = (Origin::good("x"), Origin::good("y"));
    let proxy = mirrored(&origin, &first, "");
    let mut client = proxy.client();
    for round in 1..=10 {
        answers(&mut client, 5);
        let to = if round % 2 == 0 { &first } else { &second };
        proxy.reconfigure(&config(&origin, to.address(), "", ""));
    }
    answers(&mut client, 1);
    counts(&proxy, [51, 0, 0]);
    assert_eq!(first.request_count() + second.request_count(), 51);
    proxy.reconfigure(&config(&origin, second.address(), "", "").replace("mirror = ", "#"));
    answers(&mut client, 1);
    assert_eq!(first.request_count() + second.request_count(), 51);
}

#[test]
fn servers_that_are_told_whose_connection_it_is_hear_the_clients() {
    let (origin, shadow) = (
        Origin::good("real"),
        Origin::scripted(|connection| {
            let header = connection.exactly("PROXY TCP4 127.0.0.1 127.0.0.1 ".len());
            assert_eq!(
                header.as_deref(),
                Some(&b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..])
            );
            connection.some();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            connection.wait_for_close();
        }),
    );
    let proxy = Proxy::start(&config(
        &origin,
        shadow.address(),
        "proxy-protocol = \"v1\"",
        "",
    ));
    answers(&mut proxy.client(), 3);
    counts(&proxy, [3, 0, 0]);
    assert_eq!(
        shadow.connections(),
        3,
        "each for one client, and pooled for nobody"
    );
}

#[test]
fn explain_and_diff_tell_of_it() {
    let (origin, shadow) = (Origin::good("real"), Origin::good("x"));
    let proxy = mirrored(&origin, &shadow, "");
    let said = proxy
        .admin("POST", "/explain", r#"{"method":"GET","url":"/"}"#)
        .json();
    assert_eq!(said["mirror"], "shadow 100%");
    let text = config(&origin, shadow.address(), "", "");
    let less = text.replace("\"shadow\" }", "\"shadow\", percent = \"1%\" }");
    let off = text.replace("mirror = ", "#");
    for (before, after, change) in [
        (&text, &less, "mirror shadow 100% -> shadow 1%"),
        (&less, &off, "mirror shadow 1% -> off"),
    ] {
        eventually(change, || {
            proxy.reconfigure(before);
            proxy.write(after);
            // Whoever watches the file may have been faster, and has told the log.
            proxy.reload().text().contains(change)
        });
    }
}
