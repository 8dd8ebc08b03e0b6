//! `split`: shares of the requests, exact over time, or the same upstream for the same key.

use super::support::{Origin, Proxy};

fn config(old: &Origin, new: &Origin, route: &str) -> String {
    format!(
        "[upstream.old]\nservers = [\"{}\"]\n[upstream.new]\nservers = [\"{}\"]\n\
         retry = {{ attempts = 0 }}\n\
         [[route]]\nprefix = \"/\"\n{route}\n",
        old.address(),
        new.address()
    )
}

fn answers(proxy: &Proxy, requests: usize, headers: &str) -> String {
    let mut client = proxy.client();
    (0..requests)
        .map(|_| client.request("GET", "/", headers).text())
        .collect()
}

#[test]
fn shares_are_exact_over_all_workers_and_reloads() {
    let (old, new) = (Origin::good("o"), Origin::good("n"));
    let text = config(&old, &new, "split = { old = 19, new = 1 }");
    let proxy = Proxy::start(&text);
    for round in 0..4 {
        // Each on a connection of its own: on any worker.
        let all: String = (0..20).map(|_| proxy.get("/").text()).collect();
        assert_eq!(all.matches('n').count(), 1, "{all}");
        proxy.reconfigure(&format!(
            "{text}\n# {round}\n[upstream.spare{round}]\nservers = [\"127.0.0.1:9\"]"
        ));
    }
    proxy.reconfigure(&config(&old, &new, "split = { old = 1, new = 1 }"));
    assert_eq!(answers(&proxy, 10, "").matches('n').count(), 5);
    proxy.reconfigure(&config(&old, &new, "split = { old = 0, new = 7 }"));
    assert_eq!(answers(&proxy, 5, ""), "nnnnn");
}

#[test]
fn the_same_key_stays() {
    let (old, new) = (Origin::good("o"), Origin::good("n"));
    let text = config(
        &old,
        &new,
        "split = { old = 1, new = 1 }\nsplit-by = \"cookie:group\"",
    );
    let proxy = Proxy::start(&text);
    let side = |key: usize| {
        let all = answers(&proxy, 3, &format!("Cookie: a=b; group={key}\r\n"));
        assert!(all == "ooo" || all == "nnn", "{key}: {all}");
        all
    };
    let before: Vec<String> = (0..40).map(side).collect();
    assert!(before.contains(&"ooo".to_owned()) && before.contains(&"nnn".to_owned()));
    // The order in the file decides nothing.
    proxy.reconfigure(&text.replace("{ old = 1, new = 1 }", "{ new = 2, old = 2 }"));
    let after: Vec<String> = (0..40).map(side).collect();
    assert_eq!(before, after);
    let without = answers(&proxy, 6, "");
    assert!(
        without == "oooooo" || without == "nnnnnn",
        "by the client: {without}"
    );
}

#[test]
fn each_upstream_keeps_its_rules() {
    let (old, new) = (Origin::good("o"), Origin::good("n"));
    new.stop();
    let spare = Origin::good("s");
    let text = config(
        &old,
        &new,
        "split = { old = 1, new = 1 }\nfallback = { upstream = \"spare\" }",
    );
    let proxy = Proxy::start(&format!(
        "{text}\n[upstream.spare]\nservers = [\"{}\"]",
        spare.address()
    ));
    assert_eq!(answers(&proxy, 4, "").matches('s').count(), 2);
    let refused = r#"evenkeel_upstream_requests_total{upstream="new""#;
    let attempts: Vec<String> = proxy
        .metrics()
        .lines()
        .filter(|line| line.starts_with(refused))
        .map(str::to_owned)
        .collect();
    assert!(
        attempts
            .iter()
            .any(|line| line.contains("connect_refused") && line.ends_with(" 2")),
        "{attempts:?}"
    );
}

#[test]
fn explain_shows_the_shares() {
    let (old, new) = (Origin::good("o"), Origin::good("n"));
    let proxy = Proxy::start(&config(
        &old,
        &new,
        "split = { old = 19, new = 1 }\nsplit-by = \"header:x-user\"",
    ));
    let ask = |headers: &str| {
        let ask = format!(r#"{{"method":"GET","url":"/","headers":[{headers}]}}"#);
        proxy.admin("POST", "/explain", &ask).json()
    };
    let nobody = ask("");
    assert_eq!(nobody["upstream"], "new 5%, old 95%");
    let chance = |answer: &serde_json::Value, upstream: &str| {
        let servers = answer["servers"].as_array().expect("servers").clone();
        let found = servers.iter().find(|server| server["upstream"] == upstream);
        found.expect("the upstream")["chance"]
            .as_f64()
            .expect("a number")
    };
    // Who has no key goes by the address, which is ours both times.
    let users = (0..10).map(|user| format!("x-user: {user}"));
    for user in users.chain(["x-other: 1".to_owned()]) {
        let known = ask(&format!("\"{user}\""));
        let answer = answers(&proxy, 1, &format!("{user}\r\n"));
        let expected = if answer == "n" { "new" } else { "old" };
        assert!((chance(&known, expected) - 1.0).abs() < 1e-9, "{known}");
    }
    let status = proxy.status();
    assert_eq!(status["routes"][0]["upstream"], "new 5%, old 95%");
}
