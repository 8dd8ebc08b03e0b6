//! One downstream connection: what `wire` sees of everything above it, and its life as a task.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use super::accept::Door;
use super::group::{Member, Phase};
use super::opening::{Entered, Opened, Opening, Refused};
use super::share::Slot;
use crate::proxy;
use crate::proxy::{ConnectionInfo, Context, ListenerRules};
use crate::telemetry::ListenerMetrics;
use crate::util::clock;
use crate::wire::h1::{Ended, Serve, serve};
use crate::wire::h2;
use crate::wire::io::Socket;
use crate::wire::{Cut, Handler, Limits, Refusal, Request, Response};

struct Connection {
    context: Rc<Context>,
    info: Rc<ConnectionInfo>,
    member: Member,
}

impl Handler for Connection {
    type Work = proxy::Work;

    fn limits(&self) -> Limits {
        let mut limits = self.info.listener.limits(&self.context);
        // Over TLS it is ALPN that says HTTP/2, never the first bytes (RFC 9113 section 3.3).
        limits.h2 &= self.info.secured.is_none();
        limits
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

    fn cut(&self, cause: Cut) {
        let (snapshot, listener) = self.info.listener.current(&self.context);
        snapshot
            .listener(listener)
            .metrics
            .connection_cut(cause.label());
    }

    // The group wakes this connection's task when it changes: nothing to register.
    fn closing(&self) -> bool {
        self.member.phase() > Phase::Serving || self.info.is_old()
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
    stage: Stage,
    _open: Open,
    _slot: Slot,
}

enum Stage {
    Opening(Box<Opening>),
    Http1(Serve<Connection>),
    Http2(Box<h2::Serve<Connection>>),
    Closed,
}

impl Stage {
    fn member(&self) -> Option<&Member> {
        match self {
            Stage::Opening(opening) => Some(&opening.entered.member),
            Stage::Http1(serve) => Some(&serve.handler().member),
            Stage::Http2(serve) => Some(&serve.handler().member),
            Stage::Closed => None,
        }
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if let Stage::Opening(opening) = self {
            let opened = ready!(opening.poll(cx));
            self.begin(opened);
        }
        if let Stage::Http1(serve) = self {
            match ready!(Pin::new(serve).poll(cx)) {
                Ended::Http2 => self.go_on_as_http2(),
                _ => return Poll::Ready(()),
            }
        }
        match self {
            Stage::Http2(serve) => Pin::new(&mut **serve).poll(cx),
            Stage::Http1(_) | Stage::Opening(_) | Stage::Closed => Poll::Ready(()),
        }
    }

    /// What was opened goes on with what its opening held.
    fn begin(&mut self, opened: Result<Opened, Refused>) {
        let Stage::Opening(opening) = std::mem::replace(self, Stage::Closed) else {
            return;
        };
        match opened {
            Ok(opened) => *self = Stage::serve(opening.entered, opened),
            Err(refused) => opening.refuse(&refused),
        }
    }

    fn serve(entered: Entered, opened: Opened) -> Self {
        let limits = entered.rules.limits(&entered.context);
        let timers = entered.context.timers.clone();
        let info = ConnectionInfo::new(
            &entered.context,
            opened.peer,
            opened.port,
            entered.rules,
            opened.secured,
        )
        .to(opened.destination);
        let connection = Connection {
            context: entered.context,
            info: Rc::new(info),
            member: entered.member,
        };
        // Where both are spoken, HTTP/1 finds out: its first head is no request.
        if opened.http2 || !limits.http1 {
            let (socket, deadline) = (opened.socket, entered.deadline);
            let serve = h2::serve(socket, Vec::new(), timers, deadline, connection);
            Stage::Http2(Box::new(serve))
        } else {
            Stage::Http1(serve(opened.socket, entered.deadline, connection))
        }
    }

    /// The client began with HTTP/2's connection preface.
    fn go_on_as_http2(&mut self) {
        if let Stage::Http1(serve) = std::mem::replace(self, Stage::Closed)
            && let Some((socket, before, deadline, connection)) = serve.into_http2()
        {
            let timers = connection.context.timers.clone();
            let serve = h2::serve(socket, before, timers, deadline, connection);
            *self = Stage::Http2(Box::new(serve));
        }
    }
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let life = &mut *self;
        if let Some(member) = life.stage.member() {
            member.join(cx.waker());
            if member.phase() == Phase::Aborted {
                return Poll::Ready(());
            }
        }
        // A panic ends this connection and no other; `proxy` has its own guard around requests.
        match catch_unwind(AssertUnwindSafe(|| life.stage.poll(cx))) {
            Ok(polled) => polled,
            Err(_) => {
                tracing::error!("a connection ended in a panic; please report it");
                Poll::Ready(())
            }
        }
    }
}

/// Serves `socket` on this worker until it ends.
pub(super) fn spawn(door: &Door, socket: Socket, peer: SocketAddr, slot: Slot) {
    let open = Open::new(&door.context, &door.rules);
    let opened = Opened {
        destination: destination(door, &socket),
        socket,
        peer: canonical(peer),
        port: door.port,
        http2: false,
        secured: None,
    };
    let deadline = door.slot();
    let patience = door.rules.limits(&door.context).header_timeout;
    deadline.set_first(clock::now() + patience, patience);
    let entered = Entered {
        context: door.context.clone(),
        rules: door.rules.clone(),
        member: Member::new(door.group()),
        deadline,
    };
    let stage = if Opening::is_needless(&entered) {
        Stage::serve(entered, opened)
    } else {
        Stage::Opening(Opening::new(entered, opened))
    };
    // The handle is dropped: a task ends by itself, or by its group.
    tokio::task::spawn_local(Life {
        stage,
        _open: open,
        _slot: slot,
    });
}

/// Which of many addresses a client has connected to, where a server is to be told.
fn destination(door: &Door, socket: &Socket) -> Option<Box<SocketAddr>> {
    let wild = |address: SocketAddr| address.ip().is_unspecified();
    if !door.address.tcp().is_some_and(wild) || !door.context.snapshots.pin().introduces {
        return None;
    }
    match socket {
        Socket::Tcp(stream) => stream.local_addr().ok().map(Box::new),
        Socket::Unix(_) | Socket::Tls(_) => None,
    }
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
