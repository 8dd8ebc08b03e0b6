//! Servers and clients that fail at random, together: no answer goes to the wrong client, no POST
//! is doubled, and nothing is left over.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use super::support::{Client, Connection, Origin, Proxy, app, eventually};

/// Answers with the request's own target, most of the time.
fn moody(seed: u64) -> Origin {
    Origin::scripted(move |connection| {
        let mut random = fastrand::Rng::with_seed(seed + connection.index as u64);
        while let Some(request) = connection.request() {
            if !answer(connection, &request.target(), random.u32(..20)) {
                return;
            }
        }
    })
}

/// False when the connection is over.
fn answer(connection: &mut Connection, target: &str, mood: u32) -> bool {
    let length = target.len();
    match mood {
        0 => return false,
        1 => {
            connection.reset();
            return false;
        }
        2 => connection.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        3 => {
            connection.send("nonsense\r\n\r\n");
            return false;
        }
        4 => {
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n/"
            ));
            return false;
        }
        5 => {
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
            // After its answer, without a word: the next request finds a stale connection.
            return false;
        }
        6 => {
            connection.wait_for_close();
            return false;
        }
        7..10 => {
            let (first, second) = target.split_at(length / 2);
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let (one, two) = (first.len(), second.len());
            connection.send(format!(
                "{head}{one:x}\r\n{first}\r\n{two:x}\r\n{second}\r\n0\r\n\r\n"
            ));
        }
        _ => connection.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
        )),
    }
    true
}

/// One client's requests, on one connection as long as it lasts; how many were answered with 200.
fn client(proxy: std::net::SocketAddr, number: usize, rounds: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut client = Client::connect(proxy);
    let mut good = 0;
    for round in 0..rounds {
        let method = ["GET", "POST", "PUT"][random.usize(..3)];
        let target = format!("/{method}/{number}/{round}");
        let length = random.usize(1..300);
        let body = "x".repeat(length);
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        if client.try_send(request).is_err() || random.u32(..20) == 0 {
            client = Client::connect(proxy);
            continue;
        }
        match client.try_response() {
            Ok(answer) if answer.status == 200 => {
                assert_eq!(answer.text(), target, "somebody else's answer");
                good += 1;
            }
            Ok(answer) => {
                assert!(matches!(answer.status, 502..=504), "{}", answer.text());
            }
            Err(_) => client = Client::connect(proxy),
        }
    }
    good
}

#[test]
fn nothing_is_mixed_up_doubled_or_left_over() {
    let (clients, rounds) = (8, 60);
    let origins = [1000, 2000, 3000].map(moody);
    let more = "max-requests = 3\nslow-start = \"off\"\n\
                [upstream.app.breaker]\nconsecutive-failures = 4\nopen = \"50ms\"\n\
                [upstream.app.timeout]\nfirst-byte = \"100ms\"\n\
                [upstream.app.connections]\nmax-connections = 3\n\
                [upstream.app.retry]\nattempts = 2\n\
                [process]\nworkers = 3\n";
    let proxy = Proxy::start(&app(&origins.each_ref(), more));
    let address = proxy.address();
    let started: Vec<_> = (0..clients)
        .map(|number| thread::spawn(move || client(address, number, rounds)))
        .collect();
    let good: usize = started
        .into_iter()
        .map(|client| client.join().expect("no client is misled"))
        .sum();
    assert!(
        good > clients * rounds / 4,
        "{good} of {}",
        clients * rounds
    );

    let mut posts: HashMap<String, usize> = HashMap::new();
    for request in origins.iter().flat_map(Origin::requests) {
        if request.method() == "POST" {
            *posts.entry(request.target()).or_default() += 1;
        }
    }
    let doubled: Vec<_> = posts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");

    eventually("every slot is free again", || {
        origins.iter().all(|origin| {
            let status = proxy.server_status(origin);
            status["in_flight"] == 0 && status["connections"]["active"] == 0
        })
    });
    assert_eq!(proxy.app_status()["queue_length"], 0);
    let quiet = Duration::from_secs(5);
    super::support::value_within(quiet, "it serves as before", || {
        // The servers may still cut an answer short.
        let mut client = proxy.client();
        client.send("GET /calm HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = client.try_response().ok();
        answer.filter(|answer| answer.status == 200).map(drop)
    });
}
