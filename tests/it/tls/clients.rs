//! Listeners that demand certificates of their clients, and what servers are told of them.

use std::path::Path;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::super::support::tls::{Authority, connect, try_connect};
use super::super::support::{Origin, app, eventually};
use super::{Scene, listener, scene, simple};

/// The authority of the site issues clients' certificates, too.
fn files(authority: &Authority, directory: &Path) {
    authority
        .issue(&["a.example", "b.example"])
        .write(directory, "site");
    std::fs::write(directory.join("clients.pem"), authority.pem()).expect("space for it");
}

fn demanding(origin: &Origin) -> Scene {
    let config = listener(", client-ca = \"clients.pem\"") + &app(&[origin], "");
    scene(&config, files)
}

fn base64(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    evenkeel::util::base64::encode(bytes, &mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn a_client_certificate_goes_on_as_client_cert() {
    let origin = Origin::good("x");
    let scene = demanding(&origin);
    for version in [&TLS12, &TLS13] {
        let identity = scene.authority.issue(&["client.example"]);
        let settings = scene.authority.client().version(version);
        let config = settings.identity(identity.clone()).build();
        let mut client = connect(scene.proxy.address(), &config, "a.example");
        // What the client says of itself by these names is not heard.
        client.send(
            "GET / HTTP/1.1\r\nHost: a.example\r\nClient-Cert: :Zm9yZ2Vk:\r\n\
             client-cert: :dHdpY2U=:\r\nClient-Cert-Chain: :Zm9yZ2Vk:\r\n\
             Connection: keep-alive, client-cert\r\n\r\n",
        );
        assert_eq!(client.response().status, 200);
        let request = origin.last();
        let expected = format!(":{}:", base64(&identity.der()));
        assert_eq!(request.headers("client-cert"), [expected]);
        assert_eq!(request.headers("client-cert-chain"), [""; 0]);
    }
}

#[test]
fn clients_cannot_say_client_cert_themselves() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let mut client = scene.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nClient-Cert: :Zm9yZ2Vk:\r\n\
         Client_Cert: :Zm9yZ2Vk:\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nX-Fine: yes\r\n\r\n",
    );
    assert_eq!(client.response().status, 200);
    let all = String::from_utf8_lossy(&[origin.last().head, origin.last().body].concat())
        .to_ascii_lowercase();
    assert!(
        !all.contains("client-cert") && !all.contains("client_cert"),
        "{all}"
    );
}

#[test]
fn who_shows_no_certificate_or_a_strange_one_does_not_get_in() {
    let origin = Origin::good("x");
    let scene = demanding(&origin);
    let strange = Authority::new().issue(&["client.example"]);
    for (count, version) in [(2.0, &TLS12), (4.0, &TLS13)] {
        for identity in [None, Some(strange.clone())] {
            let mut settings = scene.authority.client().version(version);
            settings.identity = identity;
            let config = settings.build();
            // In TLS 1.3 the client is done before it hears of it.
            if let Ok(mut client) = try_connect(scene.proxy.address(), &config, "a.example") {
                let _ = client.try_send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
                assert!(client.try_response().is_err(), "no answer");
            }
        }
        eventually("they are counted", || {
            scene.handshakes("client_certificate") == count
        });
    }
    assert_eq!(origin.request_count(), 0);
}

#[test]
fn a_session_from_elsewhere_does_not_come_in_without_a_certificate() {
    let origin = Origin::good("x");
    let config = listener("")
        + &listener(", client-ca = \"clients.pem\"")
            .replace("\"web\"", "\"strict\"")
            .replace("127.0.0.1", "127.0.0.2")
        + &app(&[&origin], "");
    let scene = scene(&config, files);
    let strict = scene.proxy.listener("strict");
    for version in [&TLS12, &TLS13] {
        let config = scene.authority.client().version(version).build();
        let ask = |address| {
            let mut client = try_connect(address, &config, "a.example")?;
            client.try_send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")?;
            client.try_response()?;
            Ok::<_, std::io::Error>(client.tls().handshake_kind())
        };
        let first = ask(scene.proxy.address()).expect("an answer");
        assert_eq!(first, Some(HandshakeKind::Full));
        let second = ask(scene.proxy.address()).expect("an answer");
        assert_eq!(
            second,
            Some(HandshakeKind::Resumed),
            "the client has a ticket"
        );
        assert!(
            ask(strict).is_err(),
            "{:?}: not into the strict one",
            version.version
        );
    }
    // And with a certificate there is no session to resume: each shows it again.
    let identity = scene.authority.issue(&["client.example"]);
    let config = scene.authority.client().identity(identity).build();
    for _ in 0..3 {
        let mut client = connect(strict, &config, "a.example");
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response().status, 200);
        assert_eq!(client.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_host_that_is_not_the_name_in_sni_is_misdirected() {
    let origin = Origin::good("x");
    let scene = demanding(&origin);
    let identity = scene.authority.issue(&["client.example"]);
    let config = scene.authority.client().identity(identity).build();
    let mut client = connect(scene.proxy.address(), &config, "a.example");
    for (host, status) in [
        ("a.example", 200),
        ("A.EXAMPLE:8443", 200),
        ("a.example.", 200),
        // The certificate is for this one as well, and nevertheless.
        ("b.example", 421),
        ("127.0.0.1", 421),
        ("a.example", 200),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.response();
        assert_eq!(answer.status, status, "{host}");
        assert_eq!(
            answer.evenkeel_reason(),
            (status == 421).then_some("misdirected")
        );
    }
    let rejected = "evenkeel_rejected_total{reason=\"misdirected\"}";
    assert_eq!(scene.proxy.metric(rejected), Some(2.0));
}

#[test]
fn connections_end_when_what_let_them_in_changes_and_stay_otherwise() {
    let origin = Origin::good("x");
    let config = listener("") + &app(&[&origin], "");
    let scene = scene(&config, files);
    let mut client = scene.client();
    let mut ask = |note: &str| {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response().status, 200, "{note}");
    };
    ask("at first");
    let certificate = "{ cert = \"site.pem\", key = \"site.key\" }";
    scene
        .proxy
        .edit(certificate, &format!("{certificate}, {certificate}"));
    assert_eq!(scene.proxy.reload().status, 200);
    ask("other certificates");
    scene
        .proxy
        .edit("] }\n", "], client-ca = \"clients.pem\" }\n");
    assert_eq!(scene.proxy.reload().status, 200);
    assert!(client.is_closed(), "it came in without a certificate");
    assert!(
        try_connect(scene.proxy.address(), &scene.client_config(), "a.example").is_err()
            || scene.handshakes("ok") <= 2.0
    );
}
