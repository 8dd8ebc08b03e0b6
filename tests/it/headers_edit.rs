//! `request-headers` and `response-headers`: what servers and clients get of each other.

use super::support::{Origin, Proxy, app};

/// One route to an origin, with more keys of the route.
fn with(origin: &Origin, more: &str) -> Proxy {
    let config = app(&[origin], "");
    Proxy::start(&config.replace("upstream = \"app\"", &format!("upstream = \"app\"\n{more}")))
}

#[test]
fn requests_are_edited_before_they_go() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        r#"
        request-headers = { remove = ["Cookie", "x-gone", "X-Forwarded-Port"], set = { X-Set = "ours", X-Forwarded-Proto = "https" }, add = { X-Add = "b" } }
        "#,
    );
    let headers =
        "Cookie: a=b\r\nX-Gone: 1\r\nx-GONE: 2\r\nx-set: theirs\r\nX-SET: again\r\nx-add: a\r\n";
    for _ in 0..2 {
        assert_eq!(proxy.client().request("GET", "/", headers).status, 200);
        let sent = origin.last();
        for gone in ["cookie", "x-gone", "x-forwarded-port"] {
            assert_eq!(sent.header(gone), None, "{gone}");
        }
        assert_eq!(sent.headers("x-set"), ["ours"]);
        assert_eq!(sent.headers("x-add"), ["a", "b"]);
        assert_eq!(sent.headers("x-forwarded-proto"), ["https"]);
        assert_eq!(sent.headers("host"), ["test"], "kept as sent");
    }
}

#[test]
fn the_host_is_one_and_what_was_asked_stays_known() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "request-headers = { set = { host = \"internal.example:8080\" } }",
    );
    proxy.get("/");
    let sent = origin.last();
    assert_eq!(sent.headers("host"), ["internal.example:8080"]);
    assert_eq!(sent.headers("x-forwarded-host"), ["test"]);

    let mut old = proxy.client();
    old.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.response().status, 200);
    assert_eq!(origin.last().headers("host"), ["internal.example:8080"]);
}

#[test]
fn the_log_shows_what_came() {
    let origin = Origin::good("x");
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    let config = app(&[&origin], "").replace(
        "upstream = \"app\"",
        "upstream = \"app\"\nrequest-headers = { set = { host = \"internal\", user-agent = \"ours\" } }",
    );
    let proxy = Proxy::start(&format!(
        "[access-log]\npath = {log:?}\nformat = \"json\"\n{config}"
    ));
    proxy.client().request("GET", "/", "User-Agent: theirs\r\n");
    assert_eq!(origin.last().header("user-agent").as_deref(), Some("ours"));
    proxy.drain();
    proxy.wait();
    let text = std::fs::read_to_string(&log).expect("the log");
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one line");
    assert_eq!(
        (&line["host"], &line["user_agent"]),
        (&"test".into(), &"theirs".into())
    );
}

#[test]
fn answers_are_edited_before_they_go() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nServer: secret/1.0\r\nX-Powered-By: a\r\nx-powered-by: b\r\n\
         Cache-Control: public\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nhi",
    );
    let proxy = with(
        &origin,
        r#"
        response-headers = { remove = ["server", "X-Powered-By"], set = { Cache-Control = "no-store", Strict-Transport-Security = "max-age=1" }, add = { Set-Cookie = "c=d" } }
        "#,
    );
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.text(), "hi");
        assert_eq!(answer.header("server"), None);
        assert_eq!(answer.header("x-powered-by"), None);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(
            answer.header("strict-transport-security"),
            Some("max-age=1")
        );
        let cookies = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "Set-Cookie");
        assert_eq!(cookies.count(), 2);
    }
}

#[test]
fn refusals_of_ours_are_not_edited() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "deny = [\"127.0.0.0/8\"]\nresponse-headers = { set = { x-a = \"1\" } }",
    );
    let answer = proxy.get("/");
    assert_eq!((answer.status, answer.header("x-a")), (403, None));
}

/// What is taken from the answer still counts for what it means to the connection.
#[test]
fn a_removed_challenge_still_binds_the_connection() {
    let origin = Origin::answering(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = with(
        &origin,
        "response-headers = { remove = [\"www-authenticate\"] }",
    );
    let mut first = proxy.client();
    assert_eq!(first.get("/").header("www-authenticate"), None);
    assert_eq!(proxy.get("/").status, 401);
    assert_eq!(origin.connections(), 2, "nobody else's connection");
}

#[test]
fn defaults_and_routes_are_merged_name_by_name() {
    let origin = Origin::good("x");
    let config = app(&[&origin], "").replace(
        "upstream = \"app\"",
        "upstream = \"app\"\nrequest-headers = { set = { x-b = \"route\" } }",
    );
    let proxy = Proxy::start(&format!(
        "[defaults.route]\nrequest-headers = {{ set = {{ x-a = \"all\", x-b = \"all\" }}, remove = [\"x-c\"] }}\n{config}"
    ));
    proxy.client().request("GET", "/", "X-C: 1\r\n");
    let sent = origin.last();
    assert_eq!(sent.headers("x-a"), ["all"]);
    assert_eq!(sent.headers("x-b"), ["route"]);
    assert_eq!(sent.header("x-c"), None);
}
