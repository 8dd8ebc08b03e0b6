//! What happens near the limits of the process: who is let in, who is let go of, and that everybody
//! else is served meanwhile.

mod admin;
mod connections;
mod descriptors;
mod listeners;
mod memory;
mod rates;
mod storm;
mod table;

use std::time::Duration;

use super::support::{Client, Connection, Origin, Process, Proxy, app};

/// `most` connections for the process, with two workers.
fn config(origin: &Origin, most: usize, rest: &str) -> String {
    let process = format!("[process]\nworkers = 2\nmax-connections = {most}\n{rest}\n");
    format!("{process}{}", app(&[origin], ""))
}

/// Answers at once, but `/held` only when its client has gone, and `/long` with more than any
/// buffer takes.
fn holding() -> Origin {
    Origin::scripted(|connection: &mut Connection| {
        while let Some(request) = connection.request() {
            match &*request.target() {
                "/held" => return connection.wait_for_close(),
                "/long" => {
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
                    let piece = [b'x'; 100_000];
                    while connection.try_send(piece).is_ok() {}
                    return;
                }
                "/events" => {
                    connection.send(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n",
                    );
                    return connection.wait_for_close();
                }
                _ => connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            }
        }
    })
}

/// A request that is under way until its client goes.
fn held(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    client
}

fn open(proxy: &Proxy) -> u64 {
    proxy.status()["connections"].as_u64().expect("a number")
}

/// `/status` of a process.
fn status(process: &Process) -> serde_json::Value {
    let mut client = Client::connect(process.admin);
    client.send(format!(
        "GET /status HTTP/1.1\r\nHost: {}\r\n\r\n",
        process.admin
    ));
    client.response().json()
}

fn refused(proxy: &Proxy) -> f64 {
    let series = "evenkeel_connections_refused_total{listener=\"web\"}";
    proxy.metric(series).unwrap_or(0.0)
}

fn cut(proxy: &Proxy, cause: &str) -> f64 {
    cut_at(proxy, "web", cause)
}

fn cut_at(proxy: &Proxy, listener: &str, cause: &str) -> f64 {
    let family = "evenkeel_downstream_connections_cut_total";
    let series = format!("{family}{{listener=\"{listener}\",cause=\"{cause}\"}}");
    proxy.metric(&series).unwrap_or(0.0)
}

/// Whether the proxy has closed it, without waiting.
fn is_over(client: &mut Client) -> bool {
    !client.is_silent_for(Duration::from_millis(1))
}

/// Sends a byte; false when the connection is gone.
fn drip(client: &mut Client, byte: u8) -> bool {
    client.try_send([byte]).is_ok()
}
