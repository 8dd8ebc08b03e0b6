//! Listeners on unix sockets: their file, their clients, and what a reload does to them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evenkeel::app::StartError;
use tempfile::TempDir;

use crate::support::{DEADLINE, Origin, Proxy, app, eventually};

fn listener(path: &Path, more: &str) -> String {
    let path = path.display();
    format!("[[listener]]\nname = \"local\"\naddress = \"unix:{path}\"\n{more}\n")
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the socket accepts connections");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("is a socket");
    stream
}

/// Everything that comes back to these bytes until the proxy closes.
fn exchange(path: &Path, bytes: &str) -> String {
    let mut stream = connect(path);
    stream.write_all(bytes.as_bytes()).expect("are taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    answer
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

fn get(path: &Path) -> String {
    exchange(path, GET)
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn requests_come_in_over_a_socket_and_its_file_goes_at_the_end() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let proxy = Proxy::start(&(listener(&path, "") + &app(&[&origin], "")));
    let mode = fs::metadata(&path).expect("is there").mode();
    assert_eq!(mode & 0o777, 0o666);

    let answer = get(&path);
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"),
        "{answer}"
    );
    let last = origin.last();
    assert_eq!(last.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(last.header("x-forwarded-proto").as_deref(), Some("http"));

    // A second request on a kept connection, and a body.
    let mut stream = connect(&path);
    for _ in 0..2 {
        let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc";
        stream.write_all(post.as_bytes()).expect("are taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            let mut some = [0; 1024];
            let count = stream.read(&mut some).expect("an answer comes");
            assert!(count > 0, "the connection is kept");
            answer.extend(&some[..count]);
        }
    }
    assert_eq!(origin.last().body, b"abc");
    let total = proxy.metric("evenkeel_connections_total{listener=\"local\"}");
    assert_eq!(total, Some(2.0));
    let status = proxy.status();
    assert_eq!(
        status["listeners"][0]["address"],
        format!("unix:{}", path.display())
    );

    drop(stream);
    proxy.drain();
    proxy.wait();
    assert!(!path.exists(), "the file is removed");
}

#[test]
fn every_worker_serves_what_comes_in_over_one_socket() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let config = "[process]\nworkers = 4\n".to_owned() + &listener(&path, "");
    let proxy = Proxy::start(&(config + &app(&[&origin], "")));
    let streams: Vec<_> = (0..16).map(|_| connect(&path)).collect();
    for mut stream in streams {
        stream.write_all(GET.as_bytes()).expect("are taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer comes");
        assert!(answer.ends_with("ok"), "{answer}");
    }
    let total = proxy.metric("evenkeel_connections_total{listener=\"local\"}");
    assert_eq!(total, Some(16.0));
}

#[test]
fn clients_are_trusted_as_loopback_or_not_at_all() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let trusting = listener(&path, "trusted-proxies = [\"127.0.0.1\"]") + &app(&[&origin], "");
    let proxy = Proxy::start(&trusting);
    let ask = "GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\n\
               X-Forwarded-Proto: https\r\nConnection: close\r\n\r\n";
    exchange(&path, ask);
    let last = origin.last();
    assert_eq!(
        last.header("x-forwarded-for").as_deref(),
        Some("192.0.2.1, 127.0.0.1")
    );
    assert_eq!(last.header("x-forwarded-proto").as_deref(), Some("https"));

    proxy.reconfigure(&trusting.replace("[\"127.0.0.1\"]", "[]"));
    exchange(&path, ask);
    let last = origin.last();
    assert_eq!(last.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(last.header("x-forwarded-proto").as_deref(), Some("http"));
}

#[test]
fn a_proxy_header_names_the_client_of_a_socket() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let more = "proxy-protocol = \"required\"\ntrusted-proxies = [\"127.0.0.1\"]";
    let _proxy = Proxy::start(&(listener(&path, more) + &app(&[&origin], "")));
    let header = "PROXY TCP6 2001:db8::1 2001:db8::7 4321 8443\r\n";
    assert!(exchange(&path, &format!("{header}{GET}")).ends_with("ok"));
    let last = origin.last();
    assert_eq!(
        last.header("x-forwarded-for").as_deref(),
        Some("2001:db8::1")
    );
    let mut stream = connect(&path);
    stream.write_all(b"PROXY TCP9 \r\n").expect("are taken");
    let mut answer = Vec::new();
    // Closed with bytes unread: a reset on a unix socket too.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

#[test]
fn a_file_that_is_left_behind_is_replaced() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    drop(UnixListener::bind(&path).expect("binds"));
    let _proxy = Proxy::start(&(listener(&path, "") + &app(&[&origin], "")));
    assert!(get(&path).ends_with("ok"));
}

#[test]
fn a_socket_in_use_and_other_files_are_refused_and_left_alone() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let routes = app(&[&origin], "");
    let first = Proxy::start(&(listener(&path, "") + &routes));
    let refusal = |path: &Path| match Proxy::try_start(&(listener(path, "") + &routes)) {
        Err(StartError::Refused(rejection)) => rejection.summary(),
        Ok(_) => panic!("it starts"),
        Err(other) => panic!("refused for its listener, not {other:?}"),
    };
    let summary = refusal(&path);
    assert!(
        summary.contains("another process listens there"),
        "{summary}"
    );
    assert!(summary.contains(&path.display().to_string()), "{summary}");
    assert!(get(&path).ends_with("ok"), "the first one goes on");

    let file = place.path().join("file");
    fs::write(&file, "precious").expect("can be written");
    refusal(&file);
    assert_eq!(fs::read_to_string(&file).expect("is there"), "precious");
    let summary = refusal(&place.path().join("missing/web.sock"));
    assert!(
        summary.contains("its directory does not exist"),
        "{summary}"
    );
    drop(first);
}

#[test]
fn a_refused_reload_leaves_no_file_behind() {
    let origin = Origin::good("ok");
    let place = directory();
    let (path, taken) = (place.path().join("web.sock"), place.path().join("file"));
    fs::write(&taken, "precious").expect("can be written");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let plain = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";
    let other = listener(&taken, "").replace("local", "other");
    proxy.write(&(plain.to_owned() + &listener(&path, "") + &other + &app(&[&origin], "")));
    assert_eq!(proxy.reload().status, 422, "one of the two cannot be bound");
    assert!(!path.exists(), "nothing of the refused one is visible");
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn listeners_come_and_go_by_reloads_without_loss() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let plain = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n".to_owned();
    let without = plain.clone() + &app(&[&origin], "");
    let with = plain + &listener(&path, "") + &app(&[&origin], "");
    let proxy = Proxy::start(&without);
    for _ in 0..3 {
        proxy.reconfigure(&with);
        assert!(get(&path).ends_with("ok"));
        let mut kept = connect(&path);
        // Another change, and the listener is not touched.
        proxy.reconfigure(&with.replace("\"local\"\n", "\"local\"\nbacklog = 100\n"));
        kept.write_all(GET.as_bytes()).expect("are taken");
        let mut answer = String::new();
        kept.read_to_string(&mut answer).expect("an answer comes");
        assert!(answer.ends_with("ok"), "{answer}");
        proxy.reconfigure(&without);
        assert!(!path.exists(), "the file goes with its listener");
        UnixStream::connect(&path).expect_err("nobody listens");
    }
    assert_eq!(proxy.get("/").status, 200);
}

/// Whoever could connect is answered, also while the listener goes.
#[test]
fn who_is_in_the_queue_when_a_listener_goes_is_served() {
    let origin = Origin::good("ok");
    let place = directory();
    let path = place.path().join("web.sock");
    let plain = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n".to_owned();
    let without = plain.clone() + &app(&[&origin], "");
    let with = plain + &listener(&path, "") + &app(&[&origin], "");
    let proxy = Proxy::start(&with);
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (stop, path) = (stop.clone(), path.clone());
            std::thread::spawn(move || {
                let mut answered = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = UnixStream::connect(&path) else {
                        continue;
                    };
                    stream
                        .set_read_timeout(Some(DEADLINE))
                        .expect("is a socket");
                    stream.write_all(GET.as_bytes()).expect("are taken");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("an answer comes");
                    assert!(answer.ends_with("ok"), "{answer:?}");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..10 {
        proxy.reconfigure(&without);
        proxy.reconfigure(&with);
    }
    stop.store(true, Ordering::Relaxed);
    let answered: usize = threads
        .into_iter()
        .map(|thread| thread.join().expect("all are answered"))
        .sum();
    assert!(answered > 0);
}

#[test]
fn a_request_under_way_ends_when_its_listener_goes() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        if connection.request().is_some() {
            let _ = released.lock().expect("is one").recv_timeout(DEADLINE);
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        }
    });
    let place = directory();
    let path = place.path().join("web.sock");
    let plain = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n".to_owned();
    let proxy = Proxy::start(&(plain.clone() + &listener(&path, "") + &app(&[&origin], "")));
    let mut stream = connect(&path);
    stream.write_all(GET.as_bytes()).expect("are taken");
    eventually("the origin has it", || origin.requests().len() == 1);
    proxy.reconfigure(&(plain + &app(&[&origin], "")));
    release.send(()).expect("the origin waits");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    assert!(answer.ends_with("late"), "{answer}");
}

#[test]
fn one_path_is_one_listener() {
    let twice = "[[listener]]\nname = \"a\"\naddress = \"unix:/tmp/x.sock\"\n\
                 [[listener]]\nname = \"b\"\naddress = \"unix:/tmp/x.sock\"\n";
    let admin = "[admin]\naddress = \"unix:/tmp/x.sock\"\n\
                 [[listener]]\naddress = \"unix:/tmp/x.sock\"\n";
    for config in [twice, admin] {
        match Proxy::try_start(config) {
            Err(StartError::Config(mistakes)) => {
                let text = mistakes.render_human(false);
                assert!(text.contains("duplicate-address"), "{text}");
            }
            Err(other) => panic!("a mistake in the file, not {other:?}"),
            Ok(_) => panic!("it starts"),
        }
    }
}
