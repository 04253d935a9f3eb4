//! What ends with the watch, or by it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::error::WatchdogTimeoutError;
use super::handle::Watchdog;

/// Watches until it is dropped; see [`Watchdog::start_scoped`].
///
/// ```
/// let guard = buttress::supervise::watchdog::Watchdog::builder("worker").build()?.start_scoped()?;
/// guard.ping();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub struct WatchdogGuard(Watchdog);

impl WatchdogGuard {
    pub(super) const fn new(watchdog: Watchdog) -> Self {
        Self(watchdog)
    }
}

impl std::ops::Deref for WatchdogGuard {
    type Target = Watchdog;

    fn deref(&self) -> &Watchdog {
        &self.0
    }
}

impl Drop for WatchdogGuard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Its place among the tasks to wake.
struct Slot {
    watchdog: Watchdog,
    id: Option<u64>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.watchdog.shared().leave(id);
        }
    }
}

pin_project! {
    /// The future of [`Watchdog::guard`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// use buttress::supervise::watchdog::{Guarded, Watchdog};
    /// let dog = Watchdog::builder("worker").build()?;
    /// // It has a name, so that a future around it can keep it without a box.
    /// let work: Guarded<_> = dog.guard(std::future::ready(7))?;
    /// assert_eq!(work.await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct Guarded<F> {
        #[pin]
        future: Option<F>,
        slot: Slot,
        before: u64,
        owns: Option<WatchdogGuard>,
    }
}

impl<F> Guarded<F> {
    pub(super) fn new(watchdog: Watchdog, owns: Option<WatchdogGuard>, future: F) -> Self {
        let before = watchdog.shared().fired();
        Self { future: Some(future), slot: Slot { watchdog, id: None }, before, owns }
    }
}

impl<F> fmt::Debug for Guarded<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("watchdog", &self.slot.watchdog.name())
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, WatchdogTimeoutError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let shared = this.slot.watchdog.shared();
        // First the place, then the look: one that fires in between wakes us.
        let id = shared.wait(this.slot.id, cx.waker());
        this.slot.id = Some(id);
        let shared = this.slot.watchdog.shared();
        let mut ended = shared.fired_since(*this.before).map(Err);
        if ended.is_none()
            && let Some(future) = this.future.as_mut().as_pin_mut()
            && let Poll::Ready(value) = future.poll(cx)
        {
            // It may have fired while that poll blocked.
            ended = Some(shared.fired_since(*this.before).map_or(Ok(value), Err));
        }
        let Some(ended) = ended else { return Poll::Pending };
        this.future.set(None);
        this.owns.take();
        Poll::Ready(ended)
    }
}
