//! What the access log says about a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::message::Version;
use crate::telemetry::{Outcome, Reason};

/// One request, at its end. Bytes are as received: each format escapes them.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub request_id: &'a [u8],
    /// The client address (section 6 of the contract).
    pub client: IpAddr,
    /// Empty when the request line could not be read, like the next two.
    pub method: &'a [u8],
    /// Path and query as received.
    pub target: &'a [u8],
    /// Without port as received; empty when there was none.
    pub host: &'a [u8],
    pub version: Version,
    /// 499 when the client went away before an answer.
    pub status: u16,
    /// Bytes of the request body received.
    pub request_bytes: u64,
    /// Bytes of the response body sent.
    pub response_bytes: u64,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    pub listener: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    /// Why the answer is ours, or why it was cut.
    pub reason: Option<Reason>,
    pub referer: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    /// Value of `Authorization`, for the user name of Basic credentials in `combined`.
    pub authorization: Option<&'a [u8]>,
    /// From `traceparent`.
    pub trace_id: Option<&'a [u8]>,
    /// In the order they were made.
    pub attempts: &'a [Attempt],
}

/// One try at one server.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The address as configured.
    pub server: Arc<str>,
    pub outcome: Outcome,
    /// Start of dial to ready; `None` on a pooled connection.
    pub connect: Option<Duration>,
    /// Start of the attempt to the response head.
    pub first_byte: Option<Duration>,
    /// Start of the attempt to its end.
    pub total: Duration,
}
