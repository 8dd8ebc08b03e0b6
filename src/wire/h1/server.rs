//! The server side.

use std::rc::Rc;

use crate::util::timer::Timers;
use crate::wire::Handler;
use crate::wire::io::Socket;

/// How a downstream connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Between two requests, or after an answer that announced it.
    Cleanly,
    /// No request came in time; nothing was answered.
    IdleTimeout,
    /// A request or its answer was broken off.
    Aborted,
}

/// The whole life of one downstream connection: requests one after the other, each answered by
/// `handler`, until either side ends it.
pub async fn serve<H: Handler + 'static>(
    _socket: Socket,
    _timers: &Timers,
    _handler: Rc<H>,
) -> Ended {
    todo!()
}
