use proptest::prelude::*;

use super::host::host_name;
use super::*;

fn head(method: &str, target: &[u8], fields: &[(&str, &str)]) -> RequestHead {
    let method = Method::from_token(method.as_bytes());
    let mut head = RequestHead::new(method, Version::Http11, target);
    for (name, value) in fields {
        head.fields.append_text(name, value.as_bytes());
    }
    head
}

/// What goes upstream as target and Host, and the host for routing.
fn outcome(method: &str, target: &str, host: &str) -> Result<(String, String, String), Refused> {
    let mut head = head(method, target.as_bytes(), &[("Host", host)]);
    let sanitised = sanitise(&mut head)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(head.fields.count(Known::Host), 1);
    Ok((
        text(sanitised.target(&head)),
        text(head.fields.get(Known::Host).unwrap_or_default()),
        text(sanitised.host(&head).unwrap_or_default()),
    ))
}

fn is_bad_request(method: &str, target: &str, host: &str) -> bool {
    matches!(outcome(method, target, host), Err(Refused::BadRequest(_)))
}

#[test]
fn path_and_query_are_taken_apart_once() {
    let mut head = head("GET", b"/a//b?x=/../%2e", &[("Host", "h")]);
    let sanitised = sanitise(&mut head).expect("a good request");
    assert_eq!(sanitised.path(&head), b"/a/b");
    assert_eq!(sanitised.query(&head), Some(&b"x=/../%2e"[..]), "untouched");
    assert_eq!(sanitised.target(&head), b"/a/b?x=/../%2e");
}

#[test]
fn no_query_is_not_an_empty_query() {
    for (target, query) in [("/a", None), ("/a?", Some(&b""[..])), ("/a??", Some(b"?"))] {
        let mut head = head("GET", target.as_bytes(), &[("Host", "h")]);
        let sanitised = sanitise(&mut head).expect("a good request");
        assert_eq!(sanitised.query(&head), query);
        assert_eq!(sanitised.target(&head), target.as_bytes());
    }
}

#[test]
fn absolute_form_replaces_host_and_becomes_origin_form() {
    for (target, origin, host, name) in [
        ("http://a.example/x?y", "/x?y", "a.example", "a.example"),
        ("HTTP://A.Example:81", "/", "A.Example:81", "a.example"),
        ("https://a?b/c", "/?b/c", "a", "a"),
        ("http://[::1]:80/", "/", "[::1]:80", "[::1]"),
        ("http://a/../b/%2e%2e/c", "", "", ""),
        ("http://a/b/../c", "/c", "a", "a"),
    ] {
        let result = outcome("GET", target, "other");
        if origin.is_empty() {
            assert!(result.is_err(), "{target}");
            continue;
        }
        let expected = (origin.to_owned(), host.to_owned(), name.to_owned());
        assert_eq!(result, Ok(expected), "{target}");
    }
}

#[test]
fn other_forms_of_target_are_refused() {
    for target in [
        "",
        "a",
        "*",
        "a:80",
        "www.example.org:443",
        "ftp://a/",
        "http:/a",
        "http:a",
        "http://",
        "http:///a",
        "http://u@a/",
        "http://u:p@a/",
        "http://a:b/",
        "http://a#b",
        "/a#b",
        "/a?b#c",
        "http://a b/",
        "/a b",
        "/a?b c",
        "/a?b\tc",
        "/a?\x7f",
        "//..",
        "/..",
        "http://a\\b/",
        "\\",
        "file:///etc/passwd",
        "http://a%2eb/",
        "http://a:65536/",
        "http://[::1/",
        "http://[a]/",
        "%2Fa",
        ".",
        "./a",
        "?a",
    ] {
        assert!(is_bad_request("GET", target, "h"), "{target:?}");
    }
}

#[test]
fn asterisk_is_for_options_only() {
    let expected =
        |target: &str, host: &str| Ok((target.to_owned(), host.to_owned(), host.to_owned()));
    assert_eq!(outcome("OPTIONS", "*", "h"), expected("*", "h"));
    assert_eq!(outcome("OPTIONS", "http://a", "h"), expected("*", "a"));
    assert_eq!(outcome("OPTIONS", "http://a/", "h"), expected("/", "a"));
    assert_eq!(outcome("OPTIONS", "http://a?", "h"), expected("/?", "a"));
    assert!(is_bad_request("GET", "*", "h"));
    assert!(is_bad_request("OPTIONS", "*?", "h"));
}

#[test]
fn connect_and_trace_are_not_allowed() {
    for (method, target) in [("CONNECT", "a:443"), ("TRACE", "/"), ("CONNECT", "/")] {
        assert_eq!(outcome(method, target, "h"), Err(Refused::MethodNotAllowed));
    }
}

#[test]
fn host_for_routing_has_neither_port_nor_case_nor_trailing_dot() {
    for (host, name) in [
        ("api.Example.ORG", "api.example.org"),
        ("a:80", "a"),
        ("a:", "a"),
        ("a.:8080", "a"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]"),
        ("a_b-c.d~e", "a_b-c.d~e"),
    ] {
        let expected = ("/".to_owned(), host.to_owned(), name.to_owned());
        assert_eq!(
            outcome("GET", "/", host),
            Ok(expected),
            "{host} is sent as it came"
        );
    }
}

#[test]
fn a_host_that_is_none_is_refused() {
    for host in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        ":80",
        "a:b",
        "a:80:80",
        "a:65536",
        "a:+1",
        "a b",
        "a/b",
        "a/",
        "http://a",
        "u@a",
        "a@",
        "a?b",
        "a#b",
        "a\\b",
        "a,b",
        "a%41",
        "[::1",
        "::1",
        "[]",
        "[::1]x",
        "[::1]80",
        "[fe80::1%25eth0]",
        "[v1.a]",
        "é",
        "a\u{1}",
        "*",
        "a;b",
        "a=b",
        "a'",
    ] {
        assert!(is_bad_request("GET", "/", host), "{host:?}");
    }
    assert!(is_bad_request("GET", "/", &"a".repeat(256)));
    assert!(
        is_bad_request("GET", "http://good/", "bad host"),
        "even for absolute-form"
    );
}

#[test]
fn exactly_one_host_and_none_only_in_http_1_0() {
    let bad = |result: Result<Sanitised, Refused>| {
        assert!(matches!(result, Err(Refused::BadRequest(_))));
    };
    bad(sanitise(&mut head("GET", b"/", &[])));
    bad(sanitise(&mut head("GET", b"http://a/", &[])));
    bad(sanitise(&mut head(
        "GET",
        b"/",
        &[("Host", "a"), ("host", "a")],
    )));
    let mut old = RequestHead::new(Method::Get, Version::Http10, b"/");
    let sanitised = sanitise(&mut old).expect("HTTP/1.0 may have no Host");
    assert_eq!(sanitised.host(&old), None);
    assert!(sanitised.host_is_missing());
    old.fields.append(Known::Host, b"a");
    old.fields.append(Known::Host, b"b");
    bad(sanitise(&mut old));
    let mut old = RequestHead::new(Method::Get, Version::Http10, b"http://a/b");
    let sanitised = sanitise(&mut old).expect("the target names the host");
    assert_eq!(sanitised.host(&old), Some(&b"a"[..]));
    assert_eq!(old.fields.get(Known::Host), Some(&b"a"[..]));
}

#[test]
fn only_100_continue_may_be_expected() {
    let with = |version, values: &[&str]| {
        let mut head = RequestHead::new(Method::Post, version, b"/");
        head.fields.append(Known::Host, b"h");
        for value in values {
            head.fields.append(Known::Expect, value.as_bytes());
        }
        let result = sanitise(&mut head);
        result.map(|_| head.fields.contains(Known::Expect))
    };
    assert_eq!(with(Version::Http11, &["100-continue"]), Ok(true));
    assert_eq!(with(Version::Http11, &["100-Continue"]), Ok(true));
    assert_eq!(with(Version::Http10, &["100-continue"]), Ok(false));
    for values in [
        &["y 100-continue"][..],
        &["200-ok"],
        &[""],
        &["100-continue", "100-continue"],
        &["100-continue, 100-continue"],
        &["100-continue;a=b"],
    ] {
        let result = with(Version::Http11, values);
        assert_eq!(result, Err(Refused::ExpectationFailed), "{values:?}");
    }
}

#[test]
fn max_forwards_counts_down_for_options_only() {
    let with = |method, value: &str| {
        let mut head = head(method, b"*", &[("Host", "h"), ("Max-Forwards", value)]);
        if method != "OPTIONS" {
            head = self::head(method, b"/", &[("Host", "h"), ("Max-Forwards", value)]);
        }
        let sanitised = sanitise(&mut head)?;
        let left = head.fields.get(Known::MaxForwards).unwrap_or_default();
        Ok((
            sanitised.answer_here,
            String::from_utf8_lossy(left).into_owned(),
        ))
    };
    assert_eq!(with("OPTIONS", "5"), Ok((false, "4".to_owned())));
    assert_eq!(with("OPTIONS", "0"), Ok((true, "0".to_owned())));
    assert_eq!(with("OPTIONS", "000"), Ok((true, "000".to_owned())));
    assert_eq!(with("GET", "0"), Ok((false, "0".to_owned())));
    let (nines, most) = ("9".repeat(40), (u64::MAX - 1).to_string());
    assert_eq!(with("OPTIONS", nines.as_str()), Ok((false, most)));
    for value in ["", "-1", "a", "+1", "1, 1"] {
        assert!(matches!(
            with("OPTIONS", value),
            Err(Refused::BadRequest(_))
        ));
    }
}

#[test]
fn raw_target_is_what_was_received() {
    let raw = |target: &str| {
        let mut head = head("GET", target.as_bytes(), &[("Host", "h")]);
        let sanitised = sanitise(&mut head)?;
        let raw = sanitised.raw_target(&head)?;
        Ok(String::from_utf8_lossy(raw).into_owned())
    };
    assert_eq!(raw("/a//b%2f%61?x//y"), Ok("/a//b%2f%61?x//y".to_owned()));
    assert_eq!(raw("/plain?x/../y"), Ok("/plain?x/../y".to_owned()));
    assert_eq!(raw("http://a//b"), Ok("//b".to_owned()));
    assert_eq!(raw("http://a"), Ok("/".to_owned()));
    assert_eq!(raw("http://a?b"), Ok("/?b".to_owned()));
    for target in ["/a/../b", "/a/%2e/b", "/a/.", "http://a/./b"] {
        let refused: Result<String, Refused> = raw(target);
        assert!(matches!(refused, Err(Refused::BadRequest(_))), "{target}");
    }
}

proptest! {
    /// Against the rule as one reads it: labels between dots, and a port.
    #[test]
    fn names_are_judged_as_if_split_into_labels(
        host in "([a-c]{1,17}|[a-cA-C.:0-9_%@-]{0,12}){0,4}(:[0-9]{1,6})?",
    ) {
        let (name, port) = host.split_once(':').unwrap_or((&host, ""));
        let name = name.strip_suffix('.').unwrap_or(name);
        let in_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
        let good = name.split('.').all(|label| !label.is_empty() && label.bytes().all(in_label))
            && (port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
        let expected = good.then(|| name.to_ascii_lowercase().into_bytes());
        let judged = host_name(host.as_bytes()).map(|name| match name {
            HostName::Received(bytes) => host.as_bytes()[..bytes].to_vec(),
            HostName::Own(name) => name.into_vec(),
        });
        prop_assert_eq!(judged, expected);
    }

    #[test]
    fn nothing_from_outside_makes_it_panic(
        target in "(http://|/|)[ -~]{0,24}",
        host in "[ -~]{0,12}",
    ) {
        let mut head = head("OPTIONS", target.as_bytes(), &[("Host", &host)]);
        if let Ok(sanitised) = sanitise(&mut head) {
            let path = sanitised.path(&head);
            prop_assert!(path.starts_with(b"/") || path == b"*");
            let query = sanitised.query(&head).map(|query| [b"?", query].concat());
            let whole = [path, &query.unwrap_or_default()].concat();
            prop_assert_eq!(whole, sanitised.target(&head));
            if let Ok(raw) = sanitised.raw_target(&head) {
                prop_assert!(raw.iter().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
