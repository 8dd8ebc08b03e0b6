//! What of a request's head reaches the server: target, Host, fields of the hop, forwarding.

use super::support::{Origin, Proxy, Response};

/// Everything to one upstream; `/raw` unchanged; the loopback may be a trusted proxy.
fn start(origin: &Origin, trusted: bool) -> Proxy {
    let trusted = if trusted { "\"127.0.0.0/8\"" } else { "" };
    Proxy::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted-proxies = [{trusted}]\n\
         [upstream.app]\nservers = [\"{}\"]\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [[route]]\nprefix = \"/raw\"\nupstream = \"app\"\nforward = \"raw\"\n",
        origin.address()
    ))
}

fn send(proxy: &Proxy, head: &str) -> Response {
    proxy.client().send(head).response()
}

#[test]
fn server_gets_the_path_that_was_matched() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, false);
    for (sent, received) in [
        ("/a/../b//c%2f%7e?x=/../%2e", "/b/c%2F~?x=/../%2e"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("http://h/a?", "/a?"),
        ("/raw//a%2f%61?q", "/raw//a%2f%61?q"),
    ] {
        let head = format!("GET {sent} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(send(&proxy, &head).status, 200, "{sent}");
        assert_eq!(origin.last().target(), received);
    }
}

#[test]
fn what_can_be_read_in_two_ways_reaches_no_server() {
    let origin = Origin::good("never");
    let proxy = start(&origin, false);
    for head in [
        "GET /.. HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a/..%2fb HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a/..;/b HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a%00 HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a%5cb HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /raw/../raw HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    ] {
        let response = send(&proxy, head);
        assert_eq!(response.status, 400, "{head:?}");
        assert_eq!(response.evenkeel_reason(), Some("bad_request"));
    }
    for (head, status) in [
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nExpect: y\r\n\r\n",
            417,
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n",
            200,
        ),
    ] {
        assert_eq!(send(&proxy, head).status, status, "{head:?}");
    }
    assert_eq!(origin.request_count(), 0);
}

#[test]
fn authority_of_the_target_goes_before_host() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, false);
    send(
        &proxy,
        "GET http://A.example:81/x HTTP/1.1\r\nHost: other\r\n\r\n",
    );
    assert_eq!(origin.last().headers("host"), ["A.example:81"]);
    send(&proxy, "GET /x HTTP/1.0\r\n\r\n");
    assert_eq!(
        origin.last().headers("host"),
        [origin.address().to_string()]
    );
}

const SPOOFED: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
    X-Request-Id: mine\r\nClient-Cert: :x:\r\nX_Forwarded_For: 6.6.6.6\r\n";

#[test]
fn stranger_cannot_say_where_it_comes_from() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, false);
    send(
        &proxy,
        &format!("GET / HTTP/1.1\r\nHost: h\r\n{SPOOFED}\r\n"),
    );
    let received = origin.last();
    assert_eq!(received.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(received.headers("x-forwarded-proto"), ["http"]);
    for gone in [
        "x-forwarded-prefix",
        "forwarded",
        "x-real-ip",
        "client-cert",
        "x_forwarded_for",
    ] {
        assert_eq!(received.header(gone), None, "{gone}");
    }
    assert_ne!(received.header("x-request-id").as_deref(), Some("mine"));
}

#[test]
fn trusted_proxy_is_continued() {
    let origin = Origin::good("ok");
    let proxy = start(&origin, true);
    send(
        &proxy,
        &format!("GET / HTTP/1.1\r\nHost: h\r\n{SPOOFED}\r\n"),
    );
    let received = origin.last();
    assert_eq!(received.headers("x-forwarded-for"), ["6.6.6.6, 127.0.0.1"]);
    assert_eq!(received.headers("x-forwarded-proto"), ["https"]);
    assert_eq!(received.headers("x-request-id"), ["mine"]);
    assert_eq!(received.header("client-cert"), None, "never from outside");
}

#[test]
fn fields_of_the_hop_end_here_and_others_do_not() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Stay: 1\r\n\r\n",
    );
    let proxy = start(&origin, false);
    let response = send(
        &proxy,
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Hop, Host, X-Forwarded-For\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=9\r\nTE: trailers\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AA\r\nX-Stay: 1\r\n\r\n",
    );
    assert_eq!(
        (response.header("x-hop"), response.header("x-stay")),
        (None, Some("1"))
    );
    let received = origin.last();
    for gone in [
        "x-hop",
        "keep-alive",
        "te",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(received.header(gone), None, "{gone}");
    }
    assert_eq!(received.headers("host"), ["h"]);
    assert_eq!(received.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(received.headers("x-stay"), ["1"]);
}
