//! What the demo prints: what runs where, and what to try.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::demo::Places;
use crate::cli::demo::file::Written;

/// How long the proxy may take to be ready; it takes milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// The text, its values filled in by `Display`.
#[derive(Debug)]
pub(super) struct Guide {
    places: Places,
    written: Written,
    /// This program, as it can be called from here.
    program: String,
    traffic: bool,
}

impl Guide {
    pub(super) fn new(places: &Places, written: Written, traffic: bool) -> Self {
        Guide {
            places: places.clone(),
            written,
            program: program(),
            traffic,
        }
    }

    /// Prints once the proxy is ready. False when it did not become so: it has said why.
    pub(super) async fn wait_and_print(&self) -> bool {
        let deadline = Instant::now() + READY_WITHIN;
        while !is_ready(self.places.admin).await {
            if Instant::now() > deadline {
                return false;
            }
            sleep(ASK_EVERY).await;
        }
        anstream::println!("{self}");
        true
    }
}

impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Places {
            proxy,
            admin,
            origins,
        } = &self.places;
        let program = &self.program;
        let file = self.written.path.display();
        writeln!(f, "\nThe demo runs; Ctrl-C ends it.\n")?;
        writeln!(
            f,
            "  Open     http://{admin}/    live page: servers, states, weights, rates"
        )?;
        writeln!(f, "  Proxy    http://{proxy}/")?;
        for (index, (name, address)) in origins.iter().enumerate() {
            let title = if index == 0 { "Origins" } else { "" };
            writeln!(f, "  {title:8} http://{address}/    {name}")?;
        }
        match &self.written.remark {
            Some(remark) => writeln!(f, "  File     {file}    ({remark})")?,
            None => writeln!(f, "  File     {file}")?,
        }
        writeln!(f, "\nTry, in another terminal:\n")?;
        writeln!(
            f,
            "  curl http://{proxy}/hello                 # again and again: who answers?"
        )?;
        if let Some((name, address)) = origins.first() {
            writeln!(
                f,
                "  sed -i 's/\"{address}\" = 3/\"{address}\" = 1/' {file}"
            )?;
            writeln!(
                f,
                "                                    # or any editor: change a weight, watch the page"
            )?;
            writeln!(
                f,
                "  curl -X POST http://{address}/break       # {name} fails; no client notices"
            )?;
            writeln!(
                f,
                "  curl -X POST http://{address}/mend        # {name} comes back, slowly"
            )?;
        }
        writeln!(
            f,
            "  curl 'http://{proxy}/?delay=2s&status=404'    # a slow one, a failing one"
        )?;
        writeln!(
            f,
            "  curl http://{admin}/metrics               # what Prometheus scrapes"
        )?;
        writeln!(f, "  {program} explain GET http://{proxy}/hello -c {file}")?;
        if self.traffic {
            writeln!(
                f,
                "\nA client of ours sends a few requests a second, so that the page moves (--no-traffic: none)."
            )?;
        }
        Ok(())
    }
}

/// Short where it can be: relative to the current directory, or by name from the path.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else {
        return "evenkeel".into();
    };
    let relative = std::env::current_dir()
        .ok()
        .and_then(|directory| path.strip_prefix(directory).map(PathBuf::from).ok());
    match relative {
        Some(relative) => format!("./{}", relative.display()),
        None => "evenkeel".into(),
    }
}

async fn is_ready(admin: SocketAddr) -> bool {
    let asked = timeout(Duration::from_secs(1), ask(admin)).await;
    matches!(asked, Ok(Some(true)))
}

async fn ask(admin: SocketAddr) -> Option<bool> {
    let stream = TcpStream::connect(admin).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get("/readyz").header(header::HOST, admin.to_string());
    let request = request.body(Empty::<Bytes>::new()).ok()?;
    let answer = sender.send_request(request).await.ok()?;
    Some(answer.status().is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_comes_first_and_everything_is_named() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let guide = Guide {
            places: Places {
                proxy: at(8080),
                admin: at(9900),
                origins: vec![("apple".into(), at(9001)), ("birch".into(), at(9002))],
            },
            written: Written {
                path: "demo.toml".into(),
                remark: None,
            },
            program: "evenkeel".into(),
            traffic: true,
        };
        let text = guide.to_string();
        let first_address = text
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        assert_eq!(first_address, Some("http://127.0.0.1:9900/"));
        for part in [
            "http://127.0.0.1:8080/hello",
            "9001/break",
            "9001/mend",
            "/metrics",
            "--no-traffic",
        ] {
            assert!(text.contains(part), "{part:?} is missing");
        }
    }
}
