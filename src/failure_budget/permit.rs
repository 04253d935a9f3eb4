//! Permission for one call.

use std::sync::Arc;

use crate::outcome::Outcome;

use super::guard::Guard;
use super::shared::Shared;

/// Permission for one call: see [`FailureBudget::try_acquire`](super::FailureBudget::try_acquire).
///
/// Dropped without a report it counts as cancelled: a failure if it was held for longer than
/// [`cancelled_after`](super::FailureBudgetBuilder::cancelled_after), else nothing.
///
/// ```
/// use buttress::failure_budget::FailureBudget;
/// let budget = FailureBudget::new("checkout");
/// budget.try_acquire()?.failure();
/// assert_eq!(budget.failure_rate(), 1.0);
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
    /// # use buttress::failure_budget::FailureBudget;
    /// FailureBudget::new("checkout").try_acquire()?.success();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn success(self) {
        self.record(Outcome::Success);
    }

    /// The call failed.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// FailureBudget::new("checkout").try_acquire()?.failure();
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn failure(self) {
        self.record(Outcome::FAILURE);
    }

    /// Any outcome.
    ///
    /// ```
    /// # use buttress::failure_budget::FailureBudget;
    /// FailureBudget::new("checkout").try_acquire()?.record(buttress::Outcome::Ignored);
    /// # Ok::<(), buttress::Rejection>(())
    /// ```
    pub fn record(mut self, outcome: Outcome) {
        self.guard.report(outcome);
    }
}
