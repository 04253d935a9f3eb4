//! Polling by hand.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tower_service::Service;

/// A waker that does nothing but count how often it was woken.
///
/// ```
/// use buttress::testing::CountWaker;
///
/// let counter = CountWaker::new();
/// counter.waker().wake_by_ref();
/// assert_eq!(counter.wakes(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct CountWaker {
    count: Arc<Count>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl CountWaker {
    /// A waker that was never woken. Clones count together.
    ///
    /// ```
    /// assert_eq!(buttress::testing::CountWaker::new().wakes(), 0);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        let count = Arc::new(Count::default());
        Self { waker: Waker::from(Arc::clone(&count)), count }
    }

    /// The waker to poll with: `Context::from_waker(counter.waker())`.
    ///
    /// ```
    /// use std::task::Context;
    /// let counter = buttress::testing::CountWaker::new();
    /// let _cx = Context::from_waker(counter.waker());
    /// ```
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// How often it was woken.
    ///
    /// ```
    /// assert_eq!(buttress::testing::CountWaker::new().wakes(), 0);
    /// ```
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.count.0.load(Ordering::SeqCst)
    }

    /// How often it was woken since the last `take`.
    ///
    /// ```
    /// let counter = buttress::testing::CountWaker::new();
    /// counter.waker().wake_by_ref();
    /// assert_eq!((counter.take(), counter.take()), (1, 0));
    /// ```
    #[must_use]
    pub fn take(&self) -> usize {
        self.count.0.swap(0, Ordering::SeqCst)
    }

    /// Polls the readiness of `service` once with this waker, outside tokio's cooperative budget.
    ///
    /// ```
    /// use buttress::testing::{CountWaker, Probe};
    /// let (mut probe, handle) = Probe::new(|n: u32| Ok::<_, ()>(n));
    /// handle.set_slots(0);
    /// assert!(CountWaker::new().poll_ready::<u32, _>(&mut probe).is_pending());
    /// ```
    pub fn poll_ready<Req, S: Service<Req>>(&self, service: &mut S) -> Poll<Result<(), S::Error>> {
        self.poll_with(|cx| service.poll_ready(cx))
    }

    // Without `unconstrained`, a property that polls often would use up the budget of the tokio task
    // it runs in, and tokio's primitives would then answer "pending" with room to spare.
    pub(super) fn poll_with<T>(&self, f: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        pin!(tokio::task::unconstrained(poll_fn(f))).poll(&mut Context::from_waker(&self.waker))
    }
}

impl Default for CountWaker {
    fn default() -> Self {
        Self::new()
    }
}

/// A future polled by hand, with its own [`CountWaker`].
///
/// ```
/// use buttress::testing::ByHand;
/// let mut future = ByHand::new(std::future::pending::<()>());
/// assert!(future.poll().is_pending());
/// assert_eq!(future.wakes(), 0);
/// ```
#[must_use = "a future does nothing unless polled"]
pub struct ByHand<F> {
    future: Pin<Box<F>>,
    waker: CountWaker,
    woken_before: usize,
    polled: bool,
}

impl<F: Future> ByHand<F> {
    /// Takes a future that was not polled yet.
    ///
    /// ```
    /// let mut future = buttress::testing::ByHand::new(async { 7 });
    /// assert!(future.poll().is_ready());
    /// ```
    pub fn new(future: F) -> Self {
        Self { future: Box::pin(future), waker: CountWaker::new(), woken_before: 0, polled: false }
    }

    /// Polls once, outside tokio's cooperative budget.
    ///
    /// # Panics
    /// If the future does, for example because it had completed.
    ///
    /// ```
    /// use std::task::Poll;
    /// let mut future = buttress::testing::ByHand::new(async { 7 });
    /// assert_eq!(future.poll(), Poll::Ready(7));
    /// ```
    pub fn poll(&mut self) -> Poll<F::Output> {
        self.polled = true;
        self.woken_before = self.waker.wakes();
        let future = &mut self.future;
        self.waker.poll_with(|cx| future.as_mut().poll(cx))
    }

    /// Polls only if an executor would: the first time, and after a wake.
    ///
    /// ```
    /// let mut future = buttress::testing::ByHand::new(std::future::pending::<()>());
    /// assert!(future.poll_if_woken().is_some(), "the first poll");
    /// assert!(future.poll_if_woken().is_none(), "nobody woke it");
    /// ```
    pub fn poll_if_woken(&mut self) -> Option<Poll<F::Output>> {
        (!self.polled || self.is_woken()).then(|| self.poll())
    }

    /// Whether it was woken since the last poll.
    ///
    /// ```
    /// let future = buttress::testing::ByHand::new(async {});
    /// assert!(!future.is_woken());
    /// ```
    #[must_use]
    pub fn is_woken(&self) -> bool {
        self.waker.wakes() > self.woken_before
    }

    /// How often it was woken in all.
    ///
    /// ```
    /// assert_eq!(buttress::testing::ByHand::new(async {}).wakes(), 0);
    /// ```
    #[must_use]
    pub fn wakes(&self) -> usize {
        self.waker.wakes()
    }
}

impl<F> fmt::Debug for ByHand<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByHand").field("wakes", &self.waker.wakes()).finish_non_exhaustive()
    }
}
