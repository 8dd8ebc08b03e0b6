//! Handshakes that succeed, fail, stall and are resumed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::super::support::tls::{connect, try_connect};
use super::super::support::{DEADLINE, Origin, app, eventually};
use super::{listener, scene, simple, stranger};

/// What comes until the end.
fn told(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(DEADLINE)).expect("alive");
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn plain_http_on_a_tls_port_gets_a_short_plain_400() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let mut client = scene.proxy.client();
    let answer = client.request("GET", "/", "");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.evenkeel_reason(), Some("bad_request"));
    assert!(answer.text().contains("HTTPS"), "{}", answer.text());
    assert!(client.is_closed());
    eventually("it is counted", || scene.handshakes("not_tls") == 1.0);
    let rejected = "evenkeel_rejected_total{reason=\"bad_request\"}";
    assert_eq!(scene.proxy.metric(rejected), Some(1.0));
    assert_eq!(origin.request_count(), 0);
}

#[test]
fn garbage_gets_an_alert_and_is_counted() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let mut count = 0.0;
    for garbage in [
        &[0_u8; 64][..],
        b"\x80\x2e\x01\x00\x02",
        b"\x17\x03\x03\x00\x02hi",
        b"ssh-",
    ] {
        let mut stream = TcpStream::connect(scene.proxy.address()).expect("it accepts");
        stream.write_all(garbage).expect("it reads");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("still there");
        told(&mut stream);
        count += 1.0;
        eventually("it is counted", || {
            let all = ["not_tls", "protocol_error", "client_gone"];
            all.map(|result| scene.handshakes(result))
                .iter()
                .sum::<f64>()
                == count
        });
    }
    let refused = "evenkeel_connections_refused_total{listener=\"web\"}";
    assert_eq!(scene.proxy.metric(refused), Some(count));
}

#[test]
fn a_handshake_that_does_not_come_ends_with_the_header_timeout() {
    let origin = Origin::good("x");
    let scene = {
        let config = listener("")
            .replace("tls =", "limits = { header-timeout = \"300ms\" }\ntls =")
            + &app(&[&origin], "");
        scene(&config, |authority, directory| {
            authority.issue(&["a.example"]).write(directory, "site");
        })
    };
    // Nothing at all, the beginning of a hello, and a handshake without a request after it.
    let start = Instant::now();
    for beginning in [&b""[..], b"\x16\x03\x01\x01\x00\x01"] {
        let mut stream = TcpStream::connect(scene.proxy.address()).expect("it accepts");
        stream.write_all(beginning).expect("it reads");
        assert!(told(&mut stream).is_empty());
    }
    let mut client = scene.client();
    assert!(client.is_closed(), "no request came in the header's time");
    assert!(start.elapsed() < Duration::from_secs(6));
    eventually("they are counted", || scene.handshakes("timeout") == 2.0);
    assert_eq!(scene.handshakes("ok"), 1.0);
    // One that drips is not given more time for it.
    let start = Instant::now();
    let mut stream = TcpStream::connect(scene.proxy.address()).expect("it accepts");
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("alive");
    for byte in std::iter::once(0x16).chain(std::iter::repeat(3)) {
        if stream.write_all(&[byte]).is_err() || matches!(stream.read(&mut [0]), Ok(0)) {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "it is cut");
    }
}

#[test]
fn sessions_go_on_across_workers_and_a_reload() {
    let origin = Origin::good("x");
    let config = listener("") + &app(&[&origin], "") + "[process]\nworkers = 4\n";
    let scene = scene(&config, |authority, directory| {
        authority.issue(&["a.example"]).write(directory, "site");
    });
    for version in [&TLS12, &TLS13] {
        let config = scene.authority.client().version(version).build();
        let kind = || {
            let mut client = connect(scene.proxy.address(), &config, "a.example");
            client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
            assert_eq!(client.response().status, 200);
            client.tls().handshake_kind()
        };
        assert_eq!(kind(), Some(HandshakeKind::Full));
        for _ in 0..12 {
            assert_eq!(kind(), Some(HandshakeKind::Resumed));
        }
        scene.proxy.edit("name = \"web\"", "name = \"web\" # again");
        assert_eq!(scene.proxy.reload().status, 200);
        assert_eq!(kind(), Some(HandshakeKind::Resumed), "after a reload");
    }
    assert_eq!(scene.handshakes("resumed"), 26.0);
}

#[test]
fn versions_below_the_least_are_refused() {
    let origin = Origin::good("x");
    let config = listener(", min-version = \"1.3\"") + &app(&[&origin], "");
    let scene = scene(&config, |authority, directory| {
        authority.issue(&["a.example"]).write(directory, "site");
    });
    let old = scene.authority.client().version(&TLS12).build();
    let refused = try_connect(scene.proxy.address(), &old, "a.example");
    let error = refused.err().expect("refused").to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    eventually("it is counted", || {
        scene.handshakes("nothing_in_common") == 1.0
    });
    let new = scene.authority.client().version(&TLS13).build();
    assert!(try_connect(scene.proxy.address(), &new, "a.example").is_ok());
}

#[test]
fn a_client_that_does_not_trust_us_is_counted_as_that() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let strange = super::Authority::new().client().build();
    let refused = try_connect(scene.proxy.address(), &strange, "a.example");
    assert!(refused.is_err());
    eventually("it is counted", || {
        scene.handshakes("refused_by_client") == 1.0
    });
    drop(stranger());
}

#[test]
fn protocols_are_chosen_by_alpn() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let chosen = |offered: &[&str]| {
        let config = scene.authority.client().alpn(offered).build();
        try_connect(scene.proxy.address(), &config, "a.example")
            .map(|mut client| client.tls().alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(
        chosen(&["http/1.1"]).expect("a protocol"),
        Some(b"http/1.1".to_vec())
    );
    assert_eq!(chosen(&[]).expect("none is needed"), None);
    let error = chosen(&["spdy/3"])
        .expect_err("nothing in common")
        .to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn the_key_exchange_is_post_quantum_where_the_client_can() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let mut client = scene.client();
    let group = client
        .tls()
        .negotiated_key_exchange_group()
        .expect("a group");
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}
