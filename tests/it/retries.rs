//! When a failed attempt is made again, where, and what the client gets in the end.

use super::support::{Origin, Proxy, app, count, eventually};

/// A breaker would take the failing server away before the test has seen it fail.
const KEEP: &str = "[upstream.app.breaker]\nmode = \"off\"\n";

/// The same; with little patience where that is the subject.
fn keep(cause: &str) -> String {
    match cause {
        "timeout" => format!("{KEEP}[upstream.app.timeout]\nfirst-byte = \"400ms\"\n"),
        _ => KEEP.to_owned(),
    }
}

const WRITTEN: [&str; 6] = ["reset", "timeout", "bad-response", "502", "503", "504"];

/// An origin that fails as `retry.on` names it.
fn failing(cause: &str) -> Origin {
    match cause {
        "connect" => {
            let origin = Origin::good("never");
            origin.stop();
            origin
        }
        "reset" => Origin::resetting(),
        "timeout" => Origin::stalling(),
        "bad-response" => Origin::answering("HTTP/1.1 two hundred\r\n\r\n"),
        status => Origin::answering(format!(
            "HTTP/1.1 {status} No\r\nContent-Length: 6\r\n\r\nserver"
        )),
    }
}

/// What the client is told where nothing is retried.
fn told(cause: &str) -> (u16, Option<&'static str>) {
    match cause {
        "connect" => (502, Some("connect_refused")),
        "reset" => (502, Some("upstream_reset")),
        "timeout" => (504, Some("response_timeout")),
        "bad-response" => (502, Some("bad_response")),
        status => (status.parse().expect("a status"), None),
    }
}

#[test]
fn every_listed_cause_is_tried_at_another_server() {
    for cause in WRITTEN.iter().chain(&["connect"]) {
        let (bad, good) = (failing(cause), Origin::good("good"));
        let proxy = Proxy::start(&app(&[&bad, &good], &keep(cause)));
        let answer = proxy.get("/");
        assert_eq!((answer.status, &*answer.text()), (200, "good"), "{cause}");
        assert_eq!(good.request_count(), 1, "{cause}");
        let retries = r#"evenkeel_upstream_retries_total{upstream="app",result="success"}"#;
        assert_eq!(proxy.metric(retries), Some(1.0), "{cause}");
    }
}

#[test]
fn a_written_post_is_never_sent_twice() {
    for cause in WRITTEN {
        let (bad, good) = (failing(cause), Origin::good("good"));
        let proxy = Proxy::start(&app(&[&bad, &good], &keep(cause)));
        let answer = proxy.client().post("/", b"order");
        assert_eq!(
            (answer.status, answer.evenkeel_reason()),
            told(cause),
            "{cause}"
        );
        assert_eq!(good.request_count(), 0, "{cause}");
        assert_eq!(bad.request_count(), 1, "{cause}");
    }
}

#[test]
fn a_post_that_no_server_saw_is_tried_elsewhere() {
    let (bad, good) = (failing("connect"), Origin::good("good"));
    let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
    let answer = proxy.client().post("/", b"order");
    assert_eq!((answer.status, &*answer.text()), (200, "good"));
    assert_eq!(good.last().body, b"order");
}

#[test]
fn what_is_not_listed_is_not_retried() {
    for cause in WRITTEN.iter().chain(&["connect"]) {
        let (bad, good) = (failing(cause), Origin::good("good"));
        let other = if *cause == "connect" {
            "reset"
        } else {
            "connect"
        };
        let keep = keep(cause);
        let retry = format!("{keep}[upstream.app.retry]\non = [\"{other}\"]\n");
        let proxy = Proxy::start(&app(&[&bad, &good], &retry));
        let answer = proxy.get("/");
        assert_eq!(
            (answer.status, answer.evenkeel_reason()),
            told(cause),
            "{cause}"
        );
        assert_eq!(good.request_count(), 0, "{cause}");
    }
}

#[test]
fn other_statuses_go_to_the_client() {
    for status in ["404", "429", "500", "501"] {
        let (bad, good) = (failing(status), Origin::good("good"));
        let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
        let answer = proxy.get("/");
        assert_eq!((answer.status, &*answer.text()), (told(status).0, "server"));
        assert_eq!(good.request_count(), 0, "{status}");
    }
}

#[test]
fn methods_say_what_may_be_repeated() {
    let (bad, good) = (failing("503"), Origin::good("good"));
    let retry = format!("{KEEP}[upstream.app.retry]\nmethods = [\"GET\"]\n");
    let proxy = Proxy::start(&app(&[&bad, &good], &retry));
    let answer = proxy.client().request("DELETE", "/", "");
    assert_eq!(answer.status, 503);
    assert_eq!(good.request_count(), 0);
}

#[test]
fn each_try_is_at_another_server_and_the_last_answer_counts() {
    let bad = ["502", "503", "504"].map(failing);
    let retry = format!("{KEEP}[upstream.app.retry]\nattempts = 9\n");
    let proxy = Proxy::start(&app(&[&bad[0], &bad[1], &bad[2]], &retry));
    let answer = proxy.get("/");
    assert_eq!(answer.evenkeel_reason(), None, "it is a server's answer");
    assert_eq!(answer.text(), "server");
    let asked = bad.each_ref().map(Origin::request_count);
    assert_eq!(asked, [1, 1, 1], "each once");
}

#[test]
fn a_failure_after_an_answer_is_what_the_client_gets() {
    let (first, second) = (failing("503"), failing("reset"));
    let proxy = Proxy::start(&app(&[&first, &second], KEEP));
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (502, Some("upstream_reset"))
    );
    assert_eq!((first.request_count(), second.request_count()), (1, 1));
}

#[test]
fn the_only_server_is_asked_once() {
    for cause in ["reset", "503"] {
        let bad = failing(cause);
        let proxy = Proxy::start(&app(&[&bad], KEEP));
        let answer = proxy.get("/");
        assert_eq!((answer.status, answer.evenkeel_reason()), told(cause));
        assert_eq!(bad.request_count(), 1, "{cause}");
        let none = r#"evenkeel_upstream_retries_total{upstream="app",result="no_server"}"#;
        assert_eq!(proxy.metric(none), Some(1.0));
    }
}

#[test]
fn attempts_0_is_no_retry_and_a_route_may_say_otherwise() {
    let (bad, good) = (failing("503"), Origin::good("good"));
    let retry = format!("{KEEP}[upstream.app.retry]\nattempts = 0\n");
    let config = app(&[&bad, &good], &retry)
        + "[[route]]\nprefix = \"/again\"\nupstream = \"app\"\nretry = { attempts = 1 }\n";
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.get("/").status, 503);
    assert_eq!(proxy.get("/").text(), "good", "the second of the order");
    assert_eq!(proxy.get("/again").text(), "good", "retried");
    assert_eq!(bad.request_count(), 2);
}

#[test]
fn the_budget_is_earned_by_requests() {
    let (bad, good) = (failing("503"), Origin::good("good"));
    let budget = format!(
        "{KEEP}[upstream.app.retry]\n\
         budget = {{ ratio = \"20%\", min-per-second = 0, window = \"60s\" }}\n"
    );
    let proxy = Proxy::start(&app(&[&bad, &good], &budget));
    let statuses: Vec<u16> = (0..20).map(|_| proxy.get("/").status).collect();
    // Requests 1, 3, 5, ... go to the bad one first; a fifth of those so far may be retried.
    let retried: Vec<usize> = (0..20)
        .filter(|at| at % 2 == 0 && statuses[*at] == 200)
        .collect();
    assert_eq!(retried, [4, 10, 14], "{statuses:?}");
    let spent = r#"evenkeel_upstream_retries_total{upstream="app",result="budget_exhausted"}"#;
    assert_eq!(proxy.metric(spent), Some(7.0));
}

#[test]
fn a_failed_connect_costs_no_budget() {
    let (bad, good) = (failing("connect"), Origin::good("good"));
    let budget = format!(
        "{KEEP}[upstream.app.retry]\n\
         budget = {{ ratio = \"0%\", min-per-second = 0, window = \"10s\" }}\n"
    );
    let proxy = Proxy::start(&app(&[&bad, &good], &budget));
    assert_eq!(count(&proxy.bodies(10), "good"), 10);
}

#[test]
fn a_body_is_replayed_whole_up_to_its_limit() {
    let limit = format!("{KEEP}[upstream.app.retry]\nmax-replay-body = \"64B\"\n");
    for (length, chunked, retried) in [
        (64, false, true),
        (65, false, false),
        (60, true, true),
        (65, true, false),
    ] {
        let (bad, good) = (failing("503"), Origin::good("good"));
        let proxy = Proxy::start(&app(&[&bad, &good], &limit));
        let body = "x".repeat(length);
        let mut client = proxy.client();
        client.send(if chunked {
            format!(
                "PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {length:x}\r\n{body}\r\n0\r\n\r\n"
            )
        } else {
            format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
        });
        let answer = client.response();
        let case = format!("{length} bytes, chunked: {chunked}");
        assert_eq!(answer.status, if retried { 200 } else { 503 }, "{case}");
        let whole = |origin: &Origin| {
            let received = String::from_utf8(origin.last().body).expect("text");
            assert_eq!(received.matches('x').count(), length, "{case}");
        };
        whole(&bad);
        if retried {
            whole(&good);
        } else {
            assert_eq!(good.request_count(), 0, "{case}");
        }
    }
}

#[test]
fn nothing_is_retried_once_a_response_was_begun() {
    let bad = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    });
    let good = Origin::good("good");
    let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.try_response().is_err(), "a cut body must look cut");
    assert_eq!(good.request_count(), 0);
}

#[test]
fn nothing_is_retried_after_an_interim_answer_went_on() {
    let bad = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        connection.reset();
    });
    let good = Origin::good("good");
    let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response().status, 103);
    let answer = client.response();
    assert_eq!(answer.evenkeel_reason(), Some("upstream_reset"));
    assert_eq!(good.request_count(), 0);
}

#[test]
fn a_retry_does_not_wait_in_the_queue() {
    let (bad, busy) = (failing("503"), Origin::stalling());
    let more = format!("max-requests = 1\n{KEEP}");
    let proxy = Proxy::start(&app(&[&busy, &bad], &more));
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("one server is full", || busy.request_count() == 1);
    let answer = proxy.get("/");
    assert_eq!((answer.status, &*answer.text()), (503, "server"));
}

#[test]
fn a_held_back_body_goes_to_the_server_that_asks_for_it() {
    let bad = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let good = Origin::scripted(|connection| {
        connection.request_head();
        connection.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = connection.exactly(4).expect("a body comes");
        assert_eq!(body, b"eggs");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
    });
    let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
    let mut client = proxy.client();
    client
        .send("PUT / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send("eggs");
    assert_eq!(client.response().text(), "good");
}

#[test]
fn a_connect_that_times_out_is_tried_elsewhere() {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("binds");
    socket.listen(0).expect("listens");
    let address = socket.local_addr().expect("bound").as_socket().expect("IP");
    let patience = std::time::Duration::from_millis(100);
    let mut filling = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, patience) {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog never fills");
    }
    let good = Origin::good("good");
    let config = app(&[&good], "[upstream.app.timeout]\nconnect = \"100ms\"\n")
        .replace("{ \"", &format!("{{ \"{address}\" = 1, \""));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().post("/", b"order").text(), "good");
}

/// Sends the head and half of a body of 8 bytes; the second half waits for `first`.
fn half_sent(proxy: &Proxy, method: &str, chunked: bool, first: &Origin) -> super::support::Client {
    let mut client = proxy.client();
    client.send(if chunked {
        format!(
            "{method} / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
        )
    } else {
        format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nhalf")
    });
    eventually("it is at the first server", || first.request_count() == 1);
    client
}

#[test]
fn a_body_under_way_is_begun_again_elsewhere_and_goes_on() {
    for (chunked, answer) in [
        (false, ""),
        (true, ""),
        (false, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        (true, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let bad = Origin::scripted(move |connection| {
            connection.request_head();
            if answer.is_empty() {
                connection.exactly(4);
                connection.reset();
            } else {
                connection.send(answer);
                connection.wait_for_close();
            }
        });
        let good = Origin::good("good");
        let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
        let mut client = half_sent(&proxy, "PUT", chunked, &bad);
        eventually("the second is tried", || good.connections() == 1);
        client.send(if chunked {
            "4\r\nbody\r\n0\r\n\r\n"
        } else {
            "body"
        });
        assert_eq!(
            client.response().text(),
            "good",
            "chunked: {chunked}, {answer:?}"
        );
        let body = String::from_utf8(good.last().body).expect("text");
        let payload: String = body.split("\r\n").filter(|part| part.len() > 1).collect();
        assert_eq!(payload, "halfbody");
        assert_eq!(client.get("/").status, 200, "the connection goes on");
    }
}

#[test]
fn a_post_under_way_is_answered_when_its_server_fails() {
    let bad = Origin::scripted(|connection| {
        connection.request_head();
        connection.exactly(4);
        connection.reset();
    });
    let good = Origin::good("good");
    let proxy = Proxy::start(&app(&[&bad, &good], KEEP));
    let mut client = half_sent(&proxy, "POST", false, &bad);
    let answer = client.response();
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (502, Some("upstream_reset"))
    );
    assert_eq!(good.connections(), 0);
}

#[test]
fn every_attempt_is_in_the_access_log() {
    let (bad, good) = (failing("reset"), Origin::good("good"));
    let directory = tempfile::tempdir().expect("can be made");
    let log = directory.path().join("access.log");
    let more = format!(
        "[access-log]\npath = \"{}\"\nformat = \"json\"\n",
        log.display()
    );
    let proxy = Proxy::start(&(app(&[&bad, &good], KEEP) + &more));
    assert_eq!(proxy.get("/").text(), "good");
    let mut line = String::new();
    eventually("it is logged", || {
        line = std::fs::read_to_string(&log).unwrap_or_default();
        line.ends_with('\n')
    });
    let record: serde_json::Value = serde_json::from_str(&line).expect("is JSON");
    let attempts = record["attempts"].as_array().expect("a list");
    assert_eq!(attempts.len(), 2, "{line}");
    assert_eq!(attempts[0]["server"], bad.address().to_string());
    assert!(attempts[0].to_string().contains("upstream_reset"), "{line}");
    assert_eq!(attempts[1]["server"], good.address().to_string());
    assert_eq!(attempts[1]["status"], 200);
    assert_eq!(
        (&record["status"], &record["upstream"]),
        (&200.into(), &"app".into())
    );
}

/// Resets a connection with a request on it when it is told to.
fn resetting_when_told() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        connection.request();
        // An error means that the test is over.
        let _ = released.lock().expect("no panic").recv();
        connection.reset();
    });
    (origin, release)
}

#[test]
fn a_retry_chooses_among_the_servers_that_the_upstream_has_now() {
    let ((old, release), new) = (resetting_when_told(), Origin::good("new"));
    let proxy = Proxy::start(&app(&[&old], KEEP));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is at the old server", || old.request_count() == 1);
    proxy.reconfigure(&app(&[&new], KEEP));
    release.send(()).expect("the origin waits");
    assert_eq!(client.response().text(), "new");
}

#[test]
fn a_retry_in_an_upstream_that_is_gone_chooses_among_its_last_servers() {
    let ((first, release), second) = (resetting_when_told(), Origin::good("second"));
    let other = Origin::good("other");
    let proxy = Proxy::start(&app(&[&first, &second], KEEP));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is at the first server", || first.request_count() == 1);
    proxy.reconfigure(&app(&[&other], KEEP).replace("app", "else"));
    release.send(()).expect("the origin waits");
    assert_eq!(client.response().text(), "second");
    assert_eq!(proxy.get("/").text(), "other");
}

#[test]
fn a_request_under_way_keeps_its_routes_rules() {
    let ((old, release), new) = (resetting_when_told(), Origin::good("new"));
    let proxy = Proxy::start(&app(&[&old, &new], KEEP));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is at the old server", || old.request_count() == 1);
    let strict = format!("{KEEP}[upstream.app.retry]\nattempts = 0\n");
    proxy.reconfigure(&app(&[&old, &new], &strict));
    release.send(()).expect("the origin waits");
    assert_eq!(
        client.response().text(),
        "new",
        "it was retried as it began"
    );
}

#[test]
fn a_socket_that_is_not_there_is_tried_elsewhere() {
    let good = Origin::good("good");
    let config = app(&[&good], KEEP).replace("{ \"", "{ \"unix:/nowhere/app.sock\" = 1, \"");
    let proxy = Proxy::start(&config);
    assert_eq!(count(&proxy.bodies(4), "good"), 4);
    proxy.put_server(&good, r#"{"drain": true}"#);
    let answer = proxy.get("/");
    assert_eq!(
        (answer.status, answer.evenkeel_reason()),
        (502, Some("connect_refused"))
    );
}
