//! The parser against tables, against `httparse`, and against itself.

use proptest::prelude::*;

use crate::config::model::UnderscoreHeaders;
use crate::message::{Fields, Known, KnownSet, Length, Version};
use crate::wire::RefusalReason;
use crate::wire::h1::head_write;
use crate::wire::h1::parse::{self, HeadLimits};

pub(super) const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
    underscores: UnderscoreHeaders::Allow,
};

fn refused(bytes: &[u8]) -> Option<RefusalReason> {
    parse::request(bytes, &LIMITS)
        .err()
        .map(|malformed| malformed.reason)
}

fn written(fields: &Fields) -> Vec<u8> {
    let mut out = Vec::new();
    fields.write(&mut out, KnownSet::EMPTY);
    out
}

const TYPICAL: &str = "GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nX-Empty:\r\n\
    X-Space:   a b\t \r\nx-known: \u{e9}\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n";

#[test]
fn a_head_is_read_as_it_was_written() {
    let text = format!("\r\n{TYPICAL}body");
    let (head, length) = parse::request(text.as_bytes(), &LIMITS)
        .expect("valid")
        .expect("whole");
    assert_eq!(length, text.len() - 4);
    assert_eq!(
        (head.method.as_str(), head.target()),
        ("GET", &b"/a?b=c"[..])
    );
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.fields.get(Known::Host), Some(&b"example.org"[..]));
    assert_eq!(head.fields.get_text("x-empty"), Some(&b""[..]));
    assert_eq!(head.fields.get_text("x-space"), Some(&b"a b"[..]));
    assert_eq!(head.fields.get_text("x-known"), Some("\u{e9}".as_bytes()));
    assert_eq!(head.fields.len(), 6);
}

#[test]
fn a_head_cut_anywhere_is_not_whole_and_no_error() {
    for cut in 0..TYPICAL.len() {
        let parsed = parse::request(&TYPICAL.as_bytes()[..cut], &LIMITS);
        assert!(matches!(parsed, Ok(None)), "cut at {cut}: {parsed:?}");
    }
    let answer = "HTTP/1.1 200 Fine thing\r\nA: b\r\nContent-Length: 0\r\n\r\n";
    for cut in 0..answer.len() {
        let parsed = parse::response(&answer.as_bytes()[..cut], &LIMITS);
        assert!(matches!(parsed, Ok(None)), "cut at {cut}: {parsed:?}");
    }
}

#[test]
fn whatever_two_readers_could_read_differently_is_refused() {
    let bad: &[&[u8]] = &[
        // RFC 9112 section 2.2: line ends are CRLF.
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"\nGET / HTTP/1.1\r\n\r\n",
        // Section 3: one space between three parts.
        b" GET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET\t/\tHTTP/1.1\r\n\r\n",
        b"GET / a HTTP/1.1\r\n\r\n",
        b"GET /\x0bHTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\n\r\n",
        b"G\xc3\x89T / HTTP/1.1\r\n\r\n",
        b"G(T / HTTP/1.1\r\n\r\n",
        b"/ HTTP/1.1\r\n\r\n",
        b"GET HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /\r\nHost: a\r\n\r\n",
        // Section 2.3: the version's letters and digits.
        b"GET / HTTP/11\r\n\r\n",
        b"GET / HTTP/1.10\r\n\r\n",
        b"GET / HTTP/1,1\r\n\r\n",
        b"GET / HTTP /1.1\r\n\r\n",
        b"GET / HTTPS/1.1\r\n\r\n",
        // Section 5.1: names are tokens, followed by the colon.
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\nA(b): c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\xff: c\r\n\r\n",
        b"GET / HTTP/1.1\r\n\x0bTransfer-Encoding: chunked\r\n\r\n",
        // Section 5.2: no folding, not even of the first line.
        b"GET / HTTP/1.1\r\n A: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n",
        b"GET / HTTP/1.1\r\nA:\r\n b\r\n\r\n",
        // RFC 9110 section 5.5: no control bytes in values.
        b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x01c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: 0123456789\x7f\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: 01234567\x1f9012345\r\n\r\n",
    ];
    for bytes in bad {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(refused(bytes), Some(RefusalReason::BadRequest), "{text:?}");
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0", "HTTP/9.9"] {
        let bytes = format!("GET / {version}\r\n\r\n");
        assert_eq!(
            refused(bytes.as_bytes()),
            Some(RefusalReason::VersionNotSupported)
        );
    }
}

#[test]
fn limits_are_exact() {
    let head = |length: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(length - 23));
    assert_eq!(head(1000).len(), 1000);
    let limits = HeadLimits {
        bytes: 1000,
        fields: 2,
        ..LIMITS
    };
    let reason = |text: &str| {
        parse::request(text.as_bytes(), &limits)
            .err()
            .map(|bad| bad.reason)
    };
    assert_eq!(reason(&head(1000)), None);
    assert_eq!(reason(&head(1001)), Some(RefusalReason::HeaderTooLarge));
    assert_eq!(
        reason(&head(1001)[..1000]),
        Some(RefusalReason::HeaderTooLarge)
    );
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1000));
    assert_eq!(reason(&line[..999]), None);
    assert_eq!(reason(&line), Some(RefusalReason::UriTooLong));
    assert_eq!(reason(&line[..1000]), Some(RefusalReason::UriTooLong));
    assert_eq!(reason("GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\n\r\n"), None);
    let three = "GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n";
    assert_eq!(reason(three), Some(RefusalReason::HeaderTooLarge));
}

#[test]
fn underscores_are_allowed_removed_or_rejected() {
    let text = "GET / HTTP/1.1\r\nA: 1\r\nX_Forwarded_For: 2\r\nB: 3\r\n\r\n";
    let parse = |underscores| {
        let limits = HeadLimits {
            underscores,
            ..LIMITS
        };
        parse::request(text.as_bytes(), &limits).map(|parsed| parsed.expect("whole").0.fields)
    };
    let removed = parse(UnderscoreHeaders::Remove).expect("valid");
    assert_eq!(written(&removed), b"A: 1\r\nB: 3\r\n");
    assert_eq!(parse(UnderscoreHeaders::Allow).expect("valid").len(), 3);
    assert!(parse(UnderscoreHeaders::Reject).is_err());
}

#[test]
fn the_start_line_of_a_refused_head_is_still_read() {
    let parts = |bytes: &[u8]| parse::start_line_parts(bytes);
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        parts(b"\r\nGET /x HTTP/9\r\nA\r\n"),
        (some("GET"), some("/x"))
    );
    assert_eq!(parts(b"GET /x"), (some("GET"), some("/x")));
    assert_eq!(parts(b"\x16\x03"), (None, None));
    assert_eq!(parts(b""), (None, None));
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z!#$%&'*+.^`|~0-9-]{1,20}"
}

fn field() -> impl Strategy<Value = (String, Vec<u8>)> {
    let name = prop_oneof![
        token(),
        Just("Host".to_owned()),
        Just("content-type".to_owned()),
        Just("VIA".to_owned())
    ];
    let byte = prop_oneof![8 => 0x20u8..0x7f, 1 => 0x80u8..=0xff, 1 => Just(b'\t')];
    (name, prop::collection::vec(byte, 0..30))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        method in token(), target in "/[!-~]{0,30}", fields in prop::collection::vec(field(), 0..12)
    ) {
        let mut head = crate::message::RequestHead::new(
            crate::message::Method::from_token(method.as_bytes()), Version::Http11, target.as_bytes());
        for (name, value) in &fields {
            head.fields.append_text(name, value);
        }
        let expected: Vec<(Vec<u8>, Vec<u8>)> = head
            .fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let mut bytes = Vec::new();
        head_write::request(&mut bytes, &head, Length::Exact(0), None);
        let (again, length) = parse::request(&bytes, &LIMITS).expect("valid").expect("whole");
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(&again.method, &head.method);
        prop_assert_eq!(again.target(), head.target());
        let read: Vec<(Vec<u8>, Vec<u8>)> = again
            .fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        prop_assert_eq!(read, expected);
    }

    /// Bytes near a valid head: where both accept, both must mean the same; what `httparse`
    /// refuses outright must not be accepted here.
    #[test]
    fn httparse_never_reads_it_differently(
        fields in prop::collection::vec(field(), 0..6),
        edits in prop::collection::vec((any::<usize>(), prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'\t'), Just(0u8), any::<u8>()
        ], any::<bool>()), 0..4)
    ) {
        let mut bytes = b"GET /p HTTP/1.1\r\n".to_vec();
        for (name, value) in &fields {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        for (position, byte, insert) in edits {
            let position = position % bytes.len();
            if insert { bytes.insert(position, byte) } else { bytes[position] = byte }
        }
        let mut storage = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Request::new(&mut storage);
        let their_length = theirs.parse(&bytes);
        let Ok(Some((ours, length))) = parse::request(&bytes, &LIMITS) else { return Ok(()) };
        // Targets are bytes here (the router escapes those over 0x7F), UTF-8 there.
        prop_assume!(ours.target().is_ascii());
        prop_assert_eq!(their_length, Ok(httparse::Status::Complete(length)));
        prop_assert_eq!(theirs.method, Some(ours.method.as_str()));
        prop_assert_eq!(theirs.path.map(str::as_bytes), Some(ours.target()));
        let our_fields: Vec<_> = ours.fields.iter().collect();
        prop_assert_eq!(our_fields.len(), theirs.headers.len());
        for ((name, value), header) in our_fields.iter().zip(theirs.headers.iter()) {
            prop_assert_eq!(*name, header.name.as_bytes());
            prop_assert_eq!(*value, crate::message::fields::trim(header.value));
        }
    }

    #[test]
    fn httparse_never_reads_an_answer_differently(
        status in 0u16..1100, reason in "[ -~\t]{0,12}", fields in prop::collection::vec(field(), 0..5),
        edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..3)
    ) {
        let mut bytes = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
        for (name, value) in &fields {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        for (position, byte) in edits {
            let position = position % bytes.len();
            bytes[position] = byte;
        }
        let mut storage = [httparse::EMPTY_HEADER; 64];
        let mut theirs = httparse::Response::new(&mut storage);
        let their_length = theirs.parse(&bytes);
        let Ok(Some((ours, length))) = parse::response(&bytes, &LIMITS) else { return Ok(()) };
        prop_assert_eq!(their_length, Ok(httparse::Status::Complete(length)));
        prop_assert_eq!(theirs.code, Some(ours.status));
        prop_assert_eq!(ours.fields.len(), theirs.headers.len());
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse::request(&bytes, &LIMITS);
        let _ = parse::response(&bytes, &LIMITS);
        let _ = parse::trailers(&bytes, &LIMITS);
    }
}
