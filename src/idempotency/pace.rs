//! Waiting, with a runtime or without.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::clock::now;

/// How a future is given some time and not more. What is ready at once needs no timer, so a store in
/// memory needs no runtime.
pub(super) trait Pace: Copy + Send + Sync {
    /// Whether the lease can be renewed beside what is waited for.
    const HAS_TIMER: bool;

    fn within<F: Future + Send>(
        self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> + Send
    where
        F::Output: Send;

    fn pause(self, pause: Duration) -> impl Future<Output = ()> + Send {
        async move {
            self.within(pause, std::future::pending::<()>()).await;
        }
    }
}

/// By tokio's timer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer;

impl Pace for Timer {
    const HAS_TIMER: bool = true;

    async fn within<F: Future + Send>(self, limit: Duration, future: F) -> Option<F::Output>
    where
        F::Output: Send,
    {
        let mut future = pin!(future);
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Some(output);
        }
        // Beside, since what is ready at once would have to make room for it.
        Box::pin(tokio::time::timeout(limit, future)).await.ok()
    }
}

/// By blocking the thread: such a future is ready when it is polled for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking;

impl Pace for Blocking {
    const HAS_TIMER: bool = false;

    async fn within<F: Future + Send>(self, limit: Duration, future: F) -> Option<F::Output>
    where
        F::Output: Send,
    {
        block_on(future, Some(limit))
    }
}

/// Runs a future made of [`Blocking`] waits.
pub(super) fn run<F: Future>(future: F) -> F::Output {
    match block_on(future, None) {
        Some(output) => output,
        None => unreachable!("without a limit it goes on until it is ready"),
    }
}

/// Not `thread::park`, whose wake-ups belong to the caller.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_one();
    }
}

fn block_on<F: Future>(future: F, limit: Option<Duration>) -> Option<F::Output> {
    let mut future = pin!(future);
    if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(output);
    }
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let start = now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let rung = bell.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rung = match limit {
            None => bell.heard.wait_while(rung, |rung| !*rung),
            Some(limit) => {
                let left = limit.saturating_sub(now().since(start));
                match bell.heard.wait_timeout_while(rung, left, |rung| !*rung) {
                    // A clock that stands, as tests have it, must not make this wait for ever.
                    Ok((rung, waited)) if waited.timed_out() && !*rung => return None,
                    Ok((rung, _)) => Ok(rung),
                    Err(poisoned) => Ok(poisoned.into_inner().0),
                }
            }
        }
        .unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}
