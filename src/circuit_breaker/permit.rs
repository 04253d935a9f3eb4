use std::sync::Arc;

use tokio::sync::watch;

use crate::outcome::Outcome;

use super::guard::Guard;
use super::shared::Shared;
use super::state::CircuitState;

/// Permission for one call: see [`CircuitBreaker::try_acquire`](super::CircuitBreaker::try_acquire).
///
/// Dropped without a report it counts as cancelled: a probe's place is given back, and if the permit was
/// held for [`cancelled_after`](super::CircuitBreakerBuilder::cancelled_after) it counts as a failure.
///
/// ```
/// use buttress::circuit_breaker::CircuitBreaker;
/// let breaker = CircuitBreaker::new("db");
/// breaker.try_acquire()?.failure();
/// assert_eq!(breaker.failure_count(), 1);
/// # Ok::<(), buttress::Rejection>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping the permit cancels the call"]
pub struct Permit {
    pub(super) guard: Guard<Arc<Shared>>,
}

impl Permit {
    /// The call succeeded.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # let breaker = CircuitBreaker::new("db");
    /// breaker.try_acquire()?.success();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The callee failed.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # let breaker = CircuitBreaker::new("db");
    /// breaker.try_acquire()?.failure();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn failure(self) {
        self.record(Outcome::FAILURE);
    }

    /// Any outcome.
    ///
    /// ```
    /// # use buttress::circuit_breaker::CircuitBreaker;
    /// # let breaker = CircuitBreaker::new("db");
    /// breaker.try_acquire()?.record(buttress::Outcome::Ignored);
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn record(mut self, outcome: Outcome) {
        self.guard.report(&outcome);
    }
}

/// Changes of state of one breaker: see [`CircuitBreaker::subscribe`](super::CircuitBreaker::subscribe).
///
/// Each subscriber sees the latest state; changes that follow each other faster than it looks are
/// skipped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use buttress::circuit_breaker::{CircuitBreaker, CircuitState, StateChanges};
/// // A task of its own, to the end of the breaker.
/// async fn log(mut states: StateChanges) -> Vec<CircuitState> {
///     let mut seen = Vec::new();
///     while let Some(state) = states.changed().await {
///         seen.push(state);
///     }
///     seen
/// }
/// let breaker = CircuitBreaker::new("db");
/// let log = tokio::spawn(log(breaker.subscribe()));
/// tokio::task::yield_now().await;
/// breaker.force_open();
/// tokio::task::yield_now().await;
/// drop(breaker);
/// assert_eq!(log.await.unwrap(), [CircuitState::ForcedOpen]);
/// # }
/// ```
#[derive(Debug)]
pub struct StateChanges {
    states: watch::Receiver<(u64, CircuitState)>,
    /// Version of the latest change seen.
    seen: u64,
}

impl StateChanges {
    pub(super) fn new(states: watch::Receiver<(u64, CircuitState)>) -> Self {
        let seen = states.borrow().0;
        Self { states, seen }
    }

    /// Waits for the next change and returns the new state; `None` once the breaker is gone. Cancel safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use buttress::circuit_breaker::CircuitBreaker;
    /// let breaker = CircuitBreaker::new("db");
    /// let mut states = breaker.subscribe();
    /// drop(breaker);
    /// assert_eq!(states.changed().await, None);
    /// # }
    /// ```
    pub async fn changed(&mut self) -> Option<CircuitState> {
        loop {
            self.states.changed().await.ok()?;
            let (version, state) = *self.states.borrow_and_update();
            // The channel also wakes who waits for an open circuit when shadow mode is switched.
            if version != self.seen {
                self.seen = version;
                return Some(state);
            }
        }
    }
}
