//! What gRPC has of its own within HTTP: its status, its deadline, its way to say an error
//! (gRPC's `PROTOCOL-HTTP2.md`, `statuscodes.md` and `http-grpc-status-mapping.md`).

use std::fmt::Write;
use std::time::Duration;

use crate::message::{Body, Fields, Known, ResponseHead};
use crate::proxy::error::Failure;
use crate::telemetry::Reason;
use crate::wire::Response;

const CANCELLED: u8 = 1;
const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
/// Nothing was done: another server may take the call.
pub(super) const UNAVAILABLE: u8 = 14;

/// A request of gRPC: `application/grpc`, with `+codec` or parameters. Not gRPC-Web, whose clients
/// look for errors elsewhere.
pub(super) fn is_grpc(request: &Fields) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some(value) = request.get(Known::ContentType) else {
        return false;
    };
    value
        .split_at_checked(TYPE.len())
        .is_some_and(|(kind, rest)| {
            kind.eq_ignore_ascii_case(TYPE)
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        })
}

/// `grpc-status` of a head (trailers-only) or of trailers.
pub(super) fn status(fields: &Fields) -> Option<u8> {
    let digits = fields.get_text("grpc-status")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `grpc-timeout`: one to eight digits and a unit. Malformed ones are the server's to refuse.
///
/// Rounded up to two digits: deadlines are kept in one list per duration, and clients must not make
/// those many. The server has the exact one, as the client has.
pub(super) fn timeout(request: &Fields) -> Option<Duration> {
    let (unit, digits) = request.get_text("grpc-timeout")?.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits
        .iter()
        .fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    let amount = two_digits(amount);
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount).max(Duration::from_millis(1)),
        b'n' => Duration::from_nanos(amount).max(Duration::from_millis(1)),
        _ => return None,
    })
}

fn two_digits(amount: u64) -> u64 {
    let mut scale = 1;
    while amount / scale >= 100 {
        scale *= 10;
    }
    amount.div_ceil(scale) * scale
}

/// The answer for a failure of ours: the status alone, no message (trailers-only).
pub(super) fn answer(failure: &Failure) -> Response {
    let mut head = ResponseHead::new(200);
    let fields = &mut head.fields;
    fields.set(Known::ContentType, b"application/grpc");
    let code = itoa::Buffer::new().format(code(failure.reason)).to_owned();
    fields.append_text("grpc-status", code.as_bytes());
    fields.append_text("grpc-message", message(failure).as_bytes());
    fields.set(Known::CacheControl, b"no-store");
    fields.set(Known::XEvenkeelReason, failure.reason.as_str().as_bytes());
    Response {
        head,
        body: Body::Empty,
        close: false,
    }
}

/// What is outside printable ASCII, and `%`, is percent-encoded.
fn message(failure: &Failure) -> String {
    let mut message = String::new();
    for byte in format!("{}: {}", failure.reason.as_str(), failure.detail).bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            message.push(char::from(byte));
        } else {
            // Never fails on a String.
            let _ = write!(message, "%{byte:02X}");
        }
    }
    message
}

/// As a client would map our HTTP status, but where we know better.
fn code(reason: Reason) -> u8 {
    match reason {
        Reason::TotalTimeout => DEADLINE_EXCEEDED,
        Reason::BodyTooLarge | Reason::HeaderTooLarge => RESOURCE_EXHAUSTED,
        Reason::ClientClosed | Reason::RequestTimeout => CANCELLED,
        Reason::BadRequest | Reason::UriTooLong | Reason::Internal => INTERNAL,
        Reason::Denied => PERMISSION_DENIED,
        Reason::NoRoute
        | Reason::MethodNotAllowed
        | Reason::NotImplemented
        | Reason::VersionNotSupported => UNIMPLEMENTED,
        Reason::Misdirected | Reason::ExpectationFailed => UNKNOWN,
        Reason::RateLimited
        | Reason::NoServer
        | Reason::CircuitOpen
        | Reason::Overloaded
        | Reason::QueueTimeout
        | Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::TlsFailed
        | Reason::UpstreamReset
        | Reason::BadResponse
        | Reason::ResponseTimeout => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &[u8]) -> Fields {
        let mut fields = Fields::new();
        fields.append_text(name, value);
        fields
    }

    #[test]
    fn the_content_type_tells_a_call() {
        for (value, expected) in [
            (&b"application/grpc"[..], true),
            (b"application/grpc+proto", true),
            (b"Application/gRPC;x=1", true),
            (b"application/grpc-web", false),
            (b"application/grpc-web+proto", false),
            (b"application/grp", false),
            (b"application/json", false),
            (b"", false),
        ] {
            assert_eq!(is_grpc(&with("content-type", value)), expected, "{value:?}");
        }
        assert!(!is_grpc(&Fields::new()));
    }

    #[test]
    fn timeouts_are_read_strictly_and_never_made_shorter() {
        for (value, expected) in [
            (&b"5S"[..], Some(Duration::from_secs(5))),
            (b"100m", Some(Duration::from_millis(100))),
            (b"1234m", Some(Duration::from_millis(1300))),
            (b"99999999H", Some(Duration::from_secs(100_000_000 * 3600))),
            (b"1n", Some(Duration::from_millis(1))),
            (b"0S", Some(Duration::ZERO)),
            (b"2M", Some(Duration::from_secs(120))),
            (b"999999999S", None),
            (b"S", None),
            (b"5", None),
            (b"5s", None),
            (b"-5S", None),
            (b"5 S", None),
            (b"", None),
        ] {
            assert_eq!(timeout(&with("grpc-timeout", value)), expected, "{value:?}");
        }
    }

    #[test]
    fn durations_are_few() {
        let all: std::collections::HashSet<_> = (0..100_000_000)
            .step_by(997)
            .map(|amount| timeout(&with("grpc-timeout", format!("{amount}m").as_bytes())))
            .collect();
        assert!(all.len() <= 700, "{} durations", all.len());
    }

    #[test]
    fn statuses_are_read_from_heads_and_trailers() {
        assert_eq!(status(&with("grpc-status", b"14")), Some(14));
        assert_eq!(status(&with("grpc-status", b"x")), None);
        assert_eq!(status(&Fields::new()), None);
    }

    #[test]
    fn every_reason_is_an_error_with_its_name() {
        for &reason in Reason::ALL {
            let response = answer(&Failure::new(reason));
            let fields = &response.head.fields;
            assert_eq!(response.head.status, 200);
            assert!(
                status(fields).is_some_and(|code| (1..=16).contains(&code)),
                "{reason}"
            );
            let message = fields.get_text("grpc-message").unwrap_or_default();
            assert!(message.starts_with(reason.as_str().as_bytes()), "{reason}");
            assert_eq!(
                fields.get(Known::XEvenkeelReason),
                Some(reason.as_str().as_bytes())
            );
        }
    }
}
