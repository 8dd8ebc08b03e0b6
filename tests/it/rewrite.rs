//! `strip-prefix`, `replace-prefix` and `rewrite`: what goes on instead of what was asked.

use super::support::{Origin, Proxy};

fn with(origin: &Origin, listener: &str, route: &str) -> Proxy {
    let address = origin.address();
    Proxy::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n\
         [upstream.app]\nservers = [\"{address}\"]\n\
         [[route]]\nupstream = \"app\"\n{route}\n"
    ))
}

fn targets(origin: &Origin, proxy: &Proxy, cases: &[(&str, &str)]) {
    let mut client = proxy.client();
    for (asked, expected) in cases {
        assert_eq!(client.get(asked).status, 200, "{asked}");
        assert_eq!(origin.last().target(), *expected, "{asked}");
    }
}

#[test]
fn a_stripped_prefix_is_told() {
    let origin = Origin::good("x");
    let proxy = with(&origin, "", "prefix = \"/users\"\nstrip-prefix = true");
    targets(
        &origin,
        &proxy,
        &[
            ("/users", "/"),
            ("/users/", "/"),
            ("/users/1?q=/users/%2e%2e", "/1?q=/users/%2e%2e"),
            ("/users?", "/?"),
            ("//users//a/%2e/b", "/a/b"),
            ("/users/users", "/users"),
            ("http://any/users/x", "/x"),
        ],
    );
    let spoofed = "X-Forwarded-Prefix: /evil\r\n";
    proxy.client().request("GET", "/users/1", spoofed);
    assert_eq!(origin.last().headers("x-forwarded-prefix"), ["/users"]);
    assert_eq!(proxy.get("/userspace").status, 404);
}

#[test]
fn what_a_trusted_proxy_stripped_stays_in_front() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "trusted-proxies = [\"127.0.0.0/8\"]",
        "prefix = \"/users\"\nstrip-prefix = true",
    );
    let outer = "X-Forwarded-Prefix: /outer/\r\n";
    proxy.client().request("GET", "/users/1", outer);
    assert_eq!(
        origin.last().headers("x-forwarded-prefix"),
        ["/outer/users"]
    );
}

#[test]
fn a_prefix_becomes_another() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "",
        "prefix = \"/v1\"\nreplace-prefix = \"/api/v2/\"",
    );
    targets(
        &origin,
        &proxy,
        &[
            ("/v1", "/api/v2"),
            ("/v1/", "/api/v2/"),
            ("/v1/a%2Fb?x", "/api/v2/a%2Fb?x"),
        ],
    );
    assert_eq!(origin.last().header("x-forwarded-prefix"), None);
}

#[test]
fn a_path_is_rewritten_by_its_groups() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "",
        "prefix = \"/\"\nrewrite = { regex = \"/item/([0-9]+)(/.*)?\", to = \"/v2/items/$1$${2}\" }",
    );
    targets(
        &origin,
        &proxy,
        &[
            ("/item/17?a=b", "/v2/items/17?a=b"),
            ("/item/17/x", "/v2/items/17/x"),
            ("/item/x", "/item/x"),
            ("/an/item/1", "/an/item/1"),
        ],
    );
    let mut client = proxy.client();
    client.send("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last().target(), "*");
}

/// Groups that are put together must not become what no rule has seen.
#[test]
fn what_is_no_path_goes_nowhere() {
    let origin = Origin::good("x");
    let proxy = with(
        &origin,
        "",
        "prefix = \"/\"\nrewrite = { regex = \"/([^/]*)x/([^/]*)y(.*)\", to = \"/files/$1$2$3\" }",
    );
    for asked in ["/.x/.y/secret", "/.x/.y", "/%2x/ey", "/.x/y;/", "/%x/2Fy"] {
        let answer = proxy.get(asked);
        assert_eq!(answer.status, 400, "{asked}");
    }
    assert_eq!(origin.request_count(), 0);
    assert_eq!(proxy.get("/ax/by").status, 200);
    assert_eq!(origin.last().target(), "/files/ab");
}

#[test]
fn who_may_ask_is_judged_by_what_was_asked() {
    let origin = Origin::good("x");
    let address = origin.address();
    let proxy = Proxy::start(&format!(
        r#"
        [upstream.app]
        servers = ["{address}"]
        [[route]]
        prefix = "/public"
        upstream = "app"
        replace-prefix = "/app"
        [[route]]
        prefix = "/public/admin"
        upstream = "app"
        deny = ["0.0.0.0/0"]
        replace-prefix = "/app/admin"
        "#
    ));
    for asked in [
        "/public/admin",
        "/public/./admin/x",
        "/public//admin",
        "/public/a/../admin",
        "/public/%61dmin",
    ] {
        assert_eq!(proxy.get(asked).status, 403, "{asked}");
    }
    assert_eq!(origin.request_count(), 0);
    assert_eq!(proxy.get("/public/x").status, 200);
}

#[test]
fn explain_says_what_goes_on() {
    let origin = Origin::good("x");
    let proxy = with(&origin, "", "prefix = \"/users\"\nstrip-prefix = true");
    let ask = r#"{"method":"GET","url":"/users/1","headers":[]}"#;
    let answer = proxy.admin("POST", "/explain", ask);
    assert_eq!(answer.json()["forwarded"], "/1", "{}", answer.text());
}
