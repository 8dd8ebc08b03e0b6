//! `ecs`: Elastic Common Schema 8, nested objects, ready for Elasticsearch without a pipeline.

use std::io::Write;

use super::json::{attempts, number, split_query, text, version};
use super::time::Clock;
use super::{Record, escape};

pub(super) fn line(out: &mut Vec<u8>, record: &Record<'_>, clock: &mut Clock) {
    out.extend_from_slice(b"{\"@timestamp\":\"");
    clock.write_utc(out);
    out.extend_from_slice(b"\",\"ecs\":{\"version\":\"8.11.0\"}");
    event(out, record);
    http(out, record);
    url(out, record);
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        ",\"source\":{{\"ip\":\"{0}\"}},\"client\":{{\"ip\":\"{0}\"}}",
        record.client
    );
    if let Some(agent) = record.user_agent {
        out.extend_from_slice(b",\"user_agent\":{\"original\":");
        escape::json(out, agent);
        out.push(b'}');
    }
    if let Some(trace) = record.trace_id {
        out.extend_from_slice(b",\"trace\":{\"id\":");
        escape::json(out, trace);
        out.push(b'}');
    }
    out.extend_from_slice(b",\"service\":{\"name\":\"evenkeel\",\"type\":\"evenkeel\"}");
    labels(out, record);
    own(out, record);
    out.extend_from_slice(b"}\n");
}

fn event(out: &mut Vec<u8>, record: &Record<'_>) {
    let outcome = if record.status < 400 {
        "success"
    } else {
        "failure"
    };
    let _ = write!(
        out,
        ",\"event\":{{\"kind\":\"event\",\"dataset\":\"evenkeel.access\",\"category\":[\"web\"],\
         \"type\":[\"access\"],\"outcome\":\"{outcome}\",\"duration\":{}}}",
        record.duration.as_nanos()
    );
}

fn http(out: &mut Vec<u8>, record: &Record<'_>) {
    let _ = write!(
        out,
        ",\"http\":{{\"version\":\"{}\",\"request\":{{\"body\":{{\"bytes\":{}}}",
        version(record.version),
        record.request_bytes
    );
    text(out, "id", record.request_id);
    text(out, "method", record.method);
    if let Some(referer) = record.referer {
        text(out, "referrer", referer);
    }
    let _ = write!(
        out,
        "}},\"response\":{{\"status_code\":{},\"body\":{{\"bytes\":{}}}}}}}",
        record.status, record.response_bytes
    );
}

fn url(out: &mut Vec<u8>, record: &Record<'_>) {
    let (path, query) = split_query(record.target);
    out.extend_from_slice(b",\"url\":{\"original\":");
    escape::json(out, record.target);
    text(out, "path", path);
    if let Some(query) = query {
        text(out, "query", query);
    }
    let (domain, port) = split_port(record.host);
    if !domain.is_empty() {
        text(out, "domain", domain);
    }
    if let Some(port) = port {
        number(out, "port", u64::from(port));
    }
    out.push(b'}');
}

/// Custom keywords; ECS wants them flat.
fn labels(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b",\"labels\":{\"listener\":");
    escape::json(out, record.listener.as_bytes());
    if let Some(route) = record.route {
        text(out, "route", route.as_bytes());
    }
    if let Some(upstream) = record.upstream {
        text(out, "upstream", upstream.as_bytes());
    }
    out.push(b'}');
}

/// What the schema has no field for.
fn own(out: &mut Vec<u8>, record: &Record<'_>) {
    out.extend_from_slice(b",\"evenkeel\":{\"attempts\":");
    attempts(out, record.attempts);
    if let Some(reason) = record.reason {
        text(out, "reason", reason.as_str().as_bytes());
    }
    out.push(b'}');
}

/// A Host without its port (RFC 9110 section 7.2); brackets of IPv6 go too, as ECS wants it.
fn split_port(host: &[u8]) -> (&[u8], Option<u16>) {
    let port = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    if let Some(rest) = host.strip_prefix(b"[")
        && let Some(end) = memchr::memchr(b']', rest)
    {
        return (
            &rest[..end],
            rest[end + 1..].strip_prefix(b":").and_then(port),
        );
    }
    match memchr::memrchr(b':', host) {
        Some(at) => (&host[..at], port(&host[at + 1..])),
        None => (host, None),
    }
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
        serde_json::from_slice(&out).expect("valid JSON")
    }

    #[test]
    fn fields_are_where_the_schema_wants_them() {
        let attempts = testing::attempts();
        let mut record = testing::record();
        record.attempts = &attempts;
        record.trace_id = Some(b"4bf92f3577b34da6a3ce929d0e0e4736");
        record.reason = Some(Reason::ResponseTimeout);
        record.status = 504;
        let value = parsed(&record);
        assert!(
            value["@timestamp"]
                .as_str()
                .is_some_and(|time| time.ends_with('Z'))
        );
        assert_eq!(value["ecs"]["version"], "8.11.0");
        assert_eq!(value["http"]["request"]["method"], "GET");
        assert_eq!(
            value["http"]["response"],
            json!({"status_code": 504, "body": {"bytes": 512}})
        );
        assert_eq!(value["http"]["version"], "1.1");
        assert_eq!(value["url"]["path"], "/users");
        assert_eq!(
            (&value["url"]["domain"], &value["url"]["port"]),
            (&json!("example.org"), &json!(8080))
        );
        assert_eq!(
            (&value["source"]["ip"], &value["client"]["ip"]),
            (&json!("192.0.2.7"), &json!("192.0.2.7"))
        );
        assert_eq!(value["event"]["duration"], 12_345_000);
        assert_eq!(value["event"]["outcome"], "failure");
        assert_eq!(value["user_agent"]["original"], "curl/8.5.0");
        assert_eq!(value["trace"]["id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(value["service"]["name"], "evenkeel");
        assert_eq!(value["evenkeel"]["reason"], "response_timeout");
        assert_eq!(
            value["evenkeel"]["attempts"][0]["failure"],
            "connect_refused"
        );
    }

    #[test]
    fn hosts_lose_port_and_brackets() {
        assert_eq!(split_port(b"a.example"), (&b"a.example"[..], None));
        assert_eq!(split_port(b"a.example:81"), (&b"a.example"[..], Some(81)));
        assert_eq!(split_port(b"[::1]:81"), (&b"::1"[..], Some(81)));
        assert_eq!(split_port(b"[::1]"), (&b"::1"[..], None));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_line(target in prop::collection::vec(any::<u8>(), 0..40), host in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut record = testing::record();
            record.target = &target;
            record.host = &host;
            record.referer = Some(&host);
            let value = parsed(&record);
            prop_assert_eq!(value["url"]["original"].as_str(), Some(&*String::from_utf8_lossy(&target)));
        }
    }
}
