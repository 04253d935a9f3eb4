//! What a spent failure budget acts on.

/// Something that is held back while a failure budget is spent, and let go when it has recovered.
///
/// It keeps the parts apart: a failure budget pulls levers and does not know what hangs on them. A
/// [`RetryBudget`](crate::RetryBudget) grants no retries while engaged, a conditioner stops injecting
/// faults; closures `Fn(bool)` (engaged or not) do whatever else is wanted, for example trip a
/// graceful shutdown.
///
/// Several budgets may hold one lever: implementations count, and are free again when the last has let go.
/// Called outside all locks, on the thread whose call tipped the balance, so it should be quick; a panic
/// in one is caught and dropped.
///
/// ```
/// use buttress::{Lever, RetryBudget, RetryCost};
///
/// let retries = RetryBudget::new("payments");
/// retries.engage();
/// assert!(retries.failed(RetryCost::Failed).is_none(), "held back");
/// retries.release();
/// assert!(retries.failed(RetryCost::Failed).is_some());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be engaged by a failure budget",
    note = "implement `Lever`, or use a closure `|engaged: bool| ...`"
)]
pub trait Lever: Send + Sync + 'static {
    /// Holds it back. Every `engage` is followed by one `release`, at the latest when the last handle of
    /// the budget is dropped.
    fn engage(&self);

    /// Lets it go again.
    fn release(&self);
}

impl<F: Fn(bool) + Send + Sync + 'static> Lever for F {
    fn engage(&self) {
        self(true);
    }

    fn release(&self) {
        self(false);
    }
}

impl<L: Lever + ?Sized> Lever for std::sync::Arc<L> {
    fn engage(&self) {
        (**self).engage();
    }

    fn release(&self) {
        (**self).release();
    }
}
