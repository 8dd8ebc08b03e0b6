//! The accepting side: sockets, fresh connections and which worker serves them, and how the
//! connections of a listener end together.
//!
//! - [`sockets`]: one `SO_REUSEPORT` socket per worker, one unix socket for all; bound first, listening last, so that a
//!   reload can fail before anybody sees it.
//! - [`acceptor`]: TCP and unix sockets as one type.
//! - [`accept`]: one loop per socket; a socket is closed only after `accept` found nothing more.
//! - [`room`]: how many connections a listener may have, and what happens near that.
//! - [`share`]: a worker clearly over its fair share hands a connection on before its first byte.
//! - [`inherited`]: listening sockets that another process bound.
//! - `opening`: what comes before the first request; `proxy_header` is its first step,
//!   the TLS handshake in `secure` its second.
//! - [`connection`]: what a downstream connection is to `wire`: a handler that calls `proxy`.
//! - [`group`]: the connections of one listener on one worker that are told to end together.

pub mod accept;
pub mod acceptor;
pub mod connection;
pub mod group;
pub mod inherited;
mod opening;
mod proxy_header;
pub mod room;
mod secure;
pub mod share;
pub mod sockets;

pub use accept::Door;
pub use acceptor::{Acceptor, Lent, Listening};
pub use group::Group;
pub use inherited::Inherited;
pub use share::{Fresh, Loads, Share};
pub use sockets::{BindError, Bound, adopt, bind};
