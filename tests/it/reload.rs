//! Configuration changes while traffic runs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::proxy::complete;
use crate::support::{Client, Connection, Origin, Process, Proxy, eventually};

/// One route to servers that are given as (origin, weight).
fn routed(servers: &[(&Origin, u32)]) -> String {
    let servers: Vec<_> = servers
        .iter()
        .map(|(origin, weight)| format!("\"{}\" = {weight}", origin.address()))
        .collect();
    format!(
        "[upstream.users]\nservers = {{ {} }}\n[[route]]\nprefix = \"/\"\nupstream = \"users\"\n",
        servers.join(", ")
    )
}

/// Starts with everything to `old`; `change` is what an editor does with the new text, which
/// sends everything to `new`. The change must be live within the contract's half second (and a
/// reserve for a busy machine), without a signal.
fn is_live_after(change: impl FnOnce(&Path, &str)) {
    let (old, new) = (Origin::good("old"), Origin::good("new"));
    let proxy = Proxy::start(&routed(&[(&old, 1)]));
    assert_eq!(proxy.get("/").text(), "old");
    change(&proxy.path(), &complete(&routed(&[(&new, 1)])));
    let changed = Instant::now();
    eventually("the change is live", || proxy.get("/").text() == "new");
    let took = changed.elapsed();
    assert!(took < Duration::from_millis(1500), "live after {took:?}");
}

#[test]
fn a_rename_over_the_file_is_seen() {
    is_live_after(|path, text| {
        let aside = path.with_extension("tmp");
        fs::write(&aside, text).expect("writes");
        fs::rename(&aside, path).expect("renames");
    });
}

#[test]
fn truncate_and_write_is_seen() {
    is_live_after(|path, text| fs::write(path, text).expect("writes"));
}

#[test]
fn deletion_and_return_is_seen() {
    is_live_after(|path, text| {
        fs::remove_file(path).expect("removes");
        fs::write(path, text).expect("writes");
    });
}

#[test]
fn an_editor_that_keeps_a_backup_is_seen() {
    is_live_after(|path, text| {
        fs::rename(path, path.with_extension("toml~")).expect("renames");
        fs::write(path, text).expect("writes");
    });
}

#[test]
fn a_configmap_swap_is_seen() {
    let (old, new) = (Origin::good("old"), Origin::good("new"));
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().to_owned();
    let put = |name: &str, text: &str| {
        fs::create_dir(root.join(name)).expect("creates");
        fs::write(root.join(name).join("config.toml"), text).expect("writes");
    };
    put("..1", &complete(&routed(&[(&old, 1)])));
    std::os::unix::fs::symlink("..1", root.join("..data")).expect("links");
    let file = root.join("config.toml");
    std::os::unix::fs::symlink("..data/config.toml", &file).expect("links");
    let options = evenkeel::app::Options::new(&file);
    let running = evenkeel::app::Running::start(options).expect("starts");
    let address = running.listeners()[0].1.tcp().expect("an IP address");
    assert_eq!(Client::connect(address).get("/").text(), "old");
    for (version, (origin, body)) in [(&new, "new"), (&old, "old")].into_iter().enumerate() {
        let name = format!("..{}", version + 2);
        put(&name, &complete(&routed(&[(origin, 1)])));
        std::os::unix::fs::symlink(&name, root.join("..data_tmp")).expect("links");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renames");
        fs::remove_dir_all(root.join(format!("..{}", version + 1))).expect("removes");
        eventually("the swap is live", || {
            Client::connect(address).get("/").text() == body
        });
    }
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let (old, new) = (Origin::good("old"), Origin::good("new"));
    let proxy = Proxy::start(&routed(&[(&old, 1)]));
    let text = complete(&routed(&[(&new, 1)]));
    let (first, second) = text.split_at(text.len() / 2);
    let mut file = fs::File::create(proxy.path()).expect("truncates");
    file.write_all(first.as_bytes()).expect("writes");
    thread::sleep(Duration::from_millis(500));
    file.write_all(second.as_bytes()).expect("writes");
    drop(file);
    eventually("the change is live", || proxy.get("/").text() == "new");
    let failed = "evenkeel_config_reloads_total{result=\"failure\"}";
    assert_eq!(
        proxy.metric(failed).unwrap_or(0.0),
        0.0,
        "half of it was never read"
    );
}

#[test]
fn a_rejected_file_changes_nothing_and_is_told() {
    let origin = Origin::good("same");
    let proxy = Proxy::start(&routed(&[(&origin, 1)]));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "same");
    for broken in [
        "",
        "[[route]\n",
        "listener = 3\n",
        "[upstream.users]\nservers = []\n",
    ] {
        let aside = proxy.directory().join("aside");
        fs::write(&aside, broken).expect("writes");
        fs::rename(&aside, proxy.path()).expect("renames");
        let answer = proxy.reload();
        assert_ne!(answer.status, 200, "{broken:?} was accepted");
        assert_eq!(client.get("/").text(), "same");
        assert_eq!(proxy.generation(), 1);
        assert_eq!(proxy.status()["last_reload"]["successful"], false);
        assert_eq!(
            proxy.metric("evenkeel_config_last_reload_successful"),
            Some(0.0)
        );
    }
    proxy.reconfigure(&routed(&[(&origin, 1)]));
    assert_eq!(proxy.generation(), 1, "the content is the one in use");
    assert_eq!(proxy.status()["last_reload"]["successful"], true);
}

#[test]
fn an_include_pattern_that_matches_nothing_any_more_is_refused() {
    let (one, two) = (Origin::good("one"), Origin::good("two"));
    let directory = tempfile::tempdir().expect("a directory");
    let routes = directory.path().join("routes.d");
    fs::create_dir(&routes).expect("creates");
    fs::write(routes.join("users.toml"), routed(&[(&one, 1)])).expect("writes");
    let config = "include = [\"routes.d/*.toml\"]\n";
    let proxy = Proxy::start_in(directory, config).expect("starts");
    assert_eq!(proxy.get("/").text(), "one");

    fs::rename(routes.join("users.toml"), routes.join("users.off")).expect("renames");
    assert_ne!(proxy.reload().status, 200);
    assert_eq!(proxy.get("/").text(), "one");

    fs::write(routes.join("more.toml"), routed(&[(&two, 1)])).expect("writes");
    eventually("a new include is live", || proxy.get("/").text() == "two");
}

#[test]
fn same_content_is_no_reload_and_closes_nothing() {
    let origin = Origin::good("same");
    let proxy = Proxy::start(&routed(&[(&origin, 1)]));
    let mut client = proxy.client();
    client.get("/");
    for _ in 0..3 {
        proxy.reconfigure(&routed(&[(&origin, 1)]));
    }
    assert_eq!(proxy.generation(), 1);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(
        origin.connections(),
        1,
        "the connection to the server was kept"
    );
}

#[test]
fn listeners_come_and_go() {
    let origin = Origin::good("here");
    let routes = routed(&[(&origin, 1)]);
    let first = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n";
    let second = "[[listener]]\nname = \"b\"\naddress = \"127.0.0.2:0\"\n";
    let proxy = Proxy::start(&format!("{first}{routes}"));
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").status, 200);

    // The port of the added one is only known to the log: take one that is free now.
    let free = std::net::TcpListener::bind("127.0.0.2:0").expect("binds");
    let address = free.local_addr().expect("bound");
    drop(free);
    let second = second.replace("127.0.0.2:0", &address.to_string());
    proxy.reconfigure(&format!("{first}{second}{routes}"));
    let mut on_second = Client::connect(address);
    assert_eq!(on_second.get("/").text(), "here");

    proxy.reconfigure(&format!("{first}{routes}"));
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "the removed one refuses"
    );
    assert!(on_second.is_closed(), "its idle connections end");
    assert_eq!(kept.get("/").status, 200, "the other one's do not");
}

#[test]
fn a_listener_that_cannot_be_bound_refuses_the_whole_file() {
    let (old, new) = (Origin::good("old"), Origin::good("new"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound");
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::start(&format!("{listener}{}", routed(&[(&old, 1)])));
    let more = format!("[[listener]]\nname = \"more\"\naddress = \"{address}\"\n");
    proxy.write(&format!("{listener}{more}{}", routed(&[(&new, 1)])));
    let answer = proxy.reload();
    assert_ne!(answer.status, 200);
    assert!(
        answer.text().contains(&address.to_string()),
        "{}",
        answer.text()
    );
    assert_eq!(proxy.get("/").text(), "old");
}

#[test]
fn changed_trust_ends_connections_after_their_current_request() {
    let origin = Origin::good("ok");
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let routes = routed(&[(&origin, 1)]);
    let proxy = Proxy::start(&format!("{listener}{routes}"));
    let mut client = proxy.client();
    client.get("/");
    proxy.reconfigure(&format!("{listener}backlog = 100\n{routes}"));
    assert_eq!(client.get("/").status, 200, "another change ends nothing");
    proxy.reconfigure(&format!(
        "{listener}trusted-proxies = [\"10.0.0.0/8\"]\n{routes}"
    ));
    assert!(client.is_closed());
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn requests_under_way_finish_by_the_old_rules() {
    let release = Arc::new(AtomicBool::new(false));
    let slow = Origin::scripted({
        let release = release.clone();
        move |connection: &mut Connection| {
            while connection.request().is_some() {
                eventually("the test goes on", || release.load(Ordering::SeqCst));
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
            }
        }
    });
    let fast = Origin::good("fast");
    let proxy = Proxy::start(&routed(&[(&slow, 1)]));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    slow.last();
    proxy.reconfigure(&routed(&[(&fast, 1)]));
    assert_eq!(proxy.get("/").text(), "fast");
    release.store(true, Ordering::SeqCst);
    assert_eq!(client.response().text(), "slow");
    assert_eq!(
        client.get("/").text(),
        "fast",
        "the same connection, the new rules"
    );
}

/// Requests on kept-alive connections, GET and POST, until told to stop; counts and failures.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: std::net::SocketAddr, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let threads = (0..connections)
            .map(|index| {
                let (stop, done) = (stop.clone(), done.clone());
                thread::spawn(move || {
                    let mut failures = Vec::new();
                    let mut client = Client::connect(address);
                    while !stop.load(Ordering::Relaxed) && failures.len() < 5 {
                        let (head, body) = match index % 2 {
                            0 => ("GET /api/x HTTP/1.1\r\nHost: test\r\n\r\n", ""),
                            _ => (
                                "POST /api/x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n",
                                "hello",
                            ),
                        };
                        let sent = client.try_send(format!("{head}{body}"));
                        match sent.and_then(|()| client.try_response()) {
                            Ok(response) if response.status == 200 => {
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(response) => {
                                failures.push(format!("{} {}", response.status, response.text()));
                            }
                            Err(error) => {
                                failures.push(error.to_string());
                                client = Client::connect(address);
                            }
                        }
                    }
                    failures
                })
            })
            .collect();
        Load {
            stop,
            done,
            threads,
        }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn failures(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        joined.flatten().collect()
    }
}

#[test]
fn five_hundred_reloads_under_load_lose_nothing_and_leak_nothing() {
    let origins: Vec<_> = (0..4).map(|_| Origin::good("ok")).collect();
    let config = |round: usize| {
        let servers: Vec<_> = origins
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != round % 4)
            .map(|(index, origin)| (origin, 1 + ((round + index) % 5) as u32))
            .collect();
        let extra = match round % 3 {
            0 => String::new(),
            n => format!(
                "[upstream.extra{n}]\nservers = [\"{}\"]\n\
                 [[route]]\nprefix = \"/extra/{n}\"\nupstream = \"extra{n}\"\n",
                origins[0].address()
            ),
        };
        format!("{}{extra}# {round}\n", routed(&servers))
    };
    // In a process of its own, whose memory and descriptors no other test uses.
    let proxy = Process::start(&config(0));
    let load = Load::start(proxy.listener, 4);
    let settle = 50;
    let mut before = (0, 0);
    for round in 1..=500 {
        let broken = round % 10 == 0;
        let text = if broken {
            "[[route]]\nprefix = \"/broken\"\n".to_owned()
        } else {
            config(round)
        };
        let answer = proxy.reload(&text);
        assert_eq!(answer.status != 200, broken, "{round}: {}", answer.text());
        if round == settle {
            before = (proxy.descriptors(), proxy.resident());
        }
    }
    assert!(
        load.done() > 500,
        "{} requests while reloading",
        load.done()
    );
    let after = (proxy.descriptors(), proxy.resident());
    let failures = load.failures();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(
        after.0 < before.0 + 20,
        "descriptors: {} -> {}",
        before.0,
        after.0
    );
    assert!(
        after.1 < before.1 + 30 * 1024,
        "resident KiB: {} -> {}",
        before.1,
        after.1
    );
}
