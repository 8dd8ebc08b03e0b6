//! The listener over real sockets.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};

use super::testing::{Process, ask, exchange, serve};
use super::*;
use crate::config::model::BindAddress;

#[tokio::test]
async fn calls_answer_what_they_are_for() {
    let address = serve(&Arc::new(Process::default()));
    for (line, status, part) in [
        ("GET /healthz", 200, "ok\n"),
        ("GET /readyz", 200, "ready\n"),
        (
            "GET /metrics",
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        ("GET /status", 200, "\"generation\": 3"),
        ("GET /config", 200, "***"),
        ("GET /", 200, "<!doctype html>"),
        ("GET /app.js", 200, "text/javascript"),
        ("GET /app.css", 200, "text/css"),
        ("HEAD /", 200, "content-security-policy: default-src 'self'"),
        ("POST /reload", 200, "weight 1 -> 3"),
        ("GET /nothing", 404, "{\n  \"error\": \"no such path\"\n}"),
        ("GET /events", 404, "error"),
        ("POST /metrics", 405, "allow: GET, HEAD"),
        ("GET /reload", 405, "allow: POST"),
        ("PATCH /upstreams/a/servers/b", 405, "allow: PUT, DELETE"),
    ] {
        let (found, answer) = ask(address, line, "", "").await;
        assert_eq!(found, status, "{line}: {answer}");
        assert!(answer.contains(part), "{line} lacks {part:?}: {answer}");
    }
}

#[tokio::test]
async fn readiness_follows_the_process() {
    let process = Process {
        readiness: Readiness::Draining,
        ..Process::default()
    };
    let address = serve(&Arc::new(process));
    let (status, answer) = ask(address, "GET /readyz", "", "").await;
    assert_eq!(status, 503);
    assert!(answer.ends_with("draining\n"));
    assert_eq!(ask(address, "GET /healthz", "", "").await.0, 200);
}

#[tokio::test]
async fn a_refused_file_is_shown_with_its_mistakes() {
    let process = Process {
        broken_file: true,
        ..Process::default()
    };
    let address = serve(&Arc::new(process));
    let (status, answer) = ask(address, "POST /reload", "", "").await;
    assert_eq!(status, 422);
    assert!(
        answer.contains("unknown key `wieght`") && answer.contains("unknown-key"),
        "{answer}"
    );
}

#[tokio::test]
async fn servers_are_changed_by_put_and_delete() {
    let process = Arc::new(Process::default());
    let address = serve(&process);
    let path = "/upstreams/users/servers/10.0.0.1:9000";
    let put = format!("PUT {path}");
    assert_eq!(
        ask(address, &put, "", r#"{"weight": 3, "drain": true}"#)
            .await
            .0,
        404
    );
    assert_eq!(ask(address, &format!("DELETE {path}"), "", "").await.0, 404);
    assert_eq!(
        process.asked(),
        [
            "users 10.0.0.1:9000 Some(3) Some(true)",
            "users 10.0.0.1:9000 cleared"
        ]
    );
    for bad in [
        "",
        "[]",
        "{\"wieght\": 1}",
        "{\"weight\": -1}",
        "{\"weight\": 4294967296}",
        "null",
    ] {
        let (status, answer) = ask(address, &put, "", bad).await;
        assert!(status == 400 && answer.contains("error"), "{bad}: {answer}");
    }
    assert_eq!(
        process.asked().len(),
        2,
        "nothing of that reached the process"
    );
}

#[tokio::test]
async fn questions_to_explain_are_json() {
    let address = serve(&Arc::new(Process::default()));
    let body = r#"{"method": "GET", "url": "http://a/users", "headers": ["x: y"]}"#;
    let (status, answer) = ask(address, "POST /explain", "", body).await;
    assert!(
        status == 200 && answer.contains("http://a/users"),
        "{answer}"
    );
    assert_eq!(
        ask(address, "POST /explain", "", r#"{"url": ""}"#).await.0,
        400
    );
}

#[tokio::test]
async fn deep_and_large_bodies_are_refused() {
    let process = Arc::new(Process::default());
    let address = serve(&process);
    let deep = "[".repeat(60_000);
    assert_eq!(
        ask(address, "PUT /upstreams/a/servers/b", "", &deep)
            .await
            .0,
        400
    );
    assert_eq!(ask(address, "POST /explain", "", &deep).await.0, 400);
    let stream = TcpStream::connect(address)
        .await
        .expect("the listener accepts");
    let large = "x".repeat(70_000);
    let head = format!(
        "POST /explain HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    let answer = exchange(stream, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn changes_need_the_token_where_one_is_set() {
    let process = Arc::new(Process::with_token("s3cret"));
    let address = serve(&process);
    let (status, answer) = ask(address, "POST /reload", "", "").await;
    assert!(
        status == 401 && answer.contains("www-authenticate: Bearer"),
        "{answer}"
    );
    assert_eq!(
        ask(address, "DELETE /upstreams/a/servers/b", "", "")
            .await
            .0,
        401
    );
    assert_eq!(ask(address, "GET /status", "", "").await.0, 200);
    assert!(
        process.asked().is_empty(),
        "nothing happened without the token"
    );
    let token = "authorization: Bearer s3cret\r\n";
    assert_eq!(ask(address, "POST /reload", token, "").await.0, 200);
    assert!(
        !ask(address, "GET /status", token, "")
            .await
            .1
            .contains("s3cret")
    );
}

#[tokio::test]
async fn pages_from_elsewhere_change_nothing() {
    let process = Arc::new(Process::default());
    let address = serve(&process);
    let origin = "origin: http://evil.example\r\n";
    assert_eq!(ask(address, "POST /reload", origin, "").await.0, 403);
    let stream = TcpStream::connect(address)
        .await
        .expect("the listener accepts");
    let rebound = b"GET /status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert!(exchange(stream, rebound).await.starts_with("HTTP/1.1 403"));
    let stream = TcpStream::connect(address)
        .await
        .expect("the listener accepts");
    let scrape = b"GET /metrics HTTP/1.1\r\nhost: proxy.internal\r\nconnection: close\r\n\r\n";
    assert!(exchange(stream, scrape).await.starts_with("HTTP/1.1 200"));
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn noise_is_refused_and_the_listener_goes_on() {
    let address = serve(&Arc::new(Process::default()));
    for noise in [
        &b"\x16\x03\x01\x02\x00\x01\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /status HTTP/9.9\r\n\r\n",
    ] {
        let stream = TcpStream::connect(address)
            .await
            .expect("the listener accepts");
        let answer = exchange(stream, noise).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    assert_eq!(ask(address, "GET /healthz", "", "").await.0, 200);
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_replaces_a_dead_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that nobody serves"));
    let address = BindAddress::Unix(path.as_path().into());
    let bound = bind(&address).expect("the dead socket is replaced");
    let mode = std::fs::metadata(&path)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(bind(&address).is_err(), "a living one is not");
    let (stay, leaving) = tokio::sync::watch::channel(false);
    let serving = Arc::new(bound).serve(Arc::new(Process::default()), leaving);
    let serving = tokio::spawn(serving);
    let stream = UnixStream::connect(&path)
        .await
        .expect("the listener accepts");
    let get = b"GET /status HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
    assert!(exchange(stream, get).await.starts_with("HTTP/1.1 200"));
    stay.send_replace(true);
    // The task's end is what drops the socket.
    let _ = serving.await;
    assert!(!path.exists(), "the file goes with its listener");
    std::fs::write(&path, "precious").expect("a file");
    assert!(bind(&address).is_err(), "no other file is replaced");
}
