//! Upgrades to servers of HTTP/2: extended CONNECT where they take it (RFC 8441), else none.

use std::thread;

use bytes::Bytes;
use h2::server::Builder;
use http::Response;

use super::{file, proxy};
use crate::support::frames::{self, ENABLE_CONNECT_PROTOCOL, END_STREAM};
use crate::support::h2_origin::{Call, send};
use crate::support::{Client, H2Origin, Proxy, eventually};

use super::raw::raw_with;

const UPGRADE: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

fn taking() -> Builder {
    let mut builder = Builder::new();
    builder.enable_connect_protocol();
    builder
}

/// Sends back what comes, and ends when the client does.
async fn mirror(mut call: Call) {
    let head = Response::builder().header("sec-websocket-protocol", "chat");
    let mut stream = call.head(head, false);
    loop {
        let body = call.request.body_mut();
        let Some(Ok(data)) = body.data().await else {
            break;
        };
        let _ = body.flow_control().release_capacity(data.len());
        if !send(&mut stream, data, false).await {
            return;
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

fn switched(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(UPGRADE);
    let answer = client.response();
    assert_eq!(answer.status, 101, "{}", answer.text());
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(answer.header("sec-websocket-protocol"), Some("chat"));
    client
}

#[test]
fn an_upgrade_becomes_an_extended_connect() {
    let origin = H2Origin::with(taking(), mirror);
    let proxy = proxy(&origin);
    let mut client = switched(&proxy);
    client.send("hello");
    assert_eq!(client.exactly(5).expect("comes back"), b"hello");
    let mut other = switched(&proxy);
    other.send("other");
    assert_eq!(other.exactly(5).expect("comes back"), b"other");
    client.finish();
    assert!(client.is_closed(), "both sides have ended");
    drop(other);
    eventually("both streams have ended", || origin.running() == 0);
    let calls = origin.calls();
    let call = &calls[0];
    assert_eq!(
        (call.method.as_str(), call.protocol.as_deref()),
        ("CONNECT", Some("websocket"))
    );
    assert_eq!(call.uri, "http://h/chat?room=1");
    assert!(!call.fields.contains_key("sec-websocket-key"));
    assert_eq!(call.fields["sec-websocket-version"], "13");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_tunnel_carries_every_byte_both_ways_at_once() {
    const SIZE: usize = 6 << 20;
    let origin = H2Origin::with(taking(), mirror);
    let proxy = proxy(&origin);
    let mut client = switched(&proxy);
    let body: Vec<u8> = (0..SIZE).map(|place| (place % 251) as u8).collect();
    let mut writer = client.stream().try_clone().expect("a socket");
    let sent = body.clone();
    let writing = thread::spawn(move || std::io::Write::write_all(&mut writer, &sent));
    assert!(client.exactly(SIZE).expect("all of it") == body);
    writing.join().expect("no panic").expect("all goes");
}

#[test]
fn a_tunnel_that_is_cut_is_seen_to_be() {
    let origin = raw_with(&[(ENABLE_CONNECT_PROTOCOL, 1)], |raw| {
        let Some(stream) = raw.request() else { return };
        raw.send(frames::headers(stream, 0, &[(":status", "200")]));
        raw.send(frames::data(stream, 0, b"last words"));
        raw.send(frames::reset(stream, frames::INTERNAL_ERROR));
        raw.serve();
    });
    let proxy = super::to(origin.address(), "breaker = { mode = \"off\" }");
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.response().status, 101);
    let rest = client.rest();
    assert!(b"last words".starts_with(&rest), "{rest:?}");
    assert_eq!(proxy.get("/").text(), "ok");
}

#[test]
fn a_refused_upgrade_is_an_answer() {
    let origin = H2Origin::with(taking(), |mut call| async move {
        let mut stream = call.head(Response::builder().status(403), false);
        let _ = stream.send_data(Bytes::from_static(b"not you"), true);
    });
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send(UPGRADE);
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (403, "not you"));
}

#[test]
fn where_the_server_takes_none_the_request_goes_on_without() {
    let origin = H2Origin::good("plain");
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send(UPGRADE);
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (200, "plain"));
    assert_eq!(origin.calls()[0].method, "GET");
    assert_eq!(client.get("/").text(), "plain");
}

#[test]
fn a_body_before_the_switch_is_a_body() {
    let origin = H2Origin::with(taking(), |mut call| async move {
        let body = call.body().await.expect("whole").0;
        call.ok(body);
    });
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send(UPGRADE.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"));
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (200, "body"));
    assert_eq!(origin.calls()[0].method, "GET");
}

#[test]
fn a_switch_with_an_end_is_a_short_tunnel() {
    let origin = raw_with(&[(ENABLE_CONNECT_PROTOCOL, 1)], |raw| {
        let Some(stream) = raw.request() else { return };
        raw.send(frames::headers(stream, END_STREAM, &[(":status", "200")]));
        raw.awaits(frames::DATA, stream);
        raw.serve();
    });
    let proxy = Proxy::start(&file(origin.address(), ""));
    let mut client = proxy.client();
    client.send(UPGRADE);
    assert_eq!(client.response().status, 101);
    client.send("still talking");
    client.finish();
    assert!(client.is_closed());
}
