//! Kept connections that the server ended, and those that belong to one client.

use std::time::Duration;

use super::support::{ONE_WORKER, Origin, Proxy, Received, app, eventually, value_within};

const STRICT: &str = "[upstream.app.retry]\nattempts = 0\n\
                      [upstream.app.breaker]\nconsecutive-failures = 1\n";

/// Its first connection ends with its second request, unanswered; `reset` says how.
fn fickle(reset: bool) -> Origin {
    Origin::scripted(move |connection| {
        while connection.request().is_some() {
            if connection.index == 0 && connection.served == 2 {
                if reset {
                    connection.reset();
                }
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
        }
    })
}

fn started(origin: &Origin, more: &str) -> Proxy {
    let proxy = Proxy::start(&(app(&[origin], &format!("{STRICT}{more}")) + ONE_WORKER));
    assert_eq!(proxy.get("/").text(), "good");
    proxy
}

#[test]
fn an_idempotent_request_is_sent_once_more_to_the_same_server() {
    for reset in [false, true] {
        for method in ["GET", "PUT", "DELETE"] {
            let origin = fickle(reset);
            let proxy = started(&origin, "");
            let mut client = proxy.client();
            client.send(format!(
                "{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody"
            ));
            assert_eq!(client.response().text(), "good", "{method}, reset: {reset}");
            let on: Vec<usize> = origin.requests().iter().map(|r| r.connection).collect();
            assert_eq!(on, [0, 0, 1]);
            assert_eq!(origin.last().body, b"body", "replayed whole");
            assert_eq!(proxy.breaker_state(&origin), "closed", "it hears nothing");
        }
    }
}

#[test]
fn a_post_is_not_sent_twice() {
    for reset in [false, true] {
        let origin = fickle(reset);
        let proxy = started(&origin, "");
        let answer = proxy.client().post("/", b"order");
        assert_eq!(
            (answer.status, answer.evenkeel_reason()),
            (502, Some("upstream_reset"))
        );
        let posts = |request: &&Received| request.method() == "POST";
        assert_eq!(origin.requests().iter().filter(posts).count(), 1);
        assert_eq!(proxy.breaker_state(&origin), "closed", "it hears nothing");
        assert_eq!(proxy.client().post("/", b"order").text(), "good");
    }
}

#[test]
fn a_body_that_cannot_be_replayed_is_not_sent_twice() {
    let origin = fickle(false);
    let proxy = started(&origin, "");
    let long = "x".repeat(100_000);
    let mut client = proxy.client();
    client.send(format!(
        "PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n{long}"
    ));
    assert_eq!(client.response().evenkeel_reason(), Some("upstream_reset"));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_connection_that_the_server_closed_meanwhile_costs_nothing() {
    let origin = Origin::closing_after(1);
    let proxy = Proxy::start(&(app(&[&origin], STRICT) + ONE_WORKER));
    let mut client = proxy.client();
    for sent in 1..=20 {
        // Whether or not the proxy has seen the close: a POST is answered once the close is old.
        eventually("the server has closed", || origin.open() == 0);
        let open = || proxy.server_status(&origin)["connections"]["idle"] == 0;
        if sent % 10 == 0 {
            eventually("the proxy has noticed", open);
            assert_eq!(client.post("/", b"order").status, 200);
        } else {
            assert_eq!(client.get("/").status, 200);
        }
        assert_eq!(origin.request_count(), sent);
    }
    assert_eq!(proxy.breaker_state(&origin), "closed");
}

#[test]
fn a_new_connection_that_ends_without_an_answer_is_a_failure() {
    let origin = Origin::closing_after(0);
    let reading = Origin::scripted(|connection| {
        connection.request();
    });
    for origin in [&origin, &reading] {
        let proxy = Proxy::start(&(app(&[origin], STRICT) + ONE_WORKER));
        assert_eq!(proxy.get("/").evenkeel_reason(), Some("upstream_reset"));
        assert_eq!(proxy.get("/").evenkeel_reason(), Some("circuit_open"));
    }
}

#[test]
fn bytes_that_nobody_asked_for_end_a_kept_connection() {
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
            if connection.index == 0 {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            }
        }
    });
    let proxy = Proxy::start(&(app(&[&origin], STRICT) + ONE_WORKER));
    assert_eq!(proxy.get("/").text(), "good");
    eventually("it is given up", || {
        proxy.server_status(&origin)["connections"]["idle"] == 0
    });
    for _ in 0..3 {
        assert_eq!(proxy.get("/").text(), "good");
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn idle_timeout_and_max_lifetime_end_kept_connections() {
    for limit in ["idle-timeout", "max-lifetime"] {
        let origin = Origin::good("good");
        let more = format!("[upstream.app.connections]\n{limit} = \"300ms\"\n");
        let proxy = Proxy::start(&app(&[&origin], &more));
        assert_eq!(proxy.get("/").text(), "good");
        let closed = || (origin.open() == 0).then_some(());
        value_within(Duration::from_secs(2), limit, closed);
        assert_eq!(proxy.get("/").text(), "good");
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn a_server_that_says_close_is_not_kept() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood";
    let origin = Origin::answering(head);
    let proxy = Proxy::start(&(app(&[&origin], "") + ONE_WORKER));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "good");
    eventually("it is closed", || origin.open() == 0);
    assert_eq!(client.get("/").text(), "good");
}

/// Says who a connection was authenticated for: the first `Authorization` that came on it.
fn authenticating(scheme: &'static str) -> Origin {
    Origin::scripted(move |connection| {
        let mut user = None;
        while let Some(request) = connection.request() {
            user = user.or_else(|| request.header("authorization"));
            connection.send(match &user {
                None => format!(
                    "HTTP/1.1 401 No\r\nWWW-Authenticate: {scheme}\r\nContent-Length: 0\r\n\r\n"
                ),
                Some(user) => {
                    let length = user.len();
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{user}")
                }
            });
        }
    })
}

#[test]
fn a_connection_bound_by_ntlm_or_negotiate_serves_one_client() {
    for scheme in ["NTLM", "Negotiate"] {
        let origin = authenticating(scheme);
        let proxy = Proxy::start(&(app(&[&origin], "") + ONE_WORKER));
        let (mut alice, mut bob) = (proxy.client(), proxy.client());
        for (client, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
            assert_eq!(client.get("/").status, 401, "{scheme}");
            let header = format!("Authorization: {name}\r\n");
            assert_eq!(client.request("GET", "/", &header).text(), name);
        }
        for _ in 0..3 {
            assert_eq!(alice.get("/").text(), "alice");
            assert_eq!(bob.get("/").text(), "bob");
        }
        assert_eq!(proxy.get("/").status, 401, "a third is nobody yet");
        drop(alice);
        drop(bob);
        eventually("they end with their clients", || origin.open() == 0);
    }
}
