//! `memory-limit` under a real crowd: slow uploads and downloads, plain, over TLS and HTTP/2, that stay
//! as long as they are let, with honest clients beside, again and again.

use std::time::{Duration, Instant};

use super::{config, holding, status};
use crate::support::raw::{
    END_STREAM, PREFACE, Raw, SETTINGS, WINDOW_UPDATE, frame, head, setting,
};
use crate::support::tls::{Authority, try_connect};
use crate::support::{Client, Process, eventually, value_within};

/// Whatever holds memory and moves nothing, as long as it is kept.
type Slow = Box<dyn std::any::Any>;

fn unread_h2(address: std::net::SocketAddr) -> Slow {
    let mut raw = Raw::open(address);
    let window = 0x7fff_ffff_u32;
    raw.send(PREFACE);
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
    Box::new(raw)
}

fn sends(mut client: Client, bytes: &str) -> Slow {
    // One that is shed already may be told so.
    let _ = client.try_send(bytes);
    Box::new(client)
}

/// One honest client after the other, until `over`: how many were served and how many shed. A
/// connection that is closed without a word, or an answer that is none of the two, fails.
fn honest(process: &Process, kept: &mut Client, rounds: usize) -> (usize, usize) {
    let (mut served, mut shed) = (0, 0);
    for _ in 0..rounds {
        let answer = kept.get("/");
        match answer.status {
            200 => served += 1,
            503 => {
                assert_eq!(answer.evenkeel_reason(), Some("overloaded"));
                assert!(answer.header("retry-after").is_some());
                shed += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
        assert_eq!(process.ready(), 200);
    }
    (served, shed)
}

#[test]
fn a_crowd_that_holds_memory_is_let_go_of_and_the_next_finds_it_free() {
    let origin = holding();
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    authority
        .issue(&["a.example"])
        .write(directory.path(), "site");
    let path = |name| directory.path().join(name).display().to_string();
    let text = |limit: &str| {
        format!(
            "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
             limits = {{ header-timeout = \"60s\" }}\n\
             [[listener]]\nname = \"tls\"\naddress = \"127.0.0.2:0\"\n\
             tls = {{ certificates = [{{ cert = \"{}\", key = \"{}\" }}] }}\n{}",
            path("site.pem"),
            path("site.key"),
            config(&origin, 4000, &format!("memory-limit = \"{limit}\""))
        )
    };
    let process = Process::start(&text("4GiB"));
    let log = process.log();
    let tls = log
        .lines()
        .find(|line| line.contains(" listening listener=tls"));
    let tls = tls.or_else(|| log.lines().find(|line| line.contains("address=127.0.0.2:")));
    let tls = tls.and_then(|line| line.split("address=").nth(1));
    let tls = tls.and_then(|address| address.trim().parse().ok());
    let tls: std::net::SocketAddr = tls.unwrap_or_else(|| panic!("{log}"));
    let settings = authority.client().build();
    let mut kept = Client::connect(process.listener);
    assert_eq!(kept.get("/").status, 200);
    let limit = process.resident() / 1024 + 24;
    assert_eq!(process.reload(&text(&format!("{limit}MiB"))).status, 200);
    let upload = format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10000000\r\n\r\n{}",
        "x".repeat(2000)
    );
    let download = "GET /long HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut peaks = Vec::new();
    for round in 0..3 {
        let mut crowd = Vec::new();
        let (mut served, mut shed, mut peak) = (0, 0, 0);
        let mut count = |process: &Process, kept: &mut Client, rounds| {
            let (more_served, more_shed) = honest(process, kept, rounds);
            (served, shed) = (served + more_served, shed + more_shed);
        };
        for _ in 0..20 {
            for _ in 0..4 {
                crowd.push(sends(Client::connect(process.listener), &upload));
                crowd.push(sends(Client::connect(process.listener), download));
                crowd.push(unread_h2(process.listener));
            }
            if let Ok(client) = try_connect(tls, &settings, "a.example") {
                crowd.push(sends(client, download));
            }
            count(&process, &mut kept, 3);
            peak = peak.max(process.resident());
        }
        // They stay: what they hold is needed, so they go.
        let begin = Instant::now();
        value_within(
            Duration::from_secs(60),
            "honest clients are served again",
            || {
                count(&process, &mut kept, 1);
                peak = peak.max(process.resident());
                let calm = status(&process)["shedding"] == false;
                let fresh = Client::connect(process.listener)
                    .try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                    .is_ok();
                (calm && fresh).then_some(())
            },
        );
        let took = begin.elapsed();
        drop(crowd);
        eventually("they have gone", || status(&process)["connections"] == 1);
        let after = process.resident();
        println!(
            "round {round}: limit {limit} MiB, peak {} MiB, after {} MiB, {served} served, {shed} \
             shed, calm after {took:?}",
            peak / 1024,
            after / 1024
        );
        peaks.push(peak);
    }
    assert!(
        peaks[2] <= peaks[0] + 16 * 1024,
        "it grows from episode to episode: {peaks:?}"
    );
    for _ in 0..50 {
        assert_eq!(kept.get("/").status, 200);
    }
}
