use tower_layer::Layer;

use super::handle::Timeout;
use super::service::TimeoutService;
use crate::context::NoContext;
use crate::reject::AsError;

/// Puts a [`Timeout`] around services: see the [module](super).
///
/// ```
/// use buttress::timeout::{Timeout, TimeoutLayer};
/// let layer = TimeoutLayer::new(Timeout::deadlines("db"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer<C = NoContext, R = AsError> {
    /// `None`: as if the layer were not there.
    timeout: Option<Timeout>,
    context: C,
    reject: R,
}

impl TimeoutLayer {
    /// Requests carry nothing; refusals become a [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::timeout::{Timeout, TimeoutLayer};
    /// let layer = TimeoutLayer::new(Timeout::deadlines("db"));
    /// ```
    #[must_use]
    pub fn new(timeout: Timeout) -> Self {
        Self::maybe(Some(timeout))
    }

    /// A layer that may be absent from its stack, in a type that is the same with it and without.
    pub(crate) const fn maybe(timeout: Option<Timeout>) -> Self {
        Self { timeout, context: NoContext, reject: AsError }
    }
}

impl<C, R> TimeoutLayer<C, R> {
    /// Where requests carry their deadline, a [`ReadContext`](crate::ReadContext).
    ///
    /// ```
    /// use buttress::{Context, Deadline, timeout::Timeout};
    /// struct Job { by: Deadline }
    /// let layer =
    ///     Timeout::deadlines("db").layer().context(|job: &Job| Context::new().with_deadline(job.by));
    /// ```
    #[must_use]
    pub fn context<C2>(self, context: C2) -> TimeoutLayer<C2, R> {
        TimeoutLayer { timeout: self.timeout, context, reject: self.reject }
    }

    /// What becomes of a call whose time is over. The request is gone by then, so the strategy gets `()`
    /// for it; what the answer needs of it is [remembered](crate::Remember).
    ///
    /// ```
    /// let layer = buttress::timeout::Timeout::deadlines("db").layer().on_reject(buttress::AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<R2>(self, reject: R2) -> TimeoutLayer<C, R2> {
        TimeoutLayer { timeout: self.timeout, context: self.context, reject }
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for TimeoutLayer<C, R> {
    type Service = TimeoutService<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutService {
            inner,
            timeout: self.timeout,
            context: self.context.clone(),
            reject: self.reject.clone(),
        }
    }
}
