//! The PROXY protocol: who a connection comes from, said before its first byte. What a header may
//! be is `wire::proxy_protocol`'s own; here is what a listener and a server make of it.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel::app::StartError;

use crate::support::tls::{Authority, shake};
use crate::support::tls_origin::{Behaviour, TlsOrigin};
use crate::support::{Client, Connection, DEADLINE, ONE_WORKER, Origin, Proxy, app, eventually};

fn listener(more: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         proxy-protocol = \"required\"\ntrusted-proxies = [\"127.0.0.0/8\"]\n{more}\n"
    )
}

fn config(origin: &Origin, more: &str) -> String {
    format!("{ONE_WORKER}{}{}", listener(more), app(&[origin], ""))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.7 4321 8443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0x10, 0xe1, 0x20, 0xfb];

/// 2001:db8::1 port 4321 to 2001:db8::7 port 8443.
fn v6() -> Vec<u8> {
    let address = |last| {
        [
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last,
        ]
    };
    [&address(1)[..], &address(7), &V4[8..]].concat()
}

fn refused(proxy: &Proxy) -> f64 {
    let series = "evenkeel_connections_refused_total{listener=\"web\"}";
    proxy.metric(series).unwrap_or_default()
}

/// Who the origin was told the last client is, and the port it asked for.
fn told(origin: &Origin) -> (String, String) {
    let last = origin.last();
    let field = |name| last.header(name).unwrap_or_default();
    (field("x-forwarded-for"), field("x-forwarded-port"))
}

#[test]
fn a_header_names_the_client_and_the_port() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    let local = ("127.0.0.1".to_owned(), proxy.address().port().to_string());
    let named = |address: &str| (address.to_owned(), "8443".to_owned());
    for (header, expected) in [
        (V1.as_bytes().to_vec(), named("192.0.2.1")),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::7 4321 8443\r\n".to_vec(),
            named("2001:db8::1"),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:192.0.2.7 1 8443\r\n".to_vec(),
            named("192.0.2.9"),
        ),
        (v2(0x21, 0x11, V4), named("192.0.2.1")),
        (v2(0x21, 0x21, &v6()), named("2001:db8::1")),
        (
            v2(0x21, 0x11, &[V4, &[0x04, 0, 2, 0, 0]].concat()),
            named("192.0.2.1"),
        ),
        // The proxy itself, and clients without an internet address.
        (b"PROXY UNKNOWN\r\n".to_vec(), local.clone()),
        (b"PROXY UNKNOWN ::1 ::1 1 2\r\n".to_vec(), local.clone()),
        (v2(0x20, 0x00, &[]), local.clone()),
        (v2(0x20, 0x11, V4), local.clone()),
        (v2(0x21, 0x31, &[b'/'; 216]), local.clone()),
        (v2(0x21, 0x00, &[]), local),
    ] {
        // The request behind it in the same segment, a second one on the kept connection.
        let mut client = proxy.client();
        client.send([&header, GET.as_bytes()].concat());
        assert_eq!(client.response().status, 200);
        assert_eq!(told(&origin), expected);
        assert_eq!(client.get("/again").status, 200);
        assert_eq!(told(&origin), expected, "of the whole connection");
    }
    assert_eq!(refused(&proxy), 0.0);
}

#[test]
fn the_port_is_where_the_client_connected_to() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = proxy.client();
    client.send([V1, "GET / HTTP/1.0\r\nHost: test\r\n\r\n"].concat());
    assert_eq!(client.response().status, 200);
    assert_eq!(
        origin.last().header("x-forwarded-port").as_deref(),
        Some("8443")
    );
}

#[test]
fn a_header_is_waited_for_byte_by_byte() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut rounds_ok = 0;
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, V4)] {
        let whole = [&header, GET.as_bytes()].concat();
        for cut in 1..=header.len() {
            let mut client = proxy.client();
            client.send(&whole[..cut]);
            // Of the same listener, so that the worker has looked at what came before.
            let mut other = proxy.client();
            other.send([V1, GET].concat());
            assert_eq!(other.response().status, 200);
            client.send(&whole[cut..]);
            assert_eq!(client.response().status, 200, "cut after {cut} bytes");
            assert_eq!(told(&origin).0, "192.0.2.1");
            rounds_ok += 1;
        }
        let mut client = proxy.client();
        for byte in &whole {
            client.send([*byte]);
        }
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(rounds_ok, V1.len() + 28);
    assert_eq!(refused(&proxy), 0.0);
}

#[test]
fn what_is_no_header_closes_the_connection_unanswered() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    let long_line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    let rows: Vec<Vec<u8>> = vec![
        GET.into(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x00\x05hello".to_vec(),
        b"\r\nPROXY UNKNOWN\r\n".to_vec(),
        b" PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4321 8443\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4321 8443 \r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4321\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.01 198.51.100.7 4321 8443\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 04321 8443\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4321 65536\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 2001:db8::7 4321 8443\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 198.51.100.7 4321 8443\r\n".to_vec(),
        b"PROXY TCP6 fe80::1%lo ::1 4321 8443\r\n".to_vec(),
        b"PROXY UDP4 192.0.2.1 198.51.100.7 4321 8443\r\n".to_vec(),
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 4321 8443\r\n".to_vec(),
        b"proxy TCP4 192.0.2.1 198.51.100.7 4321 8443\r\n".to_vec(),
        long_line.into(),
        v2(0x11, 0x11, V4),
        v2(0x22, 0x11, V4),
        v2(0x21, 0x13, V4),
        v2(0x21, 0x41, V4),
        v2(0x21, 0x11, &V4[..11]),
        v2(0x21, 0x21, V4),
        v2(0x21, 0x11, &[V4, &[0x04, 0, 9, 0]].concat()),
        v2(0x21, 0x11, &[V4, &[0x03, 0, 4, 0, 0, 0, 0]].concat()),
        v2(0x20, 0x00, &[0; 521]),
    ];
    let count = rows.len();
    for row in rows {
        let mut client = proxy.client();
        // It may be closed in the middle: the reset then takes the place of the FIN.
        let _ = client.try_send([&row, GET.as_bytes()].concat());
        assert_eq!(client.rest(), b"", "{}", row.escape_ascii());
    }
    eventually("all are counted", || refused(&proxy) == count as f64);
    let rejected = proxy.metric("evenkeel_rejected_total{reason=\"bad_request\"}");
    assert_eq!(rejected, Some(count as f64));
    assert_eq!(origin.requests().len(), 0);
    eventually("none is left", || {
        proxy.metric("evenkeel_connections_active{listener=\"web\"}") == Some(0.0)
    });
}

#[test]
fn a_second_header_is_no_part_of_a_request() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    let second = V1.replace("192.0.2.1", "192.0.2.99");
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, V4)] {
        let mut client = proxy.client();
        client.send([&header, second.as_bytes(), GET.as_bytes()].concat());
        assert_eq!(client.response().status, 400);
        let mut client = proxy.client();
        client.send([&header[..], &v2(0x21, 0x11, V4), GET.as_bytes()].concat());
        assert_eq!(client.response().status, 400);
    }
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn only_trusted_proxies_may_send_one() {
    let origin = Origin::good("ok");
    let config = config(&origin, "").replace("127.0.0.0/8", "10.0.0.0/8");
    let proxy = Proxy::start(&config);
    for bytes in [V1.to_owned() + GET, GET.to_owned(), String::new()] {
        let mut client = proxy.client();
        let _ = client.try_send(bytes);
        assert_eq!(
            client.rest(),
            b"",
            "closed unanswered, without a byte waited for"
        );
    }
    eventually("all are counted", || refused(&proxy) == 3.0);
    assert_eq!(origin.requests().len(), 0);
}

#[test]
fn forwarding_fields_are_believed_of_a_trusted_source_alone() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    for (source, expected) in [
        // A second trusted proxy behind the first.
        ("127.0.0.9", "203.0.113.5, 127.0.0.9"),
        ("192.0.2.1", "192.0.2.1"),
    ] {
        let mut client = proxy.client();
        client.send(V1.replace("192.0.2.1", source));
        let answer = client.request("GET", "/", "X-Forwarded-For: 203.0.113.5\r\n");
        assert_eq!(answer.status, 200);
        assert_eq!(told(&origin).0, expected);
    }
    let mut client = proxy.client();
    client.send("PROXY UNKNOWN\r\n");
    client.request("GET", "/", "X-Forwarded-For: 203.0.113.5\r\n");
    assert_eq!(
        told(&origin).0,
        "203.0.113.5, 127.0.0.1",
        "the peer itself is trusted"
    );
}

#[test]
fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let origin = Origin::good("ok");
    let limits = "[listener.limits]\nheader-timeout = \"300ms\"";
    let proxy = Proxy::start(&config(&origin, limits));
    let header = v2(0x21, 0x11, V4);
    let mut clients = Vec::new();
    for start in [
        &b""[..],
        b"P",
        &V1.as_bytes()[..20],
        &header[..15],
        &header[..27],
    ] {
        let mut client = proxy.client();
        client.send(start);
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.rest(), b"");
    }
    eventually("all are counted", || refused(&proxy) == 5.0);
}

#[test]
fn header_and_head_share_one_deadline() {
    let origin = Origin::good("ok");
    let limits = "[listener.limits]\nheader-timeout = \"600ms\"";
    let proxy = Proxy::start(&config(&origin, limits));
    let start = std::time::Instant::now();
    let mut client = proxy.client();
    client.send(V1);
    client.send("GET / HT");
    assert_eq!(client.response().status, 408);
    assert!(
        start.elapsed() < Duration::from_millis(1800),
        "not once more from the header on"
    );
}

#[test]
fn a_client_that_leaves_in_its_header_is_let_go() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    for start in [&b""[..], b"PROXY TC", &SIGNATURE[..7]] {
        let mut client = proxy.client();
        client.send(start);
        drop(client);
    }
    eventually("all are counted", || refused(&proxy) == 3.0);
    eventually("none is left", || {
        proxy.metric("evenkeel_connections_active{listener=\"web\"}") == Some(0.0)
    });
}

#[test]
fn a_change_ends_connections_after_their_request() {
    let origin = Origin::good("ok");
    let config = config(&origin, "");
    let plain = config.replace("\"required\"", "\"off\"");
    let proxy = Proxy::start(&plain);
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").status, 200);
    proxy.reconfigure(&config);
    assert_eq!(kept.get("/").header("connection"), Some("close"));
    assert!(kept.is_closed(), "entered without a header");
    let mut with = proxy.client();
    with.send(V1);
    assert_eq!(with.get("/").status, 200);
    assert_eq!(told(&origin).0, "192.0.2.1");
    proxy.reconfigure(&plain);
    assert_eq!(with.get("/").header("connection"), Some("close"));
    assert_eq!(proxy.get("/").status, 200);
    assert_eq!(told(&origin).0, "127.0.0.1");
}

#[test]
fn a_drain_does_not_wait_for_headers() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut waiting = proxy.client();
    waiting.send("PROXY");
    let mut serving = proxy.client();
    serving.send(V1);
    assert_eq!(serving.get("/").status, 200);
    proxy.drain();
    assert!(
        proxy.wait() < Duration::from_secs(8),
        "before the header deadline"
    );
    assert_eq!(waiting.rest(), b"");
}

/// A server that wants a header on each connection, and notes those that come.
struct Introduced {
    origin: Origin,
    headers: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Introduced {
    fn start(name: &'static str) -> Self {
        let headers = Arc::new(Mutex::new(Vec::new()));
        let noted = headers.clone();
        let origin = Origin::scripted(move |connection| {
            let Some(header) = header_of(connection) else {
                return;
            };
            noted.lock().expect("not poisoned").push(header);
            while connection.request().is_some() {
                let length = name.len();
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"
                ));
            }
        });
        Introduced { origin, headers }
    }

    fn headers(&self) -> Vec<Vec<u8>> {
        self.headers.lock().expect("not poisoned").clone()
    }

    fn texts(&self) -> Vec<String> {
        let text = |header: &Vec<u8>| String::from_utf8_lossy(header).into_owned();
        self.headers().iter().map(text).collect()
    }
}

fn header_of(connection: &mut Connection) -> Option<Vec<u8>> {
    let mut header = connection.exactly(1)?;
    if header == b"P" {
        while !header.ends_with(b"\r\n") {
            header.extend(connection.exactly(1)?);
        }
        return Some(header);
    }
    header.extend(connection.exactly(15)?);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > 0 {
        header.extend(connection.exactly(length)?);
    }
    Some(header)
}

fn introducing(origins: &[&Introduced], version: &str, before: &str, more: &str) -> String {
    let origins: Vec<&Origin> = origins.iter().map(|one| &one.origin).collect();
    let upstream = format!("proxy-protocol = \"{version}\"\n{more}");
    format!("{ONE_WORKER}{before}{}", app(&origins, &upstream))
}

#[test]
fn servers_are_told_whose_connection_it_is() {
    let server = Introduced::start("a");
    let proxy = Proxy::start(&introducing(&[&server], "v1", "", ""));
    let mut one = proxy.client();
    let mut other = proxy.client();
    for _ in 0..3 {
        assert_eq!(one.get("/").text(), "a");
        assert_eq!(other.get("/").text(), "a");
    }
    let to = proxy.address();
    let expected = [&one, &other].map(|client| {
        let from = client.local();
        let (from_port, to_port) = (from.port(), to.port());
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from_port} {to_port}\r\n")
    });
    assert_eq!(server.texts(), expected, "one connection for each client's");
    drop(one);
    eventually("its connection goes with it", || server.origin.open() == 1);
    let mut third = proxy.client();
    assert_eq!(third.get("/").text(), "a");
    assert_eq!(server.texts().len(), 3, "nobody takes it over");
}

#[test]
fn version_2_carries_the_same_in_binary() {
    let server = Introduced::start("a");
    let proxy = Proxy::start(&introducing(&[&server], "v2", "", ""));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "a");
    let (from, to) = (client.local().port(), proxy.address().port());
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let expected = v2(
        0x21,
        0x11,
        &[&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat(),
    );
    assert_eq!(server.headers(), [expected]);
}

#[test]
fn what_a_header_said_is_passed_on() {
    let server = Introduced::start("a");
    let before = listener("");
    let proxy = Proxy::start(&introducing(&[&server], "v1", &before, ""));
    for header in [
        "PROXY TCP4 192.0.2.1 198.51.100.7 4321 8443\r\n",
        "PROXY TCP6 2001:db8::1 2001:db8::7 4321 8443\r\n",
    ] {
        let mut client = proxy.client();
        client.send([header, GET].concat());
        assert_eq!(client.response().text(), "a");
        assert_eq!(server.texts().last().map(String::as_str), Some(header));
    }
}

#[test]
fn a_wildcard_listener_says_which_address_was_meant() {
    let server = Introduced::start("a");
    let before = "[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:0\"\n";
    let proxy = Proxy::start(&introducing(&[&server], "v1", before, ""));
    let port = proxy.address().port();
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 3], port)));
    assert_eq!(client.get("/").text(), "a");
    assert!(
        server.texts()[0].starts_with("PROXY TCP4 127.0.0.1 127.0.0.3 "),
        "{:?}",
        server.texts()
    );
}

#[test]
fn each_request_still_goes_where_the_balancer_says() {
    let (one, two) = (Introduced::start("a"), Introduced::start("b"));
    let proxy = Proxy::start(&introducing(&[&one, &two], "v1", "", ""));
    let mut client = proxy.client();
    let answers: String = (0..6).map(|_| client.get("/").text()).collect();
    assert_eq!(answers, "ababab");
    assert_eq!(
        (one.headers().len(), two.headers().len()),
        (1, 1),
        "both are kept"
    );
}

#[test]
fn checks_say_that_they_are_nobody_s() {
    let (one, two) = (Introduced::start("a"), Introduced::start("b"));
    let health = "[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"";
    let _first = Proxy::start(&introducing(&[&one], "v1", "", health));
    let _second = Proxy::start(&introducing(&[&two], "v2", "", health));
    eventually("both are checked", || {
        !one.headers().is_empty() && !two.headers().is_empty()
    });
    assert_eq!(one.texts()[0], "PROXY UNKNOWN\r\n");
    assert_eq!(two.headers()[0], v2(0x20, 0x00, &[]));
}

#[test]
fn a_kept_connection_that_has_ended_is_replaced_by_one_with_a_header() {
    let server = Introduced::start("a");
    let proxy = Proxy::start(&introducing(&[&server], "v1", "", ""));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "a");
    server.origin.stop();
    server.origin.resume();
    assert_eq!(client.get("/").text(), "a");
    let texts = server.texts();
    assert_eq!(texts.len(), 2);
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn a_change_counts_with_the_next_request() {
    let server = Introduced::start("a");
    let config = introducing(&[&server], "v1", "", "");
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "a");
    proxy.reconfigure(&config.replace("\"v1\"", "\"v2\""));
    assert_eq!(client.get("/").text(), "a");
    let headers = server.headers();
    assert!(headers[0].starts_with(b"PROXY ") && headers[1].starts_with(SIGNATURE));
}

#[test]
fn a_header_goes_before_the_handshake() {
    let ca = Authority::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("ca.pem"), ca.pem()).expect("can be written");
    let behaviour = Behaviour {
        introduced: true,
        ..Behaviour::of(&ca.issue(&["127.0.0.1"]))
    };
    let origin = TlsOrigin::start(&behaviour);
    let config = format!(
        "{ONE_WORKER}[upstream.app]\nservers = [\"{}\"]\nproxy-protocol = \"v2\"\n\
         tls = {{ ca = \"ca.pem\" }}\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        origin.address()
    );
    let proxy = Proxy::start_in(directory, &config).expect("it starts");
    for _ in 0..2 {
        assert_eq!(proxy.get("/").text(), "secret");
    }
    let introductions = origin.introductions();
    assert_eq!(introductions.len(), 2);
    assert!(
        introductions
            .iter()
            .all(|header| header.starts_with(SIGNATURE))
    );
    assert_eq!(origin.handshakes().len(), 2);
}

#[test]
fn a_header_comes_before_the_handshake() {
    let ca = Authority::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    ca.issue(&["site.example"]).write(directory.path(), "site");
    let origin = Origin::good("ok");
    let tls = "tls = { certificates = [{ cert = \"site.pem\", key = \"site.key\" }] }\n\
               limits = { header-timeout = \"1s\" }";
    let proxy = Proxy::start_in(directory, &config(&origin, tls)).expect("it starts");
    let settings = ca.client().build();
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, V4)] {
        let mut stream = TcpStream::connect(proxy.address()).expect("it accepts");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("is a socket");
        stream.write_all(&header).expect("are taken");
        let mut client = shake(stream, &settings, "site.example").expect("hands are shaken");
        let request = "GET / HTTP/1.1\r\nHost: site.example\r\n\r\n";
        client.send(request);
        assert_eq!(client.response().status, 200);
        assert_eq!(told(&origin).0, "192.0.2.1");
        assert_eq!(
            origin.last().header("x-forwarded-proto").as_deref(),
            Some("https")
        );
    }
    // A handshake without one, and one whose handshake never comes.
    let stream = TcpStream::connect(proxy.address()).expect("it accepts");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("is a socket");
    assert!(shake(stream, &settings, "site.example").is_err());
    let mut client = proxy.client();
    client.send(V1);
    assert_eq!(client.rest(), b"");
    eventually("both are counted", || refused(&proxy) == 2.0);
}

#[test]
fn a_protocol_that_shares_connections_has_no_header() {
    let server = Introduced::start("a");
    let config = introducing(&[&server], "v1", "", "protocol = \"h2\"");
    match Proxy::try_start(&config) {
        Err(StartError::Config(mistakes)) => {
            let text = mistakes.render_human(false);
            assert!(text.contains("is not supported yet"), "{text}");
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it starts"),
    }
}
