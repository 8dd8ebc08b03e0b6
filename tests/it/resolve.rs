//! Servers by name, and addresses of both families.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::support::{DEADLINE, Origin, Proxy, value_within};

fn config(servers: &str, more: &str) -> String {
    format!(
        "[upstream.app]\nservers = [{servers}]\n{more}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    )
}

#[test]
fn a_name_alone_that_does_not_resolve_does_not_stop_the_start() {
    let proxy = Proxy::start(&config("\"nowhere.invalid:80\"", ""));
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (503, Some("no_server"))
    );
    let status = proxy.app_status();
    assert!(
        status["servers"][0]["resolve_error"].is_string(),
        "{status}"
    );
}

#[test]
fn a_name_is_checked_like_an_address() {
    let origin = Origin::good("hello");
    let port = origin.address().port();
    let checks = "[upstream.app.health]\npath = \"/healthz\"\ninterval = \"200ms\"\n";
    let proxy = Proxy::start(&config(&format!("\"localhost:{port}\""), checks));
    assert_eq!(proxy.get("/").text(), "hello");
    let check = value_within(DEADLINE, "it is checked", || {
        let mut requests = origin.requests().into_iter();
        requests.find(|request| request.target() == "/healthz")
    });
    let host = check.header("host");
    assert_eq!(host, Some(format!("localhost:{port}")));
    let status = proxy.app_status();
    let (server, name) = (&status["servers"][0], format!("localhost:{port}"));
    assert_eq!(server["address"], origin.address().to_string(), "{status}");
    assert_eq!(server["names"], serde_json::json!([name]));
    assert_eq!(status["names"][0]["state"], "resolved");
}

#[test]
fn servers_and_listeners_may_have_ipv6_addresses() {
    let address = "[::1]:0".parse().expect("an address");
    let origin = Origin::at(address, |connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nsix");
        }
    });
    let server = format!("\"{}\"", origin.address());
    let listener = "[[listener]]\nname = \"six\"\naddress = \"[::1]:0\"\n";
    let proxy = Proxy::start(&config(&server, listener));
    assert!(proxy.address().is_ipv6());
    assert_eq!(proxy.get("/").text(), "six");
    let forwarded = origin.last().header("x-forwarded-for");
    assert_eq!(forwarded.as_deref(), Some("::1"));
    proxy.put_server(&origin, r#"{"drain": true}"#);
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("no_server"));
}

/// Serves one connection at `path`: gives the head of its first request.
fn unix_server(path: &Path) -> JoinHandle<String> {
    let listener = UnixListener::bind(path).expect("binds");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the proxy connects");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a whole head");
            head.extend(byte);
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix";
        stream.write_all(answer).expect("the proxy reads");
        String::from_utf8(head).expect("is text")
    })
}

#[test]
fn a_request_without_host_gets_the_servers_and_a_unix_socket_is_localhost() {
    let directory = tempfile::tempdir().expect("can be made");
    let path = directory.path().join("app.sock");
    let server = unix_server(&path);
    let proxy = Proxy::start(&config(&format!("\"unix:{}\"", path.display()), ""));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "unix");
    let head = server.join().expect("no panic").to_ascii_lowercase();
    assert!(head.contains("\r\nhost: localhost\r\n"), "{head}");

    let origin = Origin::good("ip");
    let proxy = Proxy::start(&config(&format!("\"{}\"", origin.address()), ""));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "ip");
    let host = origin.last().header("host");
    assert_eq!(host, Some(origin.address().to_string()));
}
