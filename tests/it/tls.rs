//! TLS towards clients, over real sockets; the clients are rustls' own buffered ones.

mod certificates;
mod clients;
mod handshakes;
mod http2;
mod traffic;

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use super::support::tls::{Authority, Issued, connect};
use super::support::{Client, Origin, Proxy, app};

/// A proxy with certificates beside its file.
struct Scene {
    proxy: Proxy,
    authority: Authority,
}

/// One listener with `site.pem` for a.example, and the origin behind it.
fn listener(rest: &str) -> String {
    format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"site.pem\", key = \"site.key\" }}]{rest} }}\n"
    )
}

/// `config` with whatever stands beside it.
fn scene(config: &str, files: impl FnOnce(&Authority, &Path)) -> Scene {
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    files(&authority, directory.path());
    let proxy = match Proxy::start_in(directory, config) {
        Ok(proxy) => proxy,
        Err(evenkeel::app::StartError::Config(mistakes)) => {
            panic!("{}", mistakes.render_human(false))
        }
        Err(error) => panic!("the proxy starts: {error:?}"),
    };
    Scene { proxy, authority }
}

/// The usual one: a.example in front of `origin`.
fn simple(origin: &Origin, rest: &str) -> Scene {
    let config = listener("") + &app(&[origin], "") + rest;
    scene(&config, |authority, directory| {
        authority.issue(&["a.example"]).write(directory, "site");
    })
}

impl Scene {
    /// What a client of today offers.
    fn client_config(&self) -> Arc<ClientConfig> {
        self.authority.client().build()
    }

    #[track_caller]
    fn client(&self) -> Client {
        connect(self.proxy.address(), &self.client_config(), "a.example")
    }

    fn handshakes(&self, result: &str) -> f64 {
        let series =
            format!("evenkeel_tls_handshakes_total{{listener=\"web\",result=\"{result}\"}}");
        self.proxy.metric(&series).unwrap_or(0.0)
    }
}

/// A certificate of nobody's trust.
fn stranger() -> Issued {
    Authority::new().issue(&["a.example"])
}
