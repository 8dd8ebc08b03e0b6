//! Heads going out: a start line, runs of received lines, and the fields that the wire decides.

use crate::message::{Fields, Known, KnownSet, Length, Method, RequestHead, ResponseHead};
use crate::wire::h1::date;
use crate::wire::h1::framing::number;

/// Never passed on as they came: they speak of one connection (RFC 9110 section 7.6.1).
const OF_CONNECTION: KnownSet = KnownSet::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
]);

/// A request towards a server, always HTTP/1.1.
pub(super) fn request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    length: Length,
    upgrade: Option<&str>,
) {
    let kept = head.kept_start_line();
    if kept.is_none() {
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.outgoing_target());
        out.extend_from_slice(b" HTTP/1.1\r\n");
    }
    let lines = Lines {
        fields: &head.fields,
        kept: kept.unwrap_or(0),
    };
    // A body that is not there is said to be empty where the client said so (RFC 9110 section
    // 8.6), and where the method makes a server wait for one.
    let declare = length != Length::Exact(0)
        || head.fields.contains(Known::ContentLength)
        || matches!(head.method, Method::Post | Method::Put | Method::Patch);
    let skip = OF_CONNECTION.with(Known::Upgrade);
    match (length, declare) {
        (Length::Unknown, _) => {
            lines.write(out, skip.with(Known::ContentLength));
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        (Length::Exact(length), true) => lines.write_with_length(out, skip, length),
        (Length::Exact(_), false) => lines.write(out, skip),
    }
    if let Some(token) = upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(token.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// How a final answer's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerFraming {
    Length(u64),
    Chunked,
    /// Ends with the connection: only for HTTP/1.0.
    UntilClose,
    /// No body, and a `Content-Length` of the server is kept: HEAD and 304.
    HeadOnly,
    /// No body and none declared: 204.
    NoBody,
    /// 101: bytes both ways follow.
    Tunnel,
}

/// What `Connection` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// The version's default.
    Silent,
    KeepAlive,
    Close,
}

/// A final answer towards the client.
pub(super) fn answer(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    framing: AnswerFraming,
    persistence: Persistence,
) {
    let lines = status_line(out, head);
    let skip = OF_CONNECTION;
    match framing {
        AnswerFraming::Length(length) => lines.write_with_length(out, skip, length),
        AnswerFraming::Chunked => {
            lines.write(out, skip.with(Known::ContentLength));
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        AnswerFraming::HeadOnly => lines.write(out, skip),
        AnswerFraming::UntilClose | AnswerFraming::NoBody | AnswerFraming::Tunnel => {
            lines.write(out, skip.with(Known::ContentLength));
        }
    }
    if !head.fields.contains(Known::Date) {
        date::push(out);
    }
    let connection: &[u8] = match (framing, persistence) {
        (AnswerFraming::Tunnel, _) => b"Connection: Upgrade\r\n",
        (_, Persistence::Close) => b"Connection: close\r\n",
        (_, Persistence::KeepAlive) => b"Connection: keep-alive\r\n",
        (_, Persistence::Silent) => b"",
    };
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
}

/// An interim answer; it has no body, whatever its fields say (RFC 9110 section 15.2).
pub(super) fn interim(out: &mut Vec<u8>, head: &ResponseHead) {
    let skip = OF_CONNECTION
        .with(Known::ContentLength)
        .with(Known::Upgrade);
    status_line(out, head).write(out, skip);
    out.extend_from_slice(b"\r\n");
}

/// Writes the status line, unless the received one does: it goes with the lines behind it.
fn status_line<'a>(out: &mut Vec<u8>, head: &'a ResponseHead) -> Lines<'a> {
    let kept = head.kept_start_line();
    if kept.is_none() {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(digits.format(head.status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.reason());
        out.extend_from_slice(b"\r\n");
    }
    Lines {
        fields: &head.fields,
        kept: kept.unwrap_or(0),
    }
}

/// Lines to write, and the bytes of the start line in front of them that is still to be written.
struct Lines<'a> {
    fields: &'a Fields,
    kept: u32,
}

impl Lines<'_> {
    fn write(&self, out: &mut Vec<u8>, skip: KnownSet) {
        self.fields.write_from_start(self.kept, out, skip);
    }

    /// The received length stays in its run where it is the right one. Zeros in front do not:
    /// some read them as octal.
    fn write_with_length(&self, out: &mut Vec<u8>, skip: KnownSet, length: u64) {
        let received = self.fields.get(Known::ContentLength);
        let plain = received.filter(|text| !matches!(text, [b'0', _, ..]));
        if plain.and_then(number) == Some(length) {
            return self.write(out, skip);
        }
        self.write(out, skip.with(Known::ContentLength));
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(digits.format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}
