//! `evenkeel demo`: the whole thing with no other program.
//!
//! Three origin servers and a slow client run on a thread of their own; the proxy is the real one,
//! started with a file like any other, so that what a first-time user sees and edits is what
//! they will run.

mod file;
mod guide;
mod origin;
mod traffic;

use std::io;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use tokio::net::TcpListener;

use crate::app;
use crate::cli::demo::guide::Guide;
use crate::cli::demo::origin::Origin;

/// Names of the origins and the ports that they have where these are free.
const ORIGINS: [(&str, u16); 3] = [("apple", 9001), ("birch", 9002), ("cedar", 9003)];
const PROXY_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9900;

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Do not send the gentle background traffic that makes the page move
    #[arg(long)]
    pub no_traffic: bool,
    /// Run one origin server only, with this name (used by docker/compose.yaml)
    #[arg(long, hide = true, requires = "address")]
    pub origin: Option<String>,
    /// Where that origin listens
    #[arg(long, hide = true, requires = "origin")]
    pub address: Option<SocketAddr>,
}

/// Where everything of a running demo is.
#[derive(Debug, Clone)]
struct Places {
    proxy: SocketAddr,
    admin: SocketAddr,
    origins: Vec<(Arc<str>, SocketAddr)>,
}

/// Runs until Ctrl-C or TERM.
pub fn run(options: Options) -> ExitCode {
    let outcome = match (options.origin, options.address) {
        (Some(name), Some(address)) => origin::run_alone(&name, address),
        _ => run_all(!options.no_traffic),
    };
    outcome.unwrap_or_else(|error| {
        anstream::eprintln!("evenkeel demo: {error}");
        ExitCode::from(3)
    })
}

fn run_all(traffic: bool) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    let (places, origins) = runtime.block_on(claim_places())?;
    let written = file::write(&places)?;
    // The proxy watches the file's directory: a bare name has none.
    let config = std::path::absolute(&written.path)?;
    thread::Builder::new().name("demo".into()).spawn(move || {
        runtime.block_on(async {
            for (listener, origin) in origins {
                tokio::spawn(origin::serve(listener, origin));
            }
            // The process ends when the proxy does.
            std::future::pending::<()>().await;
        });
    })?;
    let options = app::Options {
        signals: true,
        logging: true,
        ..app::Options::new(&config)
    };
    Ok(super::run::serve(options, |_| {
        let proxy = places.proxy;
        // In one write, so that no event of the proxy stands in its middle.
        let text = format!("{}\n", Guide::new(places, written, traffic));
        if std::io::stdout().write_all(text.as_bytes()).is_err() {
            tracing::debug!("nobody reads the guide");
        }
        if traffic {
            handle.spawn(traffic::run(proxy));
        }
    }))
}

/// Binds the origins, and finds ports for the proxy, which binds its own.
async fn claim_places() -> io::Result<(Places, Vec<(TcpListener, Arc<Origin>)>)> {
    let mut origins = Vec::new();
    let mut addresses = Vec::new();
    for (name, port) in ORIGINS {
        let listener = bind(port).await?;
        let origin = Origin::new(name);
        addresses.push((origin.name().clone(), listener.local_addr()?));
        origins.push((listener, origin));
    }
    // Both held until both are known, so that they differ.
    let (proxy, admin) = (bind(PROXY_PORT).await?, bind(ADMIN_PORT).await?);
    let places = Places {
        proxy: proxy.local_addr()?,
        admin: admin.local_addr()?,
        origins: addresses,
    };
    Ok((places, origins))
}

/// On loopback, at this port or, where it is taken, at a free one.
async fn bind(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_replaced_by_a_free_one() {
        let first = bind(0).await.expect("binds");
        let taken = first.local_addr().expect("has an address").port();
        let second = bind(taken).await.expect("falls back");
        assert_ne!(second.local_addr().expect("has an address").port(), taken);
    }
}
