//! `sticky`: a client stays with its server, by a cookie that says nothing of it.

use super::support::h2::{H2, block_on};
use super::support::{Origin, Proxy, Response, eventually, raw};

fn upstream(name: &str, origins: &[&Origin], more: &str) -> String {
    let servers: Vec<String> = origins
        .iter()
        .map(|origin| format!("\"{}\" = 1", origin.address()))
        .collect();
    format!(
        "[upstream.{name}]\nservers = {{ {} }}\n{more}\n",
        servers.join(", ")
    )
}

const STICKY: &str = "sticky = {}";
const ROUTE: &str = "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n";

fn config(origins: &[&Origin], more: &str) -> String {
    upstream("app", origins, more) + ROUTE
}

fn three() -> [Origin; 3] {
    ["a", "b", "c"].map(Origin::good)
}

/// The cookie of an answer, as a browser sends it back.
fn cookie(answer: &Response) -> Option<String> {
    let set = answer.header("set-cookie")?;
    Some(set.split(';').next()?.to_owned())
}

fn with(proxy: &Proxy, cookies: &str) -> Response {
    let headers = format!("Cookie: {cookies}\r\nConnection: close\r\n");
    proxy.client().request("GET", "/", &headers)
}

/// Whose cookie it is, by who answers it three times without another cookie.
fn owner(proxy: &Proxy, cookies: &str) -> String {
    let answers: Vec<Response> = (0..3).map(|_| with(proxy, cookies)).collect();
    assert!(answers.iter().all(|one| cookie(one).is_none()), "{cookies}");
    let first = answers[0].text();
    assert!(answers.iter().all(|one| one.text() == first), "{cookies}");
    first
}

#[test]
fn a_client_stays_whatever_worker_takes_it_and_others_take_turns() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let first: Vec<Response> = (0..3).map(|_| proxy.get("/")).collect();
    let text: String = first.iter().map(Response::text).collect();
    assert_eq!(text, "abc");
    for answer in &first {
        let set = answer.header("set-cookie").expect("a cookie");
        let (value, attributes) = set.split_once("; ").expect("attributes");
        assert_eq!(attributes, "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        let digits = value.strip_prefix("ek=").expect("its name");
        let opaque = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        assert!(digits.len() == 25 && digits.bytes().all(opaque), "{digits}");
        assert_eq!(owner(&proxy, value), answer.text());
        assert_eq!(owner(&proxy, &format!("x=1; {value}; y=2")), answer.text());
        let quoted = value.replace("ek=", "ek=\"") + "\"";
        assert_eq!(owner(&proxy, &quoted), answer.text());
    }
    // Who sticks takes nobody's turn.
    assert_eq!(proxy.get("/").text(), "a");
    let seen = [&a, &b, &c].map(|origin| origin.last().header("cookie"));
    assert!(seen.iter().flatten().all(|seen| seen.contains("ek=")));
}

#[test]
fn attributes_are_as_configured() {
    let origin = Origin::good("a");
    let cases = [
        ("ttl = \"off\"", "Path=/; HttpOnly; SameSite=Lax"),
        (
            "ttl = \"1500ms\", http-only = false",
            "Path=/; Max-Age=2; SameSite=Lax",
        ),
        (
            "cookie = \"s\", path = \"/a b\", secure = true, same-site = \"None\"",
            "Path=/a b; Max-Age=3600; Secure; HttpOnly; SameSite=None",
        ),
        ("same-site = \"off\"", "Path=/; Max-Age=3600; HttpOnly"),
    ];
    for (keys, attributes) in cases {
        let proxy = Proxy::start(&config(&[&origin], &format!("sticky = {{ {keys} }}")));
        let answer = proxy.get("/");
        let set = answer.header("set-cookie").expect("a cookie");
        assert_eq!(set.split_once("; ").expect("attributes").1, attributes);
        assert_eq!(owner(&proxy, &cookie(&answer).expect("a cookie")), "a");
    }
}

#[test]
fn it_is_secure_where_the_trusted_proxy_before_us_speaks_tls() {
    let origin = Origin::good("a");
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted-proxies = [\"127.0.0.1\"]\n";
    let secure = |listener: &str| {
        let proxy = Proxy::start(&(listener.to_owned() + &config(&[&origin], STICKY)));
        let answer = proxy
            .client()
            .request("GET", "/", "X-Forwarded-Proto: https\r\n");
        let set = answer.header("set-cookie").expect("a cookie");
        set.contains("; Secure")
    };
    assert!(secure(trusting));
    assert!(!secure(""), "a stranger says it");
}

#[test]
fn it_is_renewed_from_half_of_its_time_on() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let value = cookie(&proxy.get("/")).expect("a cookie");
    let (tag, stamp) = value.split_once('-').expect("a time");
    let stamp = u32::from_str_radix(stamp, 16).expect("a number");
    let old = format!("{tag}-{:08x}", stamp - 1900);
    let answer = with(&proxy, &old);
    let renewed = cookie(&answer).expect("a new one");
    assert_eq!(answer.text(), "a");
    assert!(renewed.starts_with(&format!("{tag}-")) && renewed != old);
    assert!(cookie(&with(&proxy, &format!("{tag}-{:08x}", stamp - 1700))).is_none());
    // One without a time is as good, and gets one.
    let answer = with(&proxy, tag);
    assert_eq!(
        (answer.text(), cookie(&answer).is_some()),
        ("a".to_owned(), true)
    );
}

#[test]
fn the_first_cookie_that_names_a_server_wins_and_hostile_ones_are_nothing() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let cookies: Vec<String> = (0..3)
        .map(|_| cookie(&proxy.get("/")).expect("a cookie"))
        .collect();
    let huge = "f".repeat(20_000);
    let many = "ek=0;".repeat(4_000);
    for before in [
        "ek=; ",
        "ek=nonsense; ",
        "ek=0000000000000000; ",
        "EK=0123; ",
        "ek=\u{1F36A}\u{0080}; ",
        "ek=\"; ",
        &format!("ek={huge}; "),
        &many,
    ] {
        assert_eq!(owner(&proxy, &format!("{before}{}", cookies[1])), "b");
    }
    assert_eq!(
        owner(&proxy, &format!("{}; {}", cookies[2], cookies[0])),
        "c"
    );
    let mut client = proxy.client();
    let lines = format!("Cookie: ek=x\r\nCookie: {}\r\n", cookies[1]);
    assert_eq!(client.request("GET", "/", &lines).text(), "b");
    // A tag that nobody has is like none: the policy decides, and the client is told.
    let answer = with(&proxy, "ek=0000000000000000-00000000");
    let set = cookie(&answer).expect("a new one");
    assert_eq!(owner(&proxy, &set), answer.text());
}

#[test]
fn over_http2_the_cookie_may_come_in_pieces() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let value = (0..3)
        .map(|_| cookie(&proxy.get("/")).expect("a cookie"))
        .nth(1)
        .expect("three");
    let mut client = raw::Raw::connect(proxy.address());
    for stream in [1, 3, 5] {
        let more = [
            ("cookie", "theme=dark"),
            ("cookie", &*value),
            ("cookie", "x=y"),
        ];
        client.send(raw::head(stream, 0x5, &raw::GET, &more));
        assert_eq!(client.answer(stream), 200);
    }
    assert_eq!(b.request_count(), 4);
}

#[test]
fn drain_and_weight_zero_are_what_haproxy_means_by_them() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let cookies: Vec<String> = (0..3)
        .map(|_| cookie(&proxy.get("/")).expect("a cookie"))
        .collect();
    proxy.put_server(&a, r#"{"weight": 0}"#);
    proxy.put_server(&b, r#"{"drain": true}"#);
    assert_eq!(owner(&proxy, &cookies[0]), "a", "those that are there stay");
    let moved = with(&proxy, &cookies[1]);
    assert_eq!(moved.text(), "c");
    let new = cookie(&moved).expect("a new one");
    assert_eq!(owner(&proxy, &new), "c");
    let fresh: String = (0..4).map(|_| proxy.get("/").text()).collect();
    assert_eq!(fresh, "cccc");
    let status = proxy.status();
    let app = &status["upstreams"][0];
    assert_eq!(app["sticky_cookie"], "ek");
    let tag = app["servers"][0]["sticky_tag"].as_str().expect("a tag");
    assert!(cookies[0].contains(tag), "an operator can tell whose it is");
}

#[test]
fn a_server_that_fails_is_left_by_a_retry_and_the_cookie_follows() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let value = cookie(&proxy.get("/")).expect("a cookie");
    a.stop();
    let answer = with(&proxy, &value);
    assert_eq!(answer.status, 200);
    assert_ne!(answer.text(), "a");
    let new = cookie(&answer).expect("a new one");
    assert_eq!(owner(&proxy, &new), answer.text());
    // It keeps what it has now when the first one is back.
    a.resume();
    assert_eq!(owner(&proxy, &new), answer.text());
}

#[test]
fn a_reload_moves_only_whose_server_is_gone() {
    let [a, b, c] = three();
    let text = |origins: &[&Origin], more: &str| config(origins, &format!("{STICKY}\n{more}"));
    let proxy = Proxy::start(&text(&[&a, &b], ""));
    let cookies: Vec<String> = (0..2)
        .map(|_| cookie(&proxy.get("/")).expect("a cookie"))
        .collect();
    proxy.reconfigure(&text(&[&c, &b], "balance = \"least-requests\""));
    assert_eq!(owner(&proxy, &cookies[1]), "b");
    let moved = with(&proxy, &cookies[0]);
    assert_ne!(moved.text(), "a");
    assert_eq!(
        owner(&proxy, &cookie(&moved).expect("a new one")),
        moved.text()
    );
    // Another process, or another instance behind the same address, reads the same.
    let other = Proxy::start(&text(&[&b, &c, &a], "balance = \"random\""));
    assert_eq!(owner(&other, &cookies[1]), "b");
    assert_eq!(owner(&other, &cookies[0]), "a");
    let secret = config(&[&a, &b], "sticky = { key = \"s3cret\" }");
    proxy.reconfigure(&secret);
    let answer = with(&proxy, &cookies[1]);
    assert!(cookie(&answer).is_some(), "another key, another tag");
    proxy.reconfigure(&config(&[&a, &b], ""));
    assert!(
        cookie(&with(&proxy, &cookies[1])).is_none(),
        "nothing sticks any more"
    );
}

#[test]
fn upstreams_that_share_a_cookie_leave_each_others_alone() {
    let [a, b, c] = three();
    let d = Origin::good("d");
    let text = upstream("one", &[&a, &b], STICKY)
        + &upstream("two", &[&c, &d], STICKY)
        + "[[route]]\nprefix = \"/\"\nsplit = { one = 1, two = 1 }\n";
    let proxy = Proxy::start(&text);
    let mut jar = String::new();
    let mut seen = String::new();
    for _ in 0..8 {
        let answer = match jar.as_str() {
            "" => proxy.get("/"),
            jar => with(&proxy, jar),
        };
        seen += &answer.text();
        jar = cookie(&answer).unwrap_or(jar);
    }
    assert_eq!(
        seen, "acacacac",
        "the shares hold, and each keeps its server"
    );
    assert_eq!(jar.matches('.').count(), 1, "{jar}");
}

#[test]
fn answers_of_our_own_set_no_cookie_and_a_fallback_sets_its_own() {
    let [a, b, c] = three();
    let alone = upstream(
        "app",
        &[&a],
        "sticky = {}\nretry = { attempts = 0 }\nbreaker = \"off\"",
    );
    let spare = upstream("spare", &[&b, &c], "sticky = { cookie = \"sp\" }");
    let own = alone.clone()
        + "[[route]]\nprefix = \"/\"\nupstream = \"app\"\ndeny = [\"10.0.0.0/8\"]\n\
           [[route]]\npath = \"/no\"\nupstream = \"app\"\ndeny = [\"127.0.0.0/8\"]\n\
           [[route]]\npath = \"/fixed\"\nrespond = { body = \"x\" }\n";
    let proxy = Proxy::start(&own);
    let value = cookie(&proxy.get("/")).expect("a cookie");
    a.stop();
    for target in ["/", "/no", "/fixed"] {
        let headers = format!("Cookie: {value}\r\n");
        let answer = proxy.client().request("GET", target, &headers);
        assert_eq!(cookie(&answer), None, "{target}");
    }
    let route =
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\nfallback = { upstream = \"spare\" }\n";
    proxy.reconfigure(&(alone + &spare + route));
    let answer = with(&proxy, &value);
    let mine = cookie(&answer).expect("that of the fallback");
    assert!(mine.starts_with("sp="), "{mine}");
    assert_eq!(owner(&proxy, &format!("{value}; {mine}")), answer.text());
}

#[test]
fn it_is_read_before_the_route_takes_cookies_away_and_set_after_its_edits() {
    let [a, b, c] = three();
    let text = config(&[&a, &b, &c], STICKY)
        + "request-headers = { remove = [\"cookie\"] }\n\
           response-headers = { remove = [\"set-cookie\"] }\n";
    let proxy = Proxy::start(&text);
    let answers: Vec<Response> = (0..2).map(|_| proxy.get("/")).collect();
    let value = cookie(&answers[1]).expect("a cookie");
    assert_eq!(owner(&proxy, &value), "b");
    assert_eq!(b.last().header("cookie"), None);
}

#[test]
fn an_upgrade_sticks_too() {
    let switching = |name: &'static str| {
        Origin::scripted(move |connection| {
            if connection.request_head().is_some() {
                connection.send(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                     Upgrade: websocket\r\nX-Name: {name}\r\n\r\n"
                ));
                connection.wait_for_close();
            }
        })
    };
    let (a, b) = (switching("a"), switching("b"));
    let proxy = Proxy::start(&config(&[&a, &b], STICKY));
    let upgrade = |cookies: &str| {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{cookies}\r\n"
        ));
        client.response()
    };
    let first = upgrade("");
    assert_eq!((first.status, first.header("x-name")), (101, Some("a")));
    let value = cookie(&first).expect("a cookie");
    let again = upgrade(&format!("Cookie: {value}\r\n"));
    assert_eq!(again.header("x-name"), Some("a"));
    assert_eq!(cookie(&again), None);
}

#[test]
fn explain_says_whom_a_cookie_names() {
    let [a, b, c] = three();
    let proxy = Proxy::start(&config(&[&a, &b, &c], STICKY));
    let value = (0..2)
        .map(|_| cookie(&proxy.get("/")).expect("a cookie"))
        .nth(1)
        .expect("two");
    let ask = format!(r#"{{"method":"GET","url":"/","headers":["cookie: {value}"]}}"#);
    let said = proxy.admin("POST", "/explain", &ask).json();
    assert_eq!(said["servers"][1]["chance"], 1.0, "{said}");
    assert_eq!(said["servers"][0]["chance"], 0.0);
    let why = said["servers"][0]["why_not"].as_str().expect("a reason");
    assert_eq!(why, "the sticky cookie names another server");
}

#[test]
fn a_full_server_is_passed_over() {
    let gate = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/hold" {
                connection.wait_for_close();
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
        }
    });
    let other = Origin::good("b");
    let proxy = Proxy::start(&config(
        &[&gate, &other],
        &format!("{STICKY}\nmax-requests = 1"),
    ));
    let value = cookie(&proxy.get("/")).expect("a cookie");
    let mut holding = proxy.client();
    holding.send(format!(
        "GET /hold HTTP/1.1\r\nHost: h\r\nCookie: {value}\r\n\r\n"
    ));
    eventually("it is held", || gate.request_count() == 2);
    let answer = with(&proxy, &value);
    assert_eq!(answer.text(), "b");
    assert!(cookie(&answer).is_some());
}

#[test]
fn over_http2_the_answer_carries_it() {
    let origin = Origin::good("a");
    let proxy = Proxy::start(&config(&[&origin], STICKY));
    block_on(async {
        let mut client = H2::connect(proxy.address()).await;
        let answer = client.get("/").await;
        let set = answer.header("set-cookie").expect("a cookie");
        assert!(set.starts_with("ek="), "{set}");
    });
}

/// Only what is final says where the client was; what a cache asks for again does, too.
#[test]
fn interim_answers_carry_none_and_answers_without_a_body_do() {
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            connection.send(match request.target().as_str() {
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n",
                _ => "HTTP/1.1 204 No Content\r\nSet-Cookie: own=1\r\n\r\n",
            });
        }
    });
    let proxy = Proxy::start(&config(&[&origin], STICKY));
    let mut client = proxy.client();
    for (target, status, cookies) in [("/304", 304, 1), ("/204", 204, 2)] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let early = client.response();
        assert_eq!((early.status, early.header("set-cookie")), (103, None));
        let answer = client.response();
        let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("set-cookie");
        let set: Vec<_> = answer.headers.iter().filter(named).collect();
        assert_eq!((answer.status, set.len()), (status, cookies), "{set:?}");
        assert!(set[cookies - 1].1.starts_with("ek="), "{set:?}");
    }
}
