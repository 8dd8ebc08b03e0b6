//! The admin listener flooded: probes, operators and the data path are served meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::holding;
use crate::support::{Client, Proxy, app};

#[test]
fn a_flood_of_the_admin_listener_keeps_nobody_out() {
    let origin = holding();
    let health = "[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"";
    let proxy = Proxy::start(&app(&[&origin], health));
    let admin = proxy.admin_address();
    // Heads and bodies that do not end: more than there are places.
    let mut stalled: Vec<Client> = Vec::new();
    for place in 0..600 {
        let mut client = Client::connect(admin);
        let begin = match place % 3 {
            0 => "GET /metr",
            1 => "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Drip: ",
            _ => "POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
        };
        // One that is let go of already may be told so.
        let _ = client.try_send(begin);
        stalled.push(client);
    }
    let (over, scrapes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for path in ["/metrics", "/status", "/config", "/metrics"] {
            let (over, scrapes) = (&over, &scrapes);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut client = Client::connect(admin);
                    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    while client.try_send(&ask).is_ok() && !over.load(Ordering::Relaxed) {
                        match client.try_response() {
                            Ok(answer) => assert_eq!(answer.status, 200),
                            Err(_) => break,
                        }
                        scrapes.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(3);
        let (mut probe, mut request) = (Duration::ZERO, Duration::ZERO);
        let mut client = proxy.client();
        while Instant::now() < end {
            let begin = Instant::now();
            assert_eq!(Client::connect(admin).get("/readyz").status, 200);
            probe = probe.max(begin.elapsed());
            let begin = Instant::now();
            assert_eq!(client.get("/").status, 200);
            request = request.max(begin.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
        assert!(probe < Duration::from_secs(2), "a probe took {probe:?}");
        assert!(
            request < Duration::from_secs(2),
            "a request took {request:?}"
        );
    });
    assert!(scrapes.load(Ordering::Relaxed) > 10);
    let checked = proxy.server_status(&origin)["health"]["seconds_since_check"].as_f64();
    assert!(checked.is_some_and(|since| since < 2.0), "{checked:?}");
}

#[test]
fn what_is_too_large_or_too_deep_is_refused() {
    let origin = holding();
    let proxy = Proxy::start(&app(&[&origin], ""));
    let ask = |head: &str, body: &str| {
        let mut client = Client::connect(proxy.admin_address());
        let length = body.len();
        let head = format!("POST /explain HTTP/1.1\r\nHost: localhost\r\n{head}");
        // Whoever is refused early may find the connection closed.
        let _ = client.try_send(format!("{head}Content-Length: {length}\r\n\r\n{body}"));
        client.try_response().map(|answer| answer.status)
    };
    let deep = format!("{{\"url\": {}", "[".repeat(50_000));
    assert_eq!(ask("", &deep).ok(), Some(400));
    assert_eq!(
        ask("", &format!("{{\"url\": \"{}\"}}", "x".repeat(70_000))).ok(),
        Some(413)
    );
    let long = format!("X-Long: {}\r\n", "x".repeat(300_000));
    assert!(matches!(ask(&long, "{}"), Ok(431) | Err(_)));
    let many = "X-Many: x\r\n".repeat(500);
    assert!(matches!(ask(&many, "{}"), Ok(431) | Err(_)));
    assert_eq!(proxy.admin("GET", "/healthz", "").status, 200);
}
