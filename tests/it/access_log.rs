//! The access log through a running proxy: one line per request, written when it ends.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::support::{Origin, Process, Proxy, app, eventually, value_within, wait::DEADLINE};

/// A log in a directory of its own.
struct Log {
    directory: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Log { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// The table, with further keys.
    fn table(&self, keys: &str) -> String {
        format!(
            "[access-log]\npath = \"{}\"\n{keys}\n",
            self.path().display()
        )
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(ToOwned::to_owned).collect()
    }

    /// The lines once there are `count`.
    #[track_caller]
    fn wait(&self, count: usize) -> Vec<String> {
        let lines = value_within(DEADLINE, "so many lines are written", || {
            Some(self.lines()).filter(|lines| lines.len() >= count)
        });
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    #[track_caller]
    fn json(&self, count: usize) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).expect("each line is JSON");
        self.wait(count).iter().map(parse).collect()
    }
}

const JSON: &str = "format = \"json\"";

#[test]
fn combined_is_nginxs_to_the_byte() {
    let (origin, log) = (Origin::good("four"), Log::new());
    let proxy = Proxy::start(&(log.table("") + &app(&[&origin], "")));
    let fields = "User-Agent: an \"agent\"\r\nReferer: http://r.example/\r\n\
                  Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
    proxy.client().request("GET", "/a%20b?q=\u{e9}", fields);
    proxy.client().post("/", b"12345");
    let lines = log.wait(2);
    let (start, end) = (
        lines[0].find('[').expect("["),
        lines[0].find(']').expect("]"),
    );
    assert_eq!(&lines[0][..start], "127.0.0.1 - alice ");
    let time = &lines[0][start + 1..end];
    let shape: String = time
        .chars()
        .map(|c| match c {
            '0'..='9' => '0',
            'A'..='Z' => 'A',
            'a'..='z' => 'a',
            '-' => '+',
            other => other,
        })
        .collect();
    assert_eq!(shape, "00/Aaa/0000:00:00:00 +0000", "{time}");
    assert_eq!(
        &lines[0][end + 1..],
        " \"GET /a%20b?q=\\xC3\\xA9 HTTP/1.1\" 200 4 \"http://r.example/\" \"an \\x22agent\\x22\""
    );
    assert!(
        lines[1].ends_with("\"POST / HTTP/1.1\" 200 4 \"-\" \"-\""),
        "{}",
        lines[1]
    );
}

#[test]
fn json_has_every_attempt_of_a_retried_request() {
    let (good, log) = (Origin::good("four"), Log::new());
    let bad = Origin::answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let gone = Origin::good("never");
    gone.stop();
    let more = "retry.attempts = 2\nbreaker.mode = \"off\"\n";
    let config = log.table(JSON) + &app(&[&gone, &bad, &good], more);
    let proxy = Proxy::start(&config.replace("prefix", "name = \"everything\"\nprefix"));
    // In three first attempts each server comes once.
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    for _ in 0..3 {
        assert_eq!(proxy.client().request("GET", "/p?q=1", trace).status, 200);
    }
    let lines = log.json(3);
    let label = |origin: &Origin| origin.address().to_string();
    for line in &lines {
        for (key, value) in [
            ("method", "GET"),
            ("host", "test"),
            ("path", "/p"),
            ("query", "q=1"),
            ("client", "127.0.0.1"),
            ("version", "1.1"),
            ("listener", "web"),
            ("route", "everything"),
            ("upstream", "app"),
            ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ] {
            assert_eq!(line[key], value, "{line:#}");
        }
        assert_eq!((&line["status"], &line["bytes"]), (&200.into(), &4.into()));
        assert!(
            line["reason"].is_null(),
            "a retry that helped is no refusal"
        );
        let attempts = line["attempts"].as_array().expect("a list");
        let total: f64 = attempts
            .iter()
            .filter_map(|tried| tried["total_ms"].as_f64())
            .sum();
        // Attempts that follow each other without a gap add up to it, but for how fractions add.
        let duration = line["duration_ms"].as_f64().expect("a number");
        assert!(duration > total - 0.000_5, "{line:#}");
        let last = attempts.last().expect("one at least");
        assert_eq!(
            (&last["server"], &last["status"]),
            (&label(&good).into(), &200.into())
        );
        assert!(last["first_byte_ms"].as_f64() > Some(0.0), "{line:#}");
        for tried in &attempts[..attempts.len() - 1] {
            if tried["server"] == label(&gone) {
                assert_eq!(tried["failure"], "connect_refused");
                assert!(tried["first_byte_ms"].is_null());
            } else {
                assert_eq!(
                    (&tried["server"], &tried["status"]),
                    (&label(&bad).into(), &503.into())
                );
            }
        }
    }
    let first = |origin: &Origin| {
        lines
            .iter()
            .any(|line| line["attempts"][0]["server"] == label(origin))
    };
    assert!(first(&gone) && first(&bad) && first(&good), "{lines:#?}");
    let connected = lines
        .iter()
        .flat_map(|line| line["attempts"].as_array().expect("a list"));
    assert!(
        connected
            .into_iter()
            .any(|tried| tried["connect_ms"].as_f64() > Some(0.0))
    );
}

#[test]
fn ecs_is_what_elasticsearch_takes() {
    let (origin, log) = (Origin::good("four"), Log::new());
    let proxy = Proxy::start(&(log.table("format = \"ecs\"") + &app(&[&origin], "")));
    let fields = "User-Agent: agent\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    proxy.client().request("GET", "/p?q=1", fields);
    let line = &log.json(1)[0];
    let at = |pointer: &str| {
        line.pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer}: {line:#}"))
    };
    for (pointer, value) in [
        ("/http/request/method", "GET"),
        ("/url/path", "/p"),
        ("/url/query", "q=1"),
        ("/url/domain", "test"),
        ("/client/ip", "127.0.0.1"),
        ("/user_agent/original", "agent"),
        ("/trace/id", "0af7651916cd43dd8448eb211c80319c"),
        ("/event/outcome", "success"),
    ] {
        assert_eq!(at(pointer), value);
    }
    assert_eq!(at("/http/response/status_code"), 200);
    assert_eq!(at("/http/response/body/bytes"), 4);
    assert!(at("/event/duration").as_u64() > Some(1000), "nanoseconds");
    assert!(
        at("/@timestamp")
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    assert!(
        line.to_string().contains(&origin.address().to_string()),
        "the attempt: {line:#}"
    );
}

#[test]
fn sampling_never_loses_errors_and_answers_of_ours() {
    let log = Log::new();
    let origin = Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let status = request.target().trim_start_matches("/s/").to_owned();
            connection.send(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let config = app(&[&origin], "breaker.mode = \"off\"\nretry.attempts = 0\n")
        .replace("prefix = \"/\"", "prefix = \"/s\"");
    let proxy = Proxy::start(&(log.table("sample = \"0%\"\nformat = \"json\"") + &config));
    let mut client = proxy.client();
    for target in ["/s/200", "/s/404", "/s/500", "/s/200", "/s/599", "/nowhere"] {
        client.get(target);
    }
    let lines = log.json(3);
    let of = |line: &Value| (line["path"].clone(), line["status"].clone());
    let logged: Vec<_> = lines.iter().map(of).collect();
    assert_eq!(
        logged,
        [
            ("/s/500".into(), 500.into()),
            ("/s/599".into(), 599.into()),
            ("/nowhere".into(), 404.into())
        ]
    );
}

#[test]
fn id_and_client_are_those_that_the_server_sees() {
    let (origin, log) = (Origin::good("x"), Log::new());
    let listener = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                    trusted-proxies = [\"127.0.0.1/32\"]\n";
    let proxy = Proxy::start(&(log.table(JSON) + listener + &app(&[&origin], "")));
    let mut client = proxy.client();
    client.request(
        "GET",
        "/",
        "X-Forwarded-For: 192.0.2.7\r\nX-Request-Id: abc-1\r\n",
    );
    client.request("GET", "/", "");
    let lines = log.json(2);
    assert_eq!(
        (&lines[0]["client"], &lines[0]["request_id"]),
        (&"192.0.2.7".into(), &"abc-1".into())
    );
    let sent = origin.last().headers("x-request-id");
    assert_eq!(lines[1]["request_id"], sent[0].as_str());
}

#[test]
fn an_answer_that_its_client_left_says_so() {
    let log = Log::new();
    let origin = Origin::scripted(|connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
            connection.wait_for_close();
        }
    });
    let proxy = Proxy::start(&(log.table(JSON) + &app(&[&origin], "")));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(client.some().is_ok());
    drop(client);
    let line = &log.json(1)[0];
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&200.into(), &"client_closed".into())
    );
    eventually("it is counted", || {
        proxy.metric("evenkeel_rejected_total{reason=\"client_closed\"}") == Some(1.0)
    });
}

#[test]
fn an_answer_that_its_server_cut_says_so() {
    let log = Log::new();
    let origin = Origin::scripted(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
    });
    let proxy = Proxy::start(&(log.table(JSON) + &app(&[&origin], "")));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let got = client.rest();
    assert!(got.ends_with(b"begun"), "it is cut, not made up");
    let line = &log.json(1)[0];
    assert_eq!(
        (&line["status"], &line["reason"]),
        (&200.into(), &"upstream_reset".into())
    );
    assert_eq!(line["bytes"], 5);
}

#[test]
fn what_cannot_be_written_is_counted() {
    let origin = Origin::good("x");
    let log = "[access-log]\npath = \"/dev/full\"\n";
    let proxy = Proxy::start(&(log.to_owned() + &app(&[&origin], "")));
    assert_eq!(proxy.get("/").status, 200);
    eventually("the line is counted as dropped", || {
        proxy.metric("evenkeel_access_log_dropped_total") == Some(1.0)
    });
}

#[test]
fn a_reload_moves_formats_and_ends_it() {
    let (origin, first, second) = (Origin::good("x"), Log::new(), Log::new());
    let app = app(&[&origin], "");
    let proxy = Proxy::start(&(first.table(JSON) + &app));
    proxy.get("/1");
    first.wait(1);
    proxy.reconfigure(&(second.table("format = \"ecs\"") + &app));
    proxy.get("/2");
    assert_eq!(second.json(1)[0]["url"]["path"], "/2");
    proxy.reconfigure(&app);
    proxy.get("/3");
    proxy.reconfigure(&(second.table("format = \"ecs\"") + &app));
    proxy.get("/4");
    assert_eq!(second.json(2)[1]["url"]["path"], "/4");
    first.wait(1);
}

#[test]
fn a_log_that_cannot_be_opened_refuses_the_file() {
    let origin = Origin::good("x");
    let app = app(&[&origin], "");
    let proxy = Proxy::start(&app);
    proxy.write(&format!(
        "[access-log]\npath = \"/nonexistent/x.log\"\n{app}"
    ));
    let answer = proxy.reload();
    assert_eq!(answer.status, 422);
    let told = "cannot open the access log /nonexistent/x.log: ";
    assert!(answer.text().contains(told), "{}", answer.text());
    assert_eq!(proxy.get("/").status, 200);
}

#[test]
fn standard_error_takes_it_too() {
    let origin = Origin::good("x");
    let log = "[access-log]\npath = \"stderr\"\n";
    let process = Process::start(&(log.to_owned() + &app(&[&origin], "")));
    super::support::Client::connect(process.listener).get("/seen");
    eventually("the line is there", || {
        process.log().contains("\"GET /seen HTTP/1.1\" 200 1")
    });
}
