//! Proof that work goes on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that changes whenever work went on; how is of no interest.
///
/// Whoever watches compares it with what it saw last time: a heartbeat beats only if its sources
/// changed, a watchdog fires when one has not for too long. Closures `Fn() -> u64` implement it.
///
/// ```
/// use buttress::supervise::{Progress, Pulse};
/// let worker = Pulse::new();
/// let before = worker.count();
/// worker.ping();
/// assert_ne!(worker.count(), before);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell whether work goes on",
    note = "use a `Pulse`, or a closure `|| -> u64` whose number changes when work was done"
)]
pub trait Progress: Send + Sync + 'static {
    /// The number now. Called on the watcher's thread; must not block.
    fn count(&self) -> u64;
}

impl<F> Progress for F
where
    F: Fn() -> u64 + Send + Sync + 'static,
{
    fn count(&self) -> u64 {
        self()
    }
}

/// The simplest source of progress: somebody calls [`ping`](Self::ping) for each piece of work.
///
/// Clones share the count. A ping is a relaxed load and a relaxed store, no read of a clock: the
/// watcher has one. Pings of several threads at once may count as one, which is as good.
///
/// ```
/// let pulse = buttress::supervise::Pulse::new();
/// pulse.ping();
/// ```
#[derive(Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// One that has never been pinged.
    ///
    /// ```
    /// use buttress::supervise::{Progress, Pulse};
    /// assert_eq!(Pulse::new().count(), 0);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Work went on.
    ///
    /// ```
    /// use buttress::supervise::{Progress, Pulse};
    /// let pulse = Pulse::new();
    /// pulse.ping();
    /// assert_eq!(pulse.count(), 1);
    /// ```
    #[inline]
    pub fn ping(&self) {
        // No read-modify-write: it would cost a locked instruction, and a lost count does no harm.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

impl Progress for Pulse {
    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulse({})", self.count())
    }
}
