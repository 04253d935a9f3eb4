use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::handle::Throttle;
use super::service::ThrottleService;
use crate::classify::AnyError;
use crate::context::NoContext;
use crate::reject::AsError;
use crate::sync::Lease;

/// Puts a [`Throttle`] in front of services: see the [module](super).
///
/// ```
/// use buttress::throttle::{Throttle, ThrottleLayer};
/// let layer = ThrottleLayer::new(Throttle::new("api"));
/// ```
#[derive(Clone)]
pub struct ThrottleLayer<C = AnyError, X = NoContext, R = AsError> {
    parts: Parts<C, X, R>,
}

#[derive(Clone)]
pub(super) struct Parts<C, X, R> {
    pub(super) throttle: Throttle,
    pub(super) classify: C,
    pub(super) context: X,
    pub(super) reject: R,
}

impl ThrottleLayer {
    /// Every error is a failure, requests carry no deadline, a refusal is an error.
    ///
    /// ```
    /// use buttress::throttle::{Throttle, ThrottleLayer};
    /// let layer = ThrottleLayer::new(Throttle::new("api"));
    /// ```
    #[must_use]
    pub fn new(throttle: Throttle) -> Self {
        let parts = Parts { throttle, classify: AnyError, context: NoContext, reject: AsError };
        Self { parts }
    }
}

impl<C, X, R> ThrottleLayer<C, X, R> {
    /// What counts as taken, as throttled and as a failure.
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// use buttress::{Typed, http::standard, throttle::Throttle};
    /// let layer = Throttle::new("api").layer().classify(standard::<Typed>());
    /// # }
    /// ```
    #[must_use]
    pub fn classify<T>(self, classify: T) -> ThrottleLayer<T, X, R> {
        let Parts { throttle, context, reject, .. } = self.parts;
        ThrottleLayer { parts: Parts { throttle, classify, context, reject } }
    }

    /// Where requests carry their deadline, a [`ReadContext`](crate::ReadContext).
    ///
    /// ```
    /// use buttress::{Context, throttle::Throttle};
    /// let layer = Throttle::new("api").layer().context(|with: &Context| *with);
    /// ```
    #[must_use]
    pub fn context<T>(self, context: T) -> ThrottleLayer<C, T, R> {
        let Parts { throttle, classify, reject, .. } = self.parts;
        ThrottleLayer { parts: Parts { throttle, classify, context, reject } }
    }

    /// What becomes of a refused call.
    ///
    /// ```
    /// let layer = buttress::throttle::Throttle::new("api").layer().on_reject(buttress::AsTyped);
    /// ```
    #[must_use]
    pub fn on_reject<T>(self, reject: T) -> ThrottleLayer<C, X, T> {
        let Parts { throttle, classify, context, .. } = self.parts;
        ThrottleLayer { parts: Parts { throttle, classify, context, reject } }
    }
}

impl<C, X, R> fmt::Debug for ThrottleLayer<C, X, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let throttle = &self.parts.throttle;
        f.debug_struct("ThrottleLayer").field("throttle", throttle).finish_non_exhaustive()
    }
}

impl<S, C: Clone, X: Clone, R: Clone> Layer<S> for ThrottleLayer<C, X, R> {
    type Service = ThrottleService<S, C, X, R>;

    fn layer(&self, inner: S) -> Self::Service {
        ThrottleService { inner, parts: Lease::new(Arc::new(self.parts.clone())) }
    }
}
