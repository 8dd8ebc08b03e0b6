//! One downstream connection: what `wire` sees of everything above it, and its life as a task.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use tokio::net::TcpStream;

use super::accept::Door;
use super::group::{Member, Phase};
use super::share::Slot;
use crate::proxy;
use crate::proxy::{ConnectionInfo, Context, ListenerRules};
use crate::telemetry::ListenerMetrics;
use crate::wire::h1::{Serve, serve};
use crate::wire::io::Socket;
use crate::wire::{Handler, Limits, Refusal, Request, Response};

struct Connection {
    context: Rc<Context>,
    info: Rc<ConnectionInfo>,
    member: Member,
}

impl Handler for Connection {
    type Work = proxy::Work;

    fn limits(&self) -> Limits {
        self.info.listener.limits(&self.context)
    }

    fn handle(&self, request: Request) -> Self::Work {
        proxy::handle(&self.context, &self.info, request)
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        proxy::refuse(&self.context, &self.info, refusal)
    }

    fn idle_timeout(&self) {
        proxy::silent_close(&self.context);
    }

    // The group wakes this connection's task when it changes: nothing to register.
    fn closing(&self) -> bool {
        self.member.phase() > Phase::Serving
    }
}

/// Counts a connection open until dropped, also when its task is aborted.
struct Open(Arc<ListenerMetrics>);

impl Open {
    fn new(context: &Context, rules: &ListenerRules) -> Self {
        let (snapshot, listener) = rules.current(context);
        let metrics = snapshot.listener(listener).metrics.clone();
        metrics.connection_opened();
        Open(metrics)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// A connection's task. There may be many that wait, so its size has a test.
struct Life {
    // In the order in which they go: closed, then counted as closed.
    serve: Serve<Connection>,
    _open: Open,
    _slot: Slot,
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let life = &mut *self;
        let member = &life.serve.handler().member;
        member.join(cx.waker());
        if member.phase() == Phase::Aborted {
            return Poll::Ready(());
        }
        // A panic ends this connection and no other; `proxy` has its own guard around requests.
        let serve = Pin::new(&mut life.serve);
        match catch_unwind(AssertUnwindSafe(|| serve.poll(cx))) {
            Ok(polled) => polled.map(drop),
            Err(_) => {
                tracing::error!("a connection ended in a panic; please report it");
                Poll::Ready(())
            }
        }
    }
}

/// Serves `stream` on this worker until it ends.
pub(super) fn spawn(door: &Door, stream: TcpStream, peer: SocketAddr, slot: Slot) {
    let info = ConnectionInfo::new(canonical(peer), door.port, door.rules.clone());
    let connection = Connection {
        context: door.context.clone(),
        info: Rc::new(info),
        member: Member::new(door.group()),
    };
    // The handle is dropped: a task ends by itself, or by its group.
    tokio::task::spawn_local(Life {
        serve: serve(Socket::from(stream), &door.context.timers, connection),
        _open: Open::new(&door.context, &door.rules),
        _slot: slot,
    });
}

/// An IPv4 client of a dual-stack socket is an IPv4 client to rules and logs.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // What tokio keeps per task and per socket comes on top: 104 and 256 bytes, in multiples
        // of 128.
        let size = size_of::<Life>();
        assert!(size <= 152, "{size} bytes per idle connection");
    }
}
