//! Kept connections that end, or speak, just as they are used: what may be sent again is, once;
//! what may not never is; and what nobody asked for is nobody's answer.

use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{Connection, ONE_WORKER, Origin, Proxy, Rounds, app, eventually};

const STRICT: &str = "[upstream.app.retry]\nattempts = 0\n\
                      [upstream.app.breaker]\nmode = \"off\"\n";

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

fn start(origin: &Origin, more: &str) -> Proxy {
    Proxy::start(&(app(&[origin], &format!("{STRICT}{more}")) + ONE_WORKER))
}

/// Method, body, and whether it may be sent a second time.
const REQUESTS: [(&str, &str, bool); 9] = [
    ("GET", "", true),
    ("HEAD", "", true),
    ("OPTIONS", "", true),
    ("DELETE", "", true),
    ("PUT", "put body", true),
    ("GET", "get body", true),
    ("POST", "", false),
    ("POST", "post body", false),
    ("PATCH", "patch body", false),
];

fn request(method: &str, target: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn answer(request: &super::support::Received) -> &'static str {
    match request.method().as_str() {
        "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
        _ => GOOD,
    }
}

/// How a server ends a connection, and after how many bytes of the next request.
#[derive(Debug, Clone, Copy)]
struct Plan {
    reset: bool,
    bytes: usize,
}

impl Plan {
    fn carry_out(self, connection: &mut Connection) {
        let mut left = self.bytes;
        while left > 0
            && let Some(some) = connection.at_most(left)
        {
            left -= some.len();
            if connection.is_silent_for(Duration::from_millis(1)) {
                break;
            }
        }
        if self.reset {
            connection.reset();
        } else {
            // A close with bytes unread would be a reset too.
            connection.finish();
            connection.wait_for_close();
        }
    }
}

#[test]
fn a_server_that_ends_in_a_request_is_asked_again_only_what_may_be() {
    let plan: Arc<Mutex<Option<Plan>>> = Arc::default();
    let planned = plan.clone();
    let origin = Origin::scripted(move |connection| {
        while connection.has_bytes() {
            let plan = planned.lock().expect("no panic with the lock").take();
            if let Some(plan) = plan {
                return plan.carry_out(connection);
            }
            let Some(request) = connection.request() else {
                return;
            };
            connection.send(answer(&request));
        }
    });
    let proxy = start(&origin, "");
    for (number, (method, body, again)) in REQUESTS.into_iter().enumerate() {
        for reset in [false, true] {
            // In the start line, in a field, in the head's end or the body, and all of it.
            for bytes in [1, 20, 150, 220, 100_000] {
                assert_eq!(proxy.get("/").status, 200);
                let what = Plan { reset, bytes };
                *plan.lock().expect("no panic with the lock") = Some(what);
                let before = origin.request_count();
                let target = format!("/{number}/{reset}/{bytes}");
                let mut client = proxy.client();
                client.send(request(method, &target, body));
                let answer = client.try_response_to(method).expect("an answer");
                let what = format!("{method} {body:?}, {what:?}");
                if again {
                    assert_eq!(answer.status, 200, "{what}");
                    let last = origin.last();
                    assert_eq!((&*last.target(), &*last.body), (&*target, body.as_bytes()));
                } else {
                    let told = (answer.status, answer.evenkeel_reason());
                    assert_eq!(told, (502, Some("upstream_reset")), "{what}");
                }
                // The first time counts as the plan that was carried out.
                let sent = origin.request_count() - before;
                assert_eq!(sent, usize::from(again), "{what}: sent again");
            }
        }
    }
}

/// Serves until it is told to close its last connection, which may be at any moment.
fn closing_when_told() -> (Origin, Arc<Mutex<Option<TcpStream>>>) {
    let last: Arc<Mutex<Option<TcpStream>>> = Arc::default();
    let slot = last.clone();
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            *slot.lock().expect("no panic with the lock") = Some(connection.writer());
            connection.send(answer(&request));
        }
    });
    (origin, last)
}

#[test]
fn a_server_that_closes_as_the_request_comes_gets_it_once() {
    let (origin, last) = closing_when_told();
    let proxy = start(&origin, "");
    let (tell, told) = channel::<Duration>();
    let (done, closed) = channel();
    let closing = thread::spawn(move || {
        for pause in told {
            let stream = last.lock().expect("no panic with the lock").take();
            let stream = stream.expect("a connection is kept");
            let start = Instant::now();
            while start.elapsed() < pause {
                std::hint::spin_loop();
            }
            let _ = stream.shutdown(Shutdown::Both);
            done.send(()).expect("the test waits");
        }
    });
    let mut random = fastrand::Rng::with_seed(1);
    let (mut posts, mut lost) = (0, 0);
    for number in 0..400 {
        let (method, body, again) = REQUESTS[number % REQUESTS.len()];
        let mut client = proxy.client();
        assert_eq!(client.get("/").status, 200, "a connection is kept");
        let target = format!("/{number}");
        let bytes = request(method, &target, body);
        // About when the request is there: before, while, after.
        tell.send(Duration::from_micros(random.u64(0..250)))
            .expect("the thread runs");
        client.send(bytes);
        let answer = client.try_response_to(method).expect("an answer");
        closed.recv().expect("the thread runs");
        let all = origin.requests();
        let sent = all.iter().filter(|one| one.target() == target).count();
        if again {
            assert_eq!(answer.status, 200, "{method} {number}");
            assert!(
                (1..=2).contains(&sent),
                "{method} {number} came {sent} times"
            );
        } else {
            posts += 1;
            assert!(sent <= 1, "{method} {number} came {sent} times");
            match answer.status {
                200 => assert_eq!(sent, 1),
                status => {
                    assert_eq!(
                        (status, answer.evenkeel_reason()),
                        (502, Some("upstream_reset"))
                    );
                    lost += 1;
                }
            }
        }
    }
    drop(tell);
    closing.join().expect("no panic");
    assert!(lost < posts, "some of {posts} come through");
}

#[test]
fn what_comes_between_two_requests_is_nobodys_answer() {
    const POISON: &[&[u8]] = &[
        b"H",
        b"\n",
        b"\r\n",
        b"\0",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\npoison",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    let last: Arc<Mutex<Option<TcpStream>>> = Arc::default();
    let slot = last.clone();
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let tag = request.target();
            let length = tag.len();
            *slot.lock().expect("no panic with the lock") = Some(connection.writer());
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{tag}"
            ));
        }
    });
    let proxy = start(&origin, "");
    let mut rounds = Rounds::of(&proxy);
    let large = vec![b'x'; 1 << 20];
    for (number, poison) in POISON.iter().copied().chain([&large[..]]).enumerate() {
        for close in [false, true] {
            let mut client = proxy.client();
            assert_eq!(client.get("/before").text(), "/before");
            let used = origin.last().connection;
            let stream = last.lock().expect("no panic with the lock").take();
            let mut stream = stream.expect("one is kept");
            // Further than the socket's buffer the proxy does not take it.
            stream.set_nonblocking(true).expect("can be set");
            let _ = std::io::Write::write(&mut stream, poison);
            if close {
                let _ = stream.shutdown(Shutdown::Write);
            }
            rounds.pass();
            let target = format!("/{number}/{close}");
            for client in [&mut client, &mut proxy.client()] {
                client.send(request("POST", &target, ""));
                assert_eq!(
                    client.response().text(),
                    target,
                    "after {}",
                    poison.escape_ascii()
                );
                assert_ne!(origin.last().connection, used, "{}", poison.escape_ascii());
            }
        }
    }
}

#[test]
fn a_late_answer_is_nobodys() {
    let (release, go) = channel::<()>();
    let go = Mutex::new(go);
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let target = request.target();
            if target.starts_with("/late") {
                let _ = go.lock().expect("no panic with the lock").recv();
            }
            let length = target.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
        }
    });
    let impatient = "[[route]]\nprefix = \"/late\"\nupstream = \"app\"\n\
                     timeout = { first-byte = \"100ms\" }\n";
    let proxy = start(&origin, impatient);
    for number in 0..20 {
        let target = format!("/late/{number}");
        let mut client = proxy.client();
        client.send(request("POST", &target, ""));
        // Given up by us, or by the client.
        let left = number % 2 == 1;
        if left {
            eventually("the server has it", || {
                origin.request_count() > 0 && origin.last().target() == target
            });
            client.reset();
        } else {
            assert_eq!(
                client.response().evenkeel_reason(),
                Some("response_timeout")
            );
        }
        release.send(()).expect("the server waits");
        for again in 0..3 {
            let target = format!("/next/{number}/{again}");
            assert_eq!(proxy.get(&target).text(), target, "another's answer");
        }
    }
}

#[test]
fn an_answer_before_the_request_has_ended_leaves_a_connection_that_serves_nobody_else() {
    // Answers each head at once, and reads what follows as the next request: a server that takes
    // the rest of a body for one.
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request_head() {
            let target = request.target();
            let length = target.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"
            ));
        }
    });
    let proxy = start(&origin, "");
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client();
        client.send(format!(
            "POST /early HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"
        ));
        assert_eq!(client.response().text(), "/early");
        let used = origin.last().connection;
        // Half of what was announced, then the client leaves.
        client.send(if framing.starts_with('C') {
            "half"
        } else {
            "4\r\nhalf\r\n"
        });
        drop(client);
        for number in 0..3 {
            let target = format!("/next/{number}");
            assert_eq!(proxy.get(&target).text(), target);
            assert_ne!(origin.last().connection, used, "{framing}");
        }
    }
}
