//! Executions that go on without their callers.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::Notify;

use super::layer::Parts;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The calls of a layer that go on when their callers go. A process that ends should wait for them: what is
/// cut off is recorded as interrupted.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
/// # use buttress::store::{Fingerprint, MemoryStore};
/// use std::time::Duration;
/// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
/// # let layer = IdempotencyLayer::new(gate, |order: &u64| {
/// #     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
/// # });
/// let executions = layer.detached();
/// let all_done = tokio::time::timeout(Duration::from_secs(10), executions.idle()).await;
/// assert!(all_done.is_ok() && executions.count() == 0);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Detached(Arc<Inner>);

#[derive(Default)]
struct Inner {
    executions: AtomicUsize,
    unconfirmed: AtomicUsize,
    /// How many wait until there are none: mostly nobody, and then nobody is told.
    waiting: AtomicUsize,
    fewer: Notify,
}

/// A call's share of its layer, and, once it is [under way](Self::enter), one of those executions until it is
/// dropped.
pub(super) struct Counted<G, P> {
    parts: Arc<Parts<G, P>>,
    entered: bool,
    unconfirmed: bool,
}

/// How many records are still being confirmed in the background, at most.
const MOST_UNCONFIRMED: usize = 1_000;

impl Detached {
    /// Calls that have been read and not been recorded or answered yet: such whose callers wait and such
    /// whose callers have gone. Calls that pass through do not count.
    ///
    /// ```
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let layer = IdempotencyLayer::new(gate, |order: &u64| {
    /// #     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// # });
    /// assert_eq!(layer.detached().count(), 0);
    /// ```
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.executions.load(Ordering::Acquire)
    }

    /// Waits until there are none. Stop the server first, or there may always be another.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # use buttress::idempotency::{Idempotency, IdempotencyLayer, Identity, Scope};
    /// # use buttress::store::{Fingerprint, MemoryStore};
    /// # let gate = Idempotency::new("orders", MemoryStore::default(), Scope::global());
    /// # let layer = IdempotencyLayer::new(gate, |order: &u64| {
    /// #     Some(Identity::new(&Scope::global(), order.to_le_bytes(), Fingerprint::NONE))
    /// # });
    /// layer.detached().idle().await;
    /// # }
    /// ```
    pub async fn idle(&self) {
        let _waiting = Waiting::of(&self.0.waiting);
        loop {
            // Notices every change from here on, also before it is polled.
            let fewer = self.0.fewer.notified();
            // In one order with the other side: either this sees that it was the last, or that sees this.
            if self.0.executions.load(Ordering::SeqCst) == 0 {
                return;
            }
            fewer.await;
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<G, P> Counted<G, P> {
    pub(super) fn of(parts: &Arc<Parts<G, P>>) -> Self {
        Self { parts: Arc::clone(parts), entered: false, unconfirmed: false }
    }

    pub(super) fn enter(&mut self) {
        if !self.entered {
            self.entered = true;
            self.detached.0.executions.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One that goes on trying to record; `None` if too many are at that.
    pub(super) fn unconfirmed(&self) -> Option<Self> {
        let room = |count| (count < MOST_UNCONFIRMED).then_some(count + 1);
        let counter = &self.detached.0.unconfirmed;
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let mut another = Self::of(&self.parts);
        another.unconfirmed = true;
        another.enter();
        Some(another)
    }
}

impl<G, P> Deref for Counted<G, P> {
    type Target = Parts<G, P>;

    fn deref(&self) -> &Parts<G, P> {
        &self.parts
    }
}

impl<G, P> Drop for Counted<G, P> {
    fn drop(&mut self) {
        let inner = &self.parts.detached.0;
        if self.unconfirmed {
            inner.unconfirmed.fetch_sub(1, Ordering::Relaxed);
        }
        if self.entered
            && inner.executions.fetch_sub(1, Ordering::SeqCst) == 1
            && inner.waiting.load(Ordering::SeqCst) > 0
        {
            inner.fewer.notify_waiters();
        }
    }
}

impl fmt::Debug for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detached").field("count", &self.count()).finish_non_exhaustive()
    }
}
