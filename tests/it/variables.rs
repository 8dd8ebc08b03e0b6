//! `${request.path}` and its like in header values and fixed bodies.

use super::support::{Origin, Proxy, app};

const ALL: &str = "ip=${client.ip} id=${request.id} method=${request.method} scheme=${request.scheme} \
    host=${request.host} path=${request.path} query=${request.query} route=${route.name} \
    listener=${listener.name} literal=$${client.ip}";

fn with(origin: &Origin, listener: &str, more: &str) -> Proxy {
    let config = app(&[origin], "");
    let config = config.replace(
        "upstream = \"app\"",
        &format!("name = \"all\"\nupstream = \"app\"\n{more}"),
    );
    Proxy::start(&format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{listener}\n{config}"
    ))
}

#[test]
fn requests_and_answers_are_told_the_same() {
    let origin = Origin::good("x");
    let edits = format!(
        "request-headers = {{ set = {{ X-All = {ALL:?} }} }}\n\
         response-headers = {{ set = {{ X-All = {ALL:?} }} }}"
    );
    let proxy = with(&origin, "", &edits);
    let mut client = proxy.client();
    client.send(
        "GET /%7ea//b?q=\"<1>\"&r=%20 HTTP/1.1\r\nHost: A.Example.:8080\r\nX-Forwarded-Proto: https\r\n\
         X-Request-Id: theirs\r\nX-All: theirs\r\n\r\n",
    );
    let answer = client.response();
    let sent = origin.last();
    let id = sent.header("x-request-id").expect("an id");
    let expected = format!(
        "ip=127.0.0.1 id={id} method=GET scheme=http host=a.example path=/~a/b \
         query=q=%22%3C1%3E%22&r=%20 route=all listener=web literal=${{client.ip}}"
    );
    assert_eq!(sent.headers("x-all"), [expected.as_str()]);
    assert_eq!(answer.header("x-all"), Some(expected.as_str()));
}

#[test]
fn a_trusted_proxy_says_who_asks_and_how() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "trusted-proxies = [\"127.0.0.0/8\"]",
        "request-headers = { set = { X-All = \"${client.ip} ${request.scheme} ${request.id}\" } }",
    );
    let headers =
        "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: HTTPS\r\nX-Request-Id: one\r\n";
    proxy.client().request("GET", "/", headers);
    assert_eq!(origin.last().headers("x-all"), ["2001:db8::1 https one"]);
    let headers = "X-Forwarded-Proto: java\r\n";
    proxy.client().request("GET", "/", headers);
    let told = origin.last().header("x-all").expect("a value");
    assert!(told.starts_with("127.0.0.1 http "), "{told}");
}

/// Whatever stands in the request, the server reads the lines that were configured.
#[test]
fn no_request_breaks_out_of_a_value() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "",
        "request-headers = { set = { X-All = \"${request.path} ${request.query} ${request.method}\" } }",
    );
    for (target, expected) in [
        ("/a?b=%0d%0aX-Evil:1", "/a b=%0d%0aX-Evil:1 GET"),
        ("/a;b=c,d?e=f,\"g\"", "/a;b=c,d e=f,%22g%22 GET"),
        ("/?\u{e9}\\", "/ %C3%A9%5C GET"),
        (
            "/$%7bclient.ip%7d?${client.ip}",
            "/$%7Bclient.ip%7D $%7Bclient.ip%7D GET",
        ),
    ] {
        let answer = proxy.get(target);
        assert_eq!(answer.status, 200, "{target}");
        let sent = origin.last();
        assert_eq!(sent.headers("x-all"), [expected], "{target}");
        assert_eq!(sent.header("x-evil"), None);
    }
}

#[test]
fn a_fallback_names_the_request() {
    let origin = Origin::good("x");
    origin.stop();
    let proxy = with(
        &origin,
        "",
        "fallback = { status = 503, body = \"ask for ${request.id} of ${request.path}\" }",
    );
    let answer = proxy.get("/a");
    let text = answer.text();
    let id = text
        .strip_prefix("ask for ")
        .and_then(|rest| rest.strip_suffix(" of /a"));
    assert_eq!(answer.status, 503);
    assert_eq!(id.map(str::len), Some(32), "{text}");
}

#[test]
fn they_are_shown_as_written() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "",
        "response-headers = { set = { x-a = \"$${client.ip} ${client.ip}\" } }",
    );
    let shown = proxy.admin("GET", "/config", "").text();
    assert!(shown.contains("\"$${client.ip} ${client.ip}\""), "{shown}");
}
