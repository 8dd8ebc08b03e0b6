//! Whether a failed attempt is made again: one pure function.
//!
//! A retry needs both: nothing of a response sent downstream (the caller asks only then), and
//! either nothing written upstream or a method that may be repeated with a body that can be
//! replayed whole (RFC 9110 section 9.2.2). `methods` is the operator's word on which methods may
//! be repeated; a failed connect needs none, since no server saw the request.

use crate::config::model::Retry;
use crate::message::Method;
use crate::proxy::grpc;

/// Why an attempt failed, as `retry.on` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection, or one that broke before a byte of the request was written.
    Connect,
    Reset,
    Timeout,
    BadResponse,
    Status(u16),
    /// A whole answer of gRPC that has this status (trailers-only).
    Grpc(u8),
    /// Active checks took the server out while the attempt waited for its head.
    TakenOut,
}

/// What is known when an attempt has failed.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub policy: &'a Retry,
    pub cause: Cause,
    pub method: &'a Method,
    /// At least one byte of the request was written to the server.
    pub written: bool,
    /// The request body, if any, can be sent again from its first byte.
    pub replayable: bool,
    /// Attempts made so far, the failed one included.
    pub attempts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try another server; `charge` draws on the retry budget.
    Retry {
        charge: bool,
    },
    Stop,
}

/// Judges by the rules only; budget, deadline and a free server are the caller's to ask.
pub fn judge(situation: &Situation<'_>) -> Verdict {
    let Situation {
        policy,
        cause,
        method,
        written,
        replayable,
        attempts,
    } = *situation;
    let unsent_connect = cause == Cause::Connect && !written;
    // The server says that it did nothing (gRPC's `statuscodes.md`), and every call is a POST.
    let refused = cause == Cause::Grpc(grpc::UNAVAILABLE);
    // Even of what no server saw a part may have been taken from its client.
    let permitted = replayable && (unsent_connect || refused || repeatable(policy, method));
    if attempts > policy.attempts || !listed(policy, cause) || !permitted {
        return Verdict::Stop;
    }
    Verdict::Retry {
        charge: !unsent_connect,
    }
}

/// Whether a request on a stale pooled connection is sent once more on a new one: nothing was
/// written, or it is idempotent; and what was taken of its body can be sent again.
pub fn resend_after_stale(method: &Method, written: bool, replayable: bool) -> bool {
    replayable && (!written || method.is_idempotent())
}

fn repeatable(policy: &Retry, method: &Method) -> bool {
    policy
        .methods
        .iter()
        .any(|allowed| allowed == method.as_str())
}

fn listed(policy: &Retry, cause: Cause) -> bool {
    let on = &policy.on;
    match cause {
        Cause::Connect => on.connect,
        Cause::Reset => on.reset,
        Cause::Timeout => on.timeout,
        Cause::BadResponse => on.bad_response,
        Cause::Grpc(code) => on.grpc.contains(code),
        Cause::Status(status) => on.status.iter().any(|range| range.contains(status)),
        Cause::TakenOut => on.timeout || on.reset,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{GrpcStatuses, RetryBudget, RetryOn, StatusRange};
    use crate::util::units::{ByteSize, Percent};

    fn unavailable() -> GrpcStatuses {
        let mut statuses = GrpcStatuses::default();
        statuses.insert(grpc::UNAVAILABLE);
        statuses
    }

    fn policy() -> Retry {
        Retry {
            attempts: 1,
            on: RetryOn {
                connect: true,
                reset: true,
                timeout: true,
                bad_response: true,
                status: vec![StatusRange {
                    first: 502,
                    last: 504,
                }],
                grpc: unavailable(),
            },
            methods: vec!["GET".into(), "PUT".into()],
            budget: RetryBudget {
                ratio: Percent::from_fraction(0.2),
                min_per_second: 3,
                window: Duration::from_secs(10),
            },
            max_replay_body: ByteSize(65_536),
        }
    }

    fn verdict(cause: Cause, method: Method, written: bool, replayable: bool) -> Verdict {
        let policy = policy();
        judge(&Situation {
            policy: &policy,
            cause,
            method: &method,
            written,
            replayable,
            attempts: 1,
        })
    }

    #[test]
    fn failed_connect_is_retried_for_every_method_without_charge() {
        let free = Verdict::Retry { charge: false };
        assert_eq!(verdict(Cause::Connect, Method::Post, false, true), free);
        assert_eq!(verdict(Cause::Connect, Method::Get, false, true), free);
    }

    #[test]
    fn written_post_is_never_retried() {
        for cause in [
            Cause::Reset,
            Cause::Timeout,
            Cause::BadResponse,
            Cause::Status(502),
        ] {
            assert_eq!(
                verdict(cause, Method::Post, true, true),
                Verdict::Stop,
                "{cause:?}"
            );
        }
    }

    #[test]
    fn written_get_is_retried_on_every_listed_cause() {
        let charged = Verdict::Retry { charge: true };
        for cause in [
            Cause::Reset,
            Cause::Timeout,
            Cause::BadResponse,
            Cause::TakenOut,
        ] {
            assert_eq!(
                verdict(cause, Method::Get, true, true),
                charged,
                "{cause:?}"
            );
        }
        assert_eq!(
            verdict(Cause::Status(503), Method::Get, true, true),
            charged
        );
        assert_eq!(
            verdict(Cause::Status(500), Method::Get, true, true),
            Verdict::Stop
        );
    }

    #[test]
    fn a_call_that_a_server_refuses_goes_to_another_whatever_the_methods() {
        let charged = Verdict::Retry { charge: true };
        let unavailable = Cause::Grpc(grpc::UNAVAILABLE);
        assert_eq!(verdict(unavailable, Method::Post, true, true), charged);
        assert_eq!(
            verdict(unavailable, Method::Post, true, false),
            Verdict::Stop
        );
        assert_eq!(
            verdict(Cause::Grpc(13), Method::Get, true, true),
            Verdict::Stop
        );
    }

    #[test]
    fn body_that_cannot_be_replayed_stops_a_retry() {
        assert_eq!(
            verdict(Cause::Reset, Method::Put, true, false),
            Verdict::Stop
        );
    }

    #[test]
    fn attempts_are_extra_tries() {
        let policy = policy();
        let situation = Situation {
            policy: &policy,
            cause: Cause::Connect,
            method: &Method::Get,
            written: false,
            replayable: true,
            attempts: 2,
        };
        assert_eq!(judge(&situation), Verdict::Stop);
    }

    #[test]
    fn stale_connection_resends_only_what_is_safe() {
        assert!(resend_after_stale(&Method::Post, false, true));
        assert!(!resend_after_stale(&Method::Post, false, false));
        assert!(!resend_after_stale(&Method::Post, true, true));
        assert!(resend_after_stale(&Method::Get, true, true));
        assert!(!resend_after_stale(&Method::Put, true, false));
    }
}
