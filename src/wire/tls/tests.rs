//! Against tokio-rustls on the other side: another way around the same library, so what is tested
//! is ours.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Cause, Handshaken, TlsError, accept, connect};
use crate::wire::io::Socket;

const PATIENCE: Duration = Duration::from_secs(20);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn configs(version: &'static SupportedProtocolVersion) -> Configs {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["a.example".to_owned()])
        .expect("parameters")
        .signed_by(&key, &authority)
        .expect("a leaf");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key in DER");
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("a certificate");
    server.ticketer = aws_lc_rs::Ticketer::new().expect("a ticketer");
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a root");
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Configs {
        server: Arc::new(server),
        client: Arc::new(client),
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("a.example").expect("a name")
}

fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    (Socket::from(ours), theirs)
}

/// Ours as the server, a client of tokio-rustls.
async fn served(configs: &Configs) -> (Socket, tokio_rustls::client::TlsStream<UnixStream>) {
    let (ours, theirs) = pair();
    let connector = TlsConnector::from(configs.client.clone());
    let (ours, theirs) = tokio::join!(
        accept(ours, configs.server.clone()),
        connector.connect(name(), theirs)
    );
    (ours.expect("accepted").0, theirs.expect("connected"))
}

/// Ours as the client, a server of tokio-rustls.
async fn dialled(configs: &Configs) -> (Socket, tokio_rustls::server::TlsStream<UnixStream>) {
    let (ours, theirs) = pair();
    let acceptor = TlsAcceptor::from(configs.server.clone());
    // What ended the handshake may leave with the first write.
    let ours = async {
        let (mut ours, handshaken) = connect(ours, configs.client.clone(), name()).await?;
        assert_eq!(handshaken.alpn.as_deref(), Some(&b"http/1.1"[..]));
        ours.flush().await.expect("flushed");
        Ok::<_, TlsError>(ours)
    };
    let (ours, theirs) = tokio::join!(ours, acceptor.accept(theirs));
    (ours.expect("connected"), theirs.expect("accepted"))
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 7 + index / 251) as u8)
        .collect()
}

/// Sends `up` and `down` at once, each then ended, and says what arrived.
async fn exchange(
    mut ours: impl AsyncRead + AsyncWrite + Unpin,
    mut theirs: impl AsyncRead + AsyncWrite + Unpin,
    (up, down): (&[u8], &[u8]),
) -> (io::Result<Vec<u8>>, io::Result<Vec<u8>>) {
    let (mut read, mut write) = tokio::io::split(&mut ours);
    let (mut their_read, mut their_write) = tokio::io::split(&mut theirs);
    let receive = async |side: &mut (dyn AsyncRead + Unpin)| {
        let mut bytes = Vec::new();
        side.read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let all = async {
        tokio::join!(
            receive(&mut read),
            receive(&mut their_read),
            async {
                write.write_all(down).await.expect("written");
                write.shutdown().await.expect("shut down");
            },
            async {
                their_write.write_all(up).await.expect("written");
                their_write.shutdown().await.expect("shut down");
            }
        )
    };
    let (ours, theirs, (), ()) = timeout(PATIENCE, all).await.expect("it ends");
    (ours, theirs)
}

fn waits_for_nothing(socket: &Socket) {
    let Socket::Tls(tls) = socket else {
        panic!("a TLS socket");
    };
    assert_eq!(tls.buffered(), 0, "an idle connection holds no buffer");
}

#[tokio::test]
async fn bytes_cross_in_both_directions_as_either_side() {
    for version in VERSIONS {
        let configs = configs(version);
        for length in [0, 1, 1000, 16_384, 16_385, 100_000, 3_000_000] {
            let (up, down) = (bytes(length), bytes(length / 2));
            let (ours, theirs) = served(&configs).await;
            let (got, given) = exchange(ours, theirs, (&up, &down)).await;
            assert!(got.expect("a clean end") == up, "{length} up");
            assert!(given.expect("a clean end") == down, "{length} down");
            let (ours, theirs) = dialled(&configs).await;
            let (got, given) = exchange(ours, theirs, (&up, &down)).await;
            assert!(got.expect("a clean end") == up, "{length} up");
            assert!(given.expect("a clean end") == down, "{length} down");
        }
    }
}

#[tokio::test]
async fn a_socket_that_takes_little_gets_everything_in_order() {
    for version in VERSIONS {
        let configs = configs(version);
        let (ours, mut theirs) = served(&configs).await;
        let Socket::Tls(tls) = &ours else {
            panic!("a TLS socket");
        };
        let Socket::Unix(raw) = tls.raw() else {
            panic!("a unix socket");
        };
        SockRef::from(raw).set_send_buffer_size(1).expect("a size");
        SockRef::from(&*theirs.get_mut().0)
            .set_send_buffer_size(1)
            .expect("a size");
        let (up, down) = (bytes(300_000), bytes(400_000));
        let (got, given) = exchange(ours, theirs, (&up, &down)).await;
        assert!(got.expect("a clean end") == up);
        assert!(given.expect("a clean end") == down);
    }
}

#[tokio::test]
async fn slices_leave_as_one_stream() {
    let configs = configs(&rustls::version::TLS13);
    for cuts in [
        &[0, 100, 20_000, 20_007][..],
        &[16_384, 32_768],
        &[1, 2, 3, 65_600],
    ] {
        let (mut ours, mut theirs) = served(&configs).await;
        let whole = bytes(90_000);
        let expected = whole.clone();
        let write = async {
            let mut sent = 0;
            while sent < whole.len() {
                let mut edges: Vec<_> = cuts.iter().copied().filter(|cut| *cut > sent).collect();
                edges.push(whole.len());
                let mut start = sent;
                let slices: Vec<_> = edges
                    .iter()
                    .map(|end| {
                        let slice = io::IoSlice::new(&whole[start..*end]);
                        start = *end;
                        slice
                    })
                    .collect();
                sent += ours.write_vectored(&slices).await.expect("written");
            }
            ours.shutdown().await.expect("shut down");
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, theirs.read_to_end(&mut got));
        read.expect("a clean end");
        assert!(got == expected, "{cuts:?}");
    }
}

/// Passes bytes on in pieces of `piece` bytes, to the end.
async fn pass(mut read: impl AsyncRead + Unpin, mut write: impl AsyncWrite + Unpin, piece: usize) {
    let mut buffer = vec![0; piece];
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        if write.write_all(&buffer[..count]).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = write.shutdown().await;
}

/// Both ways.
async fn dribble(from: UnixStream, to: UnixStream, piece: usize) {
    let ((up, answered), (given, down)) = (from.into_split(), to.into_split());
    tokio::join!(pass(up, down, piece), pass(given, answered, piece));
}

#[tokio::test]
async fn records_may_come_in_any_pieces() {
    for version in VERSIONS {
        let configs = configs(version);
        for piece in [1, 2, 3, 5, 7, 64, 1399] {
            let (ours, relayed) = pair();
            let (out, theirs) = UnixStream::pair().expect("a socket pair");
            tokio::spawn(dribble(relayed, out, piece));
            let connector = TlsConnector::from(configs.client.clone());
            let (ours, theirs) = tokio::join!(
                accept(ours, configs.server.clone()),
                connector.connect(name(), theirs)
            );
            let (up, down) = (bytes(40_000), bytes(40_000));
            let (ours, theirs) = (ours.expect("accepted").0, theirs.expect("connected"));
            let (got, given) = exchange(ours, theirs, (&up, &down)).await;
            assert!(got.expect("a clean end") == up, "pieces of {piece}");
            assert!(given.expect("a clean end") == down, "pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    for version in VERSIONS {
        let configs = configs(version);
        let (mut ours, mut theirs) = served(&configs).await;
        for _ in 0..3 {
            theirs.write_all(&bytes(5000)).await.expect("written");
            let mut buffer = [0; 5000];
            ours.read_exact(&mut buffer).await.expect("read");
            ours.write_all(&bytes(7000)).await.expect("written");
            ours.flush().await.expect("flushed");
            let mut buffer = [0; 7000];
            theirs.read_exact(&mut buffer).await.expect("read");
            waits_for_nothing(&ours);
        }
    }
}

#[tokio::test]
async fn fin_without_close_notify_is_a_truncation() {
    for version in VERSIONS {
        let configs = configs(version);
        let (mut ours, mut theirs) = served(&configs).await;
        theirs.write_all(b"half").await.expect("written");
        theirs.flush().await.expect("flushed");
        drop(theirs.into_inner().0);
        let mut got = Vec::new();
        let error = ours.read_to_end(&mut got).await.expect_err("no clean end");
        assert_eq!(
            (&got[..], error.kind()),
            (&b"half"[..], io::ErrorKind::UnexpectedEof)
        );
        // It stays so.
        let error = ours.read(&mut [0; 8]).await.expect_err("no clean end");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(ours.is_read_ready() && ours.is_read_closed());
    }
}

#[tokio::test]
async fn a_dropped_socket_says_goodbye_and_a_cut_one_does_not() {
    let configs = configs(&rustls::version::TLS13);
    let (mut ours, mut theirs) = served(&configs).await;
    ours.write_all(b"all of it").await.expect("written");
    drop(ours);
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.expect("a clean end");
    assert_eq!(got, b"all of it");

    let (mut ours, mut theirs) = served(&configs).await;
    ours.write_all(b"a part").await.expect("written");
    ours.reset_on_close();
    drop(ours);
    let error = theirs.read_to_end(&mut got).await.expect_err("a cut");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn one_half_may_end_before_the_other() {
    let configs = configs(&rustls::version::TLS13);
    let (mut ours, mut theirs) = served(&configs).await;
    theirs.write_all(b"question").await.expect("written");
    theirs.shutdown().await.expect("shut down");
    let mut got = Vec::new();
    ours.read_to_end(&mut got).await.expect("a clean end");
    assert_eq!(got, b"question");
    ours.write_all(b"answer").await.expect("written");
    drop(ours);
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.expect("a clean end");
    assert_eq!(got, b"answer");
}

#[tokio::test]
async fn what_a_peer_does_not_read_is_bounded() {
    let configs = configs(&rustls::version::TLS13);
    let (mut ours, mut theirs) = served(&configs).await;
    let block = bytes(1_000_000);
    let mut sent = 0;
    let full = timeout(Duration::from_millis(200), async {
        loop {
            sent += ours.write(&block).await.expect("written");
        }
    });
    let _: Result<(), _> = full.await;
    let Socket::Tls(tls) = &ours else {
        panic!("a TLS socket");
    };
    assert!(
        sent > 0 && tls.buffered() <= 70 * 1024,
        "{} bytes",
        tls.buffered()
    );
    assert!(!ours.is_flushed(), "a part waits inside");
    let read = async {
        let mut buffer = vec![0; 1 << 16];
        let mut got = 0;
        while got < sent {
            got += theirs.read(&mut buffer).await.expect("read");
        }
        assert_eq!(got, sent, "what was taken arrives");
    };
    let (flushed, ()) = timeout(PATIENCE, async { tokio::join!(ours.flush(), read) })
        .await
        .expect("it goes on");
    flushed.expect("flushed");
    assert!(ours.is_flushed());
    waits_for_nothing(&ours);
}

#[tokio::test]
async fn the_second_handshake_resumes_the_first() {
    for version in VERSIONS {
        let configs = configs(version);
        let mut resumed = Vec::new();
        for _ in 0..3 {
            let (ours, theirs) = pair();
            let connector = TlsConnector::from(configs.client.clone());
            let (ours, theirs) = tokio::join!(
                accept(ours, configs.server.clone()),
                connector.connect(name(), theirs)
            );
            let ((mut ours, handshaken), mut theirs) =
                (ours.expect("accepted"), theirs.expect("connected"));
            resumed.push(handshaken.resumed);
            // Tickets come with data.
            ours.write_all(b"x").await.expect("written");
            theirs.read_exact(&mut [0]).await.expect("read");
        }
        assert_eq!(resumed, [false, true, true], "{:?}", version.version);
    }
}

#[tokio::test]
async fn tickets_come_without_data_too() {
    let configs = configs(&rustls::version::TLS13);
    let (mut ours, mut theirs) = served(&configs).await;
    // Whoever waits for a request has nothing to say yet; the end is time enough.
    let mut byte = [0];
    let read = timeout(Duration::from_millis(50), ours.read(&mut byte));
    assert!(read.await.is_err(), "nothing was sent");
    drop(ours);
    theirs
        .read_to_end(&mut Vec::new())
        .await
        .expect("a clean end");
    let (ours, theirs) = pair();
    let connector = TlsConnector::from(configs.client.clone());
    let (ours, theirs) = tokio::join!(
        accept(ours, configs.server.clone()),
        connector.connect(name(), theirs)
    );
    theirs.expect("connected");
    assert!(ours.expect("accepted").1.resumed);
}

async fn refused(bytes: &[u8]) -> (TlsError, Vec<u8>) {
    let configs = configs(&rustls::version::TLS13);
    let (ours, mut theirs) = pair();
    theirs.write_all(bytes).await.expect("written");
    theirs.shutdown().await.expect("shut down");
    let refused = accept(ours, configs.server.clone()).await;
    let mut told = Vec::new();
    // A reset after the last byte is an end too.
    let _ = theirs.read_to_end(&mut told).await;
    (refused.expect_err("no TLS"), told)
}

#[tokio::test]
async fn plain_http_gets_a_plain_answer() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (error, told) = refused(request.as_bytes()).await;
        assert!(matches!(error, TlsError::PlainHttp), "{error}");
        let told = String::from_utf8(told).expect("text");
        assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
        let (head, body) = told.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {}", body.len())));
    }
}

#[tokio::test]
async fn bytes_that_are_no_tls_get_an_alert() {
    for garbage in [
        &b"\x00\x00\x00\x00\x00\x00"[..],
        &[0xff; 400],
        b"\x16\x03\x01\xff\xff",
        b"ssh-2.0\r\n",
    ] {
        let (error, told) = refused(garbage).await;
        assert_eq!(error.cause(), Cause::NotTls, "{error} for {garbage:?}");
        assert_eq!(told.first(), Some(&21), "an alert for {garbage:?}");
    }
    let (error, told) = refused(b"\x16\x03\x01\x02\x00").await;
    assert!(
        matches!(error, TlsError::Closed) && told.is_empty(),
        "{error}"
    );
}

#[tokio::test]
async fn no_version_in_common_is_said_so() {
    let (server, client) = (configs(VERSIONS[1]).server, configs(VERSIONS[0]).client);
    let (ours, theirs) = pair();
    let connector = TlsConnector::from(client);
    let (ours, theirs) = tokio::join!(accept(ours, server), connector.connect(name(), theirs));
    let error = ours.expect_err("nothing in common");
    assert_eq!(error.cause(), Cause::NothingInCommon);
    assert!(error.to_string().contains("min-version"), "{error}");
    assert!(
        theirs
            .expect_err("refused")
            .to_string()
            .contains("ProtocolVersion")
    );
}

#[tokio::test]
async fn an_untrusted_server_is_refused_with_the_cause() {
    let (server, client) = (configs(VERSIONS[1]).server, configs(VERSIONS[1]).client);
    let (ours, theirs) = pair();
    let acceptor = TlsAcceptor::from(server);
    let (ours, theirs) = tokio::join!(connect(ours, client, name()), acceptor.accept(theirs));
    let error = ours.expect_err("untrusted");
    assert_eq!(error.cause(), Cause::PeerCertificate);
    assert!(error.to_string().contains("not"), "{error}");
    assert!(theirs.is_err(), "the server hears of it");
}

#[tokio::test]
async fn a_client_that_waits_for_the_server_has_finished_its_handshake() {
    for version in VERSIONS {
        let configs = configs(version);
        let (ours, theirs) = pair();
        let acceptor = TlsAcceptor::from(configs.server.clone());
        let ours = async {
            let (mut ours, _) = connect(ours, configs.client.clone(), name())
                .await
                .expect("connected");
            let mut byte = [0];
            ours.read_exact(&mut byte).await.expect("the server speaks");
            byte
        };
        let theirs = async {
            let mut theirs = acceptor.accept(theirs).await.expect("accepted");
            theirs.write_all(b"!").await.expect("written");
            theirs.flush().await.expect("flushed");
            theirs
        };
        let both = async { tokio::join!(ours, theirs) };
        let (byte, _theirs) = timeout(PATIENCE, both)
            .await
            .expect("nobody waits for ever");
        assert_eq!(&byte, b"!");
    }
}

/// A client that is driven by hand, so that it can misbehave.
struct Puppet {
    tls: rustls::ClientConnection,
    stream: UnixStream,
}

impl Puppet {
    async fn connect(configs: &Configs) -> (Socket, Puppet) {
        let (ours, stream) = pair();
        let tls = rustls::ClientConnection::new(configs.client.clone(), name()).expect("a client");
        let mut puppet = Puppet { tls, stream };
        let (ours, ()) = tokio::join!(accept(ours, configs.server.clone()), puppet.handshake());
        (ours.expect("accepted").0, puppet)
    }

    async fn handshake(&mut self) {
        loop {
            self.send().await;
            if !self.tls.is_handshaking() {
                return;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).await.expect("read");
            let mut read = &buffer[..count];
            while !read.is_empty() {
                self.tls.read_tls(&mut read).expect("read");
                self.tls.process_new_packets().expect("TLS");
            }
        }
    }

    async fn send(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).expect("written");
        }
        self.stream.write_all(&out).await.expect("written");
    }
}

#[tokio::test]
async fn a_few_key_updates_pass_and_a_flood_is_cut() {
    use std::io::Write;
    let configs = configs(&rustls::version::TLS13);
    let (mut ours, mut puppet) = Puppet::connect(&configs).await;
    for round in 0..50 {
        puppet.tls.refresh_traffic_keys().expect("new keys");
        puppet.tls.writer().write_all(&[round]).expect("written");
        puppet.send().await;
        let mut byte = [0];
        ours.read_exact(&mut byte).await.expect("read");
        assert_eq!(byte[0], round);
        ours.write_all(&byte).await.expect("written");
    }
    for _ in 0..200 {
        puppet.tls.refresh_traffic_keys().expect("new keys");
    }
    puppet.send().await;
    let error = ours.read(&mut [0; 8]).await.expect_err("cut");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(
        ours.write_all(b"x").await.is_err(),
        "nothing follows an alert"
    );
}

#[tokio::test]
async fn a_changed_byte_never_passes() {
    use std::io::Write;
    let configs = configs(&rustls::version::TLS13);
    for place in [0, 1, 3, 4, 5, 20, 40] {
        let (mut ours, mut puppet) = Puppet::connect(&configs).await;
        puppet.tls.writer().write_all(&[b'x'; 64]).expect("written");
        let mut out = Vec::new();
        puppet.tls.write_tls(&mut out).expect("written");
        out[place] ^= 0x41;
        puppet.stream.write_all(&out).await.expect("written");
        puppet.stream.shutdown().await.expect("shut down");
        let mut got = Vec::new();
        ours.read_to_end(&mut got).await.expect_err("broken");
        assert!(got.is_empty(), "byte {place}");
    }
}

#[tokio::test]
async fn no_bytes_make_it_panic() {
    let configs = configs(&rustls::version::TLS13);
    // A client's first flight, changed in one place at a time.
    let mut tls = rustls::ClientConnection::new(configs.client.clone(), name()).expect("a client");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("written");
    let mut random = crate::util::random::Random::seeded(7);
    for round in 0..1500 {
        let mut bytes = hello.clone();
        for _ in 0..=(round % 3) {
            let place = (random.number() as usize) % bytes.len();
            bytes[place] = random.number() as u8;
        }
        if round % 5 == 0 {
            bytes.truncate((random.number() as usize) % bytes.len());
        }
        let (ours, mut theirs) = pair();
        theirs.write_all(&bytes).await.expect("written");
        theirs.shutdown().await.expect("shut down");
        let _: Result<(Socket, Handshaken), TlsError> = accept(ours, configs.server.clone()).await;
    }
}

#[tokio::test]
async fn handshake_messages_may_span_records() {
    for version in VERSIONS {
        let mut configs = configs(version);
        let (client, server) = (
            Arc::get_mut(&mut configs.client).expect("ours alone"),
            Arc::get_mut(&mut configs.server).expect("ours alone"),
        );
        (client.max_fragment_size, server.max_fragment_size) = (Some(64), Some(64));
        let (up, down) = (bytes(5000), bytes(7000));
        let (ours, theirs) = served(&configs).await;
        let (got, given) = exchange(ours, theirs, (&up, &down)).await;
        assert!(got.expect("a clean end") == up && given.expect("a clean end") == down);
        let (ours, theirs) = dialled(&configs).await;
        let (got, given) = exchange(ours, theirs, (&up, &down)).await;
        assert!(got.expect("a clean end") == up && given.expect("a clean end") == down);
        for piece in [1, 33, 70] {
            let (ours, relayed) = pair();
            let (out, theirs) = UnixStream::pair().expect("a socket pair");
            tokio::spawn(dribble(relayed, out, piece));
            let connector = TlsConnector::from(configs.client.clone());
            let (ours, theirs) = tokio::join!(
                accept(ours, configs.server.clone()),
                connector.connect(name(), theirs)
            );
            let (ours, theirs) = (ours.expect("accepted").0, theirs.expect("connected"));
            let (got, given) = exchange(ours, theirs, (&up, &down)).await;
            assert!(got.expect("a clean end") == up && given.expect("a clean end") == down);
        }
    }
}
