//! A check by the gRPC health protocol (`grpc.health.v1`, gRPC's `health-checking.md`): one call
//! of `Check` on an HTTP/2 connection of its own.
//!
//! The two messages have one field each, so they are written and read here: a service's name, and
//! whether it is served. An unknown field is skipped, as protobuf asks.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::upstream::health::probe::{AGENT, Failure};

/// A response message is two bytes long; a server's own additions may make it longer.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// What a health service says of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Unknown,
    NotServing,
    /// Of `Watch` alone by the protocol, but some answer `Check` with it.
    ServiceUnknown,
    /// A number that the protocol does not know.
    Other(u64),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Health::Unknown => f.write_str("UNKNOWN"),
            Health::NotServing => f.write_str("NOT_SERVING"),
            Health::ServiceUnknown => f.write_str("SERVICE_UNKNOWN"),
            Health::Other(number) => write!(f, "{number}"),
        }
    }
}

/// The question as it is asked of any server.
pub(super) struct Question<'a> {
    /// Empty: the server as a whole.
    pub service: &'a str,
    /// `:authority`.
    pub host: &'a str,
    pub scheme: &'a str,
    pub headers: &'a [(String, String)],
}

/// Asks over `stream`; passes on `SERVING`.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    question: &Question<'_>,
) -> Result<(), Failure> {
    let request = request(question).map_err(Failure::Request)?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    // Ends with this function, on whatever way out.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut sender = sender.ready().await.map_err(failed)?;
    let (answer, mut body) = sender.send_request(request, false).map_err(failed)?;
    body.send_data(message(question.service), true)
        .map_err(failed)?;
    let answer = answer.await.map_err(failed)?;
    let status = answer.status().as_u16();
    if status != 200 {
        return Err(Failure::NotGrpc { status });
    }
    let (head, mut body) = answer.into_parts();
    let message = read(&mut body).await?;
    let trailers = match body.is_end_stream() {
        true => None,
        false => body.trailers().await.map_err(failed)?,
    };
    // Trailers-only answers have it in their head.
    judge_call(trailers.as_ref().unwrap_or(&head.headers))?;
    match serving(&message) {
        Some(1) => Ok(()),
        Some(0) => Err(Failure::NotServing(Health::Unknown)),
        Some(2) => Err(Failure::NotServing(Health::NotServing)),
        Some(3) => Err(Failure::NotServing(Health::ServiceUnknown)),
        Some(other) => Err(Failure::NotServing(Health::Other(other))),
        None => Err(Failure::Protocol("the health message cannot be read")),
    }
}

fn failed(error: h2::Error) -> Failure {
    if error.is_io() {
        Failure::Closed
    } else {
        Failure::Http2(error)
    }
}

fn request(question: &Question<'_>) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder()
        .scheme(question.scheme)
        .authority(question.host)
        .path_and_query("/grpc.health.v1.Health/Check")
        .build()?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(CONTENT_TYPE, "application/grpc")
        .header(USER_AGENT, AGENT)
        .header(TE, "trailers")
        .body(())?;
    for (name, value) in question.headers {
        let name = HeaderName::try_from(name)?;
        request
            .headers_mut()
            .insert(name, HeaderValue::try_from(value)?);
    }
    Ok(request)
}

/// `HealthCheckRequest`, in the frame of a gRPC message: not compressed, its length in four bytes.
fn message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, of bytes.
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.unsplit(message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, Failure> {
    let mut read = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        let _ = body.flow_control().release_capacity(data.len());
        read.extend_from_slice(&data);
        if read.len() > MESSAGE_LIMIT {
            return Err(Failure::Protocol("the health message is too long"));
        }
    }
    Ok(read)
}

/// `grpc-status` must be there, and 0.
fn judge_call(fields: &HeaderMap) -> Result<(), Failure> {
    let status = fields.get("grpc-status").map(HeaderValue::as_bytes);
    match status {
        Some(b"0") => Ok(()),
        Some(digits) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).chars().take(200).collect();
            Err(Failure::Grpc {
                status: text(digits),
                message: fields
                    .get("grpc-message")
                    .map(|value| text(value.as_bytes()))
                    .unwrap_or_default(),
            })
        }
        None => Err(Failure::Protocol("the answer has no grpc-status")),
    }
}

/// `HealthCheckResponse.status` of a framed message; `None` where it cannot be read. A field that
/// is not there is 0.
fn serving(framed: &[u8]) -> Option<u64> {
    let (prefix, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    if prefix[0] != 0 || message.len() != length {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Response;
    use tokio::io::duplex;

    use super::*;

    fn question(service: &str) -> Question<'_> {
        Question {
            service,
            host: "calls.internal:50051",
            scheme: "http",
            headers: &[],
        }
    }

    /// What a server answers, and the body it was asked with.
    struct Answer {
        status: u16,
        fields: &'static [(&'static str, &'static str)],
        body: &'static [u8],
        trailers: &'static [(&'static str, &'static str)],
    }

    const SERVING: Answer = Answer {
        status: 200,
        fields: &[("content-type", "application/grpc")],
        body: b"\0\0\0\0\x02\x08\x01",
        trailers: &[("grpc-status", "0")],
    };

    fn header_map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        fields.iter().map(pair).collect()
    }

    async fn asked(service: &str, answer: Answer) -> (Result<(), String>, Vec<u8>) {
        let (ours, theirs) = duplex(4096);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.expect("a preface");
            let (request, mut respond) = connection.accept().await.expect("a call").expect("whole");
            assert_eq!(
                request.uri(),
                "http://calls.internal:50051/grpc.health.v1.Health/Check"
            );
            let serve = async {
                let asked = read(&mut request.into_body()).await.expect("a message");
                let mut response = Response::new(());
                *response.status_mut() = http::StatusCode::from_u16(answer.status).expect("valid");
                *response.headers_mut() = header_map(answer.fields);
                let only = answer.body.is_empty() && answer.trailers.is_empty();
                let mut body = respond.send_response(response, only).expect("sent");
                if !only {
                    body.send_data(Bytes::from_static(answer.body), false)
                        .expect("sent");
                    body.send_trailers(header_map(answer.trailers))
                        .expect("sent");
                }
                asked
            };
            let driven = async { while connection.accept().await.is_some() {} };
            let (asked, ()) = tokio::join!(serve, driven);
            asked
        });
        let outcome = check(ours, &question(service)).await;
        let outcome = outcome.map_err(|failure| failure.to_string());
        (outcome, server.await.expect("does not panic"))
    }

    #[tokio::test]
    async fn a_service_that_is_served_passes() {
        assert_eq!(asked("", SERVING).await, (Ok(()), b"\0\0\0\0\0".to_vec()));
        let (outcome, message) = asked("users", SERVING).await;
        assert_eq!(
            (outcome, &message[..]),
            (Ok(()), &b"\0\0\0\0\x07\x0a\x05users"[..])
        );
    }

    #[tokio::test]
    async fn what_is_wrong_is_told() {
        let unimplemented = &[("grpc-status", "12"), ("grpc-message", "no such method")];
        let cases = [
            (
                Answer {
                    body: b"\0\0\0\0\x02\x08\x02",
                    ..SERVING
                },
                "the service is NOT_SERVING",
            ),
            (
                Answer {
                    body: b"\0\0\0\0\0",
                    ..SERVING
                },
                "the service is UNKNOWN",
            ),
            (
                Answer {
                    fields: unimplemented,
                    body: b"",
                    trailers: &[],
                    ..SERVING
                },
                "grpc-status 12 (no such method)",
            ),
            (
                Answer {
                    trailers: &[("grpc-status", "5")],
                    body: b"",
                    ..SERVING
                },
                "grpc-status 5",
            ),
            (
                Answer {
                    status: 404,
                    body: b"",
                    trailers: &[],
                    ..SERVING
                },
                "status 404, not an answer of gRPC",
            ),
            (
                Answer {
                    body: b"",
                    trailers: &[],
                    ..SERVING
                },
                "malformed answer: the answer has no grpc-status",
            ),
            (
                Answer {
                    body: b"\0\0\0\0\x09\x08\x01",
                    ..SERVING
                },
                "malformed answer: the health message cannot be read",
            ),
        ];
        for (answer, expected) in cases {
            assert_eq!(asked("users", answer).await.0, Err(expected.into()));
        }
    }

    #[test]
    fn messages_are_read_whatever_they_hold_besides() {
        assert_eq!(
            serving(b"\0\0\0\0\x0b\x12\x03abc\x08\x01\x1d1234"),
            None,
            "cut"
        );
        assert_eq!(serving(b"\0\0\0\0\x0c\x12\x03abc\x08\x01\x1d1234"), Some(1));
        assert_eq!(
            serving(b"\0\0\0\0\x0b\x08\x01\x19\x00\x00\x00\x00\x00\x00\x00\x00"),
            Some(1)
        );
        assert_eq!(serving(b"\x01\0\0\0\0"), None, "compressed");
        assert_eq!(serving(b"\0\0\0\0\x02\x0f\x01"), None, "no such wire type");
        assert_eq!(
            serving(&[
                0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255
            ]),
            None
        );
        assert_eq!(serving(b""), None);
    }
}
