//! The table in `src/lib.rs` of what each thing holds at most: measured, each row in a process of its
//! own.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;

use super::{config, holding, status};
use crate::support::h2::H2;
use crate::support::raw::{END_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, head, setting};
use crate::support::tls::{Authority, connect};
use crate::support::{Client, Connection, Origin, Process, evenkeel, eventually, value_within};

/// The table's number for a request under way, in KiB.
const REQUEST: f64 = 112.0;

const LISTENER: &str =
    "[[listener]]\naddress = \"127.0.0.1:0\"\nlimits = { header-timeout = \"60s\" }\n";

/// Resident memory once nothing grows any more, in KiB.
fn settled(process: &Process) -> usize {
    let mut last = 0;
    value_within(Duration::from_secs(30), "it settles", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = process.resident();
        (std::mem::replace(&mut last, now) == now).then_some(now)
    })
}

/// What one of `count` holds, in KiB, that are all in the state that `open` brings them to; counted
/// once so many are `there`. The first ones make what all have in common.
fn each<T>(
    process: &Process,
    (first, count): (usize, usize),
    open: impl Fn(&Process) -> T,
    there: impl Fn() -> usize,
) -> f64 {
    let _first: Vec<T> = (0..first).map(|_| open(process)).collect();
    eventually("the first are in", || there() == first);
    let before = settled(process);
    let _all: Vec<T> = (0..count).map(|_| open(process)).collect();
    eventually("they are in", || there() == first + count);
    let after = settled(process);
    (after - before) as f64 / count as f64
}

fn connections(process: &Process) -> usize {
    let connections = status(process)["connections"].as_u64();
    connections.expect("a number") as usize
}

/// A number of the table: no more than that, and not so little that nothing was measured.
#[track_caller]
fn holds(what: &str, held: f64, least: f64, most: f64) {
    println!("{what}: {held:.1} KiB of {most}");
    assert!((least..=most).contains(&held), "{what}: {held} KiB");
}

#[test]
fn an_idle_connection_holds_what_the_documentation_says() {
    let origin = holding();
    let process = Process::start(&format!("{LISTENER}{}", config(&origin, 4000, "")));
    let open = |process: &Process| {
        let mut client = Client::connect(process.listener);
        assert_eq!(client.get("/").status, 200);
        client
    };
    let held = each(&process, (32, 800), open, || connections(&process));
    holds("idle", held, 0.2, 2.0);
}

#[test]
fn an_idle_connection_over_tls_holds_what_the_documentation_says() {
    let origin = holding();
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    authority
        .issue(&["a.example"])
        .write(directory.path(), "site");
    let path = |name| directory.path().join(name).display().to_string();
    let tls = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}\n",
        path("site.pem"),
        path("site.key")
    );
    let process = Process::start(&format!("{tls}{}", config(&origin, 4000, "")));
    let settings = authority.client().build();
    let open = |process: &Process| {
        let mut client = connect(process.listener, &settings, "a.example");
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(client.response().status, 200);
        client
    };
    let held = each(&process, (32, 300), open, || connections(&process));
    holds("idle over TLS", held, 1.0, 8.0);
}

#[test]
fn an_idle_connection_of_http_2_that_said_little_holds_what_the_documentation_says() {
    let origin = holding();
    let process = Process::start(&format!("{LISTENER}{}", config(&origin, 4000, "")));
    let open = |process: &Process| {
        let mut raw = Raw::connect(process.listener);
        raw.send(crate::support::raw::get(1));
        assert_eq!(raw.answer(1), 200);
        raw
    };
    let held = each(&process, (32, 300), open, || connections(&process));
    holds("idle, HTTP/2", held, 4.0, 32.0);
}

/// With the tables of header compression filled in both directions.
#[test]
fn an_idle_connection_of_http_2_holds_what_the_documentation_says() {
    let fill = "f".repeat(400);
    let fields: Vec<String> = (0..9).map(|n| format!("x-fill-{n}: {fill}\r\n")).collect();
    let fields = fields.concat();
    let origin = Origin::scripted(move |connection: &mut Connection| {
        while connection.request().is_some() {
            connection.send(format!(
                "HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"
            ));
        }
    });
    let process = Process::start(&format!("{LISTENER}{}", config(&origin, 4000, "")));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let open = |process: &Process| {
        runtime.block_on(async {
            let mut client = H2::connect(process.listener).await;
            let mut request = client.request("GET", "/");
            for n in 0..9 {
                request = request.header(format!("x-fill-{n}"), &fill);
            }
            let request = request.body(()).expect("a request");
            let (answer, _) = client.send(request, true).await;
            assert_eq!(answer.await.expect("an answer").status(), 200);
            client
        })
    };
    let held = each(&process, (32, 300), open, || connections(&process));
    holds("idle, HTTP/2, tables filled", held, 8.0, 64.0);
}

#[test]
fn a_head_that_has_begun_holds_what_the_documentation_says() {
    let origin = holding();
    let process = Process::start(&format!("{LISTENER}{}", config(&origin, 4000, "")));
    let open = |process: &Process| super::memory::endless(process).expect("it is let in");
    let held = each(&process, (32, 300), open, || connections(&process));
    holds("head", held, 20.0, 66.0);
}

#[test]
fn an_answer_that_nobody_reads_holds_what_the_documentation_says() {
    let origin = holding();
    let process = Process::start(&format!("{LISTENER}{}", config(&origin, 4000, "")));
    let open = |process: &Process| {
        let mut client = Client::connect(process.listener);
        client.send("GET /long HTTP/1.1\r\nHost: test\r\n\r\n");
        client
    };
    let held = each(&process, (16, 40), open, || origin.request_count());
    // It is on its way inside the kernel.
    holds("unread", held, 1.0, REQUEST + 512.0);
}

/// Four streams of each connection, with windows that are open for all that there is.
#[test]
fn answers_that_nobody_reads_over_http_2_hold_what_the_documentation_says() {
    let origin = holding();
    let process = Process::start(&format!("{LISTENER}{}", config(&origin, 4000, "")));
    let open = |process: &Process| {
        let mut raw = Raw::open(process.listener);
        let window = 0x7fff_ffff_u32;
        raw.send(crate::support::raw::PREFACE);
        raw.send(frame(SETTINGS, 0, 0, &setting(4, window)));
        raw.send(frame(WINDOW_UPDATE, 0, 0, &(window - 65_535).to_be_bytes()));
        for stream in [1, 3, 5, 7] {
            let long = [
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/long"),
                (":authority", "h"),
            ];
            raw.send(head(stream, END_STREAM, &long, &[]));
        }
        raw
    };
    let held = each(&process, (8, 24), open, || origin.request_count() / 4);
    let most = 56.0 + 4.0 * (REQUEST + 32.0) + 512.0;
    holds("unread over HTTP/2", held, 64.0, most);
}

/// As many bytes of bodies as a connection may send, to a server that takes none.
#[test]
fn uploads_that_no_server_takes_over_http_2_hold_what_the_documentation_says() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("bound");
    let process = Process::start(&format!(
        "{LISTENER}[process]\nworkers = 2\n[upstream.app]\nservers = {{ \"{address}\" = 1 }}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let body = Bytes::from(vec![b'x'; 16 << 20]);
    let open = |process: &Process| {
        runtime.block_on(async {
            let mut client = H2::connect(process.listener).await;
            let mut answers = Vec::new();
            for _ in 0..4 {
                let request = client.request("POST", "/").body(()).expect("a request");
                let (answer, mut stream) = client.send(request, false).await;
                let mut body = body.clone();
                answers.push(answer);
                tokio::spawn(async move {
                    while !body.is_empty() {
                        stream.reserve_capacity(body.len());
                        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                        let Some(Ok(capacity)) = capacity else { return };
                        let piece = body.split_to(capacity.min(body.len()));
                        if stream.send_data(piece, false).is_err() {
                            return;
                        }
                    }
                });
            }
            (client, answers)
        })
    };
    let there = || connections(&process);
    let held = each(&process, (4, 12), open, there);
    let most = 56.0 + 4.0 * REQUEST + 1024.0;
    holds("uploads over HTTP/2", held, 16.0, most);
}

#[test]
fn a_request_in_a_queue_holds_what_the_documentation_says() {
    let origin = holding();
    let more = "max-requests = 1\nqueue = { size = 1000, timeout = \"60s\" }\n";
    let process = Process::start(&format!(
        "{LISTENER}[process]\nworkers = 2\n{}",
        crate::support::app(&[&origin], more)
    ));
    let mut first = Client::connect(process.listener);
    first.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is under way", || origin.request_count() == 1);
    let filler = "x".repeat(30_000);
    let body = "y".repeat(60_000);
    let open = |process: &Process| {
        let mut client = Client::connect(process.listener);
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: test\r\nX-Long: {filler}\r\nContent-Length: 60000\r\n\r\n{body}"
        ));
        client
    };
    let queued = || {
        let length = process.metric("evenkeel_upstream_queue_length{upstream=\"app\"}");
        length.unwrap_or(0.0) as usize
    };
    let held = each(&process, (16, 150), open, queued);
    holds("queued", held, 30.0, REQUEST);
}

/// An access log that nobody reads: its batches, and no more, however many requests come.
#[test]
fn a_worker_holds_what_the_documentation_says() {
    let origin = holding();
    let text = format!(
        "{LISTENER}[access-log]\npath = \"stdout\"\n{}",
        config(&origin, 4000, "")
    );
    let process = Process::start_as(&text, |path| {
        let mut command = evenkeel(["run".as_ref(), "-c".as_ref(), path]);
        command.stdout(Stdio::piped());
        command
    });
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(process.listener)).collect();
    let path = format!("/{}", "p".repeat(8_000));
    let mut ask = |rounds: usize| {
        for _ in 0..rounds {
            for client in &mut clients {
                assert_eq!(client.get(&path).status, 200);
            }
        }
    };
    ask(1);
    let before = settled(&process);
    // 8 KiB each: four times what there is room for.
    ask(4 * 2 * 32 * 8 / 8);
    let grown = settled(&process) - before;
    holds("a worker", grown as f64 / 2.0, 512.0, 4.0 * 1024.0);
}

#[test]
fn a_server_holds_what_the_documentation_says() {
    let with = |servers: usize| {
        let entries: Vec<String> = (0..servers)
            .map(|n| format!("\"127.{}.{}.1:9\" = 1", 1 + n / 250, n % 250))
            .collect();
        let process = Process::start(&format!(
            "[process]\nworkers = 2\n[upstream.app]\nservers = {{ {} }}\n\
             [[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
            entries.join(", ")
        ));
        settled(&process)
    };
    let held = (with(1100) - with(100)) as f64 / 1000.0;
    holds("server", held, 0.5, 6.0);
}
