//! Bytes <-> message: `h1` is our own, both sides; `h2` is a library behind the same seam.
//!
//! The server side of a protocol hands each request to a [`Handler`]; the client side offers
//! three verbs: is it still usable, send this head and body, give me the response head and body.

pub mod client;
pub mod h1;
pub mod h2;
pub mod io;
pub mod proxy_protocol;
pub mod tls;

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::UnderscoreHeaders;
use crate::message::{Body, Downstream, RequestHead, ResponseHead};
use crate::util::timer::SweepSlot;

/// One request as it comes off a wire.
pub struct Request {
    pub head: RequestHead,
    pub downstream: Rc<dyn Downstream>,
    /// When its first byte came, where the head came in pieces; else it is now.
    pub began: Option<Instant>,
    /// Whoever answers may wait with it until the answer is out; then it is left clear.
    pub slot: SweepSlot,
}

/// One final answer as it goes on a wire. Interim answers go through [`Downstream`].
#[derive(Debug)]
pub struct Response {
    pub head: ResponseHead,
    pub body: Body,
    /// Close the downstream connection after this answer, whatever the client asked.
    pub close: bool,
}

/// What the wire may take in for the next request; asked anew for each, so that a reload counts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// First byte (or accept) to the end of the head.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    /// 0 is unlimited.
    pub max_requests: u64,
    pub underscore_headers: UnderscoreHeaders,
    /// Bytes of a body that are held for a peer that does not read, and the size of one read.
    pub connection_buffer: usize,
    /// A client's FIN after its request does not abort it.
    pub half_close: bool,
    /// The protocols that clients may speak.
    pub http1: bool,
    pub h2: bool,
    /// Of HTTP/2: requests at once, and bytes of their bodies that may be under way.
    pub max_concurrent_streams: u32,
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
}

/// Why the wire cuts a connection off: what its peer does costs more than it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Against the protocol.
    Protocol,
    /// The library's own limits: header lists, tiny frames, resets before their turn.
    Limits,
    PingFlood,
    SettingsFlood,
    PriorityFlood,
    WindowUpdates,
    Resets,
    EmptyFrames,
    Continuations,
    UnknownFrames,
    /// A head that did not end in time.
    HeaderTimeout,
    /// It answers no ping, or does not take what was sent to it.
    DeadPeer,
    /// Nothing was asked of it, and its place was needed.
    OverloadIdle,
    /// Slower than `min-rate` while its place was needed.
    OverloadSlow,
}

impl Cut {
    pub const ALL: [Cut; 14] = [
        Cut::Protocol,
        Cut::Limits,
        Cut::PingFlood,
        Cut::SettingsFlood,
        Cut::PriorityFlood,
        Cut::WindowUpdates,
        Cut::Resets,
        Cut::EmptyFrames,
        Cut::Continuations,
        Cut::UnknownFrames,
        Cut::HeaderTimeout,
        Cut::DeadPeer,
        Cut::OverloadIdle,
        Cut::OverloadSlow,
    ];

    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Cut::Protocol => "protocol",
            Cut::Limits => "limits",
            Cut::PingFlood => "ping_flood",
            Cut::SettingsFlood => "settings_flood",
            Cut::PriorityFlood => "priority_flood",
            Cut::WindowUpdates => "window_update_flood",
            Cut::Resets => "resets",
            Cut::EmptyFrames => "empty_frames",
            Cut::Continuations => "continuation_flood",
            Cut::UnknownFrames => "unknown_frames",
            Cut::HeaderTimeout => "header_timeout",
            Cut::DeadPeer => "dead_peer",
            Cut::OverloadIdle => "overload_idle",
            Cut::OverloadSlow => "overload_slow",
        }
    }
}

/// Why the wire refuses a request head before anybody else sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    BadRequest,
    UriTooLong,
    HeaderTooLarge,
    /// The head did not come in time; a byte of it had come.
    RequestTimeout,
    NotImplemented,
    VersionNotSupported,
    ExpectationFailed,
}

/// A head that the wire refuses, with what could be read of it.
pub struct Refusal {
    pub reason: RefusalReason,
    /// One sentence for the body and the log: "two Content-Length fields".
    pub detail: &'static str,
    /// The start line's parts as far as they could be read.
    pub method: Option<String>,
    pub target: Option<String>,
    /// Status line and field names could be read: `Accept` and `User-Agent` come from here.
    pub head: Option<RequestHead>,
}

/// Everything above the wire, as one downstream connection sees it.
pub trait Handler {
    /// One request being answered, moved by the connection's own task, which holds it in place: a
    /// pointer or two, because an idle connection is as large as one with a request.
    type Work: Future<Output = Response> + Unpin + 'static;

    /// For the next request on this connection.
    fn limits(&self) -> Limits;

    /// Answers one request. Cancelled by drop when the connection breaks.
    fn handle(&self, request: Request) -> Self::Work;

    /// Answers, counts and logs a head that the wire refuses. The connection closes after it.
    fn refuse(&self, refusal: Refusal) -> Response;

    /// The connection timed out before a byte of its first request had come: closed silently,
    /// counted.
    fn idle_timeout(&self) {}

    /// The connection is being cut off: counted and logged.
    fn cut(&self, _cause: Cut) {}

    /// True once the connection should end after its current answer (drain, listener changed), and
    /// soon where it has none. Whoever makes it so wakes the connection's task.
    fn closing(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_of_a_cut_is_counted() {
        assert_eq!(Cut::ALL.map(Cut::label), crate::telemetry::CUT_CAUSES);
    }
}
