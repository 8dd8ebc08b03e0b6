//! The one place that turns failures into answers: reason -> status, body, headers.
//!
//! Every answer that we make ourselves has a short text or JSON body (by `Accept`),
//! `Cache-Control: no-store` and `x-evenkeel-reason`; the same reason goes to log and metrics.

use std::time::Duration;

use bytes::Bytes;

use crate::message::{Body, Known, RequestHead, ResponseHead, Version};
use crate::proxy::grpc;
use crate::telemetry::Reason;
use crate::wire::Response;

/// A failure on its way to the client.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    pub reason: Reason,
    /// One sentence for the body and the log; never holds bytes of the request.
    pub detail: &'static str,
    /// Seconds, for `Retry-After`.
    pub retry_after: Option<u64>,
    /// Of a limit that was reached.
    pub limit: Option<Limited>,
}

/// What `RateLimit-*` say (draft-polli-ratelimit-headers, as most clients read them).
#[derive(Debug, Clone, Copy)]
pub struct Limited {
    pub burst: u32,
    /// Seconds until all of it is there again.
    pub reset: u64,
}

impl Failure {
    pub fn new(reason: Reason) -> Self {
        Failure {
            reason,
            detail: explanation(reason),
            retry_after: None,
            limit: None,
        }
    }

    pub fn because(reason: Reason, detail: &'static str) -> Self {
        Failure {
            reason,
            detail,
            retry_after: None,
            limit: None,
        }
    }

    /// The limit of a route was reached; times are rounded up to seconds.
    pub fn limited(burst: u32, retry_after: Duration, reset: Duration) -> Self {
        let seconds = |time: Duration| time.as_millis().div_ceil(1000) as u64;
        let mut failure = Failure::new(Reason::RateLimited).retry_after(seconds(retry_after));
        failure.limit = Some(Limited {
            burst,
            reset: seconds(reset),
        });
        failure
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

/// The answer for `failure`; `request` as far as it was read, for its `Accept`.
pub fn answer(failure: &Failure, request: Option<&RequestHead>) -> Response {
    if request.is_some_and(|request| grpc::is_grpc(&request.fields)) {
        return grpc::answer(failure);
    }
    let status = failure.reason.status();
    let mut head = ResponseHead::new(status);
    let json = request.is_some_and(wants_json);
    let body = if json {
        json_body(failure, status)
    } else {
        text_body(failure, status)
    };
    let content_type: &[u8] = if json {
        b"application/json"
    } else {
        b"text/plain; charset=utf-8"
    };
    head.fields.set(Known::ContentType, content_type);
    head.fields.set(Known::CacheControl, b"no-store");
    head.fields
        .set(Known::XEvenkeelReason, failure.reason.as_str().as_bytes());
    if let Some(seconds) = failure.retry_after {
        head.fields.set(
            Known::RetryAfter,
            itoa::Buffer::new().format(seconds).as_bytes(),
        );
    }
    if let Some(Limited { burst, reset }) = failure.limit {
        let mut digits = itoa::Buffer::new();
        let fields = &mut head.fields;
        fields.append_text("ratelimit-limit", digits.format(burst).as_bytes());
        fields.append_text("ratelimit-remaining", b"0");
        fields.append_text("ratelimit-reset", digits.format(reset).as_bytes());
    }
    if failure.reason == Reason::MethodNotAllowed {
        // RFC 9110 section 15.5.6: a 405 must say what is allowed.
        head.fields
            .set_text("allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    }
    Response {
        head,
        body: Body::Bytes(body),
        close: closes(failure.reason)
            && request.is_none_or(|request| request.version != Version::H2),
    }
}

/// The fixed answer of a route's `fallback`.
pub fn fallback_answer(reason: Reason, status: u16, text: Bytes) -> Response {
    let mut head = ResponseHead::new(status);
    // These end with their head (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
    let text = match status {
        204 | 205 | 304 => Bytes::new(),
        _ => text,
    };
    if !text.is_empty() {
        head.fields
            .set(Known::ContentType, b"text/plain; charset=utf-8");
    }
    head.fields.set(Known::CacheControl, b"no-store");
    head.fields
        .set(Known::XEvenkeelReason, reason.as_str().as_bytes());
    Response {
        head,
        body: Body::Bytes(text),
        close: false,
    }
}

/// After these the rest of the connection cannot be trusted, or is not wanted. HTTP/2 tells where a
/// request ends whatever it says.
fn closes(reason: Reason) -> bool {
    match reason {
        Reason::BadRequest
        | Reason::UriTooLong
        | Reason::HeaderTooLarge
        | Reason::BodyTooLarge
        | Reason::RequestTimeout
        | Reason::MethodNotAllowed
        | Reason::ExpectationFailed
        | Reason::NotImplemented
        | Reason::VersionNotSupported
        | Reason::ClientClosed
        | Reason::Internal => true,
        Reason::NoRoute
        | Reason::Misdirected
        | Reason::Denied
        | Reason::RateLimited
        | Reason::NoServer
        | Reason::CircuitOpen
        | Reason::Overloaded
        | Reason::QueueTimeout
        | Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::TlsFailed
        | Reason::UpstreamReset
        | Reason::BadResponse
        | Reason::ResponseTimeout
        | Reason::TotalTimeout => false,
    }
}

fn explanation(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => "no route matches this host and path",
        Reason::BadRequest => "the request is malformed",
        Reason::UriTooLong => "the request target is too long",
        Reason::HeaderTooLarge => "the request head is too large",
        Reason::BodyTooLarge => "the request body is larger than this route allows",
        Reason::RequestTimeout => "the request did not arrive in time",
        Reason::MethodNotAllowed => "this method is not allowed here",
        Reason::Misdirected => "this connection is not for that host",
        Reason::ExpectationFailed => "the expectation cannot be met",
        Reason::NotImplemented => "this transfer coding is not implemented",
        Reason::VersionNotSupported => "this HTTP version is not supported",
        Reason::Denied => "access denied",
        Reason::RateLimited => "too many requests",
        Reason::NoServer => "no server can take the request",
        Reason::CircuitOpen => "every server that could answer is failing; trying again soon",
        Reason::Overloaded => "every server is busy and the queue is full",
        Reason::QueueTimeout => "no server became free in time",
        Reason::ConnectRefused => "the server refused the connection",
        Reason::ConnectTimeout => "the server did not accept the connection in time",
        Reason::TlsFailed => "the TLS handshake with the server failed",
        Reason::UpstreamReset => "the server closed the connection before answering",
        Reason::BadResponse => "the server's answer is malformed",
        Reason::ResponseTimeout => "the server did not answer in time",
        Reason::TotalTimeout => "the request took longer than it may",
        Reason::Internal => "an internal error",
        Reason::ClientClosed => "the client went away",
    }
}

fn text_body(failure: &Failure, status: u16) -> Bytes {
    format!("{status} {}: {}\n", failure.reason.as_str(), failure.detail).into()
}

fn json_body(failure: &Failure, status: u16) -> Bytes {
    let value = serde_json::json!({
        "status": status,
        "reason": failure.reason.as_str(),
        "detail": failure.detail,
    });
    format!("{value}\n").into()
}

/// JSON where the client names it and does not prefer plain text: the first of the two named in
/// `Accept` (RFC 9110 section 12.5.1; a client that weighs them with `q` lists its favourite
/// first in practice).
fn wants_json(request: &RequestHead) -> bool {
    let accept = request
        .fields
        .values(Known::Accept)
        .flat_map(|value| value.split(|&b| b == b','));
    for range in accept {
        let media = range
            .split(|&b| b == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if media.eq_ignore_ascii_case(b"application/json") || ends_with_json(media) {
            return true;
        }
        if media.starts_with(b"text/") {
            return false;
        }
    }
    false
}

fn ends_with_json(media: &[u8]) -> bool {
    media.len() >= 5 && media[media.len() - 5..].eq_ignore_ascii_case(b"+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Method, Version};

    fn body(response: &Response) -> String {
        match &response.body {
            Body::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_reason_has_its_status_header_and_a_body_that_names_it() {
        for &reason in Reason::ALL {
            let response = answer(&Failure::new(reason), None);
            assert_eq!(response.head.status, reason.status(), "{reason}");
            let fields = &response.head.fields;
            assert_eq!(
                fields.get(Known::XEvenkeelReason),
                Some(reason.as_str().as_bytes())
            );
            assert_eq!(fields.get(Known::CacheControl), Some(&b"no-store"[..]));
            assert!(
                body(&response).contains(reason.as_str()),
                "the body must name {reason}"
            );
        }
    }

    #[test]
    fn accept_chooses_between_text_and_json() {
        let cases: [(&[u8], bool); 6] = [
            (b"application/json", true),
            (b"application/problem+json;q=0.9", true),
            (b"text/plain, application/json", false),
            (b"text/html, */*", false),
            (b"*/*", false),
            (b"", false),
        ];
        for (accept, json) in cases {
            let mut request = RequestHead::new(Method::Get, Version::Http11, b"/");
            request.fields.set(Known::Accept, accept);
            let response = answer(&Failure::new(Reason::NoRoute), Some(&request));
            let parsed = serde_json::from_str::<serde_json::Value>(&body(&response));
            assert_eq!(
                parsed.is_ok(),
                json,
                "Accept: {}",
                String::from_utf8_lossy(accept)
            );
        }
    }

    #[test]
    fn retry_after_is_in_whole_seconds() {
        let response = answer(&Failure::new(Reason::CircuitOpen).retry_after(7), None);
        assert_eq!(response.head.fields.get(Known::RetryAfter), Some(&b"7"[..]));
    }
}
