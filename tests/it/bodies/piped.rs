//! Long bodies of known length, which go through the kernel: every byte, once, in order, and never
//! one of somebody else's.

use std::thread;

use super::flow::start;
use crate::support::{Client, Origin, Proxy, eventually};

/// Around and above what is read at once, with a short one between long ones.
const LENGTHS: [usize; 7] = [131_071, 131_072, 131_073, 3, 1_000_003, 262_144, 5_000_000];

/// Tells its place and its owner in every byte but for what 251 leaves open.
fn pattern(owner: u8, length: usize) -> Vec<u8> {
    let byte = |place: usize| (place % 251) as u8 ^ owner;
    (0..length).map(byte).collect()
}

fn same(got: &[u8], expected: &[u8], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{what}: the first byte that differs");
}

/// Answers each request with its body; `X-Length` asks for one of the origin's own.
fn echo() -> Origin {
    Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let body = match request.header("x-length") {
                Some(length) => pattern(7, length.parse().expect("a number")),
                None => request.body.clone(),
            };
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            connection.send(&body);
        }
    })
}

fn upload(client: &mut Client, body: &[u8]) -> Vec<u8> {
    client.post("/", body).body
}

#[test]
fn every_byte_comes_through_in_both_directions() {
    let origin = echo();
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    for length in LENGTHS {
        let body = pattern(0, length);
        same(
            &upload(&mut client, &body),
            &body,
            &format!("an echo of {length}"),
        );
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nX-Length: {length}\r\n\r\n"
        ));
        same(
            &client.response().body,
            &pattern(7, length),
            &format!("an answer of {length}"),
        );
    }
    assert_eq!(
        origin.connections(),
        1,
        "all of it over one kept connection"
    );
}

#[test]
fn a_request_behind_a_long_body_is_the_next_one() {
    let origin = echo();
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    let body = pattern(1, 700_001);
    let mut bytes = format!(
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"GET /next HTTP/1.1\r\nHost: h\r\nX-Length: 5\r\n\r\n");
    let mut writer = client.stream().try_clone().expect("cloned");
    let sending = thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    same(&client.response().body, &body, "the echo");
    same(&client.response().body, &pattern(7, 5), "the next answer");
    sending.join().expect("no panic").expect("all sent");
    assert_eq!(origin.last().target(), "/next");
}

#[test]
fn an_answer_that_breaks_off_is_never_whole() {
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
        connection.send(pattern(0, 1_500_000));
        connection.close();
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    client.head().expect("a head");
    let got = client.rest();
    same(&got, &pattern(0, 1_500_000), "what came before the break");
    let broken = "evenkeel_rejected_total{reason=\"upstream_reset\"}";
    eventually("the break is counted", || proxy.metric(broken) == Some(1.0));
}

#[test]
fn an_upload_that_breaks_off_is_never_whole() {
    let origin = Origin::scripted(|connection| {
        connection.request_head();
        while connection.some().is_some() {}
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n");
    client.send(pattern(0, 1_000_000));
    drop(client);
    eventually("the server's connection is closed", || {
        origin.open() == 0 && origin.connections() == 1
    });
}

#[test]
fn bytes_behind_an_answer_are_nobodys() {
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n".to_vec();
            answer.extend_from_slice(&pattern(0, 400_000));
            answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            connection.send(&answer);
        }
    });
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    for round in 0..5 {
        same(
            &client.get("/").body,
            &pattern(0, 400_000),
            &format!("round {round}"),
        );
    }
}

#[test]
fn nobody_gets_bytes_of_another() {
    let origin = echo();
    let proxy = start(&origin, "", "");
    thread::scope(|scope| {
        for owner in 1..9 {
            let proxy = &proxy;
            scope.spawn(move || exchange_or_leave(proxy, owner));
        }
    });
}

/// Every third exchange is left in the middle, with bytes of it on their way in both directions.
fn exchange_or_leave(proxy: &Proxy, owner: u8) {
    let body = pattern(owner, 600_000 + 1_000 * usize::from(owner));
    for round in 0..9 {
        let mut client = proxy.client();
        if round % 3 > 0 {
            same(
                &upload(&mut client, &body),
                &body,
                &format!("client {owner}"),
            );
            continue;
        }
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        client.send(&body[..400_000]);
        if round % 2 == 0 {
            client.reset();
        }
    }
}
