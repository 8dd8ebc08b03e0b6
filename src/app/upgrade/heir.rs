//! The process that has taken over, as a child of ours: to be signalled for as long as its number
//! is its own.
//!
//! The number of a process is its own until it has been waited for; from then on the kernel may
//! give it to any other. So waiting and signalling are done under one lock, and the number is
//! asked for each time.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;

/// See the module. Whoever has one may signal it; one waits for it.
#[derive(Debug, Clone)]
pub(in crate::app) struct Heir(Arc<Mutex<Child>>);

impl Heir {
    pub fn new(child: Child) -> Self {
        Heir(Arc::new(Mutex::new(child)))
    }

    /// Whether there was somebody to be signalled.
    pub fn signal(&self, signal: Signal) -> bool {
        let child = self.lock();
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.is_some_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
    }

    /// Returns when it has ended.
    pub async fn ended(&self) -> io::Result<ExitStatus> {
        // What is to wake us is kept by the child, not by the future of one look.
        poll_fn(|cx| pin!(self.lock().wait()).poll(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;

    #[tokio::test]
    async fn one_that_has_been_waited_for_is_never_signalled() {
        let child = tokio::process::Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("there is one");
        let heir = Heir::new(child);
        let waiting = tokio::spawn({
            let heir = heir.clone();
            async move { heir.ended().await }
        });
        tokio::task::yield_now().await;
        assert!(heir.signal(Signal::SIGTERM), "it waits for its input");
        let status = waiting.await.expect("no panic").expect("a child");
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
        assert!(!heir.signal(Signal::SIGTERM), "its number is nobody's");
        assert_eq!(heir.ended().await.expect("is known"), status);
    }
}
