//! HTTP/2 over TLS, agreed on by ALPN.

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::h2::{H2, block_on, send_all, whole};
use crate::support::tls::Authority;
use crate::support::{Origin, Proxy, app};

/// One listener with a certificate for a.example.
fn start(origin: &Origin, protocols: &str) -> (Proxy, Authority) {
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    authority
        .issue(&["a.example"])
        .write(directory.path(), "site");
    let config = format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{protocols}\n\
         tls = {{ certificates = [{{ cert = \"site.pem\", key = \"site.key\" }}] }}\n{}",
        app(&[origin], "")
    );
    let proxy = Proxy::start_in(directory, &config).expect("the proxy starts");
    (proxy, authority)
}

async fn shake(
    proxy: &Proxy,
    authority: &Authority,
    offered: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(proxy.address()).await?;
    let name = ServerName::try_from("a.example").expect("a name");
    let config = authority.client().alpn(offered).build();
    TlsConnector::from(config).connect(name, stream).await
}

fn agreed(stream: &TlsStream<TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

#[test]
fn clients_that_offer_it_get_it() {
    let body: Vec<u8> = (0..2_000_000u32).map(|place| place as u8).collect();
    let answer = body.clone();
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let length = answer.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ));
            connection.send(&answer);
        }
    });
    let (proxy, authority) = start(&origin, "");
    block_on(async {
        let stream = shake(&proxy, &authority, &["h2", "http/1.1"])
            .await
            .expect("a handshake");
        assert_eq!(agreed(&stream), Some(&b"h2"[..]));
        let builder = h2::client::Builder::new();
        let mut client = H2::over(stream, "https", "a.example", &builder).await;
        for _ in 0..2 {
            let request = client
                .request("POST", "/")
                .header("content-length", body.len());
            let request = request.body(()).expect("a request");
            let (answer, mut stream) = client.send(request, false).await;
            send_all(&mut stream, Bytes::from(body.clone()), true).await;
            let answer = whole(answer.await.expect("an answer")).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == body);
        }
    });
    let seen = origin.last();
    assert!(seen.body == body);
    assert_eq!(seen.headers("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.headers("host"), ["a.example"]);
}

#[test]
fn the_listener_decides_what_may_be_agreed_on() {
    let origin = Origin::good("ok");
    for (protocols, offered, expected) in [
        ("", &["http/1.1"][..], Some(&b"http/1.1"[..])),
        ("", &["http/1.1", "h2"], Some(b"h2")),
        (
            "protocols = [\"http/1.1\"]",
            &["h2", "http/1.1"],
            Some(b"http/1.1"),
        ),
        ("protocols = [\"h2\"]", &["h2"], Some(b"h2")),
    ] {
        let (proxy, authority) = start(&origin, protocols);
        block_on(async {
            let stream = shake(&proxy, &authority, offered)
                .await
                .expect("a handshake");
            assert_eq!(agreed(&stream), expected, "{protocols} {offered:?}");
        });
    }
    let (proxy, authority) = start(&origin, "protocols = [\"h2\"]");
    block_on(async {
        let refused = shake(&proxy, &authority, &["http/1.1"]).await;
        refused.expect_err("nothing in common");
    });
}
