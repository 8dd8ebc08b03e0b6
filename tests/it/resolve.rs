//! Servers by name, and addresses of both families.

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
        (502, Some("connect_refused"))
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
    let addresses = status["servers"][0]["addresses"].to_string();
    assert!(addresses.contains(&port.to_string()), "{status}");
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
