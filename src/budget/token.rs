//! Retries that were granted.

use std::sync::atomic::Ordering;

use super::RetryBudget;
use super::core::{Generation, RETRY};
use crate::rejection::say;

#[derive(Debug)]
pub(super) struct Held {
    pub(super) budget: RetryBudget,
    pub(super) price: u64,
    pub(super) taken: Generation,
}

/// A granted retry that has not been sent yet. Hold it while waiting; dropping it gives everything back.
///
/// ```
/// use buttress::{RetryBudget, RetryCost};
/// let budget = RetryBudget::new("db");
/// drop(budget.withdraw(RetryCost::Failed));
/// assert_eq!(budget.stats().returned, 1);
/// assert_eq!(budget.stats().tokens, 28);
/// ```
#[derive(Debug)]
#[must_use = "dropping the token gives the retry back"]
pub struct RetryToken {
    pub(super) held: Option<Held>,
}

impl RetryToken {
    /// The retry is being sent. From here on it is paid, unless it [works](SentRetry::succeeded).
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::new("db");
    /// let sent = budget.withdraw(RetryCost::Throttled).map(|token| token.send());
    /// drop(sent); // it failed
    /// assert_eq!(budget.stats().tokens, 28 - 5);
    /// ```
    #[must_use = "tell it when the retry worked; dropping it means that it failed"]
    pub fn send(mut self) -> SentRetry {
        SentRetry { held: self.held.take() }
    }
}

impl Drop for RetryToken {
    fn drop(&mut self) {
        if let Some(Held { budget, price, taken }) = self.held.take() {
            budget.shared.counts.returned.fetch_add(1, Ordering::Release);
            budget.put_back(taken, price, RETRY);
            // Perhaps for a timeout outside, which is about to refuse the call.
            if let Some(backend) = &budget.shared.limits.backend {
                say(|| backend.seen());
            }
        }
    }
}

/// A retry on its way. Dropping it means that it failed, or that nobody waited for its end: it is paid.
///
/// ```
/// use buttress::{RetryBudget, RetryCost};
/// let budget = RetryBudget::new("db");
/// budget.withdraw(RetryCost::Failed).expect("there is room").send().succeeded();
/// // The tokens are back. The credit is not: it bounds the load, whether it helps or not.
/// assert_eq!((budget.stats().tokens, budget.stats().credit), (28, 2.0));
/// ```
#[derive(Debug)]
pub struct SentRetry {
    held: Option<Held>,
}

impl SentRetry {
    /// The retry worked: its tokens come back.
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::new("db");
    /// budget.withdraw(RetryCost::Failed).expect("there is room").send().succeeded();
    /// assert_eq!(budget.stats().succeeded, 1);
    /// ```
    pub fn succeeded(mut self) {
        if let Some(Held { budget, price, taken }) = self.held.take() {
            budget.shared.counts.succeeded.fetch_add(1, Ordering::Release);
            budget.put_back(taken, price, 0);
        }
    }

    /// The retry was refused on its way and has not reached the callee: everything comes back, as if it
    /// had not been sent.
    ///
    /// ```
    /// use buttress::{RetryBudget, RetryCost};
    /// let budget = RetryBudget::new("db");
    /// budget.withdraw(RetryCost::Failed).expect("there is room").send().refused();
    /// assert_eq!((budget.stats().tokens, budget.stats().credit), (28, 3.0));
    /// ```
    pub fn refused(mut self) {
        drop(RetryToken { held: self.held.take() });
    }
}
