//! What a connect goes to: the address of a server, or of a name the first answer, which has to
//! be waited for.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

/// Written by the resolving task, read by connects.
#[derive(Debug)]
pub struct Addresses {
    answer: ArcSwap<Answer>,
    changed: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// Not asked yet: connects wait, within their deadline.
    Pending,
    /// There is none; the cause, for messages.
    Failed(Arc<str>),
    /// Never empty.
    Known(Arc<[SocketAddr]>),
}

impl Addresses {
    /// Of a server given by its IP address: known for good.
    pub fn fixed(address: SocketAddr) -> Arc<Self> {
        Self::new(Answer::Known(Arc::from([address])))
    }

    /// Of a name: connects wait for the first answer.
    pub fn pending() -> Arc<Self> {
        Self::new(Answer::Pending)
    }

    fn new(answer: Answer) -> Arc<Self> {
        Arc::new(Addresses {
            answer: ArcSwap::from_pointee(answer),
            changed: Notify::new(),
        })
    }

    /// All of them; empty while the name is not resolved.
    pub fn list(&self) -> Arc<[SocketAddr]> {
        match &**self.answer.load() {
            Answer::Known(addresses) => addresses.clone(),
            _ => Arc::default(),
        }
    }

    /// Why there is no address, for `/status`.
    pub fn failure(&self) -> Option<Arc<str>> {
        match &**self.answer.load() {
            Answer::Failed(cause) => Some(cause.clone()),
            _ => None,
        }
    }

    /// Waits for the first answer. `Err` is why there is none.
    pub async fn ready(&self) -> Result<Arc<[SocketAddr]>, Arc<str>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that an answer in between is not missed.
            changed.as_mut().enable();
            match &**self.answer.load() {
                Answer::Pending => {}
                Answer::Failed(cause) => return Err(cause.clone()),
                Answer::Known(addresses) => return Ok(addresses.clone()),
            }
            changed.await;
        }
    }

    /// Takes over an answer; an empty one is a failure. Called by the resolving task only.
    pub fn publish(&self, addresses: &[SocketAddr]) {
        self.set(match addresses {
            [] => Answer::Failed("the answer has no address".into()),
            addresses => Answer::Known(addresses.into()),
        });
    }

    /// There is none, and who waits for one is told so.
    pub fn fail(&self, cause: Arc<str>) {
        self.set(Answer::Failed(cause));
    }

    fn set(&self, answer: Answer) {
        self.answer.store(Arc::new(answer));
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connects_wait_for_the_first_answer() {
        let addresses = Addresses::pending();
        let waiting = tokio::spawn({
            let addresses = addresses.clone();
            async move { addresses.ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "nothing is known yet");
        addresses.fail("no such name".into());
        assert_eq!(
            waiting.await.expect("does not panic"),
            Err("no such name".into())
        );
        let first = SocketAddr::from(([10, 0, 0, 1], 80));
        addresses.publish(&[first]);
        assert_eq!(addresses.ready().await.as_deref(), Ok(&[first][..]));
    }
}
