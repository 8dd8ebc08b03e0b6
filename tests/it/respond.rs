//! `respond`: fixed answers.

use super::support::Proxy;

fn proxy() -> Proxy {
    Proxy::start(
        r#"
        [[route]]
        path = "/robots.txt"
        respond = { body = "User-agent: *\n" }
        [[route]]
        prefix = "/sorry"
        respond = { status = 503, body = "{\"path\":\"${request.path}\",\"q\":\"${request.query}\"}", content-type = "application/json" }
        response-headers = { set = { Retry-After = "60" } }
        [[route]]
        prefix = "/page"
        respond = { body = "<p>${request.path} ${request.query}</p>", content-type = "text/html" }
        [[route]]
        prefix = "/none"
        respond = { status = 204 }
        "#,
    )
}

#[test]
fn the_answer_is_as_configured() {
    let proxy = proxy();
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/robots.txt");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "User-agent: *\n")
        );
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(answer.evenkeel_reason(), None);
        let head = client.request("HEAD", "/robots.txt", "");
        assert_eq!((head.status, head.body.len()), (200, 0));
        let none = client.get("/none");
        assert_eq!((none.status, none.header("content-type")), (204, None));
    }
    assert_eq!(client.post("/robots.txt", b"a body").status, 200);
}

#[test]
fn no_request_breaks_out_of_a_body() {
    let proxy = proxy();
    let target = "/sorry/a'b?\"},{\"x\":\"<script>";
    let answer = proxy.get(target);
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("60"));
    let json = answer.json();
    assert_eq!(json["path"], "/sorry/a'b");
    assert_eq!(json.as_object().map(serde_json::Map::len), Some(2));
    let page = proxy.get("/page/<script>?<b>&'\"").text();
    assert_eq!(page, "<p>/page/%3Cscript%3E %3Cb%3E&amp;&#39;%22</p>");
}

/// No server is asked, so a call of gRPC gets what everybody gets.
#[test]
fn calls_get_plain_http() {
    let answer = proxy().client().request(
        "POST",
        "/none",
        "Content-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 0\r\n",
    );
    assert_eq!((answer.status, answer.header("grpc-status")), (204, None));
}
