//! HTTP/2 over TLS, as ALPN chooses it.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::support::h2::{H2, block_on, send_all, whole};
use super::super::support::tls::connect;
use super::super::support::{Origin, app};
use super::{Scene, listener, scene, simple};

async fn http2(scene: &Scene, config: Arc<ClientConfig>, name: &str) -> H2 {
    let stream = TcpStream::connect(scene.proxy.address()).await;
    let stream = stream.expect("it listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let server = ServerName::try_from(name.to_owned()).expect("a name");
    let tls = TlsConnector::from(config).connect(server, stream).await;
    let tls = tls.expect("the handshake succeeds");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    H2::over(tls, "https", name, &h2::client::Builder::new()).await
}

fn echo() -> Origin {
    Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let body = request.body;
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            connection.send(body);
        }
    })
}

#[test]
fn large_bodies_cross_whole_on_many_streams() {
    let origin = echo();
    let scene = simple(&origin, "");
    block_on(async {
        let config = scene.authority.client().alpn(&["h2", "http/1.1"]).build();
        let mut client = http2(&scene, config, "a.example").await;
        for size in [0_usize, 1, 16_384, 70_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|index| (index * 31 % 251) as u8).collect();
            let request = client
                .request("POST", "/")
                .header("content-length", size)
                .body(())
                .expect("a request");
            let (answer, mut stream) = client.send(request, false).await;
            send_all(&mut stream, body.clone().into(), true).await;
            let answer = whole(answer.await.expect("an answer")).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{size} bytes come back as they went");
        }
    });
    let request = origin.last();
    assert_eq!(request.headers("x-forwarded-proto"), ["https"]);
}

#[test]
fn authority_and_sni_and_client_certificates_count_as_in_http_1() {
    let origin = echo();
    let config = listener(", client-ca = \"clients.pem\"") + &app(&[&origin], "");
    let scene = scene(&config, |authority, directory| {
        authority
            .issue(&["a.example", "b.example"])
            .write(directory, "site");
        std::fs::write(directory.join("clients.pem"), authority.pem()).expect("space for it");
    });
    let identity = scene.authority.issue(&["client.example"]);
    block_on(async {
        let settings = scene.authority.client().alpn(&["h2"]).identity(identity);
        let mut client = http2(&scene, settings.build(), "a.example").await;
        assert_eq!(client.get("/").await.status, 200);
        let request = http::Request::builder()
            .uri("https://b.example/")
            .header("client-cert", ":Zm9yZ2Vk:")
            .body(())
            .expect("a request");
        let (answer, _) = client.send(request, true).await;
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 421);
        // Only that stream is refused.
        let request = http::Request::builder()
            .uri("https://a.example/")
            .header("client-cert", ":Zm9yZ2Vk:")
            .body(())
            .expect("a request");
        let (answer, _) = client.send(request, true).await;
        assert_eq!(answer.await.expect("an answer").status(), 200);
    });
    assert_eq!(origin.request_count(), 2);
    let shown = origin.last().headers("client-cert");
    assert!(shown.len() == 1 && shown[0].len() > 100, "{shown:?}");
}

#[test]
fn the_preface_is_no_way_around_alpn() {
    let origin = echo();
    let scene = simple(&origin, "");
    let config = scene.authority.client().alpn(&["http/1.1"]).build();
    let mut client = connect(scene.proxy.address(), &config, "a.example");
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!(client.response().status, 505);
}
