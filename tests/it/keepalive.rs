//! Connections that are used again, on both sides: order, ends, and whose answer is whose.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::{Client, Origin, Proxy, eventually};

fn start(origin: &Origin, rest: &str) -> Proxy {
    Proxy::start(&format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{}\"]\n{rest}\n",
        origin.address()
    ))
}

/// Answers each request with its target, after as long as the target says.
fn echo() -> Origin {
    Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let target = request.target();
            if target.starts_with("/slow") {
                thread::sleep(Duration::from_millis(20));
            }
            let length = target.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
        }
    })
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = echo();
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    let target = |number| match number % 10 {
        0 => format!("/slow/{number}"),
        _ => format!("/{number}"),
    };
    let requests: String = (0..200).map(|number| get(&target(number))).collect();
    client.send(requests);
    for number in 0..200 {
        assert_eq!(client.response().text(), target(number));
    }
}

#[test]
fn error_in_the_middle_of_a_pipeline_answers_what_came_before_it() {
    let origin = echo();
    let proxy = start(&origin, "");
    let bad = "GET /bad HTTP/1.1\r\nHost : h\r\n\r\n";
    let mut client = proxy.client();
    client.send([get("/slow/1"), get("/2"), bad.into(), get("/smuggled")].concat());
    assert_eq!(client.response().text(), "/slow/1");
    assert_eq!(client.response().text(), "/2");
    assert_eq!(client.response().status, 400);
    assert!(client.rest().is_empty(), "nothing behind the error");
    assert_eq!(origin.request_count(), 2);
}

#[test]
fn pipeline_waits_bounded_behind_a_slow_answer() {
    const ENOUGH: usize = 64 << 20;
    let origin = Origin::stalling();
    let proxy = start(&origin, "");
    let client = proxy.client();
    let mut stream = client.stream();
    let timeout = Some(Duration::from_millis(300));
    stream.set_write_timeout(timeout).expect("can be set");
    let requests = get("/").repeat(1000);
    let mut taken = 0;
    while let Ok(count) = stream.write(requests.as_bytes()) {
        taken += count;
        // What is in the kernel's buffers is not in ours.
        assert!(taken < ENOUGH, "requests are taken without end");
    }
    client.reset();
    eventually("the first one's server hears of it", || origin.open() == 0);
}

#[test]
fn close_of_either_side_is_kept_to_that_side() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let close = match request.target().as_str() {
                "/close" => "Connection: close\r\n",
                _ => "",
            };
            connection.send(format!(
                "HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n"
            ));
            if !close.is_empty() {
                return;
            }
        }
    });
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    for target in ["/", "/close", "/"] {
        let answer = client.get(target);
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, None),
            "{target}"
        );
    }
    assert_eq!(origin.connections(), 2, "the server closed the first");
    let answer = client.request("GET", "/", "Connection: Close\r\n");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed());
    eventually("the server's connection is kept", || origin.open() == 1);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn http_1_0_clients_are_kept_when_they_ask() {
    let origin = echo();
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    for number in 0..3 {
        client.send(format!(
            "GET /{number} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
        ));
        let answer = client.response();
        assert_eq!(answer.text(), format!("/{number}"));
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
    client.send("GET /last HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "/last");
    assert!(client.is_closed());
}

#[test]
fn connection_goes_on_behind_a_body_that_nobody_read() {
    let origin = echo();
    let proxy = Proxy::start(&format!(
        "[[route]]\nprefix = \"/a\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{}\"]\n",
        origin.address()
    ));
    let mut client = proxy.client();
    for size in [10, 60_000] {
        let body = "x".repeat(size);
        client.send(format!(
            "POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 404, "before its body");
        client.send([body, get("/a")].concat());
        assert_eq!(client.response().text(), "/a", "behind {size} bytes");
    }
    // Where a chunked one ends nobody knows yet: the answer says that it is the last.
    client.send("POST /none HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let answer = client.response();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("connection"), Some("close"));
    // And one that is too long to be read ends the connection, not its answer.
    let mut client = proxy.client();
    client.send("POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n");
    let _ = client.try_send("x".repeat(9_000_000));
    assert_eq!(client.response().status, 404);
    assert!(client.rest().is_empty());
}

#[test]
fn answers_of_ours_to_head_have_no_body() {
    let origin = echo();
    let proxy = Proxy::start(&format!(
        "[[route]]\nprefix = \"/a\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{}\"]\n",
        origin.address()
    ));
    let mut client = proxy.client();
    client.send("HEAD /none HTTP/1.1\r\nHost: h\r\n\r\n".to_owned() + &get("/a"));
    let answer = client.try_response_to("HEAD").expect("an answer");
    assert_eq!(answer.status, 404);
    assert_ne!(
        answer.header("content-length"),
        Some("0"),
        "as GET would have it"
    );
    assert_eq!(client.response().text(), "/a", "right behind it");
    client.send("HEAD / HTTP/1.1\r\nHost : h\r\n\r\n");
    assert_eq!(
        client.try_response_to("HEAD").expect("an answer").status,
        400
    );
    assert!(client.rest().is_empty());
}

/// A server that closes a while after each answer, or after some of them.
fn closing(pause: Duration) -> Origin {
    Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let tag = request.header("x-tag").unwrap_or_default();
            let length = tag.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{tag}"
            ));
            if connection.served % 3 == 2 {
                return thread::sleep(pause);
            }
        }
    })
}

#[test]
fn no_request_is_lost_to_a_server_that_closes_after_its_answers() {
    for pause in [0, 1, 5] {
        let origin = closing(Duration::from_millis(pause));
        let proxy = start(
            &origin,
            "breaker = { mode = \"off\" }\nretry = { attempts = 0 }",
        );
        let address = proxy.address();
        let lost = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..8 {
                let lost = &lost;
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    for number in 0..150 {
                        let tag = format!("{thread}-{number}");
                        let method = ["GET", "PUT", "DELETE"][number % 3];
                        let fields = format!("X-Tag: {tag}\r\n");
                        let answer = client.request(method, "/", &fields);
                        if answer.status == 200 {
                            assert_eq!(answer.text(), tag, "another's answer");
                        } else {
                            lost.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(lost.into_inner(), 0, "requests lost with {pause} ms");
    }
}

#[test]
fn nobody_sees_anothers_answer_whoever_leaves() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let tag = request.header("x-tag").unwrap_or_default();
            let body = tag.repeat(request.connection % 7 + 1);
            let size = body.len();
            let length = body.len() + if tag.ends_with('5') { 1 } else { 0 };
            if tag.ends_with('3') {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                connection.send(format!("{head}{size:x}\r\n{body}\r\n0\r\n\r\n"));
            } else {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
                ));
            }
            if tag.ends_with('5') {
                return;
            }
        }
    });
    let proxy = start(
        &origin,
        "breaker = { mode = \"off\" }\nretry = { attempts = 0 }",
    );
    let address = proxy.address();
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut client = Client::connect(address);
                for number in 0..200 {
                    let tag = format!("<{thread}.{number}>{}", random.u8(0..10));
                    let request = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Tag: {tag}\r\n\r\n");
                    match random.u8(0..10) {
                        // Half a request.
                        0 => drop(client.try_send(&request[..request.len() / 2])),
                        // Gone before the answer.
                        1 => drop(client.try_send(&request)),
                        _ => {
                            client.send(&request);
                            match client.try_response() {
                                Ok(answer) => {
                                    let text = answer.text();
                                    let own = text.replace(&tag, "").is_empty();
                                    assert!(own && !text.is_empty(), "{tag} was answered {text}");
                                    continue;
                                }
                                Err(_) => assert!(tag.ends_with('5'), "{tag} was broken off"),
                            }
                        }
                    }
                    let left = std::mem::replace(&mut client, Client::connect(address));
                    if random.bool() {
                        left.reset();
                    }
                }
            });
        }
    });
    let series = format!(
        "evenkeel_upstream_requests_in_flight{{upstream=\"app\",server=\"{}\"}}",
        origin.address()
    );
    eventually("every lease is back", || proxy.metric(&series) == Some(0.0));
}
