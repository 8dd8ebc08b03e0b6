//! `Content-Length` and `Transfer-Encoding` in every spelling that a proxy was ever fooled with,
//! each alone, beside the other one, and in HTTP/1.0.

use super::recorder::Recorder;
use super::requests::{show, start};
use crate::support::Proxy;

/// What a line is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// The framing of the body `0 CRLF CRLF`.
    Framing,
    /// A field that frames nothing, or none at all.
    Nothing,
    Refused(u16),
}

use Read::{Framing, Nothing, Refused};

#[rustfmt::skip]
const CODINGS: &[(&str, &[u8], Read)] = &[
    ("9112 7", b"Transfer-Encoding: chunked", Framing),
    ("9112 5: OWS", b"Transfer-Encoding:chunked", Framing),
    ("9112 5: OWS", b"Transfer-Encoding:\tchunked", Framing),
    ("9112 5: OWS", b"Transfer-Encoding:  \t chunked \t ", Framing),
    ("9110 5.1: any case", b"TrAnSFer-EnCODinG: cHuNkeD", Framing),
    ("9112 5.1: colon", b"Transfer-Encoding : chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding\t: chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding\x0b: chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding\x00: chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding\n: chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding\r: chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding\r\n: chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding; chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding=chunked", Refused(400)),
    ("9112 5.1: colon", b"Transfer-Encoding:: chunked", Refused(400)),
    ("9112 2.2: first", b" Transfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\tTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\x0bTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\x0cTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\x00Transfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\rTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\nTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: first", b"\xa0Transfer-Encoding: chunked", Refused(400)),
    ("9112 5.2: fold", b"Transfer-Encoding:\r\n chunked", Refused(400)),
    ("9112 5.2: fold", b"Transfer-Encoding:\r\n\tchunked", Refused(400)),
    ("9112 5.2: fold", b"Transfer-Encoding: chunked\r\n x", Refused(400)),
    ("9112 5.2: fold", b"Transfer-\r\n Encoding: chunked", Refused(400)),
    ("9112 2.2: bare LF", b"Transfer-Encoding:\nchunked", Refused(400)),
    ("9112 2.2: bare LF", b"X: y\nTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: bare LF", b"X: y\n\nTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: bare CR", b"X: y\rTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: bare CR", b"X: y\r\rTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: bare CR", b"X: y\n\rTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: bare CR", b"X: y\r\n\rTransfer-Encoding: chunked", Refused(400)),
    ("9112 2.2: bare CR", b"Transfer-Encoding: \rchunked", Refused(400)),
    ("9112 2.2: bare CR", b"Transfer-Encoding: chunked\r", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: \x00chunked", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: \x0bchunked", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: \x0cchunked", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: \x7fchunked", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: \x08chunked", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: chunked\x0b", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: chunked\x00", Refused(400)),
    ("9110 5.5: control", b"Transfer-Encoding: chunked\x1f", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: \xa0chunked", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked\xa0", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunk\xffed", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: \xef\xbb\xbfchunked", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: \xef\xbd\x83hunked", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: \"chunked\"", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked;", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked; q=0.5", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked;ext=1", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked x", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: x chunked", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: (chunked)", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked=1", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: :chunked", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked:", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: ,", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: , chunked", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked ,", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: chunked, ,", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding:", Refused(400)),
    ("9112 7: coding", b"Transfer-Encoding: \t ", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked, chunked", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked,chunked,chunked", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked, identity", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked, x", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: CHUNKED, gzip, chunked", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked\r\ntransfer-encoding: x", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding:\r\nTransfer-Encoding: chunked", Refused(400)),
    ("9112 7: once", b"Transfer-Encoding: chunked\r\nX: y\r\nTransfer-Encoding:", Refused(400)),
    ("9112 6.1: final", b"Transfer-Encoding: identity", Refused(400)),
    ("9112 6.1: final", b"Transfer-Encoding: gzip", Refused(400)),
    ("9112 6.1: final", b"Transfer-Encoding: x, deflate", Refused(400)),
    ("9112 6.1: unknown", b"Transfer-Encoding: gzip, chunked", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: identity, chunked", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: xchunked", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: chunkedx", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: chunke", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: 'chunked'", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: nchunked", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: chunked-foo", Refused(501)),
    ("9112 6.1: unknown", b"Transfer-Encoding: cow", Refused(501)),
    ("9110 5.1: token", b"Transfer\x85Encoding: chunked", Refused(400)),
    ("9110 5.1: token", b"Transfer Encoding: chunked", Refused(400)),
    ("9110 5.1: token", b"Transfer/Encoding: chunked", Refused(400)),
    ("9110 5.1: token", b"\"Transfer-Encoding\": chunked", Refused(400)),
    ("9110 5.1: token", b"Tra\xc5\xbffer-Encoding: chunked", Refused(400)),
    ("9110 5.1: another name", b"Content-Encoding: chunked", Nothing),
    ("9110 5.1: another name", b"X-Transfer-Encoding: chunked", Nothing),
    ("9110 5.1: another name", b"Transfer-Encoding2: chunked", Nothing),
    ("9110 5.1: another name", b"Transfer%2dEncoding: chunked", Nothing),
    ("9110 5.1: another name", b"X: Transfer-Encoding: chunked", Nothing),
    ("CGI: `_` is not `-`", b"Transfer_Encoding: chunked", Nothing),
    ("CGI: `_` is not `-`", b"TRANSFER_ENCODING: chunked", Nothing),
];

#[rustfmt::skip]
const LENGTHS: &[(&str, &[u8], Read)] = &[
    ("9110 8.6", b"Content-Length: 5", Framing),
    ("9112 5: OWS", b"Content-Length:5", Framing),
    ("9112 5: OWS", b"Content-Length:\t5", Framing),
    ("9112 5: OWS", b"Content-Length:   5 \t ", Framing),
    ("9110 5.1: any case", b"cONTENT-lENGTH: 5", Framing),
    ("9110 8.6: digits", b"Content-Length: 05", Framing),
    ("9110 8.6: digits", b"Content-Length: 0000000000000000000000000000000000005", Framing),
    ("9112 5.1: colon", b"Content-Length : 5", Refused(400)),
    ("9112 5.1: colon", b"Content-Length\t: 5", Refused(400)),
    ("9112 5.1: colon", b"Content-Length\x00: 5", Refused(400)),
    ("9112 5.1: colon", b"Content-Length\r\n: 5", Refused(400)),
    ("9112 5.1: colon", b"Content-Length 5", Refused(400)),
    ("9112 5.1: colon", b"Content-Length:: 5", Refused(400)),
    ("9112 2.2: first", b" Content-Length: 5", Refused(400)),
    ("9112 2.2: first", b"\x0bContent-Length: 5", Refused(400)),
    ("9112 5.2: fold", b"Content-Length:\r\n 5", Refused(400)),
    ("9112 5.2: fold", b"Content-Length: 5\r\n 5", Refused(400)),
    ("9112 5.2: fold", b"Content-Length: 5\r\n ", Refused(400)),
    ("9112 2.2: bare CR", b"Content-Length: \r5", Refused(400)),
    ("9112 2.2: bare CR", b"Content-Length: 5\r", Refused(400)),
    ("9112 2.2: bare LF", b"Content-Length: 5\nX: y", Refused(400)),
    ("9112 2.2: bare LF", b"X: y\nContent-Length: 5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length:", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: \t", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: +5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: -5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: -0", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 0x5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5h", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5.", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5e0", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5_0", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5'", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: \"5\"", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5 5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5\t5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5;", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: five", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: \xef\xbc\x95", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: \xd9\xa5", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: \xc2\xb2", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: 5\xa0", Refused(400)),
    ("9110 8.6: digits", b"Content-Length: \xa05", Refused(400)),
    ("9110 5.5: control", b"Content-Length: 5\x00", Refused(400)),
    ("9110 5.5: control", b"Content-Length: \x005", Refused(400)),
    ("9110 5.5: control", b"Content-Length: 5\x0b", Refused(400)),
    ("9112 6.3: list", b"Content-Length: 5, 5", Refused(400)),
    ("9112 6.3: list", b"Content-Length: 5,5", Refused(400)),
    ("9112 6.3: list", b"Content-Length: 5, 6", Refused(400)),
    ("9112 6.3: list", b"Content-Length: 5,", Refused(400)),
    ("9112 6.3: list", b"Content-Length: ,5", Refused(400)),
    ("9112 6.3: list", b"Content-Length: ,", Refused(400)),
    ("9112 6.3: twice", b"Content-Length: 5\r\nContent-Length: 5", Refused(400)),
    ("9112 6.3: twice", b"Content-Length: 5\r\nContent-Length: 6", Refused(400)),
    ("9112 6.3: twice", b"Content-Length: 0\r\nContent-Length: 5", Refused(400)),
    ("9112 6.3: twice", b"Content-Length: 5\r\nX: y\r\nCONTENT-LENGTH: 5", Refused(400)),
    ("9112 6.3: twice", b"Content-Length: 5\r\nContent-Length: 05", Refused(400)),
    ("9112 6.3: twice", b"Content-Length:\r\nContent-Length: 5", Refused(400)),
    ("9112 6.3: thrice", b"Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 5", Refused(400)),
    ("9110 8.6: overflow", b"Content-Length: 18446744073709551616", Refused(400)),
    ("9110 8.6: overflow", b"Content-Length: 18446744073709551621", Refused(400)),
    ("9110 8.6: overflow", b"Content-Length: 184467440737095516160", Refused(400)),
    ("9110 8.6: overflow", b"Content-Length: 340282366920938463463374607431768211461", Refused(400)),
    ("9110 8.6: more than servers can count", b"Content-Length: 9223372036854775808", Refused(400)),
    ("9110 8.6: more than servers can count", b"Content-Length: 18446744073709551615", Refused(400)),
    ("9110 5.1: another name", b"X-Content-Length: 5", Nothing),
    ("9110 5.1: another name", b"Content-Length2: 5", Nothing),
    ("9110 5.1: another name", b"Content-Lengt: 5", Nothing),
    ("CGI: `_` is not `-`", b"Content_Length: 5", Nothing),
    ("CGI: `_` is not `-`", b"CONTENT_LENGTH: 5", Nothing),
];

const BODY: &[u8] = b"0\r\n\r\n";
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

struct Scene {
    recorder: Recorder,
    proxy: Proxy,
}

impl Scene {
    fn start() -> Self {
        let recorder = Recorder::start();
        let proxy = start(&recorder);
        Scene { recorder, proxy }
    }

    /// Sends these field lines with a body and a request behind it, and checks what they were
    /// read as.
    fn check(&self, clause: &str, version: &str, lines: &[u8], read: Read) {
        let head = format!("POST / HTTP/{version}\r\nHost: h\r\nConnection: keep-alive\r\n");
        // Without framing there is no body: the request behind it comes at once.
        let body = if read == Nothing { b"" } else { BODY };
        let bytes = [head.as_bytes(), lines, b"\r\n\r\n", body, NEXT].concat();
        let what = format!("RFC {clause}: {}", show(&bytes));
        let mut client = self.proxy.client();
        client.send(&bytes);
        let answer = client.try_response();
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        if let Refused(status) = read {
            assert_eq!(answer.status, status, "{what}");
            assert!(client.rest().is_empty(), "{what}: more is behind it");
            assert_eq!(self.recorder.take(), [""; 0], "{what}");
            return;
        }
        assert_eq!(answer.status, 200, "{what}");
        assert_eq!(client.response().status, 200, "{what}: the next one");
        assert!(client.rest().is_empty(), "{what}: more is behind it");
        let seen = self.recorder.take();
        assert_eq!(seen.len(), 2, "{what}: {seen:?}");
        assert_eq!(seen[1], "GET /next", "{what}");
        let framed = seen[0].ends_with(" | 0~~");
        assert_eq!(framed, read == Framing, "{what}: {}", seen[0]);
    }
}

#[test]
fn transfer_encoding_is_read_in_one_spelling_only() {
    let scene = Scene::start();
    for &(clause, line, read) in CODINGS {
        scene.check(clause, "1.1", line, read);
        // What is read as a coding at all is refused in 1.0, and beside a length.
        let (old, both) = match read {
            Nothing => (Nothing, Framing),
            Framing | Refused(_) => (Refused(400), Refused(400)),
        };
        scene.check("9112 6.1: 1.0", "1.0", line, old);
        let length = b"Content-Length: 5";
        scene.check(
            "9112 6.1: both",
            "1.1",
            &[length.as_slice(), line].join(&b"\r\n"[..]),
            both,
        );
        scene.check(
            "9112 6.1: both",
            "1.1",
            &[line, length].join(&b"\r\n"[..]),
            both,
        );
    }
    scene.recorder.check();
}

#[test]
fn content_length_is_read_in_one_spelling_only() {
    let scene = Scene::start();
    for &(clause, line, read) in LENGTHS {
        scene.check(clause, "1.1", line, read);
        scene.check(clause, "1.0", line, read);
        let both = match read {
            Nothing => Framing,
            Framing | Refused(_) => Refused(400),
        };
        let coding = b"Transfer-Encoding: chunked";
        scene.check(
            "9112 6.1: both",
            "1.1",
            &[coding.as_slice(), line].join(&b"\r\n"[..]),
            both,
        );
        scene.check(
            "9112 6.1: both",
            "1.1",
            &[line, coding].join(&b"\r\n"[..]),
            both,
        );
    }
    scene.recorder.check();
}
