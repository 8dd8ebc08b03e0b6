//! The way of a request, in the order of these files:
//!
//! 1. [`handle`]: opens the [`account`] (one record on every way out) and a [`transaction`].
//! 2. [`sanitise`]: target, Host and path become one reading for everybody; then the router.
//! 3. [`steps`] of a head on its way; [`actions`]: what the route does beside sending; [`hop_by_hop`], [`client_address`],
//!    [`forwarding`]: which fields go and which come; [`sticky`]: where the client was before.
//! 4. [`exchange`]: attempts until one answers; [`selection`] picks, [`attempt`] tries one server,
//!    [`dial`] connects to it, [`head_wait`] watches it, [`retry`] judges a failure,
//!    [`request_body`] is counted and kept for a replay.
//!    [`mirror`] sends copies elsewhere, beside all this.
//! 5. [`answer`]: the response head cleaned, the body ([`response_body`]) or [`tunnel`] wrapped.
//! 6. [`error`]: the only place that turns a failure into a status; [`grpc`] says it to a call.
//!
//! [`rehearsal`] goes the first half of it with a request that nobody sent, for `explain`.

mod account;
mod actions;
mod answer;
mod attempt;
pub mod client_address;
mod context;
mod dial;
mod error;
mod exchange;
pub mod forwarding;
mod grpc;
mod handle;
mod head_wait;
pub mod hop_by_hop;
mod mirror;
mod passage;
mod patience;
pub mod rehearsal;
mod request_body;
mod response_body;
mod retry;
pub mod sanitise;
mod selection;
mod steps;
pub mod sticky;
mod transaction;
mod tunnel;

pub use context::{ConnectionInfo, Context, ListenerRules, Secured};
pub use handle::{handle, refuse, silent_close};
pub use passage::Work;
