//! The same requests through a running proxy and through `explain`: one decision. Status, reason,
//! client, route, upstream and, where `explain` is certain, the server.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::support::{Client, ONE_WORKER, Origin, Proxy, Response, eventually};

/// Three listeners on addresses of their own, and a route for every kind of rule.
fn config(origins: &[Origin; 3], log: &std::path::Path) -> String {
    let [a, b, c] = origins.each_ref().map(Origin::address);
    format!(
        r#"
        [access-log]
        path = "{log}"
        format = "json"

        [[listener]]
        name = "web"
        address = "127.0.0.1:0"
        [[listener]]
        name = "edge"
        address = "127.0.0.2:0"
        trusted-proxies = ["127.0.0.0/8", "10.0.0.0/8"]
        underscore-headers = "allow"
        [[listener]]
        name = "strict"
        address = "127.0.0.3:0"
        underscore-headers = "reject"
        limits = {{ max-headers = 20, max-header-bytes = "4KiB" }}

        [upstream.app]
        servers = ["{a}"]
        [upstream.other]
        servers = ["{b}"]
        [upstream.stuck]
        servers = ["{a}", "{b}", "{c}"]
        sticky = {{ cookie = "ek" }}
        [upstream.user]
        servers = ["{a}", "{b}", "{c}"]
        balance = "hash"
        hash = {{ by = "header:x-user" }}
        [upstream.place]
        servers = ["{a}", "{b}", "{c}"]
        balance = "hash"
        hash = {{ by = "path" }}
        [upstream.client]
        servers = ["{a}", "{b}", "{c}"]
        balance = "hash"
        hash = {{ by = "client-ip" }}

        [[route]]
        name = "root"
        prefix = "/"
        upstream = "app"
        [[route]]
        name = "admin"
        prefix = "/admin"
        allow = ["192.0.2.0/24"]
        upstream = "other"
        [[route]]
        name = "inner"
        prefix = "/inner"
        deny = ["127.0.0.0/8", "2001:db8::/32"]
        upstream = "other"
        [[route]]
        name = "page"
        prefix = "/inner/page"
        upstream = "app"
        [[route]]
        name = "limited"
        prefix = "/limited"
        limit = {{ rate = "1/h", burst = 2, by = "header:x-key" }}
        upstream = "app"
        [[route]]
        name = "raw"
        prefix = "/raw"
        forward = "raw"
        upstream = "place"
        [[route]]
        name = "health"
        path = "/health"
        respond = {{ body = "fine" }}
        [[route]]
        name = "old"
        prefix = "/old"
        replace-prefix = "/new"
        redirect = {{ scheme = "https", status = 308 }}
        [[route]]
        name = "host"
        host = "a.example"
        prefix = "/"
        upstream = "other"
        [[route]]
        name = "wild"
        host = "*.b.example"
        prefix = "/"
        upstream = "other"
        [[route]]
        name = "beta"
        prefix = "/when"
        when = {{ header.x-beta = "1" }}
        upstream = "other"
        [[route]]
        name = "tag"
        priority = 1
        prefix = "/when"
        when = {{ header.x_tag = "*" }}
        upstream = "other"
        [[route]]
        name = "cookie"
        prefix = "/when"
        when = {{ cookie.group = "*", query.v = "2" }}
        upstream = "other"
        [[route]]
        name = "put"
        priority = 2
        prefix = "/when"
        when = {{ method = ["PUT", "DELETE"] }}
        upstream = "other"
        [[route]]
        name = "rewritten"
        prefix = "/files"
        rewrite = {{ regex = "/files/([^/]*)-([^/]*)", to = "/x/$1$2" }}
        upstream = "place"
        [[route]]
        name = "small"
        prefix = "/small"
        max-body = "10B"
        upstream = "app"
        [[route]]
        name = "split"
        prefix = "/split"
        split = {{ app = 1, other = 1 }}
        split-by = "header:x-user"
        [[route]]
        name = "client-split"
        prefix = "/client-split"
        split = {{ app = 1, other = 1 }}
        split-by = "client-ip"
        [[route]]
        name = "stuck"
        prefix = "/stuck"
        upstream = "stuck"
        [[route]]
        name = "user"
        prefix = "/user"
        upstream = "user"
        [[route]]
        name = "renamed"
        prefix = "/renamed"
        request-headers = {{ set = {{ X-User = "${{client.ip}}${{request.path}}" }} }}
        upstream = "user"
        [[route]]
        name = "client"
        prefix = "/client"
        upstream = "client"
        [[route]]
        name = "only"
        host = "only.example"
        prefix = "/"
        listener = ["edge"]
        upstream = "other"
        "#,
        log = log.display()
    )
}

struct Asked {
    listener: &'static str,
    method: &'static str,
    target: String,
    headers: Vec<String>,
}

fn asked(listener: &'static str, method: &'static str, target: &str, headers: &[&str]) -> Asked {
    let mut headers: Vec<String> = headers.iter().map(|&header| header.into()).collect();
    if !headers.iter().any(|header| header.starts_with("Host:")) {
        headers.push("Host: t.example".into());
    }
    Asked {
        listener,
        method,
        target: target.to_owned(),
        headers,
    }
}

/// Every rule, by what passes it and what does not.
fn table() -> Vec<Asked> {
    let long = format!("X-Long: {}", "x".repeat(5_000));
    let many: Vec<String> = (0..21).map(|index| format!("X-{index}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut rows = vec![
        asked("web", "GET", "/", &[]),
        asked("web", "HEAD", "/", &[]),
        asked("web", "BREW", "/", &[]),
        asked("web", "TRACE", "/", &["Max-Forwards: 0"]),
        asked("web", "CONNECT", "/", &[]),
        asked("web", "OPTIONS", "/", &["Max-Forwards: 0"]),
        asked("web", "OPTIONS", "/admin", &["Max-Forwards: 0"]),
        asked("web", "OPTIONS", "/", &["Max-Forwards: 1"]),
        asked("web", "OPTIONS", "/", &["Max-Forwards: x"]),
        asked("web", "GET", "/", &["Max-Forwards: 0"]),
        asked("web", "GET", "/", &["Expect: magic"]),
        asked("web", "GET", "/", &["Host: a.example", "Host: b.example"]),
        asked("web", "GET", "/", &["Host: a/b"]),
        asked("web", "GET", "/", &["Host: A.Example.:81"]),
        asked("web", "GET", "/", &["Host: x.B.example"]),
        asked("web", "GET", "/", &["Host: b.example"]),
        asked("web", "GET", "/", &["Host: only.example"]),
        asked("edge", "GET", "/", &["Host: only.example"]),
        asked("web", "GET", "/health", &[]),
        asked("web", "GET", "/health/", &[]),
        asked("web", "GET", "/old/a?b", &[]),
        asked("web", "POST", "/old", &[]),
        asked("web", "GET", "/when", &["X-Beta: 1"]),
        asked("web", "GET", "/when", &["X-Beta: 2", "X-Beta: 1"]),
        asked("web", "GET", "/when", &["X-Beta: 1", "Connection: X-Beta"]),
        asked("web", "GET", "/when", &["X_Tag: 1"]),
        asked("edge", "GET", "/when", &["X_Tag: 1"]),
        asked("strict", "GET", "/when", &["X_Tag: 1"]),
        asked("strict", "GET", "/when", &["X-Tag: 1"]),
        asked("strict", "GET", "/", &many),
        asked("strict", "GET", "/", &[&long]),
        asked("web", "GET", "/", &[&long]),
        asked("web", "GET", "/when?v=2", &["Cookie: group=1"]),
        asked("web", "GET", "/when?v=3", &["Cookie: group=1"]),
        asked("web", "DELETE", "/when", &[]),
        asked("web", "GET", "/files/a-b", &[]),
        asked("web", "GET", "/files/.-.", &[]),
        asked("web", "GET", "/raw//a/%41", &[]),
        asked("web", "GET", "/raw/./a", &[]),
        asked("web", "GET", "/small", &["Content-Length: 11"]),
        asked(
            "web",
            "GET",
            "/small",
            &["Content-Length: 1", "Content-Length: 2"],
        ),
        asked("web", "GET", "/small", &["Content-Length: -1"]),
        asked("web", "GET", "/", &["Transfer-Encoding: gzip"]),
        asked("web", "GET", "/", &["Transfer-Encoding: bzip9"]),
        asked("web", "GET", "/stuck", &["Cookie: ek=0123456789abcdef"]),
        asked(
            "web",
            "GET",
            "/user",
            &["X-User: ann", "Connection: X-User"],
        ),
    ];
    // The third of a key is one too many; who has none pays by address.
    for key in ["X-Key: ann", "X-Key: bob", "X-Other: 1"] {
        for _ in 0..3 {
            rows.push(asked("web", "GET", "/limited", &[key]));
        }
        rows.push(asked("web", "GET", "/limited%2Fx", &[key]));
    }
    // A key that is given twice is one key.
    for _ in 0..3 {
        rows.push(asked(
            "web",
            "GET",
            "/limited",
            &["X-Key: cid", "X-Key: cid"],
        ));
    }
    for target in ["/admin", "/inner", "/client", "/client-split", "/renamed/x"] {
        for client in [
            "X-Forwarded-For: 192.0.2.7",
            "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.1",
            "X-Forwarded-For: 192.0.2.7, garbage",
            "X-Forwarded-For: ::ffff:192.0.2.7",
            "Forwarded: for=\"[2001:db8::1]:80\"",
            "X-Real-IP: 192.0.2.7",
        ] {
            rows.push(asked("edge", "GET", target, &[client]));
            rows.push(asked("web", "GET", target, &[client]));
        }
    }
    for user in ["ann", "bob", "cid", "dee", "eve"] {
        let user = format!("X-User: {user}");
        for target in ["/user", "/split", "/renamed", "/raw/%7e", "/files/a-b"] {
            rows.push(asked("web", "GET", target, &[&user]));
        }
    }
    rows
}

/// Paths of guarded routes and of others in every spelling that some server reads as another.
fn spellings() -> Vec<Asked> {
    let mut rows = Vec::new();
    for first in ["admin", "inner", "%61dmin", "ADMIN", "x"] {
        for between in [
            "/", "%2F", "%2f", "//", ";v/", "%3Bv/", "/./", "/../", "/%2e%2e/", "%252F", "/..%2F",
            "\\", "%5C", "/;/", "%00",
        ] {
            for second in ["", "page", "admin"] {
                let target = format!("/{first}{between}{second}");
                rows.push(asked("web", "GET", &target, &[]));
            }
        }
    }
    rows
}

/// What `explain` says, before the request is sent.
fn explained(proxy: &Proxy, row: &Asked) -> Value {
    let address = proxy.listener(row.listener).ip();
    let url = format!("http://{address}:0{}", row.target);
    let body = json!({ "method": row.method, "url": url, "headers": row.headers });
    let answer = proxy.admin("POST", "/explain", &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn sent(proxy: &Proxy, row: &Asked) -> Response {
    let headers = row.headers.join("\r\n");
    let head = format!(
        "{} {} HTTP/1.1\r\n{headers}\r\n\r\n",
        row.method, row.target
    );
    let mut client = Client::connect(proxy.listener(row.listener));
    client.send(head);
    client.try_response_to(row.method).expect("an answer")
}

/// "403 denied" of what was refused, "308" of what was answered, "200" of what was sent on.
fn decision(explained: &Value) -> String {
    if let Some(refused) = explained["refused"].as_str() {
        let (decision, _) = refused.split_once(':').expect("a reason");
        return decision.to_owned();
    }
    match explained["answer"].as_str() {
        Some(answer) => answer[..3].to_owned(),
        None => "200".to_owned(),
    }
}

#[test]
fn explain_says_what_the_proxy_does() {
    let origins = ["a", "b", "c"].map(Origin::good);
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    let proxy = Proxy::start(&(ONE_WORKER.to_owned() + &config(&origins, &log)));
    let mut rows = table();
    rows.extend(spellings());
    let (mut said, mut seen) = (Vec::new(), BTreeSet::new());
    for (index, row) in rows.iter_mut().enumerate() {
        // By this its line in the log is found.
        let mark = if row.target.contains('?') { '&' } else { '?' };
        row.target += &format!("{mark}row={index}");
        let explained = explained(&proxy, row);
        let answer = sent(&proxy, row);
        let told = format!(
            "{} {} {:?}: {explained}",
            row.method, row.target, row.headers
        );
        let reason = answer.evenkeel_reason();
        let decided = match reason {
            Some(reason) => format!("{} {reason}", answer.status),
            None => answer.status.to_string(),
        };
        assert_eq!(decided, decision(&explained), "{told}");
        seen.insert(answer.status);
        said.push((explained, told));
    }
    let expected = [200, 308, 400, 403, 405, 413, 417, 429, 431, 501];
    assert_eq!(
        seen,
        BTreeSet::from(expected),
        "every kind of decision is met"
    );
    let mut lines = Vec::new();
    eventually("everything is logged", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        lines = text.lines().map(str::to_owned).collect();
        lines.len() >= rows.len()
    });
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut certain = 0;
    for (index, (explained, told)) in said.iter().enumerate() {
        let mark = format!("row={index}");
        let is_its = |line: &&Value| {
            let query = line["query"].as_str().unwrap_or_default();
            query.split('&').any(|pair| pair == mark)
        };
        let line = lines.iter().find(is_its).expect("its line");
        assert_eq!(line["listener"], explained["listener"], "{told}");
        assert_eq!(line["route"], explained["route"], "{told}");
        if explained["path"].is_string() {
            assert_eq!(line["client"], explained["client"], "{told}");
        }
        let Some(server) = line["attempts"][0]["server"].as_str() else {
            assert_eq!(explained["servers"], json!([]), "{told}");
            continue;
        };
        let (servers, upstream) = (explained["servers"].as_array(), &line["upstream"]);
        let is_it = |one: &&Value| {
            let of = one.get("upstream").unwrap_or(&explained["upstream"]);
            one["address"] == server && of == upstream
        };
        let found = servers.and_then(|servers| servers.iter().find(is_it));
        let chance = found.and_then(|found| found["chance"].as_f64());
        assert!(
            chance.is_some_and(|chance| chance > 0.0),
            "{server}: {told}"
        );
        certain += usize::from(chance == Some(1.0));
    }
    assert!(certain > 100, "few were certain: {certain}");
}

#[test]
fn a_cookie_that_the_proxy_gave_names_its_server() {
    let origins = ["a", "b", "c"].map(Origin::good);
    let directory = tempfile::tempdir().expect("a directory");
    let proxy = Proxy::start(&config(&origins, &directory.path().join("access.log")));
    for _ in 0..6 {
        let first = sent(&proxy, &asked("web", "GET", "/stuck", &[]));
        let cookie = first.header("set-cookie").expect("a cookie");
        let cookie = format!("Cookie: {}", cookie.split(';').next().expect("a pair"));
        let explained = explained(&proxy, &asked("web", "GET", "/stuck", &[&cookie]));
        let server = origins[usize::from(first.text().as_bytes()[0] - b'a')].address();
        assert_eq!(
            explained["sticky"],
            json!([format!("cookie ek names {server}")])
        );
        let servers = explained["servers"].as_array().expect("a list");
        let its = servers
            .iter()
            .find(|one| one["address"] == server.to_string().as_str());
        assert_eq!(its.expect("the server")["chance"], 1.0);
    }
    let explained = explained(&proxy, &asked("web", "GET", "/stuck", &[]));
    let sticky = explained["sticky"][0].as_str().unwrap_or_default();
    assert!(sticky.contains("the answer sets it"), "{explained}");
}
