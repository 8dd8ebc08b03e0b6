//! Giving others their turn.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Has the task woken in its worker's next round: after every other task that can run now, and
/// after the sockets have been asked what has come.
///
/// A plain `wake_by_ref` is woken before that: tokio asks the sockets only when no task can run,
/// or after 61 of them. A connection that is always ready would have 61 budgets between two looks
/// at all the others.
pub fn next_round(cx: &mut Context<'_>) {
    // Its first poll hands the waker to the runtime, which calls it then.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn sockets_are_asked_between_two_rounds() {
        let (mut here, mut there) = UnixStream::pair().expect("a socket pair");
        let reading = tokio::spawn(async move {
            let mut bytes = [0; 1];
            there.read_exact(&mut bytes).await
        });
        tokio::task::yield_now().await;
        here.write_all(b"x").await.expect("it is open");
        // The event, then the task that it wakes.
        for _ in 0..3 {
            let mut first = true;
            poll_fn(|cx| match std::mem::take(&mut first) {
                true => {
                    next_round(cx);
                    Poll::Pending
                }
                false => Poll::Ready(()),
            })
            .await;
        }
        assert!(reading.is_finished(), "it was read meanwhile");
    }
}
