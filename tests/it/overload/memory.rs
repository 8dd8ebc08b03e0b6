//! `process.memory-limit`: in a process of its own, whose memory no other test uses.

use std::time::{Duration, Instant};

use super::{config, holding, status};
use crate::support::{Client, Origin, Process, eventually, value_within};

/// A head that does not end, nearly as large as it may be: all of it is held.
pub(super) fn endless(process: &Process) -> Option<Client> {
    let mut client = Client::connect(process.listener);
    let filler = "x".repeat(30_000);
    let head = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {filler}");
    client.try_send(head).ok()?;
    Some(client)
}

fn limited(origin: &Origin, limit: &str) -> String {
    let rest = format!("memory-limit = \"{limit}\"\nmin-rate = \"off\"");
    let listener =
        "[[listener]]\naddress = \"127.0.0.1:0\"\nlimits = { header-timeout = \"60s\" }\n";
    format!("{listener}{}", config(origin, 4000, &rest))
}

#[test]
fn over_the_limit_new_ones_are_shed_and_afterwards_served() {
    let origin = holding();
    let process = Process::start(&limited(&origin, "4GiB"));
    let mut kept = Client::connect(process.listener);
    assert_eq!(kept.get("/").status, 200);
    let limit = process.resident() / 1024 + 12;
    let limit = limited(&origin, &format!("{limit}MiB"));
    assert_eq!(process.reload(&limit).status, 200);
    let mut crowd: Vec<Client> = Vec::new();
    let shedding = || status(&process)["shedding"] == true;
    let end = Instant::now() + Duration::from_secs(20);
    while !shedding() {
        assert!(Instant::now() < end, "{} KiB", process.resident());
        crowd.extend((0..20).filter_map(|_| endless(&process)));
        // A kept connection that is used is not idle.
        kept.get("/");
    }
    let answer = kept.get("/");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.evenkeel_reason(), Some("overloaded"));
    assert!(answer.header("retry-after").is_some());
    assert!(answer.text().contains("memory limit"), "{}", answer.text());
    assert_eq!(Client::connect(process.listener).rest(), b"");
    assert_eq!(process.ready(), 200, "the admin listener answers");
    assert!(process.log().contains("over memory-limit"));
    let peak = process.resident();
    drop(crowd);
    value_within(Duration::from_secs(20), "served again", || {
        let mut client = Client::connect(process.listener);
        let asked = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = asked.and_then(|()| client.try_response());
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    });
    for _ in 0..50 {
        assert_eq!(Client::connect(process.listener).get("/").status, 200);
    }
    let (after, log) = (process.resident(), process.log());
    println!("{peak} KiB at its worst, {after} KiB afterwards");
    eventually("the end is told", || {
        process.log().contains("no concern any more")
    });
    assert_eq!(log.matches("over memory-limit").count(), 1, "{log}");
}

#[test]
fn a_limit_that_is_switched_off_ends_the_episode() {
    let origin = holding();
    let off = limited(&origin, "off");
    let process = Process::start(&off);
    for round in 1..=2 {
        // As long as they are there, it is not settled.
        let crowd: Vec<Client> = (0..20).filter_map(|_| endless(&process)).collect();
        let less = format!("{}MiB", process.resident() / 1024 - 2);
        assert_eq!(process.reload(&limited(&origin, &less)).status, 200);
        eventually("it is told of every time", || {
            process.log().matches("over memory-limit").count() == round
        });
        assert_eq!(process.reload(&off).status, 200);
        eventually("the end, too", || {
            process.log().matches("memory-limit is off").count() == round
        });
        assert_eq!(status(&process)["shedding"], false);
        assert_eq!(Client::connect(process.listener).get("/").status, 200);
        drop(crowd);
    }
}
