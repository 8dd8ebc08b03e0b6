//! One downstream connection: what `wire` sees of everything above it, and its life as a task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::group::{Group, Phase};
use super::share::Slot;
use crate::proxy;
use crate::proxy::{ConnectionInfo, Context, ListenerRules};
use crate::telemetry::ListenerMetrics;
use crate::wire::h1;
use crate::wire::io::Socket;
use crate::wire::{Handler, Limits, Refusal, Request, Response};

/// How long an idle connection that is told to end may still send one request, which is answered
/// with `Connection: close`. A request that is on its way when we close is lost, and a client may
/// repeat only some (RFC 9112 section 9.6): the busier a connection, the likelier one is; who was
/// in the accept queue when a drain began has most likely sent its first already.
const LAST_REQUEST_GRACE: Duration = Duration::from_secs(1);

struct Connection {
    context: Rc<Context>,
    info: Rc<ConnectionInfo>,
    group: Rc<Group>,
    /// Armed once it is told to end.
    grace: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl Handler for Connection {
    type Work = Pin<Box<dyn Future<Output = Response>>>;

    fn limits(&self) -> Limits {
        self.info.listener.limits(&self.context)
    }

    fn handle(&self, request: Request) -> Self::Work {
        Box::pin(proxy::handle(&self.context, &self.info, request))
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        proxy::refuse(&self.context, &self.info, refusal)
    }

    fn idle_timeout(&self) {
        proxy::silent_close(&self.context);
    }

    // The group wakes this connection's task when it changes: nothing to register.
    fn closing(&self) -> bool {
        self.group.phase() > Phase::Serving
    }

    fn poll_closing(&self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if !self.closing() {
            return Poll::Pending;
        }
        let mut grace = self.grace.borrow_mut();
        let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_REQUEST_GRACE)));
        grace.as_mut().poll(cx)
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

/// Serves `stream` on this worker until it ends.
pub fn spawn(
    context: &Rc<Context>,
    rules: &Rc<ListenerRules>,
    group: &Rc<Group>,
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
) {
    let local = stream.local_addr().unwrap_or(peer);
    let info = ConnectionInfo::new(canonical(peer), canonical(local), rules.clone());
    let open = Open::new(context, rules);
    let connection = Rc::new(Connection {
        context: context.clone(),
        info: Rc::new(info),
        group: group.clone(),
        grace: RefCell::default(),
    });
    // The handle is dropped: a task ends by itself, or by its group.
    tokio::task::spawn_local(async move {
        let socket = Socket::from(stream);
        // Fails only on a connection that is broken already.
        let _ = socket.set_nodelay();
        serve(connection, socket).await;
        drop(open);
        drop(slot);
    });
}

async fn serve(connection: Rc<Connection>, socket: Socket) {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let group = connection.group.clone();
    let _member = group.join(waker);
    let timers = connection.context.timers.clone();
    let mut life = pin!(h1::serve(socket, &timers, connection));
    poll_fn(|cx| {
        if group.phase() == Phase::Aborted {
            return Poll::Ready(());
        }
        // A panic ends this connection and no other; `proxy` has its own guard around requests.
        match catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(cx))) {
            Ok(polled) => polled.map(drop),
            Err(_) => {
                tracing::error!("a connection ended in a panic; please report it");
                Poll::Ready(())
            }
        }
    })
    .await;
}

/// An IPv4 client of a dual-stack socket is an IPv4 client to rules and logs.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
