//! What is typed at `explain`: taken as a client would take it, and secrets in it are not said.

use super::super::support::{Said, evenkeel};

const CONFIG: &str = r#"
    [[listener]]
    name = "web"
    address = "127.0.0.1:8080"
    underscore-headers = "allow"
    trusted-proxies = ["10.0.0.0/8"]
    [upstream.app]
    servers = ["127.0.0.1:9"]
    [[route]]
    prefix = "/"
    upstream = "app"
    [[route]]
    name = "hook"
    prefix = "/hook"
    when = { header.x-hook = "${EK_HOOK}", cookie.open = "sesame" }
    upstream = "app"
    [[route]]
    name = "paid"
    prefix = "/paid"
    limit = { rate = "1/h", burst = 1, by = "header:authorization" }
    request-headers = { remove = ["Authorization", "X_Tag"] }
    upstream = "app"
"#;

fn explain(arguments: &[&str]) -> Said {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("evenkeel.toml");
    std::fs::write(&file, CONFIG).expect("it is written");
    let file = file.to_str().expect("text");
    evenkeel([&["explain", "GET"], arguments, &["-c", file]].concat())
        .env("EK_HOOK", "s3cret")
        .output()
        .expect("the binary starts")
        .into()
}

#[test]
fn secrets_are_not_said() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["http://ann:s3cret@a/"], 2, "user"),
        (&["http://ann:s3cret@a:8080/"], 2, "user"),
        (
            &["/", "-H", "Authorization Bearer s3cret"],
            2,
            "\"Authorization…\" is not of the form",
        ),
        (
            &["/", "-H", "Cookie=s3cret"],
            2,
            "\"Cookie…\" is not of the form",
        ),
        (
            &["/", "-H", "Authorization s3cret: x"],
            2,
            "\"Authorization…\" is not a header name",
        ),
        (
            &["/", "-H", "Authorization: s3cret\u{7}"],
            2,
            "control characters",
        ),
        (
            &["/paid", "-H", "Authorization: s3cret"],
            0,
            "by its authorization",
        ),
        (
            &["/hook"],
            0,
            "its condition on header.x-hook = \"***\" does not hold",
        ),
        (
            &["/hook", "-H", "X-Hook: s3cret"],
            0,
            "its condition on cookie.open = \"sesame\"",
        ),
    ];
    for (arguments, code, words) in cases {
        let said = explain(arguments);
        assert_eq!(said.code, Some(*code), "{arguments:?}: {said:?}");
        let text = said.stdout + &said.stderr;
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert!(!text.contains("s3cret"), "{arguments:?}: {text}");
    }
}

#[test]
fn it_is_taken_as_a_client_takes_it() {
    let long = format!("ftp://{}", "a".repeat(10_000));
    let cases: &[(&[&str], i32, &str)] = &[
        (&["http://a:8080/b#part"], 0, "path      /b\n"),
        (&["http://a:8080?x#part"], 0, "path      /\n"),
        (&["/b#part"], 1, "the target has a fragment"),
        (&["http://a:/b"], 0, "host      a\n"),
        (
            &["http://[fe80::1%25eth0]:8080/"],
            0,
            "host      [fe80::1]\n",
        ),
        (&["http://a:123456/"], 2, "\"123456\" is not a port"),
        (&["https://a:8080/"], 0, "it speaks no TLS"),
        (&["/\u{9b}31m"], 2, "control characters"),
        (&["/", "-H", "X: a\r\n"], 2, "control characters"),
        (&["/", "-H", "X: \u{b}a"], 2, "control characters"),
        (&["/", "-H", "X:   "], 0, "route"),
        (&[&long], 2, "aaa…\" is neither a URL"),
    ];
    for (arguments, code, words) in cases {
        let said = explain(arguments);
        assert_eq!(said.code, Some(*code), "{arguments:?}: {said:?}");
        let text = said.stdout + &said.stderr;
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert!(text.len() < 1_000, "{arguments:?}: {text}");
    }
}

#[test]
fn what_came_counts_and_not_what_goes_on() {
    let said = explain(&["/paid", "-H", "Authorization: x", "-H", "X_Tag: 1"]).stdout;
    assert!(said.contains("by its authorization"), "{said}");
    assert!(!said.contains("dropped"), "{said}");
    let from = ["--from", "10.0.0.1", "-H", "X-Forwarded-For: nobody"];
    let said = explain(&[&["/"][..], &from].concat()).stdout;
    let words = "client    10.0.0.1  (X-Forwarded-For of a trusted proxy names nobody else)";
    assert!(said.contains(words), "{said}");
}
