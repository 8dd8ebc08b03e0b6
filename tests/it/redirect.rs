//! `redirect`: where clients are sent, and that they cannot choose it.

use super::support::{Origin, Proxy, Response};

/// Routes as text; nobody is behind them.
fn routes(listener: &str, routes: &str) -> Proxy {
    Proxy::start(&format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{listener}\n{routes}"
    ))
}

fn ask(proxy: &Proxy, head: &str) -> Response {
    let mut client = proxy.client();
    client.send(head.replace('\n', "\r\n") + "\r\n\r\n");
    client.response()
}

fn location(proxy: &Proxy, target: &str, host: &str) -> (u16, String) {
    let answer = ask(proxy, &format!("GET {target} HTTP/1.1\nHost: {host}"));
    let location = answer.header("location").unwrap_or_default();
    (answer.status, location.to_owned())
}

#[test]
fn what_is_not_given_stays_as_asked() {
    let proxy = routes(
        "",
        r#"
        [[route]]
        prefix = "/"
        redirect = { scheme = "https" }
        [[route]]
        prefix = "/host"
        redirect = { host = "new.example", port = 8443, status = 302 }
        [[route]]
        prefix = "/path"
        redirect = { path = "/new", status = 303 }
        [[route]]
        prefix = "/query"
        redirect = { path = "/new?x=${request.method}", status = 307 }
        [[route]]
        prefix = "/old"
        redirect = { status = 301 }
        replace-prefix = "/new"
        "#,
    );
    for (target, host, status, expected) in [
        (
            "/a?b=c",
            "Old.Example:8080",
            308,
            "https://old.example/a?b=c",
        ),
        ("/", "[::1]:80", 308, "https://[::1]/"),
        ("/a//b/../%7ec?", "x", 308, "https://x/a/~c?"),
        ("/host/a", "x:1", 302, "http://new.example:8443/host/a"),
        ("/path/x?q", "x:1", 303, "http://x:1/new?q"),
        ("/query?q", "x", 307, "http://x/new?x=GET"),
        ("/old/a?b", "x", 301, "http://x/new/a?b"),
    ] {
        let found = location(&proxy, target, host);
        assert_eq!(found, (status, expected.to_owned()), "{target}");
    }
}

#[test]
fn a_whole_url_is_taken_as_it_is() {
    let proxy = routes(
        "",
        r#"
        [[route]]
        prefix = "/"
        redirect = { to = "https://example.org${request.path}?from=${request.host}&${request.query}" }
        [[route]]
        prefix = "/fixed"
        redirect = { to = "https://example.org/" }
        [[route]]
        prefix = "/host"
        redirect = { to = "${request.scheme}://www.${request.host}:8443/" }
        [[route]]
        prefix = "/relative"
        redirect = { to = "/${request.path}" }
        "#,
    );
    for (target, expected) in [
        ("/a/b?c=d", "https://example.org/a/b?from=x.example&c=d"),
        ("/fixed/a?b", "https://example.org/"),
        ("/host", "http://www.x.example:8443/"),
        ("/relative/evil.example", "/relative/evil.example"),
    ] {
        let found = location(&proxy, target, "x.example");
        assert_eq!(found, (308, expected.to_owned()), "{target}");
    }
}

#[test]
fn no_client_leads_another_astray() {
    let proxy = routes(
        "",
        r#"
        [[route]]
        prefix = "/"
        redirect = { scheme = "https" }
        [[route]]
        host = "to.example"
        prefix = "/"
        redirect = { to = "${request.path}" }
        [[route]]
        host = "slash.example"
        prefix = "/"
        redirect = { to = "/${request.path}?${request.query}" }
        "#,
    );
    for target in [
        "//evil.example/",
        "/%2f%2fevil.example",
        "///evil.example",
        "/\\evil.example",
        "/%5cevil.example",
        "/.//evil.example",
        "/x/..//evil.example",
        "/%0d%0aLocation:%20http://evil.example",
        "http://good.example//evil.example",
        "/@evil.example",
        "/;@evil.example/?\\x",
    ] {
        for host in ["good.example", "to.example", "slash.example"] {
            let (status, found) = location(&proxy, target, host);
            if status == 400 {
                continue;
            }
            let good = match host {
                "good.example" => found.starts_with("https://good.example/"),
                _ => {
                    found.starts_with("https://good.example/")
                        || (found.starts_with('/') && !found.starts_with("//"))
                }
            };
            assert!(good && !found.contains('\\'), "{target}: {found}");
        }
    }
    for host in [
        "evil.example@good.example",
        "a b",
        "good.example/evil",
        "a\\b",
        "evil\"",
        "x:y",
    ] {
        assert_eq!(location(&proxy, "/", host).0, 400, "{host}");
    }
    let old = ask(&proxy, "GET / HTTP/1.0");
    assert_eq!(
        (old.status, old.evenkeel_reason()),
        (400, Some("bad_request"))
    );
}

/// Behind a proxy that ends TLS a redirect to https would otherwise never end.
#[test]
fn the_scheme_is_what_the_client_speaks() {
    let proxy = routes(
        "trusted-proxies = [\"127.0.0.0/8\"]",
        "[[route]]\nprefix = \"/\"\nredirect = { to = \"${request.scheme}://x/\" }",
    );
    let told = ask(&proxy, "GET / HTTP/1.1\nHost: a\nX-Forwarded-Proto: https");
    assert_eq!(told.header("location"), Some("https://x/"));
    assert_eq!(location(&proxy, "/", "a").1, "http://x/");
}

#[test]
fn connections_are_kept_and_everything_is_counted() {
    let proxy = routes(
        "",
        r#"
        [[route]]
        name = "old"
        prefix = "/"
        redirect = { scheme = "https" }
        response-headers = { set = { x-from = "${request.path}" } }
        "#,
    );
    let mut client = proxy.client();
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let answer = client.request(method, "/a", "");
        assert_eq!(answer.status, 308, "{method}");
        assert_eq!(answer.header("x-from"), Some("/a"));
        assert_eq!(answer.header("x-evenkeel-reason"), None);
        assert!(answer.body.is_empty());
    }
    let answer = client.post("/a", b"body");
    assert_eq!(answer.status, 308);
    let series = r#"evenkeel_requests_total{listener="web",route="old",method="POST",code="308"}"#;
    assert_eq!(proxy.metric(series), Some(2.0), "{}", proxy.metrics());
}

#[test]
fn access_is_judged_first() {
    let proxy = routes(
        "",
        "[[route]]\nprefix = \"/\"\nredirect = { scheme = \"https\" }\ndeny = [\"0.0.0.0/0\"]",
    );
    assert_eq!(location(&proxy, "/", "a").0, 403);
}

#[test]
fn a_default_upstream_does_not_stand_in_the_way() {
    let origin = Origin::good("x");
    let proxy = routes(
        "",
        &format!(
            "[upstream.app]\nservers = [\"{}\"]\n[defaults.route]\nupstream = \"app\"\n\
             [[route]]\nprefix = \"/\"\n[[route]]\nprefix = \"/old\"\nredirect = {{ path = \"/\" }}",
            origin.address()
        ),
    );
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(location(&proxy, "/old", "a"), (308, "http://a/".to_owned()));
    let ask = r#"{"method":"GET","url":"http://a/old?x","headers":[]}"#;
    let answer = proxy.admin("POST", "/explain", ask).json();
    assert_eq!(answer["answer"], "308 to http://a/?x");
}
