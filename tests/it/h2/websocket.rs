//! Extended CONNECT (RFC 8441).

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};

use crate::support::h2::{H2, block_on, send_all, whole};
use crate::support::{Connection, Origin, Proxy, app};

fn accept_of(key: &str) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    let input = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, input.as_bytes());
    let bits: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:08b}"))
        .collect();
    let alphabet: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(['+', '/'])
        .collect();
    let mut text = String::new();
    for group in bits.as_bytes().chunks(6) {
        let group = format!("{:0<6}", String::from_utf8_lossy(group));
        text.push(alphabet[usize::from_str_radix(&group, 2).expect("six bits")]);
    }
    text + "="
}

/// Switches, then sends back what comes until its end.
fn echo(connection: &mut Connection) {
    let Some(request) = connection.request() else {
        return;
    };
    let accept = accept_of(&request.header("sec-websocket-key").expect("a key"));
    connection.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nfirst"
    ));
    while let Some(bytes) = connection.some() {
        connection.send(bytes);
    }
    connection.send("last");
    connection.close();
}

fn connect(client: &H2, protocol: &'static str) -> Request<()> {
    client
        .request("CONNECT", "/chat")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .expect("a request")
}

async fn ask(client: &mut H2, protocol: &'static str) -> (ResponseFuture, SendStream<Bytes>) {
    // The server's SETTINGS say that it may be asked.
    client.get("/").await;
    let request = connect(client, protocol);
    client.send(request, false).await
}

async fn read(answer: &mut Response<RecvStream>, count: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < count {
        let Some(piece) = answer.body_mut().data().await else {
            break;
        };
        let piece = piece.expect("the tunnel is open");
        let flow = answer.body_mut().flow_control();
        flow.release_capacity(piece.len()).expect("it was received");
        read.extend_from_slice(&piece);
    }
    read
}

#[test]
fn a_websocket_is_a_stream_with_bytes_both_ways_and_half_close() {
    let origin = Origin::scripted(|connection| {
        if connection.index == 0 {
            connection.request();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        echo(connection);
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let (answer, mut stream) = ask(&mut client, "websocket").await;
        let mut answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for name in [
            "sec-websocket-accept",
            "upgrade",
            "connection",
            "content-length",
        ] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
        assert_eq!(read(&mut answer, 5).await, b"first");
        let body: Vec<u8> = (0..1_000_000u32).map(|place| (place >> 3) as u8).collect();
        let sent = Bytes::from(body.clone());
        let (_, back) = tokio::join!(
            send_all(&mut stream, sent, false),
            read(&mut answer, body.len())
        );
        assert!(back == body);
        send_all(&mut stream, Bytes::new(), true).await;
        assert_eq!(read(&mut answer, 100).await, b"last");
        assert!(answer.body().is_end_stream());
    });
    let seen = &origin.requests()[1];
    assert_eq!(seen.start_line(), "GET /chat HTTP/1.1");
    assert_eq!(seen.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(
        seen.header("connection")
            .map(|name| name.to_lowercase())
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(seen.header("sec-websocket-version").as_deref(), Some("13"));
    assert_eq!(seen.header("content-length"), None);
    assert_eq!(seen.header("transfer-encoding"), None);
}

#[test]
fn what_the_server_or_the_route_refuses_is_an_ordinary_answer() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            match request.header("upgrade") {
                Some(_) => connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
                None => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            }
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let (answer, _stream) = ask(&mut client, "websocket").await;
        let answer = whole(answer.await.expect("an answer")).await;
        assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
        // Not in `upgrades`: no server is asked for what is nothing without its tunnel.
        let (answer, _stream) = ask(&mut client, "connect-udp").await;
        let answer = whole(answer.await.expect("an answer")).await;
        assert_eq!(answer.status, 501);
        assert_eq!(answer.header("x-evenkeel-reason"), Some("not_implemented"));
        let chats = origin.requests().into_iter();
        let chats = chats.filter(|request| request.target() == "/chat");
        assert_eq!(chats.count(), 1);
        assert_eq!(client.get("/").await.text(), "ok");
    });
}

#[test]
fn a_switch_with_a_wrong_key_is_none() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.header("upgrade").is_none() {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            connection.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            );
            connection.wait_for_close();
            return;
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let (answer, _stream) = ask(&mut client, "websocket").await;
        assert_eq!(whole(answer.await.expect("an answer")).await.status, 502);
    });
}

#[test]
fn plain_connect_is_refused() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], ""));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let request = Request::builder().method("CONNECT").uri("example.com:443");
        let request = request.body(()).expect("a request");
        let (answer, mut stream) = client.send(request, false).await;
        let _ = stream.send_data(Bytes::from_static(b"GET /smuggled HTTP/1.1\r\n\r\n"), false);
        assert_eq!(whole(answer.await.expect("an answer")).await.status, 405);
        assert_eq!(client.get("/").await.status, 200);
    });
    assert_eq!(origin.request_count(), 1);
}
