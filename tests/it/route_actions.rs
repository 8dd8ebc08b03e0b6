//! What routes do, all of it at once, over HTTP/1 and HTTP/2 on both sides; and that no access rule
//! is passed by another spelling of anything.

use super::support::h2::{H2, block_on};
use super::support::{Client, H2Origin, Origin, Proxy, eventually};

/// Half of the requests goes to each.
fn everything(old: &Origin, new: &H2Origin) -> String {
    format!(
        r#"
        [[listener]]
        name = "web"
        address = "127.0.0.1:0"
        trusted-proxies = ["127.0.0.0/8"]

        [defaults.route]
        response-headers = {{ set = {{ Strict-Transport-Security = "max-age=60" }}, remove = ["Server"] }}

        [upstream.old]
        servers = ["{}"]

        [upstream.new]
        servers = ["{}"]
        protocol = "h2"

        [[route]]
        name = "api"
        host = "api.example"
        prefix = "/api/v1"
        when = {{ method = ["GET", "POST"] }}
        split = {{ old = 1, new = 1 }}
        replace-prefix = "/v2"
        allow = ["192.0.2.0/24"]
        max-body = "10B"
        retry = {{ attempts = 1 }}
        timeout = {{ total = "10s" }}
        fallback = {{ status = 503, body = "sorry, ${{request.id}}" }}
        request-headers = {{ remove = ["Cookie"], set = {{ Host = "internal.example", X-Asked = "${{client.ip}} ${{request.scheme}}://${{request.host}}${{request.path}}?${{request.query}}" }} }}
        response-headers = {{ set = {{ X-Route = "${{route.name}}" }} }}

        [[route]]
        name = "moved"
        host = "api.example"
        prefix = "/api/v0"
        replace-prefix = "/api/v1"
        redirect = {{ scheme = "https", status = 301 }}

        [[route]]
        path = "/health"
        respond = {{ body = "fine" }}
        "#,
        old.address(),
        new.address()
    )
}

const ASKED: &str = "192.0.2.7 https://api.example/api/v1/a?b=c";
const HEADERS: [(&str, &str); 4] = [
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("cookie", "secret=1"),
    ("x-asked", "theirs"),
];

#[test]
fn everything_at_once_by_http1() {
    let (old, new) = (Origin::good("o"), H2Origin::good("n"));
    let proxy = Proxy::start(&everything(&old, &new));
    let mut client = proxy.client();
    let mut head = "GET /api/./v1//a?b=c HTTP/1.1\r\nHost: API.example:80\r\n".to_owned();
    for (name, value) in HEADERS {
        head += &format!("{name}: {value}\r\n");
    }
    let mut bodies = String::new();
    for _ in 0..4 {
        client.send(format!("{head}\r\n"));
        let answer = client.response();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-route"), Some("api"));
        assert_eq!(
            answer.header("strict-transport-security"),
            Some("max-age=60")
        );
        bodies += &answer.text();
    }
    assert_eq!(
        (bodies.matches('o').count(), bodies.matches('n').count()),
        (2, 2)
    );
    arrived(&old, &new);
    others(&proxy);
}

#[test]
fn everything_at_once_by_http2() {
    let (old, new) = (Origin::good("o"), H2Origin::good("n"));
    let proxy = Proxy::start(&everything(&old, &new));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let mut bodies = String::new();
        for _ in 0..4 {
            let mut request = http::Request::builder().uri("http://api.example/api/./v1//a?b=c");
            for (name, value) in HEADERS {
                request = request.header(name, value);
            }
            let (answer, _) = client
                .send(request.body(()).expect("a request"), true)
                .await;
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["x-route"], "api");
            assert_eq!(answer.headers()["strict-transport-security"], "max-age=60");
            bodies += &super::support::h2::whole(answer).await.text();
        }
        assert_eq!(
            (bodies.matches('o').count(), bodies.matches('n').count()),
            (2, 2)
        );

        let request = http::Request::builder().uri("http://api.example/api/v0/a?b");
        let request = request.body(()).expect("a request");
        let (answer, _) = client.send(request, true).await;
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 301);
        assert_eq!(
            answer.headers()["location"],
            "https://api.example/api/v1/a?b"
        );
        assert_eq!(client.get("/health").await.text(), "fine");
        let posted = client.post("/health", "a body nobody reads").await;
        assert_eq!((posted.status, posted.text().as_str()), (200, "fine"));
    });
    arrived(&old, &new);
}

/// What the servers were told.
fn arrived(old: &Origin, new: &H2Origin) {
    let sent = old.last();
    assert_eq!(sent.target(), "/v2/a?b=c");
    assert_eq!(sent.headers("host"), ["internal.example"]);
    assert_eq!(sent.headers("x-asked"), [ASKED]);
    assert_eq!(sent.header("cookie"), None);
    let calls = new.calls();
    let call = calls.last().expect("a call");
    assert!(
        call.uri.ends_with("internal.example/v2/a?b=c"),
        "{}",
        call.uri
    );
    let asked: Vec<_> = call.fields.get_all("x-asked").iter().collect();
    assert_eq!(asked, [ASKED]);
    assert!(!call.fields.contains_key("cookie"));
}

fn others(proxy: &Proxy) {
    let ask = |target: &str, headers: &str| {
        let mut client: Client = proxy.client();
        client.send(format!(
            "{target} HTTP/1.1\r\nHost: api.example\r\n{headers}\r\n"
        ));
        client.response()
    };
    let denied = ask("GET /api/v1/a", "X-Forwarded-For: 198.51.100.1\r\n");
    assert_eq!((denied.status, denied.header("x-route")), (403, None));
    let large = "X-Forwarded-For: 192.0.2.7\r\nContent-Length: 11\r\n";
    assert_eq!(ask("POST /api/v1/a", large).status, 413);
    assert_eq!(
        ask("DELETE /api/v1/a", "").status,
        404,
        "not of the methods"
    );
    let moved = ask("GET /api/v0/a?b", "");
    assert_eq!(
        moved.header("location"),
        Some("https://api.example/api/v1/a?b")
    );
    assert_eq!(ask("GET /health", "").text(), "fine");
}

/// Copies, cookies and limits beside everything else.
#[test]
fn mirror_sticky_and_limit_go_with_all_the_others() {
    let [a, b, c, shadow] = ["a", "b", "c", "x"].map(Origin::good);
    let sticky = |name: &str, servers: &[&Origin]| {
        let servers: Vec<_> = servers
            .iter()
            .map(|server| format!("\"{}\"", server.address()))
            .collect();
        format!(
            "[upstream.{name}]\nservers = [{}]\nsticky = {{}}\n",
            servers.join(", ")
        )
    };
    let text = sticky("old", &[&a, &b])
        + &sticky("new", &[&c])
        + &format!(
            r#"
            [upstream.shadow]
            servers = ["{}"]
            [[listener]]
            address = "127.0.0.1:0"
            trusted-proxies = ["127.0.0.0/8"]
            [[route]]
            name = "shop"
            prefix = "/shop"
            split = {{ old = 1, new = 1 }}
            when = {{ method = ["GET", "POST"] }}
            strip-prefix = true
            mirror = {{ upstream = "shadow", percent = "50%" }}
            limit = {{ rate = "1/h", burst = 8 }}
            deny = ["192.0.2.66"]
            retry = {{ attempts = 2, max-replay-body = "1KiB" }}
            timeout = {{ total = "10s" }}
            fallback = {{ status = 503, body = "sorry" }}
            request-headers = {{ set = {{ X-Shop = "${{request.path}}" }}, remove = ["Cookie"] }}
            response-headers = {{ set = {{ X-Route = "${{route.name}}" }} }}
            "#,
            shadow.address()
        );
    let proxy = Proxy::start(&text);
    let mut jar = String::new();
    let mut seen = String::new();
    let ask = |jar: &str, more: &str| {
        let mut client = proxy.client();
        client.send(format!(
            "POST //shop/./cart?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n{jar}{more}\r\norder"
        ));
        client.response()
    };
    for _ in 0..8 {
        let answer = ask(&jar, "X-Forwarded-For: 192.0.2.1\r\n");
        assert_eq!(
            (answer.status, answer.header("x-route")),
            (200, Some("shop"))
        );
        if let Some(set) = answer.header("set-cookie") {
            let value = set.split(';').next().unwrap_or_default();
            jar = format!("Cookie: other=1; {value}\r\n");
        }
        seen += &answer.text();
    }
    // The turns of the split go on, and within each upstream the client stays.
    assert_eq!(seen.matches('c').count(), 4, "{seen}");
    assert!(
        seen.matches('a').count() == 4 || seen.matches('b').count() == 4,
        "{seen}"
    );
    let over = ask(&jar, "X-Forwarded-For: ::ffff:192.0.2.1\r\n");
    assert_eq!((over.status, over.header("set-cookie")), (429, None));
    let denied = ask("", "X-Forwarded-For: [::ffff:192.0.2.66]:80\r\n");
    assert_eq!((denied.status, denied.header("set-cookie")), (403, None));
    eventually("half of them were copied", || shadow.request_count() == 4);
    let copy = shadow.last();
    assert_eq!(copy.start_line(), "POST /cart?x=1 HTTP/1.1");
    assert_eq!(copy.body, b"order");
    assert_eq!(copy.headers("x-shop"), ["/shop/cart"]);
    assert_eq!(copy.headers("x-forwarded-prefix"), ["/shop"]);
    assert_eq!(
        copy.header("cookie"),
        None,
        "what servers do not get, a mirror does not"
    );
    for server in [&a, &b, &c] {
        server.stop();
    }
    let sorry = ask(&jar, "X-Forwarded-For: 192.0.2.2\r\n");
    assert_eq!((sorry.status, sorry.text().as_str()), (503, "sorry"));
    assert_eq!(sorry.header("set-cookie"), None);
}

/// Every way to write what is denied, by both versions.
#[test]
fn no_spelling_passes_an_access_rule() {
    let origin = Origin::good("secret");
    let address = origin.address();
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        address = "127.0.0.1:0"
        [upstream.app]
        servers = ["{address}"]
        [[route]]
        prefix = "/"
        upstream = "app"
        rewrite = {{ regex = "/([a-z]+)/(.*)", to = "/$1/$2" }}
        request-headers = {{ set = {{ X-Internal = "1" }} }}
        [[route]]
        prefix = "/admin"
        upstream = "app"
        deny = ["0.0.0.0/0", "::/0"]
        strip-prefix = true
        [[route]]
        host = "admin.example"
        prefix = "/"
        deny = ["127.0.0.1/32"]
        redirect = {{ host = "inside.example" }}
        "#
    ));
    let paths = [
        "/admin",
        "/admin/",
        "/%61dmin",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/admin;x/../admin",
        "/x/%2e%2e/admin",
        "/admin/%2e",
        "/admin?x",
        "/%61%64%6d%69%6e/x",
        "/admin//x",
        "/..;/admin",
        "/x%2f..%2fadmin",
        "/admin/../admin",
        "/\\admin",
        "/admin%00",
        "/%2e/admin",
    ];
    let hosts = [
        "admin.example",
        "ADMIN.example",
        "admin.example.",
        "admin.example:80",
        "Admin.Example.:8080",
    ];
    let heads: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            [
                format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"),
                format!("GET http://a{path} HTTP/1.1\r\nHost: b\r\n\r\n"),
                format!("GET {path} HTTP/1.0\r\n\r\n"),
                format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Original-URL: /x\r\nX-Rewrite-URL: /x\r\n\r\n"),
                format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-HTTP-Method-Override: GET\r\n\r\n"),
            ]
        })
        .chain(hosts.iter().flat_map(|host| {
            [
                format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                format!("GET http://{host}/ HTTP/1.1\r\nHost: other\r\n\r\n"),
                format!("GET http://{host} HTTP/1.1\r\nHost: other\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHost: other\r\nHost: {host}\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: other\r\n\r\n"),
            ]
        }))
        .collect();
    for head in &heads {
        let mut client = proxy.client();
        client.send(head);
        let status = client.response().status;
        assert!(matches!(status, 400 | 403), "{head}: {status}");
    }
    block_on(async {
        for path in paths {
            let mut client = H2::connect(proxy.address()).await;
            let Ok(request) = client.request("GET", path).body(()) else {
                continue; // This client cannot ask for it.
            };
            let (answer, _) = client.send(request, true).await;
            // A stream error is a refusal as well.
            if let Ok(answer) = answer.await {
                assert!(matches!(answer.status().as_u16(), 400 | 403), "{path}");
            }
        }
    });
    assert_eq!(origin.request_count(), 0, "nothing of it went on");
    assert_eq!(proxy.get("/administer").status, 200);
}

/// A reload in the middle of everything: each request sees one configuration as a whole.
#[test]
fn a_reload_changes_everything_together() {
    let origin = Origin::good("x");
    let address = origin.address();
    let file = |word: &str| {
        format!(
            r#"
            [upstream.app]
            servers = ["{address}"]
            [[route]]
            prefix = "/a"
            upstream = "app"
            replace-prefix = "/{word}"
            request-headers = {{ set = {{ X-Word = "{word}" }} }}
            response-headers = {{ set = {{ X-Word = "{word} ${{request.method}}" }} }}
            "#
        )
    };
    let proxy = Proxy::start(&file("one"));
    let mut kept = proxy.client();
    for word in ["one", "two", "three"] {
        proxy.reconfigure(&file(word));
        let answer = kept.get("/a/x");
        assert_eq!(answer.header("x-word"), Some(&*format!("{word} GET")));
        let sent = origin.last();
        assert_eq!(sent.target(), format!("/{word}/x"));
        assert_eq!(sent.headers("x-word"), [word]);
    }
}
