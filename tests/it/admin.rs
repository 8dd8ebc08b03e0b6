//! The admin listener of a running proxy: what it shows, what it changes, and for whom.

use std::net::{SocketAddr, UdpSocket};

use serde_json::Value;

use super::support::{Client, Origin, Process, Proxy, Response, app, app_with, count, eventually};

/// One call with whole header lines.
fn call(address: SocketAddr, line: &str, headers: &str, body: &str) -> Response {
    let mut client = Client::connect(address);
    let length = body.len();
    client.send(format!(
        "{line} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ));
    client.response()
}

/// All of `expected` is in `found`; what it does not name may be anything.
#[track_caller]
fn has(found: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        match value {
            Value::Object(_) => has(&found[key], value),
            _ => assert_eq!(&found[key], value, "{key} of {found:#}"),
        }
    }
}

#[test]
fn status_shows_tasks_and_none_is_left_of_a_connection() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let tasks = || {
        let workers = proxy.status()["tasks"]["workers"].clone();
        let workers = workers.as_array().expect("one number per worker");
        assert_eq!(workers.len(), 2);
        workers
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .sum::<u64>()
    };
    let before = tasks();
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.get("/");
    }
    assert!(tasks() >= before + 20, "{} after {before}", tasks());
    drop(clients);
    eventually("they are gone", || tasks() == before);
}

#[test]
fn status_shows_the_process_its_upstreams_and_servers() {
    let (origin, backup) = (Origin::good("ok"), Origin::good("ok"));
    let servers = [
        (&origin, "{ weight = 3, max-requests = 7 }"),
        (&backup, "{ backup = true }"),
    ];
    let more = "[upstream.app.health]\npath = \"/h\"\n";
    let proxy = Proxy::start(&app_with(&servers, more));
    let mut client = proxy.client();
    client.get("/");
    eventually("it is checked", || {
        proxy.server_status(&origin)["health"]["verdict"] == "healthy"
    });
    has(
        &proxy.status(),
        &serde_json::json!({
            "state": "ready", "generation": 1, "workers": 2, "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "last_reload": { "successful": true, "mistakes": null },
        }),
    );
    let status = proxy.status();
    has(
        &status["listeners"][0],
        &serde_json::json!({ "name": "web", "connections": 1, "requests_in_flight": 0 }),
    );
    has(
        &status["routes"][0],
        &serde_json::json!({ "name": "/", "upstream": "app" }),
    );
    eventually("the request is counted", || {
        proxy.status()["routes"][0]["requests_total"] == 1
    });
    has(
        &proxy.app_status(),
        &serde_json::json!({ "balance": "smooth-weighted", "panic": false, "queue_length": 0 }),
    );
    has(
        &proxy.server_status(&origin),
        &serde_json::json!({
            "state": "in rotation", "weight": 3, "effective_weight": 3.0, "backup": false,
            "draining": false, "in_flight": 0, "max_requests": 7, "attempts": 1, "failures": 0,
            "breaker": { "mode": "on", "state": "closed" },
            "connections": { "active": 0, "idle": 1 },
        }),
    );
    assert!(proxy.server_status(&origin)["latency_seconds"].as_f64() > Some(0.0));
    assert_eq!(proxy.server_status(&backup)["backup"], true);
    assert_ne!(proxy.server_status(&backup)["state"], "in rotation");
}

#[test]
fn status_shows_what_is_wrong() {
    let bad = Origin::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let reset = Origin::resetting();
    let good = Origin::good("ok");
    let more = "[upstream.app.health]\npath = \"/h\"\nfall = 1\n";
    let unhealthy = Proxy::start(&app(&[&bad, &good], more));
    eventually("the verdict is shown", || {
        let server = unhealthy.server_status(&bad);
        server["state"] == "unhealthy" && server["health"]["last_error"].to_string().contains("500")
    });
    let more = "retry.attempts = 0\n[upstream.app.breaker]\nconsecutive-failures = 1\n";
    let open = Proxy::start(&app(&[&reset], more));
    open.get("/");
    eventually("the breaker is shown", || {
        let server = open.server_status(&reset);
        server["breaker"]["state"] == "open"
            && server["breaker"]["seconds_to_probe"].as_f64() > Some(1.0)
    });
    assert_eq!(open.server_status(&reset)["failures"], 1);
    open.write("[[listenr]]\n[upstrem.a]\n");
    assert_eq!(open.reload().status, 422);
    let last = &open.status()["last_reload"];
    assert_eq!(last["successful"], false);
    let mistakes = last["mistakes"].as_str().expect("text");
    for told in ["did you mean `listener`?", "did you mean `upstream`?"] {
        assert!(
            mistakes.contains(told),
            "every mistake with its help: {mistakes}"
        );
    }
}

#[test]
fn an_override_moves_traffic_and_lives_until_the_file_says_otherwise() {
    let (first, second) = (Origin::good("a"), Origin::good("b"));
    let file = |weight: &str, more: &str| app_with(&[(&first, weight), (&second, "1")], more);
    let process = Process::start(&file("1", ""));
    let put = |path: &str, body: &str| {
        let host = "Host: localhost\r\n";
        call(process.admin, &format!("PUT {path}"), host, body)
    };
    let bodies = || -> String {
        let get = |_| Client::connect(process.listener).get("/").text();
        (0..6).map(get).collect()
    };
    let path = format!("/upstreams/app/servers/{}", first.address());
    let answer = put(&path, "{\"weight\": 0}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    has(
        &answer.json(),
        &serde_json::json!({
            "weight": 1, "effective_weight": 0.0, "override": { "weight": 0 }, "state": "weight 0",
        }),
    );
    assert_eq!(bodies(), "bbbbbb");

    let reload = |config: &str, event: &str| {
        std::fs::write(process.path(), super::support::proxy::complete(config)).expect("writes");
        let answer = call(process.admin, "POST /reload", "Host: localhost\r\n", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        eventually("it is logged", || process.log().contains(event));
    };
    let stays = format!("override on app/{} stays: weight 0", first.address());
    reload(&file("1", "slow-start = \"0s\"\n"), &stays);
    assert_eq!(bodies(), "bbbbbb", "another change leaves it alone");

    // 2:1 for the first, as the file says now.
    reload(&file("2", "slow-start = \"0s\"\n"), "weight 1 -> 2");
    assert_eq!(count(&bodies(), "a"), 4, "its own entry takes it back");

    assert_eq!(put(&path, "{\"drain\": true}").status, 200);
    assert_eq!(bodies(), "bbbbbb");
    let answer = call(
        process.admin,
        &format!("DELETE {path}"),
        "Host: localhost\r\n",
        "",
    );
    assert_eq!(answer.status, 200);
    assert!(answer.json()["override"].is_null(), "{}", answer.text());
    assert_eq!(count(&bodies(), "a"), 4);
}

#[test]
fn overrides_that_make_no_sense_are_refused() {
    let (first, second) = (Origin::good("a"), Origin::good("b"));
    let proxy = Proxy::start(&app(&[&first, &second], "balance = \"round-robin\"\n"));
    let path = format!("/upstreams/app/servers/{}", first.address());
    for (path, body, status, says) in [
        (&*path, "{\"weight\": 2}", 400, "round-robin"),
        (&path, "{\"weight\": 1001}", 400, "0 to 1000"),
        (&path, "{}", 400, "neither weight nor drain"),
        (&path, "{\"wieght\": 1}", 400, "wieght"),
        (
            "/upstreams/nobody/servers/x:1",
            "{\"weight\": 1}",
            404,
            "upstream",
        ),
        (
            "/upstreams/app/servers/x:1",
            "{\"weight\": 1}",
            404,
            "server",
        ),
    ] {
        let answer = proxy.admin("PUT", path, body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let error = answer.json()["error"].to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(proxy.server_status(&first)["override"].is_null());
}

#[test]
fn a_server_with_a_slash_in_its_address_can_be_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = format!("unix:{}/app.sock", directory.path().display());
    let config = format!(
        "[upstream.app]\nservers = [\"{server}\"]\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    );
    let proxy = Proxy::start(&config);
    for path in [server.clone(), server.replace('/', "%2F")] {
        let path = format!("/upstreams/app/servers/{path}");
        let answer = proxy.admin("PUT", &path, "{\"drain\": true}");
        assert_eq!(
            (answer.status, &answer.json()["draining"]),
            (200, &true.into())
        );
        assert_eq!(proxy.admin("DELETE", &path, "").status, 200);
    }
}

#[test]
fn config_masks_secrets_and_what_came_from_the_environment() {
    let origin = Origin::good("ok");
    let more = "health = { path = \"/h\", headers = { x-tag = \"${PATH}\", \
                authorization = \"Bearer written\" } }\n";
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\ntoken = \"s3cret\"\n";
    let proxy = Proxy::start(&(admin.to_owned() + &app(&[&origin], more)));
    let text = proxy.admin("GET", "/config", "").text();
    for hidden in [
        "s3cret",
        &std::env::var("PATH").expect("it is set"),
        "written",
    ] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    for shown in [
        "token = \"***\"",
        "x-tag = \"***\"",
        "authorization = \"***\"",
        "first-byte = \"30s\"",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    assert!(!proxy.admin("GET", "/status", "").text().contains("s3cret"));
}

#[test]
fn on_loopback_changes_need_the_token_and_a_reload_changes_it() {
    let origin = Origin::good("ok");
    let config = |token: &str| {
        format!(
            "[admin]\naddress = \"127.0.0.1:0\"\ntoken = \"{token}\"\nhosts = [\"proxy.example\"]\n{}",
            app(&[&origin], "")
        )
    };
    let proxy = Proxy::start(&config("first"));
    let ask = |line: &str, headers: &str| call(proxy.admin_address(), line, headers, "").status;
    let local = "Host: localhost\r\n";
    assert_eq!(ask("GET /status", local), 200, "reading needs none here");
    assert_eq!(ask("POST /reload", local), 401);
    let bearer = |token: &str| format!("{local}Authorization: Bearer {token}\r\n");
    assert_eq!(ask("POST /reload", &bearer("first")), 200);
    proxy.write(&config("second"));
    assert_eq!(ask("POST /reload", &bearer("first")), 200);
    assert_eq!(
        ask("POST /reload", &bearer("first")),
        401,
        "the new token counts at once"
    );
    assert_eq!(ask("POST /reload", &bearer("second")), 200);

    assert_eq!(ask("GET /status", "Host: evil.example\r\n"), 403);
    assert_eq!(ask("GET /status", "Host: proxy.example\r\n"), 200);
    let origin = format!("{local}Origin: http://evil.example\r\n");
    assert_eq!(ask("GET /status", &origin), 403);
    for open in ["GET /healthz", "GET /readyz", "GET /metrics"] {
        assert_eq!(
            ask(
                open,
                "Host: evil.example\r\nOrigin: http://evil.example\r\n"
            ),
            200
        );
    }
    assert_eq!(ask("GET /", "Host: evil.example\r\n"), 403);
}

#[test]
fn switched_off_by_a_reload_it_keeps_its_rules_until_the_restart() {
    let origin = Origin::good("ok");
    let config = |admin: &str| format!("[admin]\n{admin}\n{}", app(&[&origin], ""));
    let proxy = Proxy::start(&config("address = \"127.0.0.1:0\"\ntoken = \"first\""));
    let ask = |headers: &str| call(proxy.admin_address(), "POST /reload", headers, "").status;
    let local = "Host: localhost\r\n";
    let bearer = |token: &str| format!("{local}Authorization: Bearer {token}\r\n");
    proxy.write(&config("address = \"127.0.0.1:0\"\ntoken = \"second\""));
    assert_eq!(ask(&bearer("first")), 200);
    proxy.write(&config("address = \"off\""));
    assert_eq!(ask(&bearer("second")), 200);
    assert_eq!(ask(local), 401, "nothing opens up");
    assert_eq!(ask(&bearer("second")), 200);
}

/// An address of this machine that is not loopback, where there is one.
fn outside() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: this asks which address would be used.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn off_loopback_everything_with_data_needs_the_token() {
    let Some(outside) = outside() else { return };
    let origin = Origin::good("ok");
    let config = |token: &str| {
        format!(
            "[admin]\naddress = \"0.0.0.0:0\"\ntoken = \"{token}\"\n{}",
            app(&[&origin], "")
        )
    };
    for (token, refused) in [("", 403), ("t", 401)] {
        let proxy = Proxy::start(&config(token));
        let address = SocketAddr::new(outside, proxy.admin_address().port());
        let host = format!("Host: {address}\r\n");
        for line in [
            "GET /status",
            "GET /config",
            "POST /reload",
            "POST /explain",
        ] {
            let answer = call(address, line, &host, "");
            assert_eq!(answer.status, refused, "{line}: {}", answer.text());
        }
        for line in ["GET /", "GET /healthz", "GET /readyz", "GET /metrics"] {
            assert_eq!(call(address, line, &host, "").status, 200, "{line}");
        }
        if token.is_empty() {
            let answer = call(address, "GET /status", &host, "");
            assert!(answer.text().contains("admin.token"), "{}", answer.text());
        } else {
            let bearer = format!("{host}Authorization: Bearer t\r\n");
            assert_eq!(call(address, "GET /status", &bearer, "").status, 200);
        }
    }
}

#[test]
fn a_data_listener_never_serves_it() {
    let origin = Origin::good("the server's");
    let proxy = Proxy::start(&app(&[&origin], ""));
    for path in ["/status", "/metrics", "/healthz", "/readyz", "/config"] {
        assert_eq!(proxy.get(path).text(), "the server's", "{path}");
    }
    let nothing = Proxy::start("");
    assert_eq!(nothing.get("/metrics").evenkeel_reason(), Some("no_route"));
}

#[test]
fn off_leaves_no_admin_listener() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&("[admin]\naddress = \"off\"\n".to_owned() + &app(&[&origin], "")));
    assert!(proxy.running().admin().is_none());
    assert_eq!(proxy.get("/").text(), "ok");
}

#[test]
fn the_page_holds_no_data_and_loads_nothing_from_outside() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let page = proxy.admin("GET", "/", "");
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    let policy = page.header("content-security-policy").expect("it has one");
    assert!(policy.contains("default-src 'self'"), "{policy}");
    for path in ["/", "/app.js", "/app.css"] {
        let text = proxy.admin("GET", path, "").text();
        assert!(
            !text.contains(&origin.address().to_string()),
            "{path} holds data"
        );
        assert!(!text.contains("https://"), "{path} names something outside");
    }
}
