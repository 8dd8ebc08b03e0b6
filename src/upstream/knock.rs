//! Knocking at a server that everybody waits for: a plain connect about every half second.
//!
//! Only while its breaker is open and nothing else of its upstream takes requests; started and
//! stopped by the control task. Nginx lets clients' requests find out that a server is back; here
//! nobody has to wait or to fail for it. A connect that succeeds says that a server which could not
//! be reached is there again, and nothing about one that fails what it is asked: such a server is
//! not vouched for, and waits out its time (see [`Server::reached`]).
//!
//! One connect at a time per server, given up when the next is due; no request and no TLS.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::upstream::connector::{ConnectError, connect_for_check};
use crate::upstream::server::Server;
use crate::util::timer::patiently_until;

/// From one to the next, a tenth more or less.
const EVERY: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_millis(450);

/// The knocks at one server; dropping it ends them.
#[derive(Debug)]
pub(super) struct Knocks(AbortHandle);

impl Knocks {
    /// On the control runtime.
    pub fn at(server: &Arc<Server>) -> Knocks {
        // Weak: the task is owned by the server that it knocks at.
        Knocks(tokio::spawn(run(Arc::downgrade(server))).abort_handle())
    }
}

impl Drop for Knocks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(server: Weak<Server>) {
    loop {
        sleep_until(Instant::now() + EVERY.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
        if !knock(&server).await {
            return;
        }
    }
}

/// False when there is nothing left to find out.
async fn knock(server: &Weak<Server>) -> bool {
    let Some((target, opened)) = server
        .upgrade()
        .and_then(|server| Some((server.target(), server.breaker().opened()?)))
    else {
        return false;
    };
    let expired = patiently_until(Instant::now() + PATIENCE);
    let connected = connect_for_check(&target, None, None, expired).await;
    let Some(server) = server.upgrade() else {
        return false;
    };
    match connected {
        Ok(_) => !server.reached(opened),
        // That says nothing about the server.
        Err(ConnectError::Exhausted(_) | ConnectError::Resolve(_)) => true,
        Err(_) => {
            server.set_unreached(true);
            true
        }
    }
}
