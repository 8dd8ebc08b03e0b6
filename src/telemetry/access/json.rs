//! `json`: one flat object per line, `snake_case`; the attempts are its only nested value.

use std::io::Write;
use std::time::Duration;

use super::escape;
use super::time::Clock;
use super::{Attempt, Record};
use crate::message::Version;
use crate::telemetry::Outcome;

pub(super) fn line(out: &mut Vec<u8>, record: &Record<'_>, clock: &mut Clock) {
    out.extend_from_slice(b"{\"time\":\"");
    clock.write_utc(out);
    out.push(b'"');
    text(out, "request_id", record.request_id);
    // Writing to a vector cannot fail.
    let _ = write!(out, ",\"client\":\"{}\"", record.client);
    text(out, "method", record.method);
    text(out, "host", record.host);
    let (path, query) = split_query(record.target);
    text(out, "path", path);
    optional(out, "query", query);
    text(out, "version", version(record.version).as_bytes());
    number(out, "status", u64::from(record.status));
    number(out, "bytes", record.response_bytes);
    number(out, "request_bytes", record.request_bytes);
    milliseconds(out, "duration_ms", Some(record.duration));
    text(out, "listener", record.listener.as_bytes());
    optional(out, "route", record.route.map(str::as_bytes));
    optional(out, "upstream", record.upstream.map(str::as_bytes));
    optional(
        out,
        "reason",
        record.reason.map(|reason| reason.as_str().as_bytes()),
    );
    optional(out, "referer", record.referer);
    optional(out, "user_agent", record.user_agent);
    optional(out, "trace_id", record.trace_id);
    out.extend_from_slice(b",\"attempts\":");
    attempts(out, record.attempts);
    out.extend_from_slice(b"}\n");
}

/// The same in `json` and `ecs`: server, status or failure, and what took how long.
pub(super) fn attempts(out: &mut Vec<u8>, attempts: &[Attempt]) {
    out.push(b'[');
    for (position, attempt) in attempts.iter().enumerate() {
        out.extend_from_slice(if position == 0 {
            b"{\"server\":"
        } else {
            b",{\"server\":"
        });
        escape::json(out, attempt.server.as_bytes());
        match attempt.outcome {
            Outcome::Status(status) => number(out, "status", u64::from(status)),
            Outcome::Failed(reason) => text(out, "failure", reason.as_str().as_bytes()),
        }
        milliseconds(out, "connect_ms", attempt.connect);
        milliseconds(out, "first_byte_ms", attempt.first_byte);
        milliseconds(out, "total_ms", Some(attempt.total));
        out.push(b'}');
    }
    out.push(b']');
}

/// Path and query of a target; the query without its `?`. The authority of an absolute-form target
/// is in the record's host.
pub(super) fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let target = without_authority(target);
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}

/// Only `http` and `https` have an absolute form here; a refused target may be anything.
fn without_authority(target: &[u8]) -> &[u8] {
    let is_scheme = |scheme: &&[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    let Some(scheme) = schemes.into_iter().find(is_scheme) else {
        return target;
    };
    let rest = &target[scheme.len()..];
    match rest.iter().position(|byte| b"/?".contains(byte)) {
        Some(at) => &rest[at..],
        None => b"/",
    }
}

pub(super) fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::H2 => "2",
    }
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// `name` is one of ours and needs no escape.
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    escape::json(out, value);
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    match value {
        Some(value) => text(out, name, value),
        None => {
            key(out, name);
            out.extend_from_slice(b"null");
        }
    }
}

pub(super) fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
fn milliseconds(out: &mut Vec<u8>, name: &str, duration: Option<Duration>) {
    key(out, name);
    // Writing to a vector cannot fail.
    let _ = match duration {
        Some(duration) => {
            write!(
                out,
                "{}.{:03}",
                duration.as_millis(),
                duration.subsec_micros() % 1000
            )
        }
        None => out.write_all(b"null"),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::telemetry::Reason;
    use crate::telemetry::access::testing;

    fn parsed(record: &Record<'_>) -> Value {
        let mut out = Vec::new();
        line(&mut out, record, &mut Clock::default());
        assert_eq!(
            out.iter().filter(|&&byte| byte == b'\n').count(),
            1,
            "one line per record"
        );
        let mut value: Value = serde_json::from_slice(&out).expect("valid JSON");
        assert!(value["time"].take().is_string());
        value
    }

    #[test]
    fn a_line_holds_everything_flat() {
        let attempts = testing::attempts();
        let mut record = testing::record();
        record.attempts = &attempts;
        let expected = json!({
            "time": null, "request_id": "0123456789abcdef", "client": "192.0.2.7", "method": "GET",
            "host": "example.org:8080", "path": "/users", "query": "page=2", "version": "1.1",
            "status": 200, "bytes": 512, "request_bytes": 3, "duration_ms": 12.345,
            "listener": "web", "route": "users", "upstream": "users", "reason": null,
            "referer": null, "user_agent": "curl/8.5.0", "trace_id": null,
            "attempts": [
                {"server": "10.0.0.1:9000", "failure": "connect_refused", "connect_ms": 1.0,
                 "first_byte_ms": null, "total_ms": 1.0},
                {"server": "10.0.0.2:9000", "status": 200, "connect_ms": null,
                 "first_byte_ms": 9.5, "total_ms": 11.0},
            ],
        });
        assert_eq!(parsed(&record), expected);
    }

    #[test]
    fn the_path_of_an_absolute_form_target_has_no_authority() {
        type Case = (&'static [u8], &'static [u8], Option<&'static [u8]>);
        let cases: [Case; 6] = [
            (b"http://a.example:81/x?y", b"/x", Some(b"y")),
            (b"HTTPS://a.example/x", b"/x", None),
            (b"http://a.example", b"/", None),
            (b"http://a.example?y", b"", Some(b"y")),
            (b"/http://a/x", b"/http://a/x", None),
            (b"a.example:443", b"a.example:443", None),
        ];
        for (target, path, query) in cases {
            let shown = String::from_utf8_lossy(target);
            assert_eq!(split_query(target), (path, query), "{shown}");
        }
    }

    #[test]
    fn what_is_unknown_is_null() {
        let mut record = testing::record();
        (record.route, record.upstream, record.reason) = (None, None, Some(Reason::NoRoute));
        let value = parsed(&record);
        assert_eq!(
            (&value["route"], &value["reason"]),
            (&Value::Null, &json!("no_route"))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_line(target in prop::collection::vec(any::<u8>(), 0..40), agent in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut record = testing::record();
            record.target = &target;
            record.user_agent = Some(&agent);
            let value = parsed(&record);
            prop_assert_eq!(value["user_agent"].as_str(), Some(&*String::from_utf8_lossy(&agent)));
        }
    }
}
