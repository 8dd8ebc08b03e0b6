//! `[upstream.NAME.connections]`, and the kinds of addresses that servers have.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use super::support::{Client, Origin, Proxy, eventually, value_within};

fn config(server: impl std::fmt::Display, rest: &str) -> String {
    format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"{server}\"]\n{rest}\n"
    )
}

#[test]
fn a_connection_is_kept_for_the_next_request() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&config(origin.address(), ""));
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.connections(), 1);
    let series = |family: &str| {
        format!(
            "{family}{{upstream=\"app\",server=\"{}\"}}",
            origin.address()
        )
    };
    eventually("the connection is idle", || {
        proxy.metric(&series("evenkeel_upstream_connections_idle")) == Some(1.0)
            && proxy.metric(&series("evenkeel_upstream_connections_active")) == Some(0.0)
    });
}

#[test]
fn an_idle_connection_ends_a_second_before_the_server_would_end_it() {
    let origin =
        Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=2\r\n\r\n");
    let proxy = Proxy::start(&config(origin.address(), ""));
    assert_eq!(proxy.get("/").status, 200);
    let closed = || (origin.open() == 0).then_some(());
    value_within(Duration::from_millis(2000), "closed by us", closed);
}

#[test]
fn idle_connections_end_with_the_servers_removal() {
    let (old, new) = (Origin::good("old"), Origin::good("new"));
    let proxy = Proxy::start(&config(old.address(), ""));
    assert_eq!(proxy.get("/").text(), "old");
    assert_eq!(old.open(), 1);
    proxy.reconfigure(&config(new.address(), ""));
    eventually("the old server's connection is closed", || old.open() == 0);
    assert_eq!(proxy.get("/").text(), "new");
}

#[test]
fn a_reload_that_keeps_the_server_keeps_its_connections() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&config(origin.address(), ""));
    let mut client = proxy.client();
    client.get("/");
    proxy.reconfigure(&config(origin.address(), "balance = \"least-requests\""));
    client.get("/");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn max_connections_holds_over_all_workers_and_costs_no_request() {
    let origin = Origin::good("hello");
    let cap = "queue = { size = 1024, timeout = \"20s\" }\n\
               [upstream.app.connections]\nmax-connections = 2";
    let proxy = Proxy::start(&config(origin.address(), cap));
    let address = proxy.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..50)
                    .map(|_| client.get("/").status)
                    .collect::<Vec<u16>>()
            })
        })
        .collect();
    while !clients.iter().all(thread::JoinHandle::is_finished) {
        let metrics = proxy.metrics();
        let open: u32 = ["active", "idle"]
            .iter()
            .filter_map(|kind| {
                let family = format!("evenkeel_upstream_connections_{kind}{{");
                let line = metrics.lines().find(|line| line.starts_with(&family))?;
                line.rsplit(' ').next()?.parse::<u32>().ok()
            })
            .sum();
        assert!(open <= 2, "{open} active and idle");
    }
    for client in clients {
        let statuses = client.join().expect("no client fails");
        assert_eq!(statuses, [200; 50]);
    }
}

#[test]
fn servers_may_be_names() {
    let origin = Origin::good("hello");
    let server = format!("localhost:{}", origin.address().port());
    let proxy = Proxy::start(&config(&server, ""));
    assert_eq!(proxy.get("/").text(), "hello");
}

#[test]
fn a_name_that_does_not_resolve_stops_nothing() {
    let origin = Origin::good("hello");
    let servers = format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nservers = [\"nowhere.invalid:80\", \"{}\"]\n",
        origin.address()
    );
    let proxy = Proxy::start(&servers);
    for _ in 0..4 {
        assert_eq!(proxy.get("/").text(), "hello");
    }
}

#[test]
fn servers_may_be_unix_sockets() {
    let directory = tempfile::tempdir().expect("can be made");
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix";
                stream.write_all(answer).expect("the proxy reads");
            }
        }
    });
    let health = "[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"";
    let proxy = Proxy::start(&config(format_args!("unix:{}", path.display()), health));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "unix");
    }
}

#[test]
fn no_more_than_max_idle_are_kept() {
    let origin = Origin::good("hello");
    let kept = "[upstream.app.connections]\nmax-idle = 2\n[process]\nworkers = 1\n";
    let proxy = Proxy::start(&config(origin.address(), kept));
    let address = proxy.address();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..10).all(|_| client.get("/").status == 200)
            })
        })
        .collect();
    assert!(
        clients
            .into_iter()
            .all(|client| client.join().expect("no panic"))
    );
    eventually("the others are closed", || origin.open() <= 2);
    assert!(origin.open() >= 1, "and these are kept");
}
