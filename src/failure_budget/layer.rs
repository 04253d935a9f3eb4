use tower_layer::Layer;

use crate::classify::AnyError;
use crate::reject::AsError;
use crate::slot::Slot;

use super::handle::FailureBudget;
use super::service::FailureBudgetService;

/// Puts a [`FailureBudget`], or whichever is in a [`Slot`], around services: see the [module](super).
///
/// All services it makes share the one budget, however often `layer` is called.
///
/// ```
/// use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
/// use buttress::{AsTyped, error_chain};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let budget = FailureBudget::new("checkout");
/// let service = ServiceBuilder::new()
///     .layer(FailureBudgetLayer::new(budget.clone()).classify(error_chain()).on_reject(AsTyped))
///     .service(service_fn(|request: u32| async move { Ok::<_, std::io::Error>(request + 1) }));
/// assert_eq!(service.oneshot(1).await.unwrap(), 2);
/// assert_eq!(budget.sample_count(), 1);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FailureBudgetLayer<C = AnyError, R = AsError> {
    slot: Slot<FailureBudget>,
    classify: C,
    reject: R,
}

impl FailureBudgetLayer {
    /// A view of `budget` as a layer. Errors are judged by [`AnyError`]; refusals become a
    /// [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
    /// let layer = FailureBudgetLayer::new(FailureBudget::new("checkout"));
    /// ```
    #[must_use]
    pub fn new(budget: FailureBudget) -> Self {
        Self::from_slot(Slot::with(budget))
    }

    /// A layer with whichever budget is in `slot` when a call is made, or none. So a budget is installed,
    /// replaced and uninstalled while the stack runs.
    ///
    /// ```
    /// use buttress::Slot;
    /// use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let slot = Slot::new();
    /// let mut service = FailureBudgetLayer::from_slot(slot.clone())
    ///     .layer(service_fn(|n: u32| async move { Ok::<_, std::io::Error>(n) }));
    /// service.ready().await?.call(1).await?;
    ///
    /// let budget = FailureBudget::new("checkout");
    /// slot.install(budget.clone());
    /// service.ready().await?.call(2).await?;
    /// assert_eq!(budget.sample_count(), 1, "the second call");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn from_slot(slot: Slot<FailureBudget>) -> Self {
        Self { slot, classify: AnyError, reject: AsError }
    }
}

impl<C, R> FailureBudgetLayer<C, R> {
    /// Judges calls with `classify`.
    ///
    /// ```
    /// # use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
    /// # let budget = FailureBudget::new("checkout");
    /// let layer = FailureBudgetLayer::new(budget).classify(buttress::AnyError);
    /// ```
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> FailureBudgetLayer<C2, R> {
        FailureBudgetLayer { slot: self.slot, classify, reject: self.reject }
    }

    /// Answers refused calls with `reject`.
    ///
    /// ```
    /// # use buttress::failure_budget::{FailureBudget, FailureBudgetLayer};
    /// # let budget = FailureBudget::new("checkout");
    /// let layer = FailureBudgetLayer::new(budget).on_reject(buttress::AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> FailureBudgetLayer<C, R2> {
        FailureBudgetLayer { slot: self.slot, classify: self.classify, reject }
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for FailureBudgetLayer<C, R> {
    type Service = FailureBudgetService<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        FailureBudgetService::new(
            inner,
            self.slot.clone(),
            self.classify.clone(),
            self.reject.clone(),
        )
    }
}
