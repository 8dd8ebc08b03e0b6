//! Host and target in all their forms: which of them name one place and nothing else.

use super::recorder::Recorder;
use super::requests::{show, start};

/// RFC clause, target, version, field lines, and what the server sees of it, or the status.
type Row = (
    &'static str,
    &'static [u8],
    &'static str,
    &'static [u8],
    Result<&'static str, u16>,
);

#[rustfmt::skip]
const HOSTS: &[Row] = &[
    ("9112 3.2", b"/", "1.1", b"Host: example.org\r\n", Ok("GET / | Host: example.org")),
    ("9112 3.2: any case", b"/", "1.1", b"hOsT: EXAMPLE.org\r\n", Ok("GET / | hOsT: EXAMPLE.org")),
    ("9112 3.2: behind others", b"/", "1.1", b"A: b\r\nHost: a\r\nC: d\r\n", Ok("GET / | A: b | Host: a | C: d")),
    ("1034 3.1: trailing dot", b"/", "1.1", b"Host: a.\r\n", Ok("GET / | Host: a.")),
    ("9110 4.2.3: port", b"/", "1.1", b"Host: a:80\r\n", Ok("GET / | Host: a:80")),
    ("3986 3.2.3: empty port", b"/", "1.1", b"Host: a:\r\n", Ok("GET / | Host: a:")),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:0\r\n", Ok("GET / | Host: a:0")),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:65535\r\n", Ok("GET / | Host: a:65535")),
    ("3986 3.2.2: IPv4", b"/", "1.1", b"Host: 127.0.0.1:80\r\n", Ok("GET / | Host: 127.0.0.1:80")),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::1]\r\n", Ok("GET / | Host: [::1]")),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [2001:DB8::1]:443\r\n", Ok("GET / | Host: [2001:DB8::1]:443")),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::ffff:192.0.2.1]\r\n", Ok("GET / | Host: [::ffff:192.0.2.1]")),
    ("9112 3.2: 1.0 with one", b"/", "1.0", b"Host: a\r\n", Ok("GET / | Host: a")),
    ("9112 3.2: 1.0 with two", b"/", "1.0", b"Host: a\r\nHost: a\r\n", Err(400)),
    ("9112 3.2: 1.0 with a bad one", b"/", "1.0", b"Host: a b\r\n", Err(400)),
    ("9112 3.2: 1.0 with an empty one", b"/", "1.0", b"Host:\r\n", Err(400)),
    ("9112 3.2: none", b"/", "1.1", b"", Err(400)),
    ("9112 3.2: none", b"/", "1.1", b"X-Host: a\r\nX-Forwarded-Host: a\r\n", Err(400)),
    ("9112 3.2: none", b"/", "1.1", b"H_ost: a\r\n", Err(400)),
    ("9112 3.2: none", b"/", "1.1", b"Hos_t: a\r\nHost_: b\r\n", Err(400)),
    ("9112 3.2: two", b"/", "1.1", b"Host: a\r\nHost: b\r\n", Err(400)),
    ("9112 3.2: two", b"/", "1.1", b"Host: a\r\nhost: a\r\n", Err(400)),
    ("9112 3.2: two", b"/", "1.1", b"Host: a\r\nX: y\r\nHost:\r\n", Err(400)),
    ("9112 3.2: two", b"/", "1.1", b"Host: a\r\nConnection: Host\r\nHost: b\r\n", Err(400)),
    ("9112 3.2: list", b"/", "1.1", b"Host: a, b\r\n", Err(400)),
    ("9112 3.2: empty", b"/", "1.1", b"Host:\r\n", Err(400)),
    ("9112 3.2: empty", b"/", "1.1", b"Host: \t \r\n", Err(400)),
    ("9112 3.2: only a port", b"/", "1.1", b"Host: :80\r\n", Err(400)),
    ("9112 5.1: colon", b"/", "1.1", b"Host : a\r\n", Err(400)),
    ("9112 5.1: colon", b"/", "1.1", b"Host\x00: a\r\n", Err(400)),
    ("9112 5.2: fold", b"/", "1.1", b"Host:\r\n a\r\n", Err(400)),
    ("9112 5.2: fold", b"/", "1.1", b"Host: a\r\n b\r\n", Err(400)),
    ("9112 2.2: hidden", b"/", "1.1", b"X: y\nHost: a\r\n", Err(400)),
    ("9112 2.2: hidden", b"/", "1.1", b"X: y\rHost: a\r\n", Err(400)),
    ("3986 3.2.1: userinfo", b"/", "1.1", b"Host: u@a\r\n", Err(400)),
    ("3986 3.2.1: userinfo", b"/", "1.1", b"Host: u:p@a\r\n", Err(400)),
    ("3986 3.2.1: userinfo", b"/", "1.1", b"Host: @a\r\n", Err(400)),
    ("3986 3.2.1: userinfo", b"/", "1.1", b"Host: a@\r\n", Err(400)),
    ("3986 3.2: no path", b"/", "1.1", b"Host: a/\r\n", Err(400)),
    ("3986 3.2: no path", b"/", "1.1", b"Host: a/b\r\n", Err(400)),
    ("3986 3.2: no query", b"/", "1.1", b"Host: a?b\r\n", Err(400)),
    ("3986 3.2: no fragment", b"/", "1.1", b"Host: a#b\r\n", Err(400)),
    ("3986 3.2: no backslash", b"/", "1.1", b"Host: a\\b\r\n", Err(400)),
    ("3986 3.2: no scheme", b"/", "1.1", b"Host: http://a\r\n", Err(400)),
    ("3986 3.2: no scheme", b"/", "1.1", b"Host: //a\r\n", Err(400)),
    ("3986 3.2.2: escape", b"/", "1.1", b"Host: a%2eb\r\n", Err(400)),
    ("3986 3.2.2: escape", b"/", "1.1", b"Host: a%0d%0aX: y\r\n", Err(400)),
    ("3986 3.2.2: escape", b"/", "1.1", b"Host: a%00\r\n", Err(400)),
    ("3986 3.2.2: label", b"/", "1.1", b"Host: .\r\n", Err(400)),
    ("3986 3.2.2: label", b"/", "1.1", b"Host: .a\r\n", Err(400)),
    ("3986 3.2.2: label", b"/", "1.1", b"Host: a..b\r\n", Err(400)),
    ("3986 3.2.2: label", b"/", "1.1", b"Host: a..\r\n", Err(400)),
    ("3986 3.2.2: sub-delims", b"/", "1.1", b"Host: a;b\r\n", Err(400)),
    ("3986 3.2.2: sub-delims", b"/", "1.1", b"Host: *\r\n", Err(400)),
    ("3986 3.2.2: sub-delims", b"/", "1.1", b"Host: *.a\r\n", Err(400)),
    ("3986 3.2.2: quotes", b"/", "1.1", b"Host: \"a\"\r\n", Err(400)),
    ("3986 3.2.2: not ASCII", b"/", "1.1", b"Host: \xc3\xa4\r\n", Err(400)),
    ("3986 3.2.2: not ASCII", b"/", "1.1", b"Host: a\xe3\x80\x82b\r\n", Err(400)),
    ("3986 3.2.2: space", b"/", "1.1", b"Host: a b\r\n", Err(400)),
    ("3986 3.2.2: space", b"/", "1.1", b"Host: a\tb\r\n", Err(400)),
    ("9110 5.5: NUL", b"/", "1.1", b"Host: a\x00b\r\n", Err(400)),
    ("9110 5.5: control", b"/", "1.1", b"Host: a\x0bb\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:b\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:80b\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:+80\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:-80\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a: 80\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a :80\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:80:80\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a::80\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:65536\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:99999999999999999999\r\n", Err(400)),
    ("3986 3.2.3: port", b"/", "1.1", b"Host: a:8%30\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: ::1\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::1\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: ::1]\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: []\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [a]\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [127.0.0.1]\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::1]a\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::1].\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: a[::1]\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [[::1]]\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::1]:\x0b\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [::1]:a\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [1::2::3]\r\n", Err(400)),
    ("3986 3.2.2: IPv6", b"/", "1.1", b"Host: [:::1]\r\n", Err(400)),
    ("6874: zone", b"/", "1.1", b"Host: [fe80::1%25eth0]\r\n", Err(400)),
    ("6874: zone", b"/", "1.1", b"Host: [fe80::1%eth0]\r\n", Err(400)),
    ("3986 3.2.2: IPvFuture", b"/", "1.1", b"Host: [v1.a]\r\n", Err(400)),
];

#[rustfmt::skip]
const TARGETS: &[Row] = &[
    ("9112 3.2.2: goes before Host", b"http://a/x", "1.1", b"Host: b\r\n", Ok("GET /x | Host: a")),
    ("9112 3.2.2: goes before Host", b"http://a:81/x", "1.1", b"Host: a:82\r\n", Ok("GET /x | Host: a:81")),
    ("9112 3.2.2: no path", b"http://a", "1.1", b"Host: b\r\n", Ok("GET / | Host: a")),
    ("9112 3.2.2: no path", b"http://a?b", "1.1", b"Host: b\r\n", Ok("GET /?b | Host: a")),
    ("9112 3.2.2: any case", b"hTTp://A/", "1.1", b"Host: b\r\n", Ok("GET / | Host: A")),
    ("9112 3.2.2: the other scheme", b"https://a/", "1.1", b"Host: b\r\n", Ok("GET / | Host: a")),
    ("9112 3.2.2: empty port", b"http://a:/", "1.1", b"Host: b\r\n", Ok("GET / | Host: a:")),
    ("9112 3.2.2: IPv6", b"http://[::1]:80/", "1.1", b"Host: b\r\n", Ok("GET / | Host: [::1]:80")),
    ("9112 3.2.2: in 1.0", b"http://a/x", "1.0", b"", Ok("GET /x | Host: a")),
    ("9112 3.2.2: in 1.0", b"http://a/x", "1.0", b"Host: b\r\n", Ok("GET /x | Host: a")),
    ("9112 3.2: Host all the same", b"http://a/", "1.1", b"", Err(400)),
    ("9112 3.2: one all the same", b"http://a/", "1.1", b"Host: a\r\nHost: a\r\n", Err(400)),
    ("9112 3.2: valid all the same", b"http://a/", "1.1", b"Host: a b\r\n", Err(400)),
    ("9110 4.2.4: userinfo", b"http://u@a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9110 4.2.4: userinfo", b"http://u:p@a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9110 4.2.4: userinfo", b"http://@a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9110 4.2.4: userinfo", b"http://a@/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http:///x", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://?x", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://:80/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a:b/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a:65536/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a%2eb/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a%0d%0a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a\\b/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a\\@b/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://a,b/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://[::1/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://[fe80::1%25lo]/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: authority", b"http://\xc3\xa4/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"http:/a/x", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"http:a", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"http:\\\\a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"ftp://a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"ws://a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"javascript:x", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"file:///etc/passwd", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: scheme", b"://a/", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: fragment", b"http://a#b", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: fragment", b"http://a/#", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: path rules hold", b"http://a/../x", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.2: path rules hold", b"http://a/b/../x", "1.1", b"Host: a\r\n", Ok("GET /x | Host: a")),
    ("9112 3.2.3: authority-form", b"a:80", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.3: authority-form", b"a", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.4: asterisk-form", b"*", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.1: origin-form", b"?a", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.1: origin-form", b".", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.1: origin-form", b"%2f", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2.1: no authority", b"//b/x", "1.1", b"Host: a\r\n", Ok("GET /b/x | Host: a")),
    ("9112 3.2.1: no scheme", b"/http://b/x", "1.1", b"Host: a\r\n", Ok("GET /http:/b/x | Host: a")),
    ("9112 3.2.1: no userinfo", b"/@b", "1.1", b"Host: a\r\n", Ok("GET /@b | Host: a")),
    ("9112 3.2: fragment", b"/#", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2: fragment", b"/a?b#c", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2: backslash", b"/a\\b", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2: backslash", b"/a%5cb", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2: control", b"/a%0d%0aX:%20y", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2: control", b"/a%00", "1.1", b"Host: a\r\n", Err(400)),
    ("9112 3.2: control", b"/a%7f", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 2.1: escape", b"/%", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 2.1: escape", b"/%4", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 2.1: escape", b"/%zz", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 2.1: escape", b"/%u0041", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: above the root", b"/..", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: above the root", b"/%2e%2e/x", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: above the root", b"/a/../../x", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: hidden", b"/a/..%2fx", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: hidden", b"/a/..%2Fx", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: parameter", b"/a/..;/x", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: parameter", b"/a/.;v=1/x", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 5.2.4: parameter", b"/a/%2e%2e;/x", "1.1", b"Host: a\r\n", Err(400)),
    ("3986 2.2: `%2F` is data", b"/a%2fb", "1.1", b"Host: a\r\n", Ok("GET /a%2Fb | Host: a")),
    ("3986 3.4: the query is the server's", b"/?a=/../%2e%00&b=\\", "1.1", b"Host: a\r\n", Ok("GET /?a=/../%2e%00&b=\\ | Host: a")),
];

fn try_rows(rows: &[Row]) {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    for &(clause, target, version, fields, outcome) in rows {
        let version = version.as_bytes();
        let bytes = [
            b"GET ", target, b" HTTP/", version, b"\r\n", fields, b"\r\n",
        ]
        .concat();
        let what = format!("RFC {clause}: {}", show(&bytes));
        let mut client = proxy.client();
        client.send(&bytes);
        let answer = client.try_response();
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, outcome.err().unwrap_or(200), "{what}");
        let seen = recorder.take();
        match outcome {
            Ok(entry) => assert_eq!(seen, [entry], "{what}"),
            Err(_) => {
                assert_eq!(seen, [""; 0], "{what}");
                assert!(client.rest().is_empty(), "{what}: more is behind it");
            }
        }
    }
    recorder.check();
}

#[test]
fn a_host_names_one_place_or_is_refused() {
    try_rows(HOSTS);
}

#[test]
fn a_target_names_one_place_or_is_refused() {
    try_rows(TARGETS);
}

#[test]
fn http_1_0_without_host_gets_the_servers_address() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let address = recorder.origin.address();
    assert_eq!(recorder.take(), [format!("GET / | Host: {address}")]);
}

#[test]
fn options_of_the_whole_server_keep_their_form() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    for (target, seen) in [
        ("*", Some("OPTIONS * | Host: a")),
        ("http://b", Some("OPTIONS * | Host: b")),
        ("http://b:80", Some("OPTIONS * | Host: b:80")),
        ("http://b/", Some("OPTIONS / | Host: b")),
        ("http://b?x", Some("OPTIONS /?x | Host: b")),
        ("/*", Some("OPTIONS /* | Host: a")),
        ("*x", None),
        ("**", None),
        ("*?x", None),
        ("*/", None),
        ("http://b*", None),
    ] {
        let mut client = proxy.client();
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let status = client.response().status;
        assert_eq!(status, if seen.is_some() { 200 } else { 400 }, "{target}");
        let seen: Vec<_> = seen.into_iter().collect();
        assert_eq!(recorder.take(), seen, "{target}");
    }
    recorder.check();
}
