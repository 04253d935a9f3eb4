use tower_layer::Layer;

use super::handle::Throttle;
use super::service::ThrottleService;
use crate::classify::AnyError;
use crate::context::NoContext;
use crate::reject::AsError;

/// Puts a [`Throttle`] around services: see the [module](super).
///
/// ```
/// use buttress::throttle::{Throttle, ThrottleLayer};
/// let layer = ThrottleLayer::new(Throttle::new("api"));
/// ```
#[derive(Clone, Debug)]
pub struct ThrottleLayer<C = AnyError, X = NoContext, J = AsError> {
    throttle: Throttle,
    classifier: C,
    context: X,
    reject: J,
}

impl ThrottleLayer {
    /// Errors judged by [`AnyError`]; no deadlines; refusals become a [`BoxError`](crate::BoxError).
    ///
    /// ```
    /// use buttress::throttle::{Throttle, ThrottleLayer};
    /// let layer = ThrottleLayer::new(Throttle::new("api"));
    /// ```
    #[must_use]
    pub fn new(throttle: Throttle) -> Self {
        Self { throttle, classifier: AnyError, context: NoContext, reject: AsError }
    }
}

impl<C, X, J> ThrottleLayer<C, X, J> {
    /// Tells by this classifier what is throttled.
    ///
    /// ```
    /// # #[cfg(feature = "http")] {
    /// let layer = buttress::throttle::Throttle::new("api").layer().classify(buttress::http::standard());
    /// # }
    /// ```
    pub fn classify<C2>(self, classifier: C2) -> ThrottleLayer<C2, X, J> {
        let Self { throttle, context, reject, .. } = self;
        ThrottleLayer { throttle, classifier, context, reject }
    }

    /// Where requests carry their deadline, a [`ReadContext`](crate::ReadContext).
    ///
    /// ```
    /// use buttress::{Context, Deadline, throttle::Throttle};
    /// struct Job { by: Deadline }
    /// let layer =
    ///     Throttle::new("api").layer().context(|job: &Job| Context::new().with_deadline(job.by));
    /// ```
    pub fn context<X2>(self, context: X2) -> ThrottleLayer<C, X2, J> {
        let Self { throttle, classifier, reject, .. } = self;
        ThrottleLayer { throttle, classifier, context, reject }
    }

    /// What becomes of a call whose turn comes too late.
    ///
    /// ```
    /// let layer = buttress::throttle::Throttle::new("api").layer().on_reject(buttress::AsTyped);
    /// ```
    pub fn on_reject<J2>(self, reject: J2) -> ThrottleLayer<C, X, J2> {
        let Self { throttle, classifier, context, .. } = self;
        ThrottleLayer { throttle, classifier, context, reject }
    }
}

impl<S, C: Clone, X: Clone, J: Clone> Layer<S> for ThrottleLayer<C, X, J> {
    type Service = ThrottleService<S, C, X, J>;

    fn layer(&self, inner: S) -> Self::Service {
        ThrottleService {
            inner,
            throttle: self.throttle.clone(),
            classifier: self.classifier.clone(),
            context: self.context.clone(),
            reject: self.reject.clone(),
        }
    }
}
