//! `combined`, byte for byte nginx':
//! `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`.

use std::io::Write;

use super::Record;
use super::escape;
use super::time::Clock;
use crate::message::Version;

pub(super) fn line(out: &mut Vec<u8>, record: &Record<'_>, clock: &mut Clock) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{} - ", record.client);
    user(out, record.authorization);
    out.extend_from_slice(b" [");
    out.extend_from_slice(clock.local().as_bytes());
    out.extend_from_slice(b"] \"");
    request(out, record);
    out.extend_from_slice(b"\" ");
    out.extend_from_slice(itoa::Buffer::new().format(record.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(record.response_bytes).as_bytes());
    out.extend_from_slice(b" \"");
    or_dash(out, record.referer);
    out.extend_from_slice(b"\" \"");
    or_dash(out, record.user_agent);
    out.extend_from_slice(b"\"\n");
}

/// `$request`; nginx writes `-` where no request line was read, and of a broken one what it is.
fn request(out: &mut Vec<u8>, record: &Record<'_>) {
    if record.method.is_empty() && record.target.is_empty() {
        out.push(b'-');
        return;
    }
    escape::nginx(out, record.method);
    if record.target.is_empty() {
        return;
    }
    out.push(b' ');
    escape::nginx(out, record.target);
    out.extend_from_slice(match record.version {
        Version::Http10 => b" HTTP/1.0",
        Version::Http11 => b" HTTP/1.1",
        Version::H2 => b" HTTP/2.0",
    });
}

/// A field that is there but empty stays empty.
fn or_dash(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => escape::nginx(out, value),
        None => out.push(b'-'),
    }
}

/// `$remote_user`: the user name of Basic credentials (RFC 7617 section 2), never the password.
fn user(out: &mut Vec<u8>, authorization: Option<&[u8]>) {
    let name = authorization.and_then(|value| {
        let (scheme, credentials) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let mut decoded = base64(credentials.trim_ascii())?;
        let colon = decoded.iter().position(|&byte| byte == b':')?;
        decoded.truncate(colon);
        (colon > 0).then_some(decoded)
    });
    or_dash(out, name.as_deref());
}

/// RFC 4648 section 4, padding optional.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for &byte in text.iter().take_while(|&&byte| byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access::testing;

    /// The line with its time replaced.
    fn text(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        line(&mut out, record, &mut Clock::default());
        let text = String::from_utf8(out).expect("ASCII");
        let (before, rest) = text.split_once('[').expect("a time");
        let (_, after) = rest.split_once(']').expect("a time");
        format!("{before}[T]{after}")
    }

    #[test]
    fn a_line_is_nginx() {
        assert_eq!(
            text(&testing::record()),
            "192.0.2.7 - - [T] \"GET /users?page=2 HTTP/1.1\" 200 512 \"-\" \"curl/8.5.0\"\n"
        );
    }

    #[test]
    fn the_user_is_that_of_basic_credentials() {
        let mut record = testing::record();
        record.authorization = Some(b"Basic YWxpY2U6c2VjcmV0");
        record.referer = Some(b"http://a/");
        assert_eq!(
            text(&record),
            "192.0.2.7 - alice [T] \"GET /users?page=2 HTTP/1.1\" 200 512 \"http://a/\" \"curl/8.5.0\"\n"
        );
        for other in [&b"Bearer abc"[..], b"Basic ?", b"Basic YWxpY2U=", b"B", b""] {
            record.authorization = Some(other);
            assert!(
                text(&record).starts_with("192.0.2.7 - - [T]"),
                "no user in {other:?}"
            );
        }
    }

    #[test]
    fn an_unread_request_line_is_a_dash() {
        let mut record = testing::record();
        (record.method, record.target, record.user_agent) = (b"", b"", None);
        (record.status, record.response_bytes) = (400, 0);
        assert_eq!(text(&record), "192.0.2.7 - - [T] \"-\" 400 0 \"-\" \"-\"\n");
        record.method = b"GARBAGE";
        record.user_agent = Some(b"");
        assert!(text(&record).ends_with("[T] \"GARBAGE\" 400 0 \"-\" \"\"\n"));
    }

    #[test]
    fn no_field_forges_a_second_line_or_closes_its_quotes() {
        let mut record = testing::record();
        record.user_agent = Some(b"x\" 200 1\r\n10.0.0.1 - - \x1b[2J\xff");
        record.target = b"/\n\"";
        let text = text(&record);
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(text.matches('"').count(), 6);
        assert!(
            text.contains(r"x\x22 200 1\x0D\x0A10.0.0.1 - - \x1B[2J\xFF"),
            "{text}"
        );
    }
}
