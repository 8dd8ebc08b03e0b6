//! HTTP/2 towards servers: every message arrives as what it is, one stream's failure is nobody
//! else's, and no server gets more out of us than its requests are worth.

mod answers;
mod floods;
mod messages;
mod protocols;
pub mod raw;
mod refusals;
mod storms;
mod tunnels;

use super::support::{Client, H2Origin, Proxy};

/// One route to `address` by HTTP/2, with whatever else is needed.
fn file(address: std::net::SocketAddr, rest: &str) -> String {
    format!(
        "[process]\nworkers = 1\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nprotocol = \"h2\"\nservers = [\"{address}\"]\n{rest}\n"
    )
}

pub fn to(address: std::net::SocketAddr, rest: &str) -> Proxy {
    Proxy::start(&file(address, rest))
}

fn proxy(origin: &H2Origin) -> Proxy {
    to(origin.address(), "breaker = { mode = \"off\" }")
}

/// A request with a body of `bytes` in one piece, and its answer.
fn posted(client: &mut Client, target: &str, body: &[u8]) -> super::support::Response {
    client.post(target, body)
}
