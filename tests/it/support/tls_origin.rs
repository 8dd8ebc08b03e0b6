//! An origin that speaks TLS: answers what it is asked, and says what it saw of the handshake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::DEADLINE;
use super::tls::Issued;

/// Serves until the test ends.
pub struct TlsOrigin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicUsize,
    handshakes: Mutex<Vec<Seen>>,
    requests: Mutex<Vec<String>>,
    /// What came before the handshake, up to its first byte of TLS.
    introductions: Mutex<Vec<Vec<u8>>>,
}

/// One finished handshake.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub server_name: Option<String>,
    pub alpn: Option<String>,
    pub resumed: bool,
    pub client_certificate: Option<Vec<u8>>,
}

/// How an origin behaves.
#[derive(Clone)]
pub struct Behaviour {
    pub identity: Issued,
    /// Of clients; PEM.
    pub client_ca: Option<String>,
    pub alpn: Vec<Vec<u8>>,
    /// Bytes of a PROXY header that come before the handshake: read until this ending, or a
    /// whole version 2 header.
    pub introduced: bool,
    /// Done to `/fault` in place of an answer; then the connection ends, without `close_notify`.
    pub fault: Option<fn(&mut Tls)>,
}

/// A connection after its handshake.
pub type Tls = StreamOwned<ServerConnection, TcpStream>;

impl Behaviour {
    pub fn of(identity: &Issued) -> Self {
        Behaviour {
            identity: identity.clone(),
            client_ca: None,
            alpn: vec![b"http/1.1".to_vec()],
            introduced: false,
            fault: None,
        }
    }
}

impl TlsOrigin {
    pub fn start(behaviour: &Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let (config, state) = (config(behaviour), shared.clone());
        let (introduced, fault) = (behaviour.introduced, behaviour.fault);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                state.accepted.fetch_add(1, Ordering::SeqCst);
                let (config, state) = (config.clone(), state.clone());
                thread::spawn(move || {
                    // A test's client may leave at any point.
                    let _ = serve(stream, config, (introduced, fault), &state);
                });
            }
        });
        TlsOrigin { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    pub fn handshakes(&self) -> Vec<Seen> {
        self.shared.handshakes.lock().expect("not poisoned").clone()
    }

    /// The heads, in order.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    pub fn introductions(&self) -> Vec<Vec<u8>> {
        self.shared
            .introductions
            .lock()
            .expect("not poisoned")
            .clone()
    }
}

/// Notes the name that was asked for, and shows the one certificate.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

fn config(behaviour: &Behaviour) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(behaviour.identity.key.as_bytes()).expect("a key");
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let certificate = CertificateDer::from_pem_slice(behaviour.identity.cert.as_bytes());
    let shown = CertifiedKey::new(vec![certificate.expect("a certificate")], key);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match &behaviour.client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            let ca = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a CA");
            roots.add(ca).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown(Arc::new(shown))));
    config.alpn_protocols.clone_from(&behaviour.alpn);
    Arc::new(config)
}

fn serve(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    (introduced, fault): (bool, Option<fn(&mut Tls)>),
    shared: &Shared,
) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    if introduced {
        let introduction = introduction(&mut stream)?;
        shared
            .introductions
            .lock()
            .expect("not poisoned")
            .push(introduction);
    }
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let seen = Seen {
        server_name: tls.server_name().map(str::to_owned),
        alpn: tls
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned()),
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        client_certificate: tls
            .peer_certificates()
            .and_then(|list| Some(list.first()?.to_vec())),
    };
    shared.handshakes.lock().expect("not poisoned").push(seen);
    let mut tls = StreamOwned::new(tls, stream);
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        if tls.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&std::mem::take(&mut head)).into_owned();
            let fault = fault.filter(|_| text.contains(" /fault "));
            shared.requests.lock().expect("not poisoned").push(text);
            if let Some(fault) = fault {
                fault(&mut tls);
                return Ok(());
            }
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")?;
            tls.flush()?;
        }
    }
}

/// A PROXY header of either version, and not a byte more.
pub fn introduction(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 1];
    stream.read_exact(&mut header)?;
    let mut byte = [0];
    if header == b"P" {
        while !header.ends_with(b"\r\n") {
            stream.read_exact(&mut byte)?;
            header.push(byte[0]);
        }
        return Ok(header);
    }
    header.resize(16, 0);
    stream.read_exact(&mut header[1..])?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    header.resize(16 + length, 0);
    stream.read_exact(&mut header[16..])?;
    Ok(header)
}
