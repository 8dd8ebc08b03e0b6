//! What `wire` calls: one request, or a head that it refused.

use std::rc::Rc;

use crate::message::{Method, RequestHead, Version};
use crate::proxy::account::Account;
use crate::proxy::context::{ConnectionInfo, Context};
use crate::proxy::error::{self, Failure};
use crate::proxy::passage::Work;
use crate::telemetry::Reason;
use crate::wire::{Refusal, RefusalReason, Request, Response};

/// Answers one request.
pub fn handle(context: &Rc<Context>, connection: &Rc<ConnectionInfo>, request: Request) -> Work {
    Work::new(context, connection, request)
}

/// Answers, counts and logs a head that the wire refused.
pub fn refuse(
    context: &Rc<Context>,
    connection: &Rc<ConnectionInfo>,
    refusal: Refusal,
) -> Response {
    let reason = reason(refusal.reason);
    let head = refusal.head.unwrap_or_else(|| {
        let method = refusal.method.as_deref().unwrap_or_default();
        let target = refusal.target.as_deref().unwrap_or_default();
        RequestHead::new(
            Method::from_token(method.as_bytes()),
            Version::Http11,
            target.as_bytes(),
        )
    });
    let response = error::answer(&Failure::because(reason, refusal.detail), Some(&head));
    Account::open(context, connection, head, None).refused(reason, response)
}

pub(super) fn reason(refusal: RefusalReason) -> Reason {
    match refusal {
        RefusalReason::BadRequest => Reason::BadRequest,
        RefusalReason::UriTooLong => Reason::UriTooLong,
        RefusalReason::HeaderTooLarge => Reason::HeaderTooLarge,
        RefusalReason::RequestTimeout => Reason::RequestTimeout,
        RefusalReason::NotImplemented => Reason::NotImplemented,
        RefusalReason::VersionNotSupported => Reason::VersionNotSupported,
        RefusalReason::ExpectationFailed => Reason::ExpectationFailed,
    }
}

/// A connection that never brought a byte of a request was closed in silence.
pub fn silent_close(context: &Context) {
    context.metrics.rejected(Reason::RequestTimeout);
}
