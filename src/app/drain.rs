//! The end: readiness off, a pause for balancers in front of us, no new connections, the requests
//! under way to their end or to the end of patience.

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::reload;
use crate::telemetry::events;
use crate::worker::Workers;

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Drain; a second one means [`Stop::Now`]. The text is the signal's name, for the log.
    Graceful(&'static str),
    /// Break off what is under way.
    Now,
}

/// Waits for a stop and carries it out; returns when the workers have ended. Gives how many
/// connections were cut off.
pub(super) async fn run(
    mut stops: mpsc::UnboundedReceiver<Stop>,
    reload: &reload::Handle,
    workers: &Workers,
) -> usize {
    let first = stops.recv().await;
    reload.stop();
    if let Some(Stop::Graceful(signal)) = first {
        events::draining(signal);
        let process = reload.current().snapshot.config.process.clone();
        let patience = async {
            tokio::time::sleep(process.shutdown_delay).await;
            workers.drain();
            timeout(process.drain_timeout, workers.ended())
                .await
                .is_ok()
        };
        tokio::select! {
            drained = patience => if drained {
                return 0;
            },
            // `None` cannot come before the end: the signals hold a sender.
            _ = stops.recv() => {}
        }
    }
    let aborted = workers.abort();
    workers.ended().await;
    aborted
}
