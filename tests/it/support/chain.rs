//! A client, one proxy or two, and a plain origin: the same way once without TLS and once with TLS
//! on every connection that a proxy makes or takes.

use std::sync::Arc;

use rustls::ClientConfig;

use super::tls::{Authority, connect, replace};
use super::{Client, Origin, Proxy};

/// The way to one origin.
pub struct Chain {
    pub front: Proxy,
    /// Speaks TLS with the one in front, and plain to the origin.
    _back: Option<Proxy>,
    settings: Option<Arc<ClientConfig>>,
}

impl Chain {
    /// Plain: the client, one proxy, the origin. `rest`: keys and tables of upstream `app`.
    pub fn plain(origin: &Origin, rest: &str) -> Self {
        Chain {
            front: Proxy::start(&upstream(&origin.address().to_string(), rest)),
            _back: None,
            settings: None,
        }
    }

    /// Over TLS: the client, a proxy, another proxy, and only then the origin.
    pub fn secure(origin: &Origin, rest: &str) -> Self {
        let ca = Authority::new();
        let site = ca.issue(&["site.example", "127.0.0.1"]);
        let place = || {
            let directory = tempfile::tempdir().expect("a temporary directory");
            site.write(directory.path(), "site");
            replace(&directory.path().join("ca.pem"), &ca.pem());
            directory
        };
        let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
             tls = { certificates = [{ cert = \"site.pem\", key = \"site.key\" }] }\n";
        let back = listener.to_owned() + &upstream(&origin.address().to_string(), rest);
        let back = Proxy::start_in(place(), &back).expect("it starts");
        let to_back = format!("tls = {{ ca = \"ca.pem\" }}\n{rest}");
        let front = listener.to_owned() + &upstream(&back.address().to_string(), &to_back);
        Chain {
            front: Proxy::start_in(place(), &front).expect("it starts"),
            _back: Some(back),
            settings: Some(ca.client().build()),
        }
    }

    /// Both ways, one after the other.
    pub fn each(origin: impl Fn() -> Origin, rest: &str, check: impl Fn(&Chain, &Origin)) {
        for start in [Chain::plain, Chain::secure] {
            let origin = origin();
            let chain = start(&origin, rest);
            check(&chain, &origin);
        }
    }

    /// A fresh connection.
    pub fn client(&self) -> Client {
        match &self.settings {
            None => self.front.client(),
            Some(settings) => connect(self.front.address(), settings, "site.example"),
        }
    }
}

fn upstream(address: &str, rest: &str) -> String {
    format!(
        "[upstream.app]\nservers = [\"{address}\"]\n{rest}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    )
}
