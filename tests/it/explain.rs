//! `explain`, offline and live: the words for each answer, and that the data plane does the same.

mod agrees;
mod typed;

use serde_json::{Value, json};

use super::support::{Client, Origin, Process, Proxy, app, app_with, eventually, says};

fn ask(proxy: &Proxy, url: &str, headers: &[&str]) -> Value {
    let body = json!({ "method": "GET", "url": url, "headers": headers });
    let answer = proxy.admin("POST", "/explain", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Why the route of this name was not chosen.
fn why(explained: &Value, route: &str) -> String {
    let routes = explained["routes"].as_array().expect("a list");
    let found = routes.iter().find(|verdict| verdict["name"] == route);
    let why = found.expect("every route has a verdict")["why"].as_str();
    why.expect("a sentence").to_owned()
}

/// Chance and reason of one server.
fn server(explained: &Value, origin: &Origin) -> (f64, String) {
    let servers = explained["servers"].as_array().expect("a list");
    let address = origin.address().to_string();
    let found = servers
        .iter()
        .find(|server| server["address"] == address.as_str());
    let found = found.expect("every server has a verdict");
    let why = found["why_not"].as_str().unwrap_or_default().to_owned();
    (found["chance"].as_f64().expect("a number"), why)
}

fn route(name: &str, keys: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nupstream = \"app\"\n{keys}\n")
}

#[test]
fn every_other_route_has_its_reason_and_the_data_plane_agrees() {
    let (origin, log) = (
        Origin::good("ok"),
        tempfile::tempdir().expect("a directory"),
    );
    let log = log.path().join("access.log");
    let config = [
        format!(
            "[access-log]\npath = \"{}\"\nformat = \"json\"\n",
            log.display()
        ),
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"inner\"\naddress = \"[::1]:0\"\n"
            .to_owned(),
        route("inner", "prefix = \"/a\"\nlistener = [\"inner\"]"),
        route("host", "prefix = \"/\"\nhost = \"a.example\""),
        route("wild", "prefix = \"/\"\nhost = \"*.example\""),
        route("short", "prefix = \"/a\""),
        route("long", "prefix = \"/a/b\""),
        route("exact", "path = \"/a/b/c\""),
        route("regex", "regex = \"/a/[0-9]+\""),
        route(
            "beta",
            "prefix = \"/a/b\"\nwhen = { header.x-beta = \"1\" }",
        ),
        route("first", "prefix = \"/a/b\"\npriority = 1"),
        app(&[&origin], "")
            .split("[[route]]")
            .next()
            .expect("a part")
            .to_owned(),
    ];
    let proxy = Proxy::start(&config.concat());
    let nowhere = json!({ "method": "GET", "url": "http://t:1/a", "headers": [] });
    let answer = proxy.admin("POST", "/explain", &nowhere.to_string());
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains("no listener has port 1"),
        "{}",
        answer.text()
    );
    assert!(
        ask(&proxy, "http://t/a", &[])["listener_note"]
            .to_string()
            .contains("the first")
    );
    let questions = [
        (
            "http://t/a/b/c",
            &[][..],
            "exact",
            &[
                ("inner", "it names other listeners"),
                ("host", "its host is a.example"),
                ("wild", "its host is *.example"),
                ("short", "it matches, but exact has the more specific path"),
                ("regex", "does not match"),
                ("beta", "its condition on "),
            ][..],
        ),
        (
            "http://a.example/a/b",
            &[],
            "host",
            &[("wild", "but host has the more specific host")],
        ),
        (
            "http://b.example/a",
            &[],
            "wild",
            &[("exact", "its path is exactly /a/b/c")],
        ),
        (
            "http://t/a/b/d",
            &["X-Beta: 1"],
            "beta",
            &[("long", "has more conditions")],
        ),
        (
            "http://t/a/b/d",
            &["X-Beta: 2"],
            "first",
            &[("long", "has the higher priority")],
        ),
        (
            "http://t/a/7",
            &[],
            "regex",
            &[("long", "its prefix is /a/b")],
        ),
        (
            "http://t/x/../a/%62",
            &[],
            "first",
            &[("short", "more specific path")],
        ),
        ("http://t/apix", &[], "", &[("short", "its prefix is /a")]),
    ];
    for (position, (url, headers, chosen, reasons)) in questions.into_iter().enumerate() {
        let explained = ask(&proxy, url, headers);
        assert_eq!(
            explained["route"].as_str().unwrap_or_default(),
            chosen,
            "{url}"
        );
        for (name, reason) in reasons {
            let why = why(&explained, name);
            assert!(why.contains(reason), "{url}: {name}: {why}");
        }
        let (host, path) = url["http://".len()..].split_once('/').expect("a path");
        let headers: String = headers
            .iter()
            .map(|header| format!("{header}\r\n"))
            .collect();
        proxy
            .client()
            .send(format!(
                "GET /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"
            ))
            .response();
        let mut line = Value::Null;
        eventually("it is logged", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            line = text
                .lines()
                .nth(position)
                .and_then(|line| serde_json::from_str(line).ok())
                .unwrap_or_default();
            line.is_object()
        });
        assert_eq!(
            line["route"], explained["route"],
            "{url}: the data plane took another way"
        );
    }
}

#[test]
fn chances_are_shares_and_live_ones_know_what_happened() {
    let (heavy, light) = (Origin::good("a"), Origin::good("b"));
    let backup = Origin::good("c");
    let servers = [(&heavy, "3"), (&light, "1"), (&backup, "{ backup = true }")];
    let proxy = Proxy::start(&app_with(&servers, ""));
    let explained = ask(&proxy, "/", &[]);
    assert_eq!(server(&explained, &heavy), (0.75, String::new()));
    assert_eq!(server(&explained, &light), (0.25, String::new()));
    let (chance, why) = server(&explained, &backup);
    assert!(chance == 0.0 && why.contains("backup"), "{why}");
    proxy.put_server(&heavy, "{\"drain\": true}");
    proxy.put_server(&light, "{\"weight\": 0}");
    let explained = ask(&proxy, "/", &[]);
    assert_eq!(server(&explained, &heavy), (0.0, "is draining".into()));
    assert_eq!(server(&explained, &light), (0.0, "its weight is 0".into()));
    assert_eq!(server(&explained, &backup), (1.0, String::new()));
    assert_eq!(explained["unavailable"], Value::Null);
    proxy.put_server(&backup, "{\"drain\": true}");
    let unavailable = &ask(&proxy, "/", &[])["unavailable"];
    let said = unavailable.as_str().unwrap_or_default();
    assert!(said.starts_with("503 no_server: "), "{unavailable}");
    assert_eq!(proxy.get("/").evenkeel_reason(), Some("no_server"));
}

#[test]
fn open_breakers_failed_checks_and_panic_are_named() {
    let (good, bad) = (Origin::good("a"), Origin::resetting());
    let more = "retry.attempts = 0\n[upstream.app.breaker]\nconsecutive-failures = 1\n";
    let proxy = Proxy::start(&app(&[&good, &bad], more));
    eventually("its breaker opens", || {
        proxy.get("/");
        server(&ask(&proxy, "/", &[]), &bad)
            .1
            .contains("its breaker is open, probes in ")
    });
    let more = "breaker.mode = \"off\"\n[upstream.app.health]\npath = \"/h\"\nfall = 1\ninterval = \"200ms\"\n";
    let proxy = Proxy::start(&app(&[&good, &bad], more));
    eventually("it fails its checks", || {
        server(&ask(&proxy, "/", &[]), &bad)
            .1
            .contains("failed its checks: ")
    });
    assert_eq!(ask(&proxy, "/", &[])["panic"], false);
    good.stop();
    eventually("it panics", || ask(&proxy, "/", &[])["panic"] == true);
    assert!(server(&ask(&proxy, "/", &[]), &bad).0 > 0.0);
}

#[test]
fn a_hash_key_of_the_request_names_its_server() {
    let origins: Vec<Origin> = (0..3)
        .map(|index| Origin::good(&index.to_string()))
        .collect();
    let more = "balance = \"hash\"\nhash = { by = \"header:X-User\" }\n";
    let proxy = Proxy::start(&app(&origins.iter().collect::<Vec<_>>(), more));
    for user in ["ann", "bob", "cid", "dee", "eve"] {
        let explained = ask(&proxy, "/", &[&format!("X-User: {user}")]);
        let certain = origins
            .iter()
            .position(|origin| server(&explained, origin).0 == 1.0);
        let certain = certain.expect("one server is certain");
        let answer = proxy
            .client()
            .request("GET", "/", &format!("X-User: {user}\r\n"));
        assert_eq!(answer.text(), certain.to_string(), "{user}");
    }
}

#[test]
fn the_command_explains_a_file_or_the_running_one() {
    let (first, second) = (Origin::good("a"), Origin::good("b"));
    let process = Process::start(&app(&[&first, &second], "").replace("\"/\"", "\"/a\""));
    let file = process.path();
    let file = file.to_str().expect("text");
    let admin = process.admin.to_string();
    let path = format!("/upstreams/app/servers/{}", second.address());
    Client::connect(process.admin)
        .send(format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{{\"weight\": 0}}"
        ))
        .response();

    let offline = says(["explain", "GET", "/a/x", "-c", file]);
    assert_eq!(offline.code, Some(0), "{offline:?}");
    assert_eq!(
        offline.stdout.matches("50.0%").count(),
        2,
        "{}",
        offline.stdout
    );
    let live = says(["explain", "GET", "/a/x", "--live", "--admin", &admin]);
    assert_eq!(live.code, Some(0), "{live:?}");
    assert!(
        live.stdout.contains("100.0%") && live.stdout.contains("0.0%  its weight is 0"),
        "{}",
        live.stdout
    );

    for (arguments, code, words) in [
        (&["GET", "/b"][..], 1, "route     none: 404 no_route"),
        (
            &["GET", "/a/%2e%2e/%2E%2e"],
            1,
            "refused   400 bad_request: ",
        ),
        (&["TRACE", "/a"], 1, "refused   405 method_not_allowed"),
        (
            &["POST", "/a", "-H", "Expect: magic"],
            1,
            "refused   417 expectation_failed",
        ),
        (
            &["GET", "/a", "-H", "Host: x.example"],
            0,
            "host      x.example",
        ),
        (&["G T", "/a"], 2, "is not a method"),
        (&["GET", "/a", "-H", "nonsense"], 2, "is not of the form"),
        (&["GET", "ftp://x/a"], 2, "neither a URL"),
    ] {
        for more in [&["-c", file][..], &["--live", "--admin", &admin]] {
            let said = says([&["explain"], arguments, more].concat());
            assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
            let text = said.stdout + &said.stderr;
            assert!(text.contains(words), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn a_raw_path_with_dot_segments_is_refused_as_on_the_wire() {
    let origin = Origin::good("ok");
    let config = app(&[&origin], "") + "forward = \"raw\"\n";
    let proxy = Proxy::start(&config);
    let explained = ask(&proxy, "/a/../b", &[]);
    let refused = explained["refused"].as_str().unwrap_or_default();
    assert!(refused.starts_with("400 bad_request"), "{explained}");
    assert_eq!(explained["route"], "/", "it is that route that refuses it");
    assert_eq!(proxy.get("/a/../b").status, 400);
    assert_eq!(ask(&proxy, "/a//b", &[])["refused"], Value::Null);
}

#[test]
fn of_listeners_on_one_port_the_address_chooses() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("evenkeel.toml");
    let listeners = ["127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"]
        .map(|address| format!("[[listener]]\naddress = \"{address}\"\n"));
    let rest = "[upstream.app]\nservers = [\"127.0.0.1:9\"]\n\
                [[route]]\nprefix = \"/\"\nupstream = \"app\"\n";
    std::fs::write(&file, listeners.concat() + rest).expect("it is written");
    let file = file.to_str().expect("text");
    for (host, chosen) in [
        ("127.0.0.2", "127.0.0.2:8080"),
        ("[::1]", "[::1]:8080"),
        ("a.example", "127.0.0.1:8080"),
    ] {
        let said = says([
            "explain",
            "GET",
            &format!("http://{host}:8080/"),
            "-c",
            file,
        ]);
        let line = format!("listener  {chosen}\n");
        assert!(said.stdout.contains(&line), "{host}: {said:?}");
    }
}

#[test]
fn what_rules_go_by_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("evenkeel.toml");
    let config = r#"
        [[listener]]
        address = "127.0.0.1:8080"
        trusted-proxies = ["10.0.0.0/8"]
        [upstream.app]
        servers = ["127.0.0.1:9"]
        [upstream.shadow]
        servers = ["127.0.0.1:10"]
        [[route]]
        prefix = "/"
        upstream = "app"
        mirror = { upstream = "shadow", percent = "5%" }
        [[route]]
        name = "admin"
        prefix = "/admin"
        allow = ["192.0.2.0/24"]
        limit = { rate = "10/s", burst = 20, by = "client-ip" }
        upstream = "app"
    "#;
    std::fs::write(&file, config).expect("it is written");
    let file = file.to_str().expect("text");
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["/admin"],
            1,
            &[
                "client    127.0.0.1  (assumed; --from ADDRESS names another)",
                "route     admin",
                "refused   403 denied: access denied",
            ],
        ),
        (
            &["/admin", "--from", "192.0.2.7"],
            0,
            &[
                "client    192.0.2.7\n",
                "limit     10/s, at most 20 at once, by client 192.0.2.7  (of admin)",
            ],
        ),
        (
            &["/admin%2Fx"],
            1,
            &[
                "held to   admin as well",
                "refused   403 denied: the path is another spelling of one that is denied by admin",
            ],
        ),
        (
            &["/admin%2Fx", "--from", "192.0.2.7"],
            0,
            &["route     /\n", "held to   admin as well", "limit     10/s"],
        ),
        (
            &["/admin", "-H", "X-Forwarded-For: 192.0.2.7"],
            1,
            &["client    127.0.0.1  (X-Forwarded-For is not believed: 127.0.0.1 is none of"],
        ),
        (
            &[
                "/admin",
                "--from",
                "10.0.0.1",
                "-H",
                "X-Forwarded-For: 192.0.2.7",
            ],
            0,
            &["client    192.0.2.7  (by X-Forwarded-For of 10.0.0.1, a trusted proxy)"],
        ),
        (
            &["/", "-H", "X_User: 1"],
            0,
            &[
                "dropped   X_User  (underscore-headers)",
                "mirror    shadow 5%\n",
            ],
        ),
        (
            &["/", "-H", "Upgrade: websocket", "-H", "Connection: upgrade"],
            0,
            &["mirror    shadow 5%, but no copy of this"],
        ),
        (
            &["/", "--from", "nobody"],
            2,
            &["invalid value 'nobody' for '--from <ADDRESS>'"],
        ),
    ];
    for (arguments, code, words) in cases {
        let said = says([&["explain", "GET"], *arguments, &["-c", file]].concat());
        assert_eq!(said.code, Some(*code), "{arguments:?}: {said:?}");
        let text = said.stdout + &said.stderr;
        for words in *words {
            assert!(text.contains(words), "{arguments:?}: {words:?} in {text}");
        }
    }
}
